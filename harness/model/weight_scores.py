"""What the weights alone say of neurons: null-space fraction rho, LogitVar, norm.

Stolfo et al. 2024: LogitVar is eq. 3, rho is defined in section 3.4, the pre-processing of weights in app. C.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch

from harness.files.wording import last
from harness.model.model import Model

BLOCK_ROWS = 8192
"""Rows of the unembedding that are held in float64 at once."""


@dataclass(frozen=True)
class UnembeddingGeometry:
    """Spectrum of the processed unembedding, and the second moments of its normalised rows.

    Attributes:
        singular_values: float64 [d_model], descending.
        directions: float64 [d_model, d_model], right-singular vectors as columns, in the same order.
        moment: float64 [d_model, d_model], mean over the vocabulary of u u^T, u = W_U[v] / ||W_U[v]||.
        mean: float64 [d_model], mean over the vocabulary of u.
        trivial: how many of the last directions are null by construction: 1 (the constant vector) where a LayerNorm
            precedes W_U, else 0. They count among the null dimensions, but say nothing of the model.
        processing: what was done to the weights first, in words.
    """

    singular_values: np.ndarray
    directions: np.ndarray
    moment: np.ndarray
    mean: np.ndarray
    trivial: int
    processing: str


def unembedding_geometry(model: Model) -> UnembeddingGeometry:
    """Fold the final norm's gain into W_U, centre over the vocabulary (and d_model before a LayerNorm), decompose.

    A LayerNorm hands on only what is orthogonal to the constant vector, so the constant direction is projected out of
    what reads from it; RMSNorm does not centre, and neither do we. The decomposition is that of the Gram matrix in
    float64, summed over blocks of the vocabulary: V x d never exists twice.
    """
    readout = model.readout
    folded = readout.folded_unembedding(fold=True, centre=True)
    d = folded.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64, device=folded.device)
    moment = torch.zeros_like(gram)
    mean = torch.zeros(d, dtype=torch.float64, device=folded.device)
    for start in range(0, len(folded), BLOCK_ROWS):
        rows = folded[start : start + BLOCK_ROWS].double()
        if readout.centre_writes:
            rows = rows - rows.mean(1, keepdim=True)
        gram += rows.T @ rows
        norms = rows.norm(dim=1, keepdim=True)
        unit = torch.where(norms > 0, rows / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
        moment += unit.T @ unit
        mean += unit.sum(0)
    values, vectors = torch.linalg.eigh(gram)
    steps = ["final norm's gain folded into W_U", "W_U centred over the vocabulary"]
    if readout.centre_writes:
        steps.append("W_U and w_out centred over d_model (LayerNorm)")
    return UnembeddingGeometry(
        singular_values=values.clamp_min(0).sqrt().flip(0).cpu().numpy(),
        directions=vectors.flip(1).cpu().numpy(),
        moment=(moment / len(folded)).cpu().numpy(),
        mean=(mean / len(folded)).cpu().numpy(),
        trivial=int(readout.centre_writes),
        processing="; ".join(steps),
    )


def neuron_scores(geometry: UnembeddingGeometry, w_out: np.ndarray, null_dims: int) -> dict[str, np.ndarray]:
    """rho, LogitVar and norm of every neuron; NaN where a neuron writes nothing.

    LogitVar(w) = Var_v[(W_U w)_v / (||W_U[v]|| ||w||)] = w^T E[u u^T] w / ||w||^2 - (E[u] . w / ||w||)^2: a quadratic
    form, so that no V x d_mlp matrix is needed.

    Args:
        w_out: [d_mlp, d_model]. null_dims: k, the number of bottom singular directions that count as the null space.
    """
    norm = np.linalg.norm(w_out, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = w_out / norm[:, None]
        rho = np.linalg.norm(unit @ geometry.directions[:, -null_dims:], axis=1)
        variance = np.einsum("nd,de,ne->n", unit, geometry.moment, unit, optimize=True) - (unit @ geometry.mean) ** 2
    return {"rho": rho, "logit_var": np.where(norm > 0, np.maximum(variance, 0.0), np.nan), "norm": norm}


def suggest_null_dims(singular_values: np.ndarray, trivial: int = 0) -> tuple[int, str]:
    """How many bottom singular directions form the effective null space, and why.

    The place of the largest relative drop in the bottom tenth of the spectrum, if neighbouring values differ there by a
    factor of 1.5 or more; else 1% of d_model, as in Stolfo et al. (12 of 768 is the paper's choice for GPT-2 small).
    The drop to the ``trivial`` last directions, which are null by construction, is passed over.
    """
    d = len(singular_values)
    widest = max(1, d // 10)
    tail = np.maximum(singular_values[d - widest - 1 :], singular_values[0] * 1e-8)
    drops = (tail[:-1] / tail[1:])[: widest - trivial]
    best = int(np.argmax(drops)) if len(drops) else 0
    if len(drops) and drops[best] >= 1.5:
        k = widest - best
        return (
            k,
            f"the spectrum of W_U drops by a factor of {drops[best]:.3g} before its {last(k, 'direction')}",
        )
    k = one_percent(d, trivial)
    return k, f"1% of d_model = {d} (no drop of a factor of 1.5 or more in the spectrum's last tenth)"


def one_percent(d_model: int, trivial: int = 0) -> int:
    """1% of d_model, the null space of Stolfo et al. 2024 in most models; more than the ``trivial`` directions."""
    return max(1 + trivial, round(d_model / 100))


NullKind: TypeAlias = Literal["closed coordinate", "common shift", "neither"]


def null_kind(model: Model, geometry: UnembeddingGeometry) -> tuple[NullKind, str]:
    """Why W_U does not read its last direction v that is not ``trivial``, and the same in words.

    "closed coordinate": most of v is one coordinate of the residual stream, and the final norm's gain there is at most
    a tenth of the median. "common shift": before W_U is centred over the vocabulary, v moves the logits by no less than
    the median direction, nine tenths or more of it (in squares) by the same amount for all tokens, which softmax does
    not see. "neither": the rows of W_U themselves have next to nothing along v, or v is no null direction.
    """
    v = geometry.directions[:, -1 - geometry.trivial]
    gain = model.readout.gain.double().abs().cpu().numpy()
    j, typical = int(np.argmax(v**2)), float(np.median(gain))
    if v[j] ** 2 >= 0.5 and gain[j] <= typical / 10:
        return "closed coordinate", (
            f"the last of them is coordinate {j} of the residual stream ({v[j] ** 2:.0%}), which the final norm's gain "
            f"closes: {gain[j]:.3g}, where the median is {typical:.3g}"
        )
    W_U = model.readout.W_U
    column = torch.from_numpy(v * model.readout.gain.double().cpu().numpy()).to(W_U.device)
    total = sum(float((W_U[i : i + BLOCK_ROWS].double() @ column).sum()) for i in range(0, len(W_U), BLOCK_ROWS))
    shift, own = total**2 / len(W_U), float(geometry.singular_values[-1 - geometry.trivial]) ** 2
    size, median = np.sqrt(shift + own), float(np.median(geometry.singular_values))
    if size >= median and shift >= 0.9 * size**2:
        return "common shift", (
            f"the last of them moves all tokens alike, which softmax does not see: {100 * shift / size**2:.1f}% of "
            f"{size:.3g}, where the median singular value is {median:.3g}"
        )
    return "neither", "the last of them is no coordinate that the final norm closes, and no shift of all tokens"


def null_cosines(geometry: UnembeddingGeometry, w_out: np.ndarray) -> np.ndarray:
    """|cos| of write directions [n, d_model] with every right-singular vector, [n, d_model]; NaN for a zero row."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.abs((w_out / np.linalg.norm(w_out, axis=1, keepdims=True)) @ geometry.directions)
        return found


def frequency_cosines(
    model: Model, geometry: UnembeddingGeometry, w_out: np.ndarray, log_frequency: np.ndarray
) -> np.ndarray:
    """cos(W_U w_out, v_freq) of every neuron [d_mlp], W_U processed as in :func:`unembedding_geometry`; NaN where W_U
    w_out is 0.

    W_U w_out is never made: its inner product with v is (W_U^T v) . w_out, its norm ||S V^T w_out||.

    Args:
        w_out: [d_mlp, d_model]. log_frequency: v_freq [d_vocab], with sum 0.
    """
    folded = model.readout.folded_unembedding(fold=True, centre=True)
    v = torch.from_numpy(np.array(log_frequency)).to(folded.device)
    read = torch.zeros(folded.shape[1], dtype=torch.float64, device=folded.device)
    for start in range(0, len(folded), BLOCK_ROWS):
        read += folded[start : start + BLOCK_ROWS].double().T @ v[start : start + BLOCK_ROWS]
    lengths = np.linalg.norm((w_out @ geometry.directions) * geometry.singular_values, axis=1)
    tiny = 1e-9 * geometry.singular_values[0] * np.linalg.norm(w_out, axis=1)
    scale = np.where(lengths > tiny, lengths * np.linalg.norm(log_frequency), np.nan)
    found: np.ndarray = w_out @ read.cpu().numpy() / scale
    return found
