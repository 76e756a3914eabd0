"""Maps of what patching statement pairs carries over: a model's own, another model's, and the difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plotting.shapes import PAGE
from harness.plugin import Figure

from ..analysis.statement_pairs import ROLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TARGETS = {"tuned": "base to tuned", "base": "tuned to base"}
"""Each model, and the map of the other's residual stream in it."""


def statement_maps(name: str, title: str, maps: Mapping[str, np.ndarray]) -> Figure:
    """A row for each model: its own map, the other's residual stream in it, and own minus other.

    Args:
        maps: [n_layers, len(ROLES)] of every name in ``statement_patching.WAYS``; NaN for roles that no pair has.
    """
    roles = [role for role in range(len(ROLES)) if np.isfinite(maps["base"][:, role]).any()]
    shown = {key: found[:, roles].T for key, found in maps.items()}

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        grid = canvas.subplots(2, 3, sharex=True, sharey=True)
        limit = max(float(np.nanmax(np.abs(found))) for found in shown.values()) or 1.0
        for line, (own, other) in zip(grid, TARGETS.items(), strict=True):
            panels = {own: shown[own], other: shown[other], f"{own} minus {other}": shown[own] - shown[other]}
            for axes, (text, values) in zip(line, panels.items(), strict=True):
                drawn = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
                axes.grid(False)
                axes.set_title(text)
                axes.set_yticks(range(len(roles)), [ROLES[role] for role in roles])
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in grid[1]:
            axes.set_xlabel("layer")
        canvas.colorbar(drawn, ax=list(grid.flat), label="share carried over", pad=0.02, aspect=28)

    layer, role = (x.ravel() for x in np.meshgrid(np.arange(len(maps["base"])), roles, indexing="ij"))
    data: dict[str, Any] = {"layer": layer, "token": [ROLES[i] for i in role]}
    data |= {key: found[:, roles].ravel() for key, found in maps.items()}
    return Figure(name, title, data, paint, (PAGE, 3.6))
