"""Finding plugins: entry points of the group ``harness``, first-party ones exactly as a stranger's."""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

import pluggy

from harness.conditions.units import UNITS, Neuron, Unit
from harness.errors import HarnessError, suggest
from harness.plugin import border, hookspecs
from harness.plugin.base import KINDS, Component, Kind
from harness.plugin.components import ModelLoader
from harness.plugin.entries import FIRST_PARTY, GROUP, TYPED, Origin, strict, wanted
from harness.plugin.entries import origin as origin_of_entry
from harness.plugin.records import Matrix, PublishedNeurons
from harness.plugin.registers import Register
from harness.plugin.sources import source_digest
from harness.plugin.specs import ComponentSpec, ComponentT, build
from harness.plugin.unit_kinds import check_kind

if TYPE_CHECKING:
    from harness.plugin.plugin_files import PluginFile

THIS_PROCESS = "this process"
"""In place of a distribution, of components that the process itself has registered."""


@dataclass(frozen=True)
class Broken:
    """A plugin that was left out, and why (one sentence); ``detail`` is the traceback, shown with ``--debug``."""

    origin: Origin
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        return f"plugin {self.origin.plugin} of {self.origin.distribution} {self.origin.version}: {self.reason}"


_ORIGINS: dict[type[Component], Origin] = {}
"""Where every class comes from that a catalogue has taken in."""


def origin_of(cls: type[Component]) -> Origin | None:
    """The plugin and distribution of a component's class; None of one that no plugin has offered."""
    return _ORIGINS.get(cls)


class Catalogue:
    """All components that the installed plugins offer, by kind and name."""

    def __init__(self) -> None:
        self.components: dict[Kind, dict[str, type[Component]]] = {kind: {} for kind in KINDS}
        self.origins: dict[type[Component], Origin] = {}
        self.units: dict[str, type[Unit]] = dict(UNITS)
        self.units_by: dict[str, Origin] = {}
        self.published: dict[str, PublishedNeurons] = {}
        self.published_by: dict[str, Origin] = {}
        self.registers_by: dict[Register, Origin] = {}
        self.plugins: list[Origin] = []
        self.broken: list[Broken] = []
        self.passed_over: list[Origin] = []
        self.files: dict[str, PluginFile] = {}

    def add(self, plugin: Any, origin: Origin) -> None:
        """Register everything a plugin offers, or nothing: a fault in one component leaves the whole plugin out.

        Raises:
            HarnessError: it offers nothing, a hook returned something that is no component of its kind, or a name is
                taken.
        """
        wanted = getattr(plugin, "HARNESS_CONTRACT", hookspecs.CONTRACT_VERSION)
        if wanted > hookspecs.CONTRACT_VERSION:
            raise HarnessError(
                f"it was written for hook contract {wanted}, this harness offers {hookspecs.CONTRACT_VERSION}; "
                "upgrade the harness"
            )
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(plugin)
        manager.check_pending()
        found: list[tuple[Kind, type[Component]]] = []
        for kind in KINDS:
            for classes in getattr(manager.hook, hookspecs.HOOKS[kind])():
                for cls in classes:
                    self._check(cls, kind)
                    found.append((kind, cls))
        kinds: list[Any] = [x for some in manager.hook.harness_units() for x in some]
        for item in kinds:
            check_kind(item, self.units)
        lists: list[Any] = [x for some in manager.hook.harness_published_neurons() for x in some]
        for item in lists:
            self._check_list(item)
        registers: list[Any] = [x for some in manager.hook.harness_claims() for x in some]
        for item in registers:
            if not isinstance(item, Register):
                raise HarnessError(f"harness_claims() returned {item!r}, which is no Register")
        if not found and not kinds and not lists and not registers:
            raise HarnessError(_why_empty(plugin))
        for kind, cls in found:
            if sum(of == kind and other.name == cls.name for of, other in found) > 1:
                raise HarnessError(f'the {kind} "{cls.name}" is named twice')
        for kind, cls in found:
            self.components[kind][cls.name] = cls
            self.origins[cls] = _ORIGINS[cls] = origin
        for item in kinds:
            self.units[item.word], self.units_by[item.word] = item, origin
        for item in lists:
            self.published[item.name], self.published_by[item.name] = item, origin
        self.registers_by |= dict.fromkeys(registers, origin)
        self.plugins.append(origin)

    @property
    def registers(self) -> list[Register]:
        """The registers of claims, in the order of the plugins."""
        return list(self.registers_by)

    def kind_at(self, site: str) -> type[Unit] | None:
        """The kind of units that lives at a site of this name; None where no plugin has brought one."""
        return next((kind for kind in self.units.values() if kind.site == site), None)

    def remove(self, origin: Origin) -> None:
        """Forget what a plugin offers."""
        for cls in [cls for cls, of in self.origins.items() if of == origin]:
            del self.components[cls.kind][cls.name], self.origins[cls]
        for word in [word for word, of in self.units_by.items() if of == origin]:
            del self.units[word], self.units_by[word]
        for name in [name for name, of in self.published_by.items() if of == origin]:
            del self.published[name], self.published_by[name]
        self.registers_by = {item: of for item, of in self.registers_by.items() if of != origin}
        self.plugins.remove(origin)

    def register(self, cls: type[Component]) -> None:
        """Take in a component of this process, in place of an earlier one of the same kind and name.

        Its version is a digest of its source: a run with a changed class is another run.

        Raises:
            HarnessError: it is no component, its name is an installed one's, or its source cannot be read.
        """
        kind = getattr(cls, "kind", None)
        if kind not in KINDS:
            raise HarnessError(
                f"register: expected the class of a component ({', '.join(KINDS)}), got {repr(cls)[:80]}."
            )
        installed = [other for other, origin in self.origins.items() if origin.distribution != THIS_PROCESS]
        version = source_digest(cls, installed)[:16]
        earlier = self.components[kind].get(getattr(cls, "name", ""))
        if earlier is not None and earlier not in installed:
            del self.components[kind][earlier.name], self.origins[earlier]
        try:
            self._check(cls, kind)
        except HarnessError as error:
            raise HarnessError(f"register: {error}.") from error
        self.components[kind][cls.name] = cls
        self.origins[cls] = _ORIGINS[cls] = Origin(cls.__name__, THIS_PROCESS, version)

    def _check(self, cls: Any, kind: Kind) -> None:
        if not (isinstance(cls, type) and issubclass(cls, Component) and getattr(cls, "kind", None) == kind):
            raise HarnessError(f"{hookspecs.HOOKS[kind]}() returned {cls!r}, which is no {kind} class")
        name = getattr(cls, "name", None)
        if not (isinstance(name, str) and TYPED.fullmatch(name)):
            raise HarnessError(
                f"{cls.__name__} has no name that can be typed: name is {name!r}, expected letters, digits, _, - and ."
            )
        if inspect.isabstract(cls):
            missing = ", ".join(f"{method}()" for method in sorted(cls.__abstractmethods__))
            raise HarnessError(f'the {kind} "{name}" does not implement {missing}')
        if not isinstance(cls.version, str):
            raise HarnessError(f'the {kind} "{name}" has the version {cls.version!r}, expected text')
        metrics = getattr(cls, "default_metrics", ())
        if not (isinstance(metrics, tuple | list) and all(isinstance(metric, str) for metric in metrics)):
            raise HarnessError(f'the {kind} "{name}" has default_metrics {metrics!r}, expected a tuple of names')
        layouts = getattr(cls, "layouts", {})
        if not (isinstance(layouts, Mapping) and all(isinstance(x, Matrix) for x in layouts.values())):
            raise HarnessError(f'the {kind} "{name}" has layouts {layouts!r}, expected a Matrix for names of frames')
        taken = self.components[kind].get(cls.name)
        if taken is not None:
            raise HarnessError(f'the {kind} "{cls.name}" is already provided by {self.origins[taken]}')

    def _check_list(self, item: Any) -> None:
        if not isinstance(item, PublishedNeurons):
            raise HarnessError(f"harness_published_neurons() returned {item!r}, which is no PublishedNeurons")
        if not (isinstance(item.name, str) and TYPED.fullmatch(item.name)):
            raise HarnessError(f"a list of neurons has no name that can be typed: {item.name!r}")
        if item.name in self.published:
            raise HarnessError(
                f'the list of neurons "{item.name}" is already provided by {self.published_by[item.name]}'
            )
        if not item.neurons:
            raise HarnessError(f'the list of neurons "{item.name}" is empty')
        for neuron in item.neurons:
            try:
                Neuron.parse(neuron)
            except HarnessError as error:
                raise HarnessError(f'the list of neurons "{item.name}": {error}') from error

    def of(self, base: type[ComponentT]) -> Mapping[str, type[ComponentT]]:
        """The components of one kind, which its base class names, by their own names."""
        return cast("Mapping[str, type[ComponentT]]", self.components[base.kind])  # add() saw to it

    def get(self, base: type[ComponentT], name: str, field: str) -> type[ComponentT]:
        """The component class of this name, of the kind of ``base``: ``get(Selector, "entropy", "--selector")``.

        Raises:
            HarnessError: there is none; names ``field``, the nearest name, and the plugins that may have held it:
                those that were left out, or what other packages offer.
        """
        kind, known = base.kind, self.of(base)
        if name in known:
            return known[name]
        elsewhere = [other for other in KINDS if name in self.components[other]]
        hint = suggest(name, known)
        if elsewhere and not hint:
            hint = f" ({name} is {'an' if elsewhere[0] == 'intervention' else 'a'} {elsewhere[0]}.)"
        broken = f" Not loaded: {'; '.join(map(str, self.broken))}." if self.broken else ""
        others = "" if hint else self._others()
        raise HarnessError(
            f'{field}: no {kind} is called "{name}".{hint} There are: {", ".join(sorted(known))}.{broken}{others}'
        )

    def _others(self) -> str:
        """Which packages have an entry point, for whoever misses a component of theirs."""
        there = [f"{x.distribution} {x.version}" for x in self.plugins if x.distribution != FIRST_PARTY]
        there += [f"{x.distribution} {x.version} (left out by HARNESS_LOAD_PLUGINS)" for x in self.passed_over]
        if there or self.broken:
            return f" Plugins of other packages: {', '.join(dict.fromkeys(there))}." if there else ""
        return f' No other installed package has an entry point of the group "{GROUP}", by which plugins are found.'

    def some_texts(self) -> str | None:
        """The texts of the first model that has texts of its own: for whom a component needs some, whatever the model
        that it will be used with."""
        return next((loader.corpus for loader in self.of(ModelLoader).values() if loader.corpus), None)

    def build(self, base: type[ComponentT], spec: ComponentSpec, field: str, corpus: str | None = None) -> ComponentT:
        """Find and validate one component of the kind of ``base``: ``build(Selector, spec, "--selector")``.

        Args:
            corpus: the texts that the model has of its own, if any.

        Raises:
            HarnessError: there is none of this name, a parameter is wrong, or its own validation fails.
        """
        cls = self.get(base, spec.name, field)
        with border.asking(cls, "its parameters"):
            return build(cls, spec, field, corpus)


def _why_empty(plugin: Any) -> str:
    """What is missing of a plugin that offers nothing."""
    named = [name for name in dir(plugin) if name.startswith("harness_") and callable(getattr(plugin, name, None))]
    hooks = ", ".join([*hookspecs.HOOKS.values(), "harness_published_neurons", "harness_claims"])
    if unmarked := [name for name in named if not hasattr(getattr(plugin, name), f"{GROUP}_impl")]:
        return f"it offers nothing: {unmarked[0]}() needs @hookimpl above it (from harness import hookimpl)"
    if named:
        return f"it offers nothing: its hooks ({', '.join(named)}) return no component"
    return f"it offers nothing: it has no function with @hookimpl that is called {hooks}"


@functools.cache
def catalogue() -> Catalogue:
    """Load every plugin once; one that fails is put aside by name and takes nothing else down.

    Environment:
        HARNESS_LOAD_PLUGINS: comma list of plugins or distributions to load beside the first-party ones; empty: none.
        HARNESS_STRICT_PLUGINS: set to 1 to stop at the first broken plugin.

    Raises:
        HarnessError: in strict mode, for the first plugin that fails.
    """
    found = Catalogue()
    entries, found.passed_over = wanted(entry_points(group=GROUP))
    for entry in entries:
        origin = origin_of_entry(entry)
        try:
            found.add(entry.load(), origin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's: whatever it raises, SystemExit, too, must not end the program
            said = str(error) if isinstance(error, HarnessError) else border.said(error)
            broken = Broken(origin, said, traceback.format_exc())
            if strict():
                raise HarnessError(f"HARNESS_STRICT_PLUGINS: {broken}") from error
            found.broken.append(broken)
    return found
