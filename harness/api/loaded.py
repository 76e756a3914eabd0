"""A model for people who explore: what its neurons do on their own texts, and what changes without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np

from harness.api.ablating import Neurons, hold, named
from harness.conditions.conditions import BASELINE, Condition
from harness.conditions.units import Neuron
from harness.engine.activation_capture import activations
from harness.engine.activation_summaries import ActivationStatistics, activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model

if TYPE_CHECKING:
    import pandas as pd

Texts = str | Sequence[str]
"""One text, or several."""


class LoadedModel(Model):
    """A :class:`harness.model.model.Model` with questions that are asked of texts, answered by data frames.

    Layers count from the last one backwards where they are negative.
    """

    @classmethod
    def of(cls, model: Model) -> Self:
        """The same model with these methods."""
        return cls(**{field.name: getattr(model, field.name) for field in fields(model)})

    def neurons(self, texts: Texts, layer: int = -1) -> pd.DataFrame:
        """The activations of a layer's neurons at every token.

        Returns:
            a row a token, by ``prompt`` (the text's number), ``position`` and ``token``; a float32 column for each of
            the d_mlp neurons, by name ("3.7").

        Raises:
            HarnessError: there is no such layer, or a text is empty.
        """
        import pandas as pd

        prompts, neurons = self._encoded(texts), self._of_layer(layer)
        found = activations(self, prompts, [BASELINE], neurons)[0]  # [d_mlp, n_prompts, longest]
        places = [(i, place) for i, tokens in enumerate(prompts) for place in range(len(tokens))]
        rows, columns = np.array(places).T
        words = [self.token_texts[prompts[i][place]] for i, place in places]
        index = pd.MultiIndex.from_arrays([rows, columns, words], names=["prompt", "position", "token"])
        return pd.DataFrame(found[:, rows, columns].T, index, [str(neuron) for neuron in neurons])

    def scores(self, texts: Texts, conditions: Condition | Sequence[Condition] = ()) -> pd.DataFrame:
        """What the model predicts, untouched and under conditions (:func:`harness.zero`, :func:`harness.mean`).

        Returns:
            a row a condition ("baseline" first) and predicted token (the second of each text and those after it):
            :meth:`harness.engine.scores.Scores.to_frame`.

        Raises:
            HarnessError: a condition does not fit the model, or a text is empty.
        """
        several = [conditions] if isinstance(conditions, Condition) else conditions
        return ClosedFormEngine(self).score(self._encoded(texts), [BASELINE, *several]).to_frame(self)

    def effects(
        self, texts: Texts, layer: int = -1, neurons: Neurons | None = None, value: float = 0.0
    ) -> NeuronEffects:
        """What changes when single neurons are held at a value, each by itself, at all positions.

        Args:
            neurons: these ones; None: all of ``layer``.

        Raises:
            HarnessError: there is no such neuron or layer, or a text is empty.
        """
        import pandas as pd

        held = self._of_layer(layer) if neurons is None else named(neurons)
        frame = self.scores(texts, [hold(neuron, value) for neuron in held])
        untouched, edited = frame[frame["condition"] == BASELINE.name], frame[frame["condition"] != BASELINE.name]
        n_tokens = len(untouched)
        edited = edited.drop(columns="condition").reset_index(drop=True)
        edited.insert(0, "neuron", pd.Series(np.repeat([str(neuron) for neuron in held], n_tokens), dtype="string"))
        for name in ("loss", "entropy"):
            change = edited[name].to_numpy() - np.tile(untouched[name].to_numpy(), len(held))
            edited.insert(edited.columns.get_loc(name) + 1, f"{name}_change", change)
        return NeuronEffects(edited)

    def statistics(self, texts: Texts, layer: int | Sequence[int] = -1) -> ActivationStatistics:
        """Mean, standard deviation and more of the neurons of one or more layers, over all tokens of these texts.

        Raises:
            HarnessError: there is no such layer, or a text is empty.
        """
        layers = [self._layer(x) for x in ([layer] if isinstance(layer, int) else layer)]
        return activation_statistics(self, self._encoded(texts), layers, batch_size=64, seed=0)

    def _encoded(self, texts: Texts) -> list[list[int]]:
        return self.encode([texts] if isinstance(texts, str) else texts)

    def _layer(self, layer: int) -> int:
        n_layers = self.anatomy.n_layers
        if not -n_layers <= layer < n_layers:
            raise HarnessError(f"layer: expected {-n_layers} to {n_layers - 1}, got {layer}.")
        return layer % n_layers

    def _of_layer(self, layer: int) -> list[Neuron]:
        return [Neuron(self._layer(layer), i) for i in range(self.anatomy.d_mlp)]


@dataclass(frozen=True, eq=False)
class NeuronEffects:
    """What holding single neurons at a value changes.

    Attributes:
        frame: a row a neuron and predicted token: ``neuron``, then as :meth:`harness.engine.scores.Scores.to_frame`,
            with ``loss_change`` and ``entropy_change`` from the untouched model, nats.
    """

    frame: pd.DataFrame

    @property
    def by_neuron(self) -> pd.DataFrame:
        """Means over all tokens of the changes and of their sizes, nats; the largest effect on the loss first."""
        sizes = {"loss_size": self.frame["loss_change"].abs(), "entropy_size": self.frame["entropy_change"].abs()}
        grouped = self.frame.assign(**sizes).groupby("neuron", sort=False)
        means = grouped[["loss_change", "entropy_change", *sizes]].mean()
        return means.sort_values("loss_size", ascending=False)

    def _repr_html_(self) -> str:
        return str(self.by_neuron.head(20).to_html())
