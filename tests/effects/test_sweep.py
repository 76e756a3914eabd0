"""Total and direct effects against their definitions: hooked passes and formulas in float64, one condition a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import some_conditions, some_prompts
from families import SHAPES, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Frozen, SetNeurons
from harness.conditions.positions import Positions
from harness.effects import logit_changes
from harness.effects.logit_changes import Found, Problem
from harness.effects.moment_expansion import changes_fast
from harness.effects.sweep import Effects, effects
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.model import Model

KINDS = ("total", "frozen_norm", "frozen_unigram")


def residuals(model: Model, condition: Condition, prompt: list[int]) -> torch.Tensor:
    """Final residuals [pos - 1, d_model] under a condition, by hooks."""
    with torch.no_grad(), under(model, condition), model.capture_residual() as captured:
        model.forward(model.pad([prompt]), logits_to_keep=0)
    return captured.residual[0, :-1]


def by_definition(
    model: Model, prompts: list[list[int]], conditions: list[Condition], unigram: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """loss change, entropy change, KL and change of KL(unigram || model), kind -> [C, T], from logits in float64."""
    p_freq = torch.from_numpy(unigram / unigram.sum())
    v = p_freq.log() - p_freq.log().mean()
    found: dict[str, dict[str, list[list[float]]]] = {
        name: {kind: [[] for _ in conditions] for kind in KINDS} for name in ("loss", "entropy", "kl", "kl_unigram")
    }
    for prompt in prompts:
        if len(prompt) == 1:
            continue
        x0 = residuals(model, BASELINE, prompt)
        l0 = model.readout.logits(x0).double()
        target = torch.tensor(prompt[1:])[:, None]
        p0 = l0.log_softmax(-1)
        for c, condition in enumerate(conditions):
            x = residuals(model, condition, prompt)
            total = model.readout.logits(x).double()
            frozen = model.readout.logits(x, model.readout.denominator(x0)).double()
            back = total + ((l0 - total) @ v / (v @ v))[:, None] * v
            for kind, logits in (("total", total), ("frozen_norm", frozen), ("frozen_unigram", back)):
                p = logits.log_softmax(-1)
                found["loss"][kind][c] += (p0.gather(-1, target) - p.gather(-1, target))[:, 0].tolist()
                found["entropy"][kind][c] += ((p0.exp() * p0).sum(-1) - (p.exp() * p).sum(-1)).tolist()
                found["kl"][kind][c] += (p0.exp() * (p0 - p)).sum(-1).tolist()
                found["kl_unigram"][kind][c] += ((p0 - p) @ p_freq).tolist()
    return {name: {kind: np.array(rows) for kind, rows in kinds.items()} for name, kinds in found.items()}


def check(found: Effects, expected: dict[str, dict[str, np.ndarray]], tolerance: float) -> None:
    assert found.kl_unigram_change is not None
    for kind in KINDS:
        for name, array in (
            ("loss", found.loss_change), ("entropy", found.entropy_change), ("kl", found.kl),
            ("kl_unigram", found.kl_unigram_change),
        ):  # fmt: skip
            np.testing.assert_allclose(array[kind], expected[name][kind], atol=tolerance, err_msg=f"{name} {kind}")


def counts(model: Model) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, model.anatomy.d_vocab).astype(float)


def scale(model: Model, prompts: list[list[int]]) -> float:
    return float(model.readout.logits(residuals(model, BASELINE, max(prompts, key=len))).abs().max())


@pytest.mark.parametrize("family", sorted(set(SHAPES) - {"opt_350m"}))
def test_effects_follow_their_definitions(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(1), some_conditions(model, 2)
    found = effects(model, prompts, conditions, KINDS, unigram=counts(model))
    check(found, by_definition(model, prompts, conditions, counts(model)), 2e-5 * scale(model, prompts) + 2e-5)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["gpt2", "llama", "gemma2", "olmo2", "gpt_neox", "granite"]),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1e-3, 1.0, 30.0, 300.0]),
)
def test_any_size_of_edit(family: str, seed: int, size: float) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(seed, n=3), some_conditions(model, seed, n=4, size=size)
    if all(len(prompt) == 1 for prompt in prompts):
        return
    found = effects(model, prompts, conditions, KINDS, unigram=counts(model))
    expected = by_definition(model, prompts, conditions, counts(model))
    largest = max(float(np.abs(expected["loss"][kind]).max()) for kind in KINDS)
    check(found, expected, 2e-5 * (scale(model, prompts) + largest) + 2e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "llama"])
def test_the_compiled_loop_equals_the_plain_definition(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(3), some_conditions(model, 4, n=9, size=8.0)
    fast = effects(model, prompts, conditions, KINDS, unigram=counts(model), ranks=True)
    assert fast.top is not None
    monkeypatch.setattr(logit_changes, "_changes_compiled", None)
    monkeypatch.setattr(logit_changes.Problem, "compiled", False)
    plain = effects(model, prompts, conditions, KINDS, unigram=counts(model), ranks=True)
    assert plain.top is not None
    for kind in KINDS:
        for a, b in (
            (fast.loss_change, plain.loss_change), (fast.entropy_change, plain.entropy_change), (fast.kl, plain.kl),
            (fast.top, plain.top),
        ):  # fmt: skip
            np.testing.assert_allclose(a[kind], b[kind], atol=3e-5, rtol=1e-4)


def test_huge_edits_are_done_in_double_precision() -> None:
    """Changes of the logits far beyond what sums relative to the baseline can hold."""
    model = tiny("gpt2")
    last = model.anatomy.n_layers - 1
    conditions = [Condition("huge", (SetNeurons(last, (3,), (2000.0,)),)), *some_conditions(model, 1, n=2)[1:]]
    prompts = some_prompts(2)
    found = effects(model, prompts, conditions, ("total",))
    scores = HookEngine(model).score(prompts, [BASELINE, *conditions])
    np.testing.assert_allclose(found.loss_change["total"], scores.loss[1:] - scores.loss[0], rtol=1e-3, atol=1e-3)
    far = [Condition(f"{x}", (SetNeurons(last, (3,), (x,)),)) for x in (1e20, 1e30)]
    near, farther = effects(model, prompts, far, ("frozen_norm",)).loss_change["frozen_norm"].astype(np.float64)
    assert near.max() > 1e18  # with a frozen norm, logits and losses are linear in what is far away
    np.testing.assert_allclose(farther / near, 1e10, rtol=1e-5)
    with pytest.raises(HarnessError, match="not finite"):
        effects(model, prompts, [Condition("over", (SetNeurons(last, (3,), (1e39,)),))], ("frozen_norm",))


def test_small_memory_gives_the_same_numbers() -> None:
    model = tiny("llama")
    prompts, conditions = some_prompts(5, n=9), some_conditions(model, 6, n=20)
    whole = effects(model, prompts, conditions, KINDS, unigram=counts(model), batch_size=4)
    small = effects(model, prompts, conditions, KINDS, unigram=counts(model), batch_size=4, memory_bytes=20_000)
    np.testing.assert_array_equal(whole.prompt, small.prompt)
    np.testing.assert_allclose(whole.loss, small.loss, atol=1e-5)
    for kind in KINDS:
        np.testing.assert_allclose(whole.loss_change[kind], small.loss_change[kind], atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
def test_ranks_and_best_tokens(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(4), some_conditions(model, 5, n=5)[1:]
    found = effects(model, prompts, conditions, KINDS, unigram=counts(model), ranks=True)
    assert found.rank is not None and found.best is not None and found.top is not None
    scores = HookEngine(model).score(prompts, [*conditions, BASELINE])
    assert (found.rank["total"] != scores.rank).mean() < 0.02  # two tokens as likely to float32 precision
    assert (found.rank["frozen_norm"][-1] == found.rank["total"][-1]).all()
    np.testing.assert_allclose(found.top["total"], scores.top, atol=1e-4)
    for kind in KINDS:
        np.testing.assert_array_equal(found.top[kind][-1], found.top["total"][-1])
        loss = np.concatenate([found.loss + found.loss_change[kind], found.loss[None]])
        right = found.rank[kind] == 0
        np.testing.assert_allclose(found.top[kind][right], -loss[right], atol=1e-5)
        assert found.top[kind].dtype == np.float32 and (found.top[kind] <= 0).all()
    some = effects(model, prompts, conditions, KINDS, unigram=counts(model), ranks=("frozen_norm",))
    assert some.rank is not None and some.top is not None and list(some.rank) == ["frozen_norm"]
    np.testing.assert_array_equal(some.rank["frozen_norm"], found.rank["frozen_norm"])
    np.testing.assert_array_equal(some.top["frozen_norm"], found.top["frozen_norm"])
    assert effects(model, prompts, conditions).top is None
    v = np.log(counts(model))
    v -= v.mean()
    column = 0
    for prompt in prompts:
        n = len(prompt) - 1
        if n == 0:
            continue
        x0 = residuals(model, BASELINE, prompt)
        l0 = model.readout.logits(x0).double().numpy()
        for c, condition in enumerate([*conditions, BASELINE]):
            x = residuals(model, condition, prompt)
            total = model.readout.logits(x).double().numpy()
            frozen = model.readout.logits(x, model.readout.denominator(x0)).double().numpy()
            back = total + ((l0 - total) @ v / (v @ v))[:, None] * v
            for kind, logits in (("total", total), ("frozen_norm", frozen), ("frozen_unigram", back)):
                best = found.best[kind][c, column : column + n]
                picked = np.take_along_axis(logits, best[:, None], 1)[:, 0]
                assert (logits.max(1) - picked).max() <= 1e-5 * np.abs(logits).max()
                confidence = -np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1))
                np.testing.assert_allclose(found.top[kind][c, column : column + n], confidence, atol=1e-4)
        column += n


def test_positions_and_order() -> None:
    model = tiny("gpt2")
    prompts, conditions = [[5, 6, 7, 8], [9], [10, 11, 12]], some_conditions(model, 0, n=3)[1:]
    every = effects(model, prompts, conditions)
    assert every.prompt.tolist() == [0, 0, 0, 2, 2] and every.position.tolist() == [1, 2, 3, 1, 2]
    some = effects(model, prompts, conditions, positions=[[False, True, True], [], [True, False]])
    assert some.prompt.tolist() == [0, 0, 2] and some.position.tolist() == [2, 3, 1]
    np.testing.assert_allclose(some.loss_change["total"], every.loss_change["total"][:, [1, 2, 3]], atol=1e-6)
    scores = HookEngine(model).score(prompts, [BASELINE])
    np.testing.assert_allclose(every.loss, scores.loss[0], atol=1e-5)
    np.testing.assert_allclose(every.entropy, scores.entropy[0], atol=1e-5)


def test_a_neuron_that_writes_into_the_null_space_acts_through_the_norm_alone() -> None:
    """Known answer: DE = 0 and the mediated fraction is 1; one that is never changed has no effect at all."""
    model = tiny("llama")
    last = model.anatomy.n_layers - 1
    with torch.no_grad():
        model.hf.lm_head.weight[:, -4:] = 0
        model.anatomy.down_projections[last].weight[:-4, 7] = 0
        model.anatomy.down_projections[last].weight[-4:, 7] = 5.0
    conditions = [
        Condition("null", (SetNeurons(last, (7,), (3.0,)),)),
        Condition("other", (SetNeurons(last, (8,), (3.0,)),)),
        Condition("nothing", ()),
    ]
    found = effects(model, some_prompts(1), conditions)
    assert found.size("total")[0] > 1e-3
    assert found.mediated()[0] == pytest.approx(1, abs=1e-4)
    assert found.mediated()[1] < 0.9
    assert found.size("total")[2] == 0 and np.isnan(found.mediated()[2])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kinds": ("frozen_unigram",)}, "needs the unigram distribution"),
        ({"unigram": np.ones(3)}, "positive counts"),
        ({"unigram": np.zeros(300)}, "positive counts"),
        ({"positions": [[True]]}, "has 2 predicted tokens, positions 1"),
        ({"positions": [[False, False]]}, "no token is left"),
        ({"conditions": [Condition("early", (SetNeurons(0, (1,), (0.0,)),))]}, "last layer"),
        ({"unigram": np.full(300, np.inf)}, "positive counts"),
        ({"unigram": np.ones(300), "kinds": ("frozen_unigram",)}, "all tokens are as frequent"),
        ({"conditions": [Condition("late", (), Positions("2:"))]}, '"late" has positions of its own'),
        ({"conditions": [Condition("held", frozen=Frozen("final_norm"))]}, '"held" has a frozen part of its own'),
    ],
)
def test_mistakes(change: dict[str, object], says: str) -> None:
    model = tiny("gpt2")
    given = {"prompts": [[1, 2, 3]], "conditions": some_conditions(model, 0, n=1)[1:], **change}
    with pytest.raises(HarnessError, match=says):
        effects(model, **given)  # type: ignore[arg-type]


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["gpt2", "llama", "gpt_neox", "opt", "gemma3", "olmo2"]),
    st.integers(0, 10_000),
    st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
    st.sampled_from([1e-3, 1e-5, 0.0]),
)
def test_the_fast_method_keeps_its_tolerance(family: str, seed: int, size: float, tolerance: float) -> None:
    model = tiny(family)
    rng = np.random.default_rng(seed)
    last, prompts = model.anatomy.n_layers - 1, some_prompts(seed, n=4, longest=12)
    if all(len(prompt) == 1 for prompt in prompts):
        return
    conditions = [Condition(f"{i}", (SetNeurons(last, (i,), (float(rng.normal(scale=size)),)),)) for i in range(20)]
    exact = effects(model, prompts, conditions)
    fast = effects(model, prompts, conditions, method="fast", tolerance=tolerance)
    assert exact.exact_share == 1
    for kind in ("total", "frozen_norm"):
        for a, b in ((fast.loss_change, exact.loss_change), (fast.entropy_change, exact.entropy_change)):
            # An error of log Z enters the entropy once more with the mean of l.
            np.testing.assert_allclose(a[kind], b[kind], atol=(2 + scale(model, prompts)) * tolerance + 1e-5)
        np.testing.assert_allclose(fast.kl[kind], exact.kl[kind], atol=tolerance + 1e-5)
    if tolerance == 0.0:
        assert fast.exact_share > 0.9


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_the_fast_method_expands_what_is_small(family: str) -> None:
    model = tiny(family)
    last = model.anatomy.n_layers - 1
    with torch.no_grad():
        model.anatomy.down_projections[last].weight *= 0.05 if family == "gpt2" else 1.0
        if (norm := model.anatomy.post_mlp_norms[-1]) is not None:
            norm.weight.copy_((norm.weight + 1) * 0.05 - 1)
    conditions = [Condition(f"{i}", (SetNeurons(last, (i,), (0.0,)),)) for i in range(30)]
    fast = effects(model, some_prompts(3), conditions, method="fast", tolerance=1e-4)
    exact = effects(model, some_prompts(3), conditions)
    assert fast.exact_share < 0.1
    np.testing.assert_allclose(fast.size(), exact.size(), rtol=2e-3, atol=1e-7)


def test_the_fast_method_gives_up_where_most_edits_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    last = model.anatomy.n_layers - 1
    conditions = [Condition(f"{i}", (SetNeurons(last, (i,), (30.0,)),)) for i in range(8)]
    tried: list[int] = []

    def counted(problem: Problem, tolerance: float) -> tuple[Found, float]:
        tried.append(len(problem.target))
        return changes_fast(problem, tolerance)

    monkeypatch.setattr("harness.effects.sweep.changes_fast", counted)
    prompts = [prompt for prompt in some_prompts(3) if len(prompt) > 2]
    room = 8 * 4 * 8 * model.anatomy.d_vocab * 2  # two places at a time
    fast = effects(model, prompts, conditions, method="fast", memory_bytes=room)
    assert fast.exact_share > 0.9 and len(tried) == 1
    np.testing.assert_array_equal(fast.size(), effects(model, prompts, conditions, memory_bytes=room).size())
