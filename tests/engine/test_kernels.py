"""The compiled loops and the torch path against float64 brute force, on random and on awkward systems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine import kernels
from harness.engine.choosing import choose
from harness.engine.columns import GRAIN, Columns, Tokens
from harness.engine.kernels import System, summarise
from harness.errors import HarnessError


def some_system(
    seed: int, n_tokens: int = 333, width: int = 3, second: bool = False, size: float = 1.0, branches: int = 4
) -> System:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    n, rows, m = 7, 5, 11
    return System(
        base=3 * normal(branches, n_tokens),
        second=normal(branches, n_tokens) if second else None,
        columns=normal(m, n_tokens),
        constant=normal(n_tokens),
        indices=torch.randint(m, (n, width), generator=generator),
        delta=size * normal(n, rows, width),
        scale=normal(n, rows).exp(),
        share=normal(n, rows) if second else None,
        at=torch.randint(branches, (n, rows), generator=generator),
    )


def logits(system: System) -> torch.Tensor:
    """float64 [C, R, V], by the definition."""
    found = system.base.double()[system.at]
    if system.second is not None and system.share is not None:
        found = found + system.share.double()[..., None] * system.second.double()[system.at]
    found = found + torch.einsum("crk,ckv->crv", system.delta.double(), system.columns.double()[system.indices])
    found = found * system.scale.double()[..., None] + system.constant.double()
    found = found if system.cap is None else torch.tanh(found / system.cap) * system.cap
    if system.after is not None and system.directions is not None and system.which is not None:
        found = found + system.after.double()[..., None] * system.directions.double()[system.which][:, None]
    return found


def check(system: System, target: torch.Tensor) -> None:
    expected = logits(system)
    size = float(expected.abs().max())
    # Sums are rounded before a cap, which leaves nothing of their size to see.
    before = 0.0 if system.cap is None else 2e-7 * float(logits(replace(system, cap=None)).abs().max())
    allowed, margin = 1e-5 * size + 1e-5 + before, 4e-6 * size + before
    log_probs = expected.log_softmax(-1)
    found = summarise(system, target)
    normaliser = expected.logsumexp(-1)
    assert (found.normaliser.double() - normaliser).abs().max() <= allowed
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    assert (found.entropy.double() - entropy).abs().max() <= allowed
    best = expected.amax(-1)
    assert (found.top.double() - log_probs.amax(-1)).abs().max() <= allowed
    assert (found.top <= 0).all()
    for chosen in (found.best, choose(system)):
        assert (best - expected.gather(-1, chosen[..., None])[..., 0]).max() <= margin
    own = expected.gather(-1, target.expand(len(expected), -1)[..., None])
    assert (found.reached >= (expected >= own + margin).sum(-1)).all()
    assert (found.reached <= (expected >= own - margin).sum(-1)).all()
    assert (system.gather(target.expand(len(expected), -1)[..., None]).double() - own).abs().max() <= margin


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_tokens=st.sampled_from([1, 5, 16, 63, 64, 65, 333, 1000]),
    width=st.integers(0, 4),
    second=st.booleans(),
    size=st.sampled_from([0.0, 1e-4, 1.0, 100.0, 1e6]),
    cap=st.sampled_from([None, None, 5.0]),
)
def test_both_paths_equal_brute_force(
    seed: int, n_tokens: int, width: int, second: bool, size: float, cap: float | None
) -> None:
    system = replace(some_system(seed, n_tokens, width, second, size), cap=cap)
    target = torch.randint(n_tokens, (5,), generator=torch.Generator().manual_seed(seed))
    check(system, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", lambda system: False)
        patch.setattr(kernels, "BLOCK_BYTES", 4 * n_tokens * 5 * 2)
        check(system, target)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([None, 0.5, 5.0]), second=st.booleans())
def test_what_is_added_to_capped_logits(seed: int, cap: float | None, second: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    system = replace(
        some_system(seed, second=second),
        cap=cap,
        directions=torch.randn(2, 333, generator=generator),
        which=torch.randint(2, (7,), generator=generator),
        after=torch.randn(7, 5, generator=generator),
    )
    target = torch.randint(333, (5,), generator=generator)
    check(system, target)
    some = torch.tensor([5, 0, 3])
    np.testing.assert_allclose(logits(system.part(some)), logits(system)[some], atol=1e-12)
    check(system.part(torch.arange(7) % 2 == 0), target)


def test_ties_go_to_the_smaller_token() -> None:
    system = some_system(0, n_tokens=500)
    same = replace(
        system,
        base=torch.zeros_like(system.base),
        columns=torch.zeros_like(system.columns),
        constant=torch.zeros_like(system.constant),
    )
    assert (choose(same) == 0).all() and (summarise(same).best == 0).all()
    constant = same.constant.clone()
    constant[[123, 321]] = 7.0
    two = replace(same, constant=constant)
    assert (choose(two) == 123).all() and (summarise(two).best == 123).all()


def test_a_winner_from_outside_of_the_candidates_is_found() -> None:
    """An edit lifts the token that is worst without it."""
    system = some_system(1, n_tokens=900, width=1, branches=1)
    columns = torch.zeros_like(system.columns)
    worst = int((system.base[0] + system.constant).argmin())
    columns[:, worst] = 1.0
    lifted = replace(system, columns=columns, delta=torch.full_like(system.delta, 1e4))
    assert (choose(lifted) == worst).all()
    assert (summarise(lifted).best == worst).all()


@pytest.mark.parametrize("field", ["base", "delta", "scale"])
def test_what_is_not_finite_is_refused(field: str) -> None:
    system = some_system(2)
    values = getattr(system, field).clone()
    values.view(-1)[3] = float("nan")
    with pytest.raises(HarnessError, match="not finite"):
        replace(system, **{field: values})


def test_an_overflow_is_refused() -> None:
    system = some_system(3)
    huge = replace(system, delta=torch.full_like(system.delta, 3e38), scale=torch.full_like(system.scale, 100.0))
    with pytest.raises(HarnessError, match="not finite"):
        summarise(huge)
    with pytest.raises(HarnessError, match="not finite"):
        choose(huge)


def test_the_number_of_threads_changes_no_bit() -> None:
    system, target = some_system(4, n_tokens=2000), torch.arange(5)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            one = summarise(system, target)
            found.append([x.numpy().tobytes() for x in (one.best, one.normaliser, one.entropy, one.reached, one.top)])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_the_compiled_exponential_is_exact_to_float32() -> None:
    """Through a two-token system: the normaliser of (0, -x) is log(1 + e^-x)."""
    x = np.concatenate([np.linspace(0, 20, 4001), np.linspace(20, 90, 200)]).astype(np.float32)
    n = len(x)
    system = System(
        base=torch.zeros(1, 2),
        second=None,
        columns=torch.tensor([[0.0, -1.0]]),
        constant=torch.zeros(2),
        indices=torch.zeros(1, 1, dtype=torch.long),
        delta=torch.from_numpy(x)[None, :, None],
        scale=torch.ones(1, n),
        share=None,
        at=torch.zeros(1, n, dtype=torch.long),
    )
    entropy = summarise(system).entropy[0].double().numpy()
    p = np.exp(-x.astype(np.float64))
    exact = np.log1p(p) + p / (1 + p) * x
    np.testing.assert_allclose(entropy, exact, atol=3e-7)


class Given(Columns):
    """Columns that are cut out of a tensor, ``step`` tokens at a time."""

    def __init__(self, rows: torch.Tensor, step: int) -> None:
        self.rows, self.step = rows, step

    def __getitem__(self, tokens: Tokens) -> torch.Tensor:
        return self.rows[:, tokens]

    def tiles(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for start in range(0, self.rows.shape[1], self.step):
            here = slice(start, min(start + self.step, self.rows.shape[1]))
            yield here, self.rows[:, here]


@pytest.mark.parametrize("step", [1, 2])
def test_sums_are_the_same_however_long_the_stretches_are(step: int) -> None:
    """Bit by bit, with a target in the first, a middle and the last stretch, and with as many tokens as it reaches."""
    system = some_system(3, n_tokens=3 * GRAIN + 77, width=4, second=True)
    target = torch.tensor([0, GRAIN, 2 * GRAIN + 5, 3 * GRAIN + 76, 17])
    whole = summarise(system, target)
    none = system.columns[:, :0]
    made = replace(system, columns=none, reach=system.largest, made=Given(system.columns, step * GRAIN))
    found = summarise(made, target)
    for name in ("best", "normaliser", "entropy", "reached", "top"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    check(system, target)
    tokens = target.expand(7, 5)[..., None]
    torch.testing.assert_close(made.gather(tokens), system.gather(tokens))
