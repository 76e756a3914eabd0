"""One neuron makes up most of the final residual: effects and scores of its edits against definitions in float64.

The definitions come from hooked passes of a float64 copy of the model, one condition at a time. The copy is given the
float32 model's activations in the last layer: a neuron that writes 1e5 times as much as others has no more digits.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from families import tiny_hf, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Frozen, SetNeurons
from harness.effects import logit_changes
from harness.effects.sweep import Effects, effects
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap

KINDS = ("total", "frozen_norm", "frozen_unigram")
NEURON = 3
FAMILIES = ["gpt2", "gpt_neox", "cohere", "llama", "llama_gqa_tied", "granite", "gemma2", "gemma3", "olmo2"]
PROMPTS = [[5, 6, 7, 80, 9], [10, 11, 12]]
SIX_ORDERS = [0.0, *(sign * 10.0**power for power in range(-3, 4, 2) for sign in (1, -1))]


@cache
def dominated(family: str, factor: float = 1000.0, dtype: torch.dtype = torch.float32) -> Model:
    """A tiny model whose neuron ``NEURON`` of the last layer writes ``factor`` times as much as the others."""
    model = wrap(tiny_hf(family, dtype), tokenizer(), family)  # checked as it was: sums of 1e5 and 1 lose digits
    down = model.anatomy.down_projections[-1]
    with torch.no_grad():
        (down.weight if type(down).__name__ == "Conv1D" else down.weight.T)[NEURON] *= factor
    return model


def conditions_of(model: Model, values: list[float], others: int = 2) -> list[Condition]:
    """The dominating neuron alone, and with others, at every value; and one that leaves it alone."""
    last = model.anatomy.n_layers - 1
    alone = [Condition(f"{x}", (SetNeurons(last, (NEURON,), (x,)),)) for x in values]
    both = [
        Condition(f"{x} +", (SetNeurons(last, (NEURON, *range(7, 7 + others)), (x, *[0.5] * others)),)) for x in values
    ]
    return [*alone, *both, Condition("other", (SetNeurons(last, (9,), (1.0,)),))]


@cache
def activations(family: str, factor: float, prompt: tuple[int, ...]) -> torch.Tensor:
    """Of the last layer's neurons in the float32 model, as float64 [1, pos, d_mlp]."""
    model = dominated(family, factor)
    last = model.anatomy.n_layers - 1
    with torch.no_grad(), model.capture_neurons(last) as neurons:
        model.forward(model.pad([list(prompt)]))
    return neurons[last].double()


def residual(family: str, factor: float, condition: Condition, prompt: tuple[int, ...]) -> torch.Tensor:
    """The final residual [pos - 1, d_model] in float64, centred where the norm centres it."""
    model = dominated(family, factor, torch.float64)
    neurons = activations(family, factor, prompt)
    with (
        torch.no_grad(),
        model.edit_neurons(model.anatomy.n_layers - 1, lambda _: neurons),
        under(model, condition),
        model.capture_residual() as captured,
    ):
        model.forward(model.pad([list(prompt)]), logits_to_keep=0)
    x = captured.residual[0, :-1]
    assert x.dtype == torch.float64
    return x - x.mean(-1, keepdim=True) if model.readout.norm == "layernorm" else x


@cache
def untouched(family: str, factor: float, prompt: tuple[int, ...]) -> torch.Tensor:
    return residual(family, factor, BASELINE, prompt)


def logits(family: str, factor: float, condition: Condition, prompt: list[int]) -> dict[str, torch.Tensor]:
    """Logits [pos - 1, d_vocab] by kind in float64; both norms are taken by their formulas."""
    model = dominated(family, factor, torch.float64)
    readout = model.readout

    def read(x: torch.Tensor, norm_of: torch.Tensor) -> torch.Tensor:
        x = x / (norm_of.square().mean(-1, keepdim=True) + readout.eps).sqrt() * readout.gain.double()
        x = x if readout.bias is None else x + readout.bias.double()
        found = x @ readout.W_U.T + (0 if readout.b_U is None else readout.b_U.double())
        found = found * readout.scale
        return found if readout.cap is None else torch.tanh(found / readout.cap) * readout.cap

    x0, x = untouched(family, factor, tuple(prompt)), residual(family, factor, condition, tuple(prompt))
    total, before, v = read(x, x), read(x0, x0), torch.from_numpy(direction(model))
    back = ((before - total) @ v / (v @ v))[:, None] * v
    return {"total": total, "frozen_norm": read(x, x0), "frozen_unigram": total + back}


def counts(model: Model) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 1000, model.anatomy.d_vocab).astype(float)


def direction(model: Model) -> np.ndarray:
    log_p = np.log(counts(model))
    return log_p - log_p.mean()


def check(found: Effects, family: str, factor: float, conditions: list[Condition]) -> None:
    """Compare everything that ``effects`` returns with its definition."""
    model = dominated(family, factor)
    assert found.kl_unigram_change is not None
    assert found.rank is not None and found.best is not None and found.top is not None
    p_freq, first = torch.from_numpy(counts(model) / counts(model).sum()), 0
    for prompt in PROMPTS:
        target, here = torch.tensor(prompt[1:])[:, None], slice(first, first + len(prompt) - 1)
        first = here.stop
        p0 = logits(family, factor, BASELINE, prompt)["total"].log_softmax(-1)
        for c, condition in enumerate(conditions):
            for kind, edited in logits(family, factor, condition, prompt).items():
                p = edited.log_softmax(-1)
                for name, array, truth in (
                    ("loss", found.loss_change, (p0 - p).gather(-1, target)[:, 0]),
                    ("entropy", found.entropy_change, (p0.exp() * p0).sum(-1) - (p.exp() * p).sum(-1)),
                    ("kl", found.kl, (p0.exp() * (p0 - p)).sum(-1)),
                    ("kl_unigram", found.kl_unigram_change, (p0 - p) @ p_freq),
                    ("top", found.top, p.amax(-1)),
                ):
                    np.testing.assert_allclose(
                        array[kind][c, here], truth.numpy(), rtol=2e-5, atol=1e-4, err_msg=f"{name} {kind} {condition}"
                    )
                slack = 1e-5 * edited.abs().amax(-1) + 1e-5
                best = torch.from_numpy(found.best[kind][c, here])[:, None]
                assert (edited.gather(-1, best)[:, 0] >= edited.amax(-1) - slack).all()
                own, rank = edited.gather(-1, target), torch.from_numpy(found.rank[kind][c, here])
                assert ((edited > own + slack[:, None]).sum(-1) <= rank).all(), (kind, condition)
                assert (rank <= (edited >= own - slack[:, None]).sum(-1) - 1).all(), (kind, condition)


@pytest.mark.parametrize("family", FAMILIES)
def test_effects_of_a_dominating_neuron_over_six_orders_of_magnitude(family: str) -> None:
    model = dominated(family)
    conditions = conditions_of(model, SIX_ORDERS)
    check(effects(model, PROMPTS, conditions, KINDS, unigram=counts(model), ranks=True), family, 1000.0, conditions)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.sampled_from([10.0, 100.0, 1e4, 1e5]),
    st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
)
def test_any_value_of_any_neuron(family: str, factor: float, value: float) -> None:
    model = dominated(family, factor)
    conditions = conditions_of(model, [value])
    found = effects(model, PROMPTS, conditions, KINDS, unigram=counts(model), ranks=True)
    check(found, family, factor, conditions)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3"])
def test_float32_does_what_it_can(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits that change logits by up to 40 nats stay in the compiled loop, and are right there."""
    model = dominated(family, 30.0)
    conditions = conditions_of(model, [-3.0, -1.0, 1.0, 3.0])
    monkeypatch.setattr(logit_changes, "LARGEST", 0.0)
    precise = effects(model, PROMPTS, conditions, KINDS, unigram=counts(model), ranks=True)
    monkeypatch.undo()
    found = effects(model, PROMPTS, conditions, KINDS, unigram=counts(model), ranks=True)
    for kind in KINDS:
        for a, b in (
            (found.loss_change, precise.loss_change), (found.entropy_change, precise.entropy_change),
            (found.kl, precise.kl), (found.top or {}, precise.top or {}),
        ):  # fmt: skip
            np.testing.assert_allclose(a[kind], b[kind], atol=5e-5)
    check(found, family, 30.0, conditions)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_a_dominating_neuron(family: str) -> None:
    """The closed form has as many digits as a hooked pass, which never subtracts the neuron from the residual."""
    model = dominated(family, 1e5)
    plain = conditions_of(model, [0.0, 0.01, -0.01, 1.0, 100.0])
    unigram = [Condition(x.name, x.edits, frozen=Frozen("unigram", counts(model))) for x in plain]
    norm = [Condition(x.name, x.edits, frozen=Frozen("final_norm")) for x in plain]
    found = ClosedFormEngine(model).score(PROMPTS, [*plain, *norm, *unigram])
    n, first = len(plain), 0
    for prompt in PROMPTS:
        target, here = torch.tensor(prompt[1:])[:, None], slice(first, first + len(prompt) - 1)
        first = here.stop
        for c, condition in enumerate(plain):
            for e, edited in enumerate(logits(family, 1e5, condition, prompt).values()):
                p, row = edited.log_softmax(-1), c + e * n
                loss, entropy = -p.gather(-1, target)[:, 0], -(p.exp() * p).sum(-1)
                np.testing.assert_allclose(found.loss[row, here], loss.numpy(), rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(found.entropy[row, here], entropy.numpy(), atol=2e-4)


def test_generation_with_a_dominating_neuron_set_to_zero() -> None:
    model = dominated("llama", 1e5)
    conditions = [BASELINE, *conditions_of(model, [0.0, 1e-5])]
    ours = ClosedFormEngine(model).generate(PROMPTS, conditions, 5)
    theirs = HookEngine(model).generate(PROMPTS, conditions, 5)
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    np.testing.assert_allclose(ours.entropy, theirs.entropy, atol=1e-4)


def test_the_fast_method_is_as_right() -> None:
    model = dominated("llama")
    conditions = [c for c in conditions_of(model, SIX_ORDERS) if len(c.edits[0].indices) == 1]
    exact = effects(model, PROMPTS, conditions)
    fast = effects(model, PROMPTS, conditions, method="fast", tolerance=1e-5)
    for kind in ("total", "frozen_norm"):
        np.testing.assert_allclose(fast.loss_change[kind], exact.loss_change[kind], atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(fast.entropy_change[kind], exact.entropy_change[kind], atol=1e-4)
        np.testing.assert_allclose(fast.kl[kind], exact.kl[kind], atol=1e-4, rtol=1e-5)


def test_what_no_float32_can_hold_is_refused() -> None:
    model = dominated("llama")
    last = model.anatomy.n_layers - 1
    found = effects(model, PROMPTS, [Condition("far", (SetNeurons(last, (NEURON,), (1e30,)),))], ("frozen_norm",))
    assert np.isfinite(found.loss_change["frozen_norm"]).all()
    with pytest.raises(HarnessError, match="not finite"):
        effects(model, PROMPTS, [Condition("over", (SetNeurons(last, (NEURON,), (1e38,)),))], ("frozen_norm",))
