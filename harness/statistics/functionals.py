"""Values that are functions of sums: correlation, calibration error, area under the ROC curve."""

from __future__ import annotations

import numpy as np


def moments(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """What is summed for :func:`pearson`: 1, x, y, xx, yy, xy, float64 of the shape of x and y."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.ones_like(x), x, y, x * x, y * y, x * y


def pearson(sums: np.ndarray) -> np.ndarray:
    """Pearson's r of sums [..., 6] of what :func:`moments` gives; NaN without spread."""
    n, x, y, xx, yy, xy = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread_x, spread_y = xx - x * x / n, yy - y * y / n
        known = (spread_x > 1e-12 * xx) & (spread_y > 1e-12 * yy)  # else nothing but rounding
        r = (xy - x * y / n) / np.sqrt(np.where(known, spread_x * spread_y, np.nan))
    found: np.ndarray = np.clip(r, -1.0, 1.0)
    return found


def _per_bin(confidence: np.ndarray, weights: np.ndarray, group: np.ndarray, n: int, bins: int) -> np.ndarray:
    """Sums of weights [C, T] by group (in 0 to n - 1) [T] and equal bins of confidence [C, T]: [C, n, bins]."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1) + bins * group
    place += bins * n * np.arange(len(place))[:, None]
    return np.bincount(place.ravel(), weights.ravel(), bins * n * len(place)).reshape(-1, n, bins)


def reliability(confidence: np.ndarray, right: np.ndarray, group: np.ndarray, n: int, bins: int) -> np.ndarray:
    """Sums in ``bins`` equal bins of confidence, float32 [C, n, 3 * bins]: predictions, confidence, right predictions.

    Args:
        confidence: probability of the predicted token [C, T]. right: bool [C, T]. group: [T], the prompt, 0 to n - 1.
    """
    weights = (np.ones(confidence.shape), confidence, right)
    return np.concatenate([_per_bin(confidence, x, group, n, bins) for x in weights], -1).astype(np.float32)


def expected_calibration_error(sums: np.ndarray) -> np.ndarray:
    """ECE of sums [..., 3 * bins] of :func:`reliability`: sum over bins of |right - confidence| / predictions
    (Guo et al. 2017)."""
    n, confidence, correct = np.split(np.asarray(sums, np.float64), 3, axis=-1)
    total = n.sum(-1)
    found: np.ndarray = np.abs(correct - confidence).sum(-1) / np.where(total > 0, total, np.nan)
    return found


def gaps(confidence: np.ndarray, right: np.ndarray, counts: np.ndarray, bins: int) -> np.ndarray:
    """What is summed for :func:`error_of_gaps` of prompts with one prediction: float32 [C, N, 1 + bins], whether there
    is one (``counts`` [C, N]), and right - confidence in the one of ``bins`` equal bins that its confidence is in."""
    found = np.zeros((*confidence.shape, 1 + bins), np.float32)
    found[..., 0] = counts
    place = 1 + np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.where(counts > 0, right - confidence, 0.0)
    np.put_along_axis(found, place[..., None], gap[..., None].astype(np.float32), -1)
    return found


def error_of_gaps(sums: np.ndarray) -> np.ndarray:
    """ECE of sums [..., 1 + bins] of :func:`gaps`, as :func:`expected_calibration_error` has it."""
    sums = np.asarray(sums, np.float64)
    n = sums[..., 0]
    found: np.ndarray = np.abs(sums[..., 1:]).sum(-1) / np.where(n > 0, n, np.nan)
    return found


def confidences(confidence: np.ndarray, right: np.ndarray, group: np.ndarray, n: int, bins: int) -> np.ndarray:
    """How many wrong and how many right predictions lie in equal bins of confidence: uint16 [C, n, 2 * bins];
    arguments as of :func:`reliability`."""
    counts = [_per_bin(confidence, x, group, n, bins) for x in (~right, right)]
    return np.concatenate(counts, -1).astype(np.uint16)


def auroc(sums: np.ndarray) -> np.ndarray:
    """Probability that a right prediction is more confident than a wrong one, from sums [..., 2 * bins] of
    :func:`confidences`; predictions of one bin count half. NaN where all are right, or all are wrong."""
    wrong, right = np.split(np.asarray(sums, np.float64), 2, axis=-1)
    below = np.cumsum(wrong, -1) - wrong
    pairs = wrong.sum(-1) * right.sum(-1)
    found: np.ndarray = (right * (below + wrong / 2)).sum(-1) / np.where(pairs > 0, pairs, np.nan)
    return found
