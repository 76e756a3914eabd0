"""The map of what patching recovers, by layer and role of the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.plotting import shapes as drawing
from harness.plotting.shapes import COLUMN
from harness.plugin import Figure, counted

from ..analysis.pairs import ROLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from ..analysis.patching import Localisation


def patching_map(found: Localisation, name: str = "patching") -> Figure:
    """Mean recovery over pairs as colours: layers from left to right, roles of tokens from top to bottom."""
    values = found.map
    roles = [role for role in range(len(ROLES)) if np.isfinite(values[:, role]).any()]
    n = int(np.isfinite(found.recovery).any((1, 2)).sum())

    def paint(canvas: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        limit = float(np.nanmax(np.abs(values[:, roles]))) or 1.0
        drawn = axes.imshow(values[:, roles].T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
        axes.grid(False)
        axes.set_yticks(range(len(roles)), [ROLES[role] for role in roles])
        axes.set(xlabel="layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawing.colour_bar(axes, drawn, "share recovered")

    layer, role = (places.ravel() for places in np.meshgrid(np.arange(len(values)), roles, indexing="ij"))
    return Figure(
        name,
        f"Where does the answer come from? Share of the difference between the answers that the clean residual stream "
        "brings back, by layer and token: "
        f"{found.model}, mean over {counted(n, 'pair')} of facts.",
        {"layer": layer, "token": [ROLES[i] for i in role], "recovery": values[:, roles].ravel()},
        paint,
        (COLUMN, 2.0),
    )
