"""Shown output that has changed, anew: with the gaps (``...``) that it had."""

from __future__ import annotations

import difflib
import re


def renewed(shown: str, real: str) -> str:
    """What is shown, as it is in ``real`` now: what ``...`` leaves out stays out, the rest is found by what it says.

    The lines between two ``...`` are those from the one most like the first of them to the one most like the last, so
    that lines in between may have come or gone.
    """
    lines, new, start = [line.rstrip() for line in real.strip("\n").splitlines()], [], 0
    parts = re.split(r"(?m)^( *\.\.\.)\n", shown if shown.endswith("\n") else shown + "\n")
    for number, part in enumerate(parts):
        if number % 2:
            new.append(part)
            continue
        if not (old := part.splitlines()):
            continue
        begin = _most_alike(old[0], lines, start) if number else 0
        last = number == len(parts) - 1
        end = len(lines) - 1 if last else begin if len(old) == 1 else _most_alike(old[-1], lines, begin + 1)
        new += [_with_gaps(line, old) for line in lines[begin : end + 1]]
        start = end + 1
    return "".join(line + "\n" for line in new)


def _most_alike(line: str, lines: list[str], start: int) -> int:
    def words(text: str) -> str:
        return " ".join(re.sub(r"[\d.,+-]+", "0", text).split())

    for number, other in enumerate(lines[start:], start):
        if _gapped(other, line) is not None:
            return number
    ratios = [difflib.SequenceMatcher(None, words(line), words(other)).ratio() for other in lines[start:]]
    return start + ratios.index(max(ratios)) if ratios else start


def _with_gaps(line: str, old: list[str]) -> str:
    """A line, with ``...`` where an old one that it is like has it."""
    return next((found for other in old if (found := _gapped(line, other)) is not None), line)


def _gapped(line: str, old: str) -> str | None:
    """A line with the gaps of an old one, None where that has none or says something else between them."""
    pieces = old.split("...")
    patterns = [re.sub(r"(?:\\ )+", " +", re.sub(r"\d+", r"\\d+", re.escape(piece))) for piece in pieces]
    found = re.fullmatch(".*".join(f"({pattern})" for pattern in patterns), line) if len(pieces) > 1 else None
    return None if found is None else "...".join(found.groups())
