"""Beyond temperature: what a change of confidence alone does not explain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.builtin.calibration import squared_errors
from harness.files.wording import counted
from harness.plugin.components import Metric
from harness.plugin.records import Figure, Frame, Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from harness.plugin.records import Outcomes, Rows
    from harness.statistics import AnyMeasure, Each, Measure


class Temperature(Metric):
    """What is left of each change beyond a change of temperature: the specific effect.

    What scales all logits shifts all log-odds, too. For each prompt and condition there is one temperature at which the
    untouched model is as uncertain as the treated one. What the untouched model would say at it is taken away from what
    the treated model says; what is left is no change of confidence. The most likely token, ranks and greedy answers
    are the same at every temperature: any change of theirs is beyond it.

    A task that reports distributions observes, for each outcome X, ``tempered_X``: what the untouched model has at the
    temperature; ``log_temperature`` (0: as it is), and ``no_temperature``: where none has the entropy and the nearest
    of 1/16 to 16 is taken. Its details say what X is: ``{"tempered": [{"outcome": "loss", "title": "the loss", "unit":
    "nats", "over": "tokens"}]}``; ``over``: the outcome that counts what X is a sum of; ``among``: values of
    fields of the prompts that count, ``{"label": [true]}``, and ``called``: what their measures are; ``primary``:
    whether what is left is tested in the family. X is NaN where it does not count. What no temperature changes is said
    in sentences, in ``unchanged``.
    """

    name = "temperature"
    needs = frozenset({"log_temperature", "no_temperature"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        quantities = [Quantity(**about) for about in outcomes.details.get("tempered", ())]
        quantities = [quantity for quantity in quantities if quantity.counts_any(outcomes)]
        unchanged = tuple(outcomes.details.get("unchanged", (UNCHANGED,)))
        if not quantities:
            return Measurement(remarks=unchanged)
        over = next((x.over for x in quantities if x.over), "")
        n = outcomes.each(lambda seen: seen[over] if over else ~np.isnan(seen["log_temperature"]))
        measures: list[AnyMeasure] = [
            _mean(
                "log_temperature",
                "log temperature of equal entropy",
                "nats",
                outcomes["log_temperature"],
                n,
                description="mean log of the temperature at which the untouched model has the entropy; 0: as it is",
            )
        ]
        rows = []
        for quantity in quantities:
            found = quantity.measures(outcomes)
            measures += found[1:]
            rows.append(_row(quantity, *found[:3]))
        measures += _calibration(outcomes)
        frame = Frame(
            "temperature",
            "each change, the part that the temperature of equal entropy makes, and what is left",
            {name: [row[name] for row in rows] for name in rows[0]},
        )
        remarks = [*unchanged]
        outside = outcomes.treated["no_temperature"].sum()
        if outside:
            of = counted(int(n[0].sum()), "token" if over else "prompt")
            remarks.append(
                f"in {int(outside)} of {of} no temperature from 1/16 to 16 gives the untouched model the treated "
                "entropy; the nearest one is taken"
            )
        figures = tuple(shifts(quantity, outcomes) for quantity in quantities)
        return Measurement(tuple(measures), frames=(frame,), figures=figures, remarks=tuple(remarks))


UNCHANGED = "ranks and greedy answers are the same at every temperature: any change of theirs is beyond it"


@dataclass(frozen=True)
class Quantity:
    """What of a distribution is looked at; see :class:`Temperature`."""

    outcome: str
    title: str
    unit: str = "nats"
    over: str = ""
    among: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    called: str = ""
    primary: bool = True

    @property
    def name(self) -> str:
        """What its measures are called after: "loss", "log_odds_true"."""
        return f"{self.outcome}_{self.called}" if self.called else self.outcome

    def counts(self, outcomes: Outcomes) -> Each:
        """How much of it there is in each prompt [C, N]."""
        known = ~np.isnan(outcomes.baseline[self.outcome])
        there = np.array([all(x.fields[key] in values for key, values in self.among.items()) for x in outcomes.prompts])

        def counts(seen: Rows) -> np.ndarray:
            n = seen[self.over] if self.over else np.broadcast_to(known, seen[self.outcome].shape)
            return np.where(there, n, 0)

        return outcomes.each(counts)

    def counts_any(self, outcomes: Outcomes) -> bool:
        """Whether there is any of it."""
        n = self.counts(outcomes)
        return any(n[row].any() for row in range(len(n)))

    def measures(self, outcomes: Outcomes) -> tuple[Measure, Measure, Measure, Measure]:
        """The change, the part of it that the temperature makes, what is left, and the share that is explained."""
        value, tempered, before = self.outcome, f"tempered_{self.outcome}", outcomes.baseline[self.outcome]
        n, name, each = self.counts(outcomes), self.name, outcomes.each
        return (
            _mean(f"{name}_change", f"change of {self.title}", self.unit, each(lambda x: x[value] - before), n),
            _mean(
                f"{name}_tempered",
                f"change of {self.title} at equal entropy",
                self.unit,
                each(lambda x: x[tempered] - before),
                n,
                description="mean change that the temperature makes at which the untouched model has the entropy",
            ),
            _mean(
                f"{name}_beyond",
                f"change of {self.title} beyond temperature",
                self.unit,
                each(lambda x: x[value] - x[tempered]),
                n,
                primary=self.primary,
                specific=True,
                description="mean change less what the temperature of equal entropy makes of it",
            ),
            _mean(
                f"{name}_explained",
                f"share of the change of {self.title} that temperature explains",
                "share",
                each(lambda x: (x[value] - before) ** 2 - (x[value] - x[tempered]) ** 2),
                each(lambda x: (x[value] - before) ** 2),
                null=float("nan"),
                description="1 - sum of squares of what is left / sum of squares of the changes, over prompts",
            ),
        )


def _mean(name: str, title: str, unit: str, values: np.ndarray | Each, n: np.ndarray | Each, **rest: object) -> Measure:
    from harness.statistics import Each, Measure

    def number(rows: slice) -> np.ndarray:
        found = n[rows]
        return np.where(np.isnan(found), 0.0, found)

    counting = Each(len(n), lambda rows: np.where(number(rows) > 0, values[rows], 0.0))
    return Measure(name, title, unit, counting, Each(len(n), number), **rest)  # type: ignore[arg-type]


def _row(quantity: Quantity, change: Measure, tempered: Measure, beyond: Measure) -> dict[str, object]:
    """One row of the table: the treated model's values, and the controls' mean beyond temperature."""
    return {
        "quantity": quantity.title,
        "change": change.treated,
        "at_equal_entropy": tempered.treated,
        "beyond": beyond.treated,
        "control_change": float(change.controls.mean()) if len(change.controls) else None,
        "control_beyond": float(beyond.controls.mean()) if len(beyond.controls) else None,
        "unit": quantity.unit,
    }


def _calibration(outcomes: Outcomes) -> Iterator[AnyMeasure]:
    """Calibration error and Brier score less what they are at the temperature, of tasks with a right answer."""
    if "tempered_reliability" in outcomes.values:
        yield _error(outcomes)
    if {"tempered_brier", "tempered_confidence"} & outcomes.values.keys():
        yield _mean(
            "brier_beyond",
            "Brier score beyond temperature",
            "share",
            outcomes.each(lambda x: squared_errors(outcomes, x) - squared_errors(outcomes, x, tempered=True)),
            outcomes["tokens"],
            description="Brier score less that of the untouched model at equal entropy",
        )


def _error(outcomes: Outcomes) -> AnyMeasure:
    from harness.statistics import Functional
    from harness.statistics.functionals import expected_calibration_error

    def difference(sums: np.ndarray) -> np.ndarray:
        treated, tempered = np.split(sums, 2, axis=-1)
        found: np.ndarray = expected_calibration_error(treated) - expected_calibration_error(tempered)
        return found

    both = outcomes.each(lambda seen: np.concatenate([seen["reliability"], seen["tempered_reliability"]], -1))
    return Functional(
        "ece_beyond",
        "calibration error beyond temperature",
        "share",
        both,
        difference,
        description="expected calibration error less that of the untouched model at equal entropy",
    )


def shifts(quantity: Quantity, outcomes: Outcomes) -> Figure:
    """Each prompt's change against the change that the temperature makes; on the diagonal confidence is all."""
    before, after = outcomes.baseline[quantity.outcome], outcomes.treated[quantity.outcome]
    tempered = outcomes.treated[f"tempered_{quantity.outcome}"]
    n = quantity.counts(outcomes)[outcomes.rows("treated")[0]]
    known = ~np.isnan(before) & (n > 0)
    x, y = ((array[known] - before[known]) / n[known] for array in (tempered, after))

    def draw(figure: Canvas) -> None:
        from harness.plotting import shapes

        axes = figure.subplots()
        axes.axline((0, 0), slope=1, color=shapes.GUIDE, linewidth=0.7, zorder=1)
        shapes.zero_line(axes)
        across, up = (shapes.limits(values, np.zeros(len(values), bool)) for values in (x, y))
        outside = shapes.beyond(x, across) | shapes.beyond(y, up)
        xs, ys = shapes.apply_limits(axes, across, up, (x, y))
        shapes.points(axes, xs, ys, outside=outside)
        axes.set_xlabel(f"change at equal entropy ({quantity.unit})")
        axes.set_ylabel(shapes.in_lines(f"change of {quantity.title} ({quantity.unit})", 36))

    return Figure(
        re.sub(r"[^A-Za-z0-9_-]", "_", f"temperature_{quantity.name}"),
        f"Is it more than a temperature? Change of {quantity.title} of each prompt against the change that the "
        "temperature "
        "of equal entropy makes (on the diagonal confidence is all that changes).",
        {
            "prompt": [prompt.id for prompt, is_known in zip(outcomes.prompts, known, strict=True) if is_known],
            "change_at_equal_entropy": x,
            "change": y,
        },
        draw,
    )
