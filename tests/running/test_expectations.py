"""What is told of a run before its conditions are run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from small_runs import Silent, finish, spec

from harness.plugin.catalogue import catalogue
from harness.running import execute as run
from harness.running.expectations import Expected, of_plan
from harness.statistics.power import items_for, least_share

Harness = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("items", [6, 7, 20, 140, 2180])
def test_the_smallest_share_is_found_in_four_of_five_runs_and_a_smaller_one_is_not(items: int) -> None:
    share = least_share(items)
    assert share is not None
    found = [binomtest(k, k, 0.5).pvalue <= 0.05 if k else False for k in range(items + 1)]  # all change to one side

    def power(share: float) -> float:
        return float(binom.pmf(np.arange(items + 1), items, share) @ np.array(found))

    assert power(share) == pytest.approx(0.8, abs=1e-6) and power(share * 0.97) < 0.8


def test_few_items_find_nothing() -> None:
    assert least_share(5) is None and least_share(0) is None


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_so_many_items_and_no_fewer_find_a_share(share: float) -> None:
    n = items_for(share)
    least = [least_share(n), least_share(n - 1)]
    assert least[0] is not None and least[0] <= share and (least[1] is None or least[1] > share)


def test_the_sentence() -> None:
    assert Expected(140, 600, 2180).sentence(420) == (
        "420 prompts of 140 items: at best a change in 5.6% of them is found (80% of runs, p of 0.05 or less); 1% "
        "would take about 790 items, --limit 3,386, and the data have 2,180"
    )
    assert Expected(140, 300, 2180).sentence(420).endswith("1% would take about 790 items, --limit 1,693")
    assert "at best no change is found" in Expected(3, 5, None).sentence(9)
    assert Expected(2000, 2180, 2180).sentence(6000).endswith("(80% of runs, p of 0.05 or less)")


def test_a_dry_run_tells_at_most(harness: Harness, small_facts: Path, tmp_path: Path) -> None:
    command = ["eval", "--selector", "entropy", "--intervention", "mean", "--dry-run", "--task"]
    facts = f"knowledge_conflict:data={small_facts}"
    expected = [json.loads(harness(*command, facts, *more)[1])["expected"] for more in ([], ["--limit", 20])]
    assert [(x["items_at_most"], x["items_in_data"]) for x in expected] == [(70, 70), (20, 70)]
    assert expected[1]["smallest_share"] == pytest.approx(least_share(20))
    assert json.loads(harness(*command, "mediation")[1])["expected"] is None
    assert of_plan(run.plan(spec("absent", tmp_path / "absent.jsonl"), catalogue())) is None


def test_a_run_tells_of_its_prompts(small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(Silent, "tell", lambda self, sentence: told.append(sentence))
    task = f"knowledge_conflict:data={small_facts}"
    finish(tmp_path, task=task, selector="random", intervention="zero", controls=3, limit=15)
    [sentence] = told
    n = int(sentence.split()[0])
    assert sentence.startswith(f"{n} prompts of {n // 3} items: at best") and "and the data have 70" in sentence
