"""What a page may load and run: content security policies.

A page runs its own scripts and no others, each named by its hash, and loads nothing from anywhere. A run's page is a
file that anybody may have written: its scripts run as ours only where they are those that this version writes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache

from harness.report.page import carried

BASE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
ALONE = "frame-ancestors 'none'"
"""Of headers only: no other page shows this one in a frame."""

INERT = f"default-src 'none'; style-src 'unsafe-inline'; sandbox; {ALONE}"
"""Of files that are no pages: a drawing (SVG) could hold a script."""

_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_NAMED = re.compile(r"sha256-[A-Za-z0-9+/]{43}=")


def policy(scripts: list[str], asks: bool = False) -> str:
    """For a page of ours with these inline scripts; ``asks``: it may ask its own server for data."""
    hashes = [f"sha256-{base64.b64encode(hashlib.sha256(x.encode()).digest()).decode()}" for x in scripts]
    connect = "; connect-src 'self'" if asks else ""
    return f"{BASE}; script-src {_listed(hashes)}{connect}"


def of_made(page: str, asks: bool = False) -> str:
    """As a header, for a page that was made just now by a template of ours: outside text in it is escaped, so every
    script is ours."""
    return f"{policy(_SCRIPT.findall(page), asks)}; {ALONE}"


def of_report(page: bytes) -> str:
    """For a run's page, a file: with the scripts that its own policy names.

    Where one of them is not of this version of the harness the page is sandboxed, too: it may draw its charts, and
    reaches nothing that is shared with other pages.
    """
    named = dict.fromkeys(_NAMED.findall(page[:4000].decode("utf-8", "replace")))
    strange = "" if named.keys() <= _ours() else "; sandbox allow-scripts allow-downloads"
    return f"{BASE}; script-src {_listed(named)}; {ALONE}{strange}"


@cache
def _ours() -> frozenset[str]:
    """The scripts of run pages, as policies name them."""
    return frozenset(name for charts in (True, False) for name in _NAMED.findall(carried(charts)["policy"]))


def _listed(hashes: Iterable[str]) -> str:
    return " ".join(f"'{found}'" for found in hashes) or "'none'"
