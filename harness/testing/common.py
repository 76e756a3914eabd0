"""What all components promise, and how a broken promise is reported."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from pydantic import ValidationError

from harness import plugin
from harness.errors import HarnessError
from harness.model.digests import weights_digest
from harness.model.model import Model
from harness.plugin import border
from harness.plugin.base import Component, Kind
from harness.plugin.catalogue import catalogue
from harness.plugin.records import Figure, Frame
from harness.plugin.specs import explain

C = TypeVar("C", bound=Component)
T = TypeVar("T")

BASES = {"model": "ModelLoader", "corpus": "Corpus", "selector": "Selector", "intervention": "Intervention"}
BASES |= {"task": "Task", "metric": "Metric", "reporter": "Reporter", "executor": "Executor"}
NAME = re.compile(r"[a-z][a-z0-9_]*")
HEAVY = frozenset({"torch", "transformers", "datasets", "matplotlib", "scipy", "jinja2", "plotly"})
"""Packages that a module with components imports inside functions: ``harness list`` imports all these modules."""


def promise(kept: bool, owner: str, broken: str) -> None:
    """Raise an AssertionError, "owner: broken", unless the promise is kept."""
    if not kept:
        raise AssertionError(f"{owner}: {broken}")


def made(cls: type[C], kind: Kind, params: dict[str, Any]) -> C:
    """The component of these parameters, after its class has been checked.

    Raises:
        AssertionError: the class is no component of its kind, says too little of itself, or refuses the parameters.
    """
    base = BASES[kind]
    fits = isinstance(cls, type) and issubclass(cls, getattr(plugin, base))
    promise(fits, str(getattr(cls, "__name__", cls)), f"it is no {kind}; derive it from {base} of harness.plugin")
    name = getattr(cls, "name", None)
    promise(isinstance(name, str), cls.__name__, 'it has no name; give the class one: name = "..."')
    owner = f"{kind} {name}"
    promise(
        NAME.fullmatch(str(name)) is not None, owner, "a name is made of lower-case letters, digits and underscores"
    )
    promise(bool((cls.__doc__ or "").strip()), owner, "it has no docstring; its first sentence is what users read")
    for field, about in cls.model_fields.items():
        promise(bool(about.description), owner, f'its parameter "{field}" has no description')
    config = cls.model_config
    promise(config.get("frozen") is True, owner, "its parameters can be changed after they were validated (frozen)")
    promise(config.get("extra") == "forbid", owner, "it takes parameters that it does not have (extra)")
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    promise(not missing, owner, f"it does not implement {', '.join(missing)}()")
    _light(cls, owner)
    try:
        own = {"corpus": catalogue().some_texts()}
        component, again = (cls.model_validate(params, context=own) for _ in range(2))
    except ValidationError as error:
        raise AssertionError(f"{owner}: {explain(error, cls, cls.name)}") from error
    except HarnessError as error:  # of a parameter that is a component itself
        raise AssertionError(f"{owner}: {error}") from error
    identity = component.identity()
    _json(identity, owner, "the identity, which is stored with results,")
    promise(identity == again.identity(), owner, "the same parameters give two identities")
    return component


def _light(cls: type[Component], owner: str) -> None:
    """The module of the class imports nothing that takes long, as far as its own source says."""
    try:
        tree = ast.parse(inspect.getsource(importlib.import_module(cls.__module__)))
    except (OSError, TypeError, ImportError):  # a class made in a console has no source
        return
    names = [x.name for node in tree.body if isinstance(node, ast.Import) for x in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
    slow = sorted({name.partition(".")[0] for name in names} & HEAVY)
    promise(
        not slow,
        owner,
        f"its module imports {', '.join(slow)} at the top, which makes `harness list` slow; import it in the functions",
    )


def _json(value: Any, owner: str, what: str) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{owner}: {what} cannot be written as JSON ({error})") from error


def as_json(value: Any, owner: str, what: str) -> None:
    """``value`` can be written to a result record, where arrays are lists and what is not finite is null."""
    from harness.files.store import clean

    _json(clean(value), owner, what)


def running(owner: str, method: str, call: Callable[[], T]) -> T:
    """What ``call`` returns; what it raises becomes a broken promise that says where."""
    try:
        return call()
    except AssertionError:
        raise
    except Exception as error:  # an author's code may raise anything
        said = str(error) if isinstance(error, HarnessError) else border.said(error)
        raise AssertionError(f"{owner}: {method} failed: {said}") from error


def accepted(check: Callable[..., Any], *arguments: Any) -> None:
    """What a run checks of what is handed over (:mod:`harness.plugin.border`) holds; the last argument says whose it
    is."""
    try:
        check(*arguments)
    except HarnessError as error:
        raise AssertionError(str(error)) from error


def twice(owner: str, method: str, call: Callable[[], T]) -> tuple[T, T]:
    """What two calls give, between which the global random numbers of Python's libraries differ."""
    return running(owner, method, lambda: _seeded(1, call)), running(owner, method, lambda: _seeded(2, call))


def _seeded(seed: int, call: Callable[[], T]) -> T:
    import random

    state, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            return call()
        finally:
            np.random.set_state(state)
            random.setstate(python)


@contextlib.contextmanager
def untouched(model: Model, prompts: Sequence[Sequence[int]], owner: str, method: str) -> Iterator[None]:
    """After the block the model has the weights it had, and predicts what it predicted."""

    def seen() -> tuple[str, torch.Tensor]:
        with torch.no_grad():
            logits = model.forward(model.pad(prompts)).logits
        return weights_digest(model.hf), cast(torch.Tensor, logits)

    weights, logits = seen()
    yield
    after, predicted = seen()
    promise(after == weights, owner, f"{method} changed the weights of the model")
    promise(torch.equal(logits, predicted), owner, f"{method} left something behind in the model, a hook perhaps")


def same(first: Any, second: Any) -> bool:
    """Whether two arrays are equal, NaN where the other is."""
    a, b = np.asarray(first), np.asarray(second)
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


def check_shown(shown: Sequence[Frame | Figure], owner: str) -> None:
    """Tables and figures have names fit for files and columns of one length, and figures can be drawn."""
    import tempfile
    from pathlib import Path

    from harness.report.figure_files import csv_bytes, draw, style, write_shown

    frames = [item if isinstance(item, Frame) else Frame(item.name, item.title, item.data) for item in shown]
    with tempfile.TemporaryDirectory() as folder:
        running(owner, "writing its tables", lambda: write_shown(Path(folder), frames))
    for item in shown:
        if isinstance(item, Figure):
            running(owner, f"the figure {item.name}", lambda data=item.data: csv_bytes(data))  # type: ignore[misc]
            with style():
                running(owner, f"drawing {item.name}", lambda figure=item: draw(figure))  # type: ignore[misc]
