"""Induction: what neurons do to confidence where a text repeats itself (Stolfo et al. 2024, sections 6.1 and H.1)."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from harness.plugin import (
    Condition,
    Figure,
    Frame,
    HarnessError,
    Measurement,
    Metric,
    Neuron,
    Outcomes,
    Prepared,
    Prompt,
    Selection,
    Series,
    Step,
    Unit,
    counted,
)

from ..metrics import curves, mean_of
from .mediation import TEMPERED_LOSS, groups
from .plain_text import TextTask, per_prompt, prompt_of, tempered_sums

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
    default_metrics: ClassVar[tuple[str, ...]] = ("induction", "temperature", "by_position")

    positions_treated = "the positions of the repeat"

    def gives(self) -> frozenset[str]:
        return frozenset(
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
        wanted = [c for c, x in enumerate(conditions) if x.role != "control"]
        labels = [x.name if x.shown else "+".join(map(str, x.units)) for x in (conditions[c] for c in wanted)]
        series = {
            name: self._series(labels, array[wanted], scores, prompts)
            for name, array in (("entropy", scores.entropy), ("loss", scores.loss))
        }
        [selected] = [condition.units for condition in conditions if condition.role == "treated"]
        watched = [unit for unit in selected if isinstance(unit, Neuron)][:MOST_ALONE]
        if watched:
            series["activation"] = self._activations(engine, prompts, watched)
        return Outcomes(tuple(conditions), tuple(prompts), sums, series=series, details={"tempered": TEMPERED_LOSS})

    def _score(
        self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition], progress: Progress | None
    ) -> Scores:
        """Scores of all conditions, their edits acting from the repeat on.

        An edit of the last layer changes the prediction made at its own position and nothing else. So it is made
        everywhere, of all prompts at once, and what it does before the repeat is taken back. Otherwise prompts are
        grouped by where their repeat begins.
        """
        from harness.plugin import Positions, Scores

        last = engine.model.anatomy.n_layers - 1
        tokens = [prompt.tokens for prompt in prompts]
        if all(edit.layer == last and edit.indices for x in conditions for edit in x.edits):
            scores = engine.score(tokens, conditions, progress, tempered=True)
            splits = np.array([prompt.fields["split"] for prompt in prompts])
            early = scores.position <= splits[scores.prompt]  # the token at the split is predicted just before it
            for array in (scores.loss, scores.entropy, scores.rank, scores.top):
                array[:, early] = array[:1, early]
            return scores
        found = Scores.empty(tokens, conditions, tempered=True)
        for split in sorted({prompt.fields["split"] for prompt in prompts}):
            rows = [i for i, prompt in enumerate(prompts) if prompt.fields["split"] == split]
            started = [replace(x, positions=Positions(f"{split}:")) if x.edits else x for x in conditions]
            part = engine.score([tokens[i] for i in rows], started, progress, tempered=True)
            place = found.columns(rows)
            assert found.tempered is not None and part.tempered is not None
            found.tempered.put(place, part.tempered)
            for name in ("loss", "entropy", "rank", "top"):
                getattr(found, name)[:, place] = getattr(part, name)
        return found

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
        places = [self.shown(prompt) for prompt in prompts]
        table = np.full((len(neurons), len(prompts), max(map(len, places))), np.nan, np.float32)
        for i, place in enumerate(places):
            predicted = np.flatnonzero(place > 0)
            table[:, i, predicted] = found[:, i, place[predicted] - 1]
        return Series(tuple(map(str, neurons)), table)


class InductionSynthetic(InductionTask):
    """Duplicated spans of natural text: does the selection regulate confidence in the second copy?

    100 natural tokens, twice (Stolfo et al. 2024, section 6.1). The second copy's first token is not counted: nothing
    before it tells that a copy begins.
    """

    name = "induction_synthetic"
    length: int = Field(100, ge=2, description="tokens of the span, at most half of the model's positions")

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        model = engine.model
        begin = len(model.prefix)
        length = self.length if model.n_positions is None else min(self.length, (model.n_positions - begin) // 2)
        n = self.sequences if limit is None else min(limit, self.sequences)
        spans, step = self.spans(model, n, begin + length, seed)
        split = begin + length
        prompts = [
            prompt_of(model, i, [*span.tokens, *span.tokens[begin:]], begin=begin, split=split)
            for i, span in enumerate(spans)
        ]
        twice = Step(
            "duplicated", len(prompts), 0, f"spans of {counted(length, 'token')}, each followed by a copy of itself"
        )
        return Prepared(tuple(prompts), (step, twice), {"length": length, "split": split})

    def shown(self, prompt: Prompt) -> np.ndarray:
        return np.arange(len(prompt.tokens))

    def counted(self, prompt: Prompt) -> np.ndarray:
        return np.arange(prompt.fields["split"] + 1, len(prompt.tokens))


class InductionNatural(InductionTask):
    """Natural text in which some n-gram occurs twice: does the selection regulate confidence in its second occurrence?

    Kept are sequences with an n-gram (n = 6) that occurs exactly twice, without a token twice inside it and with at
    least one token between its occurrences. Curves show the predictions made at A0 to A5 and the token after them (B),
    and the same of the second occurrence (X); what counts are the predictions made at the second A0 to A5.
    """

    name = "induction_natural"
    default_metrics = ("induction", "temperature")
    candidates: int = Field(1000, ge=1, description="sequences that are searched")
    length: int = Field(256, ge=16, description="tokens of a searched sequence, at most the model's positions")
    ngram: int = Field(6, ge=2, description="n")

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        from .plain_text import fit

        model = engine.model
        begin = len(model.prefix)
        wanted = self.sequences if limit is None else min(limit, self.sequences)
        spans, step = self.spans(model, self.candidates, fit(model, self.length), seed)
        steps, found = [step], []
        repeats = [repeated_ngrams(span.tokens[begin:], self.ngram) for span in spans]
        for name, why in REPEAT_FILTERS.items():
            left = sum(bool(x[name]) for x in repeats)
            steps.append(Step(name, left, steps[-1].kept - left, why.format(n=self.ngram)))
        for span, kinds in zip(spans, repeats, strict=True):
            if kinds[name]:
                first, second = (begin + place for place in kinds[name][0])
                found.append((span.tokens[: second + self.ngram + 2], first, second))
        if not found:
            raise HarnessError(
                f"task {self.name}: none of {counted(len(spans), 'sequence')} repeats "
                f"{counted(self.ngram, 'token')} like this; raise "
                "candidates or lower ngram."
            )
        kept = found[:wanted]
        steps.append(Step("wanted", len(kept), len(found) - len(kept), "the first of them"))
        prompts = [
            prompt_of(model, i, tokens, begin=begin, split=second, first=first)
            for i, (tokens, first, second) in enumerate(kept)
        ]
        return Prepared(tuple(prompts), tuple(steps), {"ngram": self.ngram})

    def shown(self, prompt: Prompt) -> np.ndarray:
        after = 1 + np.arange(self.ngram + 1)
        return np.concatenate([prompt.fields["first"] + after, prompt.fields["split"] + after])

    def counted(self, prompt: Prompt) -> np.ndarray:
        found: np.ndarray = prompt.fields["split"] + 1 + np.arange(self.ngram)
        return found


REPEAT_FILTERS = {
    "repeat": "in which {n} tokens in a row occur exactly twice, the second time followed by another two",
    "distinct": "and are all different",
    "apart": "and have at least one token between their two occurrences",
}


def repeated_ngrams(tokens: Sequence[int], n: int) -> dict[str, list[tuple[int, int]]]:
    """Where n-grams occur exactly twice, (first, second), after each of the successive ``REPEAT_FILTERS``."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    counts = Counter(grams)
    places: dict[tuple[int, ...], list[int]] = {}
    for i, gram in enumerate(grams):
        if counts[gram] == 2:
            places.setdefault(gram, []).append(i)
    repeat = [(a, b) for a, b in places.values() if b + n + 2 <= len(tokens)]
    distinct = [(a, b) for a, b in repeat if len(set(grams[a])) == n]
    return {"repeat": repeat, "distinct": distinct, "apart": [(a, b) for a, b in distinct if b > a + n]}


class Induction(Metric):
    """Change of entropy and loss inside the repeat, for the selection and for each of its neurons; curves."""

    name = "induction"
    needs = frozenset(
        {
            "tokens",
            "entropy",
            "loss",
            "entropy_change",
            "loss_change",
            "right",
            "entropy_before",
            "series entropy",
            "field split",
        }
    )

    def measure(self, outcomes: Outcomes) -> Measurement:
        def before(name: str) -> float:
            return float(outcomes.baseline[name].sum() / outcomes.baseline["tokens"].sum())

        share = mean_of(
            outcomes,
            "entropy_change",
            over="entropy_before",
            name="entropy_change_share",
            title="relative change of entropy",
            unit="%",
            scale=100.0,
            description="change of the summed entropy of the predictions inside the repeat",
        )
        measures = (
            mean_of(
                outcomes,
                "entropy_change",
                title="change of entropy in the repeat",
                primary=True,
                description="mean change of the entropy of a prediction inside the repeat",
            ),
            mean_of(
                outcomes,
                "loss_change",
                title="change of loss in the repeat",
                primary=True,
                description="mean change of the loss of a token inside the repeat",
            ),
            share,
            mean_of(outcomes, "entropy", title="entropy in the repeat", null=before("entropy")),
            mean_of(outcomes, "loss", title="loss in the repeat", null=before("loss")),
            mean_of(
                outcomes, "right", title="accuracy in the repeat", unit="%", scale=100.0, null=100 * before("right")
            ),
        )
        frames = (self._each(outcomes),) if outcomes.alone.units else ()
        return Measurement(measures, frames=frames, figures=self._figures(outcomes))

    def _each(self, outcomes: Outcomes) -> Frame:
        """What the ablation of each selected neuron does."""
        sums = {name: array.sum(axis=1, dtype=np.float64) for name, array in outcomes.alone.values.items()}
        columns = {
            "neuron": list(outcomes.alone.units),
            "entropy_change": sums["entropy_change"] / sums["tokens"],
            "entropy_change_percent": 100 * sums["entropy_change"] / sums["entropy_before"],
            "loss_change": sums["loss_change"] / sums["tokens"],
        }
        return Frame("neurons", "Each selected neuron ablated alone, inside the repeat", columns)

    def _figures(self, outcomes: Outcomes) -> tuple[Figure, ...]:
        from .. import figures

        entropy, natural = outcomes.series["entropy"], "first" in outcomes.prompts[0].fields
        n = len(outcomes.prompts)
        shown = {
            "entropy": (Series(("untouched", "treated"), entropy.only("baseline", "treated").values), "entropy (nats)")
        }
        if "activation" in outcomes.series:
            shown["activation"] = outcomes.series["activation"], "activation"
        if natural:
            ngram = entropy.values.shape[2] // 2 - 1
            first = [f"A{i}" for i in range(ngram)]
            places = [*first, "B", *first, "X"]
            return tuple(
                figures.natural_curves(places, series.rows, *stacked(series)[1:], text, n, f"natural_{name}")
                for name, (series, text) in shown.items()
            )
        split = outcomes.prompts[0].fields["split"]
        drawn_rows = outcomes.alone.units or ("treated",)
        changed = Series(drawn_rows, entropy.only(*drawn_rows).values - entropy["baseline"])
        drawn = [self._by_position(figures.entropy_by_position, changed, split, n)]
        if "activation" in shown:
            drawn.append(self._by_position(figures.activation_curves, shown["activation"][0], split, n))
        return tuple(drawn)

    def _by_position(self, draw: Callable[..., Figure], series: Series, split: int, n: int) -> Figure:
        position, mean, error = stacked(series)
        return draw(position, series.rows, mean, error, split, n)


def stacked(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [t] that some prompt has, and mean and standard error there [rows, t]."""
    position, rows = curves(series)
    mean, error = (np.array(x) for x in zip(*rows.values(), strict=True))
    return position, mean, error
