"""Numbers and sentences of a record as people read them; the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.files.wording import agree, apart, counted, plural
from harness.plugin.standing import PERCENTILE

FORMS = {"%": "{:.2f}%", "nats": "{:+.4f}"}
"""How values are written, by unit; others have four places."""


def by_key(record: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The measures of a record by metric and name, in order: two metrics may have a measure of the same name."""
    return {(measure["metric"], measure["name"]): measure for measure in record["measures"]}


def value(measure: Mapping[str, Any]) -> str:
    """The treated value, with its counts where it counts."""
    found = measure["value"]
    if found is None:
        return "-"
    text = FORMS.get(measure["unit"], "{:.4f}").format(found)
    counts = f" ({measure['count']}/{measure['denominator']:.0f})" if measure["count"] is not None else ""
    return text + counts


def between(measure: Mapping[str, Any], low: float | None, high: float | None) -> str:
    """An interval, in the measure's unit."""
    if low is None or high is None:
        return "-"
    form = FORMS.get(measure["unit"], "{:.4f}").removesuffix("%")
    return f"{form.format(low)} to {form.format(high)}"


def control(measure: Mapping[str, Any]) -> str:
    """Mean of the controls, and their 5% to 95% quantiles."""
    found = measure["controls"]
    if not found or found["mean"] is None:
        return "-"
    form = FORMS.get(measure["unit"], "{:.4f}").removesuffix("%")
    return f"{form.format(found['mean'])} ({between(measure, found['q05'], found['q95'])})"


def effect(measure: Mapping[str, Any]) -> str:
    """Distance from the controls' mean in their standard deviations."""
    found = measure["effects"]["standardised"]
    return "-" if found is None else f"{found:+.1f} sd"


def undefined(record: Mapping[str, Any]) -> str:
    """Which intervals are made of fewer resamples than the others, as a remark; empty where none is."""
    told = []
    for measure in record["measures"]:
        left = [measure[f"{x}_undefined"] or 0 for x in ("ci", "difference") if measure[f"{x}_low"] is not None]
        if n := max(left, default=0):
            told.append(f"{measure['title']}, {n:,}")
    total = counted(record["identity"]["resamples"], "resample", ",")
    return f"of at most {total}, those without a value are left out of the interval: {'; '.join(told)}" if told else ""


def number(found: float | None) -> str:
    """Three significant digits, scientific where that is shorter; a dash for what is not defined."""
    return "-" if found is None else f"{found:.3g}"


def stands(neuron: Mapping[str, Any], score: str) -> str:
    """A score of a selected unit, and how many percent of the others of its layer score lower."""
    percent = neuron.get(f"{score}{PERCENTILE}")
    return number(neuron.get(score)) + ("" if percent is None else f" ({percent:.0f}%)")


def p_value(found: float | None) -> str:
    """Two significant digits, or four places; a dash where there is no test."""
    return "-" if found is None else (f"{found:.4f}" if found >= 0.001 else f"{found:.1e}")


def cell(found: Any) -> str:
    """Any value of a table."""
    if isinstance(found, bool):
        return "yes" if found else ""
    return found if isinstance(found, str) else str(found) if isinstance(found, int) else number(found)


def verdict(record: Mapping[str, Any], measure: Mapping[str, Any]) -> str:
    """The verdict of a primary measure in the run's own words: with its d, and whether it is exploratory."""
    word, margin = str(measure["verdict"]), measure.get("margin")
    if margin is not None:
        word = word.replace("than d apart", f"than {number(margin)}{apart(measure['unit'])} apart")
    return f"exploratory: {word}" if record.get("exploratory") else word


def chosen(record: Mapping[str, Any]) -> str:
    """What was selected, in words: "6 entropy neurons", "1 difference_of_means direction"."""
    selection, selector = record["selection"], record["identity"]["components"]["selector"]["name"]
    n, unit = len(selection["neurons"]), selection["unit"]
    # value_neurons chooses neurons: these are value neurons, not value_neurons neurons.
    return counted(n, selector.removesuffix("s") if selector.endswith(plural(unit)) else f"{selector} {unit}")


def treatment(record: Mapping[str, Any]) -> str:
    """What the selected units are under: "mean ablation", "the intervention add_direction"."""
    selection = record["selection"]
    return str(selection.get("intervention_title") or f"{selection['intervention']} ablation")  # of older records


def question(record: Mapping[str, Any]) -> str:
    """What the run asks."""
    selection, task = record["selection"], record["task"]["title"]
    n, which = len(selection["neurons"]), chosen(record)
    others = counted(n, f"random {selection['unit']}")
    if selection["intervention"] == "none":
        return f"What does {task} show of {which}, and is it more than of {others}?"
    return (
        f"What changes in {task} when {which} {agree(n, 'is', 'are')} under {treatment(record)}, and is it "
        f"more than with {others}?"
    )


def controls(record: Mapping[str, Any]) -> str:
    """How many control sets there are, and what they are drawn from."""
    found, selection = record["controls"], record["selection"]
    n, unit = len(selection["neurons"]), selection["unit"]
    where = (
        "the selector's pool" if selection["pool"] is not None else f"the same layer{'s' * (len(found['layers']) > 1)}"
    )
    sets, details = f"{counted(found['n'], 'distinct random set')} of {counted(n, unit)}", found["details"]
    if details.get("treated_in_pool"):
        if selection["pool"] is not None:
            return f"{sets} of {where} and the selected ones ({details['candidates']} in all)"
        return f"{sets} of {where}, drawn from all {details['candidates']}, the selected ones included"
    matched = f", matched in {found['match']}" if found["match"] != "none" else ""
    said = f"{sets} of {where}{matched}, none of them selected"
    if warning := details.get("warning"):
        return f"{said} ({warning.rstrip('.')})"
    alike, before = details.get("smd"), details.get("smd_random")
    if alike is None or before is None:
        return said
    return f"{said} (standardised mean difference {alike:+.2f}, of plain random {plural(unit)} {before:+.2f})"
