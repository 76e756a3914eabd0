"""Finding plugins: what breaks is named and put aside, what clashes names both."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from harness import hookimpl, plugins
from harness.components import ComponentSpec, Selector
from harness.conditions import Selection
from harness.errors import HarnessError
from harness.plugins import Catalogue, Origin, catalogue


def selector(called: str) -> type[Selector]:
    class Toy(Selector):
        """A toy."""

        name = called

        def select(self, context: object) -> Selection:
            return Selection((), "none")

    return Toy


def plugin(*classes: object, contract: int = 1) -> SimpleNamespace:
    @hookimpl
    def harness_selectors() -> list[object]:
        return list(classes)

    return SimpleNamespace(harness_selectors=harness_selectors, HARNESS_CONTRACT=contract)


A, B = Origin("a", "dist-a", "1"), Origin("b", "dist-b", "2")


def test_first_party_plugins_are_found_through_entry_points() -> None:
    found = catalogue()
    assert not found.broken
    assert {origin.plugin for origin in found.plugins} >= {"core", "demo", "confidence_regulation", "context_copying"}
    assert {"hf", "demo"} <= set(found.components["model"])
    assert {"entropy", "random", "neurons"} <= set(found.components["selector"])
    assert {"mean", "median", "mode", "mean_minus_sigma", "mean_plus_sigma", "zero"} <= set(
        found.components["intervention"]
    )


def test_every_component_says_what_it_is_and_what_its_parameters_are() -> None:
    for kind in catalogue().components.values():
        for cls in kind.values():
            assert cls.summary()
            assert all(field.description for field in cls.model_fields.values()), cls


def test_a_clash_of_names_names_both_and_keeps_the_first() -> None:
    found = Catalogue()
    first = selector("twin")
    found.add(plugin(first), A)
    with pytest.raises(HarnessError, match=r'selector "twin" is already provided by dist-a 1 \(plugin a\)'):
        found.add(plugin(selector("other"), selector("twin")), B)
    assert found.components["selector"] == {"twin": first}  # nothing of the second plugin is half registered


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (plugin("text"), "which is no selector class"),
        (plugin(dict), "which is no selector class"),
        (plugin(selector("x"), contract=99), "written for hook contract 99"),
    ],
)
def test_a_plugin_that_offers_nonsense_is_refused(broken: SimpleNamespace, says: str) -> None:
    found = Catalogue()
    with pytest.raises(HarnessError, match=says):
        found.add(broken, A)
    assert not found.components["selector"] and not found.plugins


def test_two_components_of_one_name_in_one_plugin_are_a_clash() -> None:
    with pytest.raises(HarnessError, match='the selector "x" is named twice'):
        Catalogue().add(plugin(selector("x"), selector("x")), A)


def test_an_unknown_name_is_suggested_and_broken_plugins_are_mentioned() -> None:
    found = Catalogue()
    found.add(plugin(selector("entropy")), A)
    found.broken.append(plugins.Broken(B, "ImportError: no"))
    with pytest.raises(HarnessError) as caught:
        found.build("selector", ComponentSpec("entropi", {}), "--selector")
    assert '--selector: no selector is called "entropi". Did you mean "entropy"?' in str(caught.value)
    assert "plugin b of dist-b 2: ImportError: no" in str(caught.value)


@pytest.fixture
def fresh_catalogue(monkeypatch: pytest.MonkeyPatch) -> object:
    """Discover again, with one entry point that cannot be imported."""
    real = plugins.entry_points(group="harness")
    bad = EntryPoint("bad", "harness_no_such_module", "harness")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [*real, bad])
    return plugins.catalogue.__wrapped__


def test_a_plugin_that_cannot_be_imported_is_put_aside(
    fresh_catalogue: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fresh_catalogue()
    assert [broken.origin.plugin for broken in found.broken] == ["bad"]
    assert "ModuleNotFoundError" in found.broken[0].reason
    assert "entropy" in found.components["selector"]
    monkeypatch.setenv("HARNESS_STRICT_PLUGINS", "1")
    with pytest.raises(HarnessError, match="HARNESS_STRICT_PLUGINS: plugin bad"):
        fresh_catalogue()


def test_third_party_plugins_can_be_switched_off(fresh_catalogue: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_LOAD_PLUGINS", "")
    found = fresh_catalogue()
    assert not found.broken
    assert "entropy" in found.components["selector"]
    monkeypatch.setenv("HARNESS_LOAD_PLUGINS", "bad")
    assert [broken.origin.plugin for broken in fresh_catalogue().broken] == ["bad"]
