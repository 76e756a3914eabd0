"""Compiled loops behind :mod:`harness.engine.tempering`; imported only where they run, because importing numba takes a
while."""

# No postponed annotations here, and plain loops: this is the part of Python that numba compiles.
from typing import Any

import numpy as np

from harness.files.cache_folders import njit

PER_OCTAVE = 5  # log2 of the bins between two powers of two
FIRST = np.int32((127 - 9) << PER_OCTAVE)  # of 2^-9: the exponent of a float32, and the first bits of its mantissa
BINS = 16 * 2**PER_OCTAVE + 1  # up to 2^7; the first one has all that is nearer to the largest logit


@njit(nogil=True, cache=True, error_model="numpy")
def bins(logits: Any, counts: Any, means: Any, variances: Any) -> None:
    """Distances below the largest logit of each row [N, V], float32, in bins whose width is about 3% of the distance:
    how many, their mean, and their variance [N, BINS]."""
    for n in range(logits.shape[0]):
        count, total, square = counts[n], means[n], variances[n]
        top = logits[n, 0]
        for v in range(logits.shape[1]):
            top = max(top, logits[n, v])
        for v in range(logits.shape[1]):
            x = min(top - logits[n, v], np.float32(1e4))
            place = min(max((np.float32(x).view(np.int32) >> (23 - PER_OCTAVE)) - FIRST + 1, 0), BINS - 1)
            count[place] += 1.0
            total[place] += np.float64(x)
            square[place] += np.float64(x) * np.float64(x)
        for place in range(BINS):
            if count[place] > 0:
                mean = total[place] / count[place]
                total[place] = mean
                square[place] = max(square[place] / count[place] - mean * mean, 0.0)


@njit(nogil=True, cache=True, error_model="numpy")
def solve(entropy: Any, of_entropy: Any, of_log_z: Any, wanted: Any, place: Any, u: Any, log_z: Any) -> None:
    """Where the entropies [C, N] are ``wanted``: the interval of the grid, how far in it (0 to 1), and K there.

    Args:
        entropy: [N, G], falling. of_entropy, of_log_z: [N, G - 1, 6], polynomials between the points of the grid.
    """
    for c in range(wanted.shape[0]):
        for n in range(wanted.shape[1]):
            target = wanted[c, n]
            low, high = 0, entropy.shape[1] - 1
            while high - low > 1:  # entropy[low] > target >= entropy[high], but at the ends
                middle = (low + high) // 2
                if entropy[n, middle] > target:
                    low = middle
                else:
                    high = middle
            a, k = of_entropy[n, low], of_log_z[n, low]
            left, right = 0.0, 1.0
            fall = entropy[n, low] - entropy[n, high]
            x = min(max((entropy[n, low] - target) / fall, 0.0), 1.0) if fall > 0 else 0.5
            for _ in range(60):  # Newton takes four or five steps; where it leaves the bracket, the bracket is halved
                value = ((((a[5] * x + a[4]) * x + a[3]) * x + a[2]) * x + a[1]) * x + a[0] - target
                if value > 0:
                    left = x
                else:
                    right = x
                slope = (((5 * a[5] * x + 4 * a[4]) * x + 3 * a[3]) * x + 2 * a[2]) * x + a[1]
                new = x - value / slope if slope < 0 else -1.0
                if not left <= new <= right:
                    new = (left + right) / 2
                step = abs(new - x)
                x = new
                if step < 1e-13:
                    break
            place[c, n], u[c, n] = low, x
            log_z[c, n] = ((((k[5] * x + k[4]) * x + k[3]) * x + k[2]) * x + k[1]) * x + k[0]
