"""What a run tells of itself before its conditions are run, without a look at what is treated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import Silent, finish

from harness.conditions.conditions import Condition
from harness.plugin import border
from harness.running import forecast
from harness.running.outlook import rows
from harness.running.planning import Pilot, Times
from harness.statistics import Measure
from harness.statistics.power import least_share

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_what_is_told_is_what_a_plan_finds_for_as_many_items() -> None:
    """A mean over all 20 items that were looked at, and a share that counts in half of them and never happens."""
    rng = np.random.default_rng(0)
    moved, everywhere = rng.normal(size=(14, 20)), np.ones((14, 20))
    half = np.broadcast_to(np.arange(20) < 10, (14, 20))
    measures = (
        ("m", Measure("mean", "a mean", "nats", moved, everywhere, primary=True)),
        ("m", Measure("share", "a share", "%", np.zeros((14, 20)), half, scale=100.0, primary=True)),
    )
    mean, share = rows(measures, np.arange(20), 0, 200)
    pilot = Pilot(measures, np.arange(20), 20, None, 99, "closed_form", Times(0, 0, 0, 0))
    plan = {x["n_clusters"]: x["above"] for x in mean.to_dict(pilot)["detectable"]}
    assert forecast._finds(mean, 300, 99) == f"{plan[300]:.3g} nats"
    best = least_share(150)
    assert best is not None and f"at best a change in {100 * best:.2g}% of the items" in forecast._finds(share, 150, 99)
    assert forecast._finds(share, 3, 99) == "nothing"
    limit = forecast._takes(mean, plan[1000], 300, 600, 99)  # what 1,000 items find, of which 2,000 of the data leave
    assert int(limit.split("--limit ")[1].replace(",", "")) == pytest.approx(2000, abs=4)
    assert "no amount of data" in forecast._takes(share, 1.0, 150, 600, 99)
    assert forecast._counting(150, 300) == " (it counts in about 150 items)" and forecast._counting(300, 300) == ""


def told_by(folder: Path, facts: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(Silent, "tell", lambda self, sentence: told.append(sentence))
    finish(folder, task=f"knowledge_conflict:data={facts},max_new_tokens=2", selector="random", intervention="zero",
           controls=9, limit=20, **more)  # fmt: skip
    return told


def test_a_short_run_says_no_more_than_how_many_items_it_has(
    small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [only] = told_by(tmp_path, small_facts, monkeypatch)
    assert "at best" in only


def test_a_long_run_tells_what_it_finds_and_the_same_is_found(
    small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe, roles = border.observe, []

    def watched(task: Any, engine: Any, prompts: Any, conditions: list[Condition], *rest: Any) -> Any:
        roles.append({condition.edits for condition in conditions if condition.role == "treated"})
        return observe(task, engine, prompts, conditions, *rest)

    plain = finish(tmp_path / "plain", task=f"knowledge_conflict:data={small_facts},max_new_tokens=2",
                   selector="random", intervention="zero", controls=9, limit=20)  # fmt: skip
    monkeypatch.setattr(forecast, "LONG", 1)
    monkeypatch.setattr(border, "observe", watched)
    told = told_by(tmp_path / "told", small_facts, monkeypatch)
    assert "at best" in told[0] and told[1].startswith("Looking ahead, at ") and "under a few control sets" in told[1]
    names = [line.split(":")[0].strip() for line in told[2:]]
    assert "change of entropy" in " ".join(names) and len(names) > 3
    assert all(any(word in line for word in ("nats", "points", "nothing", "alike")) for line in told[2:])
    ahead, run = roles
    assert ahead != run  # in the pilot a control set stands in the place of what is selected
    [folder] = (tmp_path / "told").glob("*/result.json")
    assert folder.read_bytes() == (plain / "result.json").read_bytes()
