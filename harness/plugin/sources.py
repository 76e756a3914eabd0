"""The source of a component that no distribution carries: written in a notebook or a script, and changed at will."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Collection, Iterator
from hashlib import sha256
from types import FunctionType

from harness.errors import HarnessError


def source_digest(cls: type, installed: Collection[type]) -> str:
    """sha256 of the source of a class, and of those that it extends up to what installed classes extend, too.

    What its methods call outside of these is not part of it: raise ``version`` when that changes.

    Raises:
        HarnessError: nobody keeps the source (``python -c``, standard input).
    """
    own = [one for one in cls.__mro__ if not any(issubclass(base, one) for base in installed)]
    return sha256("\0".join(map(_source, own)).encode()).hexdigest()


def _source(cls: type) -> str:
    """The lines of a class, found by one of its functions: these know the cell of the notebook that they were made in,
    which the class does not."""
    for function in _functions(cls):
        code = function.__code__
        linecache.checkcache(code.co_filename)  # of a file that has been written anew
        lines = linecache.getlines(code.co_filename, function.__globals__)
        for node in ast.walk(ast.parse("".join(lines))) if lines else ():
            if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
                first, last = node.lineno, node.end_lineno or node.lineno
                if first <= code.co_firstlineno <= last:
                    return "".join(lines[first - 1 : last])
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError) as error:
        raise HarnessError(
            f"{cls.__name__}: its source cannot be read, and without it a changed class could not be told from this "
            "one; write it in a file or a notebook."
        ) from error


def _functions(cls: type) -> Iterator[FunctionType]:
    """Functions that are written in the class itself."""
    for member in vars(cls).values():
        function = getattr(member, "__func__", member.fget if isinstance(member, property) else member)
        if isinstance(function, FunctionType):
            yield function
