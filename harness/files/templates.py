"""Templates that somebody else has written: ``{name}`` stands for a value, and nothing else stands for anything.

``str.format`` would also look into values (``{x.__class__}``) and make texts of any length (``{x:>999999999}``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from harness.errors import HarnessError, suggest

_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def fill(template: str, values: Mapping[str, Any], where: str) -> str:
    """The template with its places filled; ``{{`` and ``}}`` are braces.

    Raises:
        HarnessError: a name is not among ``values``, or a brace stands alone; begins with ``where``.
    """
    try:
        check(template, values)
    except ValueError as error:
        raise HarnessError(f"{where}: {error}.") from error
    return _PLACE.sub(lambda found: found[0][0] if found[1] is None else str(values[found[1]]), template)


def check(template: str, known: Collection[str] | None) -> str:
    """The template, if all its places are among ``known`` (None: whatever they are).

    Raises:
        ValueError: they are not, or a brace stands alone.
    """
    shown = repr(template if len(template) <= 80 else f"{template[:80]}...")
    found = list(_PLACE.finditer(template))
    if any(len(place[0]) == 1 for place in found):
        raise ValueError(f"the template {shown} cannot be filled: a brace stands alone; write {{{{ or }}}} for a brace")
    for place in found:
        if place[1] is not None and known is not None and place[1] not in known:
            raise ValueError(
                f'the template {shown} cannot be filled: there is no "{place[1][:80]}".'
                f"{suggest(place[1], map(str, known))} There are: {', '.join(map(str, known)) or 'none'}"
            )
    return template
