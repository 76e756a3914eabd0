"""Many conditions in one pass: every condition's numbers are those of the hook loop, and early layers are run once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from engines import same_generations, same_scores, some_mixtures, some_prompts
from families import FAMILIES, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.engine import batched
from harness.engine import prefix as sharing
from harness.engine.batched import BatchedEngine, under_all
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.model import Model

STOP = frozenset(range(0, 300, 9))


def same(
    model: Model, prompts: Sequence[Sequence[int]], conditions: Sequence[Condition], batch_size: int, new: int = 5
) -> None:
    """Both verbs, by both engines; ``new`` tokens are generated."""
    fast, hooks = BatchedEngine(model, batch_size), HookEngine(model, batch_size)
    same_scores(fast.score(prompts, conditions), hooks.score(prompts, conditions))
    choices = [[3, 4]] * len(prompts)
    made = [engine.generate(prompts, conditions, new, STOP, choices) for engine in (fast, hooks)]
    same_generations(*made)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_equals_hooks_and_shares_its_early_layers(family: str) -> None:
    model = tiny(family)
    last = model.anatomy.n_layers - 1
    late = [
        Condition("neurons", (SetNeurons(last, (3, 5), (2.0, -3.0)),)),
        Condition("heads", (AttendFirst(last, (0, 3)), SetNeurons(last, (1,), (4.0,)))),
    ]
    same(model, some_prompts(1, n=3), [*some_mixtures(model, 2, n=2), *late], 2, new=3)
    for layer in range(1, model.anatomy.n_layers):
        assert sharing.can_resume(model, layer, cache=False) and sharing.can_resume(model, layer, cache=True)
    assert sharing.can_resume_after(model, range(model.anatomy.n_layers))


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["gpt2", "llama_gqa_tied", "gpt_neox", "opt", "falcon_new", "gemma2", "gpt_neo", "bloom"]),
    st.integers(0, 10_000),
    st.integers(1, 5),
)
def test_any_model_any_mixture_any_padding(family: str, seed: int, batch: int) -> None:
    model = tiny(family)
    same(model, some_prompts(seed, n=4), some_mixtures(model, seed), batch)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gpt_neo"])
def test_windows_shorter_than_the_prompts(family: str) -> None:
    """The first token is out of sight of later ones, and out of the cache."""
    options = FAMILIES[family].options
    name = "window_size" if "window_size" in options else "sliding_window"
    before = options.get(name)
    options[name] = 4
    try:
        model = tiny(family)
    finally:
        options.pop(name) if before is None else options.update({name: before})
    assert getattr(model.hf.config, name) == 4
    same(model, some_prompts(3, longest=12), some_mixtures(model, 4), 4)


def test_the_parts_of_a_pass_may_hold_different_prompts() -> None:
    model = tiny("gpt2")
    batch = model.pad([[5, 6, 7, 8], [9, 10], [11], [12, 13, 14]])
    conditions = [Condition(f"c{i}", (AttendFirst(1, (0, i)), SetNeurons(0, (i,), (3.0,)))) for i in (1, 2)]
    with under_all(model, conditions):
        found = model.forward(batch).logits
    for part, condition in enumerate(conditions):
        with under(model, condition):
            wanted = model.forward(batch).logits
        rows = slice(2 * part, 2 * part + 2)
        torch.testing.assert_close(found[rows], wanted[rows])


@contextlib.contextmanager
def counted(model: Model) -> Iterator[np.ndarray]:
    """Within the block, how many rows each MLP's down projection has seen [n_layers]."""
    rows = np.zeros(model.anatomy.n_layers, int)

    def count(layer: int) -> Any:
        def hook(module: Any, args: Any) -> None:
            rows[layer] += len(args[0])

        return hook

    hooks = [
        projection.register_forward_pre_hook(count(layer))
        for layer, projection in enumerate(model.anatomy.down_projections)
    ]
    yield rows
    for hook in hooks:
        hook.remove()


def test_layers_before_the_earliest_edit_are_run_once() -> None:
    model = tiny("llama_gqa_tied")  # 3 layers
    prompts = some_prompts(1, n=5)
    at = {
        layer: [Condition(f"{layer} {i}", (SetNeurons(layer, (i,), (1.0,)), AttendFirst(2, (0,)))) for i in range(7)]
        for layer in (0, 1, 2)
    }
    engine = BatchedEngine(model, batch_size=5)
    engine.score(prompts, [*at[1], *at[2]])  # finds out whether it may share
    for conditions, wanted in (
        ([*at[2]], [5, 5, 5 + 35]),
        ([*at[1]], [5, 5 + 35, 5 + 35]),
        ([*at[1], *at[2], BASELINE], [5, 5 + 35, 5 + 70]),
        ([*at[0]], [35, 35, 35]),
        ([BASELINE], [5, 5, 5]),
    ):
        with counted(model) as rows:
            engine.score(prompts, conditions)
        assert rows.tolist() == wanted
    engine.generate(prompts, at[2], 2)  # ..., also the cache
    for new, wanted in ((1, [5, 5, 5 + 35]), (3, [5 + 70, 5 + 70, 5 + 35 + 70])):  # new tokens are not shared
        with counted(model) as rows:
            engine.generate(prompts, at[2], new)
        assert rows.tolist() == wanted


def test_hooks_and_forward_methods_are_gone_afterwards() -> None:
    model = tiny("gpt2")
    conditions, prompts = [Condition("c", (AttendFirst(2, (0,)),))], some_prompts(0)
    engine = BatchedEngine(model)
    engine.score(prompts, conditions)
    engine.generate(prompts, conditions, 2)
    bad = [Condition("bad", (SetHeads(2, (0,), ((1.0,),)),))]
    with pytest.raises(HarnessError, match="have shape"):
        engine.score(prompts, bad)
    for module in model.hf.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks and "forward" not in module.__dict__


def test_models_that_cannot_share_are_tiled_all_the_same() -> None:
    """A later layer that reads an earlier one past the residual stream."""
    model, seen = tiny("gpt2"), list[torch.Tensor]()
    first, last = model.anatomy.layers[0], model.anatomy.layers[2]
    hook = first.register_forward_hook(lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    plain = last.forward
    # Not the same for all features: a norm would take that away.
    last.forward = lambda hidden, *args, **kwargs: plain(hidden + seen[-1].flip(-1), *args, **kwargs)
    assert not sharing.can_resume(model, 2, cache=False) and not sharing.can_resume(model, 2, cache=True)
    assert not sharing.can_resume_after(model, [2])
    prompts, conditions = some_prompts(1, n=5), [Condition("c", (SetNeurons(2, (1,), (3.0,)),))] * 3
    engine = BatchedEngine(model, 8)
    engine.score(prompts, conditions)  # finds out whether it may share
    with counted(model) as rows:
        engine.score(prompts, conditions)
    assert rows.tolist() == [15, 15, 15]
    del last.forward
    hook.remove()
    assert sharing.can_resume(model, 2, cache=True)
    same(model, prompts, conditions, 3)


@pytest.mark.parametrize("family", ["gpt2", "mpt"])
def test_passes_that_do_not_fit_in_memory_are_run_in_parts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    monkeypatch.setattr(batched, "LOGIT_BYTES", 4 * 6 * 9 * model.anatomy.d_vocab * 2)
    same(model, some_prompts(5), some_mixtures(model, 6, n=9), 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = tiny("llama_gqa_tied", dtype=dtype)
    prompts, conditions = some_prompts(1), some_mixtures(model, 2)
    fast, hooks = (engine(model, 4).score(prompts, conditions) for engine in (BatchedEngine, HookEngine))
    assert abs(fast.loss - hooks.loss).max() < (0.1 if dtype == torch.bfloat16 else 0.02) * abs(hooks.loss).max()


def test_the_closed_form_engine_hands_over() -> None:
    model = tiny("llama")
    prompts, conditions = some_prompts(1), some_mixtures(model, 3)
    engine = ClosedFormEngine(model, 4)
    assert engine.path(conditions) == BatchedEngine(model).path(conditions) == "batched"
    same_scores(engine.score(prompts, conditions), HookEngine(model, 4).score(prompts, conditions))
    same_generations(engine.generate(prompts, conditions, 3), HookEngine(model, 4).generate(prompts, conditions, 3))


def test_no_prompts_no_conditions_and_prompts_of_one_token() -> None:
    model = tiny("gpt2")
    engine, conditions = BatchedEngine(model), some_mixtures(model, 1, n=2)
    assert engine.score([], conditions).loss.shape == (3, 0)
    assert engine.score([[1, 2]], []).loss.shape == (0, 1)
    assert engine.score([[1], [2]], conditions).loss.shape == (3, 0)
    assert engine.generate([[1], [2]], conditions, 2).tokens.shape == (3, 2, 2)


def test_logits_that_are_not_finite_are_refused_by_the_name_of_their_condition() -> None:
    model = tiny("gpt2")
    good = Condition("good", (SetNeurons(1, (0,), (1.0,)),))
    bad = Condition("bad", (SetNeurons(1, (0,), (float("nan"),)),))
    for verb in (lambda e: e.score([[1, 2]], [good, bad, good]), lambda e: e.generate([[1, 2]], [good, bad], 2)):
        with pytest.raises(HarnessError, match='not finite under condition "bad"'):
            verb(BatchedEngine(model))


def test_progress_counts_every_prompt_under_every_condition() -> None:
    model = tiny("gpt2")
    prompts, conditions, steps = some_prompts(0, n=5), some_mixtures(model, 0), list[int]()
    engine = BatchedEngine(model, 2)
    engine.generate(prompts, conditions, 2, progress=steps.append)
    engine.score(prompts, conditions, progress=steps.append)
    assert sum(steps) == 2 * len(prompts) * len(conditions)
