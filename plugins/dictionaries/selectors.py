"""Selectors of latents: by what they do on some prompts, or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from harness.plugin import (
    AnyCorpus,
    End,
    Figure,
    Frame,
    HarnessError,
    Selection,
    SelectionContext,
    Selector,
    Source,
    counted,
    suggest,
    the,
)

from .latents import Latent, Latents

if TYPE_CHECKING:
    from harness.plugin import Model

    from .dictionary import Dictionary
    from .quality import Quality
    from .reading import Read

TOKENS = 5
"""Promoted tokens that are recorded of each selected latent."""

BY = {
    "activation": "activation",
    "attribution": "attribution to the model's answer (activation times the slope of its log-probability)",
    "difference": "difference in mean activation",
}


class _LatentSelector(Selector):
    """Base: which dictionary, and what it is looked at on."""

    site = "latents"

    sae: Source = Field(
        description="dictionary: a folder as SAELens saves it, OWNER/REPOSITORY/FOLDER on the hub, or demo-last"
    )
    centred: bool | None = Field(
        None,
        description="trained where the mean over d_model of what is written is taken off (TransformerLens's "
        "center_writing_weights, LayerNorm only); default: as cfg.json says, which old ones do not",
    )
    prompts: int = Field(128, ge=2, description="sequences that are looked at, drawn by the seed if there are more")
    corpus: AnyCorpus | None = Field(
        None, description="look at texts that tasks do not evaluate on; default: at prompts that are held out"
    )
    length: int = Field(32, ge=3, description="with corpus: tokens of a sequence")

    def reads_prompts(self) -> bool:
        return self.corpus is None

    @cached_property
    def _read(self) -> Dictionary:
        from .dictionary import load

        return load(self.sae)

    def inputs(self) -> dict[str, str]:
        return super().inputs() | {"sae": self._read.digest}

    def dictionary(self, model: Model) -> Dictionary:
        """The dictionary; nothing is centred where the model has no LayerNorm, as TransformerLens does."""
        from dataclasses import replace

        own = self._read.centred if self.centred is None else self.centred
        return replace(self._read, centred=own and model.readout.centre_writes)

    def check(self, model: Model) -> None:
        from .dictionary import check_fit

        check_fit(self._read, model, f"selector {self.name}")

    def rows(self, context: SelectionContext) -> tuple[list[int], list[Sequence[int]], str]:
        """The sequences that are looked at: their places among the context's prompts (none of a corpus), their tokens,
        and where they are from, in words."""
        if self.corpus is not None:
            from harness.data import sequences

            drawn = sequences(
                context.model, self.corpus, self.prompts, self.length, context.seed, "select", across_documents=True
            )
            where = f"{counted(len(drawn), 'sequence')} of {self.length} tokens of the corpus {self.corpus.name}"
            return [], [x.tokens for x in drawn], f"{where} (documents that tasks do not evaluate on)"
        n = len(context.prompts)
        if n == 0:
            raise HarnessError(f"selector {self.name}: the task has no prompts; name a corpus (corpus=text:path=FILE).")
        places = sorted(np.random.default_rng(context.seed).permutation(n)[: self.prompts].tolist())
        whose = "held out for selectors" if context.held_out else "of the task, on which the run is evaluated, too"
        tokens = [context.prompts[place] for place in places]
        return places, tokens, f"{counted(len(places), 'prompt')} {whose}"

    def measured(self, dictionary: Dictionary, context: SelectionContext, tokens: Sequence[Sequence[int]]) -> Quality:
        """How well the dictionary fits the model on these sequences."""
        from .quality import quality

        with context.stage(f"quality of {dictionary.name}", len(tokens)) as advance:
            return quality(context.model, dictionary, tokens, context.engine.batch_size, advance)

    def selection(
        self,
        context: SelectionContext,
        dictionary: Dictionary,
        chosen: Sequence[int],
        rule: str,
        found: Read,
        quality: Quality,
        scores: Mapping[str, np.ndarray],
        special: Mapping[str, End] | None = None,
    ) -> Selection:
        """The chosen latents. Controls are drawn from those that are active where the dictionary was looked at: others
        would do nothing, and make anything look large beside them."""
        site, layer = Latents(dictionary, context.model), dictionary.configuration.layer
        latents = tuple(Latent(layer, i, site) for i in range(dictionary.configuration.d_sae))
        shared = {
            "activation": found.activation.mean(0),
            "density": found.density,
            "decoder_norm": dictionary.W_dec.norm(dim=1).double().numpy(),
        }
        alive = np.flatnonzero(found.active > 0).tolist()
        return Selection(
            units=tuple(latents[i] for i in chosen),
            rule=f"layer {layer}: {rule}",
            candidates=latents,
            scores={**scores, **{name: column for name, column in shared.items() if name not in scores}},
            pool=tuple(latents[i] for i in alive if i not in set(chosen)),
            details={
                "dictionary": dictionary.about(),
                "quality": quality.about(),
                "alive": len(alive),
                "promoted": _promoted(context.model, dictionary, chosen),
            },
            special=special or {},
        )

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        from .tables import dictionary_table, latent_table

        return dictionary_table(selection), latent_table(selection)


def _promoted(model: Model, dictionary: Dictionary, chosen: Sequence[int]) -> dict[str, list[str]]:
    """Tokens whose logits the decoder rows raise most where nothing comes between, by latent; none of rows that are no
    residual stream's."""
    cfg, readout = dictionary.configuration, model.readout
    if cfg.writes == "heads":
        return {}
    rows = dictionary.W_dec[list(chosen)].to(readout.W_U.device)
    rows = rows - rows.mean(1, keepdim=True) if readout.centre_writes else rows
    logits = readout.unembed(rows * readout.gain) - readout.unembed(rows[:1] * 0)  # without the bias
    best = logits.topk(min(TOKENS, logits.shape[1]), dim=1).indices.tolist()
    return {f"S{cfg.layer}.{i}": [model.token_texts[t] for t in row] for i, row in zip(chosen, best, strict=True)}


class TopLatents(_LatentSelector):
    """The latents of a sparse autoencoder or transcoder that do most: by activation, attribution, or between classes.

    ``by=attribution``: the largest mean of activation times the slope of the log-probability of the model's own answer
    (its most likely next token), that is those that raise it most, to first order. ``by=activation``: the largest mean
    activation. ``by=difference``: the largest difference, either way, between the mean activation in prompts whose
    ``field`` is ``value`` and in the others. An edit replaces latents and keeps what the dictionary does not
    reconstruct, so that an unedited pass is exact. L0, unexplained variance and the loss with the reconstruction in
    place of the activations are measured on the same sequences and recorded.
    """

    name = "top_latents"

    top: int = Field(10, ge=1, description="how many")
    by: Literal["activation", "attribution", "difference"] = Field("attribution", description="what they are ranked by")
    at: Literal["last", "all"] = Field("last", description="at a sequence's last token, or at all but the first")
    field: str | None = Field(None, description="by=difference: which of the prompts' fields tells the classes apart")
    value: str | None = Field(None, description="by=difference: the class that is compared with all others")

    @model_validator(mode="after")
    def _classes(self) -> TopLatents:
        wanted = self.by == "difference"
        if (self.field is not None and self.value is not None) != wanted or (self.field is None) != (
            self.value is None
        ):
            raise ValueError("by=difference needs field= and value=, which say what is compared; nothing else does")
        if wanted and self.corpus is not None:
            raise ValueError("by=difference compares the task's prompts: leave corpus out")
        return self

    def check(self, model: Model) -> None:
        super().check(model)
        if self.top > self._read.configuration.d_sae:
            raise HarnessError(
                f"selector {self.name}: top={counted(self.top, 'latent')} were asked for, but {self.sae} has only "
                f"{self._read.configuration.d_sae}."
            )

    def select(self, context: SelectionContext) -> Selection:
        from .reading import read_latents

        dictionary = self.dictionary(context.model)
        places, tokens, where = self.rows(context)
        inside = self._inside(context, places) if self.by == "difference" else None
        quality, gradients = self.measured(dictionary, context, tokens), self.by == "attribution"
        with context.stage(f"latents of {dictionary.name}", len(tokens)) as advance:
            found = read_latents(
                context.model, dictionary, tokens, self.at, gradients, context.engine.batch_size, advance
            )
        if inside is not None:
            score = found.activation[inside].mean(0) - found.activation[~inside].mean(0)
        else:
            score = (found.attribution if gradients else found.activation).mean(0)
        ranked = np.argsort(-(np.abs(score) if inside is not None else score), kind="stable")[: self.top].tolist()
        tokens_said = {"last": "at the last token", "all": "at all tokens but the first"}[self.at]
        between = "" if inside is None else f" between {self.field}={self.value} and other prompts"
        large = "largest mean" if inside is None else "largest"
        rule = f"{the(self.top, 'latent')} with the {large} {BY[self.by]}{between}, {tokens_said} of {where}"
        special: dict[str, End] = {} if inside is not None else {self.by: "high"}
        return self.selection(context, dictionary, ranked, rule, found, quality, {self.by: score}, special)

    def _inside(self, context: SelectionContext, places: Sequence[int]) -> np.ndarray:
        """Whether the prompts that are looked at are of the class, bool [n]."""
        known = sorted({name for fields in context.fields for name in fields})
        if self.field not in known:
            raise HarnessError(
                f'selector {self.name}: the prompts have no field "{self.field}": they have '
                f"{', '.join(known) or 'none'}.{suggest(str(self.field), known)}"
            )
        values = [str(context.fields[place].get(str(self.field))) for place in places]
        inside = np.array([value == self.value for value in values])
        if not 2 <= inside.sum() <= len(inside) - 2:
            raise HarnessError(
                f"selector {self.name}: {int(inside.sum())} of {counted(len(inside), 'prompt')} have "
                f"{self.field}={self.value}; expected at least 2 on either side.{suggest(str(self.value), values)}"
            )
        return inside


def _named(value: Any) -> Any:
    return [value] if isinstance(value, str | int) else value


class NamedLatents(_LatentSelector):
    """Latents of a sparse autoencoder or transcoder by name (latents=[S12.4071,S12.88]) or number (latents=[7,88])."""

    name = "latents"
    positional = "latents"

    latents: Annotated[list[str | int], BeforeValidator(_named)] = Field(
        min_length=1, description="S12.4071, or a number alone: the dictionary says the layer"
    )

    def check(self, model: Model) -> None:
        super().check(model)
        self.indices()

    def indices(self) -> list[int]:
        """Numbers of the latents.

        Raises:
            HarnessError: one is of another layer, not there, or named twice.
        """
        cfg, found = self._read.configuration, list[int]()
        for name in map(str, self.latents):
            unit = Latent(cfg.layer, int(name)) if name.isdecimal() else Latent.parse(name)
            if unit.layer != cfg.layer or unit.index >= cfg.d_sae:
                raise HarnessError(
                    f"selector {self.name}: there is no latent {unit} in {self.sae}, which has S{cfg.layer}.0 to "
                    f"S{cfg.layer}.{cfg.d_sae - 1}."
                )
            if unit.index in found:
                raise HarnessError(f"selector {self.name}: latent {unit} is named twice.")
            found.append(unit.index)
        return found

    def select(self, context: SelectionContext) -> Selection:
        from .reading import read_latents

        dictionary, chosen = self.dictionary(context.model), self.indices()
        _, tokens, where = self.rows(context)
        quality = self.measured(dictionary, context, tokens)
        found = read_latents(context.model, dictionary, tokens, "last", False, context.engine.batch_size)
        rule = f"{the(len(chosen), 'latent')} that the user named; activations at the last token of {where}"
        return self.selection(context, dictionary, chosen, rule, found, quality, {})
