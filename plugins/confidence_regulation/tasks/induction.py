"""Induction: what neurons do to confidence where a text repeats itself (Stolfo et al. 2024, sections 6.1 and H.1)."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.plugin import (
    Condition,
    HarnessError,
    Neuron,
    Outcomes,
    Prepared,
    Prompt,
    Selection,
    Series,
    Step,
    Unit,
    counted,
    per_prompt,
)

from .mediation import TEMPERED_LOSS, groups
from .plain_text import TextTask, prompt_of, tempered_sums

if TYPE_CHECKING:
    from harness.plugin import Engine, Model, Progress, Scores

MOST_ALONE = 24
"""Selected neurons that are also ablated one by one."""


class InductionTask(TextTask):
    """Base: prompts with a part that was there before; what counts are the predictions inside the repeat.

    Edits act from the repeat on; the activation statistics that they use are taken over what comes before it, as in
    the paper's clipped mean ablation.
    """

    version = "2"
    later: ClassVar[frozenset[str]] = frozenset({"curves"})
    default_metrics: ClassVar[tuple[str, ...]] = ("induction", "temperature", "by_position")

    positions_treated = "the positions of the repeat"
    curves: Literal["usual", "all"] = Field(
        "usual",
        description="by position; all: also the final norm's denominator, and the mean of the control sets",
    )

    def gives(self) -> frozenset[str]:
        return frozenset({"series norm"} if self.curves == "all" else ()) | frozenset(
            {
                "tokens",
                "entropy",
                "loss",
                "entropy_change",
                "loss_change",
                "right",
                "entropy_before",
                "tempered_loss",
                "log_temperature",
                "no_temperature",
                "series entropy",
                "series loss",
                "field split",
            }
        )

    @abc.abstractmethod
    def shown(self, prompt: Prompt) -> np.ndarray:
        """Places of the tokens whose predictions curves show, in their order; nothing predicts the token at place 0."""

    @abc.abstractmethod
    def counted(self, prompt: Prompt) -> np.ndarray:
        """Places of the predicted tokens inside the repeat."""

    def reference(self, prompts: Sequence[Prompt], site: str) -> Sequence[tuple[int, int]]:
        """Neurons: what precedes the repeat, without a BOS token; heads: the repeat."""
        if site == "heads":
            return [(prompt.fields["split"], len(prompt.tokens)) for prompt in prompts]
        return [(prompt.fields["begin"], prompt.fields["split"]) for prompt in prompts]

    def alone(self, selection: Selection, model: Model) -> Sequence[tuple[Unit, ...]]:
        """Each selected neuron by itself, if they are several."""
        return [(unit,) for unit in selection.units[:MOST_ALONE]] if len(selection.units) > 1 else ()

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        parts = []
        for group in groups(len(conditions), prompts):
            parts.append(self._observe(engine, prompts[group], conditions, progress))
        return Outcomes.join(parts)

    def _observe(
        self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition], progress: Progress | None
    ) -> Outcomes:
        scores = self._score(engine, prompts, conditions, progress)
        n = len(prompts)
        inside = np.zeros(len(scores.prompt), bool)
        for i, prompt in enumerate(prompts):
            inside |= (scores.prompt == i) & np.isin(scores.position, self.counted(prompt))
        of = scores.prompt[inside]
        [before] = [row for row, condition in enumerate(conditions) if condition.role == "baseline"]
        entropy, loss = scores.entropy[:, inside], scores.loss[:, inside]
        values = {
            "tokens": np.ones_like(entropy),
            "entropy": entropy,
            "loss": loss,
            "entropy_change": entropy - entropy[before],
            "loss_change": loss - loss[before],
            "right": scores.rank[:, inside] == 0,
        }
        sums = {name: per_prompt(array, of, n) for name, array in values.items()}
        assert scores.tempered is not None
        both, top = (entropy, entropy[before]), scores.top[before, inside]
        sums |= tempered_sums(scores.tempered.only(inside), of, n, both, loss[before], top)[0]
        sums["entropy_before"] = np.broadcast_to(sums["entropy"][before], sums["entropy"].shape).copy()
        series = self._curves(engine, prompts, conditions, scores)
        return Outcomes(tuple(conditions), tuple(prompts), sums, series=series, details={"tempered": TEMPERED_LOSS})

    def _curves(
        self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition], scores: Scores
    ) -> dict[str, Series]:
        """What is shown by position: a row for each condition but the controls, for each neuron (activation), and with
        ``curves=all`` for the mean of the controls."""
        wanted = [c for c, x in enumerate(conditions) if x.role != "control"]
        labels = [x.name if x.shown else "+".join(map(str, x.units)) for x in (conditions[c] for c in wanted)]
        rows = {name: {text: array[c] for text, c in zip(labels, wanted, strict=True)}
                for name, array in (("entropy", scores.entropy), ("loss", scores.loss))}  # fmt: skip
        controls = [c for c, x in enumerate(conditions) if x.role == "control"]
        if self.curves == "all" and controls:
            rows["entropy"]["controls"] = scores.entropy[controls].mean(axis=0)
            rows["loss"]["controls"] = scores.loss[controls].mean(axis=0)
        series = {name: self._series(tuple(x), np.array([*x.values()]), scores, prompts) for name, x in rows.items()}
        [selected] = [condition.units for condition in conditions if condition.role == "treated"]
        watched = [unit for unit in selected if isinstance(unit, Neuron)][:MOST_ALONE]
        if watched:
            series["activation"] = self._activations(engine, prompts, watched)
        if self.curves == "all":
            series["norm"] = self._norm(engine, prompts, [x for x in conditions if x.role != "alone"])
        return series

    def _score(
        self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition], progress: Progress | None
    ) -> Scores:
        """Scores of all conditions, their edits acting from the repeat on.

        An edit of the last layer changes the prediction made at its own position and nothing else. So it is made
        everywhere, of all prompts at once, and what it does before the repeat is taken back. Otherwise prompts are
        grouped by where their repeat begins.
        """
        from harness.plugin import Scores

        tokens = [prompt.tokens for prompt in prompts]
        if _last_layer(engine.model, conditions):
            scores = engine.score(tokens, conditions, progress, tempered=True)
            splits = np.array([prompt.fields["split"] for prompt in prompts])
            early = scores.position <= splits[scores.prompt]  # the token at the split is predicted just before it
            for array in (scores.loss, scores.entropy, scores.rank, scores.top):
                array[:, early] = array[:1, early]
            return scores
        found = Scores.empty(tokens, conditions, tempered=True)
        for rows, started in _from_the_repeat(prompts, conditions):
            part = engine.score([tokens[i] for i in rows], started, progress, tempered=True)
            place = found.columns(rows)
            assert found.tempered is not None and part.tempered is not None
            found.tempered.put(place, part.tempered)
            for name in ("loss", "entropy", "rank", "top"):
                getattr(found, name)[:, place] = getattr(part, name)
        return found

    def _norm(self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition]) -> Series:
        """Denominators of the final norm where the shown predictions are made: of the untouched and of the treated
        model, and the mean over the control sets; edits act from the repeat on, as in :meth:`_score`."""
        from harness.engine import denominators

        model, tokens = engine.model, [prompt.tokens for prompt in prompts]
        if _last_layer(model, conditions):
            found = denominators(model, tokens, conditions, engine.batch_size)
            for i, prompt in enumerate(prompts):
                found[:, i, : prompt.fields["split"]] = found[:1, i, : prompt.fields["split"]]
        else:
            found = np.full((len(conditions), len(prompts), max(map(len, tokens))), np.nan, np.float32)
            for rows, started in _from_the_repeat(prompts, conditions):
                part = denominators(model, [tokens[i] for i in rows], started, engine.batch_size)
                found[:, rows, : part.shape[2]] = part
        shown: dict[str, np.ndarray] = {x.role: found[c] for c, x in enumerate(conditions) if x.role != "control"}
        if controls := [c for c, x in enumerate(conditions) if x.role == "control"]:
            shown["controls"] = found[controls].mean(axis=0, dtype=np.float64)
        return self._made_at(tuple(shown), np.array([*shown.values()]), prompts)

    def _series(self, labels: Sequence[str], values: np.ndarray, scores: Scores, prompts: Sequence[Prompt]) -> Series:
        """Values [rows, T] at the places that curves show."""
        places = [self.shown(prompt) for prompt in prompts]
        table = np.full((len(labels), len(prompts), max(map(len, places))), np.nan, np.float32)
        for i, place in enumerate(places):
            columns, predicted = scores.columns([i]), np.flatnonzero(place > 0)
            table[:, i, predicted] = values[:, columns[place[predicted] - 1]]  # the first column predicts token 1
        return Series(tuple(labels), table)

    def _activations(self, engine: Engine, prompts: Sequence[Prompt], neurons: Sequence[Neuron]) -> Series:
        """Activations of neurons in the untouched model, where the shown predictions are made."""
        from harness.engine import activations
        from harness.plugin import BASELINE

        tokens = [prompt.tokens for prompt in prompts]
        found = activations(engine.model, tokens, [BASELINE], neurons, engine.batch_size)[0]
        return self._made_at(tuple(map(str, neurons)), found, prompts)

    def _made_at(self, labels: tuple[str, ...], values: np.ndarray, prompts: Sequence[Prompt]) -> Series:
        """Values [rows, N, longest] by position, where the predictions are made that curves show."""
        places = [self.shown(prompt) for prompt in prompts]
        table = np.full((len(labels), len(prompts), max(map(len, places))), np.nan, np.float32)
        for i, place in enumerate(places):
            predicted = np.flatnonzero(place > 0)
            table[:, i, predicted] = values[:, i, place[predicted] - 1]
        return Series(labels, table)


def _last_layer(model: Model, conditions: Sequence[Condition]) -> bool:
    """Whether nothing but neurons of the last layer is edited."""
    last = model.anatomy.n_layers - 1
    return all(edit.layer == last and edit.indices for x in conditions for edit in x.edits)


def _from_the_repeat(
    prompts: Sequence[Prompt], conditions: Sequence[Condition]
) -> Iterator[tuple[list[int], list[Condition]]]:
    """The prompts whose repeat begins at the same token, and the conditions with edits that act from there on."""
    from harness.plugin import Positions

    for split in sorted({prompt.fields["split"] for prompt in prompts}):
        rows = [i for i, prompt in enumerate(prompts) if prompt.fields["split"] == split]
        yield rows, [replace(x, positions=Positions(f"{split}:")) if x.edits else x for x in conditions]


class InductionSynthetic(InductionTask):
    """Duplicated spans of natural text: does the selection regulate confidence in the second copy?

    100 natural tokens, twice (Stolfo et al. 2024, section 6.1). The second copy's first token is not counted: nothing
    before it tells that a copy begins. Of more repetitions all but the first count, with their first tokens from the
    third on; a separator between them does not. The edits act from the end of the first copy on.
    """

    name = "induction_synthetic"
    later: ClassVar[frozenset[str]] = frozenset({"separator", "repetitions"})
    length: int = Field(
        100, ge=2, description="tokens of the span, fewer where the copies exceed the model's positions"
    )
    separator: str | None = Field(None, min_length=1, description="text between the copies")
    repetitions: int = Field(2, ge=2, description="how often the span stands there in all")

    def check(self, model: Model) -> None:
        self._fitting(model)

    def _fitting(self, model: Model) -> tuple[int, tuple[int, ...]]:
        """How long the span may be, and the tokens of the separator.

        Raises:
            HarnessError: the separator is no token of the model, or the copies do not fit its positions.
        """
        between: tuple[int, ...] = ()
        if self.separator is not None:
            between = tuple(model.tokenizer(self.separator, add_special_tokens=False)["input_ids"])
            if not between:
                raise HarnessError(
                    f'task {self.name}: separator="{self.separator}" is no token of {model.name}; give another text.'
                )
        if model.n_positions is None:
            return self.length, between
        room = model.n_positions - len(model.prefix) - (self.repetitions - 1) * len(between)
        if room < 2 * self.repetitions:
            apart = f" with {counted(len(between), 'token')} between them" if between else ""
            raise HarnessError(
                f"task {self.name}: {self.repetitions} repetitions of a span of 2 tokens or more"
                f"{apart} do not fit the {model.n_positions} positions of {model.name}; lower repetitions."
            )
        return min(self.length, room // self.repetitions), between

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        model = engine.model
        begin = len(model.prefix)
        length, between = self._fitting(model)
        n = self.sequences if limit is None else min(limit, self.sequences)
        spans, step = self.spans(model, n, begin + length, seed)
        split, again = begin + length, self.repetitions - 1
        details: dict[str, object] = {"length": length, "split": split}
        fields: dict[str, object] = {"begin": begin, "split": split}
        followed = "a copy of itself" if again == 1 else f"{again} copies of itself"
        if between or again > 1:
            copies = [split + len(between) + k * (len(between) + length) for k in range(again)]
            fields["copies"] = copies
            details |= {"copies": copies, "separator": list(between)}
            followed += f', "{self.separator}" before each' if between else ""
        prompts = [
            prompt_of(model, i, [*span.tokens, *(*between, *span.tokens[begin:]) * again], **fields)
            for i, span in enumerate(spans)
        ]
        why = f"spans of {counted(length, 'token')}, each followed by {followed}"
        return Prepared(tuple(prompts), (step, Step("duplicated", len(prompts), 0, why)), details)

    def shown(self, prompt: Prompt) -> np.ndarray:
        return np.arange(len(prompt.tokens))

    def counted(self, prompt: Prompt) -> np.ndarray:
        begin, split = prompt.fields["begin"], prompt.fields["split"]
        copies = prompt.fields.get("copies", [split])
        first = [copies[0] + 1, *copies[1:]]
        return np.concatenate([np.arange(a, b + split - begin) for a, b in zip(first, copies, strict=True)])
