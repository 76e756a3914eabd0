"""The residual stream as a place of edits: all engines do what one hooked pass does, in every family."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from engines import same_generations, same_scores, some_prompts
from families import FAMILIES, SHAPES, tiny

from harness.conditions.conditions import BASELINE, Condition, Frozen, Selection, SetNeurons
from harness.conditions.positions import Positions
from harness.conditions.residual_edits import AddVector, ProjectOut, orthonormal
from harness.conditions.units import Direction, check_units
from harness.controls.random import draw_controls
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.model import Model


def vectors(model: Model, n: int, seed: int = 0) -> np.ndarray:
    """Random vectors about as long as residuals are [n, d_model]."""
    return np.random.default_rng(seed).normal(size=(n, model.anatomy.d_model))


def rows(found: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, found.tolist()))


def edited(model: Model) -> list[Condition]:
    """Conditions that edit the residual stream of first, middle and last layers, alone and with other edits."""
    last = model.anatomy.n_layers - 1
    a, b, c = rows(vectors(model, 3))
    basis = rows(orthonormal(np.array([b, c])))
    return [
        Condition("add early", (AddVector(0, (0,), a),)),
        BASELINE,
        Condition("add late, from the third token", (AddVector(last, (0,), b),), Positions("2:+generated")),
        Condition("project out everywhere", tuple(ProjectOut(layer, (), basis) for layer in range(last + 1))),
        Condition("with neurons", (SetNeurons(0, (1, 3), (2.0, -3.0)), ProjectOut(last - 1, (0,), basis))),
    ]


@pytest.mark.parametrize("family", SHAPES)
def test_both_engines_equal_one_hooked_pass_for_each_condition(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(1, n=5), edited(model)
    fast, hooks = ClosedFormEngine(model, 3), HookEngine(model, 3)
    assert fast.path(conditions) == "batched"
    same_scores(fast.score(prompts, conditions), hooks.score(prompts, conditions))
    choices = [[3, 4]] * len(prompts)
    made = [engine.generate(prompts, conditions, 4, choices=choices) for engine in (fast, hooks)]
    same_generations(*made)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_what_is_captured_is_what_the_next_layer_reads_and_what_edits_leave(family: str) -> None:
    model = tiny(family)
    batch, layers = model.pad(some_prompts(2, n=3)), range(model.anatomy.n_layers)
    v = vectors(model, 1)[0]
    unit = torch.tensor(v / np.linalg.norm(v), dtype=torch.float32)
    with torch.no_grad(), model.capture_residual() as final, model.capture_residuals(layers) as plain:
        model.forward(batch)
    torch.testing.assert_close(plain[layers[-1]], final.residual)
    edits = (AddVector(0, (0,), tuple(v.tolist())), ProjectOut(layers[-1], (0,), (tuple(unit.tolist()),)))
    with torch.no_grad(), under(model, Condition("c", edits)), model.capture_residuals(layers) as seen:
        model.forward(batch)
    torch.testing.assert_close(seen[0], plain[0] + torch.tensor(v, dtype=torch.float32))
    assert (plain[layers[-1]] @ unit).abs().max() > 0.01
    torch.testing.assert_close(seen[layers[-1]] @ unit, torch.zeros(batch.input_ids.shape), atol=1e-5, rtol=0)


def test_a_cache_that_was_filled_under_the_edit_gives_what_a_whole_pass_gives() -> None:
    """Generation with a cache: every new token's residual is edited, too."""
    model = tiny("gpt2")
    condition = edited(model)[0]
    prompt = some_prompts(3, n=1)
    made = HookEngine(model).generate(prompt, [condition], 5).tokens[0, 0].tolist()
    tokens = list(prompt[0])
    for token in made:
        with torch.no_grad(), under(model, condition):
            logits = model.forward(model.pad([tokens])).logits
        assert int(logits[0, -1].argmax()) == token
        tokens.append(token)


def test_edits_that_mean_nothing_are_refused() -> None:
    model = tiny("gpt2")
    prompts = some_prompts(1, n=1)
    short = Condition("short", (AddVector(0, (0,), (1.0, 2.0)),))
    with pytest.raises(
        HarnessError, match="direction of layer 0 has 2 numbers, but the model's residual stream has 32"
    ):
        HookEngine(model).score(prompts, [short])
    beyond = Condition("beyond", (AddVector(9, (0,), rows(vectors(model, 1))[0]),))
    with pytest.raises(HarnessError, match="layers 0 to 2, there is no layer 9"):
        ClosedFormEngine(model).score(prompts, [beyond])
    late = AddVector(2, (0,), rows(vectors(model, 1))[0])
    with pytest.raises(HarnessError, match="freezes the final norm and edits directions of layer 2"):
        HookEngine(model).score(prompts, [Condition("frozen", (late,), frozen=Frozen("final_norm"))])


def test_a_basis_of_dependent_vectors_spans_no_more_than_they_do() -> None:
    given = np.array([[2.0, 0, 0, 0], [0, 3, 0, 0], [2, 3, 0, 0]])
    basis = orthonormal(given)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(given @ basis.T @ basis, given, atol=1e-12)


def test_directions_are_units() -> None:
    assert str(Direction(5, 0)) == "D5.0" and Direction.parse(" D5.0 ") == Direction(5, 0)
    with pytest.raises(HarnessError, match='"L5H0" is not a direction'):
        Direction.parse("L5H0")
    with pytest.raises(HarnessError, match=r"it names direction D3\.0, but the model has layers 0 to 2"):
        check_units([Direction(3, 0)], tiny("gpt2"), "it")
    check_units([Direction(2, 999)], tiny("gpt2"), "it")


def controls(pool: Sequence[Direction], n: int | None = None, match: str = "none") -> list[str]:
    model = tiny("gpt2")
    selection = Selection((Direction(1, 0),), "r", pool=tuple(pool))
    drawn = draw_controls(model, selection, n, 10, match, [], 4, 0)
    return [str(unit) for units in drawn.sets for unit in units]


def test_controls_are_other_directions_of_the_pool() -> None:
    pool = [Direction(1, i) for i in range(1, 31)]
    drawn = controls(pool)
    assert len(set(drawn)) == len(drawn) == 10 and "D1.0" not in drawn and set(drawn) <= set(map(str, pool))
    with pytest.raises(HarnessError, match="only 30 distinct sets exist"):
        controls(pool, 31)
    with pytest.raises(HarnessError, match="match=norm is not for directions"):
        controls(pool, 5, "norm")
