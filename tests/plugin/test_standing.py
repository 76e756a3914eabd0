"""Where selected units stand in their layer, and what is said of those that are ordinary there."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.errors import HarnessError
from harness.files.terminal import Terminal
from harness.plugin import standing
from harness.report import console, page
from harness.report.markdown import export
from harness.results.folder import read_record

N = 101
EVERY = tuple(Neuron(0, i) for i in range(N)) + tuple(Neuron(1, i) for i in range(N))


def selection(*chosen: Neuron, **more: Any) -> Selection:
    """Layer 1's norms are ten times those of layer 0; a neuron's number is the percent of the others below it."""
    scores = {"norm": np.concatenate([np.arange(N), 10.0 * np.arange(N)]), "spread": np.tile(np.arange(N), 2)}
    return Selection(chosen, "r", EVERY, scores, special={"norm": "high", "spread": "low"}, **more)


def test_percentiles_are_among_the_others_of_the_same_layer() -> None:
    found = standing.standings(selection(Neuron(0, 100), Neuron(0, 0), Neuron(1, 30)))
    assert [x.percentiles for x in found] == [
        {"norm": 100.0, "spread": 100.0},
        {"norm": 0.0, "spread": 0.0},
        {"norm": 30.0, "spread": 30.0},
    ]
    assert [x.ordinary for x in found] == [("spread",), ("norm",), ("norm", "spread")]


def test_ties_count_half_and_nothing_is_said_without_a_value() -> None:
    values = np.array([np.nan, *[1.0] * 30])
    found = standing.standings(
        Selection((Neuron(0, 0), Neuron(0, 5), Neuron(9, 9)), "r", EVERY[:31], {"x": values}, special={"x": "high"})
    )
    assert [x.percentiles for x in found] == [{}, {"x": 50.0}, {}]
    assert [x.ordinary for x in found] == [(), ("x",), ()]


def test_p_values_have_no_percentile() -> None:
    scores = {name: np.arange(31.0) for name in ("p", "p_adjusted", "power")}
    [found] = standing.standings(Selection((Neuron(0, 0),), "r", EVERY[:31], scores))
    assert found.percentiles == {"power": 0.0}


def test_few_others_make_nothing_ordinary() -> None:
    few = Selection((Neuron(0, 0),), "r", EVERY[:20], {"x": np.arange(20.0)}, special={"x": "high"})
    assert standing.standings(few)[0] == standing.Standing({"x": 0.0}, ())


@pytest.mark.parametrize(
    ("chosen", "begins"),
    [
        (
            [Neuron(0, 30)],
            "The selected neuron is ordinary among the others of its layer: 0.30 (norm above 30%, spread",
        ),
        ([Neuron(0, 10), Neuron(0, 20)], "The 2 selected neurons are ordinary among the others of their layer: 0.10 "),
        ([Neuron(0, 10), Neuron(1, 90)], "The 2 selected neurons are ordinary among the others of their layer"),
    ],
)
def test_the_warning_names_every_ordinary_neuron(chosen: list[Neuron], begins: str) -> None:
    of = selection(*chosen)
    said = standing.warning(of, standing.standings(of))
    assert said is not None and said.startswith(begins)
    assert said.endswith("What is sought has norm above 75% or more, spread above 25% or less of them")


def test_nothing_is_said_of_what_is_out_of_the_ordinary() -> None:
    of = Selection((Neuron(0, 90),), "r", EVERY[:N], {"norm": np.arange(N)}, special={"norm": "high"})
    assert standing.warning(of, standing.standings(of)) is None
    without = Selection((Neuron(0, 3),), "r")
    assert standing.warning(without, standing.standings(without)) is None


@pytest.mark.parametrize(
    ("special", "said"),
    [
        ({"nrm": "high"}, 'selector s: special names the score "nrm", which there is not. Did you mean "norm"?'),
        ({"norm": "big"}, """selector s: special of the score "norm" is 'big'; expected "high" or "low"."""),
    ],
)
def test_an_end_that_is_none_is_refused(special: dict[str, Any], said: str) -> None:
    of = Selection((Neuron(0, 3),), "r", EVERY[:N], {"norm": np.arange(N)}, special=special)
    with pytest.raises(HarnessError) as caught:
        standing.check_special(of, "selector s")
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_facts: Path) -> Path:
    """A rule that lets small neurons pass: the highest rho, whatever the norm."""
    task, output = f"knowledge_conflict:data={small_facts}", tmp_path_factory.mktemp("runs")
    return small_runs.finish(
        output, task=task, selector="entropy:top=200,rule=stolfo2024", intervention="mean", controls=3
    )


def test_every_report_says_where_neurons_stand(run: Path, tmp_path: Path) -> None:
    record = small_runs.record(run)
    chosen = record["selection"]["neurons"]
    rows = [json.loads(line) for line in (run / "neurons.jsonl").read_text(encoding="utf-8").splitlines()]
    for neuron in chosen:
        below = [row["norm"] < neuron["norm"] for row in rows if row["neuron"] != neuron["neuron"]]
        assert neuron["norm_percentile"] == pytest.approx(100 * np.mean(below), abs=1e-3)
    ordinary = [neuron for neuron in chosen if "norm" in neuron.get("ordinary_in", ())]
    assert ordinary == [neuron for neuron in chosen if neuron["norm_percentile"] < 75] != []
    warning = record["selection"]["warning"]
    first = next(neuron["neuron"] for neuron in chosen if "ordinary_in" in neuron)
    assert warning and f"{first} (" in warning and re.search(r", and \d+ more\. What is sought", warning)
    terminal = Terminal(file=io.StringIO(), width=200)
    console.show(terminal, read_record(run), run)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]  # the StringIO above
    assert "ordinary among the others of" in shown and f"({chosen[0]['norm_percentile']:.0f}%)" in shown
    html = page.write_page(run).read_text(encoding="utf-8")
    assert f"({chosen[0]['norm_percentile']:.0f}%)" in html and "ordinary among the others of" in html
    (run / "result.json").write_text(json.dumps(record | {"figures": []}), encoding="utf-8")  # none were drawn
    markdown = export([run], tmp_path / "page", "t", "d")[0].read_text(encoding="utf-8")
    assert "ordinary among the others of" in markdown and f"norm {chosen[0]['norm_percentile']:.0f}%" in markdown
