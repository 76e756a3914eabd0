"""What every page carries with it: style, scripts, and the policy that lets no other script run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness.files.owned import path_name
from harness.plugin.records import Figure as Drawable
from harness.results.record import Figure

FIGURES_LIMIT = 900_000
"""Bytes of figures in a page; what comes after is named and lies beside it."""


WIDE = 1000
"""Pixels of a picture that is wider than a column of a paper: it has the page's width."""


def assets(*names: str, charts: bool = False) -> dict[str, Any]:
    """``style``, ``scripts`` and ``policy`` of a page with these scripts of ours; the chart library with ``charts``."""
    scripts = ["\n".join(map(_read, ("page.js", *names)))]
    if charts:
        scripts.insert(0, re.sub(r"\n//# sourceMappingURL=\S+\s*$", "\n", _read("chart.umd.min.js")))
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    policy += "script-src " + " ".join(f"'sha256-{found}'" for found in hashes)
    return {
        "style": Markup(_read("page.css")),
        "scripts": [Markup(script) for script in scripts],
        "policy": policy,
    }


def _read(name: str) -> str:
    return (files("harness.report") / "templates" / name).read_text(encoding="utf-8")


def pictures(folder: Path, figures: Sequence[Figure], room: int = FIGURES_LIMIT) -> list[dict[str, Any]]:
    """Figures with their pictures, as long as there is room; those that are only named keep their place."""
    found = []
    for figure in figures:
        name = path_name(figure.name, f"{folder / 'result.json'}, figures")
        path = folder / "figures" / f"{name}.png"
        drawn = path.is_file()
        image = base64.b64encode(path.read_bytes()).decode() if drawn else ""
        if len(image) > room:
            image = ""
        room -= len(image)
        size = _png_size(image) if image else (0, 0)
        asks, said = headline(figure.title)
        shape = {"width": size[0] // 2, "height": size[1] // 2, "wide": size[0] > WIDE}
        found.append(
            {"name": name, "title": figure.title, "asks": asks, "said": said, "image": image, "drawn": drawn, **shape}
        )
    return found


def drawn_here(figure: Drawable) -> dict[str, Any]:
    """A figure that is drawn into a page and has no files beside it, as :func:`pictures` gives those that have."""
    from harness.report.figure_files import render

    image = base64.b64encode(render(figure)[0]).decode()
    width, height = _png_size(image)
    asks, said = headline(figure.title)
    shape = {"width": width // 2, "height": height // 2, "wide": width > WIDE}
    text = {"name": figure.name, "title": figure.title, "asks": asks, "said": said}
    return {**text, "image": image, "drawn": False, "loose": True, **shape}


def headline(title: str) -> tuple[str, str]:
    """The question that a figure's title begins with, and the rest; a title that asks none is all rest."""
    asks, mark, said = title.partition("? ")
    if not mark and not title.endswith("?"):
        return "", title
    return asks + mark.strip(), said


def _png_size(image: str) -> tuple[int, int]:
    """Width and height of a PNG in pixels; given before it is decoded, the page does not jump."""
    head = base64.b64decode(image[:64])
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
