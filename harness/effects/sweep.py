"""Total and direct effects of last-layer edits on every token of a text: sweeps over thousands of conditions.

For every condition and token: change of the loss, change of the entropy, KL divergence from the untouched model, with
(Stolfo et al. 2024, eq. 5, 6 and 8)

    total             the plain edit                                                              (TE)
    frozen_norm       the final norm divides by the untouched model's denominator                 (DE_LN)
    frozen_unigram    the logits keep the untouched model's component along log p_freq            (DE_freq)

The logits of a condition are the baseline's plus a few fixed vectors with scalar factors
(:mod:`harness.engine.condition_blocks`): no condition is multiplied by the unembedding, and no condition's logits are
stored. What is summed over the vocabulary is the *change* of each probability, so that small effects keep their digits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from harness.conditions.conditions import BASELINE
from harness.conditions.frozen import unigram_direction, unigram_probabilities
from harness.conditions.placed import where_all
from harness.conditions.positions import EVERYWHERE
from harness.effects.by_definition import fill
from harness.effects.logit_changes import Found, Kind, Problem, Unigram, changes
from harness.effects.logit_changes import ranks as ranks_of
from harness.effects.moment_expansion import changes_fast
from harness.engine.condition_blocks import ConditionBlock
from harness.engine.engine import Progress, batches
from harness.engine.final_layer import FinalLayer, Observed, fits
from harness.engine.kernels import not_finite
from harness.engine.tempering import Tempered
from harness.errors import HarnessError
from harness.files.wording import counted
from harness.progress import shares

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition
    from harness.model.model import Model

MEMORY_BYTES = 2 * 2**30
"""Default for the memory above the model, results not counted."""

MOSTLY = 0.5
"""Share of pairs that are done exactly after moments were tried from which trying costs more than it saves."""


@dataclass(frozen=True)
class Effects:
    """Effects of C conditions on T tokens; what is not asked for by ``kinds`` is absent.

    Attributes:
        conditions: names.
        prompt, position: int64 [T], which prompt and which of its tokens is predicted.
        loss, entropy: float32 [T], of the untouched model, nats.
        loss_change, entropy_change: kind -> float32 [C, T], nats.
        kl: kind -> float32 [C, T], KL(untouched || condition), nats.
        rank, best: kind -> int64 [C + 1, T]: rank of the right token (0: the most likely one; ties count against it),
            and the most likely token; the last row is the untouched model. None unless ``ranks`` was asked for.
        top: kind -> float32 [C + 1, T], log-probability of the most likely token, rows as in ``best``.
        exact_share: share of the (condition, token) pairs that were evaluated exactly; 1 unless ``method="fast"``.
        kl_unigram, kl_unigram_change: KL(p_freq || model), [T] and kind -> [C, T]; None without a unigram distribution.
        tempered: the untouched model's distribution of each token at every temperature; None unless asked for.
    """

    conditions: tuple[str, ...]
    prompt: Int64[np.ndarray, " T"]
    position: Int64[np.ndarray, " T"]
    loss: Float32[np.ndarray, " T"]
    entropy: Float32[np.ndarray, " T"]
    loss_change: dict[str, Float32[np.ndarray, "C T"]]
    entropy_change: dict[str, Float32[np.ndarray, "C T"]]
    kl: dict[str, Float32[np.ndarray, "C T"]]
    kl_unigram: Float32[np.ndarray, " T"] | None
    kl_unigram_change: dict[str, Float32[np.ndarray, "C T"]] | None
    rank: dict[str, Int64[np.ndarray, "C+1 T"]] | None
    best: dict[str, Int64[np.ndarray, "C+1 T"]] | None
    top: dict[str, Float32[np.ndarray, "C+1 T"]] | None
    exact_share: float = 1.0
    tempered: Tempered | None = None

    def size(self, kind: Kind = "total") -> Float64[np.ndarray, " C"]:
        """Mean absolute change of the loss [C]: TE, DE_LN or DE_freq."""
        found: np.ndarray = np.abs(self.loss_change[kind]).mean(axis=1, dtype=np.float64)
        return found

    def mediated(self, frozen: Kind = "frozen_norm") -> Float64[np.ndarray, " C"]:
        """1 - DE / TE [C]: the share of the effect that goes through what ``frozen`` freezes; NaN without effect."""
        total = self.size("total")
        return 1 - self.size(frozen) / np.where(total == 0, np.nan, total)


@torch.no_grad()
def effects(
    model: Model,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    kinds: Sequence[Kind] = ("total", "frozen_norm"),
    positions: Sequence[Sequence[bool]] | None = None,
    unigram: np.ndarray | None = None,
    memory_bytes: int = MEMORY_BYTES,
    batch_size: int = 64,
    method: Literal["exact", "fast"] = "exact",
    tolerance: float = 1e-4,
    ranks: bool | Sequence[Kind] = False,
    tempered: bool = False,
    progress: Progress | None = None,
) -> Effects:
    """Effects of conditions that edit neurons of the last layer.

    Args:
        positions: for every prompt and each of its tokens but the first, whether to keep it; default: all.
        unigram: counts or probabilities of the tokens [d_vocab], all positive; needed by ``frozen_unigram``.
        method: "exact" to float32, or "fast": single neurons by moments (:mod:`harness.effects.moment_expansion`) where
            the bound on the error, in nats, is at most ``tolerance``; the others exactly, and all of them where moments
            cannot help: conditions of several neurons, soft caps, a unigram distribution, edits that are mostly large.
        ranks: also the rank of the right token and the most likely token with its log-probability, under all kinds or
            those that are named, which costs about as much again.
        tempered: also the untouched model at every temperature (:mod:`harness.engine.tempering`).
        progress: told of len(prompts) * len(conditions) steps in all, while the work is going on.
        memory_bytes: for columns, logits and activations together; results come on top.

    Raises:
        HarnessError: the conditions edit anything else than the last layer's neurons, start late or freeze something
            themselves, the closed form does not hold for the model, ``frozen_unigram`` without ``unigram`` (or where
            all tokens are as frequent), or nothing to keep.
    """
    _refuse_modified(conditions)
    if not fits(model, conditions):
        raise HarnessError(
            "effects: every condition must edit neurons of the last layer of a model with a closed form."
        )
    if unigram is None and "frozen_unigram" in kinds:
        raise HarnessError("effects: frozen_unigram needs the unigram distribution of the corpus.")
    frequencies = _unigram(unigram, model, "frozen_unigram" in kinds) if unigram is not None else None
    ranked = tuple(kinds if ranks is True else ranks or ())
    kept = _kept(prompts, positions)
    prompt = np.repeat(np.arange(len(prompts)), [len(rows) for rows in kept])
    position = np.concatenate([*kept, np.zeros(0, np.int64)]).astype(np.int64)
    if not len(prompt):
        raise HarnessError("effects: no token is left to measure effects on.")
    first = np.concatenate([[0], np.cumsum([len(rows) for rows in kept])])
    # The untouched model as one more condition: its ranks come the same way.
    final = FinalLayer(model, [*conditions, BASELINE] if ranks else conditions, column_bytes=memory_bytes // 2)
    work = _Work(final, tuple(kinds), frequencies, memory_bytes // 8, tolerance if method == "fast" else None)
    out = _empty(conditions, prompt, position, tuple(kinds), frequencies is not None, ranked)
    out = replace(out, tempered=Tempered.empty(len(prompt)) if tempered else None)
    done = shares(progress, len(prompts) * len(conditions)) if progress else None
    pairs = len(prompt) * sum(part.n for part in final.parts)
    for rows in _groups(final, prompts, kept, memory_bytes // 4):
        seen, target, place = _observe(final, prompts, kept, rows, first, batch_size)
        for part in final.parts:
            for chunk in work.chunks(len(target)):
                work.measure(part, seen[chunk], target[chunk], out, place[chunk.cpu().numpy()])
                if done:
                    done(part.n * len(chunk) / pairs)
            if len(final.parts) > 1:
                part.release()
    for part in final.parts:
        part.release()
    return replace(out, exact_share=work.exact / work.pairs)


def _refuse_modified(conditions: Sequence[Condition]) -> None:
    for condition in conditions:
        if condition.frozen is not None or where_all(condition) != EVERYWHERE or not condition.positions.everywhere:
            what = "positions" if condition.frozen is None else "a frozen part"
            raise HarnessError(
                f'effects: condition "{condition.name}" has {what} of its own; give plain conditions, and what is to '
                "be frozen as kinds."
            )


def _unigram(counts: np.ndarray, model: Model, freezes: bool) -> Unigram:
    d_vocab, device = model.anatomy.d_vocab, model.readout.W_U.device
    p = torch.from_numpy(unigram_probabilities(counts, d_vocab, "effects")).to(device)
    if freezes:
        return Unigram(p, torch.from_numpy(unigram_direction(counts, d_vocab, "effects")).to(device))
    return Unigram(p, p.log() - p.log().mean())


def _kept(prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[bool]] | None) -> list[np.ndarray]:
    """Places of the predicted tokens of each prompt that are kept, from 1."""
    if positions is None:
        return [np.arange(1, len(tokens)) for tokens in prompts]
    for i, (tokens, keep) in enumerate(zip(prompts, positions, strict=True)):
        if len(keep) != len(tokens) - 1:
            raise HarnessError(
                f"effects: prompt {i} has {counted(len(tokens) - 1, 'predicted token')}, positions {len(keep)}."
            )
    return [1 + np.flatnonzero(np.asarray(keep, dtype=bool)) for keep in positions]


def _empty(
    conditions: Sequence[Condition],
    prompt: np.ndarray,
    position: np.ndarray,
    kinds: tuple[Kind, ...],
    unigram: bool,
    ranked: tuple[Kind, ...],
) -> Effects:
    def many() -> dict[str, np.ndarray]:
        return {kind: np.zeros((len(conditions), len(prompt)), np.float32) for kind in kinds}

    def tokens(dtype: type) -> dict[str, np.ndarray] | None:
        return {kind: np.zeros((len(conditions) + 1, len(prompt)), dtype) for kind in ranked} or None

    one = np.zeros((3, len(prompt)), np.float32)
    return Effects(
        conditions=tuple(condition.name for condition in conditions),
        prompt=prompt,
        position=position,
        loss=one[0],
        entropy=one[1],
        loss_change=many(),
        entropy_change=many(),
        kl=many(),
        kl_unigram=one[2] if unigram else None,
        kl_unigram_change=many() if unigram else None,
        rank=tokens(np.int64),
        best=tokens(np.int64),
        top=tokens(np.float32),
    )


def _groups(
    final: FinalLayer, prompts: Sequence[Sequence[int]], kept: Sequence[np.ndarray], room: int
) -> Iterator[list[int]]:
    """Prompts whose residuals and activations fit in ``room`` bytes together; all, where the columns are made once."""
    each = 4 * (2 * final.model.anatomy.d_model + len(final.w_out))
    group: list[int] = []
    used = 0
    for i in np.argsort([len(tokens) for tokens in prompts], kind="stable").tolist():
        if len(kept[i]) == 0:
            continue
        if group and used + each * len(kept[i]) > room:
            yield group
            group, used = [], 0
        group.append(i)
        used += each * len(kept[i])
    if group:
        yield group


def _observe(
    final: FinalLayer,
    prompts: Sequence[Sequence[int]],
    kept: Sequence[np.ndarray],
    rows: Sequence[int],
    first: np.ndarray,
    batch_size: int,
) -> tuple[Observed, torch.Tensor, np.ndarray]:
    """What predicts the kept tokens of some prompts, these tokens [t], and their places in the results [t]."""
    found, targets, places = [], [], []
    for batch_rows in batches([prompts[row] for row in rows], batch_size):
        chosen = [rows[i] for i in batch_rows]
        batch = final.model.pad([list(prompts[row]) for row in chosen])
        seen, _ = final.run(batch)
        width = batch.input_ids.shape[1]
        for i, row in enumerate(chosen):
            ahead = torch.as_tensor(kept[row] + width - len(prompts[row]), device=final.device)
            found.append(seen[i, ahead - 1])
            targets.append(batch.input_ids[i].to(final.device)[ahead])
            places.append(np.arange(first[row], first[row + 1]))
    return Observed.cat(found), torch.cat(targets), np.concatenate(places)


class _Work:
    """The inner loops of a sweep."""

    def __init__(
        self,
        final: FinalLayer,
        kinds: tuple[Kind, ...],
        unigram: Unigram | None,
        room: int,
        tolerance: float | None,
    ) -> None:
        self.final, self.kinds, self.unigram = final, kinds, unigram
        possible = unigram is None and final.model.readout.cap is None
        single = all(part.indices.shape[1] == 1 for part in final.parts)
        self.tolerance = tolerance if possible and single else None
        self.pairs, self.exact = 0, 0.0
        # A place has its base, its logits in both precisions and its probabilities.
        self.step = max(1, min(256, room // (4 * 8 * final.n_tokens)))

    def chunks(self, n: int) -> Iterator[torch.Tensor]:
        for start in range(0, n, self.step):
            yield torch.arange(start, min(start + self.step, n), device=self.final.device)

    def _changes(self, problem: Problem) -> tuple[Found, float]:
        """By moments, unless most of the pairs so far had to be done exactly after all."""
        if self.tolerance is None or self.exact > MOSTLY * self.pairs:
            return changes(problem), 1.0
        return changes_fast(problem, self.tolerance)

    def measure(
        self, part: ConditionBlock, seen: Observed, target: torch.Tensor, out: Effects, place: np.ndarray
    ) -> None:
        """Fill the results of a part of the conditions at some places."""
        base = self.final.base(seen)
        own = torch.arange(len(target), device=self.final.device)
        before = self.final.untouched.system(base, own[None])
        problem = Problem.of(part.system(base, own.expand(part.n, -1)), before, self.kinds, target, self.unigram)
        found, share = self._changes(problem)
        self.pairs += part.n * len(target)
        self.exact += share * part.n * len(target)
        kinds: tuple[Kind, ...] = tuple(out.rank or ())  # type: ignore[arg-type]
        ranked = ranks_of(problem if kinds == self.kinds else replace(problem, kinds=kinds)) if kinds else None
        fill(problem, part, base, found, ranked, kinds)
        if ranked is not None and out.rank is not None and out.best is not None and out.top is not None:
            rows = np.ix_(np.arange(part.start, part.start + part.n), place)
            (rank, best, highest), grown = ranked, found[0][..., [self.kinds.index(kind) for kind in kinds]]
            top = (highest - torch.log1p(grown)).clamp_max(0)
            for results, array in zip((out.rank, out.best, out.top), (rank, best, top), strict=True):
                for e, kind in enumerate(kinds):
                    results[kind][rows] = array[..., e].cpu().numpy()
        n = min(part.n, len(out.conditions) - part.start)  # without the untouched model
        here = np.ix_(np.arange(part.start, part.start + n), place)
        out.loss[place], out.entropy[place] = problem.loss.cpu().numpy(), problem.entropy.cpu().numpy()
        if out.tempered is not None and part.start == 0:
            out.tempered.put(place, Tempered.of(problem.log_p))
        if self.unigram is not None and out.kl_unigram is not None:
            p = self.unigram.p
            out.kl_unigram[place] = ((p * p.log()).sum() - problem.log_p.double() @ p).cpu().numpy()
        for e, kind in enumerate(self.kinds):
            grown, spread, moved, target_change, unigram_change = (x[:n, :, e] for x in found)
            log_z = torch.log1p(grown)  # relative to the untouched normaliser
            if not torch.isfinite(log_z).all() or not torch.isfinite(target_change.float()).all():
                raise not_finite()
            out.loss_change[kind][here] = (log_z - target_change).cpu().numpy()
            # H = log Z - sum p l, and sum p l was -H before.
            mean = (spread - problem.entropy) / (1 + grown)
            out.entropy_change[kind][here] = (log_z - mean - problem.entropy).cpu().numpy()
            out.kl[kind][here] = (log_z - moved).clamp_min(0).cpu().numpy()
            if out.kl_unigram_change is not None:
                out.kl_unigram_change[kind][here] = (log_z - unigram_change).cpu().numpy()
