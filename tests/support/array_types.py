"""Arrays that cross the engine's border have the shapes and types that are written there: checked while tests run.

Annotations say ``Float64[np.ndarray, "n_conditions n_tokens"]`` (jaxtyping); nothing looks at them outside of tests.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isclass
from typing import Any, TypeVar, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

MODULES = (
    "harness.effects.sweep",
    "harness.engine.activation_capture",
    "harness.engine.activation_summaries",
    "harness.engine.final_layer",
    "harness.engine.generations",
    "harness.engine.scores",
    "harness.model.layer_hooks",
    "harness.model.model",
    "harness.model.readout",
)
"""What is checked: functions, and dataclasses when they are made."""

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def check_arrays() -> None:
    """From now on, imports of these modules are checked ones."""
    install_import_hook(MODULES, "array_types.checked")


def checked(function: FunctionT) -> FunctionT:
    """The function, which refuses other arrays than it is annotated with; other annotations are mypy's."""
    arrays = {name: hint for name, hint in function.__annotations__.items() if _of_arrays(hint)}
    function.__annotations__ = arrays
    return beartype(function) if arrays else function


def _of_arrays(hint: Any) -> bool:
    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_of_arrays, get_args(hint)))
