"""Functions that take the fields of a request, so that these are written once."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from pydantic.fields import FieldInfo

Given = ParamSpec("Given")
Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def in_words(request: Callable[Given, Asked]) -> Callable[[Callable[[Asked], Answer]], Callable[Given, Answer]]:
    """A function of a request becomes one of the request's fields; their descriptions are its docstring's ``Args``.

    Args:
        request: a dataclass whose fields are annotated with pydantic's ``Field(description=...)``.
    """

    def decorate(function: Callable[[Asked], Answer]) -> Callable[Given, Answer]:
        signature = inspect.signature(request)

        @functools.wraps(function)
        def asked(*given: Given.args, **words: Given.kwargs) -> Answer:
            try:
                signature.bind(*given, **words)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}") from None
            return function(request(*given, **words))

        hints = {name: get_args(kind) for name, kind in get_type_hints(request, include_extras=True).items()}
        parameters = [x.replace(annotation=_short(hints[x.name][0])) for x in signature.parameters.values()]
        returned = function.__annotations__["return"]
        shown = signature.replace(parameters=parameters, return_annotation=returned)
        asked.__signature__ = shown  # type: ignore[attr-defined]
        described = "".join(f"    {name}: {_description(about)}\n" for name, (_, *about) in hints.items())
        told = inspect.cleandoc(function.__doc__ or "")
        asked.__doc__ = told.replace("\n\nRaises:\n", f"\n\nArgs:\n{described}\nRaises:\n")
        return asked

    return decorate


def _description(about: Sequence[Any]) -> str:
    return next(str(x.description) for x in about if isinstance(x, FieldInfo))


def _short(kind: Any) -> str:
    """A type as it is written where it has been imported."""
    return re.sub(r"(?:\w+\.)+", "", inspect.formatannotation(kind))
