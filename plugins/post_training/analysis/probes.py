"""Probes that read from activations whether a statement is true: four of them, with one interface.

    mass-mean             v = mean of the true - mean of the false; a threshold midway (Marks & Tegmark 2023)
    logistic regression   v of an L2-regularised logistic regression
    CCS                   v, b for which a statement and its negation are consistent and not both unsure: the mean of
                          (p + p' - 1)^2 + min(p, p')^2 is least, p = sigmoid(v x + b), p' of the negation (Burns et
                          al. 2023); labels choose nothing but its sign
    TTPD                  x_i = t_g y_i + t_p y_i p_i by least squares, y = +-1 the label, p = +-1 the polarity; a
                          logistic regression of the label on t_g x and on w x, w the direction of a logistic
                          regression of the polarity (Buerger et al. 2024, section 5)

Activations are centred within each data set, as in the code of Marks & Tegmark and of Du et al., which uses no label;
TTPD reads the polarity from what the centring takes away, and so sees them as they are but for t_g.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from harness.plugin import HarnessError

RESTARTS = 5
"""Beginnings of CCS, of which the one with the least loss is taken (Burns et al.: ten)."""

PENALTY = 0.01
"""Of CCS, times |v|^2: with fewer pairs than dimensions its loss is 0 for directions that say nothing."""


@dataclass(frozen=True, eq=False)
class Activations:
    """The residual stream at statements of several data sets, after one layer.

    Attributes:
        x: float64 [n, d_model]. label: bool [n].
        dataset: int [n]. negated: bool [n], whether the statement's data set is one of negations.
        twin: int [n], the row of the statement's negation; -1 where there is none (and for the negations themselves).
    """

    x: np.ndarray
    label: np.ndarray
    dataset: np.ndarray
    negated: np.ndarray
    twin: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Activations:
        """Those of a mask [n]; a twin that is left out is none."""
        place = np.where(rows, np.cumsum(rows) - 1, -1)
        twin = np.where(self.twin >= 0, place[self.twin], -1)[rows]
        return Activations(self.x[rows], self.label[rows], self.dataset[rows], self.negated[rows], twin)

    @property
    def centred(self) -> np.ndarray:
        """x without the mean of its data set."""
        found = self.x.copy()
        for number in np.unique(self.dataset):
            here = self.dataset == number
            found[here] -= found[here].mean(0)
        return found


class Fitted(Protocol):
    """A probe that was trained."""

    @property
    def direction(self) -> np.ndarray:
        """[d_model], from false to true."""
        ...

    def score(self, data: Activations) -> np.ndarray:
        """[n]: above 0 is taken to be true."""
        ...


@dataclass(frozen=True, eq=False)
class Linear:
    """x . direction + offset, of centred activations."""

    direction: np.ndarray
    offset: float

    def score(self, data: Activations) -> np.ndarray:
        found: np.ndarray = data.centred @ self.direction + self.offset
        return found


@dataclass(frozen=True, eq=False)
class TwoDimensional:
    """TTPD: a logistic regression on the projections on the truth direction and on the polarity direction."""

    direction: np.ndarray
    polarity: np.ndarray
    weights: np.ndarray
    offset: float

    def score(self, data: Activations) -> np.ndarray:
        found: np.ndarray = self.projected(data.x) @ self.weights + self.offset
        return found

    def projected(self, x: np.ndarray) -> np.ndarray:
        """[n, 2]: along the truth direction and the polarity direction."""
        found: np.ndarray = x @ np.stack([self.direction, self.polarity], 1)
        return found


def mass_mean(data: Activations, seed: int = 0) -> Linear:
    """Difference of the class means, which lie at equal distances from the threshold."""
    x = data.centred
    true, false = x[data.label].mean(0), x[~data.label].mean(0)
    vector = true - false
    return Linear(vector, float(-(true + false) @ vector / 2))


def logistic(data: Activations, seed: int = 0) -> Linear:
    """Logistic regression with the penalty |v|^2 / 2 at C = 1, of activations whose mean square is 1."""
    x = data.centred
    scale = _scale(x)
    weights, offset = _regressed(x / scale, data.label, 1.0)
    return Linear(weights / scale, offset)


def ccs(data: Activations, seed: int = 0) -> Linear:
    """Contrast-consistent search over statements and their negations; needs no label but for the sign.

    Raises:
        HarnessError: no statement has its negation among the data.
    """
    from scipy.optimize import minimize

    first = np.flatnonzero(data.twin >= 0)
    if len(first) == 0:
        raise HarnessError("CCS needs statements with their negations: data sets NAME and neg_NAME, row by row.")
    x = data.centred
    scale = _scale(x)
    pair = np.stack([x[first], x[data.twin[first]]]) / scale
    rng = np.random.default_rng(seed)
    begun = rng.normal(size=(RESTARTS, x.shape[1] + 1)) / np.sqrt(x.shape[1])
    found = [minimize(ccs_loss, start, args=(pair,), jac=True, method="L-BFGS-B") for start in begun]
    best = min(found, key=lambda result: float(result.fun)).x
    probe = Linear(best[:-1] / scale, float(best[-1]))
    right = ((probe.score(data) > 0) == data.label).mean()
    return probe if right >= 0.5 else Linear(-probe.direction, -probe.offset)


def ccs_loss(parameters: np.ndarray, pair: np.ndarray) -> tuple[float, np.ndarray]:
    """Burns et al.'s loss with :data:`PENALTY`, and its gradient.

    Args:
        parameters: v and b, [d_model + 1]. pair: statements and their negations, [2, n, d_model].
    """
    from scipy.special import expit

    v, b = parameters[:-1], parameters[-1]
    p = expit(pair @ v + b)  # [2, n]
    gap, least = p.sum(0) - 1, p.min(0)
    n = len(gap)
    loss = float((gap**2 + least**2).mean() + PENALTY * v @ v)
    slope = 2 * gap + 2 * least * (p == least)
    inner = slope * p * (1 - p) / n  # [2, n]
    gradient = np.append(np.einsum("kn,knd->d", inner, pair) + 2 * PENALTY * v, inner.sum())
    return loss, gradient


def ttpd(data: Activations, seed: int = 0) -> TwoDimensional:
    """Training of truth and polarity direction.

    Raises:
        HarnessError: the data are all negated, or none of them is.
    """
    if len(np.unique(data.negated)) < 2:
        raise HarnessError("TTPD needs statements and negated ones: data sets NAME and neg_NAME.")
    y, p = np.where(data.label, 1.0, -1.0), np.where(data.negated, -1.0, 1.0)
    truth = np.linalg.lstsq(np.stack([y, y * p], 1), data.centred, rcond=None)[0][0]
    scale = _scale(data.x)
    polarity = _regressed(data.x / scale, ~data.negated, 1.0)[0]
    truth, polarity = (v / np.linalg.norm(v) for v in (truth, polarity))
    along = data.x @ np.stack([truth, polarity], 1)
    size = along.std(0)
    weights, offset = _regressed((along - along.mean(0)) / size, data.label, 1e6)  # as good as without a penalty
    weights = weights / size
    return TwoDimensional(truth, polarity, weights, offset - float(along.mean(0) @ weights))


PROBES: Mapping[str, Callable[[Activations, int], Fitted]] = {
    "mass-mean": mass_mean, "logistic regression": logistic, "CCS": ccs, "TTPD": ttpd,
}  # fmt: skip
"""How each probe is trained."""


def _scale(x: np.ndarray) -> float:
    """Root mean square of activations, by which they are divided: penalties then mean the same in every layer."""
    return float(np.sqrt((x**2).mean())) or 1.0


def _regressed(x: np.ndarray, label: np.ndarray, c: float) -> tuple[np.ndarray, float]:
    """Weights and offset of a logistic regression."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=c, max_iter=2000).fit(x, label)
    return found.coef_[0], float(found.intercept_[0])
