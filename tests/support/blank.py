"""Figures that are blank pictures: drawing them is most of a small run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

_PNG = io.BytesIO()
Image.new("L", (1, 1)).save(_PNG, "png")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


def render(figure: Any) -> tuple[bytes, bytes]:
    """In the place of :func:`harness.report.figure_files.render`."""
    return _PNG.getvalue(), _SVG


FIGURES = f"""
import sys
sys.path.append({str(Path(__file__).resolve().parent)!r})
import blank
from harness.report import figure_files
figure_files.render = blank.render
"""
"""A program after which those of its process are blank."""

HARNESS = f"{FIGURES}sys.argv[0] = 'harness'\nfrom harness.cli.main import main\nmain()\n"
"""A program that is the command line without figures: ``python -c HARNESS eval ...``."""
