"""Numbers and sentences of a record as people read them; the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMS = {"%": "{:.2f}%", "nats": "{:+.4f}"}
"""How values are written, by unit; others have four places."""


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


def number(found: float | None) -> str:
    """Three significant digits, scientific where that is shorter; a dash for what is not defined."""
    return "-" if found is None else f"{found:.3g}"


def p_value(found: float | None) -> str:
    """Two significant digits, or four places; a dash where there is no test."""
    return "-" if found is None else (f"{found:.4f}" if found >= 0.001 else f"{found:.1e}")


def cell(found: Any) -> str:
    """Any value of a table."""
    if isinstance(found, bool):
        return "yes" if found else ""
    return found if isinstance(found, str) else str(found) if isinstance(found, int) else number(found)


def verdict(record: Mapping[str, Any], measure: Mapping[str, Any]) -> str:
    """The verdict of a primary measure, in the run's own words: heads are compared with random heads."""
    return str(measure["verdict"]).replace("neurons", f"{record['selection']['unit']}s")


def question(record: Mapping[str, Any]) -> str:
    """What the run asks."""
    components, selection = record["identity"]["components"], record["selection"]
    task, (selector, change) = record["task"]["title"], (components[x]["name"] for x in ("selector", "intervention"))
    n, unit = len(selection["neurons"]), selection["unit"]
    which = selector if selector.endswith(f"{unit}s") else f"{selector} {unit}s"
    if change == "none":
        return f"What does {task} show of {n} {which}, and is it more than of {n} random {unit}s?"
    return (
        f"What changes in {task} when {n} {which} are under {change} ablation, and is it more than with {n} random "
        f"{unit}s?"
    )


def controls(record: Mapping[str, Any]) -> str:
    """How many control sets there are, and what they are drawn from."""
    found, selection = record["controls"], record["selection"]
    n, unit = len(selection["neurons"]), selection["unit"]
    where = (
        "the selector's pool" if selection["pool"] is not None else f"the same layer{'s' * (len(found['layers']) > 1)}"
    )
    matched = f", matched in {found['match']}" if found["match"] != "none" else ""
    said = f"{found['n']} distinct random sets of {n} {unit}s of {where}{matched}, none of them selected"
    return said + (f" ({warning.rstrip('.')})" if (warning := found["details"].get("warning")) else "")
