"""Conditions that freeze something or start late: every engine against passes of one prompt, written out plainly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engines import (
    Scale,
    counts,
    late_mixture,
    same_generations,
    same_scores,
    some_conditions,
    some_prompts,
)
from families import tiny
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Frozen, SetNeurons, site_of
from harness.conditions.frozen import keep_component, unigram_direction
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.conditions.positions import Positions
from harness.conditions.units import HEADS
from harness.effects.sweep import Kind, effects
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.generations import Generations
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.model import Model

ENGINES = [ClosedFormEngine, BatchedEngine, HookEngine]
FAMILIES = ["gpt2", "llama", "llama_gqa_tied", "gpt_neox", "opt", "gemma2", "olmo2", "granite", "cohere"]
"""LayerNorm and RMSNorm, biases, a norm after the MLP, a soft cap, scales of the residual and of the logits."""

STOP = frozenset(range(0, 300, 9))


def frozen_mixture(model: Model, seed: int, n: int = 3, size: float = 3.0) -> list[Condition]:
    """The same edits plainly, with the final norm frozen, and with the component along two distributions frozen."""
    plain = some_conditions(model, seed, n, size)
    kinds = [None, Frozen("final_norm"), *(Frozen("unigram", counts(model, i)) for i in range(2))]
    return [
        replace(condition, name=f"{condition.name} {i}", frozen=frozen)
        for condition in plain
        for i, frozen in enumerate(kinds)
    ]


def same_but_for_ties(
    model: Model, conditions: Sequence[Condition], prompts: Sequence[Sequence[int]], a: Generations, b: Generations
) -> None:
    """The same generations; where one goes another way, two tokens were as likely as float32 can tell (a soft cap that
    large logits saturate leaves many such), and nothing after that is compared."""
    tied = (a.tokens != b.tokens).any(axis=-1)
    for c, p in np.argwhere(tied):
        step = int(np.argmax(a.tokens[c, p] != b.tokens[c, p]))
        logits = plain_logits(model, conditions[c], [*prompts[p], *map(int, a.tokens[c, p, :step])])[-1]
        one, other = (float(logits[int(x.tokens[c, p, step])]) for x in (a, b))
        assert abs(one - other) <= 1e-6 * max(1.0, abs(one)), (c, p, step)
    for name, most in (("tokens", 0.0), ("entropy", 2e-5), ("choices", 1e-4)):
        x, y = (getattr(found, name)[~tied] for found in (a, b))
        np.testing.assert_allclose(x, y, atol=most, rtol=0 if name != "choices" else 1e-5, err_msg=name)


def plain_logits(model: Model, condition: Condition, tokens: Sequence[int]) -> torch.Tensor:
    """Logits [pos, d_vocab] of one sequence, float64: no batch, no padding, no cache; the definitions, word by word."""
    ids = torch.tensor([list(tokens)])
    with torch.no_grad():
        with model.capture_residual() as before:
            l0 = model.hf(ids).logits[0].double()
        with under(model, replace(condition, frozen=None)), model.capture_residual() as after:
            logits = model.hf(ids).logits[0].double()
    if condition.frozen is None:
        return logits
    if condition.frozen.what == "final_norm":
        readout = model.readout
        x0, x = (seen.residual[0].double() for seen in (before, after))
        if readout.norm == "layernorm":
            x0, x = x0 - x0.mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
        x = x / (x0.square().mean(-1, keepdim=True) + readout.eps).sqrt() * readout.gain.double()
        x = x if readout.bias is None else x + readout.bias.double()
        logits = x @ readout.W_U.double().T * readout.scale
        assert readout.b_U is None
        return logits if readout.cap is None else readout.cap * torch.tanh(logits / readout.cap)
    assert condition.frozen.counts is not None
    log_p = np.log(condition.frozen.counts / condition.frozen.counts.sum())
    v = torch.from_numpy(log_p - log_p.mean())
    return logits + ((l0 - logits) @ v)[:, None] * v / v.square().sum()


def check_scores(model: Model, engine: Any, prompts: list[list[int]], conditions: list[Condition]) -> None:
    scores = engine.score(prompts, conditions)
    for c, condition in enumerate(conditions):
        column = 0
        for prompt in prompts:
            n = len(prompt) - 1
            logits = plain_logits(model, condition, prompt)[:-1]
            log_probs, here = logits.log_softmax(-1), slice(column, column + n)
            size = float(logits.abs().max()) if n else 0.0
            right = log_probs.gather(-1, torch.tensor(prompt[1:], dtype=torch.long)[:, None])[:, 0]
            for found, wanted in (
                (scores.loss, -right),
                (scores.entropy, -(log_probs.exp() * log_probs).sum(-1)),
                (scores.top, log_probs.amax(-1)),
            ):
                np.testing.assert_allclose(found[c, here], wanted, atol=2e-5 * size + 2e-5, err_msg=condition.name)
            column += n


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_follow_the_definitions_in_every_engine(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(1, n=4), frozen_mixture(model, 2, n=2)
    assert ClosedFormEngine(model).path(conditions) == "closed_form"
    check_scores(model, HookEngine(model, 3), prompts, conditions)
    wanted = HookEngine(model, 3).score(prompts, conditions)
    for engine in (ClosedFormEngine(model, 3), BatchedEngine(model, 3)):
        same_scores(engine.score(prompts, conditions), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_engines_generate_alike(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(3, n=5), frozen_mixture(model, 4, n=3, size=6.0)
    choices = [[3, 4]] * len(prompts)
    fast, batched, hooks = (engine(model, 4).generate(prompts, conditions, 5, STOP, choices) for engine in ENGINES)
    same_generations(fast, hooks)
    same_generations(batched, hooks)
    untouched, *edited = hooks.entropy.reshape(-1, 4, len(prompts))  # of plain, and of three frozen kinds
    change = abs(np.array(edited)[:, :1] - untouched[:1]).max()
    assert (abs(np.array(edited)[:, 1:] - np.array(edited)[:, :1]).max((0, 2)) > 0.02 * change).all()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere"])
def test_generation_freezes_on_the_tokens_that_the_condition_has_chosen(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(5, n=3), frozen_mixture(model, 6, n=1, size=8.0)
    made = HookEngine(model, 2).generate(prompts, conditions, 4, choices=[[7]] * 3)
    for c, condition in enumerate(conditions):
        for i, prompt in enumerate(prompts):
            tokens = list(prompt)
            for step in range(4):
                log_probs = plain_logits(model, condition, tokens)[-1].log_softmax(-1)
                if step == 0:
                    assert made.choices[c, i, 0] == pytest.approx(float(log_probs[7]), abs=1e-4)
                token = int(made.tokens[c, i, step])
                assert float(log_probs.max() - log_probs[token]) < 1e-5
                tokens.append(token)


@settings(max_examples=8)
@given(
    st.sampled_from(FAMILIES), st.integers(0, 10_000), st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e3]), st.integers(1, 4)
)
@example(family="gemma2", seed=445, size=30.0, batch=1)  # logits at the soft cap, 2e-7 apart
def test_any_model_any_edit_any_padding(family: str, seed: int, size: float, batch: int) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(seed, n=3), frozen_mixture(model, seed, n=2, size=size)
    fast, hooks = ClosedFormEngine(model, batch), HookEngine(model, batch)
    same_but_for_ties(
        model, conditions, prompts, fast.generate(prompts, conditions, 3), hooks.generate(prompts, conditions, 3)
    )
    largest = max(float(plain_logits(model, c, p).abs().max()) for c in conditions for p in prompts)
    a, b = fast.score(prompts, conditions), hooks.score(prompts, conditions)
    for name in ("loss", "entropy", "top"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-5 * largest + 2e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2", "granite"])
def test_differences_of_losses_are_the_direct_effects_of_sweeps(family: str) -> None:
    model = tiny(family)
    prompts, plain = some_prompts(1), some_conditions(model, 2)[1:]
    kinds: dict[Kind, Frozen | None] = {
        "total": None, "frozen_norm": Frozen("final_norm"), "frozen_unigram": Frozen("unigram", counts(model)),
    }  # fmt: skip
    found = effects(model, prompts, plain, tuple(kinds), unigram=counts(model), ranks=True)
    assert found.top is not None
    for engine in ENGINES:
        for kind, frozen in kinds.items():
            scores = engine(model, 4).score(prompts, [BASELINE, *(replace(c, frozen=frozen) for c in plain)])
            np.testing.assert_allclose(scores.loss[1:] - scores.loss[0], found.loss_change[kind], atol=1e-4)
            np.testing.assert_allclose(scores.entropy[1:] - scores.entropy[0], found.entropy_change[kind], atol=5e-5)
            np.testing.assert_allclose(scores.top[1:], found.top[kind][:-1], atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_freezing_without_a_change_changes_nothing(family: str, engine: type[HookEngine]) -> None:
    model = tiny(family)
    last = model.anatomy.n_layers - 1
    nothing = [(), (Scale(last, (3, 5), 1.0),)]
    kinds = (Frozen("final_norm"), Frozen("unigram", counts(model)))
    conditions = [BASELINE, *(Condition(k.what, edits, frozen=k) for edits in nothing for k in kinds)]
    scores = engine(model, 4).score(some_prompts(1), conditions)
    for row in range(1, len(conditions)):
        np.testing.assert_allclose(scores.loss[row], scores.loss[0], atol=2e-6)


def test_what_is_frozen_is_where_it_was() -> None:
    """The component along v is the untouched model's, and a write into the null space has no direct effect."""
    model = tiny("llama")
    last = model.anatomy.n_layers - 1
    with torch.no_grad():
        model.hf.lm_head.weight[:, -4:] = 0
        model.anatomy.down_projections[last].weight[:-4, 7] = 0
        model.anatomy.down_projections[last].weight[-4:, 7] = 5.0
    null = Condition("null", (SetNeurons(last, (7,), (3.0,)),))
    scores = ClosedFormEngine(model).score(
        some_prompts(2), [BASELINE, null, replace(null, frozen=Frozen("final_norm"))]
    )
    assert abs(scores.loss[1] - scores.loss[0]).max() > 1e-2
    np.testing.assert_allclose(scores.loss[2], scores.loss[0], atol=1e-6)
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randn(2, 3, model.anatomy.d_vocab, generator=generator) for _ in range(2))
    v = torch.from_numpy(unigram_direction(counts(model), model.anatomy.d_vocab, "test"))
    kept = keep_component(mine, theirs, v).double()
    torch.testing.assert_close(kept @ v, theirs.double() @ v, rtol=1e-5, atol=1e-4)
    rest = torch.randn(len(v), dtype=torch.float64, generator=generator)
    rest -= (rest @ v) / (v @ v) * v  # what is orthogonal to v follows the edit
    torch.testing.assert_close(kept @ rest, mine.double() @ rest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_half_precision_is_no_further_from_the_truth_than_hooks(family: str, dtype: torch.dtype) -> None:
    half, full = tiny(family, dtype=dtype), tiny(family)
    prompts, conditions = some_prompts(1), frozen_mixture(half, 2, n=3)
    truth = HookEngine(full).score(prompts, conditions)
    fast, hooks = (engine(half).score(prompts, conditions) for engine in (ClosedFormEngine, HookEngine))
    errors = [float(np.sqrt(np.mean((found.loss - truth.loss) ** 2))) for found in (fast, hooks)]
    assert errors[0] <= 1.1 * errors[1]
    assert abs(fast.loss - hooks.loss).max() < (0.3 if dtype == torch.bfloat16 else 0.05) * abs(truth.loss).max()


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_frozen_conditions_with_columns_made_a_stretch_at_a_time(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(9), frozen_mixture(model, 9, n=4)
    whole = ClosedFormEngine(model).generate(prompts, conditions, 4, choices=[[3]] * len(prompts))
    monkeypatch.setattr("harness.engine.columns.COLUMN_BYTES", 4 * 16 * 40)
    monkeypatch.setattr("harness.engine.columns.GRAIN", 16)
    same_generations(whole, ClosedFormEngine(model).generate(prompts, conditions, 4, choices=[[3]] * len(prompts)))


def test_without_the_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other devices than the CPU."""
    model = tiny("olmo2")
    prompts, conditions = some_prompts(2, n=4), frozen_mixture(model, 3, n=3)
    fast = ClosedFormEngine(model, 3)
    scores, made = fast.score(prompts, conditions), fast.generate(prompts, conditions, 4)
    monkeypatch.setattr("harness.engine.kernels.compiled", lambda system: False)
    same_scores(fast.score(prompts, conditions), scores)
    same_generations(fast.generate(prompts, conditions, 4), made)


def test_where_the_closed_form_does_not_hold_frozen_conditions_run_with_hooks() -> None:
    model = tiny("opt_350m")  # no final norm, a projection behind the residual
    prompts, conditions = some_prompts(1, n=3), frozen_mixture(model, 2, n=2)
    engine, hooks = ClosedFormEngine(model, 2), HookEngine(model, 2)
    assert engine.path(conditions) == "batched"
    same_scores(engine.score(prompts, conditions), hooks.score(prompts, conditions))
    same_generations(engine.generate(prompts, conditions, 3), hooks.generate(prompts, conditions, 3))
    mixed = [Condition("early", (SetNeurons(0, (1,), (4.0,)),)), *frozen_mixture(tiny("llama"), 2, n=1)]
    steps: list[int] = []
    engine = ClosedFormEngine(tiny("llama"), 2)
    scores = engine.score(prompts, mixed, steps.append)
    assert sum(steps) == len(mixed) * len(prompts)
    same_scores(scores, HookEngine(tiny("llama"), 2).score(prompts, mixed))


# -- starts ----------------------------------------------------------------------------------------------------------


def sequence_under(
    model: Model, tokens: Sequence[int], start: int, edit: Callable[[torch.Tensor], torch.Tensor], heads: bool
) -> torch.Tensor:
    """Logits [pos, d_vocab] of one sequence whose layer 1 has ``edit`` applied from token ``start`` on."""

    def change(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :start], edit(x)[:, start:]], 1)

    with torch.no_grad(), (model.edit_heads if heads else model.edit_neurons)(1, change):
        logits: torch.Tensor = model.hf(torch.tensor([list(tokens)])).logits[0]
    return logits


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "opt"])
@pytest.mark.parametrize("engine", [ClosedFormEngine, HookEngine])
def test_an_edit_acts_from_its_start_on(family: str, engine: type[HookEngine]) -> None:
    """Padded prompts of different lengths and a cache, against one sequence at a time without either."""
    model = tiny(family)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17, 18]]

    def neurons(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., [2, 3]] = torch.tensor([4.0, -6.0])
        return x

    def heads(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[:, :, 1] = x[:, :1, 1]
        return x

    for start in (1, 4, 8):
        for edit, change in ((SetNeurons(1, (2, 3), (4.0, -6.0)), neurons), (AttendFirst(1, (1,)), heads)):
            condition = Condition("late", (edit,), Positions(f"{start}:+generated"))
            made = engine(model, 3).generate(prompts, [BASELINE, condition], 4).tokens[1]
            scores = engine(model, 3).score(prompts, [BASELINE, condition])
            for i, prompt in enumerate(prompts):
                tokens = [*prompt, *made[i].tolist()]
                begin = min(start, len(prompt))  # what is generated is edited, too
                logits = sequence_under(model, tokens, begin, change, site_of(edit) == HEADS)
                for step in range(4):
                    place = len(prompt) + step - 1
                    assert float(logits[place].max() - logits[place, tokens[place + 1]]) < 1e-4
                columns = scores.columns([i])
                log_probs = logits[: len(prompt) - 1].log_softmax(-1)
                wanted = -log_probs.gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0]
                np.testing.assert_allclose(scores.loss[1, columns], wanted, atol=1e-4)
                before = columns[: max(start - 1, 0)]  # token t is predicted at t - 1
                np.testing.assert_allclose(scores.loss[1, before], scores.loss[0, before], atol=1e-5)


@settings(max_examples=6)
@given(st.sampled_from(["gpt2", "llama", "gpt_neox", "opt", "gemma2"]), st.integers(0, 10_000), st.integers(1, 4))
def test_late_edits_are_the_same_in_every_engine(family: str, seed: int, batch: int) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(seed, n=4), late_mixture(model, seed)
    hooks = HookEngine(model, batch)
    scores, made = hooks.score(prompts, conditions), hooks.generate(prompts, conditions, 4, STOP)
    for engine in (ClosedFormEngine(model, batch), BatchedEngine(model, batch)):
        assert engine.path(conditions) == "batched"
        same_scores(engine.score(prompts, conditions), scores)
        same_generations(engine.generate(prompts, conditions, 4, STOP), made)


@pytest.mark.parametrize("engine", ENGINES)
def test_mistakes_are_named(engine: type[HookEngine]) -> None:
    model = tiny("gpt2")
    last = model.anatomy.n_layers - 1
    neurons, heads = SetNeurons(last, (1,), (2.0,)), SetHeads(last, (0,), ((0.0,) * 8,))
    held = Frozen("final_norm")
    for condition, says in (
        (
            Condition("a", (SetNeurons(0, (1,), (2.0,)),), frozen=held),
            '"a" freezes the final norm and edits neurons of',
        ),
        (Condition("b", (neurons, heads), frozen=held), "only edits of what the last layer"),
        (Condition("c", (neurons,), frozen=Frozen("unigram")), '"c": the unigram distribution needs 300 positive'),
        (Condition("d", (neurons,), frozen=Frozen("unigram", np.zeros(300))), "300 positive counts"),
        (Condition("e", (neurons,), frozen=Frozen("unigram", np.ones(300))), "all tokens are as frequent"),
        (Condition("f", (neurons,), frozen=Frozen("final norm")), 'Did you mean "final_norm"'),  # type: ignore[arg-type]
        (Condition("g", (neurons,), Positions("subject")), 'has no span of the name "subject"'),
    ):
        with pytest.raises(HarnessError, match=says):
            engine(model).score([[1, 2]], [BASELINE, condition])
        with pytest.raises(HarnessError, match=says):
            engine(model).generate([[1, 2]], [BASELINE, condition], 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_that_are_not_finite_are_refused(engine: type[HookEngine]) -> None:
    model = tiny("gpt2")
    for frozen in (Frozen("final_norm"), Frozen("unigram", counts(model))):
        edits = (SetNeurons(model.anatomy.n_layers - 1, (0,), (float("nan"),)),)
        with pytest.raises(HarnessError, match="logits are not finite"):
            engine(model).score([[1, 2]], [BASELINE, Condition("bad", edits, frozen=frozen)])


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 50))
def test_keeping_a_component_twice_is_keeping_it_once(seed: int, d_vocab: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 100, d_vocab)
    assume(p.min() < p.max())
    v = torch.from_numpy(unigram_direction(p, d_vocab, "test"))
    assert abs(float(v.sum())) < 1e-9
    np.testing.assert_allclose(v, unigram_direction(p / p.sum(), d_vocab, "test"), atol=1e-12)
    mine, theirs = (torch.from_numpy(rng.normal(size=(1, 3, d_vocab)).astype(np.float32)) for _ in range(2))
    once = keep_component(mine, theirs, v)
    torch.testing.assert_close(keep_component(once, theirs, v), once, rtol=1e-4, atol=1e-5)
    shifted = keep_component(mine + 3, theirs - 2, v)  # softmax does not see a constant, nor does v
    torch.testing.assert_close(shifted, once + 3, rtol=1e-4, atol=1e-5)
