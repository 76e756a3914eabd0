"""Selectors of value neurons and value heads: those that make the predicted tokens likelier, directly (PAPERS C)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.builtin import resolve_layer
from harness.components import AnyCorpus, SelectionContext, Selector
from harness.conditions import Head, Neuron, Selection, Unit
from harness.errors import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from harness.model import Model
    from harness.outcomes import Figure

    from .passed import Passed

TOKENS = 10
"""Promoted and suppressed tokens that are recorded of each selected component."""

METHODS = {
    "increase": "log-probability increase",
    "first_order": "first-order log-probability increase, an upper bound",
    "inner_product": "inner product with the predicted token's row of the unembedding",
}


class _ValueSelector(Selector):
    """What both selectors share: on which predictions contributions are measured, and how they are ranked."""

    noun: ClassVar[str]

    top: int = Field(10, ge=1, description="how many")
    method: Literal["increase", "inner_product"] = Field("increase", description="what they are ranked by")
    layer: int | None = Field(None, description="one layer, negative counts from the last; default: all layers")
    prompts: int = Field(64, ge=1, description="predictions it is measured on, drawn by the seed if there are more")
    corpus: AnyCorpus | None = Field(
        None, description="measure on texts that tasks do not evaluate on; default: on the task's own prompts"
    )
    length: int = Field(32, ge=2, description="with corpus: tokens before each prediction")

    def _read(self, context: SelectionContext) -> tuple[list[Sequence[int]], str]:
        """The token sequences whose next token is attributed, and where they come from, in words.

        Raises:
            HarnessError: the task has no prompts, or the corpus no sequence of this length.
        """
        if self.corpus is not None:
            from harness.corpora import sequences

            read = sequences(
                context.model, self.corpus, self.prompts, self.length, context.seed, "select", across_documents=True
            )
            return [x.tokens for x in read], (
                f"after {len(read)} sequences of {self.length} tokens of the corpus {self.corpus.name} (documents that "
                "tasks do not evaluate on)"
            )
        n = len(context.prompts)
        if n == 0:
            raise HarnessError(f"selector {self.name}: the task has no prompts; name a corpus (corpus=world).")
        rows = np.sort(np.random.default_rng(context.seed).permutation(n)[: self.prompts]).tolist()
        return [context.prompts[row] for row in rows], (
            f"at the end of {len(rows)} of the task's own {n} prompts, on which the run is evaluated, too"
        )

    def _layers(self, model: Model) -> list[int]:
        n = model.anatomy.n_layers
        return list(range(n)) if self.layer is None else [resolve_layer(self.layer, n, f"selector {self.name}")]

    def _check_top(self, available: int) -> None:
        if self.top > available:
            raise HarnessError(
                f"selector {self.name}: top={self.top} {self.noun}s were asked for, but there are only {available}."
            )

    def _rank(self, score: np.ndarray) -> list[int]:
        """Rows of the candidates with the highest scores [n], best first; ties go to the earlier one."""
        rows: list[int] = np.argsort(-score, kind="stable")[: self.top].tolist()
        return rows

    def _rule(self, where: str, layers: Sequence[int]) -> str:
        scope = f"layer {layers[0]}" if self.layer is not None else f"layers {layers[0]} to {layers[-1]}"
        return (
            f"{scope}: the {self.top} {self.noun}s with the largest mean {METHODS[self.method]} of the model's own "
            f"prediction, {where}"
        )

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        from .figures import value_figures

        column = self.method if self.method in selection.scores else "first_order"
        return value_figures(selection, self.noun, METHODS[column], column)


class ValueNeurons(_ValueSelector):
    """Value neurons: those whose output makes the predicted token likelier, in all layers or one.

    Yu & Ananiadou 2024: with r the residual stream that a layer's MLP adds to, at the last position, and F(v) the
    distribution that the unembedding reads from v when the final norm keeps the final token's denominator, a neuron's
    importance is log F(r + n_i w_out_i) - log F(r) of the predicted token (method increase), or what n_i w_out_i adds
    to that token's logit (method inner_product, which needs no distribution). Both are exact, means over predictions.

    ``evaluate=top`` finds the same neurons much faster where the vocabulary is large: neurons that cannot be among
    them, by a bound that one gradient gives, are not evaluated, and the scores are the bounds (``first_order``).
    """

    name = "value_neurons"
    noun = "neuron"

    evaluate: Literal["all", "top"] = Field(
        "all", description="method increase: all neurons, or only those that may be among the top"
    )

    def select(self, context: SelectionContext) -> Selection:
        from .increase import neuron_increases, neuron_inner_products
        from .passed import mlp_writes, run_prompts

        model, layers = context.model, self._layers(context.model)
        units = tuple(Neuron(layer, i) for layer in layers for i in range(model.anatomy.d_mlp))
        self._check_top(len(units))
        prompts, where = self._read(context)
        passed = run_prompts(model, prompts, batch_size=context.engine.batch_size)
        details: dict[str, object] = {}
        if self.method == "increase" and self.evaluate == "top":
            scores, chosen, details = self._best(model, passed, layers)
        else:
            increases = neuron_increases if self.method == "increase" else None
            scores = _scores(model, passed, layers, increases, neuron_inner_products)
            chosen = self._rank(scores[self.method])
        means = {layer: passed.neurons[layer].double().mean(0) for layer in layers}
        writes = {layer: mlp_writes(model, passed, layer).directions for layer in {units[i].layer for i in chosen}}
        towards = [_sign(means[u.layer][u.index]) * writes[u.layer][u.index] for u in (units[i] for i in chosen)]
        return Selection(
            neurons=tuple(units[i] for i in chosen),
            rule=self._rule(where, layers),
            candidates=units,
            scores=scores,
            details=_details(model, self.method, [units[i] for i in chosen], towards)
            | {"mean_activations": {str(units[i]): float(means[units[i].layer][units[i].index]) for i in chosen}}
            | details,
        )

    def _best(
        self, model: Model, passed: Passed, layers: Sequence[int]
    ) -> tuple[dict[str, np.ndarray], list[int], dict[str, object]]:
        """Scores of all candidates, rows of the chosen ones, and what was measured of these.

        Raises:
            HarnessError: the model caps its logits, so that there is no bound.
        """
        from .bounds import best_neurons
        from .increase import neuron_inner_products

        if model.readout.cap is not None:
            raise HarnessError(
                f"selector value_neurons: evaluate=top needs logits without a soft cap, and {model.name} has one; take "
                "evaluate=all."
            )
        found = best_neurons(model, passed, layers, self.top)
        chosen = self._rank(np.where(np.isnan(found.increase), -np.inf, found.increase))
        scores = {"first_order": found.bound, **_scores(model, passed, layers, None, neuron_inner_products)}
        details: dict[str, object] = {
            "increases": found.increase[chosen].tolist(),
            "shares_raised": found.raised[chosen].tolist(),
            "evaluated": int(np.isfinite(found.increase).sum()),
        }
        return scores, chosen, details


class ValueHeads(_ValueSelector):
    """Value heads: attention heads whose output makes the predicted token likelier, in all layers or one.

    As value_neurons, with a head's output through the output projection as the contribution, and r the residual stream
    that enters the layer (Yu & Ananiadou 2024).
    """

    name = "value_heads"
    noun = "head"

    def select(self, context: SelectionContext) -> Selection:
        from .heads import head_increases, head_inner_products, head_writes
        from .passed import run_prompts

        model, layers = context.model, self._layers(context.model)
        units = tuple(Head(layer, i) for layer in layers for i in range(model.anatomy.n_heads))
        self._check_top(len(units))
        prompts, where = self._read(context)
        passed = run_prompts(model, prompts, batch_size=context.engine.batch_size, heads=True)
        increases = head_increases if self.method == "increase" else None
        scores = _scores(model, passed, layers, increases, head_inner_products)
        chosen = self._rank(scores[self.method])
        writes = {layer: head_writes(model, passed, layer).mean(0) for layer in {units[i].layer for i in chosen}}
        towards = [writes[units[i].layer][units[i].index] for i in chosen]
        return Selection(
            neurons=tuple(units[i] for i in chosen),
            rule=self._rule(where, layers),
            candidates=units,
            scores=scores,
            details=_details(model, self.method, [units[i] for i in chosen], towards),
            # A layer has few heads, so that sets of other heads of the same layers would be too few.
            pool=tuple(unit for i, unit in enumerate(units) if i not in chosen),
        )


def _scores(
    model: Model,
    passed: Passed,
    layers: Sequence[int],
    increases: Callable[[Model, Passed, int], np.ndarray] | None,
    products: Callable[[Model, Passed, int], np.ndarray],
) -> dict[str, np.ndarray]:
    """Means over the prompts, by candidate, and the share of prompts on which the increase is positive."""
    columns: dict[str, list[np.ndarray]] = {"inner_product": []}
    if increases is not None:
        columns = {"increase": [], "share_raised": [], **columns}
    for layer in layers:
        if increases is not None:
            found = increases(model, passed, layer)
            columns["increase"].append(found.mean(0, dtype=np.float64))
            columns["share_raised"].append((found > 0).mean(0))
        columns["inner_product"].append(products(model, passed, layer).mean(0, dtype=np.float64))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _sign(activation: torch.Tensor) -> float:
    """A neuron promotes what its weights do where it is positive, and the opposite where it is negative."""
    return -1.0 if float(activation) < 0 else 1.0


def _details(model: Model, method: str, chosen: Sequence[Unit], writes: Sequence[torch.Tensor]) -> dict[str, object]:
    """What is recorded of a selection beside its scores."""
    import torch

    from .tokens import top_tokens

    tokens = top_tokens(model, torch.stack(list(writes)), TOKENS)
    return {
        "method": method,
        "processing": "final norm's gain folded into W_U, its denominator held at the last position's"
        + ("; writes centred over d_model (LayerNorm)" if model.readout.centre_writes else ""),
        "tokens": {str(unit): row for unit, row in zip(chosen, tokens, strict=True)},
    }
