"""How a component's parameters are written: ``name:key=value,key=value``, the same on the command line, in a registry
and in Python.

::

    parameters = [ parameter { "," parameter } ]
    parameter  = [ key "=" ] value
    value      = quoted | list | mapping | bare
    quoted     = '"' characters with JSON's escapes '"'  |  "'" characters, with '' for ' "'"
    list       = "[" [ value { "," value } ] "]"
    mapping    = "{" [ key ":" value { "," key ":" value } ] "}"
    key        = quoted | bare

A bare value is text up to the next comma that stands outside brackets, without the spaces around it; ``null`` and
``none`` mean no value. Everything else stays text (``11.2370`` does) until the field that it is for validates it.
Quotes count only where a value begins: ``it's`` is text. What begins like a list or a mapping, but is followed by more
text or has no ``key:`` is text, too: ``{query}``, ``{subject} is a``, ``[INST] {text}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.errors import HarnessError

BARE = ""
"""Key of the values that a user gives no name, in the parameters of a specification."""

DEEPEST = 20
"""Lists and mappings within each other, at most."""

_JSON = json.JSONDecoder(strict=False)  # line breaks may stand in quotes as they are
_SINGLE = re.compile(r"'((?:[^']|'')*)'")
_KEY = re.compile(r"""[^"',=\[\]{}]*""")
_MAPPED = re.compile(r"""([^\s"',:\[\]{}][^"',:\[\]{}]*):(?=[\s,}\["']|$)""")
"""A key of a mapping and its colon, which stands before a space, quotes or a bracket: ``{a: b}``, not ``{a:b}``."""
_BARE_VALUE = re.compile(r"""[^\s"',\[\]{}](?:[^"',\[\]{}\x00-\x1f]*[^\s"',\[\]{}])?""")
_BARE_KEY = re.compile(r"""[^\s"',=:\[\]{}\x00-\x1f]+""")
_EMPTY = ("null", "none")
_QUOTES = ("'", '"')
_CLOSING = {"[": "]", "{": "}"}


class _Wrong(ValueError):
    """The text is not written like this; its message says what was expected."""


# -- reading -----------------------------------------------------------------------------------------------------------


def parse_params(text: str, field: str, bare: bool = False) -> dict[str, Any]:
    """Read ``key=value,key=[a,b],key="a, b"``; the module says how values are written.

    ``bare``: values without a key are kept, as a list under the key :data:`BARE`.

    Raises:
        HarnessError: names ``field`` and the part that is not ``key=value``.
    """
    params: dict[str, Any] = {}
    place = 0
    while (place := _space(text, place)) < len(text):
        if text[place] == ",":
            place += 1
            continue
        start = place
        try:
            key, begin = _key(text, place)
            value, place = _value(text, begin, ",")
        except _Wrong as error:
            raise HarnessError(f"{field}: {error}.") from error
        if key is None:
            if not bare or not isinstance(value, str):
                raise not_key_value(text[start:place].strip(), field)
            params.setdefault(BARE, []).append(value)
        elif key in params:
            raise HarnessError(f'{field}: parameter "{key}" is given twice.')
        elif value == "" and not text[begin:place].strip():
            raise HarnessError(f'{field}: "{key}=" has no value; write {key}="" for an empty text.')
        else:
            params[key] = value
    return params


def not_key_value(part: str, field: str) -> HarnessError:
    """What is said of a part of parameters without a key."""
    return HarnessError(
        f'{field}: "{_shown(part)}" is not key=value (write for example top=6,null_dims=12; a value that holds a comma '
        'goes in quotes: key="one, two").'
    )


def parse_value(text: str, field: str) -> Any:
    """One value: text, None, a list or a mapping of values.

    Raises:
        HarnessError: names ``field`` and what was expected.
    """
    try:
        value, place = _value(text, 0, "")
    except _Wrong as error:
        raise HarnessError(f"{field}: {error}.") from error
    assert place == len(text)
    return value


def _key(text: str, place: int) -> tuple[str | None, int]:
    """The key of the parameter that begins here and the place behind its ``=``; None: it has none."""
    if text[place] in _QUOTES:
        key, behind = _quoted(text, place)
        behind = _space(text, behind)
    else:
        match = _KEY.match(text, place)
        assert match is not None  # an empty key matches everywhere
        key, behind = match[0].strip(), match.end()
    if text[behind : behind + 1] != "=":
        return None, place
    if not key:
        raise _Wrong(f'"{_shown(text[place:])}" is not key=value')
    return key, behind + 1


def _value(text: str, place: int, ends: str, depth: int = 0) -> tuple[Any, int]:
    """The value that begins here, and the place behind it: of one of the characters ``ends``, or the text's end."""
    if depth > DEEPEST:
        raise _Wrong(f"more than {DEEPEST} lists and mappings lie within each other")
    start = _space(text, place)
    first = text[start : start + 1]
    if first and first in _QUOTES:
        value, place = _quoted(text, start)
        place = _space(text, place)
        if place < len(text) and text[place] not in ends:
            raise _Wrong(f'behind the quotes of {_shown(text[start:place])} stands "{_shown(text[place:])}", no comma')
        return value, place
    if first == "[" or (first == "{" and _is_mapping(text, start)):
        found, place = _list(text, start, depth) if first == "[" else _mapping(text, start, depth)
        place = _space(text, place)
        if place == len(text) or text[place] in ends:
            return found, place
    return _bare(text, start, ends)


def _is_mapping(text: str, place: int) -> bool:
    """Whether a key stands behind the brace, or nothing."""
    place = _space(text, place + 1)
    return text[place : place + 1] in ("}", *_QUOTES) or _MAPPED.match(text, place) is not None


def _bare(text: str, start: int, ends: str) -> tuple[str | None, int]:
    """Text as it stands; brackets in it keep what they hold together."""
    place = start
    open_: list[str] = []
    while place < len(text) and (open_ or text[place] not in ends):
        character = text[place]
        if character in _CLOSING:
            open_.append(character)
        elif open_ and character == _CLOSING[open_[-1]]:
            open_.pop()
        place += 1
    if open_:
        raise _Wrong(f'"{_shown(text[start:])}" is not a list or text: "{open_[0]}" is not closed; put text in quotes')
    value = text[start:place].strip()
    return (None if value.lower() in _EMPTY else value), place


def _quoted(text: str, place: int) -> tuple[str, int]:
    """The text in quotes that begins here, and the place behind them."""
    if text[place] == "'":
        match = _SINGLE.match(text, place)
        if match is None:
            raise _Wrong(f"the quotes of {_shown(text[place:])} are not closed")
        return match[1].replace("''", "'"), match.end()
    try:
        value, behind = _JSON.raw_decode(text, place)
        value.encode()  # half a character can be in no record
        return value, behind
    except UnicodeEncodeError as error:
        raise _Wrong(f"the quotes of {_shown(text[place:])} hold half a character") from error
    except ValueError as error:
        why = "are not closed" if "Unterminated" in str(error) else "hold an unknown escape (write \\\\ for \\)"
        raise _Wrong(f"the quotes of {_shown(text[place:])} {why}") from error


def _list(text: str, place: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    place = _space(text, place + 1)
    while text[place : place + 1] != "]":
        if place >= len(text):
            raise _Wrong(f'"{_shown(text)}" is not a list: "[" is not closed')
        start = place
        item, place = _value(text, place, ",]", depth + 1)
        if item == "" and text[start:place].strip() == "":
            raise _Wrong(f'the list "{_shown(text)}" has an empty place; write "" for an empty text')
        items.append(item)
        place = _comma(text, place)
    return items, place + 1


def _mapping(text: str, place: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    place = _space(text, place + 1)
    while text[place : place + 1] != "}":
        if place < len(text) and text[place] in _QUOTES:
            key, place = _quoted(text, place)
            place = _space(text, place)
            if text[place : place + 1] != ":":
                raise _Wrong(f'the mapping "{_shown(text)}" needs ":" after {json.dumps(key, ensure_ascii=False)}')
            place += 1
        elif match := _MAPPED.match(text, place):
            key, place = match[1].strip(), match.end()
        else:
            raise _Wrong(f'"{_shown(text)}" is not a mapping {{key: value, key: value}}')
        if key in found:
            raise _Wrong(f'"{key}" stands twice in the mapping "{_shown(text)}"')
        found[key], place = _value(text, place, ",}", depth + 1)
        place = _comma(text, place)
    return found, place + 1


def _comma(text: str, place: int) -> int:
    return _space(text, place + 1) if text[place : place + 1] == "," else place


def _space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _shown(text: str) -> str:
    """Text for a sentence."""
    return text if len(text) <= 60 else f"{text[:60]}..."


# -- writing -----------------------------------------------------------------------------------------------------------


def write_params(params: Mapping[str, Any]) -> str:
    """Parameters as :func:`parse_params` reads them: the same ones come back, numbers as their text."""
    parts = [_quote(value) if "=" in value else write_value(value) for value in params.get(BARE, ())]
    parts += [f"{_write_key(key)}={write_value(value)}" for key, value in params.items() if key != BARE]
    return ",".join(parts)


def write_value(value: Any) -> str:
    """A value as :func:`parse_value` reads it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_write_key(str(key))}: {write_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if value is None:
        return "null"
    text = str(value)
    return text if _BARE_VALUE.fullmatch(text) and text.lower() not in _EMPTY else _quote(text)


def _write_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _quote(key)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
