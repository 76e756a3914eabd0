"""Statistics of measures: p-values against controls, intervals over prompts, tests of transition tables.

There are two sources of variance. *Which neurons?* is answered by the controls: the treated value is ranked among the
values of random sets (:func:`permutation_test`). *Which prompts?* is answered by resampling facts, the prompts of one
fact together (:func:`bootstrap_interval`, :func:`paired_bootstrap`). Everything here is a pure function of arrays; what
is not defined (no controls, an empty cell, a spread of 0) is None, never NaN. scipy.stats and statsmodels are imported
inside functions because importing them is slow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from harness.errors import HarnessError

MIN_CHANGED = 10
"""Fewer changed prompts than this cannot carry a verdict, nor a chi-square approximation."""


def derive_seed(seed: int, *names: str) -> int:
    """A seed in [0, 2^63) for one component: the start of sha256 of the JSON list ``[seed, *names]``."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *names]).encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random generator for one component."""
    return np.random.default_rng(derive_seed(seed, *names))


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _known(values: np.ndarray) -> np.ndarray:
    """The values that are not NaN."""
    values = np.asarray(values, dtype=np.float64)
    return values[~np.isnan(values)]


@dataclass(frozen=True, eq=False)
class Measure:
    """A ratio of sums over prompts, for every condition: value[c] = scale * sum(numerator[c]) / sum(denominator[c]).

    A share counts prompts in the numerator and those it is a share of in the denominator; a mean has 1 for every prompt
    in the denominator. Row 0 is the baseline, row 1 the treated model, the others are controls. In a measure of change,
    the baseline row is the baseline compared with itself.

    Attributes:
        numerator: [n_conditions, n_prompts] float64; ignored where the denominator is 0.
        denominator: [n_conditions, n_prompts] float64, not negative.
        unit: "%", "nats" or "share".
        primary: belongs to the family over which p-values are adjusted, and gets a verdict.
        null: the value that means no effect.

    Raises:
        HarnessError: an entry is not finite; names the measure and the condition.
    """

    name: str
    title: str
    unit: str
    numerator: np.ndarray
    denominator: np.ndarray
    scale: float = 1.0
    higher_is_better: bool | None = None
    primary: bool = False
    null: float = 0.0
    description: str = ""

    def __post_init__(self) -> None:
        numerator = np.asarray(self.numerator, dtype=np.float64)
        denominator = np.asarray(self.denominator, dtype=np.float64)
        if numerator.ndim != 2 or numerator.shape != denominator.shape or len(numerator) < 2:
            raise ValueError(
                f"measure {self.name!r}: numerator {numerator.shape} and denominator {denominator.shape} must have one "
                "shape [n_conditions, n_prompts] with at least 2 conditions (baseline, treated)"
            )
        self._refuse(~(np.isfinite(denominator) & (denominator >= 0)), "a denominator that is negative or not finite")
        finite = np.isfinite(numerator)
        if not finite.all():
            self._refuse(~finite & (denominator != 0), "a value that is not finite (NaN or infinite)")
            numerator = np.where(finite, numerator, 0.0)
        object.__setattr__(self, "numerator", numerator)
        object.__setattr__(self, "denominator", denominator)

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            name = ("baseline", "treated")[row] if row < 2 else f"control-{row - 2:04d}"
            raise HarnessError(f'measure "{self.name}": {what} in condition {name}, {int(wrong[row].sum())} prompts.')

    @property
    def values(self) -> np.ndarray:
        """Value of every condition [n_conditions]; NaN where the denominator is 0."""
        return _ratio(self.numerator.sum(axis=1), self.denominator.sum(axis=1), self.scale)

    @property
    def changed(self) -> np.ndarray:
        """Number of prompts that contribute otherwise than under the baseline [n_conditions]."""
        different = self.numerator != self.numerator[:1]
        return (different | (self.denominator != self.denominator[:1])).sum(axis=1)

    @property
    def is_count(self) -> bool:
        """Whether the treated value is a number of events among a number of trials."""
        events, trials = self.numerator[1], self.denominator[1]
        whole = (events % 1 == 0).all() and (trials % 1 == 0).all()
        return self.unit in ("%", "share") and bool(whole and (events >= 0).all() and (events <= trials).all())


def _ratio(numerator: np.ndarray, denominator: np.ndarray, scale: float) -> np.ndarray:
    """scale * numerator / denominator, NaN where the denominator is 0; the two shapes broadcast."""
    return scale * np.divide(numerator, np.where(denominator == 0, np.nan, denominator))


# Which neurons? The treated value among the controls.


@dataclass(frozen=True)
class PermutationTest:
    """Rank of the treated value among ``m`` controls; ``b_greater`` of them are >= it, ``b_less`` are <= it."""

    b_greater: int
    b_less: int
    m: int
    n_nan: int
    """Controls without a value, left out of ``m``."""
    p_greater: float | None
    p_less: float | None
    p_two_sided: float | None
    quantile: float | None
    """Percent of the controls below the treated value, ties counted half (``percentileofscore(kind="mean")``)."""


def permutation_test(treated: float, controls: np.ndarray) -> PermutationTest:
    """Monte-Carlo test: p = (b + 1) / (m + 1), b the controls [m] at least as extreme, ties included.

    The +1 makes the test exact, for the treated set is one of m + 1 exchangeable sets (Phipson & Smyth 2010).
    Two-sided: min(1, 2 min(p_greater, p_less)). All p are None without controls or when ``treated`` is not finite.
    """
    known = _known(controls)
    m, n_nan = len(known), len(controls) - len(known)
    if m == 0 or not np.isfinite(treated):
        return PermutationTest(0, 0, m, n_nan, None, None, None, None)
    greater, less = int((known >= treated).sum()), int((known <= treated).sum())
    p_greater, p_less = (greater + 1) / (m + 1), (less + 1) / (m + 1)
    quantile = 100 * (m - greater + less) / (2 * m)
    return PermutationTest(greater, less, m, n_nan, p_greater, p_less, min(1.0, 2 * min(p_greater, p_less)), quantile)


def control_summary(values: np.ndarray) -> dict[str, float | int | None]:
    """Mean, sd (n - 1), standard error, extremes and quantiles of the controls [m]; NaN are dropped and counted."""
    known = _known(values)
    n, names = len(known), ("min", "q05", "q25", "q50", "q75", "q95", "max")
    quantiles = np.quantile(known, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]) if n else [np.nan] * len(names)
    sd = None if n < 2 else float(known.std(ddof=1)) if np.ptp(known) else 0.0
    return {
        "mean": float(known.mean()) if n else None,
        "sd": sd,
        "standard_error": None if sd is None else float(sd / np.sqrt(n)),
        **{name: _finite(value) for name, value in zip(names, quantiles, strict=True)},
        "n": n,
        "n_nan": len(values) - n,
    }


def effect_sizes(treated: float, controls: np.ndarray) -> dict[str, float | None]:
    """How far the treated value lies from the controls [m]; None where undefined.

    ``difference`` = treated - mean; ``ratio_to_median``; ``standardised`` = (treated - mean) / sd; ``robust`` =
    (treated - median) / (1.4826 MAD); ``cliffs_delta`` = share of controls below minus share above, in [-1, 1].
    """
    known = _known(controls)
    if len(known) == 0 or not np.isfinite(treated):
        return dict.fromkeys(("difference", "ratio_to_median", "standardised", "robust", "cliffs_delta"))
    mean, median, sd = float(known.mean()), float(np.median(known)), control_summary(known)["sd"]
    mad = 1.4826 * float(np.median(np.abs(known - median)))
    return {
        "difference": treated - mean,
        "ratio_to_median": treated / median if median else None,
        "standardised": (treated - mean) / sd if sd else None,
        "robust": (treated - median) / mad if mad else None,
        "cliffs_delta": float(np.sign(treated - known).mean()),
    }


def adjust(p_values: Sequence[float | None], method: Literal["holm", "bh"] = "holm") -> list[float | None]:
    """p adjusted for their number: Holm (familywise error) or Benjamini-Hochberg (false discovery); None stays None."""
    from scipy.stats import false_discovery_control

    known = np.array([p for p in p_values if p is not None])
    if method == "bh":
        adjusted = false_discovery_control(known)
    else:  # not statsmodels' multipletests: it collects garbage in every call, which takes longer than everything here
        order = np.argsort(known)
        adjusted = np.empty_like(known)
        adjusted[order] = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)).clip(max=1)
    found = iter(adjusted.tolist())
    return [None if p is None else next(found) for p in p_values]


# Which prompts? Intervals from resampling whole facts.


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was made; ``undefined``: resamples left out because their denominator was 0."""

    low: float
    high: float
    level: float
    method: str
    undefined: int = 0


def binomial_interval(
    k: int, n: int, method: Literal["wilson", "clopper-pearson"] = "wilson", level: float = 0.95
) -> tuple[float, float] | None:
    """Interval of a single proportion k / n, in [0, 1]; None when n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    found = binomtest(k, n).proportion_ci(level, {"wilson": "wilson", "clopper-pearson": "exact"}[method])
    return float(found.low), float(found.high)


def _cluster_sums(array: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Sums over the prompts of each cluster: [rows, n_prompts] -> [rows, n_clusters]."""
    if array.shape[1] == 0:
        return array
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=clusters[order[0]] - 1))
    return np.add.reduceat(array[:, order], starts, axis=1)


def _resampled(
    measure: Measure, rows: Sequence[int], clusters: np.ndarray, seed: int, resamples: int
) -> Iterator[np.ndarray]:
    """Values of ``rows`` in bootstrap resamples of clusters, in blocks [<= 512, len(rows)]; fixed by ``seed``.

    A resample draws as many clusters as there are, with replacement. With W [B, n_clusters] counting the draws, the
    values are (W @ numerator^T) / (W @ denominator^T): one matrix product for all conditions.
    """
    if len(clusters) != measure.numerator.shape[1]:
        raise ValueError(f"{len(clusters)} cluster numbers for {measure.numerator.shape[1]} prompts")
    denominator = measure.denominator[rows]
    if (denominator == denominator[0]).all():  # as in every share of a fixed set of prompts
        denominator = denominator[:1]
    numerator, denominator = (_cluster_sums(x, clusters).T for x in (measure.numerator[rows], denominator))
    n, rng = len(numerator), np.random.default_rng(seed)
    block = max(1, min(512, 4_000_000 // max(n, 1)))
    for start in range(0, resamples if n > 1 else 0, block):
        b = min(block, resamples - start)
        drawn = rng.integers(n, size=(b, n)) + n * np.arange(b)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)
        yield _ratio(weights @ numerator, weights @ denominator, measure.scale)


def _percentile(values: Sequence[np.ndarray], level: float) -> Interval | None:
    """The middle ``level`` of the resampled values, which come in blocks."""
    drawn = np.concatenate([np.empty(0), *values])
    known = _known(drawn)
    if len(known) == 0:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, "percentile bootstrap over clusters", len(drawn) - len(known))


def bootstrap_interval(
    measure: Measure, row: int, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """Interval of the value of condition ``row``; prompts of the same cluster [n_prompts] are drawn together.

    None with fewer than two clusters, or when no resample has a value.
    """
    return _percentile([block[:, 0] for block in _resampled(measure, [row], clusters, seed, resamples)], level)


def _both_intervals(
    measure: Measure, clusters: np.ndarray, seed: int, resamples: int, level: float
) -> tuple[Interval | None, Interval | None]:
    """Intervals of the treated value, and of its difference to the mean of the controls in the same resamples."""
    values, differences = [], []
    for block in _resampled(measure, range(1, len(measure.numerator)), clusters, seed, resamples):
        controls = block[:, 1:]
        mean = _ratio(np.nansum(controls, axis=1), (~np.isnan(controls)).sum(axis=1), 1.0)
        values.append(block[:, 0])
        differences.append(block[:, 0] - mean)
    return _percentile(values, level), _percentile(differences, level)


def paired_bootstrap(
    measure: Measure, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval | None:
    """Interval of treated minus the mean of the controls, paired by resample; None without controls."""
    return _both_intervals(measure, clusters, seed, resamples, level)[1]


# Tables of transitions: categories before (rows) and after (columns).


def transition_table(before: np.ndarray, after: np.ndarray, categories: Sequence[Any]) -> np.ndarray:
    """Counts [k, k] of the category pairs of n prompts: rows before, columns after.

    Raises:
        HarnessError: an entry of ``before`` or ``after`` [n] is none of the ``categories``.
    """
    names = np.array(list(categories))
    codes = []
    for array in (np.asarray(before), np.asarray(after)):
        matches = array[:, None] == names
        for odd in array[~matches.any(axis=1)]:
            raise HarnessError(f"transition table: {odd} is none of the categories {', '.join(map(str, names))}.")
        codes.append(matches.argmax(axis=1))
    return np.bincount(codes[0] * len(names) + codes[1], minlength=len(names) ** 2).reshape(len(names), len(names))


def conversion_ratios(table: np.ndarray, categories: Sequence[str] = ("CK", "PK", "ND")) -> dict[str, float | None]:
    """Conversion ratio of each category and the global transition score of a table [k, k], in percent.

    ``CKCR`` = everything that became CK / everything that was not CK (Tighidet et al. 2025), PKCR and NDCR likewise;
    ``GTS`` = 100 (1 - trace / total). None where nothing could convert.
    """
    table = np.asarray(table, dtype=np.float64)
    stayed, total = np.diag(table), table.sum()
    ratios = _ratio(table.sum(axis=0) - stayed, total - table.sum(axis=1), 100.0)
    score = _ratio(total - stayed.sum(), total, 100.0)
    return {**{f"{c}CR": _finite(r) for c, r in zip(categories, ratios, strict=True)}, "GTS": _finite(score)}


@dataclass(frozen=True)
class ChiSquare:
    """A chi-square test."""

    statistic: float
    df: int
    p: float | None


@dataclass(frozen=True)
class McNemar:
    """One category against the rest: prompts that moved into it and out of it; exact p, and Holm's over categories."""

    into: int
    out: int
    p: float
    p_holm: float | None


@dataclass(frozen=True)
class TableTests:
    """Did anything shift? (Not: more than under controls.) ``mcnemar`` is in the order of the table's categories."""

    n: int
    n_changed: int
    bowker: ChiSquare
    stuart_maxwell: ChiSquare
    mcnemar: tuple[McNemar, ...]
    note: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def table_tests(table: np.ndarray) -> TableTests:
    """Paired tests of a table of counts [k, k].

    Bowker: symmetry, n_ij = n_ji in expectation, over the categories that occur. Stuart-Maxwell: equal margins before
    and after. Exact McNemar: for each category, as many prompts move in as out. The chi-square p are None when fewer
    than two categories occur.
    """
    from scipy.sparse.csgraph import connected_components
    from scipy.stats import binomtest, chi2
    from statsmodels.stats.contingency_tables import SquareTable

    table = np.asarray(table).astype(np.int64)
    off = table - np.diag(np.diag(table))
    changed = int(off.sum())
    occurs = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
    if len(occurs) < 2:
        bowker = homogeneity = ChiSquare(0.0, 0, None)
    else:
        symmetry = SquareTable(table[np.ix_(occurs, occurs)], shift_zeros=False).symmetry()
        bowker = ChiSquare(float(symmetry.statistic), int(symmetry.df), float(symmetry.pvalue))
        # The covariance of the margins is singular where groups of categories exchange nothing: sum over such groups.
        groups, group_of = connected_components(off, directed=False)
        blocks = [b for b in (np.flatnonzero(group_of == g) for g in range(groups)) if len(b) > 1]
        parts = [SquareTable(off[np.ix_(b, b)], shift_zeros=False).homogeneity() for b in blocks]
        statistic, df = float(sum(x.statistic for x in parts)), int(sum(x.df for x in parts))
        homogeneity = ChiSquare(statistic, df, float(chi2.sf(statistic, df)) if df else 1.0)
    moves = list(zip(off.sum(axis=0).tolist(), off.sum(axis=1).tolist(), strict=True))
    exact = [float(binomtest(into, into + out).pvalue) if into + out else 1.0 for into, out in moves]
    mcnemar = tuple(McNemar(*move, p, holm) for move, p, holm in zip(moves, exact, adjust(exact), strict=True))
    note = None
    if changed < MIN_CHANGED:
        note = f"only {changed} prompts changed: the chi-square approximation is poor, trust the exact McNemar tests"
    return TableTests(int(table.sum()), changed, bowker, homogeneity, mcnemar, note)


# A measure in one record, and what it says in words.


@dataclass(frozen=True)
class MeasureSummary:
    """Everything that is reported of a measure; None where undefined.

    ``count``: events under treatment, where the measure counts; ``denominator``: what they are counted among.
    ``n_changed``: prompts that the treatment changed; ``n_changed_controls``: the same, mean over the controls.
    ``interval``: of the treated value; ``difference_interval``: of treated minus the mean of the controls.
    """

    name: str
    title: str
    unit: str
    description: str
    higher_is_better: bool | None
    primary: bool
    null: float
    baseline: float | None
    value: float | None
    count: int | None
    denominator: float | None
    n_changed: int
    n_changed_controls: float | None
    interval: Interval | None
    controls: dict[str, float | int | None] | None
    test: PermutationTest
    effects: dict[str, float | None]
    difference_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values; intervals and test are flattened: ``ci_low``, ``difference_high``, ``p_two_sided``, ``m`` ..."""
        row = asdict(self)
        for key, prefix in (("interval", "ci"), ("difference_interval", "difference")):
            found = row.pop(key) or {}
            row |= {f"{prefix}_{name}": found.get(name) for name in ("low", "high", "level", "method", "undefined")}
        return row | row.pop("test")


def summarise(
    measure: Measure, clusters: np.ndarray, seed: int, resamples: int = 2000, level: float = 0.95
) -> MeasureSummary:
    """Values, interval over prompts, controls, test and effect sizes of one measure.

    Of a count without a single event (or with nothing else) every resample is alike; its interval is Clopper-Pearson's
    with clusters as trials, which for 0 of n is close to the rule of three.
    """
    values, changed = measure.values, measure.changed
    treated, controls = float(values[1]), values[2:]
    interval, difference_interval = _both_intervals(measure, clusters, seed, resamples, level)
    events, trials = float(measure.numerator[1].sum()), float(measure.denominator[1].sum())
    if measure.is_count and trials and events in (0, trials):
        n = len(np.unique(clusters[measure.denominator[1] > 0]))
        low, high = binomial_interval(n if events else 0, n, "clopper-pearson", level) or (0.0, 1.0)
        interval = Interval(measure.scale * low, measure.scale * high, level, "Clopper-Pearson, clusters as trials")
    return MeasureSummary(
        name=measure.name,
        title=measure.title,
        unit=measure.unit,
        description=measure.description,
        higher_is_better=measure.higher_is_better,
        primary=measure.primary,
        null=measure.null,
        baseline=_finite(values[0]),
        value=_finite(treated),
        count=int(events) if measure.is_count else None,
        denominator=trials,
        n_changed=int(changed[1]),
        n_changed_controls=float(changed[2:].mean()) if len(controls) else None,
        interval=interval,
        controls=control_summary(controls) if len(controls) else None,
        test=permutation_test(treated, controls),
        effects=effect_sizes(treated, controls),
        difference_interval=difference_interval,
    )


@dataclass(frozen=True)
class Verdict:
    word: str
    """"supported", "not distinguishable from random neurons", "underpowered" or "model broken"."""
    sentence: str


def verdict(
    summary: MeasureSummary,
    p_adjusted: float | None,
    alpha: float = 0.05,
    n_changed: int | None = None,
    broken: str | None = None,
) -> Verdict:
    """What a measure says, decided by rule; the first that applies:

    1. "model broken": ``broken`` says why.
    2. "underpowered": no value; fewer than 10 prompts changed, both under treatment and under the average control; or
       too few controls: 2 / (m + 1) >= alpha, or the value lies beyond all of them and the adjusted p is >= alpha yet.
    3. "supported": adjusted p < alpha and the interval of treated minus controls lies on the tested side of 0.
    4. "not distinguishable from random neurons".

    ``n_changed`` replaces the number of changed prompts that the summary counted.
    """
    test, interval, floor = summary.test, summary.difference_interval, 2 / (summary.test.m + 1)
    changed = round(max(summary.n_changed, summary.n_changed_controls or 0)) if n_changed is None else n_changed

    def say(word: str, why: str) -> Verdict:
        return Verdict(word, f"{summary.title}: {why}.")

    if broken is not None:
        return say("model broken", f"not interpreted, because the model is broken: {broken.rstrip('.')}")
    if summary.value is None:
        return say("underpowered", "no value, because no prompt counts towards it")
    if changed < MIN_CHANGED:
        return say("underpowered", f"only {changed} prompts changed, fewer than the {MIN_CHANGED} that a verdict needs")
    if floor >= alpha or test.p_two_sided is None or p_adjusted is None or summary.controls is None:
        return say("underpowered", f"{test.m} random sets cannot give p < {alpha:g}; it takes {int(2 / alpha)} or more")
    unit = f" {summary.unit}" if summary.unit != "share" else ""
    numbers = (
        f"{summary.value:.3g}{unit} with the selected neurons, {summary.controls['mean']:.3g}{unit} on average over "
        f"{test.m} random sets (adjusted p = {p_adjusted:.2g}"
    )
    apart = False
    if interval is not None:
        numbers += f"; difference {interval.low:.3g} to {interval.high:.3g}, {interval.level:.0%} interval"
        apart = interval.low > 0 if test.b_greater < test.b_less else interval.high < 0
    numbers += ")"
    if apart and p_adjusted < alpha:
        return say("supported", numbers)
    if apart and min(test.b_greater, test.b_less) == 0:
        return say("underpowered", f"{numbers}: beyond every random set, but too few sets for the number of measures")
    return say("not distinguishable from random neurons", numbers)
