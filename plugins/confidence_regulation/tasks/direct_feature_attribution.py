"""Direct feature attribution: which earlier components drive neurons under induction (Stolfo et al. 2024, app. I.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from harness.plugin import (
    Condition,
    Frame,
    HarnessError,
    Measurement,
    Metric,
    Neuron,
    Outcomes,
    Prepared,
    Prompt,
    Selection,
    Step,
    Unit,
    counted,
)

from .plain_text import prompt_of
from .repeated_text import RepeatTask

if TYPE_CHECKING:
    import torch

    from harness.plugin import Alone, Engine, Figure, Model, Progress, Rows

KINDS = ("induction", "corrupted")
SUMS = ("pre-activation", "activation")
"""What is observed beside the components: the neurons' own numbers."""

OWN = frozenset(f"{kind} {name}" for kind in KINDS for name in SUMS)
"""Their outcomes, which only this task has."""

MOST_DRAWN = 6
"""Selected neurons with a figure of their own."""


class DirectFeatureAttribution(RepeatTask):
    """What each earlier head and MLP adds to neurons' pre-activations, with and without induction.

    Induction sequences are natural spans twice; in the corrupted ones the first copy is replaced by other text. A
    component's contribution is the mean over the second copy of its output, after the norm (denominator held at its
    actual value), times the neuron's input weights; of a gated MLP those of the gate. Contributions sum to the
    pre-activation. Sets of neurons count with the mean over their members.
    """

    name = "dfa"
    default_metrics = ("dfa",)
    intervenes = False

    def gives(self) -> frozenset[str]:
        return OWN

    def alone(self, selection: Selection, model: Model) -> Sequence[tuple[Unit, ...]]:
        """Each selected neuron by itself, if they are several.

        Raises:
            HarnessError: the selection holds heads.
        """
        if not isinstance(selection.units[0], Neuron):
            raise HarnessError(
                f"--selector: the task {self.name} attributes the input of neurons, but heads were selected; choose "
                "neurons, for example entropy."
            )
        return [(unit,) for unit in selection.units] if len(selection.units) > 1 else ()

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        from harness.model import read_in

        model = engine.model
        n = self.sequences if limit is None else min(limit, self.sequences)
        halves, steps = self.halves(model, 2 * n, seed)
        n = len(halves) // 2
        if not n:
            raise HarnessError(f"task {self.name}: the corpus {self.corpus.name} has fewer than two spans.")
        split = len(model.prefix) + len(halves[0])
        prompts = tuple(
            prompt_of(model, i, (*model.prefix, *half, *half), split=split, corrupted=[*model.prefix, *other, *half])
            for i, (half, other) in enumerate(zip(halves[:n], halves[n:], strict=False))
        )
        why = "sequences of a span twice, each beside one whose first half is another span"
        gated = read_in(model, model.anatomy.n_layers - 1).gated
        of = "the gate (the up projection, which multiplies it, is not attributed)" if gated else "the MLP"
        details = {"length": len(halves[0]), "split": split, "input_weights": f"of {of}"}
        return Prepared(prompts, (*steps, Step("pairs", n, len(halves) - 2 * n, why)), details)

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Contributions to each condition's neurons, mean over them and over the second copy."""
        from ..analysis.attribution import Attributor

        model = engine.model
        values: dict[str, np.ndarray] = {}
        shape = (len(conditions), len(prompts))
        for layer, weights in sorted(weights_of(conditions, model.anatomy.d_mlp).items()):
            attribute = Attributor(model, layer)
            for kind in KINDS:
                sequences = [x.tokens if kind == "induction" else x.fields["corrupted"] for x in prompts]
                spans = [(x.fields["split"], len(x.tokens)) for x in prompts]
                found = attribute(sequences, spans, weights, engine.batch_size)
                parts = {**found.parts, "pre-activation": found.pre_activation, "activation": found.activation}
                for name, part in parts.items():
                    total = values.setdefault(f"{kind} {name}", np.zeros(shape, np.float32))
                    total += part.numpy().astype(np.float32)
        if progress:
            progress(len(prompts) * len(conditions))
        return Outcomes(tuple(conditions), tuple(prompts), values)


def weights_of(conditions: Sequence[Condition], d_mlp: int) -> dict[int, torch.Tensor]:
    """Layer -> float64 [n_conditions, d_mlp]: 1 / n for each of a condition's n neurons, 0 elsewhere."""
    import torch

    found: dict[int, torch.Tensor] = {}
    for row, condition in enumerate(conditions):
        for unit in condition.units:
            weights = found.setdefault(unit.layer, torch.zeros(len(conditions), d_mlp, dtype=torch.float64))
            weights[row, unit.index] = 1 / len(condition.units)
    return found


class Attributions(Metric):
    """Direct feature attribution, induction minus corrupted, of each component; beside random neurons.

    Which components are tested must not be chosen by their effect on the selected neurons. While there are at most
    ``family`` components, all of them are the family of primary measures; of more, those whose difference is largest
    in root mean square over the selected *and all control* sets alike, a choice that stays the same when the selected
    set is exchanged with a control. The rest are reported without a verdict.
    """

    name = "dfa"
    needs = OWN
    family: int = Field(24, ge=1, description="largest number of components that are tested, p adjusted over them")

    def measure(self, outcomes: Outcomes) -> Measurement:
        from harness.plugin import Measure

        components = component_names(outcomes.values)
        change = {x: difference(outcomes, x) for x in (*components, *SUMS)}
        tested = self._tested(outcomes, components)

        def measure(name: str, title: str, unit: str, of: str) -> Measure:
            values = change[of]
            about = f"mean over neurons and the second copy of {title}, induction minus corrupted sequences"
            counts = np.ones(values.shape, bool)
            return Measure(name, title, unit, values, counts, primary=of in tested, description=about)

        measures = [
            measure(f"dfa_{x.replace(' ', '_')}", f"contribution of {x}", "pre-activation", x) for x in components
        ]
        measures += [
            measure("dfa_pre_activation", "the pre-activation", "pre-activation", "pre-activation"),
            measure("dfa_activation", "the activation", "activation", "activation"),
        ]
        table = self._table(outcomes, components, tested)
        remarks: tuple[str, ...] = ()
        if len(tested) < len(components):
            remarks = (
                f"{len(tested)} of {counted(len(components), 'component')} are tested: those with the largest "
                "difference over the "
                "selected and all control neurons alike",
            )
        return Measurement(
            tuple(measures), frames=(table,), figures=self._figures(outcomes, components), remarks=remarks
        )

    def _tested(self, outcomes: Outcomes, components: Sequence[str]) -> set[str]:
        """The family of primary components; the same for every exchange of the treated row with a control."""
        sets = outcomes.of("treated", "control")
        size = {x: float(np.square(difference(sets, x).mean(1, dtype=np.float64)).sum()) for x in components}
        ranked = sorted(components, key=lambda x: (-size[x], x))
        return set(ranked[: self.family])

    def _table(self, outcomes: Outcomes, components: Sequence[str], tested: set[str]) -> Frame:
        """All components, those with the largest difference first, and every selected neuron's own."""
        treated = outcomes.treated
        order = sorted(components, key=lambda x: (-abs(float(difference(treated, x).mean())), x))
        columns: dict[str, Any] = {
            "component": order,
            "tested": [x in tested for x in order],
            **{kind: [float(treated[f"{kind} {x}"].mean()) for x in order] for kind in KINDS},
            "difference": [float(difference(treated, x).mean()) for x in order],
        }
        if outcomes.rows("control"):
            controls = [difference(outcomes.controls, x).mean(1) for x in order]
            columns["controls_mean"] = [float(x.mean()) for x in controls]
            columns["controls_sd"] = [float(x.std()) for x in controls]
        for row, neuron in enumerate(outcomes.alone.units):
            columns[neuron] = [float(difference(outcomes.alone, x)[row].mean()) for x in order]
        return Frame("dfa", "Contributions to the pre-activation, second copy, induction and corrupted", columns)

    def _figures(self, outcomes: Outcomes, components: Sequence[str]) -> tuple[Figure, ...]:
        """The selection as a whole, and its first neurons one by one."""
        drawn = {"selection": {name: outcomes.treated[name] for name in outcomes.values}}
        if outcomes.alone.units:
            for row, neuron in enumerate(outcomes.alone.units[:MOST_DRAWN]):
                drawn[neuron] = {name: array[row] for name, array in outcomes.alone.values.items()}
        elif outcomes.selection is not None:
            drawn = {str(outcomes.selection.units[0]): drawn["selection"]}
        return tuple(_bars(components, values, title) for title, values in drawn.items())


def _bars(components: Sequence[str], values: Mapping[str, np.ndarray], title: str) -> Figure:
    """Contributions under both kinds of sequences with Student's 95% intervals over prompts (sequences); one prompt has
    none. values: [n_prompts] each."""
    from scipy.stats import ttest_1samp

    from ..figures import dfa_bars

    def seen(kind: str) -> np.ndarray:
        return np.stack([values[f"{kind} {x}"] for x in components]).astype(np.float64)

    def bars(per_prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = per_prompt.mean(1)
        if per_prompt.shape[1] < 2:
            return mean, np.full((len(mean), 2), np.nan)
        between = ttest_1samp(per_prompt, 0.0, axis=1).confidence_interval(0.95)
        return mean, np.stack([between.low, between.high], 1)

    both = [seen(kind) for kind in ("induction", "corrupted")]
    between = bars(both[0] - both[1])[1]
    n = len(values["induction activation"])
    return dfa_bars(components, *bars(both[0]), *bars(both[1]), title, n, difference_ci=between)


def difference(seen: Outcomes | Rows | Alone, component: str) -> np.ndarray:
    """Induction minus corrupted, float64 [..., n_prompts]."""
    first, last = (seen[f"{kind} {component}"].astype(np.float64) for kind in KINDS)
    return first - last


def component_names(values: Mapping[str, np.ndarray]) -> list[str]:
    """The components among the outcomes: embedding, attention biases, heads and MLPs from the first layer on."""
    prefix = f"{KINDS[0]} "
    names = [x.removeprefix(prefix) for x in values if x.startswith(prefix)]
    return sorted((x for x in names if x not in SUMS), key=_order)


def _order(name: str) -> tuple[int, ...]:
    head, mlp = re.fullmatch(r"L(\d+)H(\d+)", name), re.fullmatch(r"MLP (\d+)", name)
    if head is not None:
        return (2, int(head[1]), int(head[2]))
    return (3, int(mlp[1])) if mlp is not None else (int(name != "embedding"),)
