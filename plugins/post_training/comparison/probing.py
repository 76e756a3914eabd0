"""Probes of truthfulness, trained in one model and tested in either, on data sets that they have not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.plugin import Frame, HarnessError, Measure, counted
from harness.statistics import adjust, derive_seed, interval_of

from ..analysis.directions import Readings, areas, residual_stream
from ..analysis.layer_choice import cross_validated
from ..analysis.probes import PROBES, Activations, Fitted, mass_mean
from ..analysis.truth_data import TruthData
from .behaviour import difference
from .section import Section, columns

if TYPE_CHECKING:
    from harness.plugin import SelectionContext

MODELS = ("base", "tuned")

CELLS = tuple((a, b) for a in MODELS for b in MODELS)
"""Where a probe is trained, and where it is tested."""

HELD_OUT, IN_DOMAIN = "other data sets", "the same data set"


@dataclass
class Judged:
    """What the probes did.

    Attributes:
        accuracy: a row for each probe, data set, way of training and pair of models.
        cosines: a row for each probe and held-out data set.
        right: by probe, model that it was trained in and model that it was tested in, whether it is right about each
            statement where that one's data set is held out, 0 or 1, [n]; NaN where it could not be trained.
        left_out: by probe, the trainings that could not be done, and why.
    """

    accuracy: list[dict[str, Any]] = field(default_factory=list)
    cosines: list[dict[str, Any]] = field(default_factory=list)
    right: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def probing_section(data: TruthData, contexts: Sequence[SelectionContext], seed: int, resamples: int) -> Section:
    """Every probe, trained on all data sets but one (with its negation) and tested on that one.

    Beside it the same trained on half of the groups of that data set and tested on the other half, and mass-mean after
    every layer. The layer is the tuned model's best on the training data sets, in cross-validation by mass-mean.

    Raises:
        HarnessError: there is one data set only.
    """
    from ..figures.probing import sweep_figure

    n = len(data.families)
    if n < 2:
        raise HarnessError("probes are tested on data sets that they have not seen: name two --truthfulness or more.")
    residual = {
        name: residual_stream(context.model, data.texts, batch_size=context.engine.batch_size)
        for name, context in zip(MODELS, contexts, strict=True)
    }
    layers = {family: best_layer(data, residual["tuned"], ~rows) for family, rows in data.families.items()}
    found = Judged()
    with contexts[0].stage("probes of truthfulness", n) as advance:
        for family, here in data.families.items():
            at = {name: data.after(residual[name][layers[family]]) for name in MODELS}
            place = {"tested on": family, "layer": layers[family]}
            _judge(found, data, at, here, place, derive_seed(seed, "probes", family), resamples)
            advance(1)
    transfer, sweep = list(_transfer(found.right, data.group, resamples)), list(_sweep(data, residual))
    probes = dict.fromkeys(row["probe"] for row in found.accuracy)
    return Section(
        "probes",
        f"Probes of truthfulness on {counted(n, 'data set')}, {counted(len(data.texts), 'statement')}",
        (
            *(_sentence(probe, found, transfer) for probe in probes),
            *(f"Left out {counted(len(why), 'training')} of {2 * n}. {why[0]}" for why in found.left_out.values()),
        ),
        {
            "layers": layers,
            "accuracy": found.accuracy,
            "cosines": found.cosines,
            "transfer": transfer,
            "sweep": sweep,
            "left_out": found.left_out,
        },
        (
            Frame("probes", "accuracy of probes of other data sets, and of the same one", columns(found.accuracy)),
            Frame("probe_transfer", "the other model's probe beside a model's own, all data sets", columns(transfer)),
            Frame("probe_cosines", "cosine of the two models' probes of the other data sets", columns(found.cosines)),
            Frame("probe_sweep", "accuracy of mass-mean by layer, trained on the other data sets", columns(sweep)),
        ),
        (sweep_figure(sweep),),
    )


def _judge(
    found: Judged,
    data: TruthData,
    at: Mapping[str, Activations],
    here: np.ndarray,
    place: Mapping[str, Any],
    seed: int,
    resamples: int,
) -> None:
    """Train and test every probe on one data set, bool [n] ``here``, and put what comes of it into ``found``."""
    for kind, train, test in _splits(data, here, seed):
        for probe, fitted in _fitted(at, train, seed, found.left_out):
            for (trained, tested), score in _scores(fitted, at, test).items():
                row = {"probe": probe, **place, "trained on": kind, "of": trained, "in": tested}
                found.accuracy.append(row | _accuracy(score, data.label[test], data.group[test], seed, resamples))
                if kind == HELD_OUT:
                    right = found.right.setdefault((probe, trained, tested), np.full(len(data.label), np.nan))
                    right[test] = (score > 0) == data.label[test]
            if kind == HELD_OUT:
                a, b = (fitted[name].direction for name in MODELS)
                cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
                found.cosines.append({"probe": probe, **place, "cosine": cosine})


def best_layer(data: TruthData, residual: np.ndarray, train: np.ndarray) -> int:
    """The layer whose mass-mean tells the training statements apart best, in cross-validation over groups.

    Args:
        residual: float32 [n_layers, n, d_model]. train: bool [n].
    """
    centred = np.stack([data.after(x)[train].centred for x in residual])
    readings = Readings("the tuned model", centred, data.label[train], np.ones(train.sum(), bool), data.group[train])
    return int(cross_validated(readings, readings).argmax())


def _splits(data: TruthData, here: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What is trained and tested on, bool [n]: the other data sets and this one, then half of this one and the rest."""
    yield HELD_OUT, ~here, here
    groups = np.unique(data.group[here])
    half = np.random.default_rng(seed).permutation(groups)[: len(groups) // 2]
    first = here & np.isin(data.group, half)
    yield IN_DOMAIN, first, here & ~first


def _fitted(
    at: Mapping[str, Activations], train: np.ndarray, seed: int, left_out: dict[str, list[str]]
) -> Iterator[tuple[str, dict[str, Fitted]]]:
    """Every probe, trained in both models; one that cannot be trained says why in ``left_out``."""
    for probe, fit in PROBES.items():
        try:
            yield probe, {name: fit(at[name][train], seed) for name in MODELS}
        except HarnessError as error:
            left_out.setdefault(probe, []).append(str(error))


def _scores(
    fitted: Mapping[str, Fitted], at: Mapping[str, Activations], test: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    return {(a, b): fitted[a].score(at[b][test]) for a, b in CELLS}


def _accuracy(score: np.ndarray, label: np.ndarray, group: np.ndarray, seed: int, resamples: int) -> dict[str, Any]:
    """Accuracy with its interval over groups, and the area under the ROC curve."""
    right = np.repeat(((score > 0) == label)[None], 2, axis=0)  # a measure has two conditions at least
    measure = Measure("accuracy", "accuracy", "share", right, np.ones_like(right))
    found = interval_of(measure, 0, group, seed, resamples)
    low, high = (None, None) if found is None else (found.low, found.high)
    area = float(areas(score[:, None], label[None])[0, 0])
    return {"accuracy": float(right[0].mean()), "low": low, "high": high, "auroc": area, "n": len(label)}


def _transfer(
    right: Mapping[tuple[str, str, str], np.ndarray], group: np.ndarray, resamples: int
) -> Iterator[dict[str, Any]]:
    """The other model's probe minus the model's own in every model, paired by statement; p by Holm over all of them."""
    made = []
    for probe in dict.fromkeys(probe for probe, *_ in right):
        for tested in MODELS:
            other = MODELS[1 - MODELS.index(tested)]
            own, theirs = right[probe, tested, tested], right[probe, other, tested]
            known = np.isfinite(own)
            values = (own[known] > 0, theirs[known] > 0)
            found = difference("accuracy", "accuracy", "%", values, group[known], resamples)
            row = {"probe": probe, "in": tested, "own %": found["first"], "other's %": found["second"]}
            made.append(row | {key: found[key] for key in ("difference", "low", "high", "p")})
    for row, p in zip(made, adjust([row["p"] for row in made]), strict=True):
        yield row | {"p Holm": p}


def _sweep(data: TruthData, residual: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Mass-mean after every layer, on every data set."""
    for layer in range(len(residual["base"])):
        at = {name: data.after(residual[name][layer]) for name in MODELS}
        for family, here in data.families.items():
            fitted = {name: mass_mean(at[name][~here]) for name in MODELS}
            for (a, b), score in _scores(fitted, at, here).items():
                right = float(((score > 0) == data.label[here]).mean())
                yield {"layer": layer, "tested on": family, "of": a, "in": b, "accuracy": right}


def _sentence(probe: str, found: Judged, transfer: Sequence[Mapping[str, Any]]) -> str:
    """One probe: on held-out data sets, in its own one, and what the other model's does."""

    def mean(kind: str, a: str, b: str) -> str:
        cell = (probe, kind, a, b)
        values = [x["accuracy"] for x in found.accuracy if (x["probe"], x["trained on"], x["of"], x["in"]) == cell]
        return f"{np.mean(values):.0%}" if values else "-"

    across = ", ".join(f"{a}'s in {b} {mean(HELD_OUT, a, b)}" for a, b in CELLS)
    within = ", ".join(f"{a} {mean(IN_DOMAIN, a, a)}" for a in MODELS)
    said = (
        f"{probe[:1].upper()}{probe[1:]}, mean accuracy over data sets that it was not trained on: {across} (trained "
        f"on half of the same data set: {within})"
    )
    for row in transfer:
        if (row["probe"], row["in"]) == (probe, "tuned"):
            between = "" if row["low"] is None else f" ({row['low']:+.1f} to {row['high']:+.1f})"
            said += f"; base's less the tuned model's own in tuned {row['difference']:+.1f} points{between}"
    cosines = [x["cosine"] for x in found.cosines if x["probe"] == probe]
    return f"{said}; cosine of the two {min(cosines):.3f} to {max(cosines):.3f}." if cosines else f"{said}."
