"""``harness plan``: what a handful of control sets says of runs to come, without a look at the selected neurons."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import Silent
from statistics_tools import measure

from harness.conditions.conditions import Condition
from harness.files.terminal import Terminal
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.report.outlook import show
from harness.running import planning
from harness.running.execute import plan
from harness.running.outlook import outlook
from harness.running.planning import Pilot, Times, pilot
from harness.running.spec import RunSpec
from harness.statistics import Spread, detectable, step_down_min_p
from harness.statistics.power import cautious

Harness = Callable[..., tuple[int, str, str]]

LASTING, FACT = 0.05, 0.4
"""How control sets differ for good, and what one fact adds."""


def values(sets: int, facts: int, rng: np.random.Generator) -> np.ndarray:
    """A measure of each set and fact [sets, facts] whose mean over all sets and facts is 0."""
    return LASTING * rng.normal(size=(sets, 1)) + FACT * rng.normal(size=(sets, facts))


def seen(sets: int = 100, facts: int = 80, seed: int = 0) -> Pilot:
    """A pilot of one measure, on half of its items."""
    found = values(sets + 1, facts, np.random.default_rng(seed))
    one = measure(np.vstack([np.zeros(facts), found]), unit="nats", scale=1.0, primary=True, name="shift")
    return Pilot((("metric", one),), np.arange(facts), 2 * facts, None, 999, "closed_form", Times(2.0, 0.5, 0.1, 0.001))


def test_it_says_how_sets_and_facts_vary() -> None:
    [row] = outlook(seen(1000), 0, 400)["measures"]
    assert row["sd_cluster"] == pytest.approx(FACT, rel=0.1)
    assert row["sd_sets"] == pytest.approx(math.hypot(LASTING, FACT / math.sqrt(80)), rel=0.1)
    assert 0.8 * LASTING < row["sd_lasting"] < 1.5 * LASTING  # at most so much
    above = [x["above"] for x in row["detectable"]]
    assert [x["n_clusters"] for x in row["detectable"]] == [80, 100, 300, 1000] and sorted(above, reverse=True) == above
    assert row["detectable_at_all"]["above"] > 1.5 * LASTING


def test_what_it_asks_for_is_enough() -> None:
    """Runs with as many facts and control sets as a plan asks for find the effect in most cases."""
    rng, found = np.random.default_rng(1), []
    for seed in range(12):
        said = outlook(seen(seed=seed), 0, 200, effect=0.2)["needed"]
        least = next(x for x in said if x["controls"] == 99)
        assert least["limit"] == 2 * least["n_clusters"]
        assert least["seconds"] == pytest.approx(2 + 0.5 * least["limit"] + least["n_clusters"] * (0.1 + 0.001 * 99))
        for _ in range(25):
            run = values(100, least["n_clusters"], rng).mean(axis=1)
            run[0] = 0.2 + FACT / math.sqrt(least["n_clusters"]) * rng.normal()
            found += [p is not None and p <= 0.05 for p in step_down_min_p(run[:1], run[None, 1:])]
    assert 0.7 <= np.mean(found) <= 0.97


def test_an_effect_within_the_random_sets_is_never_found() -> None:
    assert outlook(seen(), 0, 200, effect=0.05)["needed"] == []
    assert outlook(seen(), 0, 200)["needed"] is None
    below = outlook(seen(), 0, 200, effect=-0.2)["needed"]
    assert [x["seconds"] for x in below] == sorted(x["seconds"] for x in below)


def shown(said: Any) -> str:
    """What the terminal has of it."""
    file = io.StringIO()
    show(Terminal(file=file, width=120), said)
    return file.getvalue()


def test_an_effect_that_no_amount_of_data_finds() -> None:
    assert "No amount of data is enough" in shown(outlook(seen(), 0, 200, effect=1e-6))


def test_sets_that_are_all_alike_tell_nothing() -> None:
    found = seen()
    [(_, one)] = found.measures
    alike = replace(found, measures=(("metric", replace(one, numerator=np.zeros((*one.values.shape, 80)))),))
    said = outlook(alike, 0, 200, effect=0.1)
    [row] = said["measures"]
    assert said["needed"] == [] and row["detectable_at_all"] == {"above": None, "below": None}
    assert row["sd_sets"] == 0 and row["sd_lasting"] is None
    assert "Random sets are all alike" in shown(said)


def test_few_sets_make_a_plan_careful() -> None:
    spread = Spread(0.1, 0.06, 100)
    few, many = cautious(spread, 12), cautious(spread, 1000)
    assert few.sets > 1.15 * many.sets > 1.15 * spread.sets and few.noise == spread.noise
    noise_only = cautious(Spread(0.1, 0.11, 100), 100)  # all of it could be noise, or some of it not
    assert noise_only.of(math.inf)[0] == pytest.approx(0.1 * math.sqrt(99 / 86.7 - 1), rel=0.1)


@pytest.mark.parametrize(("k", "m", "low", "high"), [(1, 39, 0.65, 0.85), (1, 99, 0.7, 0.88), (6, 99, 0.7, 0.9)])
def test_what_it_calls_detectable_is_found_in_four_of_five_runs(k: int, m: int, low: float, high: float) -> None:
    rng, noise, hits = np.random.default_rng(k * m), 0.7, 0
    effect = detectable(Spread(math.hypot(1, noise), noise, 50), 50, m, k)
    for _ in range(400):
        rows = math.hypot(1, noise) * rng.normal(size=(k, m + 1))
        rows[0, 0] = effect + noise * rng.normal()
        p = step_down_min_p(rows[:, 0], rows[:, 1:])[0]
        hits += p is not None and p <= 0.05
    assert low <= hits / 400 <= high


def test_the_selected_neurons_are_not_treated(monkeypatch: pytest.MonkeyPatch, small_facts: Path) -> None:
    treated: list[Condition] = []
    observe = planning.border.observe

    def watched(task: Any, engine: Any, prompts: Any, conditions: Sequence[Condition], progress: Any = None) -> Any:
        treated.extend(conditions)
        return observe(task, engine, prompts, conditions, progress)

    monkeypatch.setattr(planning.border, "observe", watched)
    spec = RunSpec.model_validate(
        {
            "name": "plan",
            "task": parse_spec(f"knowledge_conflict:data={small_facts}", "--task"),
            "selector": "neurons:neurons=[3.0,3.1,3.2]",
            "intervention": "mean",
            "controls": 30,
        }
    )
    found = pilot(plan(spec, catalogue()), Silent(), 5)
    chosen = {(3, 0), (3, 1), (3, 2)}
    units = [{(unit.layer, unit.index) for unit in x.units} for x in treated if x.units]
    assert units and all(x != chosen and len(x) == 3 for x in units)
    assert found.controls == 30 and len(found.measures[0][1].values) == 6
    assert found.times.prompt > 0 and found.times.condition >= 0


@pytest.fixture
def command(small_facts: Path) -> list[str]:
    """A small plan."""
    task = f"knowledge_conflict:data={small_facts}"
    given = ["--selector", "entropy:top=3,rule=tighidet2025", "--intervention", "mean", "--sets", "5", "--limit", "20"]
    return ["plan", "--task", task, *given, "--quiet"]


def test_the_command(harness: Harness, command: list[str]) -> None:
    code, out, err = harness(*command, "--json")
    assert code == 0, err
    first, again = json.loads(out), json.loads(harness(*command, "--json")[1])
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert first["controls"] == 999 and first["sets"] == 4 and len(first["measures"]) == 7
    code, out, err = harness(*command, "--measure", "GTS", "--effect", "50")
    assert code == 0 and "Smallest effect" in out and "To find 50 points of global transition score" in out
    assert "change of entropy" not in out
    assert "Nothing below the mean of random sets" in harness(*command, "--measure", "GTS", "--effect", "-99")[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--effect", "0"], "--effect: expected a distance from random sets"),
        (["--effect", "nan"], "--effect: expected a distance from random sets"),
        (["--sets", "2"], "--sets: expected 5 or more, got 2"),
        (["--controls", "2"], "only 2 control sets cannot tell how sets differ; it takes 5 or more"),
        (["--effect", "1"], "--effect: it is in the unit of one measure; add --measure, one of CKCR, PKCR"),
        (["--measure", "GTX"], '--measure: "GTX" is no primary measure. Did you mean "GTS"?'),
        (["--selector", "entrpy"], "entropy"),
        (["--metric", "transitions"], "--metric: none of the metrics has a primary measure"),
    ],
)
def test_mistakes(harness: Harness, command: list[str], more: list[str], said: str) -> None:
    code, out, err = harness(*command, *more)
    assert code == 2 and said in " ".join(err.split()) and out == ""
