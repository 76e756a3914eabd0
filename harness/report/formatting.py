"""Numbers and sentences of a record as people read them; the same in every report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.files.wording import agree, apart, counted, plural
from harness.results.measures import Measure
from harness.results.record import Chosen, RunRecord

FORMS = {"%": "{:.2f}%", "nats": "{:+.4f}"}
"""How values are written, by unit; others have four places."""

LARGE = 10_000
"""Numbers of this size and above have no places: nobody reads them, and they push what stands beside them away."""


def by_key(record: RunRecord) -> dict[tuple[str, str], Measure]:
    """The measures of a record by metric and name, in order: two metrics may have a measure of the same name."""
    return {(measure.metric, measure.name): measure for measure in record.measures}


def form(found: float, unit: str) -> str:
    """A number in a unit, as its size asks for."""
    given = FORMS.get(unit, "{:.4f}")
    if abs(found) >= LARGE:
        given = re.sub(r"\.\df", ",.0f" if abs(found) < 1e9 else ".3g", given)
    return given.format(found)


def amount(found: float | None, unit: str, count: float | None = None, of: float | None = None) -> str:
    """A value in a unit, with its counts where it counts."""
    if found is None:
        return "-"
    counts = f" ({count}/{of:.0f})" if count is not None and of is not None else ""
    return form(found, unit) + counts


def value(measure: Measure) -> str:
    """The treated value, with its counts where it counts."""
    return amount(measure.value, measure.unit, measure.count, measure.denominator)


def between(low: float | None, high: float | None, unit: str) -> str:
    """An interval, in a measure's unit."""
    if low is None or high is None:
        return "-"
    return f"{form(low, unit)} to {form(high, unit)}".replace("%", "")


def interval(measure: Measure) -> str:
    """The interval of the treated value."""
    return between(measure.ci_low, measure.ci_high, measure.unit)


def control(measure: Measure) -> str:
    """Mean of the controls, and their 5% to 95% quantiles."""
    found = measure.controls
    if found is None or found.mean is None:
        return "-"
    return f"{form(found.mean, measure.unit).removesuffix('%')} ({between(found.q05, found.q95, measure.unit)})"


def effect(measure: Measure) -> str:
    """Distance from the controls' mean in their standard deviations."""
    found = measure.effects.standardised
    return "-" if found is None else f"{found:+.1f} sd"


def undefined(record: RunRecord) -> str:
    """Which intervals are made of fewer resamples than the others, as a remark; empty where none is."""
    told = []
    for measure in record.measures:
        intervals = (
            (measure.ci_low, measure.ci_undefined), (measure.difference_low, measure.difference_undefined)
        )  # fmt: skip
        if n := max((left or 0 for low, left in intervals if low is not None), default=0):
            told.append(f"{measure.title}, {n:,}")
    total = counted(record.identity.resamples, "resample", ",")
    return f"of at most {total}, those without a value are left out of the interval: {'; '.join(told)}" if told else ""


def number(found: float | None) -> str:
    """Three significant digits, scientific where that is shorter; a dash for what is not defined."""
    return "-" if found is None else f"{found:.3g}"


def stands(chosen: Chosen, score: str) -> str:
    """A score of a selected unit, and how many percent of the others of its layer score lower."""
    percent = chosen.percentiles.get(score)
    return number(chosen.scores.get(score)) + ("" if percent is None else f" ({percent:.0f}%)")


def p_value(found: float | None) -> str:
    """Two significant digits, or four places; a dash where there is no test."""
    return "-" if found is None else (f"{found:.4f}" if found >= 0.001 else f"{found:.1e}")


def cell(found: Any) -> str:
    """Any value of a table."""
    if isinstance(found, bool):
        return "yes" if found else ""
    return found if isinstance(found, str) else str(found) if isinstance(found, int) else number(found)


def verdict(record: RunRecord, measure: Measure) -> str:
    """The verdict of a primary measure in the run's own words: with its d, and whether it is exploratory."""
    word = str(measure.verdict)
    if measure.margin is not None:
        word = word.replace("than d apart", f"than {number(measure.margin)}{apart(measure.unit)} apart")
    return f"exploratory: {word}" if record.exploratory else word


def chosen(record: RunRecord) -> str:
    """What was selected, in words: "6 entropy neurons", "1 difference_of_means direction"."""
    selector, unit = record.identity.components.selector.name, record.selection.unit
    # value_neurons chooses neurons: these are value neurons, not value_neurons neurons.
    what = selector.removesuffix("s") if selector.endswith(plural(unit)) else f"{selector} {unit}"
    what = unit if selector == "units" else what  # of any kind: named, and no more
    return counted(len(record.selection.neurons), what)


def treatment(record: RunRecord) -> str:
    """What is done to the units, with its numbers: "mean ablation", "scaling (factor 2)"."""
    params = record.identity.components.intervention.params
    told = [
        f"{name.replace('_', ' ')} {given:g}"
        for name, given in params.items()
        if isinstance(given, int | float) and not isinstance(given, bool) and name not in ("seed", "layer")
    ]
    return record.selection.intervention_title + (f" ({', '.join(told)})" if told else "")


def question(record: RunRecord) -> str:
    """What the run asks."""
    selection, task = record.selection, record.task.title
    n, which = len(selection.neurons), chosen(record)
    others = counted(n, f"random {selection.unit}")
    if selection.intervention == "none":
        return f"What does {task} show of {which}, and is it more than of {others}?"
    return (
        f"What changes in {task} when {which} {agree(n, 'is', 'are')} under {treatment(record)}, and is it "
        f"more than with {others}?"
    )


def mlp_width(model: Mapping[str, Any]) -> str:
    """How many neurons the MLPs of a model have, as records describe it, in words: d_mlp 3072; or 64 experts of 1024
    neurons, 8 for each token."""
    dense, experts = f"d_mlp {model['d_mlp']}", model.get("experts")
    if experts is None:
        return dense
    routed = (
        f"{experts['n_experts']} experts of {counted(experts['d_expert'], 'neuron')}, {experts['top_k']} for each token"
    )
    return f"{dense}, {routed}" if model["d_mlp"] else routed


def controls(record: RunRecord) -> str:
    """How many control sets there are, and what they are drawn from."""
    found, selection, details = record.controls, record.selection, record.controls.details
    n, unit = len(selection.neurons), selection.unit
    where = "the selector's pool" if selection.pool is not None else f"the same layer{'s' * (len(found.layers) > 1)}"
    where += f", {details.among}" if details.among else ""
    sets = f"{counted(found.n, 'distinct random set')} of {counted(n, unit)}"
    if details.treated_in_pool:
        if selection.pool is not None:
            return f"{sets} of {where} and the selected ones ({details.candidates} in all)"
        return f"{sets} of {where}, drawn from all {details.candidates}, the selected ones included"
    matched = f", matched in {found.match}" if found.match != "none" else ""
    said = f"{sets} of {where}{matched}, none of them selected"
    if details.warning:
        return f"{said} ({details.warning.rstrip('.')})"
    alike, before = details.smd, details.smd_random
    if alike is None or before is None:
        return said
    return f"{said} (standardised mean difference {alike:+.2f}, of plain random {plural(unit)} {before:+.2f})"
