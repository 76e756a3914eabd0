"""The image's Dockerfile, read: no test can build it where no daemon is."""

from __future__ import annotations

import re

from checkout import ROOT


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines)]


def environment() -> dict[str, str]:
    """What ENV sets in the image."""
    given = " ".join(rest for name, rest in instructions() if name == "ENV")
    return dict(re.findall(r"(\w+)=(\S+)", given))
