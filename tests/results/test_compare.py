"""Comparing finished runs: what is paired and judged, what is not, and the command."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden import golden
from small_runs import finish

from harness.errors import HarnessError
from harness.files.store import read_json, write_json
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import ComponentSpec
from harness.report import comparison
from harness.results.compare import compare, differing, selections
from harness.results.comparison import Comparison
from harness.results.pairing import open_run
from harness.results.record import Identity, RunRecord

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small runs that differ in the intervention, in the selection, and in the number of facts."""
    output = tmp_path_factory.mktemp("reports")
    names = ("transitions", "conversion_ratios", "entropy_change", "log_odds")
    shared = {
        "model": ComponentSpec("demo", {}),
        "task": ComponentSpec("knowledge_conflict", {"data": str(small_facts)}),
        "metrics": tuple(ComponentSpec(name, {}) for name in names),
        "controls": 9,
    }
    entropy, mean = ComponentSpec("entropy", {}), ComponentSpec("mean", {})
    return {
        "mean": finish(output, selector=entropy, intervention=mean, **shared),
        "plus": finish(output, selector=entropy, intervention=ComponentSpec("mean_plus_sigma", {}), **shared),
        "top": finish(output, selector=ComponentSpec("entropy", {"top": "3"}), intervention=mean, limit=40, **shared),
    }


def test_outcomes_come_back_as_the_metrics_had_them(runs: dict[str, Path]) -> None:
    found = open_run(runs["mean"])
    assert found.outcomes is not None and found.outcomes.selection is not None
    record = read_json(runs["mean"] / "result.json")
    assert [str(unit) for unit in found.outcomes.selection.units] == [
        x["neuron"] for x in record["selection"]["neurons"]
    ]
    scores = found.outcomes.selection.scores
    assert {"rho", "logit_var", "norm", "norm_mediated"} < set(scores)
    assert all(set(scores) < set(row) for row in record["selection"]["neurons"])
    conditions = [(condition.name, condition.role) for condition in found.outcomes.conditions]
    assert conditions[:3] == [("baseline", "baseline"), ("treated", "treated"), ("control-0000", "control")]
    assert {role for _, role in conditions[3:]} == {"control"}
    assert found.outcomes.categories["source"] == ("CK", "PK", "ND")
    assert len(found.outcomes.answers) == 2 and len(found.outcomes.answers[0]) == len(found.prompts)
    assert found.prompts[0].fields["counter_object"] in found.prompts[0].text
    assert found.prompts[0].fields.keys().isdisjoint(found.outcomes.values)


def test_two_interventions_on_the_same_prompts(runs: dict[str, Path]) -> None:
    found = compare([runs["mean"], runs["plus"]], catalogue(), resamples=200).to_dict()
    assert found["differing"] == [
        {"field": "intervention", "values": ["mean", "mean_plus_sigma"]},
        {"field": "intervention.sigmas", "values": [None, 3.0]},
    ]
    assert found["selections"][0]["overlap"]["iou"] == 1.0
    assert found["pairs"][0]["paired"] == "prompts"
    records = [{row["name"]: row for row in read_json(runs[x] / "result.json")["measures"]} for x in ("mean", "plus")]
    rows = {row["name"]: row for row in found["measures"]}
    assert set(rows) == set(records[0])
    for name, row in rows.items():
        [difference] = row["differences"]
        a, b = (record[name] for record in records)
        assert difference["paired"] and [x["value"] for x in row["runs"]] == [a["value"], b["value"]]
        if a["value"] is not None and b["value"] is not None:
            assert difference["difference"] == pytest.approx(b["value"] - a["value"], abs=1e-9)
            beyond = [x["value"] - x["controls"]["mean"] for x in (a, b)]
            assert difference["beyond_controls"] == pytest.approx(beyond[1] - beyond[0], abs=1e-9)
        if difference["low"] is not None:
            assert difference["low"] <= difference["difference"] <= difference["high"]
        assert (difference["p_holm"] is not None) == row["primary"]
        assert (difference["mcnemar"] is not None) == (a["count"] is not None)
    primary = [row["differences"][0] for row in found["measures"] if row["primary"]]
    assert found["family"] == len(primary) == 6
    smallest = min(primary, key=lambda x: x["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 6 * smallest["p"]))
    assert rows["entropy_change"]["differences"][0]["p_holm"] < 0.05
    assert found == compare([runs["mean"], runs["plus"]], catalogue(), resamples=200).to_dict()


def test_mcnemar_of_a_run_is_what_its_samples_say(runs: dict[str, Path]) -> None:
    def changed(folder: Path) -> list[bool]:
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        return [a["source"] != b["source"] for a, b in zip(rows[::2], rows[1::2], strict=True)]

    found = compare([runs["mean"], runs["plus"]], catalogue(), resamples=100).to_dict()
    [score] = [row["differences"][0]["mcnemar"] for row in found["measures"] if row["name"] == "GTS"]
    pairs = list(zip(changed(runs["mean"]), changed(runs["plus"]), strict=True))
    assert (score["first_only"], score["second_only"]) == (pairs.count((True, False)), pairs.count((False, True)))


def test_other_facts_and_another_selection(runs: dict[str, Path]) -> None:
    found = compare([runs["mean"], runs["top"], runs["plus"]], catalogue(), resamples=100).to_dict()
    fields = {row["field"]: row["values"] for row in found["differing"]}
    assert fields == {
        "selector.top": [6, 3, 6],
        "intervention": ["mean", "mean", "mean_plus_sigma"],
        "intervention.sigmas": [None, None, 3.0],
        "limit": [None, 40, None],
    }
    assert [(x["first"], x["second"]) for x in found["selections"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert found["selections"][0]["overlap"]["iou"] == 0.5
    assert found["pairs"][0]["paired"] == "items" and 2 <= found["pairs"][0]["n_items"] <= 40
    assert found["pairs"][0]["n_same"] < found["pairs"][0]["n_first"] + found["pairs"][0]["n_second"]
    assert found["family"] == 12
    [entropy] = [row for row in found["measures"] if row["name"] == "entropy_change"]
    assert entropy["differences"][0]["second"] != entropy["runs"][0]["value"]
    assert entropy["differences"][0]["difference"] == pytest.approx(
        entropy["differences"][0]["second"] - entropy["differences"][0]["first"]
    )


def changed_copy(folder: Path, to: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(folder, to)
    record = read_json(to / "result.json")
    change(record)
    write_json(to / "result.json", record)
    return to


def test_no_interval_is_made_up_for_runs_that_are_not_paired(runs: dict[str, Path], tmp_path: Path) -> None:
    other = changed_copy(runs["plus"], tmp_path / "o", lambda record: record["identity"].update(data_sha256="0" * 64))
    found = compare([runs["mean"], other], catalogue(), resamples=100).to_dict()
    assert found["pairs"][0]["why"] == "not paired: the data differ" and found["family"] == 0
    for row in found["measures"]:
        [difference] = row["differences"]
        assert not difference["paired"] and difference["why"] == "not paired: the data differ"
        assert all(difference[key] is None for key in ("low", "high", "p", "p_holm", "mcnemar", "beyond_low"))
    said = comparison.words(Comparison.read(found, "comparison.json"))
    assert said == ["B and A: nothing is tested, because no primary measure is paired."]


def test_a_metric_that_gives_another_value_than_the_record_is_not_trusted(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    def raise_score(record: dict[str, Any]) -> None:
        [score] = [row for row in record["measures"] if row["name"] == "GTS"]
        score["value"] += 0.5

    found = compare(
        [runs["mean"], changed_copy(runs["plus"], tmp_path / "o", raise_score)], catalogue(), resamples=100
    ).to_dict()
    said = {row["name"]: row["differences"][0] for row in found["measures"]}
    assert said["GTS"]["why"] == "not paired: the metric conversion_ratios that is installed gives another value"
    assert said["CKCR"]["paired"] and said["GTS"]["p_holm"] is None and found["family"] == 5


def test_a_metric_that_is_not_installed_and_lost_outcomes(runs: dict[str, Path], tmp_path: Path) -> None:
    def rename(record: dict[str, Any]) -> None:
        for row in [*record["identity"]["components"]["metrics"], *record["measures"]]:
            for key in ("name", "metric"):
                if row.get(key) == "log_odds":
                    row[key] = "gone"

    copies = [changed_copy(runs[x], tmp_path / x, rename) for x in ("mean", "plus")]
    found = compare(copies, catalogue(), resamples=100).to_dict()
    why = [row["differences"][0]["why"] for row in found["measures"] if row["metric"] == "gone"]
    assert why and all('no metric is called "gone"' in x for x in why)
    (copies[0] / "outcomes.safetensors").unlink()
    found = compare(copies, catalogue(), resamples=100).to_dict()
    assert "outcomes.safetensors: there is no such file" in found["pairs"][0]["why"]


def test_identities_are_told_by_field() -> None:
    component = {"version": "1", "params": {}, "distribution": "d", "distribution_version": "1"}
    kinds = {kind: {"name": "x", **component} for kind in ("model", "task", "selector", "intervention")}

    def identity(seed: int, weights: str, selector: dict[str, Any], metrics: list[dict[str, Any]]) -> Identity:
        found = golden("record.json")["identity"] | {"seed": seed}
        found["model"]["weights_sha256"] = weights
        found["components"] = {**kinds, "selector": selector, "metrics": metrics}
        return Identity.read(found, "identity")

    first = identity(0, "a" * 64, kinds["selector"], [])
    other = {"name": "y", "version": "2", "params": {"top": 3}, "distribution": "e", "distribution_version": "1"}
    second = identity(1, "b" * 64, other, [{"name": "n", **component, "params": {"k": 1}}])
    rows = {row.field: row.values for row in differing([first, second])}
    assert rows == {
        "selector": ["x", "y"],
        "selector.version": ["1", "2"],
        "selector.distribution": ["d", "e"],
        "selector.top": [None, 3],
        "metrics": ["", "n"],
        "seed": [0, 1],
        "model.weights_sha256": ["a" * 64, "b" * 64],
    }
    assert comparison.short("a" * 64) == "a" * 12 and comparison.short(None) == "-"


def test_selections_of_other_shapes_are_not_compared() -> None:
    def record(unit: str = "neuron", weights: str = "w", d_mlp: int = 10) -> RunRecord:
        found = golden("record.json")
        found["identity"]["model"] |= {"n_layers": 4, "d_mlp": d_mlp, "n_heads": 4, "weights_sha256": weights}
        names = ["L1H2", "L1H3"] if unit == "head" else ["3.1", "2.5"]
        found["selection"] |= {"unit": unit, "neurons": [{"neuron": name} for name in names]}
        return RunRecord.read(found, "record.json")

    both = ("A", "B")
    assert selections(both, record(), record("head")).why == "one run selected neurons, the other heads"
    assert selections(both, record(), record(d_mlp=11)).why == "the models have other shapes"
    heads = selections(both, record("head"), record("head", d_mlp=11))
    assert heads.overlap is not None and heads.overlap.p == pytest.approx(1 / 6)
    two = selections(both, record(), record(weights="v"))
    assert two.overlap is not None and two.overlap.p == pytest.approx(1 / 100) and "two models" in two.why
    assert "two models" in comparison.selected(two)


def test_formats(harness: Harness, runs: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["compare", runs["mean"], runs["plus"], "--resamples", "100"]
    code, out, err = harness(*arguments, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and found["runs"][1]["label"] == "B"
    code, out, _ = harness(*arguments, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 2 * len(found["measures"])
    for row in rows[1::2]:
        [measure] = [x for x in found["measures"] if x["name"] == row["measure"]]
        wanted = measure["differences"][0]["difference"]
        assert row["minus_difference"] == ("" if wanted is None else str(wanted)) and row["paired"] == "True"
    page = tmp_path / "page.md"
    assert harness(*arguments, "--out", page)[:2] == (0, "")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Comparison of small, small\n") and "| field | A | B |" in text
    code, out, _ = harness(*arguments)
    assert code == 0 and "paired: the same" in out and "In words" in out


def test_mistakes_are_one_sentence(harness: Harness, runs: dict[str, Path], tmp_path: Path) -> None:
    for arguments, said in (
        ([runs["mean"]], "compare: expected 2 to 26 finished runs, got 1."),
        ([runs["mean"], tmp_path], f"{tmp_path / 'result.json'}: there is no finished run here."),
        ([runs["mean"], runs["plus"], runs["mean"] / "result.json"], "result.json is named twice; a run differs in"),
        ([runs["mean"], runs["plus"], "--format", "markdwn"], 'got "markdwn". Did you mean "markdown"?'),
    ):
        code, out, err = harness("compare", *arguments)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    with pytest.raises(HarnessError, match="got 27"):
        compare([runs["mean"]] * 27, catalogue())
