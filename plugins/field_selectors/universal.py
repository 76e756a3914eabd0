"""Universal neurons: those of which another model has its like (Gurnee et al. 2024)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from harness.plugin import AnyModel, HarnessError, ModelCorpus, Selection, SelectionContext, border

from .base import FieldSelector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.plugin import Model


class UniversalNeurons(FieldSelector):
    """Neurons whose activations correlate with those of a neuron of another model, more than with random directions.

    Gurnee et al. 2024 (TMLR, arXiv:2401.12181), section 4: with the Pearson correlation rho over tokens of a corpus,

        excess(i) = max over neurons j of the other model of rho(i, j)  -  max over j of rho(i, j rotated)

    where the other model's activations are rotated, layer by layer, by a random orthogonal matrix: what correlates with
    a direction that is no neuron says nothing of neurons. The paper takes the mean over four other seeds and calls
    neurons universal from 0.5 on; here it is one other model of the same tokeniser.
    """

    name = "universal_neurons"
    other: AnyModel = Field(description="the other model, of the same tokeniser (planted:seed=2)")
    corpus: ModelCorpus = Field(description="texts; only the bundled models have a default")
    sequences: int = Field(64, ge=2, description="sequences of the corpus, of the half that tasks do not evaluate on")
    length: int = Field(32, ge=2, description="tokens of a sequence")

    def reads_prompts(self) -> bool:
        return False

    @cached_property
    def _other(self) -> Model:
        return border.load(self.other)

    def inputs(self) -> dict[str, str]:
        """The texts, and the weights of the other model."""
        return super().inputs() | {"other": self._other.weights_digest}

    def check(self, model: Model) -> None:
        super().check(model)
        if self._other.tokenizer_digest != model.tokenizer_digest:
            raise HarnessError(
                f"selector {self.name}: {self._other.name} and {model.name} have different tokenizers: expected models "
                "that read the same tokens."
            )

    def select(self, context: SelectionContext) -> Selection:
        from harness.data import sequences
        from harness.statistics import derive_seed

        model, n = context.model, self._other.anatomy.n_layers
        texts = sequences(
            model, self.corpus, self.sequences, self.length, context.seed, "select", across_documents=True
        )
        tokens = [x.tokens for x in texts]
        own = standardised(model, tokens, self.layers(model))
        best, chance = np.full(own.shape[1], -np.inf), np.full(own.shape[1], -np.inf)
        rng = np.random.default_rng(derive_seed(context.seed, "rotation"))
        with context.stage("correlations", n) as advance:
            for layer in range(n):
                others = standardised(self._other, tokens, [layer])
                best = np.maximum(best, (own.T @ others).max(1))
                raw = activations(self._other, tokens, [layer])
                rotation = np.linalg.qr(rng.normal(size=(raw.shape[1], raw.shape[1])))[0]
                chance = np.maximum(chance, (own.T @ _standard(raw @ rotation)).max(1))
                advance(1)
        return self.chosen(
            model,
            [chance - best],
            {"excess_correlation": best - chance, "correlation": best, "rotated": chance},
            f"the {self.top} whose largest correlation with a neuron of {self._other.name} exceeds that with rotated "
            f"ones most, over {own.shape[0]} tokens of the corpus {self.corpus.name}",
            {"excess_correlation": "high"},
            {"other": self._other.name, "tokens": int(own.shape[0])},
        )


def activations(model: Model, tokens: Sequence[Sequence[int]], layers: list[int]) -> np.ndarray:
    """Activations at all tokens of texts of one length, float64 [tokens, layers * d_mlp]."""
    import torch

    with torch.no_grad(), model.capture_neurons(layers) as seen, model.without_logits():
        model.forward(model.pad([list(x) for x in tokens]))
    return np.concatenate([seen[layer].flatten(0, 1).double().cpu().numpy() for layer in layers], axis=1)


def standardised(model: Model, tokens: Sequence[Sequence[int]], layers: list[int]) -> np.ndarray:
    """Activations [tokens, n] with mean 0 and length 1, so that products are correlations; 0 where nothing varies."""
    return _standard(activations(model, tokens, layers))


def _standard(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(0)
    size = np.linalg.norm(centred, axis=0)
    found: np.ndarray = centred / np.where(size > 1e-9 * np.abs(values).max(initial=1e-300), size, np.inf)
    return found
