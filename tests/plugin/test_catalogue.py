"""Finding plugins: what breaks is named and put aside, what clashes names both."""

from __future__ import annotations

import dataclasses
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import hookimpl
from harness.conditions.conditions import Selection
from harness.errors import HarnessError
from harness.plugin import PublishedNeurons
from harness.plugin import catalogue as plugins
from harness.plugin.catalogue import Catalogue, Origin, catalogue
from harness.plugin.components import Selector
from harness.plugin.specs import ComponentSpec


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
        found.build(Selector, ComponentSpec("entropi", {}), "--selector")
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


# -- plugins that provide nothing, or end the program ------------------------------------------------------------------


def discover(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> Catalogue:
    """The catalogue with one more plugin, ``odd`` of harness-odd 9.9, whose module has this code."""
    info = tmp_path / "harness_odd-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-odd\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text("[harness]\nodd = harness_odd\n")
    (tmp_path / "harness_odd.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "harness_odd", raising=False)
    found: Catalogue = plugins.catalogue.__wrapped__()
    return found


HEAD = """
from harness import hookimpl
from harness.plugin import PublishedNeurons
from harness.plugin.components import Selector

class Odd(Selector):
    "Odd."
    name = {name}
    def select(self, context): ...

"""


HOOK = "@hookimpl\ndef harness_selectors():\n    return [Odd]\n"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys; sys.exit()", "SystemExit"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class Stop(BaseException): pass\nraise Stop('now')", "Stop: now"),
        ("raise BrokenPipeError(32, 'Broken pipe')", "BrokenPipeError: [Errno 32] Broken pipe"),
        ("", "it offers nothing: it has no function with @hookimpl that is called harness_model_loaders, "),
        (
            HEAD.format(name='"odd"') + "def harness_selectors():\n    return [Odd]\n",
            "it offers nothing: harness_selectors() needs @hookimpl above it (from harness import hookimpl)",
        ),
        (
            HEAD.format(name='"odd"') + "@hookimpl\ndef harness_selectors():\n    return []\n",
            "it offers nothing: its hooks (harness_selectors) return no component",
        ),
        (HEAD.format(name='"odd"') + "@hookimpl\ndef harness_selector():\n    return [Odd]\n", "harness_selector"),
        (HEAD.format(name='"odd"') + "@hookimpl\ndef harness_selectors():\n    return None\n", "it offers nothing"),
        (HEAD.format(name='"odd"') + "@hookimpl\ndef harness_selectors():\n    return 7\n", "TypeError"),
        (HEAD.format(name="None") + HOOK, "name is None, expected"),
        (HEAD.format(name='""') + HOOK, "name is '', expected"),
        (HEAD.format(name='"a:b"') + HOOK, "name is 'a:b', expected"),
        (
            HEAD.format(name='"odd"').replace("def select", "def choose")
            + HOOK,
            'the selector "odd" does not implement select()',
        ),
        (
            HEAD.format(name='"odd"\n    version = 2') + HOOK,
            'the selector "odd" has the version 2, expected text',
        ),
        (
            "from harness import hookimpl\nfrom harness.plugin import Metric\n"
            "class Odd(Metric):\n    name = 'odd'\n    layouts = {'cells': 'matrix'}\n"
            "    def measure(self, outcomes): ...\n"
            "@hookimpl\ndef harness_metrics():\n    return [Odd]\n",
            "the metric \"odd\" has layouts {'cells': 'matrix'}, expected a Matrix for names of frames",
        ),
    ],
)  # fmt: skip
def test_a_plugin_that_provides_nothing_is_put_aside_and_why_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, says: str
) -> None:
    found = discover(monkeypatch, tmp_path, code)
    [broken] = found.broken
    assert str(broken.origin) == "harness-odd 9.9 (plugin odd)" and says in broken.reason, broken.reason
    assert "entropy" in found.components["selector"]
    with pytest.raises(HarnessError) as caught:
        found.get(Selector, "odd", "--selector")
    assert f"Not loaded: plugin odd of harness-odd 9.9: {broken.reason}" in str(caught.value)


def test_an_interruption_of_an_import_stays_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        discover(monkeypatch, tmp_path, "raise KeyboardInterrupt")


def test_whoever_misses_a_component_is_told_which_packages_have_an_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = HEAD.format(name='"odd"') + HOOK
    found = discover(monkeypatch, tmp_path, code)
    assert not found.broken and "odd" in found.components["selector"]
    with pytest.raises(HarnessError, match=r"Plugins of other packages: .*harness-odd 9\.9"):
        found.get(Selector, "loudest_of_all", "--selector")
    monkeypatch.setenv("HARNESS_LOAD_PLUGINS", "")
    found = plugins.catalogue.__wrapped__()
    with pytest.raises(HarnessError, match=r"harness-odd 9\.9 \(left out by HARNESS_LOAD_PLUGINS\)"):
        found.get(Selector, "odd", "--selector")
    alone = Catalogue()
    with pytest.raises(HarnessError, match='No other installed package has an entry point of the group "harness"'):
        alone.get(Selector, "odd", "--selector")


def listed(*lists: object) -> SimpleNamespace:
    @hookimpl
    def harness_published_neurons() -> list[object]:
        return list(lists)

    return SimpleNamespace(harness_published_neurons=harness_published_neurons)


def test_lists_of_published_neurons_are_checked_and_named_once() -> None:
    found = Catalogue()
    some = PublishedNeurons("tiny", ("1.2", "1.7"), "loud neuron", "Nobody (2020)")
    found.add(listed(some), A)
    assert found.published == {"tiny": some} and found.published_by == {"tiny": A}
    with pytest.raises(HarnessError, match=r'the list of neurons "tiny" is already provided by dist-a 1 \(plugin a\)'):
        found.add(listed(some), B)
    for odd, says in (
        ("tiny", "returned 'tiny', which is no PublishedNeurons"),
        (dataclasses.replace(some, name="a b"), "no name that can be typed: 'a b'"),
        (dataclasses.replace(some, name="none", neurons=()), 'the list of neurons "none" is empty'),
        (dataclasses.replace(some, name="odd", neurons=("1.x",)), 'the list of neurons "odd": "1.x" is not a neuron'),
    ):
        with pytest.raises(HarnessError, match=says):
            found.add(listed(odd), B)
    assert set(found.published) == {"tiny"}
