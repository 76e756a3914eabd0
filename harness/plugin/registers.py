"""What a plugin hands over of the claims of its paper: where they are written, and what they are tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.plugin.claims import Claims


@dataclass(frozen=True)
class Value:
    """A number with its 95% interval, as far as there is one; ``unit`` as measures have it.

    ``why``: there is no number.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    why: str = ""


@dataclass(frozen=True)
class Evidence:
    """Numbers that claims are tested on and that are no run's.

    Attributes:
        name: what claims call it in ``evidence``.
        model: the id of the model that it is about. about: the rest, in words.
        values: by the name that rules call ``measure``.
    """

    name: str
    model: str
    about: str
    values: Mapping[str, Value]


@dataclass(frozen=True)
class Register:
    """A ``claims.yaml`` (:mod:`harness.plugin.claims`).

    Attributes:
        path: of the file, which is read when claims are asked for.
        reads: what a command of the same plugin has left in a reports folder, from the JSON of a ``result.json`` that
            is no run's; None where it is of somebody else.
    """

    path: Path
    reads: Callable[[Any], Evidence | None] | None = None

    def read(self) -> Claims:
        """The claims.

        Raises:
            HarnessError: names file, line and place of the first mistake, and the nearest valid name.
        """
        from harness.plugin.claims import read

        return read(self.path)
