"""The selector of query neurons: earlier neurons that activate the value neurons of a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from harness.plugin import HarnessError, Neuron, Selection, SelectionContext

from .base import Attribution, tokens_of

if TYPE_CHECKING:
    from harness.plugin import Figure, Frame, Model

LISTED = 10
"""Value neurons that are recorded."""

KINDS = {"attention": "attention neurons", "neurons": "FFN neurons"}


class QueryNeurons(Attribution):
    """Query neurons: earlier neurons whose output activates the value neurons of a prediction.

    Yu & Ananiadou 2024: of each prediction the ``values`` value neurons with the largest log-probability increase are
    taken. A query neuron's score is the share that its output has in their pre-activations (inner product of its output
    with the value neuron's key, over the whole pre-activation with its constant; the norm on the way keeps its
    denominator), times their increases, summed over them; the mean over predictions. Attention neurons are read at
    their source position (coordinate of a head's value vector; the key is its row of the value projection), FFN neurons
    at the last one (the key is the input weights, of the gate where there is one). Exact for all neurons.
    """

    name = "query_neurons"
    noun = "neuron"
    site = "neurons"

    of: Literal["attention", "neurons"] = Field(
        "attention", description="which value neurons: attention neurons, or FFN neurons"
    )
    values: int = Field(30, ge=1, description="value neurons of each prediction")

    def layers(self, model: Model) -> list[int]:
        """Raises: HarnessError: nothing comes after the layer that was asked for."""
        last = model.anatomy.n_layers - 1
        layers = [layer for layer in super().layers(model) if layer < last]
        if not layers:
            raise HarnessError(
                f"selector query_neurons: no value neuron comes after layer {last}, the last of {model.name}; choose "
                "an earlier layer."
            )
        return layers

    def select(self, context: SelectionContext) -> Selection:
        from ..analysis.query_scores import attention_queries, neuron_queries

        model, layers = context.model, self.layers(context.model)
        units = tuple(Neuron(layer, i) for layer in layers for i in range(model.anatomy.d_mlp))
        self.check_top(len(units))
        prompts, where = self.read(context)
        total, raised = (np.zeros((len(layers), model.anatomy.d_mlp)) for _ in range(2))
        increases: dict[str, float] = {}
        find = attention_queries if self.of == "attention" else neuron_queries
        for found in find(model, prompts, self.values, context.engine.batch_size):
            total += found.scores[layers] / len(prompts)
            raised += (found.scores[layers] > 0) / len(prompts)
            for value in found.values:
                increases[value.name] = increases.get(value.name, 0.0) + value.increase / len(prompts)
        rows = self.rank(total.ravel())
        chosen = [units[i] for i in rows]
        read = sorted(increases, key=lambda name: (-increases[name], name))[:LISTED]
        return Selection(
            units=tuple(chosen),
            rule=self.rule(
                f"share in the pre-activations of the {self.values} {KINDS[self.of]} that raise the log-probability of "
                "the model's own prediction most, weighted by these increases",
                where,
                layers,
            ),
            candidates=units,
            special={"query": "high"},
            scores={"query": total.ravel(), "share_positive": raised.ravel()},
            details={
                "of": self.of,
                "processing": "norms keep their denominators, their gains are folded into the keys; shares are of the "
                "whole pre-activation, constants included",
                "tokens": tokens_of(model, chosen, [model.w_out(unit.layer)[unit.index] for unit in chosen]),
                "value_neurons": {name: increases[name] for name in read},
            },
        )

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        from ..figures import by_layers_and_modules
        from ..tables import token_table

        table = token_table(selection, "query_neurons", "query", "query score")
        return (*by_layers_and_modules(selection, "query neuron", "query score", "query"), table)
