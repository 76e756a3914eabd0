"""Prompts of a model with the residual stream of other prompts, one layer and token at a time.

The plain meaning is one pass over the whole prompt for every layer and token. Here the passes share what they have in
common: the tokens before the first that differs are read once, and their keys and values kept; what is below the
patched layer is run once; all tokens of a layer are one batch.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import HarnessError

from .pairs import OTHERS

if TYPE_CHECKING:
    import torch

    from harness.plugin import Model
    from harness.progress import Advance

    from .pairs import Pair


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


@dataclass(frozen=True)
class Sharing:
    """What passes of a model may have in common, found out with a few tokens.

    Attributes:
        layers: at whose input a pass may go on.
        tokens: whether it may, moreover, be over the last tokens alone, after the keys and values of the others.
    """

    layers: frozenset[int]
    tokens: bool

    @classmethod
    def of(cls, model: Model) -> Sharing:
        from harness.engine import can_resume, can_resume_after

        layers = range(model.anatomy.n_layers)
        if can_resume_after(model, layers):
            return cls(frozenset(layers), tokens=True)
        return cls(frozenset(layer for layer in layers[1:] if can_resume(model, layer, cache=False)), tokens=False)


def patch(
    source: Model,
    model: Model,
    pairs: Sequence[Pair],
    batch_size: int = 64,
    progress: Advance = lambda n: None,
    sharing: Sharing | None = None,
) -> Patched:
    """Run corrupted prompts in ``model`` with the residual stream of the clean ones in ``source``, place by place.

    Args:
        source: where the clean residual stream is from; of the same shape as ``model``, or that model itself.
        progress: told of len(pairs) * n_layers steps in all.
        sharing: of ``model``, where that is known already.

    Raises:
        HarnessError: a logit is not finite.
    """
    n_layers, longest = model.anatomy.n_layers, max(len(pair.clean) for pair in pairs)
    sharing = Sharing.of(model) if sharing is None else sharing
    patched = np.full((len(pairs), n_layers, longest), np.nan)
    roles, clean, corrupted = np.full((len(pairs), longest), -1), np.zeros(len(pairs)), np.zeros(len(pairs))
    for rows in _of_one_length(pairs, batch_size):
        n = len(pairs[rows[0]].clean)
        found = _patch(source, model, [pairs[row] for row in rows], sharing, progress)
        patched[rows, :, longest - n :], clean[rows], corrupted[rows] = found
        roles[rows, longest - n :] = [pairs[row].roles for row in rows]
    return Patched(patched, clean, corrupted, roles)


def _of_one_length(pairs: Sequence[Pair], batch_size: int) -> Iterable[list[int]]:
    """Indices of pairs that can be run together: equally many tokens, and no more cells than a batch has rows."""
    alike: dict[int, list[int]] = defaultdict(list)
    for row, pair in enumerate(pairs):
        alike[len(pair.clean)].append(row)
    for n, rows in alike.items():
        size = max(1, batch_size // n)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _patch(
    source: Model, model: Model, pairs: Sequence[Pair], sharing: Sharing, progress: Advance
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d of pairs of equally many tokens: patched [B, n_layers, n_tokens], clean [B] and corrupted [B]."""
    import torch

    from harness.engine import begun, capture_prefix, resume

    layers, n_tokens = range(model.anatomy.n_layers), len(pairs[0].clean)
    start = min(pair.subject[0] for pair in pairs)  # before it the runs are the same
    clean, corrupted = (model.pad([getattr(pair, which) for pair in pairs]) for which in ("clean", "corrupted"))
    answers = np.array([pair.answers for pair in pairs])
    copies, read = n_tokens - start, start if sharing.tokens else 0
    with torch.no_grad():
        with source.capture_residuals(layers) as seen:
            best = _difference(source, source.forward(source.pad([pair.clean for pair in pairs])), answers)
        if source is not model:
            best = _difference(model, model.forward(clean), answers)
        begin = begun(model, corrupted, read)
        with capture_prefix(model, sorted(sharing.layers)) as prefix:
            worst = _difference(model, begin.forward(), answers)
        found = np.tile(worst[:, None, None], (1, len(layers), n_tokens))
        for layer in layers:
            given = seen[layer][:, start:]
            with contextlib.ExitStack() as stack:
                if layer in sharing.layers:
                    stack.enter_context(resume(model, prefix, layer, copies))
                stack.enter_context(model.edit_residual(layer, partial(_put, clean=given, start=start - read)))
                out = begin.forward(copies, layer if layer in sharing.layers else 0)
            patched = _difference(model, out, np.tile(answers, (copies, 1)))
            found[:, layer, start:] = patched.reshape(copies, len(pairs)).T
            progress(len(pairs))
    return found, best, worst


def _put(residual: torch.Tensor, clean: torch.Tensor, start: int) -> torch.Tensor:
    """Copy t of the batch gets the clean residual at token ``start`` + t: residual [copies * B, pos, d_model], clean
    [B, copies, d_model]."""
    import torch

    n, copies = clean.shape[:2]
    new = residual.clone().view(copies, n, residual.shape[1], -1)
    copy = torch.arange(copies, device=residual.device)
    new[copy, :, start + copy] = clean.transpose(0, 1).to(residual)
    return new.view_as(residual)


def _difference(model: Model, out: Any, answers: np.ndarray) -> np.ndarray:
    """d = log p(first answer) - log p(second) after every prompt of a pass, float64 [batch]; answers int [batch, 2]."""
    from scipy.special import logsumexp

    logits = out.logits[:, -1].float().cpu().numpy().astype(np.float64)
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
