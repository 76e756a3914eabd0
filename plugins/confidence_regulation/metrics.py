"""Metrics of the tasks over plain text: effects and mediated fractions, curves by position, token frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from harness.plugin import Figure, Frame, HarnessError, Measurement, Metric, Series, counted

if TYPE_CHECKING:
    from harness.plugin import AnyMeasure, Outcomes


def mean_of(outcomes: Outcomes, outcome: str, over: str = "tokens", **rest: Any) -> AnyMeasure:
    """A measure that is the ratio of two outcomes' sums, by default a mean over tokens."""
    from harness.plugin import Measure

    rest = {"name": outcome, "unit": "nats", **rest}
    return Measure(numerator=outcomes[outcome], denominator=outcomes[over], **rest)


def mediated(outcomes: Outcomes, frozen: str, **rest: Any) -> AnyMeasure:
    """1 - direct / total effect as a measure; without any effect it has no value."""
    from harness.plugin import Measure

    total, direct = "total_effect", f"{frozen}_effect"
    through = outcomes.each(lambda seen: seen[total] - seen[direct])
    return Measure(unit="share", numerator=through, denominator=outcomes[total], primary=True, **rest)


class Effects(Metric):
    """Total and direct effects, mediated fractions, entropy, ranks, changed predictions; a table of all neurons."""

    name = "mediation"
    needs = frozenset(
        {"tokens", "total_effect", "frozen_norm_effect", "frozen_norm_loss_change", "kl", "changed", "reciprocal_rank",
         "tempered_loss"}
    )  # fmt: skip

    def measure(self, outcomes: Outcomes) -> Measurement:
        frequency = "frozen_unigram_effect" in outcomes.values
        measures = [
            mean_of(
                outcomes,
                "total_effect",
                title="total effect",
                primary=True,
                description="mean |change of the loss| of a token",
            ),
            mediated(
                outcomes,
                "frozen_norm",
                name="norm_mediated",
                title="share of the effect through the final norm",
                description="1 - direct effect (denominator of the final norm held) / total effect",
            ),
            mean_of(
                outcomes,
                "entropy_change",
                title="change of entropy",
                primary=True,
                description="mean change of the entropy of a prediction",
            ),
            mean_of(outcomes, "frozen_norm_effect", title="direct effect, final norm held"),
            mean_of(outcomes, "loss_change", title="change of loss"),
            mean_of(outcomes, "frozen_norm_loss_change", title="change of loss, final norm held"),
            mean_of(outcomes, "entropy_effect", title="mean |change of entropy|"),
            mean_of(outcomes, "kl", title="KL(untouched || ablated)"),
            mean_of(outcomes, "loss", title="loss", null=_baseline(outcomes, "loss")),
            mean_of(outcomes, "entropy", title="entropy", null=_baseline(outcomes, "entropy")),
            mean_of(
                outcomes,
                "reciprocal_rank",
                title="reciprocal rank of the right token",
                unit="share",
                null=_baseline(outcomes, "reciprocal_rank"),
            ),
            mean_of(outcomes, "changed", title="changed predictions", unit="%", scale=100.0),
        ]
        if frequency:
            measures += [
                mediated(
                    outcomes,
                    "frozen_unigram",
                    name="frequency_mediated",
                    title="share of the effect through token frequencies",
                    description="1 - direct effect (logits along log p_freq held) / total effect",
                ),
                mean_of(
                    outcomes,
                    "kl_unigram_change",
                    title="change of KL(P_freq || P_model)",
                    primary=True,
                    description="mean change of the divergence of the token frequencies from the prediction",
                ),
                mean_of(outcomes, "frozen_unigram_effect", title="direct effect, frequencies held"),
                mean_of(outcomes, "frozen_unigram_loss_change", title="change of loss, frequencies held"),
            ]
        frames: tuple[Frame, ...] = ()
        figures: tuple[Figure, ...] = ()
        remarks: tuple[str, ...] = ()
        if outcomes.alone.units:
            table = neurons_table(outcomes)
            frames = (_strongest(outcomes, table), Frame("neurons", "Every neuron that was ablated alone", table))
            figures = _neuron_figures(outcomes, table)
            if not _has_others(table):
                remarks = (
                    "no neuron but the selected ones was ablated alone: figures that compare them are not drawn",
                )
        return Measurement(tuple(measures), (), frames, (*figures, *_token_figures(outcomes)), remarks)


def _baseline(outcomes: Outcomes, name: str) -> float:
    return float(outcomes.baseline[name].sum() / outcomes.baseline["tokens"].sum())


def neurons_table(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """What the ablation of each neuron alone does, one row a neuron, with the scores that selected it."""
    alone, selection = outcomes.alone, outcomes.selection
    assert selection is not None
    sums = {name: array.sum(axis=1, dtype=np.float64) for name, array in alone.values.items() if array.ndim == 2}
    tokens, total = sums["tokens"], np.where(sums["total_effect"] > 0, sums["total_effect"], np.nan)
    chosen = {str(unit) for unit in selection.units}
    table = {
        "neuron": np.array(alone.units),
        "selected": np.array([unit in chosen for unit in alone.units]),
        "total_effect": sums["total_effect"] / tokens,
        "direct_effect": sums["frozen_norm_effect"] / tokens,
        "norm_mediated": 1 - sums["frozen_norm_effect"] / total,
    }
    if "frozen_unigram_effect" in sums:
        table |= {
            "direct_effect_frequency": sums["frozen_unigram_effect"] / tokens,
            "frequency_mediated": 1 - sums["frozen_unigram_effect"] / total,
        }
    for name in ("entropy_change", "entropy_effect", "loss_change", "kl", "kl_unigram_change"):
        if name in sums:
            table[name] = sums[name] / tokens
    table["loss_beyond"] = (sums["loss"] - sums["tempered_loss"]) / tokens
    table["changed_share"] = sums["changed"] / tokens
    table["reciprocal_rank_change"] = (sums["reciprocal_rank"] - outcomes.baseline["reciprocal_rank"].sum()) / tokens
    rows = {str(unit): row for row, unit in enumerate(selection.candidates)}
    places = [rows.get(unit, -1) for unit in alone.units]
    for name, column in selection.scores.items():
        column = np.append(np.asarray(column, float), np.nan)
        table.setdefault(name, column[places])
    return table


def _strongest(outcomes: Outcomes, table: dict[str, np.ndarray], most: int = 12) -> Frame:
    """The selected neurons, and the strongest of the others, in a table short enough for a report."""
    assert outcomes.selection is not None
    strongest = np.argsort(-table["total_effect"], kind="stable")
    order = [*strongest[table["selected"][strongest]], *strongest[~table["selected"][strongest]]]
    n = int(table["selected"].sum()) + max(3, most - int(table["selected"].sum()))
    keep = ("neuron", "selected", "total_effect", "norm_mediated", "frequency_mediated", "entropy_change",
            "kl_unigram_change", "loss_change", "loss_beyond", "changed_share", "rho", "norm")  # fmt: skip
    columns = {name: table[name][order[:n]] for name in keep if name in table}
    return Frame("strongest", "Each neuron ablated alone: the selected ones, then the strongest others", columns)


LEAST_OTHERS = 3
"""Neurons beside the selected ones, without which a scatter plot of all compares with nothing."""


def _has_others(table: dict[str, np.ndarray]) -> bool:
    return int((~table["selected"]).sum()) >= LEAST_OTHERS


def _neuron_figures(outcomes: Outcomes, table: dict[str, np.ndarray]) -> tuple[Figure, ...]:
    from . import figures

    names, selected = [str(x) for x in table["neuron"]], table["selected"]
    alone = outcomes.alone.values
    per_token = {name: alone[name] / np.maximum(alone["tokens"], 1) for name in alone if alone[name].ndim == 2}
    total = per_token["total_effect"]
    drawn = [
        figures.total_direct(names, total, per_token["frozen_norm_effect"], selected, "direct effect, final norm held"),
    ]
    change, mediated_share = table["entropy_change"], table["norm_mediated"]
    if _has_others(table):
        drawn.append(figures.entropy_argmax(names, change, table["changed_share"], mediated_share, selected))
        if "rho" in table:
            drawn.append(figures.mediated_rho(names, table["rho"], mediated_share, change, selected))
    if "frequency_mediated" in table:
        drawn += [
            figures.total_direct(
                names,
                total,
                per_token["frozen_unigram_effect"],
                selected,
                "direct effect, frequencies held",
                "total_direct_frequency",
            ),
        ]
        if _has_others(table):
            drawn.append(figures.frequency_kl(names, table["frequency_mediated"], table["kl_unigram_change"], selected))
    return tuple(drawn)


def _token_figures(outcomes: Outcomes) -> tuple[Figure, ...]:
    from . import figures

    loss, rank = outcomes.series["loss"], outcomes.series["reciprocal_rank"]
    known = ~np.isnan(loss["baseline"])
    before, after = (loss[row][known].astype(float) for row in ("baseline", "treated"))
    drawn = figures.loss_change(before, after - before, rank["treated"][known].astype(float), "selected neurons")
    return (drawn, *_views(outcomes))


def _views(outcomes: Outcomes) -> tuple[Figure, ...]:
    """The sequence that the task has put by for it, token by token."""
    from . import figures

    found = []
    for i, prompt in enumerate(outcomes.prompts):
        if words := prompt.fields.get("view"):
            activation = outcomes.series["activation"]
            values = {
                f"change of {name} (nats)": series["treated"][i] - series["baseline"][i]
                for name in ("entropy", "loss")
                for series in (outcomes.series[name],)
            }
            counts = ~np.isnan(outcomes.series["loss"]["baseline"][i])  # at a first token activations are often huge
            values[f"activation of {activation.rows[0]}"] = np.where(counts, activation.values[0, i], np.nan)
            said = "the first of the evaluated sequences, whatever the neurons do there; the selection ablated together"
            cut = {name: array[: len(words)].astype(float) for name, array in values.items()}
            found.append(figures.token_view(words, cut, said))
    return tuple(found)


class ByPosition(Metric):
    """Loss and entropy of the predictions by position, untouched and treated, with standard errors over prompts."""

    name = "by_position"
    needs = frozenset({"series entropy", "series loss"})
    split: int | None = Field(None, ge=0, description="draw a line here; default: where the task's prompts repeat")

    def measure(self, outcomes: Outcomes) -> Measurement:
        from . import figures

        split = self.split
        if split is None:
            split = next((prompt.fields["split"] for prompt in outcomes.prompts if "split" in prompt.fields), None)
        frames, found, changes, position = [], {}, {}, np.zeros(0)
        for name in ("entropy", "loss"):
            if name not in outcomes.series:
                raise HarnessError(f"metric by_position: this task keeps no {name} by position.")
            series = outcomes.series[name].only("baseline", "treated")
            position, rows = curves(series)
            found[name] = rows
            changes[name] = mean_and_error((series["treated"] - series["baseline"])[:, position])
            columns = {"position": position}
            for row, (mean, error) in rows.items():
                columns |= {f"{row}_mean": mean, f"{row}_se": error}
            frames.append(Frame(f"{name}_by_position", f"Mean {name} by position of the predicted token", columns))
        drawn = figures.induction_curves(position, found, split, len(outcomes.prompts), "by_position", changes)
        return Measurement(frames=tuple(frames), figures=(drawn,))


def curves(series: Series) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Positions that two prompts have (or the only one), and of every row the mean over prompts there and its standard
    error, NaN of one prompt."""
    known = ~np.isnan(series.values[0])
    position = np.flatnonzero(known.sum(axis=0) >= min(2, len(known)))
    return position, {row: mean_and_error(series[row][:, position]) for row in series.rows}


def mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over prompts [N, T] at each position and its standard error, NaN of one prompt; NaN is no value."""
    values = values.astype(np.float64)
    n = (~np.isnan(values)).sum(axis=0)
    mean = np.nanmean(values, axis=0)
    square = np.nansum((values - mean) ** 2, axis=0)
    return mean, np.sqrt(square / np.where(n > 1, n - 1, np.nan) / n)


class UnigramCorrelation(Metric):
    """Correlation over tokens of KL(P_freq || P_model) with the entropy, and of their changes under the ablation."""

    name = "unigram_correlation"
    needs = frozenset({"tokens", "levels", "changes", "kl_unigram_change", "series kl_unigram"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.plugin import Functional
        from harness.statistics import interval_of
        from harness.statistics.functionals import pearson

        from . import figures

        levels = outcomes["levels"]
        before = float(pearson(outcomes.baseline["levels"].sum(axis=0)))
        level = Functional(
            "r_entropy_kl",
            "correlation of entropy with KL(P_freq || P_model)",
            "share",
            levels,
            pearson,
            null=before,
            description="Pearson's r over tokens; negative: nearer to the token frequencies where less certain",
        )
        # Of the untouched model nothing changes, and a correlation of nothing is none.
        changes = Functional(
            "r_changes",
            "correlation of the changes of entropy and KL",
            "share",
            outcomes["changes"],
            pearson,
            primary=True,
            description="Pearson's r over tokens of what the ablation changes",
        )
        measures = (
            changes,
            mean_of(outcomes, "kl_unigram_change", title="change of KL(P_freq || P_model)", primary=True),
            mean_of(outcomes, "entropy_change", title="change of entropy", primary=True),
            level,
        )
        interval = interval_of(level, 0, outcomes.clusters, seed=0)
        between = f", 95% interval {interval.low:.3f} to {interval.high:.3f}" if interval else ""
        tokens = int(outcomes.baseline["tokens"].sum())
        remark = (
            f"untouched model: r = {before:.3f} between entropy and KL(P_freq || P_model) over "
            f"{counted(tokens, 'token')}"
        )
        series = outcomes.series
        known = ~np.isnan(series["entropy"]["baseline"])
        entropy, kl = (
            {row: series[name][row][known].astype(float) for row in series[name].rows}
            for name in ("entropy", "kl_unigram")
        )
        drawn = (
            figures.entropy_kl(entropy["baseline"], kl["baseline"], before),
            figures.kl_entropy_changes(kl["treated"] - kl["baseline"], entropy["treated"] - entropy["baseline"]),
        )
        return Measurement(measures, figures=drawn, remarks=(remark + between,))
