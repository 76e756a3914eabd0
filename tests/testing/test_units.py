"""Kinds of units: ours keep their promises on several architectures; a stranger's kind of one file works, and what is
wrong with one is said in a sentence."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from promises import broken

from harness.builtin.named_units import Units as NamedUnits
from harness.conditions.units import NEURONS, Neuron, Neurons, Unit, check_units
from harness.errors import HarnessError
from harness.plugin import hookimpl
from harness.plugin.catalogue import Catalogue, Origin, catalogue
from harness.plugin.unit_kinds import Stranger, kind_named, kind_of, score_names
from harness.testing import check_unit, tiny_model

# Gated, norms behind both parts; not gated, biases; parallel attention and MLP.
FAMILIES = ("gemma2", "gpt2", "gpt_neox")
GATED = frozenset({"gemma2"})
PLACES = ("pre-activation", "attention neuron", "coordinate", "coordinate before")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("word", ["neuron", "head", "direction", *PLACES, "up"])
def test_our_kinds_keep_their_promises(family: str, word: str) -> None:
    if word == "up" and family not in GATED:
        with pytest.raises(HarnessError, match="is not gated"):
            check_unit(kind_named(word), on=tiny_model(family))
        return
    check_unit(kind_named(word), on=tiny_model(family))


class Halves(Neurons):
    """Neurons at half their size: what a stranger's file has."""

    name = "halves"
    wrong: Any = None

    def at(self, model: Any, layer: int, index: int) -> Unit:
        return Half(layer, index)

    def capture(self, model: Any, layers: Any) -> Any:
        return model.capture_neurons(layers)

    def written(self, model: Any, layer: int, indices: Any = None) -> torch.Tensor:
        return super().written(model, layer, indices)


class Half(Unit):
    """A neuron under another name."""

    word = "half"
    site = "halves"
    where = Halves()
    written = re.compile(r"X(\d+)\.(\d+)")
    form = "X, layer, a dot, index, for example X3.7"

    def __str__(self) -> str:
        return f"X{self.layer}.{self.index}"


def offering(*kinds: Any) -> SimpleNamespace:
    @hookimpl
    def harness_units() -> list[Any]:
        return list(kinds)

    return SimpleNamespace(harness_units=harness_units)


def kind(**attributes: Any) -> type[Unit]:
    return type("Odd", (Half,), attributes)


def test_a_strangers_kind_of_one_file_is_found_by_name_and_keeps_its_promises() -> None:
    check_unit(Half)
    found = Catalogue()
    found.add(offering(Half), Origin("halves", "harness-halves", "1"))
    assert found.kind_at("halves") is Half and found.units["half"] is Half
    found.remove(Origin("halves", "harness-halves", "1"))
    assert found.kind_at("halves") is None


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (int, "which is no kind of units"),
        (kind(word="neuron"), 'the kind of units "neuron" at the site "halves" is already there'),
        (kind(word="Half One"), "expected a word in small letters"),
        (kind(site="neurons", word="quarter"), 'at the site "neurons" is already there'),
        (kind(where="neurons"), 'the kind of units "half" has no where'),
        (kind(form="X3.7"), "has a form without"),
        (kind(__str__=lambda self: "X0.0"), "reads X3.7 and writes X0.0"),
        (kind(written=Neuron.written, form="for example 3.7"), "writes X3.7"),
        (
            kind(written=Neuron.written, form="for example 3.7", __str__=Neuron.__str__),
            "3.7 is the name of a neuron, too",
        ),
    ],
)
def test_a_kind_that_cannot_be_told_from_others_is_refused(odd: Any, says: str) -> None:
    with pytest.raises(HarnessError) as caught:
        Catalogue().add(offering(odd), Origin("odd", "harness-odd", "1"))
    assert says in str(caught.value)


def site(**methods: Any) -> type[Unit]:
    """The kind above at a site that does something else."""
    made: Any = type("Wrong", (Halves,), methods)()
    odd = kind(where=made)
    type(made).at = lambda self, model, layer, index: odd(layer, index)  # type: ignore[method-assign,assignment]
    return odd


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (site(count=lambda self, model, layer: 3), "activations have shape"),
        (
            site(edit=lambda self, model, layer, change: model.edit_neurons(layer, lambda x: change(x) * 1.001)),
            "an edit of layer 0 that changes nothing changes the logits",
        ),
        (
            site(edit=lambda self, model, layer, change: model.edit_neurons(layer, lambda x: x.clone())),
            "an edit of unit 0 of layer 0 is not what is captured inside it",
        ),
        (
            site(written=lambda self, model, layer, indices=None: -NEURONS.written(model, layer, indices)),
            "differ by",
        ),
    ],
)
def test_a_site_that_breaks_a_promise_is_told_which(odd: Any, says: str) -> None:
    assert says in broken(check_unit, odd)


def test_names_of_kinds_that_are_not_installed_are_kept_as_they_are() -> None:
    assert kind_named("half") is Stranger and kind_of("X3.7") is Stranger
    unit = Stranger.parse("X3.7")
    assert (str(unit), unit.layer, unit.index) == ("X3.7", 3, 7) and unit != Stranger.parse("Y3.7")
    assert kind_of("P3.7") is catalogue().units["pre-activation"]
    assert score_names({"neuron": "P3.7", "layer": 3, "index": 7, "selected": True, "rho": 0.5}) == ["rho"]


def test_a_run_depends_on_the_file_that_a_kind_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    found, digests = Catalogue(), []
    monkeypatch.setattr("harness.plugin.catalogue.catalogue", lambda: found)
    monkeypatch.setattr("harness.builtin.named_units.catalogue", lambda: found)
    for version in ("1", "2"):
        origin = Origin("halves", "harness-halves", version)
        found.add(offering(Half), origin)
        digests.append(NamedUnits(units=("X3.7",)).inputs()["unit half"])
        found.remove(origin)
    assert digests[0] != digests[1]
    assert NamedUnits(units=("3.7",)).inputs() == {}


def test_what_needs_more_than_a_name_and_layers_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match="does not say its vector"):
        NamedUnits(units=("D2.0",))
    with pytest.raises(HarnessError, match="layer 0 has no halfs"):
        check_units([site(count=lambda self, model, layer: 0)(0, 1)], tiny_model(), "it")
