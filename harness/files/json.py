"""JSON as somebody else may have written it: whatever is wrong with it is one sentence."""

from __future__ import annotations

import json
import re
from typing import Any

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
