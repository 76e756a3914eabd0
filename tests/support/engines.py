"""Prompts and conditions for engines to agree on, and what it means that they agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from harness.conditions.conditions import BASELINE, Condition, Edit, Frozen, SetNeurons
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.conditions.positions import Positions
from harness.engine.generations import Generations
from harness.engine.scores import Scores
from harness.model.model import Model


def some_prompts(seed: int, n: int = 6, longest: int = 9) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 250, size=rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def some_conditions(
    model: Model, seed: int, n: int = 7, size: float = 3.0, layer: int | None = None
) -> list[Condition]:
    """The baseline and n conditions that set 1 to 5 neurons of a layer (default: the last) to random constants."""
    rng = np.random.default_rng(seed)
    layer = dense_layers(model)[-1] if layer is None else layer
    conditions = [BASELINE]
    for i in range(n):
        indices = rng.choice(model.anatomy.d_mlps[layer], size=rng.integers(1, 6), replace=False)
        values = rng.normal(scale=size, size=len(indices))
        edit = SetNeurons(layer, tuple(map(int, indices)), tuple(map(float, values)))
        conditions.append(Condition(f"c{i}", (edit,)))
    return conditions


def dense_layers(model: Model) -> list[int]:
    """The layers that have dense neurons."""
    return [layer for layer, width in enumerate(model.anatomy.d_mlps) if width]


class Scale:
    """An edit that depends on the activations."""

    def __init__(self, layer: int, indices: tuple[int, ...], factor: float) -> None:
        self.layer, self.indices, self.factor = layer, indices, factor

    def apply(self, activations: torch.Tensor) -> torch.Tensor:
        return activations * self.factor


def some_edit(model: Model, rng: np.random.Generator, layer: int) -> Edit:
    """A random edit of one to three neurons or heads of the layer."""
    anatomy, n = model.anatomy, int(rng.integers(1, 4))
    width = anatomy.d_mlps[layer] or anatomy.d_mlp  # of a layer without dense neurons, heads are edited
    neurons = tuple(map(int, rng.choice(width, n, replace=False)))
    heads = tuple(map(int, rng.choice(anatomy.n_heads, n, replace=False)))
    match rng.integers(4) if anatomy.d_mlps[layer] else 2 + rng.integers(2):
        case 0:
            return SetNeurons(layer, neurons, tuple(rng.normal(scale=3, size=n).tolist()))
        case 1:
            return Scale(layer, neurons, float(rng.normal(scale=3)))
        case 2:
            return AttendFirst(layer, heads)
        case _:
            return SetHeads(layer, heads, tuple(map(tuple, rng.normal(size=(n, anatomy.d_head)).tolist())))


def some_mixtures(model: Model, seed: int, n: int = 6) -> list[Condition]:
    """Conditions of one to three edits of any layers and sites, the untouched model among them."""
    rng = np.random.default_rng(seed)

    def edits() -> tuple[Edit, ...]:
        layers = rng.integers(0, model.anatomy.n_layers, rng.integers(1, 4)).tolist()
        return tuple(some_edit(model, rng, layer) for layer in layers)

    conditions = [Condition(f"c{i}", edits()) for i in range(n)]
    return [*conditions[:2], BASELINE, *conditions[2:]]


def same_generations(a: Generations, b: Generations) -> None:
    np.testing.assert_array_equal(a.tokens, b.tokens)
    np.testing.assert_allclose(a.entropy, b.entropy, atol=2e-5)
    np.testing.assert_allclose(a.choices, b.choices, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(a.top, b.top, atol=1e-4, rtol=1e-5)


def same_scores(a: Scores, b: Scores) -> None:
    np.testing.assert_array_equal(a.prompt, b.prompt)
    np.testing.assert_array_equal(a.position, b.position)
    np.testing.assert_allclose(a.loss, b.loss, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(a.entropy, b.entropy, atol=2e-5)
    np.testing.assert_allclose(a.top, b.top, atol=1e-4, rtol=1e-5)
    # A rank may differ where two tokens are as likely to float32 precision.
    assert (a.rank != b.rank).mean() < 0.01


def counts(model: Model, seed: int = 0) -> np.ndarray:
    """Frequencies along what residuals can say, so that freezing them is felt."""
    rng = np.random.default_rng(seed)
    said = (model.readout.W_U.float() @ torch.from_numpy(rng.normal(size=model.anatomy.d_model)).float()).numpy()
    return np.exp(2 * said / said.std() + rng.normal(size=len(said))).astype(float)


def late_mixture(model: Model, seed: int) -> list[Condition]:
    """Edits of any layers and sites that start at different tokens, and two that freeze something as well."""
    conditions = [
        replace(c, positions=Positions(f"{(2 * i) % 5}:+generated")) for i, c in enumerate(some_mixtures(model, seed))
    ]
    last = model.anatomy.n_layers - 1
    kinds = (Frozen("final_norm"), Frozen("unigram", counts(model)))
    edits = (SetNeurons(last, (1, 4), (3.0, -5.0)),)
    return [*conditions, *(Condition(f"late {k.what}", edits, Positions("3:+generated"), frozen=k) for k in kinds)]
