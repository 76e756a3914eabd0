"""Each rule of a claim on a run: confirmed, missed, or why neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from checkout import GOLDEN

from harness.errors import HarnessError
from harness.files.store import read_json
from harness.plugin.claims import IntervalRule, NumberRule, RunRule, SelectionRule, VerdictRule
from harness.plugin.registers import Value
from harness.results.claims import Judged
from harness.results.judging import judge, judge_value
from harness.results.record import RunRecord

Change = Callable[[dict[str, Any]], None]


def judged(rule: RunRule, change: Change = lambda record: None) -> Judged:
    """The rule on a small run of the bundled model, of which ``change`` has changed the record."""
    data = read_json(GOLDEN / "record.json")
    change(data)
    record = RunRecord.read(data, "record.json")
    lists = {"some": ("3.0", "3.7"), "same": tuple(x.neuron for x in record.selection.neurons)}
    return judge(rule, record, lists, "demo", "claims.yaml")


def measure(name: str, **fields: object) -> Change:
    def change(record: dict[str, Any]) -> None:
        next(x for x in record["measures"] if x["name"] == name).update(fields)

    return change


def verdict(name: str, **more: Any) -> VerdictRule:
    return VerdictRule(kind="verdict", measure=name, **more)


def test_the_expected_verdict_confirms() -> None:
    found = judged(verdict("entropy_change.entropy_change", side="above"))
    assert (found.outcome, found.why) == ("confirmed", "more than random")
    assert found.value == pytest.approx(0.0293, abs=1e-4) and found.unit == "nats"
    assert found.low is not None and found.high is not None and found.low < 0.0293 < found.high
    assert judged(verdict("conversion_ratios.CKCR", word="less than random")).outcome == "confirmed"


def test_another_verdict_misses_and_is_told() -> None:
    found = judged(verdict("conversion_ratios.CKCR"))
    assert found.outcome == "missed" and found.why.startswith("less than random: 0.0866% with the selected ")
    assert judged(verdict("log_odds.log_odds_shift_CK_PK")).outcome == "missed"  # no more than d apart
    found = judged(verdict("entropy_change.entropy_change", side="below"))
    assert found.outcome == "missed" and "above the mean of the random sets, not below it" in found.why


@pytest.mark.parametrize("word", ["inconclusive", "cannot tell", "model broken"])
def test_a_verdict_that_says_nothing_is_neither(word: str) -> None:
    for expected in ("more than random", "no more than d apart"):
        found = judged(verdict("conversion_ratios.CKCR", word=expected), measure("CKCR", verdict=word))
        assert found.outcome == "cannot be tested" and found.why.startswith(word)


def test_a_measure_that_is_not_primary_has_no_verdict() -> None:
    found = judged(verdict("transitions.ND_to_CK"))
    assert found.outcome == "cannot be tested" and "none of the primary ones" in found.why


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("broken", "all answers are ND", "the model is broken: all answers are ND"),
        ("exploratory", "chosen on the same prompts", "the run is exploratory: chosen on the same prompts"),
    ],
)
def test_a_run_that_says_nothing_confirms_nothing(field: str, value: str, says: str) -> None:
    rules = (verdict("entropy_change.entropy_change"), interval("entropy_change.entropy_change", above=0.01))
    for rule in rules:
        assert judged(rule).outcome == "confirmed"
        found = judged(rule, lambda record: record.update({field: value}))
        assert (found.outcome, found.why) == ("cannot be tested", says)


def test_where_no_neuron_is_of_the_kind_that_is_sought_nothing_is_tested() -> None:
    def ordinary(few: int) -> Change:
        def change(record: dict[str, Any]) -> None:
            for chosen in record["selection"]["neurons"][:few]:
                chosen["ordinary_in"] = ["rho"]

        return change

    rule = verdict("entropy_change.entropy_change")
    assert judged(rule, ordinary(5)).outcome == "confirmed"
    found = judged(rule, ordinary(6))
    assert found.outcome == "cannot be tested" and found.why.startswith("no such neurons: ")


def interval(name: str, **more: Any) -> IntervalRule:
    return IntervalRule(kind="interval", measure=name, **more)


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.6, 0.8, "confirmed", "missed"),
        (0.2, 0.4, "missed", "confirmed"),
        (0.4, 0.6, "cannot be tested", "cannot be tested"),
        (0.5, 0.6, "cannot be tested", "cannot be tested"),  # the bound itself is inside
        (-0.9, -0.6, "missed", "confirmed"),
        (None, None, "missed", "confirmed"),  # the value alone
    ],
)
def test_an_interval_passes_a_bound_or_contains_it(
    low: float | None, high: float | None, above: str, below: str
) -> None:
    change = measure("CKCR", value=0.1, ci_low=low, ci_high=high)
    assert judged(interval("conversion_ratios.CKCR", above=0.5), change).outcome == above
    assert judged(interval("conversion_ratios.CKCR", below=0.5), change).outcome == below


def test_the_difference_from_random_sets_has_an_interval_of_its_own() -> None:
    found = judged(interval("conversion_ratios.CKCR", of="difference", below=0))
    assert found.outcome == "confirmed" and "difference from random sets (-1.41 to -0.684) is below 0" in found.why
    assert found.low is not None and found.low > 0  # what is shown is the value
    assert judged(interval("conversion_ratios.CKCR", of="difference", above=0)).outcome == "missed"
    found = judged(interval("transitions.ND_to_CK", of="difference", above=-1))
    assert found.outcome == "cannot be tested" and "underpowered" in found.why
    no_value = measure("CKCR", value=None, ci_low=None, ci_high=None)
    assert judged(interval("conversion_ratios.CKCR", above=0), no_value).why == "it has no value"


def test_the_published_number_lies_in_the_interval_or_not() -> None:
    def rule(published: float) -> NumberRule:
        return NumberRule(kind="number", measure="conversion_ratios.GTS", published={"demo": published})

    assert judged(rule(0.1)).outcome == "confirmed"
    found = judged(rule(0.262), measure("GTS", ci_high=0.2))
    assert found.outcome == "missed" and "0.262 lies outside" in found.why
    assert judged(rule(0.1), measure("GTS", ci_low=None)).outcome == "cannot be tested"


def test_the_selected_neurons_are_the_published_ones_or_not() -> None:
    assert judged(SelectionRule(kind="selection", lists={"demo": "same"})).outcome == "confirmed"
    found = judged(SelectionRule(kind="selection", lists={"demo": "some"}))
    assert (found.outcome, found.value) == ("missed", pytest.approx(2 / 6))
    assert found.why == "2 of the 2 published are among our 6"


def test_a_measure_that_there_is_not_is_a_sentence_with_the_nearest() -> None:
    with pytest.raises(HarnessError, match=r'claims.yaml: the run .* has no measure "conversion_ratios.CKRC". Did you'):
        judged(verdict("conversion_ratios.CKRC"))


def test_numbers_of_something_else_are_judged_by_intervals_only() -> None:
    values = {"part.iou": Value(0.7), "part.r": Value(0.7, 0.4, 0.9), "part.none": Value(None, why="not compared")}
    outcomes = [judge_value(interval(name, above=0.5), values, "claims.yaml").outcome for name in values]
    assert outcomes == ["confirmed", "cannot be tested", "cannot be tested"]
    assert judge_value(interval("part.none", above=0.5), values, "claims.yaml").why == "not compared"
    with pytest.raises(HarnessError, match=r'has no measure "part.ion". Did you mean "part.iou"'):
        judge_value(interval("part.ion", above=0.5), values, "claims.yaml")
    with pytest.raises(HarnessError, match="a rule of the kind verdict is for runs"):
        judge_value(verdict("part.iou"), values, "claims.yaml")
