"""Lists of neurons that were published."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from checkout import reference
from harness_plugins.context_copying.published import published_neurons

from harness.builtin.components import Neurons
from harness.conditions.units import Neuron
from harness.errors import HarnessError
from harness.files.store import read_json
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Selector
from harness.plugin.specs import parse_spec
from harness.running.claims import papers, registry_of_claims, table_of
from harness.running.registry import default_path, load_registry

SIZES = {
    "gpt2-small": (6, 11),
    "pythia-1.4b": (9, 23),
    "phi-1.5": (12, 23),
    "mistral-7b": (14, 31),
    "llama-3-8b": (10, 31),
}


CALLED = {"gpt2": "gpt2-small", "mistral-7b": "mistral-7b-v0.1"}
"""What the reference data call models of the registry."""

UNDEFINED = {"gpt2": 0.040, "pythia-1.4b": 0.0, "phi-1.5": 0.149, "mistral-7b": 0.033, "llama-3-8b": 0.084}
"""The conversion ratio of answers from neither source, in percent; the published one is another."""


def build(text: str) -> Selector:
    found = catalogue().build(Selector, parse_spec(text, "--selector"), "--selector")
    assert isinstance(found, Selector)
    return found


def test_the_lists_are_those_of_the_paper_s_five_models() -> None:
    lists = {x.name: x.neurons for x in published_neurons()}
    assert {name: (len(x), Neuron.parse(x[0]).layer) for name, x in lists.items()} == SIZES
    assert lists["gpt2-small"] == ("11.584", "11.1611", "11.2123", "11.2378", "11.2870", "11.2910")
    assert all(len({Neuron.parse(text).layer for text in x}) == 1 and len(set(x)) == len(x) for x in lists.values())


def test_the_lists_agree_with_the_released_ones() -> None:
    lists = json.loads(reference("data/published_entropy_neurons.json").read_text("utf-8")).values()
    released = {frozenset(row["neuron"] for row in rows) for rows in lists}
    assert {frozenset(Neuron.parse(text).index for text in x.neurons) for x in published_neurons()} == released


def test_a_published_list_is_selected() -> None:
    selection = build("neurons:published=phi-1.5").select(None)  # type: ignore[arg-type]  # it looks at nothing
    assert [str(neuron) for neuron in selection.units] == list(catalogue().published["phi-1.5"].neurons)
    assert selection.rule == "the 12 entropy neurons of phi-1.5 published by Tighidet et al. (2025)"
    assert build("neurons:neurons=[1.2]").select(None).rule == "the neuron named by the user"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("neurons", "give either neurons"),
        ("neurons:published=gpt2-small,neurons=[1.2]", "give either neurons"),
        ("neurons:published=gpt2-smal", 'no list "gpt2-smal". Did you mean "gpt2-small"'),
        ("neurons:neurons=[1.x]", '"1.x" is not a neuron'),
        ("neurons:neurons=[]", "at least 1"),
    ],
)
def test_exactly_one_list_is_given_and_it_exists(text: str, says: str) -> None:
    with pytest.raises(HarnessError) as caught:
        build(text)
    assert says in str(caught.value)


def test_the_registry_has_the_paper_s_models_with_its_null_spaces_and_numbers_of_neurons() -> None:
    registry = load_registry(default_path())
    text = (files("harness_plugins.context_copying") / "published_neurons.json").read_text(encoding="utf-8")
    short = {"gpt2-small": "gpt2"}
    values = {"mean", "median", "mode", "mean_minus_sigma", "mean_plus_sigma"}
    for name, entry in json.loads(text)["lists"].items():
        run = f"copying-{short.get(name, name)}"
        for spec, listed in zip(registry.runs[run], registry.runs[f"{run}-published"], strict=True):
            size = {"top": str(SIZES[name][0]), "null_dims": str(entry["null_dims"])}
            assert dict(spec.selector.params) == {"rule": "tighidet2025", **size}
            assert dict(listed.selector.params) == {"published": name}
            assert spec.model == listed.model and spec.controls == listed.controls >= 100
            assert registry.models[spec.model.name].params["pretrained"] == entry["model"]
        assert {spec.intervention.name for spec in registry.runs[run] if spec.intervention} == values
    assert {spec.intervention.name for spec in registry.runs["paper-copying"] if spec.intervention} == values


def test_the_identity_of_a_list_names_it() -> None:
    assert Neurons(published="gpt2-small").identity()["params"] == {"neurons": None, "published": "gpt2-small"}


def test_the_register_has_the_published_tables_and_their_known_answers() -> None:
    """The counts are those of the reference data; what comes of them was computed apart from this code."""
    registry = registry_of_claims(None)
    [paper] = asked = papers(catalogue(), registry, "tighidet2025")
    tables = {CALLED.get(x, x): [list(row) for row in table] for x, table in paper.claims.tables.items()}
    assert tables == read_json(reference("data/published_transition_tables.json"))["tables"]
    found = table_of(asked, catalogue(), registry, Path("nowhere"))
    rows = {(row.claim, row.model): row for row in found.recounted}
    for model, ratio in UNDEFINED.items():
        row = rows["published-undefined-ratio", model]
        assert row.judged.value == pytest.approx(ratio, abs=5e-4) and not row.fails
        assert row.judged.outcome == "missed" and "their PKCR" in row.judged.why
        assert rows["published-context-ratio", model].judged.outcome == "confirmed"
        assert rows["published-memory-ratio", model].judged.outcome == "confirmed"
        assert rows["published-score", model].judged.outcome == "confirmed"
        assert rows["published-quantile", model].judged.outcome == "cannot be tested"  # Holm over 100 control sets
    for claim, model, outcome, p in (
        ("published-direction", "gpt2", "confirmed", "3.6e-05"),
        ("published-direction", "pythia-1.4b", "cannot be tested", "0.45"),
        ("published-direction", "phi-1.5", "cannot be tested", "0.053"),
        ("published-direction", "mistral-7b", "cannot be tested", "0.3"),
        ("published-direction", "llama-3-8b", "missed", "8.7e-10"),
        ("published-shift", "gpt2", "confirmed", "0.00024"),
        ("published-shift", "pythia-1.4b", "confirmed", "0.03"),
        ("published-shift", "phi-1.5", "confirmed", "5.2e-06"),
        ("published-shift", "mistral-7b", "cannot be tested", "0.43"),
        ("published-shift", "llama-3-8b", "confirmed", "3e-08"),
        ("published-quantile", "gpt2", "cannot be tested", "0.0297, 0.099"),
        ("published-quantile", "phi-1.5", "cannot be tested", "0.0198, 0.099"),
        ("published-quantile", "mistral-7b", "cannot be tested", "0.099, 0.168"),
    ):
        row = rows[claim, model]
        assert row.judged.outcome == outcome and f"p = {p}" in row.judged.why, (claim, model)
