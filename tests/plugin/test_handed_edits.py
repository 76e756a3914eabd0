"""Edits that are not what the run asked for, or not pure, are refused in one sentence that names the intervention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strangers import Halved, Loud, make, misbehaving

from harness.conditions.conditions import Selection, SetNeurons
from harness.conditions.units import Neuron
from harness.errors import HarnessError, PluginError
from harness.plugin.base import Component


def editing(edits: Callable[[Any], Any], **rest: Any) -> type[Component]:
    return misbehaving(Halved, edits=lambda self, units, statistics: edits(units), **rest)


def anew(x: torch.Tensor) -> torch.Tensor:
    return x + torch.randn_like(x)


def silent(units: Any, value: float = 0.0) -> SetNeurons:
    return SetNeurons(2, tuple(x.index for x in units), (value,) * len(units))


EDITS: list[tuple[type[Component], str]] = [
    (editing(lambda n: None), "edits() returned None, expected a tuple of edits"),
    (editing(lambda n: [silent(n)]), "edits() returned a list"),
    (editing(lambda n: (x for x in [silent(n)])), "edits() returned a generator"),
    (editing(lambda n: silent(n)), "edits() returned a SetNeurons"),
    (editing(lambda n: ("zero",)), "gave 'zero' among the edits"),
    (editing(lambda n: ()), "edits() left out 2.0, of 2 neurons that it was to edit"),
    (editing(lambda n: (silent(n[:1]),)), "edits() left out 2.1"),
    (editing(lambda n: (silent([*n, Neuron(2, 40)]),)), "edits() edited 2.40, too"),
    (editing(lambda n: (silent(n), silent(n))), "edits() edited one of them twice"),
    (editing(lambda n: (SetNeurons(2, (-2, -1), (0.0, 0.0)),)), "edits() left out 2.0"),
    (editing(lambda n: (silent(n),), site="heads"), "heads"),
    (editing(lambda n: (silent(n, float("nan")),)), "makes ordinary activations NaN or infinite"),
    (editing(lambda n: (silent(n, float("inf")),)), "makes ordinary activations NaN or infinite"),
    (editing(lambda n: (silent(n, float(np.random.rand())),)), "edits() draws something anew each time"),
    (misbehaving(Halved, change=staticmethod(anew)), "gives something else when it is applied again"),
    (misbehaving(Halved, change=staticmethod(lambda x: x[..., :1])), "returned (2, 3, 1) torch.float32 for (2, 3, 2)"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.mean())), "returned () torch.float32 for"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.double())), "returned (2, 3, 2) torch.float64 for"),
    (misbehaving(Halved, change=staticmethod(lambda x: x > 0)), "returned (2, 3, 2) torch.bool for"),
    (misbehaving(Halved, change=staticmethod(lambda x: 0.0)), "returned 0.0, expected a tensor"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.numpy())), "returned a ndarray, expected a tensor"),
    (misbehaving(Halved, change=staticmethod(lambda x: x.mul_(2))), "writes into its argument"),
    (misbehaving(Halved, change=staticmethod(lambda x: x / 0)), "makes ordinary activations NaN or infinite"),
    (misbehaving(Halved, prepare=lambda self, selection: None), "prepare() returned None, expected harness.plugin"),
    (misbehaving(Halved, freeze=lambda self, model: "final_norm"), "freeze() returned 'final_norm', expected harness"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "says"), EDITS)
def test_edits_that_do_not_fit(cls: type[Component], says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, cls)
    assert says in str(caught.value), str(caught.value)
    if cls.site == "neurons":  # type: ignore[attr-defined]
        assert str(caught.value).startswith("intervention halved of harness-evil 9.9: ")
    assert not list(tmp_path.glob("small-*/*"))


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("engine", ["auto", "hooks"])
@pytest.mark.parametrize("late", [1, 3])
def test_edits_are_applied_twice_in_every_engine(layer: int, engine: str, late: int, tmp_path: Path) -> None:
    """One that is pure when it is tried and goes astray in the run is found there, in closed form and in hooks."""
    calls = 0

    def change(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += x.shape[:2] != (2, 3)  # the trial
        return x + (torch.randn_like(x) if calls >= late else 0)

    def select(self: Any, context: Any) -> Selection:
        return Selection((Neuron(layer, 0), Neuron(layer, 1)), "two")

    from strangers import Changed

    from harness.conditions.units import by_layer

    def edits(self: Any, units: Any, statistics: Any) -> Any:
        return tuple(Changed(at, tuple(i), change) for at, i in by_layer(units).items())

    with pytest.raises(PluginError, match=r"intervention halved of harness-evil 9\.9: .* gives something else when"):
        make(tmp_path, misbehaving(Loud, select=select), misbehaving(Halved, edits=edits), engine=engine)
