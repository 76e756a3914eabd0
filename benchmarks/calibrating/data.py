"""What is simulated on: control sets of the bundled model, and synthetic facts with three prompts each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from harness.statistics import Measure
from harness.statistics.clusters import cluster_sums

FOLDER = Path("build/calibration")

PROMPTS = 3
"""Prompts of a fact."""


@dataclass(frozen=True)
class RealSets:
    """Random sets of six neurons of the bundled model's last layer under mean ablation, on conflict prompts.

    The run is made once and kept in ``folder``. A simulated run takes one of the sets as its treated one, others as its
    controls: whatever these sets are, the treated one is then exchangeable with them.
    """

    folder: Path = FOLDER
    sets: int = 5000
    facts: int = 300

    def make(self) -> Path:
        """The file of the sets, which is made where it is missing."""
        file = self.folder / f"sets-{self.sets}-{self.facts}.npz"
        if file.exists():
            return file
        from harness.files.terminal import Terminal
        from harness.plugin.catalogue import catalogue
        from harness.report.progress import ConsoleReporter
        from harness.running.execute import plan
        from harness.running.planning import pilot
        from harness.running.spec import RunSpec

        spec = RunSpec.model_validate(
            {
                "name": "calibration",
                "task": "knowledge_conflict",
                "selector": "entropy:rule=tighidet2025",
                "intervention": "mean",
                "controls": self.sets,
                "limit": self.facts,
            }
        )
        seen = pilot(plan(spec, catalogue()), ConsoleReporter(Terminal(stderr=True)), self.sets)
        arrays = {"clusters": seen.clusters}
        for _, x in seen.measures:
            arrays |= {f"{x.name} {x.unit} {part}": getattr(x, part)[1:] for part in ("numerator", "denominator")}
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished.npz")
        np.savez_compressed(unfinished, **arrays)  # type: ignore[arg-type]
        unfinished.rename(file)
        return file

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.make()) as found:
            return dict(found)

    @cached_property
    def clusters(self) -> np.ndarray:
        """Number of every prompt's fact [n_prompts]."""
        return self._arrays["clusters"]

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The run's primary measures; rows are the sets, whatever a measure takes them for."""
        titles = [name.removesuffix(" numerator") for name in self._arrays if name.endswith(" numerator")]
        return tuple(
            Measure(
                *(name, name, unit),
                numerator=self._arrays[f"{name} {unit} numerator"],
                denominator=self._arrays[f"{name} {unit} denominator"],
                scale=100.0 if unit == "%" else 1.0,
                primary=True,
            )
            for name, unit in (title.split() for title in titles)
        )

    @cached_property
    def by_fact(self) -> tuple[Measure, ...]:
        """The measures with one column a fact: sums over its prompts."""
        return tuple(
            replace(
                x,
                numerator=cluster_sums(x.numerator, self.clusters),
                denominator=cluster_sums(x.denominator, self.clusters),
            )
            for x in self.measures
        )

    def run(self, place: int, sets: np.ndarray, facts: np.ndarray) -> Measure:
        """A measure in a simulated run on some facts: the first of ``sets`` is treated, the others are controls.

        Facts are drawn with replacement: the 285 that there are take the place of all that could be asked.
        """
        measure = self.by_fact[place]
        rows = np.concatenate([sets[:1], sets])  # the first for the baseline, which nothing here looks at
        return replace(
            measure,
            numerator=measure.numerator[np.ix_(rows, facts)],
            denominator=measure.denominator[np.ix_(rows, facts)],
        )

    @cached_property
    def values(self) -> np.ndarray:
        """Value of every measure under every set [n_measures, sets]."""
        return np.array([measure.values for measure in self.measures])

    @property
    def facts_there(self) -> int:
        """How many facts gave prompts."""
        return len(np.unique(self.clusters))

    @property
    def names(self) -> list[str]:
        return [measure.name for measure in self.measures]

    def draw(self, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Values of a treated set [n_measures] and of ``m`` controls [n_measures, m]."""
        chosen = self.values[:, rng.choice(self.values.shape[1], m + 1, replace=False)]
        return chosen[:, 0], chosen[:, 1:]


def fact_numbers(facts: int) -> np.ndarray:
    """The fact of every prompt."""
    return np.repeat(np.arange(facts), PROMPTS)


def events(rates: np.ndarray, icc: float, facts: int, rng: np.random.Generator) -> np.ndarray:
    """Which prompts have an event: bool [conditions, 3 facts], each condition with its own rate.

    The three prompts of a fact share a probability drawn from the beta distribution of this mean, so that any two of
    them correlate by ``icc``; 1 lets all three do the same.
    """
    p = np.asarray(rates, dtype=np.float64)[:, None]
    if icc == 1:
        own = (rng.random((len(p), facts)) < p).astype(np.float64)
    elif icc == 0:
        own = np.broadcast_to(p, (len(p), facts))
    else:
        size = (1 - icc) / icc
        own = rng.beta(np.maximum(p * size, 1e-12), np.maximum((1 - p) * size, 1e-12), (len(p), facts))
    return rng.random((len(p), facts * PROMPTS)) < np.repeat(own, PROMPTS, axis=1)


def share(found: np.ndarray, primary: bool = True) -> Measure:
    """Events [conditions without the baseline, prompts] as a share of the prompts; the baseline has none."""
    counted = np.vstack([np.zeros_like(found[:1]), found])
    return Measure(
        name="share",
        title="share",
        unit="share",
        numerator=counted,
        denominator=np.broadcast_to(True, counted.shape),
        primary=primary,
    )


def mean(values: np.ndarray, counts: np.ndarray | None = None) -> Measure:
    """Values [conditions without the baseline, prompts] as a mean over the prompts that count; the baseline's are 0."""
    numerator = np.vstack([np.zeros_like(values[:1]), values])
    denominator = np.ones(numerator.shape, bool) if counts is None else np.vstack([counts[:1], counts])
    return Measure(
        name="mean",
        title="mean",
        unit="nats",
        numerator=np.where(denominator, numerator, 0.0),
        denominator=denominator,
        primary=True,
    )
