"""JSON and JSON lines as somebody else may have written them: whatever is wrong with them is one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonlines

from harness.errors import HarnessError

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: str, where: str) -> Any:
    """The value of a JSON text.

    Raises:
        HarnessError: it is none, is nested too deeply, or holds half a character (a lone surrogate, which no file can
            hold as UTF-8); begins with ``where``.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise HarnessError(f"{where}: this is not valid JSON (it is nested too deeply).") from None
    except ValueError as error:
        raise HarnessError(f"{where}: this is not valid JSON ({error}).") from error
    if _HALF.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise HarnessError(f"{where}: it holds {error.object[error.start]!a}, which is half a character.") from None
    return value


def parse_lines(text: str, where: str) -> Iterator[tuple[int, Any]]:
    """The values of JSON lines, each with the number of its line, from 1; blank lines are passed over.

    A line ends at a line feed alone: others that ``str.splitlines`` knows may stand in a value.

    Raises:
        HarnessError: a line is no JSON; begins with ``where`` and its number.
    """
    number = 0

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(text.split("\n"), 1):  # noqa: B007  # read in the next line
            yield line

    reader = jsonlines.Reader(lines(), loads=lambda line: parse(str(line), f"{where}, line {number}"))
    for value in reader.iter(allow_none=True, skip_empty=True):
        yield number, value
