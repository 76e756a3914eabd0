"""Selectors of confidence-regulation neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness.builtin.components import check_layer
from harness.files.wording import only
from harness.plugin import (
    AnyCorpus,
    End,
    HarnessError,
    Neuron,
    Selection,
    SelectionContext,
    Selector,
    agree,
    counted,
    the,
)

from ..analysis.effects_on_text import check_last, check_length

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.plugin import Figure, Model


LOOSEN = {
    "rho_logit_var": "Lower min_rho or top, or raise null_dims",
    "norm_logit_var": "Lower norm_quantile or top",
    "rho": "Lower top",
    "mediated": "Lower effect_quantile or top",
}
"""What to do when a rule lets too few neurons pass."""


SIGNS: dict[str, End] = {"rho": "high", "logit_var": "low", "norm": "high"}
MEASURED: dict[str, End] = {"norm_mediated": "high", "total_effect": "high"}
"""What entropy neurons are known by: in their weights, and in their effects where these are measured."""

TIE_DECIMALS = 12
"""Scores that agree to so many decimals are equal: both lie in [0, 1] and come from float32 weights."""


class Entropy(Selector):
    """Entropy neurons, which write into the null space of the unembedding and so change confidence more than choice.

    Those that were published (Stolfo et al. 2024) have three signs: much of the output weights' norm in the null space
    (rho), little effect on single logits (LogitVar), and large output weights (norm). A rule looks at one or two of
    these; the report says where each chosen neuron stands in all three, and warns of those that are ordinary.

    Rules: ``rho_logit_var`` takes the neurons with rho >= min_rho and of those the lowest LogitVar (Tighidet et al.
    2025), whatever their norm; ``norm_logit_var`` takes the largest norms (norm_quantile and above) and of those the
    lowest LogitVar (Du et al. 2025, after Stolfo et al. 2024); ``rho`` takes the highest rho; ``mediated`` measures: of
    the neurons with the largest total effects (effect_quantile and above) it takes the highest LayerNorm-mediated
    fractions, 1 - DE/TE, on sequences of a corpus that tasks do not evaluate on.
    """

    name = "entropy"
    site = "neurons"
    top: int = Field(6, ge=1, description="number of neurons")
    null_dims: Annotated[int, Field(ge=1)] | None = Field(
        None, description="bottom singular directions of W_U that count as its null space; default: from the spectrum"
    )
    corpus: AnyCorpus | None = Field(None, description="rule mediated: texts that effects are measured on")
    rule: Literal["rho_logit_var", "norm_logit_var", "rho", "mediated"] = Field(
        "rho_logit_var", description="see above"
    )
    min_rho: float = Field(0.4, ge=0, le=1, description="rule rho_logit_var: least share of the norm in the null space")
    norm_quantile: float = Field(0.75, ge=0, lt=1, description="rule norm_logit_var: norms from this quantile on")
    effect_quantile: float = Field(0.75, ge=0, lt=1, description="rule mediated: total effects from this quantile on")
    sequences: int = Field(32, ge=1, description="rule mediated: how many sequences")
    length: int = Field(128, ge=8, description="rule mediated: tokens of a sequence")
    across_documents: bool = Field(True, description="rule mediated: join short documents")
    method: Literal["exact", "fast"] = Field("exact", description="rule mediated: fast has errors of up to 1e-4 nats")
    layer: int = Field(-1, description="layer; negative counts from the last")

    @field_validator("rule")
    @classmethod
    def _needs_text(cls, rule: str, info: ValidationInfo) -> str:
        if (rule == "mediated") != (info.data.get("corpus") is not None):
            raise ValueError(
                "mediated needs a corpus (corpus=text:path=FILE), and only it: the other rules look at weights"
            )
        return rule

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        layer = check_layer(model, self.layer, self.top, "selector entropy")
        if self.null_dims is not None and self.null_dims >= model.anatomy.d_model:
            raise HarnessError(
                f"selector entropy: null_dims={self.null_dims} must be below d_model = {model.anatomy.d_model}."
            )
        if self.rule == "mediated":
            check_last(model, layer, "selector entropy")
            check_length(model, self.length, "selector entropy")

    def select(self, context: SelectionContext) -> Selection:
        from harness.model import (
            neuron_scores,
            null_cosines,
            suggest_null_dims,
            unembedding_geometry,
            write_directions,
        )

        model = context.model
        self.check(model)
        layer = check_layer(model, self.layer, self.top, "selector entropy")
        geometry = unembedding_geometry(model)
        suggested = suggest_null_dims(geometry.singular_values, geometry.trivial)
        k, why = (self.null_dims, "as asked") if self.null_dims else suggested
        w_out = write_directions(model, layer)
        scores = neuron_scores(geometry, w_out, k)
        wrong = [name for name, values in scores.items() if not np.isfinite(values[scores["norm"] != 0]).all()]
        if wrong:
            raise HarnessError(
                f"selector entropy: {wrong[0]} of neurons of layer {layer} is not finite in float32: the weights of "
                "the checkpoint are damaged or too large."
            )
        measured = self._measure(context, layer, scores) if self.rule == "mediated" else ""
        chosen, rule = self._choose(scores)
        cosines = null_cosines(geometry, w_out[chosen]).round(6)
        return Selection(
            units=tuple(Neuron(layer, int(index)) for index in chosen),
            rule=f"layer {layer}: {rule}{measured}; null space: {k} of "
            f"{counted(model.anatomy.d_model, 'direction')} ({why})",
            candidates=tuple(Neuron(layer, index) for index in range(model.anatomy.d_mlp)),
            scores=scores,
            special=SIGNS | MEASURED if self.rule == "mediated" else SIGNS,
            details={
                "layer": layer,
                "null_dims": k,
                "null_dims_reason": why,
                "processing": geometry.processing,
                "singular_values": geometry.singular_values,
                "cosines": {f"{layer}.{i}": row for i, row in zip(chosen, cosines.tolist(), strict=True)},
            },
        )

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        from ..figures import entropy_figures

        return entropy_figures(selection)

    def _measure(self, context: SelectionContext, layer: int, scores: dict[str, np.ndarray]) -> str:
        """Add TE, DE_LN and the mediated fraction to the scores; returns where they were measured, in words."""
        from ..analysis.effects_on_text import sweep, text

        assert self.corpus is not None
        read = text(context, self.corpus, self.sequences, self.length, self.across_documents, context.seed)
        swept = sweep(context, layer, read.tokens, "frozen_norm", "selector entropy", method=self.method)
        scores |= {
            "norm_mediated": swept.mediated("frozen_norm"),
            "total_effect": swept.total,
            "direct_effect": swept.direct["frozen_norm"],
        }
        return f", on {counted(swept.n_tokens, 'token')} of {read.said}"

    def _choose(self, scores: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
        """Indices of the chosen neurons, best first, and the rule in words.

        Raises:
            HarnessError: fewer neurons pass the threshold than were asked for; says how many do.
        """
        alive = scores["norm"] > 0
        if not alive.any():
            raise HarnessError("selector entropy: no neuron of the layer writes anything; choose another layer.")
        if self.rule == "rho":
            keep, order, rule = alive, -scores["rho"], f"{the(self.top, 'neuron')} with the highest rho"
        elif self.rule == "rho_logit_var":
            keep, order = alive & (scores["rho"] >= self.min_rho), scores["logit_var"]
            rule = f"of the neurons with rho >= {self.min_rho:g}, the {self.top} with the lowest LogitVar"
        elif self.rule == "mediated":
            total = scores["total_effect"]
            keep = alive & (total > 0) & (total >= np.quantile(total, self.effect_quantile))
            order = -scores["norm_mediated"]
            largest = f"the {1 - self.effect_quantile:.0%} of neurons with the largest total effect"
            rule = f"of {largest}, the {self.top} with the largest LayerNorm-mediated fraction of it"
        else:
            cut = np.quantile(scores["norm"], self.norm_quantile)
            keep, order = alive & (scores["norm"] >= cut), scores["logit_var"]
            largest = f"the {1 - self.norm_quantile:.0%} of neurons with the largest norm"
            rule = f"of {largest}, the {self.top} with the lowest LogitVar"
        passing = np.flatnonzero(keep)
        if len(passing) < self.top:
            most = f"; the highest rho is {np.nanmax(scores['rho']):.3f}" if self.rule == "rho_logit_var" else ""
            raise HarnessError(
                f"selector entropy: {only(len(passing), 'neuron')} {agree(len(passing) or 1, 'passes', 'pass')} the "
                f"rule {self.rule}, {self.top} were asked for{most}. {LOOSEN[self.rule]}."
            )
        # What float32 weights cannot tell apart is ordered by norm, so that rounding decides nothing.
        ranked = np.lexsort((-scores["norm"][passing], order[passing].round(TIE_DECIMALS)))
        return passing[ranked][: self.top], rule
