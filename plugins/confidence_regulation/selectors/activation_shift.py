"""Neurons whose activation changes under induction (Stolfo et al. 2024, app. H.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.builtin.components import check_layer
from harness.plugin import (
    AnySelector,
    HarnessError,
    ModelCorpus,
    Neuron,
    Selection,
    SelectionContext,
    Selector,
    border,
    counted,
)

from ..analysis.effects_on_text import check_length, text

if TYPE_CHECKING:
    from harness.plugin import Figure, Model, Prompt


class ActivationShift(Selector):
    """Neurons whose mean activation changes most when a text is repeated, weighted by the norm of their output weights.

    Stolfo et al. 2024, app. H.3: sequences of natural tokens are duplicated; the shift is the mean activation over the
    second copy less that over the first. Its sign is kept: clip_mean:side=shift clips neurons that rise from above and
    those that fall from below. The sequences are of documents that tasks do not evaluate on.
    """

    name = "activation_shift"
    site = "neurons"
    top: int = Field(6, ge=1, description="number of neurons")
    layer: int = Field(-1, description="layer; negative counts from the last")
    keep: AnySelector | None = Field(
        None,
        description="measure the shifts of the neurons that this selector chooses (entropy), choose none",
    )
    corpus: ModelCorpus = Field(description="texts; only the bundled models have a default, world")
    sequences: int = Field(100, ge=1, description="how many sequences")
    length: int = Field(100, ge=1, description="tokens of a sequence before it is duplicated")
    across_documents: bool = Field(True, description="join short documents")

    def reads_prompts(self) -> bool:
        return self.keep is not None and self.keep.reads_prompts()

    def has_seen(self, prompt: Prompt) -> bool:
        return self.keep is not None and self.keep.has_seen(prompt)

    def check(self, model: Model) -> None:
        check_layer(model, self.layer, self.top, "selector activation_shift")
        check_length(model, self.length, "selector activation_shift", twice=True)

    def select(self, context: SelectionContext) -> Selection:
        from harness.model import write_directions

        model, owner = context.model, "selector activation_shift"
        kept = None if self.keep is None else border.select(self.keep, context)
        layer = check_layer(model, self.layer, self.top, owner)
        if kept is not None:
            layers = {unit.layer for unit in kept.units if isinstance(unit, Neuron)}
            if len(layers) != 1:
                raise HarnessError(
                    f"{owner}: keep must choose neurons of one layer, got {counted(len(layers), 'layer')}."
                )
            layer = layers.pop()
        first, second, said = self._means(context, layer)
        shift, norm = second - first, np.linalg.norm(write_directions(model, layer), axis=1)
        weighted = np.abs(shift) * norm
        best = np.argsort(-weighted, kind="stable")[: self.top]
        rule = f"layer {layer}: the {self.top} with the largest |shift of the mean activation| times norm, on {said}"
        neurons = tuple(Neuron(layer, int(index)) for index in best)
        scores = {"weighted_shift": weighted, "shift": shift, "mean_first": first, "mean_second": second, "norm": norm}
        if kept is not None:
            neurons, rule = kept.units, f"{kept.rule}; shifts measured on {said}"  # type: ignore[assignment]
            if kept.candidates == tuple(Neuron(layer, i) for i in range(model.anatomy.d_mlp)):
                scores = {**kept.scores, **scores}
        return Selection(
            units=neurons,
            rule=rule,
            candidates=tuple(Neuron(layer, index) for index in range(model.anatomy.d_mlp)),
            scores=scores,
            special=kept.special if kept and kept.special.keys() <= scores.keys() else {"weighted_shift": "high"},
            details={**(kept.details if kept else {}), "layer": layer},
            pool=kept.pool if kept else None,
        )

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        from ..figures import activation_changes

        names = [str(neuron) for neuron in selection.candidates]
        chosen = np.isin(names, [str(neuron) for neuron in selection.units])
        shift, norm = selection.scores["shift"], selection.scores["norm"]
        return (activation_changes(names, shift, norm, chosen, name="selection_activation_changes"),)

    def _means(self, context: SelectionContext, layer: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Mean activations [d_mlp] over the first and the second copy, and what was read, in words."""
        from harness.engine import activation_statistics

        model, p, n = context.model, len(context.model.prefix), self.length
        check_length(model, n, "selector activation_shift", twice=True)
        read = text(context, self.corpus, self.sequences, p + n, self.across_documents, context.seed)
        doubled = [(*tokens, *tokens[p:]) for tokens in read.tokens]
        batch_size = context.engine.batch_size

        def mean(start: int) -> np.ndarray:
            spans = [(start, start + n)] * len(doubled)
            return activation_statistics(model, doubled, [layer], batch_size, context.seed, spans).mean[layer]

        return mean(p), mean(p + n), f"{read.said}, each duplicated"
