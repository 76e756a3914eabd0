"""Token-frequency neurons: those that move the output towards or away from the unigram distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from harness.builtin.components import check_layer
from harness.files.wording import only
from harness.plugin import (
    CountsPath,
    HarnessError,
    ModelCorpus,
    Selection,
    SelectionContext,
    Selector,
    agree,
    counted,
    mlp_site,
)

from ..analysis.effects_on_text import check_last, check_length, sweep, text

if TYPE_CHECKING:
    from harness.plugin import Figure, Model


class TokenFrequency(Selector):
    """Token-frequency neurons: their effect goes through the logits' component along the unigram distribution.

    Stolfo et al. 2024, eq. 7 and 8. With v = log p_freq - mean(log p_freq) and l the logits, DE_freq is the mean
    |change of the loss| under mean ablation when l . v stays as in the untouched model; the frequency-mediated fraction
    is 1 - DE_freq/TE. Of the neurons with a large total effect, those with the largest fraction (rule mediated) or with
    the largest |mean change of KL(p_freq || model)| (rule kl_change) are taken. Effects are measured on documents that
    tasks do not evaluate on.
    """

    name = "token_frequency"
    site = "neurons"
    top: int = Field(6, ge=1, description="number of neurons")
    rule: Literal["mediated", "kl_change"] = Field("mediated", description="what they are ranked by")
    effect_quantile: float = Field(0.75, ge=0, lt=1, description="total effects from this quantile of the layer on")
    layer: int = Field(-1, description="layer; only the last one has a closed form")
    corpus: ModelCorpus = Field(
        description="effects are measured on, tokens counted in it; only the bundled models have a default, world",
    )
    unigram: CountsPath = Field(None, description="file or name of token counts; default: count the corpus")
    sequences: int = Field(32, ge=1, description="how many sequences")
    length: int = Field(128, ge=8, description="tokens of a sequence")
    across_documents: bool = Field(True, description="join short documents")
    newlines: bool = Field(False, description="predictions at newlines, and just before them, count")

    def reads_prompts(self) -> bool:
        return False

    def check(self, model: Model) -> None:
        owner = "selector token_frequency"
        check_last(model, check_layer(model, self.layer, self.top, owner), owner)
        check_length(model, self.length, owner)
        if self.unigram is not None:
            from harness.data import load_unigrams

            load_unigrams(self.unigram, model)

    def select(self, context: SelectionContext) -> Selection:
        from harness.data import unigrams
        from harness.model import frequency_cosines, unembedding_geometry

        model, owner = context.model, "selector token_frequency"
        layer = check_layer(model, self.layer, self.top, owner)
        frequencies = unigrams(model, self.unigram, self.corpus)
        read = text(context, self.corpus, self.sequences, self.length, self.across_documents, context.seed)
        p = frequencies.probabilities
        swept = sweep(context, layer, read.tokens, "frozen_unigram", owner, unigram=p, newlines=self.newlines)
        site = mlp_site(model, layer)
        w_out = site.directions(model, layer)
        assert swept.kl_change is not None
        scores = {
            "frequency_mediated": swept.mediated("frozen_unigram"),
            "total_effect": swept.total,
            "direct_effect": swept.direct["frozen_unigram"],
            "kl_change": swept.kl_change,
            "v_freq_cosine": frequency_cosines(model, unembedding_geometry(model), w_out, frequencies.log_frequency),
            "norm": np.linalg.norm(w_out, axis=1),
        }
        chosen, rule = self._choose(scores)
        return Selection(
            units=tuple(site.at(model, layer, int(index)) for index in chosen),
            rule=f"layer {layer}: {rule}; on {counted(swept.n_tokens, 'token')} of {read.said}",
            candidates=tuple(site.at(model, layer, index) for index in range(len(w_out))),
            scores=scores,
            special={"frequency_mediated": "high", "total_effect": "high"},
            details={
                "layer": layer,
                "effect_tokens": swept.n_tokens,
                "unigram": frequencies.source,
                "unigram_tokens": int(frequencies.n_tokens),
                "unigram_notes": list(frequencies.notes),
            },
        )

    def figures(self, selection: Selection) -> tuple[Figure, ...]:
        from ..figures import frequency_kl

        mediated, change = selection.scores["frequency_mediated"], selection.scores["kl_change"]
        names = [str(neuron) for neuron in selection.candidates]
        chosen = np.isin(names, [str(neuron) for neuron in selection.units])
        return (frequency_kl(names, mediated, change, chosen, name="selection_frequency_kl"),)

    def _choose(self, scores: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
        """Indices of the chosen neurons, best first, and the rule in words."""
        keep = large_effects(scores["total_effect"], self.effect_quantile, self.top, "selector token_frequency")
        if self.rule == "mediated":
            order, said = -scores["frequency_mediated"][keep], "the largest frequency-mediated fraction of it"
        else:
            order, said = -np.abs(scores["kl_change"][keep]), "the largest |mean change of KL(p_freq || model)|"
        share = f"of the {1 - self.effect_quantile:.0%} of neurons with the largest total effect"
        return keep[np.argsort(order, kind="stable")][: self.top], f"{share}, the {self.top} with {said}"


def large_effects(total: np.ndarray, quantile: float, top: int, owner: str) -> np.ndarray:
    """Indices of the neurons whose total effect [d_mlp] is positive and in this quantile or above.

    Raises:
        HarnessError: fewer than ``top``.
    """
    keep = np.flatnonzero((total > 0) & (total >= np.quantile(total, quantile)))
    if len(keep) < top:
        raise HarnessError(
            f"{owner}: {only(len(keep), 'neuron')} {agree(len(keep) or 1, 'has', 'have')} a total effect "
            f"above 0 and from the quantile {quantile:g} on, {top} were asked for; lower effect_quantile or top."
        )
    return keep
