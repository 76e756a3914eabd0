"""Selectors of value neurons and value heads: those that make the predicted tokens likelier, directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from harness.plugin import HarnessError, Head, Selection, SelectionContext, mlp_site

from .base import Attribution, by_module, processing, tokens_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    import torch

    from harness.plugin import Figure, Frame, Model, Site

    from ..analysis.last_position import LastPosition

METHODS = {
    "increase": "log-probability increase",
    "bound": "upper bound on the log-probability increase",
    "inner_product": "inner product with the predicted token's row of the unembedding",
}
PREDICTION = "of the model's own prediction"


class _ValueSelector(Attribution):
    """What both selectors share: how contributions are measured."""

    method: Literal["increase", "inner_product"] = Field("increase", description="what they are ranked by")

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        from ..figures import by_layers_and_modules
        from ..tables import token_table

        # All candidates are drawn, and of those that were not evaluated only the bound is known.
        drawn = "bound" if "bound" in selection.scores else self.method
        table = token_table(selection, f"value_{self.noun}s", self.method, METHODS[self.method])
        return (*by_layers_and_modules(selection, f"value {self.noun}", METHODS[drawn], drawn), table)


class ValueNeurons(_ValueSelector):
    """Value neurons: those whose output makes the predicted token likelier, in all layers or one.

    Yu & Ananiadou 2024: with r the residual stream that a layer's MLP adds to, at the last position, and F(v) the
    distribution that the unembedding reads from v when the final norm keeps the final token's denominator, a neuron's
    importance is log F(r + n_i w_out_i) - log F(r) of the predicted token (method increase), or what n_i w_out_i adds
    to that token's logit (method inner_product, which needs no distribution). Both are exact, means over predictions.

    ``evaluate=top`` finds the same neurons much faster where the vocabulary is large: neurons that cannot be among
    them, by a bound that one gradient gives, are not evaluated: of these only the ``bound`` is known, no ``increase``.
    In layers of routed experts the neurons of these are meant, r the residual stream that the whole MLP adds to.
    """

    name = "value_neurons"
    version = "2"
    noun = "neuron"
    site = "neurons"

    evaluate: Literal["all", "top"] = Field(
        "all", description="method increase: all neurons, or only those that may be among the top"
    )

    def check(self, model: Model) -> None:
        super().check(model)
        self._sites(model, self.layers(model))

    def _sites(self, model: Model, layers: Sequence[int]) -> dict[int, Site]:
        """Where the layers' neurons are."""
        sites = {layer: mlp_site(model, layer) for layer in layers}
        if len(set(sites.values())) > 1:
            raise HarnessError(
                f"selector {self.name}: some of the layers of {model.name} have routed experts and others dense "
                "neurons; name layers of one kind (layer=...)."
            )
        return sites

    def select(self, context: SelectionContext) -> Selection:
        from ..analysis.last_position import mlp_writes, run_prompts
        from ..analysis.log_probability_increase import neuron_increases, neuron_inner_products

        model, layers = context.model, self.layers(context.model)
        sites = self._sites(model, layers)
        units = tuple(
            site.at(model, layer, i) for layer, site in sites.items() for i in range(site.count(model, layer) or 0)
        )
        self.check_top(len(units))
        prompts, where = self.read(context)
        states = run_prompts(model, prompts, batch_size=context.engine.batch_size)
        details: dict[str, object] = {}
        if self.method == "increase" and self.evaluate == "top":
            scores, rows, details = self._best(model, states, layers)
        else:
            increases = neuron_increases if self.method == "increase" else None
            scores = _scores(model, states, layers, increases, neuron_inner_products)
            rows = self.rank(scores[self.method])
        chosen = [units[i] for i in rows]
        means = {layer: states.neurons[layer].double().mean(0) for layer in layers}
        writes = {layer: mlp_writes(model, states, layer).directions for layer in {unit.layer for unit in chosen}}
        towards = [_sign(means[unit.layer][unit.index]) * writes[unit.layer][unit.index] for unit in chosen]
        return Selection(
            units=tuple(chosen),
            rule=self.rule(f"{METHODS[self.method]} {PREDICTION}", where, layers),
            candidates=units,
            scores=scores,
            special={name: "high" for name in (self.method,) if name in scores},
            details={
                "method": self.method,
                "processing": processing(model),
                "tokens": tokens_of(model, chosen, towards),
                "mean_activations": {str(unit): float(means[unit.layer][unit.index]) for unit in chosen},
                "modules": by_module(model, states),
                **details,
            },
        )

    def _best(
        self, model: Model, states: LastPosition, layers: Sequence[int]
    ) -> tuple[dict[str, np.ndarray], list[int], dict[str, object]]:
        """Scores of all candidates, rows of the chosen ones, and what was measured of these."""
        from ..analysis.log_probability_increase import neuron_inner_products
        from ..analysis.top_k_by_bound import best_neurons, largest

        found = best_neurons(model, states, layers, self.top)
        chosen = largest(found.increase, self.top)
        scores = {
            "increase": found.increase,
            "bound": found.bound,
            **_scores(model, states, layers, None, neuron_inner_products),
        }
        details: dict[str, object] = {
            "shares_raised": found.raised[chosen].tolist(),
            "evaluated": int(np.isfinite(found.increase).sum()),
        }
        return scores, chosen, details


class ValueHeads(_ValueSelector):
    """Value heads: attention heads whose output makes the predicted token likelier, in all layers or one.

    As value_neurons, with a head's output through the output projection as the contribution, and r the residual stream
    that enters the layer (Yu & Ananiadou 2024).

    ``level=neuron`` looks into the heads: an attention neuron is coordinate j of a head's weighted value vector at one
    source position, times its row of the output projection. Heads are ranked by the sum of the increases of their
    attention neurons among the largest of each prediction; the tables list these neurons, with the tokens that they
    promote and where they read. It takes the attention patterns (Falcon: load it with attn_implementation=eager).
    """

    name = "value_heads"
    version = "2"
    noun = "head"
    site = "heads"

    level: Literal["head", "neuron"] = Field("head", description="whole heads, or their attention neurons")
    neurons: int = Field(200, ge=1, description="level=neuron: attention neurons of each prediction that count")

    @model_validator(mode="after")
    def _neurons_have_increases(self) -> ValueHeads:
        if self.level == "neuron" and self.method != "increase":
            raise ValueError("level=neuron goes with method=increase")
        return self

    def select(self, context: SelectionContext) -> Selection:
        model, layers = context.model, self.layers(context.model)
        units = tuple(Head(layer, i) for layer in layers for i in range(model.anatomy.n_heads))
        self.check_top(len(units))
        prompts, where = self.read(context)
        measure = self._by_neuron if self.level == "neuron" else self._whole
        scores, details, writes = measure(context, prompts, layers)
        rows = self.rank(scores[self.method])
        chosen = [units[i] for i in rows]
        what = f"{METHODS[self.method]} {PREDICTION}"
        if self.level == "neuron":
            what += (
                f" by their attention neurons, summed over those among the {self.neurons} largest of each prediction"
            )
        return Selection(
            units=tuple(chosen),
            rule=self.rule(what, where, layers),
            candidates=units,
            scores=scores,
            special={name: "high" for name in (self.method,) if name in scores},
            details={
                "method": self.method,
                "level": self.level,
                "processing": processing(model),
                "tokens": tokens_of(model, chosen, [writes[unit.layer][unit.index] for unit in chosen]),
                **details,
            },
            # A layer has few heads, so that sets of other heads of the same layers would be too few.
            pool=tuple(unit for i, unit in enumerate(units) if i not in rows),
        )

    def _whole(
        self, context: SelectionContext, prompts: Sequence[Sequence[int]], layers: Sequence[int]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[int, torch.Tensor]]:
        """Scores of all heads, what is recorded beside, and each layer's mean writes [n_heads, d_model]."""
        from ..analysis.head_outputs import head_increases, head_inner_products, head_writes
        from ..analysis.last_position import run_prompts

        model = context.model
        states = run_prompts(model, prompts, batch_size=context.engine.batch_size, heads=True)
        increases = head_increases if self.method == "increase" else None
        scores = _scores(model, states, layers, increases, head_inner_products)
        writes = {layer: head_writes(model, states, layer).mean(0) for layer in layers}
        return scores, {"modules": by_module(model, states)}, writes

    def _by_neuron(
        self, context: SelectionContext, prompts: Sequence[Sequence[int]], layers: Sequence[int]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[int, torch.Tensor]]:
        """The same from attention neurons."""
        from ..analysis.head_summary import attention_levels

        return attention_levels(context.model, prompts, layers, self.neurons, context.engine.batch_size)

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        from ..figures import source_map
        from ..tables import attention_neuron_table, example_table

        found = super().figures(selection)
        if self.level == "head":
            return found
        return (*found, source_map(selection), attention_neuron_table(selection), example_table(selection))


def _scores(
    model: Model,
    states: LastPosition,
    layers: Sequence[int],
    increases: Callable[[Model, LastPosition, int], np.ndarray] | None,
    products: Callable[[Model, LastPosition, int], np.ndarray],
) -> dict[str, np.ndarray]:
    """Means over the prompts, by candidate, and the share of prompts on which the increase is positive."""
    columns: dict[str, list[np.ndarray]] = {"inner_product": []}
    if increases is not None:
        columns = {"increase": [], "share_raised": [], **columns}
    for layer in layers:
        if increases is not None:
            found = increases(model, states, layer)
            columns["increase"].append(found.mean(0, dtype=np.float64))
            columns["share_raised"].append((found > 0).mean(0))
        columns["inner_product"].append(products(model, states, layer).mean(0, dtype=np.float64))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _sign(activation: torch.Tensor) -> float:
    """A neuron promotes what its weights do where it is positive, and the opposite where it is negative."""
    return -1.0 if float(activation) < 0 else 1.0
