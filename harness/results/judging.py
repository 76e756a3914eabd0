"""Whether a run confirms a claim or misses it, by the claim's rule; or why it can tell neither.

A rule goes by the verdicts and intervals of the record. What a run is too small for, and what it says of neurons that
are none of those sought, is neither: it *cannot be tested*.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar, assert_never

from harness.errors import HarnessError, suggest
from harness.plugin.claims import IntervalRule, NumberRule, RunRule, SelectionRule, VerdictRule
from harness.plugin.registers import Value
from harness.results.claims import Judged
from harness.results.measures import Measure
from harness.results.record import RunRecord

T = TypeVar("T")

UNDECIDED = ("inconclusive", "cannot tell", "model broken")
"""Verdicts that say nothing of a claim."""


def judge(rule: RunRule, record: RunRecord, lists: Mapping[str, Collection[str]], model: str, where: str) -> Judged:
    """A claim's rule on a finished run.

    Args:
        lists: the neurons of every published list by its name.
        model: what the rule calls the run's model, of which it has a number or list.
        where: the place of the claim, for the sentence about a measure that there is not.

    Raises:
        HarnessError: the run has no such measure; names the nearest.
    """
    if isinstance(rule, SelectionRule):
        return _selection(rule, record, lists, model)
    measures = {f"{measure.metric}.{measure.name}": measure for measure in record.measures}
    found = _named(rule.measure, measures, f"{where}: the run {record.name}")
    controls = None if found.controls is None else found.controls.mean
    own = Judged(outcome="cannot be tested", why="", value=found.value, low=found.ci_low, high=found.ci_high,
                 unit=found.unit, controls=controls)  # fmt: skip
    why = _nothing(record)
    if why is not None:
        return own.says("cannot be tested", why)
    match rule:
        case VerdictRule():
            return _verdict(rule, found, own)
        case IntervalRule(of="difference"):
            ends = found.effects.difference, found.difference_low, found.difference_high
            return _interval(rule, Value(*ends, found.unit), own)
        case IntervalRule():
            return _interval(rule, Value(found.value, found.ci_low, found.ci_high, found.unit), own)
        case NumberRule():
            return _number(rule.published[model], own)
        case _:
            assert_never(rule)


def judge_value(rule: RunRule, values: Mapping[str, Value], where: str) -> Judged:
    """A claim's rule on numbers that are no run's.

    Raises:
        HarnessError: there is no such number, or the rule is about a run.
    """
    if not isinstance(rule, IntervalRule):
        raise HarnessError(f"{where}: a rule of the kind {rule.kind} is for runs; expected kind interval.")
    found = _named(rule.measure, values, where)
    own = Judged(outcome="cannot be tested", why="", value=found.value, low=found.low, high=found.high, unit=found.unit)
    return _interval(rule, found, own)


def _named(name: str, known: Mapping[str, T], who: str) -> T:
    if name not in known:
        near = suggest(name, known) or f" There are: {', '.join(known)}."
        raise HarnessError(f'{who} has no measure "{name}".{near}')
    return known[name]


def _nothing(record: RunRecord) -> str | None:
    """Why a run says nothing of any claim."""
    if record.broken is not None:
        return f"the model is broken: {record.broken.rstrip('.')}"
    if record.exploratory is not None:
        return f"the run is exploratory: {record.exploratory.rstrip('.')}"
    if record.selection.special and all(chosen.ordinary_in for chosen in record.selection.neurons):
        return f"no such {record.selection.unit}s: all that were selected are ordinary among the others of their layer"
    return None


def _verdict(rule: VerdictRule, found: Measure, own: Judged) -> Judged:
    word = found.verdict
    if word is None:
        return own.says("cannot be tested", "the measure has no verdict, for it is none of the primary ones")
    said = (found.verdict_sentence or "").rstrip(".")
    told = f"{word}: {said[:1].lower()}{said[1:]}"
    if word in UNDECIDED:
        return own.says("cannot be tested", told)
    if word != rule.word:
        return own.says("missed", told)
    side = "above" if (own.value or 0) > (own.controls or 0) else "below"
    if rule.side not in (None, side):
        return own.says("missed", f"{word}, but {side} the mean of the random sets, not {rule.side} it")
    return own.says("confirmed", word)


def _interval(rule: IntervalRule, found: Value, own: Judged) -> Judged:
    """A bound that an interval contains is neither passed nor missed; a number without an interval is its own."""
    bound, sign = (rule.above, 1.0) if rule.above is not None else (rule.below, -1.0)
    assert bound is not None  # the rule's own validation
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    if low is None or high is None:
        return own.says("cannot be tested", found.why or "it has no value")
    near, far = sorted((sign * low, sign * high))
    which = "value" if rule.of == "value" else f"difference from random sets ({low:.3g} to {high:.3g})"
    sides = ("above", "below") if sign > 0 else ("below", "above")
    if near > sign * bound:
        return own.says("confirmed", f"the {which} is {sides[0]} {bound:g}")
    if far < sign * bound:
        return own.says("missed", f"the {which} is {sides[1]} {bound:g}")
    return own.says("cannot be tested", f"underpowered: the interval of the {which} contains {bound:g}")


def _number(published: float, own: Judged) -> Judged:
    if own.low is None or own.high is None:
        return own.says("cannot be tested", "our value has no interval")
    if own.low <= published <= own.high:
        return own.says("confirmed", f"the published {published:g} lies in our interval")
    return own.says("missed", f"the published {published:g} lies outside of our interval")


def _selection(rule: SelectionRule, record: RunRecord, lists: Mapping[str, Collection[str]], model: str) -> Judged:
    listed, ours = set(lists[rule.lists[model]]), {chosen.neuron for chosen in record.selection.neurons}
    shared, either = len(listed & ours), len(listed | ours)
    why = f"{shared} of the {len(listed)} published are among our {len(ours)}"
    return Judged(outcome="confirmed" if listed == ours else "missed", why=why, value=shared / either, unit="share")
