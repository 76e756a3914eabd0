"""The selector of a direction: where in the residual stream two classes of texts lie apart."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from harness.builtin.components import resolve_layer
from harness.plugin import (
    AnyModel,
    Direction,
    HarnessError,
    Selection,
    SelectionContext,
    Selector,
    Unit,
    border,
    counted,
)

from .analysis.labelled_texts import COLUMNS, LabelledPath

if TYPE_CHECKING:
    from harness.plugin import Figure, Model, Prompt

    from .analysis.directions import Probe, Readings

POOL = 999
"""Directions that controls are drawn from."""


class DifferenceOfMeans(Selector):
    """The direction from the mean residual stream of texts labelled false to that of texts labelled true.

    Refusal (Arditi et al. 2024), truthfulness (Marks & Tegmark 2023), before and after post-training (Du et al. 2025).
    The direction is computed from the texts of the split "train". Of all layers the one is taken whose direction tells
    these texts apart best (AUROC in cross-validation: each is judged by the direction of texts of other groups); of
    several the earliest, which leaves most of the model to act. The texts of the split "test" have no say in it.

    Controls are other directions after the same layer, all as long as the selected one: by default differences of means
    under shuffled labels of texts whose classes were shifted to one mean. These vary as texts of one class do, but know
    nothing of the labels. Isotropic ones mostly point where activations hardly vary, and do less whatever the labels.
    """

    name = "difference_of_means"
    version = "2"
    site = "directions"
    data: LabelledPath = Field(description=COLUMNS)
    layer: int | None = Field(
        None,
        description="layer; negative counts from the last; default: the best in cross-validation on the training texts",
    )
    position: Literal["last", "mean"] = Field("last", description="a text's last token, or the mean over its tokens")
    from_model: AnyModel | None = Field(
        None, description="compute the direction on this model of equal width instead (transfer)"
    )
    normalise: bool = Field(False, description="unit length, instead of the distance between the class means")
    control: Literal["shuffled", "isotropic", "orthogonal"] = Field(
        "shuffled",
        description="controls: differences of means under shuffled labels, random directions, or random directions "
        "orthogonal to the selected one",
    )

    def reads_prompts(self) -> bool:
        return False

    def has_seen(self, prompt: Prompt) -> bool:
        return bool({prompt.id, prompt.text} & self._read)

    @cached_property
    def _read(self) -> frozenset[str]:
        """The texts that the direction, and its layer, are found on."""
        from .analysis.labelled_texts import load_labelled

        return frozenset(row.text for row in load_labelled(self.data) if row.split == "train")

    def check(self, model: Model) -> None:
        if self.layer is not None:
            resolve_layer(self.layer, model.anatomy.n_layers, f"selector {self.name}")

    def inputs(self) -> dict[str, str]:
        """The labelled texts, and the weights of the model that the direction is computed on."""
        digest = {} if self.from_model is None else {"from_model": self._elsewhere[0]}
        return super().inputs() | digest

    @cached_property
    def _elsewhere(self) -> tuple[str, Readings]:
        """Digest of the other model's weights, and its residual stream; the model itself is not kept."""
        from .analysis.directions import read
        from .analysis.labelled_texts import load_labelled

        assert self.from_model is not None
        model = border.load(self.from_model)
        return model.weights_digest, read(model, load_labelled(self.data), self.position)

    def select(self, context: SelectionContext) -> Selection:
        from harness.statistics import derive_seed

        from .analysis.directions import chance_of, difference_of_means, labellings, read, separations
        from .analysis.labelled_texts import load_labelled
        from .analysis.layer_choice import cross_validated

        readings = read(context.model, load_labelled(self.data), self.position, context.engine.batch_size)
        source = self._source(readings)
        layers = range(readings.n_layers)
        probes = [difference_of_means(source, layer) for layer in layers]
        table = separations(readings, probes, derive_seed(context.seed, "separation")).columns
        scores = {name: np.array(column, dtype=float) for name, column in table.items() if name != "layer"}
        scores = {name: column for name, column in scores.items() if np.isfinite(column).all()}  # without intervals
        if self.layer is None:
            scores["auroc_train"] = cross_validated(source, readings)
            layer = int(np.argmax(scores["auroc_train"]))
        else:
            layer = resolve_layer(self.layer, readings.n_layers, f"selector {self.name}")
        labels = labellings(source, POOL, derive_seed(context.seed, "labels"))
        auroc = float(scores["auroc"][layer])
        return Selection(
            units=(Direction(layer, 0),),
            rule=self._rule(source, readings, layer, scores),
            candidates=tuple(Direction(at, 0) for at in layers),
            scores=scores,
            details={
                "computed_on": source.model,
                "position": self.position,
                "controls": self.control,
                "auroc_p": chance_of(readings, probes[layer], auroc, POOL, derive_seed(context.seed, "area")),
                "processing": "the residual stream as it is; nothing folded or centred",
            },
            **self._vectors(source, probes, layer, labels, derive_seed(context.seed, "controls")),
        )

    def _source(self, readings: Readings) -> Readings:
        """Where the direction is computed: the model that is run, or another one that fits."""
        if self.from_model is None:
            return readings
        source = self._elsewhere[1]
        if source.residual.shape != readings.residual.shape:
            raise HarnessError(
                f"selector {self.name}: from_model has {counted(source.n_layers, 'layer')} of width "
                f"{source.d_model}, but "
                f"{readings.model} has {readings.n_layers} of width {readings.d_model}: expected the same."
            )
        return source

    def _rule(self, source: Readings, readings: Readings, layer: int, scores: dict[str, np.ndarray]) -> str:
        where = {"last": "their last token", "mean": "the mean of their tokens"}[self.position]
        n, held = int(source.train.sum()), int((~readings.train).sum())
        chosen = ""
        if "auroc_train" in scores:
            area = scores["auroc_train"][layer]
            chosen = f", of all layers the first with the largest area in cross-validation ({area:.3f})"
        return (
            f"difference of the class means of {counted(n, 'labelled text')} at {where}, after layer {layer} of "
            f"{source.model}{chosen}; area under the ROC curve on the {counted(held, 'held-out text')}, which had no "
            f"part in that, {scores['auroc'][layer]:.3f}"
        )

    def _vectors(
        self, source: Readings, probes: list[Probe], layer: int, labels: np.ndarray, seed: int
    ) -> dict[str, Any]:
        """``vectors`` and ``pool`` of the selection: the direction, those of the other layers, and the controls."""
        from .analysis.directions import contrasts

        own = probes[layer].vector
        drawn = np.random.default_rng(seed).normal(size=(POOL, len(own)))
        if self.control == "shuffled":
            drawn = contrasts(source, layer, labels, within=True)
        elif self.control == "orthogonal":
            drawn -= np.outer(drawn @ own, own) / (own @ own)
        size = np.linalg.norm(drawn, axis=1, keepdims=True)
        drawn = drawn[size[:, 0] > 0] * (np.linalg.norm(own) / size[size[:, 0] > 0])
        vectors: dict[Unit, np.ndarray] = {Direction(probe.layer, 0): probe.vector for probe in probes}
        vectors |= {Direction(layer, i): vector for i, vector in enumerate(drawn, 1)}
        if self.normalise:
            vectors = {unit: vector / np.linalg.norm(vector) for unit, vector in vectors.items()}
        pool = tuple(Direction(layer, i) for i in range(1, len(drawn) + 1))
        return {"vectors": vectors, "pool": pool}

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        from .figures.directions import separation_by_layer

        return (separation_by_layer(selection),)
