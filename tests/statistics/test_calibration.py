"""The simulations of ``benchmarks/calibration.py``, small: what they find today, and that their table can be read."""

from __future__ import annotations

import calibration
import numpy as np
import pytest
from calibrating import boards, neurons, pools, prompts, verdicts
from calibrating.data import RealSets, events, fact_numbers, share
from calibrating.rates import Rate, Simulation, rate
from checkout import ROOT

from harness.statistics import design_effect, generator


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealSets:
    """Fewer sets of the bundled model, on fewer facts."""
    found = RealSets(tmp_path_factory.mktemp("sets"), sets=1100, facts=60)
    assert found.make() == found.make()  # the second time it is there
    return found


def test_the_real_sets_are_a_run_without_its_treated_set(real: RealSets) -> None:
    assert real.names == ["CKCR", "PKCR", "NDCR", "GTS", "entropy_change", "log_odds_shift_CK_PK", "log_odds_beyond"]
    assert real.values.shape == (7, 1100) and np.isfinite(real.values).all()
    sets, facts = np.arange(5), np.arange(real.facts_there)
    for place in range(7):  # all facts once: the run is the whole
        assert real.run(place, sets, facts).values[1:] == pytest.approx(real.values[place, :5])


def test_events_have_the_rates_and_the_correlation_that_were_asked_for() -> None:
    rng = generator(0, "events")
    for icc, deff in ((0.0, 1.0), (0.3, 1.6), (1.0, 3.0)):
        found = events(np.array([0.1, 0.4]), icc, 4000, rng)
        assert found.mean(axis=1) == pytest.approx([0.1, 0.4], abs=0.02)
        assert design_effect(share(found), fact_numbers(4000)) == pytest.approx(deff, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulation", "runs"),
    [
        (neurons.single, 300),
        (neurons.magnitude, 300),
        (neurons.family, 60),
        (neurons.strong, 60),
        (pools.small, 100),
        (pools.matched, 15),
        (pools.hold_out, 100),
        (verdicts.detected, 12),
        (verdicts.equivalence, 15),
        (boards.board, 4),
        (prompts.shares, 40),
        (prompts.differences, 20),
        (prompts.margins, 60),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_promises_are_kept(simulation: Simulation, runs: int, real: RealSets) -> None:
    """As far as so few runs can tell."""
    found = simulation(runs, generator(1, simulation.__name__), real)
    assert found and not [one for one in found if one.ok is False]
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert all(f"| {calibration.escaped(one.claim)} |" in page for one in found)  # the table of the full run


def test_the_same_generator_gives_the_same_rates(real: RealSets) -> None:
    first, again = (neurons.power(20, generator(3, "power"), real) for _ in range(2))
    assert first == again
    few = {one.setting: one for one in first if "m = 100" in one.setting}
    assert all(one.beside == ("Holm", 0.0) and one.rate > 0.1 for one in few.values())  # 100 sets are not too few


@pytest.mark.parametrize(
    ("bound", "found", "ok"),
    [
        ("at most", 0.05, True),
        ("at most", 0.01, True),
        ("at most", 0.09, False),
        ("at least", 0.09, True),
        ("at least", 0.01, False),
        ("about", 0.01, False),
        ("about", 0.06, True),
        ("near", 0.12, True),
        ("near", 0.25, False),
        ("shown", 0.9, None),
    ],
)
def test_a_promise_is_kept_within_monte_carlo_error(bound: str, found: float, ok: bool | None) -> None:
    values = np.arange(1000) < 1000 * found
    assert rate("claim", "setting", values, bound, 0.05).ok is ok  # type: ignore[arg-type]


def test_the_table() -> None:
    rates = [
        rate("P(|t|)", "few", [True, False], "at most", 0.05),
        Rate("power", "many facts", 0.8, 0.01, 100, beside=("Holm", 0.5)),
    ]
    plain, marked = calibration.text_of(rates, False).splitlines(), calibration.text_of(rates, True).splitlines()
    assert plain[0].split() == ["claim", "setting", "measured", "runs", "promised", "ok?", "beside"]
    assert "0.800 +- 0.010" in plain[2] and plain[2].endswith("Holm: 0.500") and len(plain) == 3
    assert marked[1] == "|---|---|---|---|---|---|---|" and marked[2].startswith("| P(\\|t\\|) | few |")
    assert {line.count(" | ") for line in marked[2:]} == {6}
