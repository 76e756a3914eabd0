"""Selectors of units that the user names: neurons, heads, or those of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, ValidationInfo, field_validator

from harness.conditions.conditions import Selection
from harness.conditions.units import Direction, Head, Neuron, Site, Unit, check_units
from harness.errors import HarnessError, suggest
from harness.files.store import digest
from harness.files.wording import the
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext, Selector
from harness.plugin.entries import FIRST_PARTY
from harness.plugin.unit_kinds import Stranger, kind_of

if TYPE_CHECKING:
    from harness.model.model import Model


class Neurons(Selector):
    """An explicit list of neurons, such as [11.584, 11.2378], or one that was published.

    Published lists come with plugins: harness list plugins names them, and so does the answer to a name that is none.
    They are names of neurons alone: published statistics of activations are not used, a run measures its own.
    """

    name = "neurons"
    site = "neurons"
    neurons: tuple[str, ...] | None = Field(None, min_length=1, description="layer.index of every neuron")
    published: str | None = Field(None, description="name of a published list, instead of neurons")

    @field_validator("neurons", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        items = value.split("+") if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            for item in items:
                if not isinstance(item, str):
                    raise ValueError(f"write the neuron as text (layer.index), not as the number {item!r}")
                try:
                    Neuron.parse(item)
                except HarnessError as error:
                    raise ValueError(str(error)) from error
        return items

    @field_validator("published")
    @classmethod
    def _one_of_the_two(cls, name: str | None, info: ValidationInfo) -> str | None:
        if "neurons" not in info.data:
            return name  # it is wrong itself, and that is what is said
        if (name is None) == (info.data["neurons"] is None):
            raise ValueError("give either neurons (neurons=[11.584,11.2378]) or the name of a published list")
        lists = catalogue().published
        if name is not None and name not in lists:
            raise ValueError(f'there is no list "{name}".{suggest(name, lists)} There are: {", ".join(lists)}')
        return name

    def reads_prompts(self) -> bool:
        return False

    def listed(self) -> tuple[Neuron, ...]:
        """The neurons that are named."""
        names = self.neurons or () if self.published is None else catalogue().published[self.published].neurons
        return tuple(map(Neuron.parse, names))

    def check(self, model: Model) -> None:
        check_units(self.listed(), model, "selector neurons")

    def select(self, context: SelectionContext) -> Selection:
        listed = self.listed()
        rule = f"{the(len(listed), 'neuron')} named by the user"
        if self.published is not None:
            source = catalogue().published[self.published]
            rule = f"{the(len(listed), source.what)} of {source.name} published by {source.by}"
        return Selection(units=listed, rule=rule)


class Heads(Selector):
    """An explicit list of attention heads, such as [L2H2, L2H3]."""

    name = "heads"
    site = "heads"
    heads: tuple[str, ...] = Field(min_length=1, description="L, layer, H, index of every head")

    @field_validator("heads", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        items = value.split("+") if isinstance(value, str) else value
        for item in items if isinstance(items, list | tuple) else ():
            try:
                Head.parse(str(item))
            except HarnessError as error:
                raise ValueError(str(error)) from error
        return items

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        check_units([Head.parse(text) for text in self.heads], model, "selector heads")

    def select(self, context: SelectionContext) -> Selection:
        chosen = tuple(Head.parse(text) for text in self.heads)
        return Selection(units=chosen, rule=f"{the(len(chosen), 'head')} named by the user")


def _placed(kind: type[Unit]) -> bool:
    """Whether units of the kind are found by their names alone."""
    return isinstance(getattr(kind, "where", None), Site)


class Units(Selector):
    """An explicit list of units of one kind, by their names, such as [R5.120, R5.7]: whatever plugins bring.

    Kinds that need more than a name to be found (latents of a dictionary) have selectors of their own.
    """

    name = "units"
    units: tuple[str, ...] = Field(min_length=1, description="name of every unit; harness list units says the forms")

    @field_validator("units", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        items = value.split("+") if isinstance(value, str) else value
        for item in items if isinstance(items, list | tuple) else ():
            found = kind_of(str(item))
            if not isinstance(item, str) or found is Stranger:
                upper = str(item).replace(" ", "").upper()
                raise ValueError(
                    f'"{item}" is not the name of a unit, as 11.2378, L5H1 or R5.120 are (harness list units has all '
                    "forms)." + ("" if kind_of(upper) is Stranger else f' Did you mean "{upper}"?')
                )
            if found is Direction:
                raise ValueError(f'"{item}" does not say its vector: directions come from selectors such as directions')
            if not _placed(found):
                raise ValueError(
                    f'"{item}" is a {found.word}, and its name alone does not say where it is: take a selector that '
                    f"chooses {found.site}"
                )
        return items

    def reads_prompts(self) -> bool:
        return False

    def inputs(self) -> dict[str, str]:
        """Beside files, which package or file brings a kind: where that changes, the run is another one."""
        by = catalogue().units_by
        of = {unit.word: by[unit.word] for unit in self.named() if unit.word in by}
        return super().inputs() | {
            f"unit {word}": digest(str(origin)) for word, origin in of.items() if origin.distribution != FIRST_PARTY
        }

    def named(self) -> tuple[Unit, ...]:
        """The units that are named."""
        return tuple(kind_of(text).parse(text) for text in self.units)

    def check(self, model: Model) -> None:
        check_units([unit.of(model) for unit in self.named()], model, "selector units")

    def select(self, context: SelectionContext) -> Selection:
        chosen = tuple(unit.of(context.model) for unit in self.named())
        return Selection(units=chosen, rule=f"{the(len(chosen), chosen[0].word)} named by the user")
