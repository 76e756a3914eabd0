"""Kinds of units that plugins bring, and names of units in records, whose plugin may not be installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from harness.conditions.conditions import UNIT_KEYS
from harness.conditions.units import NEURONS, UNITS, Site, Unit
from harness.errors import HarnessError
from harness.plugin.entries import TYPED

if TYPE_CHECKING:
    from harness.model.model import Model

_WORD = re.compile(r"[a-z][a-z -]*")
_EXAMPLE = re.compile(r"example (\S+)$")


def check_kind(kind: Any, known: Mapping[str, type[Unit]]) -> None:
    """Refuse what is no kind of units, or cannot be told from the known ones.

    Raises:
        HarnessError: names it, and what is wrong with it.
    """
    if not (isinstance(kind, type) and issubclass(kind, Unit)):
        raise HarnessError(f"harness_units() returned {kind!r}, which is no kind of units (a subclass of Unit)")
    missing = [name for name in ("word", "site", "written", "form") if not hasattr(kind, name)]
    if missing:
        raise HarnessError(f"the kind of units {kind.__name__} has no {missing[0]}")
    if not (_WORD.fullmatch(str(kind.word)) and TYPED.fullmatch(str(kind.site))):
        raise HarnessError(
            f"the kind of units {kind.__name__} has word {kind.word!r} and site {kind.site!r}: expected a word in "
            "small letters, and a name that can be typed"
        )
    if not (isinstance(getattr(kind, "where", None), Site) or "where" in getattr(kind, "__dataclass_fields__", {})):
        raise HarnessError(f'the kind of units "{kind.word}" has no where: the Site that its units live at')
    for other in known.values():
        if other.word == kind.word or other.site == kind.site:
            raise HarnessError(f'the kind of units "{kind.word}" at the site "{kind.site}" is already there')
    example = _EXAMPLE.search(kind.form)
    if example is None:
        raise HarnessError(
            f'the kind of units "{kind.word}" has a form without "example NAME" at its end: {kind.form!r}'
        )
    if (named := str(kind.parse(example[1]))) != example[1]:
        raise HarnessError(f'the kind of units "{kind.word}" reads {example[1]} and writes {named}')
    taken = [other.word for other in known.values() if other.written.fullmatch(example[1])]
    if taken:
        raise HarnessError(f'the kind of units "{kind.word}": {example[1]} is the name of a {taken[0]}, too')


def kinds() -> Mapping[str, type[Unit]]:
    """All kinds of units of the installed plugins, by the word that records have for them."""
    from harness.plugin.catalogue import catalogue

    return catalogue().units


def kind_named(word: str) -> type[Unit]:
    """The kind of units that records call by this word; of one that no installed plugin brings, names are kept as they
    are (:class:`Stranger`)."""
    return UNITS.get(word) or kinds().get(word) or Stranger


def kind_of(name: str) -> type[Unit]:
    """The kind of units that has such names."""
    own = (kind for kind in UNITS.values() if kind.written.fullmatch(name))
    return next(own, None) or next((kind for kind in kinds().values() if kind.written.fullmatch(name)), Stranger)


def mlp_site(model: Model, layer: int) -> Site:
    """Where the neurons of a layer's MLP are: those of its routed experts, where it has such and a plugin brings the
    kind, else its dense neurons."""
    if model.anatomy.experts[layer] is not None:
        own = (getattr(kind, "where", None) for kind in kinds().values())
        return next((site for site in own if isinstance(site, Site) and site.enters == "experts"), NEURONS)
    return NEURONS


@dataclass(frozen=True, order=True)
class Stranger(Unit):
    """A unit in a record that no installed plugin knows the kind of: its name, and the first numbers in it."""

    name: str = ""

    word = "unit"
    site = "units"
    one_number = False
    written = re.compile(r"[^\s,;+]{1,200}")
    form = "a name without spaces, for example X3.7"
    placed = ()

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: str) -> Self:
        if cls.written.fullmatch(text.strip()) is None:
            raise HarnessError(f'"{text}" is not the name of a unit: expected {cls.form}.')
        layer, index, *_ = [*map(int, re.findall(r"\d{1,9}", text)), 0, 0]
        return cls(layer, index, text.strip())


def score_names(row: Mapping[str, Any]) -> list[str]:
    """The scores among the columns of a row of :meth:`harness.conditions.conditions.Selection.table`."""
    places = {f"neuron {x}" if f"neuron {x}" in row else x for x in kind_of(row["neuron"]).placed}
    return [name for name in row if name not in UNIT_KEYS | places]
