"""Components of a stranger's package, and runs of them on a tiny model: what a run does with what they hand over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_runs import Silent

from harness.errors import PluginError
from harness.plugin import (
    Component,
    Figure,
    Intervention,
    Measure,
    Measurement,
    Metric,
    Model,
    ModelLoader,
    Neuron,
    Outcomes,
    Prepared,
    Prompt,
    Selection,
    SelectionContext,
    Selector,
    Task,
    by_layer,
    hookimpl,
    hookspecs,
)
from harness.plugin.catalogue import Catalogue, Origin, catalogue
from harness.running import execute as run
from harness.running.spec import RunSpec
from harness.testing import prompts_of, tiny_model

ORIGIN = Origin("evil", "harness-evil", "9.9")
N = 4
"""Prompts of the task below."""


class TinyLoader(ModelLoader):
    """A tiny random model."""

    name = "tiny"

    def load(self) -> Model:
        return tiny_model("gpt2")


class PlainTask(Task):
    """The entropy of the next token after random tokens."""

    name = "plain"
    default_metrics: ClassVar[tuple[str, ...]] = ("average",)

    def data_digest(self) -> str:
        return "0"

    def prepare(self, engine: Any, limit: int | None, seed: int) -> Prepared:
        return Prepared(tuple(Prompt(str(i), "", x, str(i)) for i, x in enumerate(prompts_of(engine.model, n=N))))

    def observe(self, engine: Any, prompts: Sequence[Prompt], conditions: Any, progress: Any = None) -> Outcomes:
        made = engine.generate([prompt.tokens for prompt in prompts], conditions, 1, progress=progress)
        return Outcomes(tuple(conditions), tuple(prompts), {"entropy": made.entropy})


class Loud(Selector):
    """Two neurons of the last layer."""

    name = "loud"

    def select(self, context: SelectionContext) -> Selection:
        every = tuple(Neuron(2, i) for i in range(context.model.anatomy.d_mlp))
        return Selection(every[:2], "the first two", every, {"score": np.arange(len(every), dtype=float)})


@dataclass(frozen=True)
class Changed:
    """An edit that does what ``change`` does."""

    layer: int
    indices: tuple[int, ...]
    change: Callable[[torch.Tensor], Any]

    def apply(self, activations: torch.Tensor) -> Any:
        return self.change(activations)


class Halved(Intervention):
    """Activations are halved, or whatever ``change`` makes of them."""

    name = "halved"
    needs_statistics = False
    change: ClassVar[Callable[[torch.Tensor], Any]] = staticmethod(lambda x: x / 2)

    def edits(self, units: Any, statistics: Any) -> Any:
        return tuple(Changed(layer, tuple(i), type(self).change) for layer, i in by_layer(units).items())


class Average(Metric):
    """The mean entropy."""

    name = "average"

    def measure(self, outcomes: Outcomes) -> Measurement:
        values = outcomes["entropy"]
        figure = Figure("bars", "Bars.", {"entropy": values[0]}, lambda canvas: None)
        return Measurement((Measure("entropy", "entropy", "nats", values, np.ones(values.shape)),), figures=(figure,))


GOOD: tuple[type[Component], ...] = (TinyLoader, PlainTask, Loud, Halved, Average)


def misbehaving(cls: type[Component], **overrides: Any) -> type[Component]:
    """The component with other methods or class attributes."""
    return type(cls.__name__, (cls,), {"__doc__": cls.__doc__, "__module__": __name__, **overrides})


def package(*classes: type[Component], hooks: dict[str, Any] | None = None) -> SimpleNamespace:
    """A plugin module with the good components, of which these take the places."""
    taken = {(cls.kind, cls.name): cls for cls in (*GOOD, *classes)}
    members: dict[str, Any] = {}
    for kind, hook in hookspecs.HOOKS.items():
        found = [cls for (of, _), cls in taken.items() if of == kind]
        members[hook] = hookimpl(lambda found=found: found)
    return SimpleNamespace(**{**members, **(hooks or {})})


def make(output: Path, *classes: type[Component], **fields: Any) -> Path:
    """A run of the good components, of which ``classes`` take the places; returns its folder."""
    known = Catalogue()
    known.components = {kind: dict(found) for kind, found in catalogue().components.items()}
    known.origins = dict(catalogue().origins)
    known.add(package(*classes), ORIGIN)
    spec = {"model": "tiny", "task": "plain", "selector": "loud", "intervention": "halved", "controls": 3}
    spec |= {"hold_out": 0, **fields}  # all prompts are evaluated
    planned = run.plan(RunSpec(name="small", resamples=100, batch_size=2, **spec), known)
    return run.execute(planned, output, Silent(), "a test").path


KEPT = " What the model was run for is kept: the same command goes on from there."


def refusal(folder: Path, cls: type[Component], **fields: Any) -> str:
    """The sentence with which a run ends; nothing is left but what the model was run for, and that is said."""
    with pytest.raises(PluginError) as caught:
        make(folder, cls, **fields)
    left = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    parts = [path for path in left if path.name.startswith("part-")]
    said, kept, _ = str(caught.value).partition(KEPT)
    assert bool(parts) == bool(kept) and (parts or not left), left
    return said


# -- what is handed over -----------------------------------------------------------------------------------------------


def selecting(change: Callable[[Selection], Any]) -> type[Component]:
    return misbehaving(Loud, select=lambda self, context: change(Loud.select(self, context)))


def observing(change: Callable[[Outcomes], Any]) -> type[Component]:
    return misbehaving(PlainTask, observe=lambda self, *a: change(PlainTask.observe(self, *a)))
