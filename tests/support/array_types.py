"""Arrays that cross the engine's border have the shapes and types that are written there: checked while tests run.

Annotations say ``Float64[np.ndarray, "n_conditions n_tokens"]`` (jaxtyping); nothing looks at them outside of tests.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from inspect import isclass
from types import ModuleType
from typing import Any, TypeVar, get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

MODULES = (
    "harness.effects.sweep",
    "harness.engine.activation_capture",
    "harness.engine.activation_summaries",
    "harness.engine.final_layer",
    "harness.engine.generations",
    "harness.engine.scores",
    "harness.model.model",
    "harness.model.readout",
)
"""What is checked: functions, and dataclasses when they are made."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def check_arrays() -> None:
    """From now on, imports of these modules are checked ones."""
    sys.meta_path.insert(0, _Checked())


class _Checked(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target) if name in MODULES else None
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Loader(found.loader.name, found.loader.path)
        return found


class _Loader(SourceFileLoader):
    """Decorates what is annotated with arrays. jaxtyping's own hook does so with every function, and makes new ones of
    those within others at every call: a twentieth of the time of all tests."""

    def get_code(self, fullname: str) -> Any:
        tree = ast.parse(self.get_data(self.path), self.path)
        arrays = {alias.name for node in tree.body for alias in _from_jaxtyping(node)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not _mentions(node, arrays):
                continue
            mark = ast.copy_location(ast.Name("__checked__", ast.Load()), node)
            # After @dataclass, and before decorators of functions, which may hide annotations.
            node.decorator_list.insert(0 if isinstance(node, ast.ClassDef) else len(node.decorator_list), mark)
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__checked__"] = jaxtyped(typechecker=checked)
        super().exec_module(module)


def _from_jaxtyping(node: ast.stmt) -> list[ast.alias]:
    return node.names if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping" else []


def _mentions(node: ast.FunctionDef | ast.ClassDef, arrays: set[str]) -> bool:
    """Whether an argument, what is returned, or a field is annotated with arrays."""
    if isinstance(node, ast.ClassDef):
        hints = [field.annotation for field in node.body if isinstance(field, ast.AnnAssign)]
    else:
        given = node.args
        hints = [x.annotation for x in (*given.posonlyargs, *given.args, *given.kwonlyargs) if x.annotation]
        hints += [node.returns] if node.returns else []
    return any(isinstance(part, ast.Name) and part.id in arrays for hint in hints for part in ast.walk(hint))


def checked(function: FunctionT) -> FunctionT:
    """The function, which refuses other arrays than it is annotated with; other annotations are mypy's."""
    arrays = {name: hint for name, hint in function.__annotations__.items() if _of_arrays(hint)}
    function.__annotations__ = arrays
    return beartype(function) if arrays else function


def _of_arrays(hint: Any) -> bool:
    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_of_arrays, get_args(hint)))
