"""Selectors of confidence-regulation neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from harness.builtin.components import check_layer, check_top
from harness.files.wording import only
from harness.model import by_weights
from harness.model.weight_rules import MIN_RHO, NORM_QUANTILE, ranked
from harness.plugin import (
    AnyCorpus,
    AnyLayers,
    End,
    HarnessError,
    Selection,
    SelectionContext,
    Selector,
    agree,
    counted,
    layers_in,
    mlp_site,
)

from ..analysis.confirmation import LEVEL, MIN_SHARE
from ..analysis.effects_on_text import check_closed_form, check_last, check_length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.plugin import Figure, Frame, Model

    from ..analysis.evidence import Layers


LOOSEN = {
    "tighidet2025": "Lower min_rho or top, or raise null_dims",
    "du2025": "Lower norm_quantile or top",
    "stolfo2024": "Lower top",
    "mediated": "Lower effect_quantile or top",
}
"""What to do when a rule lets too few neurons pass."""


OWNER = "selector entropy"

SIGNS: dict[str, End] = {
    "rho": "high", "logit_var": "low", "norm": "high", "norm_path": "high", "total_effect": "high",
    "entropy_through_norm": "high",
}  # fmt: skip
"""What entropy neurons are known by: in their weights, and in their effects where these are measured."""

EFFECTS = ("norm_path", "norm_mediated", "total_effect", "direct_effect", "entropy_through_norm")
"""The scores that are measured: N / (N + D), 1 - DE/TE, and mean absolute changes in nats."""

READING = ("confirmed", "mediated")
"""The rules that measure effects on texts."""

EARLIER = (
    "the null space is that of the unembedding, whichever the layer; a neuron below the last one acts through later "
    "layers, too, of which rho and LogitVar say nothing"
)
"""What is to be known of the scores of neurons below the last layer."""


class Entropy(Selector):
    """Entropy neurons, which write into the null space of the unembedding and so change confidence more than choice.

    Those that were published (Stolfo et al. 2024) have three signs: much of the output weights' norm in the null space
    (rho), little effect on single logits (LogitVar), and large output weights (norm). The report says where each chosen
    neuron stands, warns of those that are ordinary, and says how the choice depends on null space and rule.

    Rules: ``confirmed`` measures what neurons do. Those whose weights have the signs are ablated, and taken if the loss
    changes more through the final norm than directly (min_share), and if the change of the entropy through the norm,
    times that share, is larger than for other neurons of the layer of about the same norm (p = (b + 1) / (m + 1),
    Benjamini-Hochberg at ``level``): as many as pass, ``top`` at most. That none does is an answer.

    Published rules look at weights, and always take ``top``: ``tighidet2025``, of the neurons with rho >= min_rho the
    lowest LogitVar, whatever their norm; ``stolfo2024``, the highest rho, as the authors' code does (the paper shows
    norm and LogitVar); ``du2025``, of the largest norms (norm_quantile and above) the lowest LogitVar, with top=10.

    ``mediated``: of the neurons with the largest total effects (effect_quantile and above) the ``top`` highest
    LayerNorm-mediated fractions, 1 - DE/TE.

    In a layer of routed experts the neurons of these are meant. Effects are measured on the half of a corpus that tasks
    do not evaluate on, and in the last layer. With ``layers`` the published rules choose among the neurons of several
    layers, or of all: figures and a table show how the scores vary over them. Of a neuron below the last layer rho and
    LogitVar say less, because later layers read it, too.
    """

    name = "entropy"
    version = "2"
    later: ClassVar[frozenset[str]] = frozenset({"layers"})
    site = "neurons"
    top: int = Field(6, ge=1, description="number of neurons; rule confirmed: at most so many")
    null_dims: Annotated[int, Field(ge=1)] | None = Field(
        None, description="bottom singular directions of W_U that count as its null space; default: from the spectrum"
    )
    rule: Literal["confirmed", "tighidet2025", "stolfo2024", "du2025", "mediated"] = Field(
        "confirmed", description="see above"
    )
    min_share: float = Field(
        MIN_SHARE, ge=0, lt=1, description="rule confirmed: least share of the path through the final norm"
    )
    level: float = Field(
        LEVEL, gt=0, lt=1, description="rule confirmed: share of the chosen that may be no entropy neurons"
    )
    min_rho: float = Field(
        MIN_RHO, ge=0, le=1, description="rule tighidet2025: least share of the norm in the null space"
    )
    norm_quantile: float = Field(NORM_QUANTILE, ge=0, lt=1, description="rule du2025: norms from this quantile on")
    effect_quantile: float = Field(0.75, ge=0, lt=1, description="rule mediated: total effects from this quantile on")
    corpus: AnyCorpus | None = Field(
        None, description="rules confirmed and mediated: texts; default: the model's own, else prose"
    )
    sequences: int = Field(8, ge=1, description="rules confirmed and mediated: how many sequences")
    length: int = Field(64, ge=8, description="rules confirmed and mediated: tokens of a sequence")
    across_documents: bool = Field(True, description="rules confirmed and mediated: join short documents")
    method: Literal["exact", "fast"] = Field(
        "fast", description="rules confirmed and mediated: fast has errors of up to 1e-4 nats for each token"
    )
    layer: int = Field(-1, description="layer; negative counts from the last")
    layers: Literal["all"] | AnyLayers | None = Field(
        None, description="all, 8-12, or a list of layers, instead of layer: published rules only"
    )

    @field_validator("layers")
    @classmethod
    def _one_of_the_two(cls, layers: Any, info: ValidationInfo) -> Any:
        if layers is not None and info.data.get("layer", -1) != -1:
            raise ValueError("give either layer or layers")
        if layers is not None and info.data.get("rule") in READING:
            raise ValueError(
                f"rule {info.data['rule']} measures effects, in the last layer only; with layers name one of the "
                "published rules, which look at weights: rule=tighidet2025, stolfo2024 or du2025"
            )
        return layers

    @field_validator("corpus", mode="before")
    @classmethod
    def _needs_text(cls, corpus: Any, info: ValidationInfo) -> Any:
        reads = info.data.get("rule") in READING
        if corpus is not None and not reads:
            raise ValueError("only the rules confirmed and mediated read texts: the published rules look at weights")
        if corpus is None and reads:
            return (info.context or {}).get("corpus") or "prose"
        return corpus

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        layers = self._layers(model)
        if self.null_dims is not None and self.null_dims >= model.anatomy.d_model:
            raise HarnessError(f"{OWNER}: null_dims={self.null_dims} must be below d_model = {model.anatomy.d_model}.")
        if self.rule in READING:
            check_last(model, layers[0], OWNER)
            check_length(model, self.length, OWNER)
            check_closed_form(model, OWNER)

    def _layers(self, model: Model) -> list[int]:
        """The layers, ascending, of which ``top`` neurons are to be chosen."""
        if self.layers is None:
            return [check_layer(model, self.layer, self.top, OWNER)]
        n = model.anatomy.n_layers
        asked = list(range(n)) if self.layers == "all" else layers_in(self.layers, n, OWNER)
        sites = {layer: mlp_site(model, layer) for layer in asked}
        if len({(site, site.count(model, layer)) for layer, site in sites.items()}) > 1:
            raise HarnessError(
                f"{OWNER}: layers {asked[0]} to {asked[-1]} of {model.name} have different neurons (of experts, or "
                "more of them); choose layers that are alike."
            )
        check_top(self.top, len(asked) * (sites[asked[0]].count(model, asked[0]) or 0), OWNER)
        return asked

    def select(self, context: SelectionContext) -> Selection:
        from ..analysis.evidence import Layers

        model = context.model
        self.check(model)
        layers = Layers.of(model, self._layers(model), self.null_dims)
        scores = layers.scores()
        if not (scores["norm"] > 0).any():
            raise HarnessError(f"{OWNER}: no neuron of {layers.said} writes anything; choose another layer.")
        choose = self._confirm if self.rule == "confirmed" else self._take
        chosen, rule = choose(context, layers, scores)
        below = f"; {EARLIER}" if self.layers is not None and layers.indices[0] < model.anatomy.n_layers - 1 else ""
        return Selection(
            units=tuple(map(layers.neuron, chosen.tolist())),
            rule=f"{layers.said}{rule}; null space: {layers.null_space()}{below}",
            candidates=layers.neurons(),
            scores=scores,
            special=self._signs(scores),
            details=layers.details(chosen, self._again(layers)) | self._about_layers(layers),
        )

    def _about_layers(self, layers: Layers) -> dict[str, Any]:
        """What the figures of several layers count by."""
        return {"min_rho": self.min_rho, "trivial": layers.geometry.trivial} if len(layers.indices) > 1 else {}

    def _signs(self, scores: Mapping[str, object]) -> dict[str, End]:
        """Ends of the scores; the rule "confirmed" compares with others of the same norm and seeks no long ones."""
        return {
            name: end for name, end in SIGNS.items() if name in scores and (name, self.rule) != ("norm", "confirmed")
        }

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        from ..figures import entropy_figures, layer_figures

        return (*entropy_figures(selection), *layer_figures(selection))

    def _take(self, context: SelectionContext, layers: Layers, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
        """Indices of the ``top`` best neurons by a published rule or ``mediated``, and the rule in words.

        Raises:
            HarnessError: fewer neurons pass the threshold than were asked for; says how many do.
        """
        if self.rule == "mediated":
            where = self._measurer(context, layers, scores)(None)
            passing, said = self._most_mediated(scores)
            said = f"{said}, {where}"
        else:
            passing, said = by_weights(self.rule, scores, self.top, self.min_rho, self.norm_quantile)  # type: ignore[arg-type]
        if len(passing) < self.top:
            most = f"; the highest rho is {np.nanmax(scores['rho']):.3f}" if self.rule == "tighidet2025" else ""
            raise HarnessError(
                f"{OWNER}: {only(len(passing), 'neuron')} {agree(len(passing) or 1, 'passes', 'pass')} the "
                f"rule {self.rule}, {self.top} were asked for{most}. {LOOSEN[self.rule]}."
            )
        return passing[: self.top], f": {said}"

    def _most_mediated(self, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
        total = scores["total_effect"]
        keep = (scores["norm"] > 0) & (total > 0) & (total >= np.quantile(total, self.effect_quantile))
        largest = f"the {1 - self.effect_quantile:.0%} of neurons with the largest total effect"
        said = f"of {largest}, the {self.top} with the largest LayerNorm-mediated fraction of it"
        return ranked(keep, -scores["norm_mediated"], scores["norm"]), said

    def _confirm(
        self, context: SelectionContext, layers: Layers, scores: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, str]:
        """Indices of the confirmed neurons, those that do most first, and the rule in words."""
        from ..analysis.confirmation import confirm, enough, matched

        none = " has no entropy neurons by the rule confirmed"
        proposed = layers.candidates(self.top)
        if not len(proposed):
            return proposed, f"{none}: the weights of its neurons have none of their signs ({layers.nearest(scores)})"
        measure = self._measurer(context, layers, scores)
        where = measure(proposed)
        share, entropy = scores["norm_path"], scores["entropy_through_norm"]
        strong = proposed[share[proposed] >= self.min_share]
        others = matched(strong, proposed, scores["norm"], enough(len(proposed), self.level))
        if others.size:
            measure(np.unique(others))
        adjusted, passing = confirm(proposed, strong, others, share * entropy, self.level)
        scores["p_adjusted"] = adjusted
        said, least = counted(len(proposed), "candidate"), f"{self.min_share:.0%}"
        if not len(strong):
            best = int(proposed[np.argmax(share[proposed])])
            return strong, (
                f"{none}: the nearest of {said}, {layers.neuron(best)}, acts to {share[best]:.0%} through the final "
                f"norm, where {least} is the least ({where})"
            )
        nearest = f"the {counted(others.shape[1], 'other')} nearest in norm"
        if not len(passing):
            best = int(strong[np.argmin(adjusted[strong])])
            return passing, (
                f"{none}: the nearest of {said}, {layers.neuron(best)}, acts to {share[best]:.0%} through the final "
                f"norm, but does not move the entropy through it more than {nearest}: p = {adjusted[best]:.3g} after "
                f"Benjamini-Hochberg, where {self.level:g} is the most ({where})"
            )
        return passing[: self.top], (
            f": of {said} by rho and LogitVar, those that act to {least} or more through the final norm and move the "
            f"entropy through it more than {nearest} (p <= {self.level:g} after Benjamini-Hochberg; {where}): "
            f"{len(passing)}, at most {self.top} are taken"
        )

    def _measurer(
        self, context: SelectionContext, layers: Layers, scores: dict[str, np.ndarray]
    ) -> Callable[[np.ndarray | None], str]:
        """A function that adds measured effects of some neurons, or of all, to the scores, and says on what."""
        from ..analysis.confirmation import norm_path
        from ..analysis.effects_on_text import sweep, text

        assert self.corpus is not None
        read = text(context, self.corpus, self.sequences, self.length, self.across_documents, context.seed)
        scores |= {name: np.full(len(scores["norm"]), np.nan) for name in EFFECTS}

        def measure(neurons: np.ndarray | None) -> str:
            some = slice(None) if neurons is None else neurons
            swept = sweep(
                context, layers.indices[0], read.tokens, "frozen_norm", OWNER, method=self.method,
                neurons=None if neurons is None else neurons.tolist(),
            )  # fmt: skip
            direct = swept.direct["frozen_norm"]
            path, share = norm_path(swept.through, direct), swept.mediated("frozen_norm")
            values = path, share, swept.total, direct, swept.entropy_through
            for name, column in zip(EFFECTS, values, strict=True):
                scores[name][some] = column[some]
            return f"on {counted(swept.n_tokens, 'token')} of {read.said}"

        return measure

    def _again(self, layers: Layers) -> Callable[[int], np.ndarray] | None:
        """What the rule chooses by weights with another number of null dimensions; None: it does not ask for any."""
        rule = self.rule
        if rule == "mediated":
            return None
        if rule == "confirmed":
            return lambda k: layers.candidates(self.top, k)
        return lambda k: layers.published(rule, self.top, self.min_rho, self.norm_quantile, k)
