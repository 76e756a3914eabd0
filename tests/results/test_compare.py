"""Comparing finished runs: the statistics of pairs, which prompts are paired, what is said and printed.

After a change of the console output that is meant: ``UPDATE_GOLDEN=1 python -m pytest tests/results/test_compare.py``.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import GOLDEN
from scipy.stats import norm, t
from small_runs import finish

from harness.errors import HarnessError
from harness.files.store import read_json, write_json
from harness.files.terminal import Terminal
from harness.plugin.catalogue import catalogue
from harness.plugin.components import ComponentSpec
from harness.plugin.records import Outcomes, Prompt
from harness.report import comparison, comparison_page
from harness.results.compare import compare, differing, selections
from harness.results.comparison import Comparison
from harness.results.pairing import Run, open_run, pair
from harness.results.record import Identity, RunRecord
from harness.statistics import Functional, Measure, chance_overlap, mcnemar, paired_intervals, swap_test

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


# -- statistics of pairs -----------------------------------------------------------------------------------------------


def measure(treated: np.ndarray, controls: np.ndarray | None = None, denominator: np.ndarray | None = None) -> Measure:
    """A share in percent of prompts [n] under treatment, with a baseline of 0 and given controls [m, n]."""
    rows = np.vstack([np.zeros_like(treated), treated, *([] if controls is None else [controls])]).astype(float)
    ones = np.ones_like(rows) if denominator is None else np.broadcast_to(denominator, rows.shape)
    return Measure("share", "share", "%", rows, ones, scale=100.0)


def test_paired_intervals_resample_both_runs_alike() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 60).astype(float)
    second = first.copy()
    second[:6] = 1 - second[:6]
    clusters = np.repeat(np.arange(20), 3)
    controls = rng.integers(0, 2, (5, 60)).astype(float)
    a, b = measure(first, controls), measure(second, controls)
    interval, beyond = paired_intervals(a, b, clusters, clusters, seed=1, resamples=500)
    assert interval is not None and beyond is not None
    assert (beyond.low, beyond.high) == pytest.approx((interval.low, interval.high))  # the same controls cancel
    drawn = np.random.default_rng(1).integers(20, size=(500, 20))  # as the bootstrap of one run draws
    gap = (second - first).reshape(20, 3).sum(axis=1)
    tail = norm.sf(np.sqrt(20 / 19) * t.isf(0.025, 19))  # widened for 20 items
    wanted = np.quantile(100 * gap[drawn].sum(axis=1) / 60, [tail, 1 - tail])
    assert (interval.low, interval.high) == pytest.approx(tuple(wanted))


def test_paired_intervals_take_prompts_in_any_order_and_number() -> None:
    """The second run has one prompt an item where the first has two, and lists its items backwards."""
    first = np.array([1, 0, 1, 1, 0, 0, 1, 0.0])
    a, b = measure(first), measure(first.reshape(4, 2).mean(axis=1)[::-1].copy())
    interval, beyond = paired_intervals(a, b, np.repeat(np.arange(4), 2), np.arange(4)[::-1], seed=0, resamples=200)
    assert interval is not None and (interval.low, interval.high) == pytest.approx((0, 0), abs=1e-9)
    assert beyond is None  # no controls
    with pytest.raises(ValueError, match="same clusters"):
        paired_intervals(a, b, np.repeat(np.arange(4), 2), np.arange(1, 5), seed=0)
    one = np.zeros(4, int)
    assert paired_intervals(b, b, one, one, seed=0) == (None, None)


def exact_swaps(first: np.ndarray, second: np.ndarray) -> float:
    """Share of all exchanges of two vectors whose difference of means is at least the observed one."""
    gap = second - first
    found = [abs(np.dot(signs, gap)) for signs in itertools.product([1, -1], repeat=len(gap))]
    return float(np.mean([x >= abs(gap.sum()) - 1e-12 for x in found]))


def test_the_swap_test_is_the_exchange_of_items() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=10), rng.normal(0.6, size=10)
    items = np.arange(10)
    found = swap_test(measure(first), measure(second), items, items, seed=0, draws=20_000)
    assert found.p == pytest.approx(exact_swaps(first, second), abs=0.012)
    assert (found.differing, found.n) == (10, 10)
    same = swap_test(measure(first), measure(first), items, items, seed=0)
    assert (same.p, same.differing) == (1.0, 0)
    empty = measure(first, denominator=np.zeros(10))
    assert swap_test(empty, empty, items, items, seed=0).p is None


def test_the_swap_test_is_calibrated_where_prompts_of_an_item_are_alike() -> None:
    """Items shift all their prompts: p-values of runs that do not differ are uniform, and small ones are rare."""
    rng = np.random.default_rng(5)
    items = np.repeat(np.arange(30), 4)
    found = []
    for seed in range(300):
        runs = [np.repeat(rng.normal(size=30), 4) + 0.1 * rng.normal(size=120) for _ in "ab"]
        p = swap_test(measure(runs[0]), measure(runs[1]), items, items, seed, draws=199).p
        assert p is not None
        found.append(p)
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_functionals_are_compared_as_ratios_are() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(2, 2, 24))
    items = np.arange(24)
    ratios = [measure(x[1], denominator=np.ones(24)) for x in values]
    terms = [np.stack([np.vstack([x[0] * 0, x[1]]), np.ones((2, 24))], axis=-1) for x in values]
    functionals = [Functional("f", "f", "%", x, lambda s: 100 * s[..., 0] / s[..., 1]) for x in terms]
    options = {"first_clusters": items, "second_clusters": items, "seed": 4}
    a, b = (paired_intervals(*pair, resamples=300, **options)[0] for pair in (ratios, functionals))  # type: ignore[arg-type]
    assert a is not None and b is not None and (a.low, a.high) == pytest.approx((b.low, b.high))
    p, q = (swap_test(*pair, draws=300, **options).p for pair in (ratios, functionals))  # type: ignore[arg-type]
    assert p == q


def test_mcnemar_counts_the_discordant_prompts_that_both_runs_count() -> None:
    first, second = np.zeros(100), np.zeros(100)
    first[:2], second[2:24] = 1, 1
    found = mcnemar(measure(first), measure(second))
    assert (found.first_only, found.second_only, found.n) == (2, 22, 100)
    assert found.p == pytest.approx(2 * sum(np.array([1, 24, 276])) / 2**24)  # binomial tail of 2 of 24
    counted = np.ones(100)
    counted[:12] = 0
    found = mcnemar(measure(first, denominator=counted), measure(second))
    assert (found.first_only, found.second_only, found.n) == (0, 12, 88)
    assert mcnemar(measure(first), measure(first)).p == 1.0


def test_the_chance_of_an_overlap_is_that_of_random_sets() -> None:
    """Against every pair of sets of 2 of 5 and, in another layer, 1 of 3 and 2 of 3."""
    of_one = [
        len({*a} & {*b}) for a in itertools.combinations(range(5), 2) for b in itertools.combinations(range(5), 2)
    ]
    of_two = [
        len({*a} & {*b}) for a in itertools.combinations(range(3), 1) for b in itertools.combinations(range(3), 2)
    ]
    shared = np.array([x + y for x in of_one for y in of_two])
    found = chance_overlap([(1, 2, 2, 5), (1, 1, 2, 3)])
    assert (found.shared, found.iou) == (2, 2 / 5)
    assert found.expected_shared == pytest.approx(shared.mean())
    assert found.expected_iou == pytest.approx((shared / (7 - shared)).mean())
    assert found.p == pytest.approx((shared >= 2).mean())
    assert chance_overlap([(0, 6, 6, 512)]).p == pytest.approx(1)


# -- which prompts belong together -------------------------------------------------------------------------------------


def golden_record() -> dict[str, Any]:
    """A record to be changed."""
    found: dict[str, Any] = json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    return found


def run(ids: list[str], data: str = "d", task: str = "t", text: str = "text") -> Run:
    """A run without measures: prompts of these ids, each id ``item/number``."""
    prompts = tuple(Prompt(id, f"{text} {id}", (1,), id.split("/")[0]) for id in ids)
    outcomes = Outcomes(("baseline", "treated"), prompts, {})
    record = golden_record()
    record["task"]["name"], record["identity"]["data_sha256"] = task, data
    return Run(Path("r"), RunRecord.read(record, "record.json"), outcomes)


def test_the_same_prompts_are_paired_in_any_order() -> None:
    a, b = run(["x/1", "x/2", "y/1"]), run(["y/1", "x/2", "x/1"])
    found = pair(a, b)
    assert (found.kind, found.n_items) == ("prompts", 2)
    assert found.same.tolist() == [[0, 2], [1, 1], [2, 0]]
    assert found.first_items.tolist() == [0, 0, 1] and found.second_items.tolist() == [1, 0, 0]
    assert found.why == "paired: the same 3 prompts of 2 items"


def test_shared_items_are_paired_where_prompts_differ() -> None:
    found = pair(run(["x/1", "x/2", "y/1", "z/1"]), run(["w/1", "y/1", "x/3", "x/2"]))
    assert (found.kind, found.n_items) == ("items", 2)
    assert found.first.tolist() == [0, 1, 2] and found.second.tolist() == [1, 2, 3]
    assert found.first_items.tolist() == [0, 0, 1] and found.second_items.tolist() == [1, 0, 0]
    assert found.same.tolist() == [[1, 3], [2, 1]]
    assert "2 items in common (of 3 and 3), with 3 and 3 prompts, 2 of them the same" in found.why


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (run(["x/1", "y/1"], data="e"), "the data differ"),
        (run(["x/1", "y/1"], task="u"), "the tasks differ"),
        (run(["x/1", "y/1"], text="other"), "2 prompts have the same id and another text"),
        (run(["x/1", "z/1"]), "1 item in common, and it takes two"),
        (Run(Path("r"), run(["x/1"]).record, missing="r/outcomes.safetensors: there is no such file."), "no such file"),
    ],
)
def test_what_is_not_paired_says_why(other: Run, why: str) -> None:
    found = pair(run(["x/1", "y/1"]), other)
    assert found.kind is None and found.why.startswith("not paired: ") and why in found.why


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
    assert set(found.outcomes.selection.scores) == {"rho", "logit_var", "norm"}
    assert found.outcomes.conditions[:3] == ("baseline", "treated", "control-0000")
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
    assert comparison.words(typed(found)) == ["B and A: nothing is tested, because no primary measure is paired."]


def test_a_metric_that_gives_another_value_than_the_record_is_not_trusted(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    def raise_score(record: dict[str, Any]) -> None:
        [score] = [row for row in record["measures"] if row["name"] == "GTS"]
        score["value"] += 0.5

    found = compare([runs["mean"], changed_copy(runs["plus"], tmp_path / "o", raise_score)], catalogue(), resamples=100).to_dict()
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
        found = golden_record()["identity"] | {"seed": seed}
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
        found = golden_record()
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


# -- what it prints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "comparison.json").read_text(encoding="utf-8"))
    return found


def typed(found: dict[str, Any]) -> Comparison:
    return Comparison.read(found, "comparison.json")


def printed(found: dict[str, Any], width: int, everything: bool = False) -> str:
    console = Terminal(file=io.StringIO(), width=width)
    comparison.show(console, typed(found), everything)
    return "".join(line.rstrip() + "\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "width"), [("wide", 130), ("narrow", 60)])
def test_the_comparison_is_printed_as_it_was(golden: dict[str, Any], name: str, width: int) -> None:
    path, text = GOLDEN / f"comparison_{name}.txt", printed(golden, width)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= width


def test_the_rest_is_shown_when_asked_for(golden: dict[str, Any]) -> None:
    assert "CK -> PK" not in printed(golden, 130) and "CK -> PK" in printed(golden, 130, everything=True)
    assert "CK -\\> PK" not in comparison_page.markdown(typed(golden)) and "CK -> PK" in comparison_page.markdown(
        typed(golden), everything=True
    )


def test_p_that_equals_alpha_is_below_it(golden: dict[str, Any]) -> None:
    """(b + 1) / (m + 1) often is 0.05 exactly, and the test is exact there."""

    def told(p: float) -> bool:
        for row in golden["measures"]:
            row["differences"][0]["p_holm"] = p if row["primary"] else None
        return "not shown to differ" in comparison.words(typed(golden))[0]

    assert not told(0.05) and told(np.nextafter(0.05, 1))


def test_the_page_is_self_contained_and_takes_text_for_what_it_is(golden: dict[str, Any]) -> None:
    golden["runs"][0]["name"] = "<script>alert(1)</script>\u202e"
    next(row for row in golden["measures"] if row["primary"])["title"] = "<b>bold</b>"
    found = comparison_page.html(typed(golden))
    assert "&lt;script&gt;alert(1)" in found and "&lt;b&gt;bold" in found and "<b>" not in found
    assert "\u202e" not in found and "<script>alert" not in found
    assert "default-src &#39;none&#39;" in found and "http" not in found.partition("<body>")[2].partition("<script>")[0]
    for sentence in comparison.words(typed(golden)):
        assert sentence.partition(";")[0][:40].replace(">", "&gt;") in found
    assert found.count("<tbody>") < comparison_page.html(typed(golden), everything=True).count("<tbody>")


def test_not_paired_is_printed_instead_of_an_interval(golden: dict[str, Any]) -> None:
    for row in golden["measures"]:
        row["differences"][0] |= {
            "paired": False,
            "low": None,
            "high": None,
            "p": None,
            "p_holm": None,
            "mcnemar": None,
        }
        row["differences"][1] = None
        row["runs"][2] = None
    for width in (60, 130):
        text = printed(golden, width)
        assert text.count("not paired") == 6 and "None" not in text and "nan" not in text


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
        ([runs["mean"], runs["plus"], "--format", "markdwn"], 'got "markdwn". Did you mean "markdown"?'),
    ):
        code, out, err = harness("compare", *arguments)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    with pytest.raises(HarnessError, match="got 27"):
        compare([runs["mean"]] * 27, catalogue())
