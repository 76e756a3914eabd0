"""What the induction tasks' outcomes say: changes inside the repeat, and curves by position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.plugin import Figure, Frame, Measurement, Metric, Outcomes, Series

from ..metrics import curves, mean_of


class Induction(Metric):
    """Change of entropy and loss inside the repeat, for the selection and for each of its neurons; curves."""

    name = "induction"
    needs = frozenset(
        {
            "tokens",
            "entropy",
            "loss",
            "entropy_change",
            "loss_change",
            "right",
            "entropy_before",
            "series entropy",
            "field split",
        }
    )

    def measure(self, outcomes: Outcomes) -> Measurement:
        def before(name: str) -> float:
            return float(outcomes.baseline[name].sum() / outcomes.baseline["tokens"].sum())

        share = mean_of(
            outcomes,
            "entropy_change",
            over="entropy_before",
            name="entropy_change_share",
            title="relative change of entropy",
            unit="%",
            scale=100.0,
            description="change of the summed entropy of the predictions inside the repeat",
        )
        measures = (
            mean_of(
                outcomes,
                "entropy_change",
                title="change of entropy in the repeat",
                primary=True,
                description="mean change of the entropy of a prediction inside the repeat",
            ),
            mean_of(
                outcomes,
                "loss_change",
                title="change of loss in the repeat",
                primary=True,
                description="mean change of the loss of a token inside the repeat",
            ),
            share,
            mean_of(outcomes, "entropy", title="entropy in the repeat", null=before("entropy")),
            mean_of(outcomes, "loss", title="loss in the repeat", null=before("loss")),
            mean_of(
                outcomes, "right", title="accuracy in the repeat", unit="%", scale=100.0, null=100 * before("right")
            ),
        )
        frames = (self._each(outcomes),) if outcomes.alone.units else ()
        return Measurement(measures, frames=frames, figures=self._figures(outcomes))

    def _each(self, outcomes: Outcomes) -> Frame:
        """What the ablation of each selected neuron does."""
        sums = {name: array.sum(axis=1, dtype=np.float64) for name, array in outcomes.alone.values.items()}
        columns = {
            "neuron": list(outcomes.alone.units),
            "entropy_change": sums["entropy_change"] / sums["tokens"],
            "entropy_change_percent": 100 * sums["entropy_change"] / sums["entropy_before"],
            "loss_change": sums["loss_change"] / sums["tokens"],
        }
        return Frame("neurons", "Each selected neuron ablated alone, inside the repeat", columns)

    def _figures(self, outcomes: Outcomes) -> tuple[Figure, ...]:
        """Curves; at the places of an n-gram where the text is natural."""
        from .. import figures

        entropy, natural = outcomes.series["entropy"], "first" in outcomes.prompts[0].fields
        n = len(outcomes.prompts)
        shown = {
            "entropy": (Series(("untouched", "treated"), entropy.only("baseline", "treated").values), "entropy (nats)")
        }
        if "activation" in outcomes.series:
            shown["activation"] = outcomes.series["activation"], "activation"
        if "norm" in outcomes.series:
            shown["norm"] = outcomes.series["norm"], "denominator of the final norm"
        if natural:
            ngram = entropy.values.shape[2] // 2 - 1
            first = [f"A{i}" for i in range(ngram)]
            places = [*first, "B", *first, "X"]
            return tuple(
                figures.natural_curves(places, series.rows, *stacked(series)[1:], text, n, f"natural_{name}")
                for name, (series, text) in shown.items()
            )
        split = outcomes.prompts[0].fields["split"]
        drawn_rows = outcomes.alone.units or ("treated",)
        changed = Series(drawn_rows, entropy.only(*drawn_rows).values - entropy["baseline"])
        drawn = [self._by_position(figures.entropy_by_position, changed, split, n)]
        if "activation" in shown:
            drawn.append(self._by_position(figures.activation_curves, shown["activation"][0], split, n))
        if "norm" in outcomes.series:
            drawn.append(self._all_curves(outcomes))
        return tuple(drawn)

    def _all_curves(self, outcomes: Outcomes) -> Figure:
        """Loss, entropy, activations and the final norm's denominator beneath each other."""
        from .. import figures

        compared = [row for row in ("baseline", "treated", "controls") if row in outcomes.series["norm"].rows]
        panels = {
            "loss (nats)": outcomes.series["loss"].only(*compared),
            "entropy (nats)": outcomes.series["entropy"].only(*compared),
            "norm's denominator": outcomes.series["norm"].only(*compared),
        }
        if "activation" in outcomes.series:
            panels["activation"] = outcomes.series["activation"]
        fields = outcomes.prompts[0].fields
        position = curves(panels["loss (nats)"])[0]
        found = {text: curves(series)[1] for text, series in panels.items()}
        sets = len(outcomes.controls.rows) if isinstance(outcomes.controls.rows, tuple) else 1
        starts = fields.get("copies", [fields["split"]])
        return figures.all_curves(position, found, starts, len(outcomes.prompts), sets)

    def _by_position(self, draw: Callable[..., Figure], series: Series, split: int, n: int) -> Figure:
        position, mean, error = stacked(series)
        return draw(position, series.rows, mean, error, split, n)


def stacked(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [t] that some prompt has, and mean and standard error there [rows, t]."""
    position, rows = curves(series)
    mean, error = (np.array(x) for x in zip(*rows.values(), strict=True))
    return position, mean, error
