"""Where facts are kept: activation patching by layer and token (Du et al. 2025; Meng et al. 2022).

A pair is two prompts of as many tokens, *clean* and *corrupted*, which differ in their subject. The corrupted prompt is
run with the clean run's residual stream after layer l at token t, which recovers the share

    R(l, t) = (d_patched - d_corrupted) / (d_clean - d_corrupted)      d = log p(clean answer) - log p(corrupted answer)

of the difference: 1 where everything that tells the answers apart is there, 0 where nothing is. Tokens before the
subject are the same in both prompts and recover nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from harness.plugin import HarnessError, agree, counted

if TYPE_CHECKING:
    import torch

    from harness.data import Fact
    from harness.plugin import Batch, Model
    from harness.progress import Advance
    from harness.statistics import Interval

ROLES = ("first subject token", "middle subject tokens", "last subject token", "after the subject", "last token")
"""What tokens are, from the first one on in which the prompts of a pair differ."""

OTHERS = -1
"""In place of an answer's token: all others."""

LEAST = 0.5
"""Nats by which the clean and the corrupted run must differ: a share of less is noise."""


@dataclass(frozen=True)
class Pair:
    """Two prompts of equally many tokens that differ in one place, and the answers that they ask for.

    Attributes:
        clean, corrupted: token ids.
        answers: first token of the clean prompt's answer, and of the corrupted one's; :data:`OTHERS` instead of the
            latter is every token but the former.
        group: the relation.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    answers: tuple[int, int]
    group: str = ""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupted) or self.clean == self.corrupted or len(set(self.answers)) < 2:
            raise ValueError("a pair is two different prompts of equally many tokens, with different answers")

    @property
    def subject(self) -> tuple[int, int]:
        """Start and stop of the tokens in which the prompts differ."""
        apart = [i for i, (a, b) in enumerate(zip(self.clean, self.corrupted, strict=True)) if a != b]
        return apart[0], apart[-1] + 1

    @property
    def roles(self) -> np.ndarray:
        """Number of each token's role in :data:`ROLES`, -1 before the subject, int [n_tokens]."""
        (start, stop), n = self.subject, len(self.clean)
        roles = np.full(n, 3)
        roles[:start] = -1
        roles[start:stop] = 1
        roles[start], roles[stop - 1], roles[n - 1] = 0, 2, 4
        return roles


def fact_pairs(models: Sequence[Model], facts: Sequence[Fact], n: int = 100, seed: int = 0) -> list[Pair]:
    """Pairs of facts of one relation that all the models know, whose questions have equally many tokens.

    A model knows a fact if the most likely token after its question is the first of its object. No fact is in two
    pairs. The models have one tokeniser.

    Args:
        n: the most pairs; they are drawn at random.

    Raises:
        HarnessError: there are no such pairs, or the models' tokenisers differ.
    """
    from harness.model import first_token

    texts = [fact.query for fact in facts]
    tokens = models[0].encode(texts)
    answers = [first_token(models[0], text, fact.object) for text, fact in zip(texts, facts, strict=True)]
    for model in models[1:]:
        if model.encode(texts) != tokens:
            raise HarnessError(f"{model.name} and {models[0].name} have different tokenisers: no pairs fit both.")
    known = np.all([_greedy(model, tokens) == answers for model in models], axis=0)
    alike: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i in np.random.default_rng(seed).permutation(np.flatnonzero(known)).tolist():
        alike[facts[i].relation.name, len(tokens[i])].append(i)
    pairs = [
        Pair(tuple(tokens[a]), tuple(tokens[b]), (answers[a], answers[b]), group)
        for (group, _), rows in alike.items()
        for a, b in zip(rows[::2], rows[1::2], strict=False)
        if answers[a] != answers[b] and tokens[a] != tokens[b]
    ]
    if not pairs:
        names = " and ".join(model.name for model in models)
        raise HarnessError(
            f"patching: of {counted(len(facts), 'fact')} {names} {agree(len(models), 'knows', 'know')} "
            f"{int(known.sum())}, and no two of them have one relation, equally many tokens and different answers; "
            "take other facts."
        )
    kept = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:n])
    return [pairs[i] for i in kept]


def _greedy(model: Model, tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """The most likely next token of every prompt, int [n]."""
    from harness.engine import HookEngine
    from harness.plugin import BASELINE

    found: np.ndarray = HookEngine(model).generate(tokens, [BASELINE], 1).tokens[0, :, 0]
    return found


@dataclass(frozen=True, eq=False)
class Localisation:
    """What patching recovers.

    Attributes:
        model: its name.
        recovery: float64 [n_pairs, n_layers, n_tokens], R aligned from the end: the last column is the last token. NaN
            where a prompt has no token, and for pairs whose two runs differ by less than :data:`LEAST`.
        roles: int [n_pairs, n_tokens], numbers in :data:`ROLES`; -1 before the subject.
        effect: float64 [n_pairs], d_clean - d_corrupted in nats.
    """

    model: str
    recovery: np.ndarray
    roles: np.ndarray
    effect: np.ndarray

    @property
    def by_role(self) -> np.ndarray:
        """Mean over the tokens of each role, float64 [n_pairs, n_layers, len(ROLES)]; NaN where a pair has none."""
        return role_means(self.recovery, self.roles, len(ROLES))

    @property
    def map(self) -> np.ndarray:
        """Mean over pairs [n_layers, len(ROLES)]; NaN for a role that no pair has."""
        found: np.ndarray = _mean(self.by_role, np.ones((1, len(self.recovery))))[0]
        return found


def role_means(values: np.ndarray, roles: np.ndarray, n: int) -> np.ndarray:
    """Means over the tokens of each of ``n`` roles; NaN where a pair has none of it.

    Args:
        values: [n_pairs, n_layers, n_tokens]. roles: int [n_pairs, n_tokens]; -1 belongs to none.

    Returns:
        float64 [n_pairs, n_layers, n].
    """
    found = np.full((*values.shape[:2], n), np.nan)
    for role in range(n):
        here = roles == role
        some = here.any(1)
        total = np.where(here[:, None], values, 0.0).sum(-1)
        found[some, :, role] = total[some] / here.sum(1)[some, None]
    return found


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means over the first axis of values [n, ...], NaN left out: weights [k, n] -> [k, ...]."""
    known = np.isfinite(values)
    total = np.tensordot(weights, np.where(known, values, 0.0), 1)
    count = np.tensordot(weights, known.astype(float), 1)
    found: np.ndarray = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return found


def localise(
    model: Model, pairs: Sequence[Pair], batch_size: int = 64, progress: Advance = lambda n: None
) -> Localisation:
    """Patch every layer and token of every pair; the cells of a layer are run as one batch.

    Args:
        batch_size: rows of a forward pass, unless one pair has more tokens than that.
        progress: told of len(pairs) * n_layers steps in all.

    Raises:
        HarnessError: no pair has runs that differ enough, or a logit is not finite.
    """
    done = patch(model, model, pairs, batch_size, progress)
    effect = done.clean - done.corrupted
    recovery = np.where(np.isnan(done.patched), np.nan, 0.0)
    after = done.roles >= 0  # before the subject the runs are the same
    with np.errstate(divide="ignore", invalid="ignore"):  # effects that are too small are left out
        share = (done.patched - done.corrupted[:, None, None]) / effect[:, None, None]
    recovery = np.where(after[:, None], share, recovery)
    recovery[np.abs(effect) < LEAST] = np.nan
    if not np.isfinite(recovery).any():
        raise HarnessError(
            f"patching: in none of {counted(len(pairs), 'pair')} do the clean and the corrupted run of "
            f"{model.name} differ by "
            f"{LEAST} nats: there is nothing to recover."
        )
    return Localisation(model.name, recovery, done.roles, effect)


@dataclass(frozen=True, eq=False)
class Patched:
    """What a model says of the answers of pairs: patched, and as it is.

    Attributes:
        patched: d of the corrupted prompt with one layer and token of a clean run, float64 [n_pairs, n_layers,
            n_tokens], aligned from the end; NaN where a prompt has no token.
        clean, corrupted: d of the two prompts, untouched, float64 [n_pairs].
        roles: int [n_pairs, n_tokens], numbers of the tokens' roles; -1 before the tokens that differ.
    """

    patched: np.ndarray
    clean: np.ndarray
    corrupted: np.ndarray
    roles: np.ndarray


def patch(
    source: Model,
    model: Model,
    pairs: Sequence[Pair],
    batch_size: int = 64,
    progress: Advance = lambda n: None,
    shared: Sequence[int] | None = None,
) -> Patched:
    """Run corrupted prompts in ``model`` with the residual stream of the clean ones in ``source``, place by place.

    Args:
        source: where the clean residual stream is from; of the same shape as ``model``, or that model itself.
        progress: told of len(pairs) * n_layers steps in all.
        shared: what :func:`resumable` says of ``model``, where that is known already.

    Raises:
        HarnessError: a logit is not finite.
    """
    n_layers, longest = model.anatomy.n_layers, max(len(pair.clean) for pair in pairs)
    shared = resumable(model) if shared is None else shared
    patched = np.full((len(pairs), n_layers, longest), np.nan)
    roles, clean, corrupted = np.full((len(pairs), longest), -1), np.zeros(len(pairs)), np.zeros(len(pairs))
    for rows in _of_one_length(pairs, batch_size):
        n = len(pairs[rows[0]].clean)
        found = _patch(source, model, [pairs[row] for row in rows], shared, progress)
        patched[rows, :, longest - n :], clean[rows], corrupted[rows] = found
        roles[rows, longest - n :] = [pairs[row].roles for row in rows]
    return Patched(patched, clean, corrupted, roles)


def resumable(model: Model) -> list[int]:
    """Layers at whose input a pass may go on, so that what is before them is run once."""
    from harness.engine import can_resume

    return [layer for layer in range(1, model.anatomy.n_layers) if can_resume(model, layer, cache=False)]


def _of_one_length(pairs: Sequence[Pair], batch_size: int) -> Iterable[list[int]]:
    """Indices of pairs that can be run together: equally many tokens, and no more cells than a batch has rows."""
    alike: dict[int, list[int]] = defaultdict(list)
    for row, pair in enumerate(pairs):
        alike[len(pair.clean)].append(row)
    for n, rows in alike.items():
        size = max(1, batch_size // n)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _patch(
    source: Model, model: Model, pairs: Sequence[Pair], shared: Sequence[int], progress: Advance
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d of pairs of equally many tokens: patched [B, n_layers, n_tokens], clean [B] and corrupted [B].

    ``shared``: layers at whose input a pass of the corrupted prompts may go on; what is before them is run once.
    """
    import contextlib

    import torch

    from harness.engine import capture_prefix, resume

    layers, n_tokens = range(model.anatomy.n_layers), len(pairs[0].clean)
    start = min(pair.subject[0] for pair in pairs)  # before it the runs are the same
    clean, corrupted = (model.pad([getattr(pair, which) for pair in pairs]) for which in ("clean", "corrupted"))
    answers = np.array([pair.answers for pair in pairs])
    copies = n_tokens - start
    tiled = corrupted.tile(copies)
    with torch.no_grad():
        with source.capture_residuals(layers) as seen:
            best = _difference(source, source.pad([pair.clean for pair in pairs]), answers)
        if source is not model:
            best = _difference(model, clean, answers)
        with capture_prefix(model, shared) as prefix:
            worst = _difference(model, corrupted, answers)
        found = np.tile(worst[:, None, None], (1, len(layers), n_tokens))
        for layer in layers:
            with contextlib.ExitStack() as stack:
                if layer in shared:
                    stack.enter_context(resume(model, prefix, layer, copies))
                stack.enter_context(model.edit_residual(layer, partial(_put, clean=seen[layer], start=start)))
                patched = _difference(model, tiled, np.tile(answers, (copies, 1)))
            found[:, layer, start:] = patched.reshape(copies, len(pairs)).T
            progress(len(pairs))
    return found, best, worst


def _put(residual: torch.Tensor, clean: torch.Tensor, start: int) -> torch.Tensor:
    """Copy t of the batch gets the clean residual at token ``start`` + t: residual [copies * B, pos, d_model], clean
    [B, pos, d_model]."""
    import torch

    n, pos = len(clean), residual.shape[1]
    new = residual.clone().view(pos - start, n, pos, -1)
    copy = torch.arange(pos - start, device=residual.device)
    new[copy, :, start + copy] = clean[:, start:].transpose(0, 1).to(residual)
    return new.view_as(residual)


def _difference(model: Model, batch: Batch, answers: np.ndarray) -> np.ndarray:
    """d = log p(first answer) - log p(second) after every prompt, float64 [batch]; answers int [batch, 2]."""
    from scipy.special import logsumexp

    logits = model.forward(batch).logits[:, -1].float().cpu().numpy().astype(np.float64)
    if not np.isfinite(logits).all():
        raise HarnessError(f"patching: a logit of {model.name} is not finite (NaN or infinity).")
    rows = np.arange(len(logits))
    first, second = logits[rows, answers[:, 0]], logits[rows, answers[:, 1]]
    against = answers[:, 1] == OTHERS
    if against.any():
        rest = logits[against]
        rest[np.arange(len(rest)), answers[against, 0]] = -np.inf
        second[against] = logsumexp(rest, axis=1)
    found: np.ndarray = first - second
    return found


# -- two models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """How alike two models' maps are: Pearson's r over layers and roles of the mean recovery.

    Attributes:
        r: None where a map is constant. interval: over pairs, drawn for both models together. n_pairs: pairs in which
            both models' runs differ enough.
    """

    r: float | None
    interval: Interval | None
    n_pairs: int


def correlation(base: Localisation, tuned: Localisation, seed: int = 0, resamples: int = 2000) -> Correlation:
    """Correlation of the maps of two models over the same pairs.

    Raises:
        HarnessError: the maps are of different pairs, or models with different numbers of layers.
    """
    from harness.statistics.bootstrap import percentile

    if base.recovery.shape != tuned.recovery.shape or not np.array_equal(base.roles, tuned.roles):
        raise HarnessError(
            f"the maps of {base.model} and {tuned.model} cannot be correlated: they are of different pairs, or the "
            "models have different numbers of layers."
        )
    maps = [found.by_role.reshape(len(found.effect), -1) for found in (base, tuned)]
    both = np.isfinite(maps[0]).any(1) & np.isfinite(maps[1]).any(1)
    maps, n = [found[both] for found in maps], int(both.sum())
    if n == 0:
        return Correlation(None, None, 0)
    r = pearson(*(_mean(found, np.ones((1, n))) for found in maps))
    values = pearson(*(_mean(found, drawn_weights(n, seed, resamples)) for found in maps))
    return Correlation(float(r[0]) if np.isfinite(r[0]) else None, percentile([values], 0.95, n), n)


def drawn_weights(n: int, seed: int, resamples: int) -> np.ndarray:
    """How often each of n things is drawn in bootstrap resamples [resamples, n]; no resamples of one thing."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples if n > 1 else 0)
    return drawn.astype(float)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of the rows [k, cells] over the cells that both have; NaN where one is constant."""
    known = np.isfinite(x) & np.isfinite(y)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    x, y = (np.where(known, z - np.where(known, z, 0).sum(1, keepdims=True) / count, 0.0) for z in (x, y))
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    found: np.ndarray = np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 1e-12)
    return found
