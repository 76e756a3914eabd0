"""Values that are functions of sums: correlation, calibration error, area under the ROC curve."""

from __future__ import annotations

import numpy as np


def moments(x: np.ndarray, y: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The sums that :func:`pearson` takes, [..., 6]: n, x, y, xx, yy, xy over the last axis of x, y [..., n] where
    ``kept`` (broadcast to them)."""
    x, y = np.where(kept, x, 0.0), np.where(kept, y, 0.0)
    count = np.broadcast_to(kept, x.shape).sum(-1, dtype=np.float64)
    return np.stack([count, x.sum(-1), y.sum(-1), (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)], -1)


def pearson(sums: np.ndarray) -> np.ndarray:
    """Pearson's r of sums [..., 6] of :func:`moments`; NaN without spread."""
    n, x, y, xx, yy, xy = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_x, spread_y = xx - x * x / n, yy - y * y / n
        known = (spread_x > 1e-12 * xx) & (spread_y > 1e-12 * yy)  # else nothing but rounding
        r = (xy - x * y / n) / np.sqrt(np.where(known, spread_x * spread_y, np.nan))
    return np.clip(r, -1.0, 1.0)


def _per_bin(confidence: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Sums of weights [..., n] over equal bins of confidence [..., n] in [0, 1]: [..., bins]."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1).reshape(-1, confidence.shape[-1])
    place += bins * np.arange(len(place))[:, None]
    sums = np.bincount(place.ravel(), np.broadcast_to(weights, confidence.shape).ravel(), bins * len(place))
    return sums.reshape(*confidence.shape[:-1], bins)


def reliability(confidence: np.ndarray, correct: np.ndarray, kept: np.ndarray, bins: int) -> np.ndarray:
    """Sums in ``bins`` equal bins of confidence, float32 [..., 3 * bins]: predictions, confidence, right predictions.

    Args:
        confidence: probability of the predicted token [..., n]. correct: bool. kept: bool, which of them count.
    """
    weights = (kept, kept * confidence, kept & correct)
    return np.concatenate([_per_bin(confidence, x, bins) for x in weights], -1).astype(np.float32)


def expected_calibration_error(sums: np.ndarray) -> np.ndarray:
    """ECE of sums [..., 3 * bins] of :func:`reliability`: sum over bins of |right - confidence| / predictions
    (Guo et al. 2017)."""
    n, confidence, correct = np.split(np.asarray(sums, np.float64), 3, axis=-1)
    total = n.sum(-1)
    return np.abs(correct - confidence).sum(-1) / np.where(total > 0, total, np.nan)


def confidences(confidence: np.ndarray, correct: np.ndarray, kept: np.ndarray, bins: int) -> np.ndarray:
    """How many wrong, and how many right, predictions lie in ``bins`` equal bins of confidence: uint16 [..., 2 * bins];
    arguments as of :func:`reliability`."""
    return np.concatenate([_per_bin(confidence, kept & (correct == x), bins) for x in (False, True)], -1).astype(
        np.uint16
    )


def auroc(sums: np.ndarray) -> np.ndarray:
    """Probability that a right prediction is more confident than a wrong one, from sums [..., 2 * bins] of
    :func:`confidences`; predictions of one bin count half. NaN where all are right, or all are wrong."""
    wrong, right = np.split(np.asarray(sums, np.float64), 2, axis=-1)
    below = np.cumsum(wrong, -1) - wrong
    pairs = wrong.sum(-1) * right.sum(-1)
    return (right * (below + wrong / 2)).sum(-1) / np.where(pairs > 0, pairs, np.nan)
