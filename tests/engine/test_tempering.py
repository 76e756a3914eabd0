"""What temperature alone would do, beside its definition: bisection in float64 over all logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import some_conditions, some_prompts
from families import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.engine import Engine
from harness.engine.hooks import HookEngine
from harness.engine.tempering import LOG_BETA, Tempered

FAMILIES = ["gpt2", "llama_gqa_tied", "gemma2", "opt_350m"]


def entropy(log_p: torch.Tensor) -> torch.Tensor:
    return torch.special.entr(log_p.exp()).sum(-1)


def by_bisection(logits: torch.Tensor, wanted: float) -> tuple[float, torch.Tensor]:
    """The inverse temperature at which softmax has this entropy, and the log-probabilities there; float64 [V]."""
    low, high = float(LOG_BETA[0]), float(LOG_BETA[-1])
    for _ in range(100):
        middle = (low + high) / 2
        if entropy((np.exp(middle) * logits).log_softmax(-1)) > wanted:
            low = middle
        else:
            high = middle
    return float(np.exp(low)), (np.exp(low) * logits).log_softmax(-1)


def some_logits(seed: int, d_vocab: int, scale: float, ahead: float = 0.0) -> torch.Tensor:
    """Normal logits float32 [4, d_vocab]; one token in a hundred is ``ahead`` of the others."""
    make = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(4, d_vocab, generator=make)
    return logits + ahead * (torch.rand(4, d_vocab, generator=make) < 0.01)


@pytest.mark.parametrize(
    ("d_vocab", "scale", "ahead"), [(3, 2.0, 0.0), (300, 3.0, 0.0), (5000, 0.5, 12.0), (20000, 2.0, 10.0)]
)
def test_it_is_what_bisection_finds(d_vocab: int, scale: float, ahead: float) -> None:
    logits = some_logits(0, d_vocab, scale, ahead)
    log_p = logits.double().log_softmax(-1)
    before = entropy(log_p).numpy()
    wanted = before * np.linspace(0.3, 1.2, 7)[:, None]
    found = Tempered.of(logits).at_entropy(wanted, before)
    for c, n in np.argwhere(~found.outside):
        beta, at = by_bisection(log_p[n], wanted[c, n])
        tempered = (found.beta[c, n] * log_p[n]).log_softmax(-1)
        assert abs(float(entropy(tempered)) - wanted[c, n]) < 1e-5
        assert found.beta[c, n] == pytest.approx(beta, rel=1e-4)
        mine = found.log_p(log_p.numpy().T)[:, c, n]
        # A token far down the tail has |l| times the error of beta.
        np.testing.assert_allclose(mine, at.numpy(), atol=2e-5 * float(log_p[n].abs().max()))


def test_an_unchanged_entropy_is_the_untouched_model() -> None:
    """Though it was measured with another rounding."""
    table = Tempered.of(some_logits(1, 500, 3.0))
    before = table.entropy[:, 32] + 1e-4
    found = table.at_entropy(before[None], before)
    np.testing.assert_allclose(found.beta, 1.0, rtol=1e-12)
    np.testing.assert_allclose(found.log_z, 0.0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    d_vocab=st.integers(2, 400),
    scale=st.floats(0.3, 6.0),
    beta=st.floats(0.125, 8.0),
    shift=st.floats(-50, 50),
)
def test_scaled_logits_have_their_scale_as_inverse_temperature(
    seed: int, d_vocab: int, scale: float, beta: float, shift: float
) -> None:
    log_p = some_logits(seed, d_vocab, scale).double().log_softmax(-1)
    scaled = (beta * log_p).log_softmax(-1)
    found = Tempered.of(log_p + shift).at_entropy(entropy(scaled)[None].numpy(), entropy(log_p).numpy())
    # Where the entropy hardly depends on the temperature, its last digits are those of beta.
    slope = (beta**2 * (scaled.exp() * log_p**2).sum(-1) - beta**2 * (scaled.exp() * log_p).sum(-1) ** 2).numpy()
    clear = slope > 1e-3
    np.testing.assert_allclose(found.beta[0, clear], beta, rtol=1e-2)
    assert (np.abs(np.log(found.beta[0] / beta)) * slope <= 2e-5)[clear].all()


def test_what_no_temperature_reaches_is_said() -> None:
    logits = torch.tensor([[2.0, 2.0, 0.0, -1.0]])  # two tokens tie: no temperature goes below log 2
    before = entropy(logits.double().log_softmax(-1)).numpy()
    found = Tempered.of(logits).at_entropy(np.array([[0.1], [np.log(2) + 0.01], [np.log(4) + 0.01]]), before)
    assert found.outside[:, 0].tolist() == [True, False, True]
    np.testing.assert_allclose(found.beta[[0, 2], 0], [16, 1 / 16], rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_engines_tabulate_the_same_distributions(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(3), some_conditions(model, 4, n=3)
    engines: list[Engine] = [HookEngine(model, 4), ClosedFormEngine(model, 4)]
    slow, fast = (engine.generate(prompts, conditions, 2, tempered=True) for engine in engines)
    assert slow.tempered is not None and fast.tempered is not None
    np.testing.assert_allclose(fast.tempered.cumulants, slow.tempered.cumulants, rtol=1e-3, atol=1e-3)
    betas = [x.tempered.at_entropy(x.entropy, x.entropy[0]) for x in (slow, fast) if x.tempered is not None]
    np.testing.assert_allclose(betas[1].beta, betas[0].beta, rtol=1e-3)
    np.testing.assert_allclose(betas[1].beta[0], 1.0, rtol=1e-9)
    slow_scores, fast_scores = (engine.score(prompts, conditions, tempered=True) for engine in engines)
    assert slow_scores.tempered is not None and fast_scores.tempered is not None
    np.testing.assert_allclose(
        fast_scores.tempered.entropy[:, 32], fast_scores.entropy[0], atol=1e-4, err_msg="of the untouched model"
    )
    np.testing.assert_allclose(fast_scores.tempered.cumulants, slow_scores.tempered.cumulants, rtol=1e-3, atol=1e-3)


def test_edits_of_other_layers_are_beside_the_same_untouched_model() -> None:
    model = tiny("gpt2")
    prompts, conditions = some_prompts(5), some_conditions(model, 6, n=3, layer=0)
    engines: list[Engine] = [HookEngine(model), ClosedFormEngine(model)]
    slow, fast = (engine.generate(prompts, conditions, 1, tempered=True) for engine in engines)
    assert slow.tempered is not None and fast.tempered is not None
    np.testing.assert_allclose(fast.tempered.cumulants, slow.tempered.cumulants, rtol=1e-3, atol=1e-3)


def test_only_on_request_and_beside_the_untouched_model() -> None:
    model = tiny("gpt2")
    prompts, conditions = some_prompts(5), some_conditions(model, 6, n=1)
    assert ClosedFormEngine(model).generate(prompts, [BASELINE], 1).tempered is None
    with pytest.raises(ValueError, match="untouched"):
        ClosedFormEngine(model).generate(prompts, conditions[1:], 1, tempered=True)
