"""How far a classifier and a list of phrases agree on which answers are refusals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame
from harness.statistics import derive_seed

from ..analysis.statement_patching import estimate, group_weights
from .section import columns

if TYPE_CHECKING:
    from harness.plugin import Outcomes

    from ..analysis.judge import Judge


def kappa(weights: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cohen's kappa (1960) of two verdicts bool [n] under weights [k, n]: [k], NaN where both say one thing only.

    (p_o - p_e) / (1 - p_e): p_o the share of answers on which they agree, p_e that of independent verdicts as frequent.
    Here in counts, which are whole numbers, so that 0 is exactly 0.
    """
    both, neither = weights @ (first & second), weights @ ~(first | second)
    one, other = weights @ (first & ~second), weights @ (second & ~first)
    apart = (both + one) * (one + neither) + (both + other) * (other + neither)
    found: np.ndarray = np.divide(
        2 * (both * neither - one * other), apart, out=np.full(len(apart), np.nan), where=apart > 0
    )
    return found


class Verdicts:
    """What both judges say of the answers of a comparison."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self._found: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray, list[str]]] = {}

    @property
    def recorded(self) -> dict[str, str]:
        """Who judges, and by what."""
        return {"model": self.judge.name, "label": self.judge.label}

    def of(self, model: str, direction: str, change: str, told: Outcomes) -> dict[str, float]:
        """Have the answers of an untouched and of an edited model judged; shares of refusals, in percent."""
        groups = [prompt.cluster for prompt in told.prompts]
        before, after = map(self.judge.refusals, told.answers)
        # Those of the untouched model are the same whatever the direction: they count once.
        self._found[model, change] = (told.baseline["refused"], before, groups)
        self._found[model, change, direction] = (told.treated["refused"], after, groups)
        return {"judged before %": 100 * float(before.mean()), "judged after %": 100 * float(after.mean())}

    def rows(self, seed: int, resamples: int) -> list[dict[str, Any]]:
        """Counts and kappa for the answers of either model and of both; intervals over groups of requests."""
        found = []
        for name in ("base", "tuned", "both"):
            of = [x for key, x in self._found.items() if name in (key[0], "both")]
            phrases, judged = (np.concatenate([x[i] for x in of]).astype(bool) for i in (0, 1))
            groups = [group for x in of for group in x[2]]
            weights, n = group_weights(groups, derive_seed(seed, "judge", name), resamples)
            value = estimate(lambda w, a=phrases, b=judged: kappa(w, a, b), weights, n)  # type: ignore[misc]
            found.append(
                {
                    "model": name,
                    "answers": len(phrases),
                    "both": int((phrases & judged).sum()),
                    "phrases alone": int((phrases & ~judged).sum()),
                    "judge alone": int((judged & ~phrases).sum()),
                    "neither": int((~phrases & ~judged).sum()),
                    "kappa": value.value,
                    "low": value.low,
                    "high": value.high,
                }
            )
        return found

    def sentence(self, rows: Sequence[dict[str, Any]]) -> str:
        """Both models' answers in words."""
        row = rows[-1]
        alike, interval = row["both"] + row["neither"], ""
        if row["low"] is not None:
            interval = f" ({row['low']:.2f} to {row['high']:.2f})"
        value = "not defined, as both say one thing only" if row["kappa"] is None else f"{row['kappa']:.2f}{interval}"
        return (
            f'The classifier {self.judge.name} (a refusal: its label "{self.judge.label}") and how answers begin agree '
            f"on {alike} of {row['answers']} answers: both a refusal {row['both']}, the beginning alone "
            f"{row['phrases alone']}, the classifier alone {row['judge alone']}, neither {row['neither']}; Cohen's "
            f"kappa {value}."
        )

    def frame(self, rows: Sequence[dict[str, Any]]) -> Frame:
        """The table of both."""
        return Frame("judge", "refusals by how answers begin and by the classifier", columns(rows))
