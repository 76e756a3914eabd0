"""Total and direct effects of final-layer neurons over plain text, together and one by one (Stolfo et al. 2024)."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.files.published_counts import PUBLISHED
from harness.plugin import (
    Condition,
    CountsPath,
    HarnessError,
    Neuron,
    Outcomes,
    Prepared,
    Prompt,
    Selection,
    Series,
    Unit,
    per_prompt,
)

from .plain_text import TextTask, by_token, fit, prompt_of, tempered_sums

if TYPE_CHECKING:
    from harness.effects import Effects, Kind
    from harness.engine import Tempered
    from harness.plugin import Engine, Model, Progress

CELLS = 2**23
"""(condition, token) pairs whose effects are held at once."""

TEMPERED_CELLS = 2**20
"""Pairs whose temperatures are held at once."""

ECE_BINS, CONFIDENCE_BINS = 15, 50


class EffectsTask(TextTask):
    """Base of the tasks that measure effects of final-layer neurons on the predictions of a text."""

    length: int = Field(256, ge=8, description="tokens of a sequence, at most the model's positions")
    skip_first: int = Field(3, ge=0, description="predictions made at the first so many positions do not count")
    newlines: bool = Field(False, description="predictions at newlines, and just before them, count")
    unigram: CountsPath = Field(
        None,
        description="file of token counts (harness unigrams, or .npy), or a published one (openwebtext-gpt2, "
        "pile-pythia, c4-phi-2); default: counted on the corpus",
    )

    def check(self, model: Model) -> None:
        if self.unigram is not None and not self._unread():
            self.unigrams(model)

    def inputs(self) -> dict[str, str]:
        return self.model_copy(update={"unigram": None}).inputs() if self._unread() else super().inputs()

    def _unread(self) -> bool:
        """Whether the counts are published ones, as a model's settings name them, and nothing of the run needs them: it
        goes without the file."""
        return self.unigram in PUBLISHED and not self.wants_unigram()

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        if engine.name != "closed_form":
            raise HarnessError(
                f"task {self.name}: direct effects are computed in closed form; leave --engine {engine.name} out."
            )
        model = engine.model
        n = self.sequences if limit is None else min(limit, self.sequences)
        length = fit(model, self.length)
        spans, step = self.spans(model, n, length, seed)
        prompts = tuple(prompt_of(model, i, span.tokens) for i, span in enumerate(spans))
        counted = sum(map(sum, self.positions(model, prompts)))
        details: dict[str, Any] = {"length": length, "tokens": counted}
        if self.wants_unigram():
            found = self.unigrams(model)
            details["unigram"] = {"source": found.source, "tokens": found.n_tokens, "notes": list(found.notes)}
        return Prepared(prompts, (step,), details)

    def wants_unigram(self) -> bool:
        """Whether the distribution of tokens is needed."""
        return True

    def unigrams(self, model: Model) -> Any:
        from harness.data import unigrams

        return unigrams(model, self.unigram, self.corpus)

    def positions(self, model: Model, prompts: Sequence[Prompt]) -> list[list[bool]]:
        """For every prompt and each of its tokens but the first, whether its prediction counts."""
        from harness.data.token_sequences import kept

        return [kept(model, x.tokens, skip_first=self.skip_first, newlines=not self.newlines) for x in prompts]

    def check_units(self, units: Sequence[Unit], model: Model) -> None:
        """Refuse anything but neurons of the last layer."""
        last = model.anatomy.n_layers - 1
        for unit in units:
            if not isinstance(unit, Neuron) or unit.layer != last:
                raise HarnessError(
                    f"--selector: the task {self.name} is about neurons of the last layer ({last}); {unit} is none."
                )

    def alone(self, selection: Selection, model: Model) -> Sequence[tuple[Unit, ...]]:
        """None; what cannot be measured is refused here, before anything is run."""
        self.check_units(selection.units, model)
        return ()

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        parts = []
        for group in groups(len(conditions), prompts):
            parts.append(self.observe_group(engine, prompts[group], conditions))
            if progress:
                progress(len(parts[-1].prompts) * len(conditions))
        return Outcomes.join(parts)

    @abc.abstractmethod
    def observe_group(self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition]) -> Outcomes:
        """Outcomes of so many prompts as effects of all conditions fit in memory."""

    def measured(
        self,
        model: Model,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        kinds: Sequence[Kind],
        **options: Any,
    ) -> Effects:
        """Effects of the conditions on the predictions that count.

        Raises:
            HarnessError: they edit anything but neurons of the last layer, or freeze something themselves.
        """
        from harness.effects import effects

        for condition in conditions:
            self.check_units(condition.units, model)
            if condition.frozen is not None:
                raise HarnessError(
                    f"--intervention: the task {self.name} measures direct effects by itself; leave frozen out."
                )
        tokens, positions = [prompt.tokens for prompt in prompts], self.positions(model, prompts)
        counts = self.unigrams(model).probabilities if self.wants_unigram() else None
        return effects(model, tokens, conditions, kinds, positions=positions, unigram=counts, **options)


def groups(n_conditions: int, prompts: Sequence[Prompt]) -> Iterator[slice]:
    """Consecutive prompts whose effects fit in ``CELLS``."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    step = max(1, CELLS // (n_conditions * longest))
    for start in range(0, len(prompts), step):
        yield slice(start, min(start + step, len(prompts)))


class Mediation(EffectsTask):
    """Total and direct effects, mediated fractions, entropy, ranks and calibration, for the selection and each neuron.

    Total effect: mean |change of the loss| under the ablation. Direct effect: the same with the final norm's
    denominator (``final norm``), or the component of the logits along the log-frequencies of the tokens (``unigram``),
    held at the untouched model's. Mediated fraction: 1 - direct / total (Stolfo et al. 2024, eq. 5 to 8).
    """

    name = "mediation"
    version = "2"
    later: ClassVar[frozenset[str]] = frozenset({"view"})
    default_metrics = ("mediation", "temperature", "calibration", "by_position")
    frequency: bool = Field(False, description="also the effect that goes through the token frequencies")
    others: int | None = Field(
        None, ge=0, description="how many neurons beside the selected are measured one by one; default: the whole layer"
    )
    method: Literal["exact", "fast"] = Field("exact", description="for the neurons one by one; fast: by moments")
    view: int = Field(0, ge=0, description="so many tokens of the first sequence are drawn, coloured by what changes")

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        prepared = super().prepare(engine, limit, seed)
        if not self.view:
            return prepared
        first, *others = prepared.prompts  # chosen by its place, before anything is known of it
        words = [engine.model.token_texts[token] for token in first.tokens[: self.view]]
        return replace(prepared, prompts=(replace(first, fields={**first.fields, "view": words}), *others))

    def wants_unigram(self) -> bool:
        return self.frequency

    def gives(self) -> frozenset[str]:
        frequency = {"frozen_unigram_effect", "frozen_unigram_loss_change", "kl_unigram_change"}
        calibration = {"reliability", "confidences", "brier", "confidence", "right"}
        values = {"tokens", "loss", "entropy", "reciprocal_rank", *ZERO_UNTOUCHED, *calibration, *TEMPERED}
        return frozenset({*(values if self.frequency else values - frequency), "series entropy", "series loss"})

    def alone(self, selection: Selection, model: Model) -> Sequence[tuple[Unit, ...]]:
        """Every selected neuron, and the others of the last layer, or so many of them at random."""
        self.check_units(selection.units, model)
        layer = model.anatomy.n_layers - 1
        rest = [i for i in range(model.anatomy.d_mlp) if Neuron(layer, i) not in set(selection.units)]
        if self.others is not None and self.others < len(rest):
            rest = sorted(np.random.default_rng(0).choice(rest, self.others, replace=False).tolist())
        return [*((unit,) for unit in selection.units), *((Neuron(layer, i),) for i in rest)]

    def observe_group(self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition]) -> Outcomes:
        model, n = engine.model, len(prompts)
        frozen: list[Kind] = ["frozen_norm", *(["frozen_unigram"] if self.frequency else [])]  # type: ignore[list-item]
        blocks: list[tuple[Effects, dict[str, np.ndarray]]] = []
        sets = [x for x in conditions if x.role in ("treated", "control")]
        for block, method in ((sets, "exact"), ([x for x in conditions if x.role == "alone"], self.method)):
            if block:
                options = {"batch_size": engine.batch_size, "method": method, "ranks": ("total",)}
                found = self.measured(model, prompts, block, ("total", *frozen), tempered=not blocks, **options)
                tempered = blocks[0][0].tempered if blocks else found.tempered
                assert tempered is not None
                blocks.append((found, _sums(found, tempered, frozen, n)))
        total = blocks[0][0]
        untouched = _untouched(total, n)
        values = {
            name: np.concatenate([untouched[name][None], *[sums[name] for _, sums in blocks]]).astype(array.dtype)
            for name, array in blocks[0][1].items()
        }
        lengths = [len(prompt.tokens) for prompt in prompts]
        token = {
            "loss": (total.loss, total.loss + total.loss_change["total"][0]),
            "entropy": (total.entropy, total.entropy + total.entropy_change["total"][0]),
            "reciprocal_rank": tuple(1 / (1 + total.rank["total"][[-1, 0]])) if total.rank else (),
        }
        series = {
            name: by_token(dict(zip(("baseline", "treated"), rows, strict=True)), total.prompt, total.position, lengths)
            for name, rows in token.items()
        }
        if self.view:
            series["activation"] = self._activation(engine, prompts, conditions)
        return Outcomes(tuple(conditions), tuple(prompts), values, series=series, details={"tempered": TEMPERED_LOSS})

    def _activation(self, engine: Engine, prompts: Sequence[Prompt], conditions: Sequence[Condition]) -> Series:
        """The first selected neuron's untouched activations in the sequence that is drawn, each in the column of the
        token that is predicted there."""
        from harness.engine import activations
        from harness.plugin import BASELINE

        [units] = [x.units for x in conditions if x.role == "treated"]
        table = np.full((1, len(prompts), max(len(x.tokens) for x in prompts)), np.nan, np.float32)
        for i, prompt in enumerate(prompts):
            if "view" in prompt.fields:
                found = activations(engine.model, [prompt.tokens], [BASELINE], units[:1])[0, 0, 0]
                table[0, i, 1 : len(prompt.tokens)] = found[:-1]
        return Series((str(units[0]),), table)


TEMPERED_LOSS = [{"outcome": "loss", "title": "the loss", "unit": "nats", "over": "tokens"}]
"""What the metric ``temperature`` is told of tasks over tokens."""


def _sums(total: Effects, tempered: Tempered, frozen: Sequence[Kind], n: int) -> dict[str, np.ndarray]:
    """Sums over the tokens of each prompt, by condition: [C, n], and the sums of calibration [C, n, k]."""
    assert total.rank is not None and total.best is not None and total.top is not None
    rank, best, top = total.rank["total"][:-1], total.best["total"], total.top["total"][:-1]
    loss, entropy = total.loss_change["total"], total.entropy_change["total"]
    values = {
        "tokens": np.ones_like(loss),
        "total_effect": np.abs(loss),
        "loss_change": loss,
        "entropy_change": entropy,
        "entropy_effect": np.abs(entropy),
        "kl": total.kl["total"],
        "loss": total.loss + loss,
        "entropy": total.entropy + entropy,
        "reciprocal_rank": 1 / (1 + rank),
        "changed": best[:-1] != best[-1:],
        **{f"{kind}_effect": np.abs(total.loss_change[kind]) for kind in frozen},
        **{f"{kind}_loss_change": total.loss_change[kind] for kind in frozen},
    }
    if total.kl_unigram_change is not None:
        values["kl_unigram_change"] = total.kl_unigram_change["total"]
    found = {name: per_prompt(array, total.prompt, n) for name, array in values.items()}
    found |= _calibration(top, rank, total.prompt, n)
    return found | _tempered(total, tempered, total.entropy + entropy, n)


def blocks(entropy: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of [C, T], as many at once as fit in ``TEMPERED_CELLS``."""
    step = max(1, TEMPERED_CELLS // entropy.shape[1])
    return (entropy[start : start + step] for start in range(0, len(entropy), step))


def _tempered(total: Effects, tempered: Tempered, entropy: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """The untouched model at the temperatures at which it has these entropies [C, T]; its ranks are the same at all."""
    assert total.rank is not None and total.top is not None
    rank, top, parts = total.rank["total"][-1:], total.top["total"][-1], []
    for rows in blocks(entropy):
        sums, tops = tempered_sums(tempered, total.prompt, n, (rows, total.entropy), total.loss, top)
        calibrated = _calibration(tops, np.broadcast_to(rank, tops.shape), total.prompt, n)
        parts.append(sums | {f"tempered_{name}": calibrated[name] for name in ("reliability", "brier")})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


TEMPERED = ("tempered_loss", "tempered_reliability", "tempered_brier", "log_temperature", "no_temperature")


def _untouched(total: Effects, n: int) -> dict[str, np.ndarray]:
    """The row of the untouched model: [n], [n, k]; what is a change is zero."""
    assert total.rank is not None and total.top is not None
    rank, top = total.rank["total"][-1:], total.top["total"][-1:]
    zero = np.zeros(n)
    found = {name: zero for name in ZERO_UNTOUCHED}
    values = {
        "tokens": np.ones_like(total.loss),
        "loss": total.loss,
        "entropy": total.entropy,
        "reciprocal_rank": 1 / (1 + rank[0]),
    }
    found |= {name: per_prompt(array, total.prompt, n) for name, array in values.items()}
    found |= {name: array[0] for name, array in _calibration(top, rank, total.prompt, n).items()}
    assert total.tempered is not None
    at_one = _tempered(total, total.tempered, total.entropy[None], n)
    return found | {name: array[0] for name, array in at_one.items()}


ZERO_UNTOUCHED = (
    "total_effect", "loss_change", "entropy_change", "entropy_effect", "kl", "changed", "frozen_norm_effect",
    "frozen_norm_loss_change", "frozen_unigram_effect", "frozen_unigram_loss_change", "kl_unigram_change",
)  # fmt: skip


def _calibration(top: np.ndarray, rank: np.ndarray, prompt: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Of predictions with log-probabilities ``top`` and the right token's ``rank`` [C, T]: sums for the calibration
    error, counts for the AUROC, and squared errors (Brier score of the predicted token), by prompt."""
    from harness.statistics.functionals import confidences, reliability

    confidence, right = np.exp(np.minimum(top, 0.0)), rank == 0
    return {
        "reliability": reliability(confidence, right, prompt, n, ECE_BINS),
        "confidences": confidences(confidence, right, prompt, n, CONFIDENCE_BINS),
        "brier": per_prompt((confidence - right) ** 2, prompt, n),
        "confidence": per_prompt(confidence, prompt, n),
        "right": per_prompt(right, prompt, n),
    }
