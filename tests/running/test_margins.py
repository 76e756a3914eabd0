"""--margin NAME=D: the difference that matters; a measure that there is not is found before the long work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import record
from strangers import Average, PlainTask, make, misbehaving

from harness.errors import HarnessError
from harness.plugin.records import Measurement, Outcomes, Prepared, Prompt
from harness.running.registry import load_registry
from harness.statistics import Measure
from harness.testing import prompts_of

Harness = Callable[..., tuple[int, str, str]]


class Judged(Average):
    """The mean entropy, and, of the prompts that say so, the mean entropy of these; primary both."""

    def measure(self, outcomes: Outcomes) -> Measurement:
        values, late = outcomes["entropy"], np.array([int(x.id) >= 10 for x in outcomes.prompts])
        everywhere = np.ones(values.shape, bool)
        found = [Measure("entropy", "entropy", "nats", values, everywhere, primary=True)]
        found += [Measure("late", "of late ones", "nats", values, everywhere & late, primary=True)] * bool(late.any())
        return Measurement((*found, Measure("other", "not judged", "nats", values, everywhere)))


class Many(PlainTask):
    """Twelve prompts."""

    def prepare(self, engine: Any, limit: int | None, seed: int) -> Prepared:
        return Prepared(tuple(Prompt(str(i), "", x, str(i)) for i, x in enumerate(prompts_of(engine.model, n=12))))

    def observe(self, engine: Any, prompts: Any, conditions: Any, progress: Any = None) -> Outcomes:
        SEEN.append(len(conditions))
        return super().observe(engine, prompts, conditions, progress)


SEEN: list[int] = []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "entrpy",
            'no primary measure of this run is called "entrpy". Did you mean "entropy"? There are: entropy, late.',
        ),
        ("other", 'is called "other". There are: entropy, late.'),  # nothing is concluded from it
    ],
)
def test_a_measure_that_is_not_judged_is_refused_before_the_controls(name: str, says: str, tmp_path: Path) -> None:
    SEEN.clear()
    with pytest.raises(HarnessError) as error:
        make(tmp_path, Many, Judged, margins={name: 0.1}, controls=30)
    assert says in str(error.value) and SEEN == [2, 2]


@pytest.mark.parametrize("name", ["entropy", "late"])
def test_measures_of_few_prompts_are_found_too(name: str, tmp_path: Path, blank_figures: None) -> None:
    SEEN.clear()
    found = record(make(tmp_path, Many, Judged, margins={name: 0.1}))
    assert found["identity"]["margins"] == {name: 0.1}
    assert SEEN[:-1] == [2] * (1 if name == "entropy" else 2) and SEEN[-1] == 2 + 3


def test_a_metric_that_needs_more_prompts_has_them(tmp_path: Path, blank_figures: None) -> None:
    def measure(self: Any, outcomes: Outcomes) -> Measurement:
        if len(outcomes.prompts) < 10:
            raise ValueError("too few")
        return Judged.measure(self, outcomes)

    needy = misbehaving(Judged, measure=measure)
    assert record(make(tmp_path, Many, needy, margins={"late": 1}))["identity"]["margins"] == {"late": 1}


@pytest.mark.parametrize(
    "text", ["entropy", "entropy=", "=1", "entropy=x", "entropy=0", "entropy=-1", "entropy=nan", "entropy=inf"]
)
def test_a_margin_is_a_number_above_0(text: str, harness: Harness) -> None:
    command = ["eval", "-t", "knowledge_conflict", "-s", "entropy", "-i", "mean", "--dry-run", "--margin", text]
    code, _, err = harness(*command)
    assert (
        code == 2
        and f'--margin: expected a measure and a number above 0, for example entropy_change=0.05, got "{text}"' in err
    )


def test_margins_of_a_measure_are_given_once(harness: Harness) -> None:
    command = ["eval", "-t", "knowledge_conflict", "-s", "entropy", "-i", "mean", "--dry-run"]
    code, _, err = harness(*command, "--margin", "a=1", "--margin", "a=2")
    assert code == 2 and "--margin: a is given twice." in err
    assert harness(*command, "--margin", "a=1", "--margin", "b=2e-3")[0] == 0


RUNS = """\
runs:
  one: {task: knowledge_conflict, selector: entropy, intervention: mean, hold_out: 0.4, margins: {entropy_change: 0.05}}
  two: {extends: one, hold_out: 0, margins: {}}
"""


def test_runs_of_a_registry_say_both(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(RUNS, encoding="utf-8")
    runs = load_registry(path).runs
    assert [(x.hold_out, x.margins) for name in ("one", "two") for x in runs[name]] == [
        (0.4, {"entropy_change": 0.05}),
        (0, {}),
    ]
    for wrong, place in (
        ("hold_out: 1", "hold_out"), ("hold_out: -0.1", "hold_out"), ("margins: {a: 0}", "margins"),
        ("margins: {a: .inf}", "margins"), ("margins: [a]", "margins"),
    ):  # fmt: skip
        path.write_text(RUNS + f"  three: {{extends: one, {wrong}}}\n", encoding="utf-8")
        with pytest.raises(HarnessError, match=rf"line 4.*parameter \"{place}"):
            load_registry(path)
