"""How neurons respond when induction heads are ablated (Stolfo et al. 2024, section 6.2, appendix I)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.controls import pools, possible_controls, random_controls
from harness.plugin import (
    AnySelector,
    Condition,
    Frame,
    HarnessError,
    Head,
    Measurement,
    Metric,
    Neuron,
    Outcomes,
    Prepared,
    Prompt,
    Selection,
    SelectionContext,
    Series,
    Unit,
    border,
)

from .induction_metric import stacked
from .plain_text import prompt_of
from .repeated_text import RepeatTask

if TYPE_CHECKING:
    from harness.plugin import Engine, Figure, Model, Progress

CELLS = 2**25
"""Activations (condition, neuron, token) that are held at once."""

ALL_SUBSETS = 3
"""So many heads or fewer are ablated in every combination."""


class HeadNeuronInteraction(RepeatTask):
    """The response of neurons, on the second copy of duplicated text, to the ablation of induction heads.

    The selection holds heads (``induction_heads``), alone and together, beside baseline heads as controls; the neurons
    that are watched are those of another selector. ``bos_attention`` takes the heads' signal away,
    ``mean_attention_output`` keeps what is the same at every token of the second copy.
    """

    name = "head_neuron_interaction"
    later: ClassVar[frozenset[str]] = frozenset({"curves"})
    default_metrics = ("head_response",)
    neurons: AnySelector = Field(
        "entropy", validate_default=True, description="selector of the neurons whose response is watched"
    )
    baselines: int = Field(
        6, ge=0, description="sets of baseline heads of each smaller size, to set beside single heads and pairs"
    )

    curves: Literal["usual", "all"] = Field(
        "usual",
        description="activations by position; all: also under each set of heads, and the mean of the control sets",
    )

    def gives(self) -> frozenset[str]:
        return frozenset({"field watched", "field split"})

    def reference(self, prompts: Sequence[Prompt], site: str) -> Sequence[tuple[int, int]] | None:
        """Heads: the second copy, over which their mean output is taken; neurons: everything."""
        if site != "heads":
            return None
        return [(prompt.fields["split"], len(prompt.tokens)) for prompt in prompts]

    def alone(self, selection: Selection, model: Model) -> Sequence[tuple[Unit, ...]]:
        """Subsets of the selected heads, and sets of baseline heads of the same sizes.

        Of at most three heads every subset; of more, each alone and the first two, three ... together.

        Raises:
            HarnessError: the selection holds neurons.
        """
        heads = selection.units
        if not isinstance(heads[0], Head):
            raise HarnessError(
                f"--selector: the task {self.name} ablates heads, but neurons were selected; choose induction_heads, "
                "and name the neurons to watch in the task's parameter neurons."
            )
        n = len(heads)
        if n <= ALL_SUBSETS:
            sets = [x for size in range(1, n) for x in itertools.combinations(heads, size)]
        else:
            sets = [*((head,) for head in heads), *(heads[:size] for size in range(2, n))]
        pool = pools(selection, model)
        for size in sorted({len(x) for x in sets}):
            drawn = min(self.baselines, possible_controls(heads[:size], pool))
            sets += random_controls(heads[:size], drawn, pool, seed=size)
        return sets

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        from harness.statistics import derive_seed

        model = engine.model
        halves, steps = self.halves(model, self.sequences if limit is None else min(limit, self.sequences), seed)
        begin, length = len(model.prefix), len(halves[0])
        tokens = [(*model.prefix, *half, *half) for half in halves]
        chosen = border.select(
            self.neurons, SelectionContext(model, engine, tokens, derive_seed(seed, "watched neurons"))
        )
        if any(isinstance(unit, Head) for unit in chosen.units):
            raise HarnessError(f"task {self.name}: neurons={self.neurons.name} selects heads, expected neurons.")
        watched = [str(neuron) for neuron in chosen.units]
        # A prompt carries what observe() needs, so that a resumed run watches the same neurons.
        prompts = [prompt_of(model, i, x, split=begin + length, watched=watched) for i, x in enumerate(tokens)]
        details = {"length": length, "split": begin + length, "watched": watched, "watched_rule": chosen.rule}
        return Prepared(tuple(prompts), steps, details)

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Mean activations of the watched neurons over the second copy, under every condition."""
        from harness.engine import activations

        neurons = [Neuron.parse(text) for text in prompts[0].fields["watched"]]
        tokens = [prompt.tokens for prompt in prompts]
        step = max(1, CELLS // (len(neurons) * len(prompts) * max(map(len, tokens))))
        means = np.empty((len(neurons), len(conditions), len(prompts)), np.float64)
        by_itself = {"baseline", "treated", "alone"} if self.curves == "all" else {"baseline", "treated"}
        shown = [x for x in conditions if x.role in by_itself]
        controls = sum(x.role == "control" for x in conditions) if self.curves == "all" else 0
        curves, of_controls = [], np.zeros((len(neurons), len(prompts), max(map(len, tokens))))
        for start in range(0, len(conditions), step):
            group = conditions[start : start + step]
            found = activations(engine.model, tokens, group, neurons, engine.batch_size)
            for i, prompt in enumerate(prompts):
                part = found[:, :, i, prompt.fields["split"] : len(prompt.tokens)]
                means[:, start : start + step, i] = part.mean(-1, dtype=np.float64).T
            curves.append(found[[row for row, x in enumerate(group) if x.role in by_itself]])
            if controls:
                of_controls += found[[row for row, x in enumerate(group) if x.role == "control"]].sum(0, dtype=float)
            if progress:
                progress(len(group) * len(prompts))
        rows = [x.name if x.shown else "+".join(map(str, x.units)) for x in shown]
        if controls:
            rows.append("controls")
            curves.append((of_controls / controls).astype(np.float32)[None])
        by_position = np.concatenate(curves)  # [rows, neurons, prompts, longest]
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values={f"activation {neuron}": means[k] for k, neuron in enumerate(neurons)},
            series={f"activation {neuron}": Series(tuple(rows), by_position[:, k]) for k, neuron in enumerate(neurons)},
        )


class HeadResponse(Metric):
    """Change of the watched neurons' activation on the second copy, in standard deviations, and neuron by neuron.

    One number over neurons of different scales and signs: each neuron's change of its mean activation on the second
    copy is divided by the standard deviation of its untouched activation over the tokens there, and the magnitudes are
    averaged over neurons and prompts. The magnitude of noise is not 0, but it is the same for baseline heads, beside
    which the number stands. The signed mean is given, too, and every neuron's own change with its sign.
    """

    name = "head_response"
    needs = frozenset({"field watched", "field split"})

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.plugin import Measure

        watched = outcomes.prompts[0].fields["watched"]
        spread = np.array([standard_deviation(outcomes, neuron) for neuron in watched])
        if not spread.any():
            raise HarnessError(
                f"metric {self.name}: the watched neurons ({', '.join(watched)}) have the same activation at every "
                "token of the second copies; choose others (the task's parameter neurons)."
            )
        change = np.stack(  # [neurons, conditions, prompts]
            [outcomes[name] - outcomes.baseline[name] for name in (f"activation {x}" for x in watched)]
        )
        in_sd = change[spread > 0] / spread[spread > 0, None, None]

        def mean(name: str, title: str, unit: str, values: np.ndarray, **rest: Any) -> Measure:
            return Measure(name, title, unit, values, np.ones(values.shape, bool), **rest)

        what = "of the mean activation on the second copy, against the untouched model"
        measures = (
            mean(
                "head_response",
                "response of the watched neurons, magnitude",
                "sd",
                np.abs(in_sd).mean(0),
                primary=True,
                description=f"mean over neurons and prompts of |change| {what}, in sd of the neuron's activation there",
            ),
            mean(
                "head_response_signed",
                "response of the watched neurons, signed",
                "sd",
                in_sd.mean(0),
                description=f"mean over neurons and prompts of the change {what}, in sd",
            ),
            *(
                mean(f"change_{x}", f"change of {x}'s activation", "activation", values, description=f"change {what}")
                for x, values in zip(watched, change, strict=True)
            ),
        )
        dead = [x for x, sd in zip(watched, spread, strict=True) if not sd]
        remarks = (f"constant, and left out of the response: {', '.join(dead)}",) if dead else ()
        sets = sets_of(outcomes, watched)
        frames = (sets.table(watched, spread),)
        drawn = (sets.figure(watched), *_curves(outcomes, watched))
        return Measurement(measures, frames=frames, figures=drawn, remarks=remarks)


def _curves(outcomes: Outcomes, watched: Sequence[str]) -> tuple[Figure, ...]:
    """Activations by position under every set of heads, where the task kept them."""
    from ..figures import HeadSet, head_curves

    assert outcomes.selection is not None
    rows = outcomes.series[f"activation {watched[0]}"].rows
    if rows == ("baseline", "treated"):
        return ()
    chosen = list(map(str, outcomes.selection.units))
    scores = outcomes.selection.scores.get("prefix_matching", [np.nan] * len(outcomes.selection.candidates))
    known = dict(zip(map(str, outcomes.selection.candidates), scores, strict=True))

    def ablated(row: str) -> HeadSet:
        if row == "baseline":
            return HeadSet("none", "untouched", np.nan)
        if row == "controls":
            return HeadSet("mean of the control sets", "baseline", np.nan)
        heads = chosen if row == "treated" else row.split("+")
        kind: Literal["selected", "baseline"] = "selected" if {*heads} <= {*chosen} else "baseline"
        return HeadSet("+".join(heads), kind, float(sum(known.get(head, np.nan) for head in heads)))

    sets = [ablated(row) for row in rows]
    found = [stacked(outcomes.series[f"activation {neuron}"]) for neuron in watched]
    mean, se = (np.stack([x[i] for x in found]) for i in (1, 2))  # [k, s, t]
    split = outcomes.prompts[0].fields["split"]
    return (head_curves(watched, sets, found[0][0], mean, se, split, len(outcomes.prompts)),)


def standard_deviation(outcomes: Outcomes, neuron: str) -> float:
    """Of the untouched activation, over all tokens of the second copies; 0 where it is rounding only."""
    untouched = outcomes.series[f"activation {neuron}"]["baseline"]
    pairs = zip(untouched, outcomes.prompts, strict=True)
    values = np.concatenate([row[x.fields["split"] : len(x.tokens)] for row, x in pairs]).astype(np.float64)
    spread = float(values.std())
    return spread if spread > 1e-6 * np.abs(values).max() else 0.0


@dataclass(frozen=True)
class Sets:
    """Mean activations of k watched neurons on the second copy, under s sets of selected heads.

    Attributes:
        heads: the sets as text; first "none", last the whole selection. sizes: how many heads each has.
        mean, se: [k, s], mean over prompts and its standard error.
        n_baseline: [s], sets of as many baseline heads. baseline, baseline_sd: [k, s], mean over these sets and
            standard deviation over them; NaN without any.
    """

    heads: tuple[str, ...]
    sizes: tuple[int, ...]
    mean: np.ndarray
    se: np.ndarray
    n_baseline: np.ndarray
    baseline: np.ndarray
    baseline_sd: np.ndarray

    def table(self, watched: Sequence[str], spread: np.ndarray) -> Frame:
        """One row a neuron and set; changes are against the untouched model."""
        change, baseline = self.mean - self.mean[:, :1], self.baseline - self.mean[:, :1]
        with np.errstate(invalid="ignore", divide="ignore"):
            in_sd = np.where(spread[:, None] > 0, change / spread[:, None], 0.0)
        k, s = self.mean.shape
        columns: dict[str, Any] = {
            "neuron": [neuron for neuron in watched for _ in range(s)],
            "heads": [*self.heads] * k,
            "n_heads": [*self.sizes] * k,
            "activation": self.mean.ravel(),
            "se": self.se.ravel(),
            "change": change.ravel(),
            "change_in_sd": in_sd.ravel(),
            "baseline_sets": np.tile(self.n_baseline, k),
            "baseline_change": baseline.ravel(),
            "baseline_sd": self.baseline_sd.ravel(),
        }
        return Frame("head_response", "Watched neurons on the second copy, under ablation of sets of heads", columns)

    def figure(self, watched: Sequence[str]) -> Figure:
        from ..figures import head_ablation

        text = "mean activation on the second copy"
        return head_ablation(watched, self.heads, self.mean, self.se, self.baseline, self.baseline_sd, text=text)


def sets_of(outcomes: Outcomes, watched: Sequence[str]) -> Sets:
    """The selection, its subsets, and as many baseline heads at a time (of the selection's size: the controls)."""
    assert outcomes.selection is not None
    chosen = set(map(str, outcomes.selection.units))
    names = [f"activation {x}" for x in watched]
    untouched, treated, controls = (
        np.stack([seen[name] for name in names]) for seen in (outcomes.baseline, outcomes.treated, outcomes.controls)
    )  # [k, n_prompts]; of controls [k, m, n_prompts]
    alone = [x.split("+") for x in outcomes.alone.units]
    each = np.stack([outcomes.alone[name] for name in names]) if alone else controls[:, :0]
    inside = [row for row, heads in enumerate(alone) if set(heads) <= chosen]
    values = np.concatenate([untouched[:, None], each[:, inside], treated[:, None]], axis=1)
    sizes = (0, *(len(alone[row]) for row in inside), len(chosen))
    pooled = {
        size: each[:, [row for row, heads in enumerate(alone) if row not in inside and len(heads) == size]].mean(2)
        for size in set(sizes)
    } | {len(chosen): controls.mean(2)}
    empty = np.full(len(watched), np.nan)
    columns = [pooled[size] for size in sizes]  # [k, number of sets] each
    return Sets(
        heads=("none", *(outcomes.alone.units[row] for row in inside), "+".join(map(str, outcomes.selection.units))),
        sizes=sizes,
        mean=values.mean(2),
        se=values.std(2, ddof=1) / np.sqrt(values.shape[2]) if values.shape[2] > 1 else np.zeros(values.shape[:2]),
        n_baseline=np.array([x.shape[1] for x in columns]),
        baseline=np.stack([x.mean(1) if x.shape[1] else empty for x in columns], 1),
        baseline_sd=np.stack([x.std(1) if x.shape[1] else empty for x in columns], 1),
    )
