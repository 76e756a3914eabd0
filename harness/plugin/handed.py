"""How the contract with components is put in words: what was handed over, and what was expected instead.

``who`` is a component and its method ("selector loudest of harness-loudest 1.2.3: select()"), with which every refusal
begins.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NoReturn, TypeVar

import numpy as np

from harness.errors import PluginError

T = TypeVar("T")

ROW_KEYS = frozenset({"prompt_id", "condition", "prompt", "input_ids", "cluster", "answer"})
"""What a row of ``samples.jsonl`` has by itself: no field of a prompt may be called so."""


def refuse(who: str, why: str) -> NoReturn:
    raise PluginError(f"{who} {why}.")


def expect(kept: bool, who: str, why: str) -> None:
    if not kept:
        refuse(who, why)


def instance(value: Any, cls: type[T], who: str, what: str = "returned") -> T:
    """``value``, which must be of this class."""
    if not isinstance(value, cls):
        refuse(who, f"{what} {a(value)}, expected {_name(cls)}")
    return value


def members(value: Any, cls: type[T] | tuple[type[Any], ...], who: str, what: str) -> tuple[T, ...]:
    """``value``, which must be a tuple of such."""
    classes = cls if isinstance(cls, tuple) else (cls,)
    names = " or ".join(_name(x) for x in classes)
    if not isinstance(value, tuple):
        refuse(who, f"gave {a(value)} as {what}, expected a tuple of {names}")
    for item in value:
        if not isinstance(item, classes):
            refuse(who, f"gave {a(item)} among {what}, expected {names}")
    return value


def text(value: Any, who: str, what: str, empty: bool = False) -> str:
    """``value``, which must be text that can be written to a file."""
    if not isinstance(value, str) or not (empty or value.strip()):
        refuse(who, f"gave {a(value)} as {what}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(who, f"gave text as {what} that is not Unicode (a lone surrogate)")
    return value


def whole(value: Any) -> bool:
    """Whether it is an integer; True and 3.0 are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def as_json(value: Any, who: str, what: str) -> None:
    """``value`` must be a mapping that can be written to a record."""
    from harness.files.store import clean

    if not isinstance(value, Mapping):
        refuse(who, f"gave {a(value)} as {what}, expected a mapping")
    try:
        json.dumps(clean(value), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        refuse(who, f"gave {what} that cannot be written as JSON ({error})")


def numbers(value: Any, shape: tuple[int, ...], who: str, what: str) -> np.ndarray:
    """``value`` as an array of numbers of this shape, one of the harness's own."""
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        refuse(who, f"gave {what} that is no array of numbers")
    expect(array.dtype.kind in "biuf", who, f"gave {what} of type {array.dtype}, expected numbers")
    expect(array.shape == shape, who, f"gave {what} of shape {array.shape}, expected {shape}")
    return array


def a(value: Any) -> str:
    said = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return said if len(said) <= 60 else said[:57] + "..."


def _name(cls: type) -> str:
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def twice(names: Sequence[Any]) -> Any:
    """Something that is there twice, or None."""
    return next((name for name, n in Counter(names).items() if n > 1), None)


def locked(array: np.ndarray) -> np.ndarray:
    """The same numbers, which cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view
