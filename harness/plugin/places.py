"""Types of parameters that say where something is done: at which tokens, after which layers."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from harness.errors import HarnessError
from harness.files.wording import counted


def _positions(value: Any) -> str:
    from harness.conditions.positions import Positions

    try:
        return Positions(str(value)).text
    except HarnessError as error:
        raise ValueError(str(error).removeprefix("positions: ").rstrip(".")) from None


PositionsText = Annotated[str, BeforeValidator(_positions)]
"""Type of a parameter that says at which tokens something is done (:class:`harness.conditions.positions.Positions`)."""


_LAYERS = re.compile(r"(-?\d{1,6})|(\d{1,6})-(\d{1,6})")


def _layers(value: Any) -> int | tuple[int | str, ...]:
    several = isinstance(value, list | tuple)
    parts = [str(part).strip() for part in (value if several else str(value).split(","))]
    found = [_LAYERS.fullmatch(part) for part in parts]
    if not parts or any(x is None or (x[2] and int(x[2]) > int(x[3])) for x in found):
        raise ValueError("expected a layer, a range such as 8-12, or several of both, [8-12,15]")
    made = tuple(part if x is not None and x[2] else int(part) for part, x in zip(parts, found, strict=True))
    return made[0] if len(made) == 1 and isinstance(made[0], int) and not several else made


AnyLayers = Annotated[int | tuple[int | str, ...], BeforeValidator(_layers), WithJsonSchema({"type": "layers"})]
"""Type of a parameter that names layers: one (negative ones count from the last), a range with both of its ends (8-12),
or several of both ([8-12,15]); :func:`layers_in` says which they are in a model."""


def layers_in(layers: int | tuple[int | str, ...], n_layers: int, owner: str) -> list[int]:
    """The layers that an :data:`AnyLayers` names, counted from the front, ascending.

    Raises:
        HarnessError: names ``owner`` and the layer that the model does not have.
    """
    found: set[int] = set()
    for part in layers if isinstance(layers, tuple) else (layers,):
        first, last = map(int, part.split("-")) if isinstance(part, str) else (part, part)
        for layer in (first, last):
            if not -n_layers <= layer < n_layers:
                raise HarnessError(
                    f"{owner}: layer {layer} does not exist; the model has {counted(n_layers, 'layer')} "
                    f"(0 to {n_layers - 1})."
                )
        found |= {layer % n_layers for layer in range(first, last + 1)}
    return sorted(found)
