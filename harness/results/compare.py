"""Finished runs side by side: what differs in what was asked, in the selected neurons, and in every shared measure.

The first run is the reference; each other one is compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.conditions.units import UNITS, Unit, by_layer
from harness.errors import HarnessError
from harness.files.store import clean
from harness.files.wording import counted, plural
from harness.results.comparison import (
    ComparedMeasure,
    ComparedRun,
    Comparison,
    Difference,
    DifferingField,
    Discordant,
    Overlap,
    PromptPair,
    RunValue,
    SelectionPair,
)
from harness.results.folder import PROVENANCE, read_provenance
from harness.results.measures import Measure
from harness.results.pairing import Pairing, Run, measures_of, open_run, pair
from harness.results.record import Component, Identity, RunRecord

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.statistics import AnyMeasure

MOST = 26
"""Runs are called by the letters of the alphabet."""

_VERSIONS = ("version", "distribution", "distribution_version")


def compare(paths: Sequence[Path], catalogue: Catalogue, resamples: int = 2000) -> Comparison:
    """The comparison of finished runs (folders, or their ``result.json``) with the first of them.

    Raises:
        HarnessError: fewer than two runs or too many, one that is named twice, or a folder without a finished run.
    """
    if not 2 <= len(paths) <= MOST:
        raise HarnessError(f"compare: expected 2 to {counted(MOST, 'finished run')}, got {len(paths)}.")
    places = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    if twice := [path for i, path in enumerate(paths) if places[i] in places[:i]]:
        raise HarnessError(f"compare: {twice[0]} is named twice; a run differs in nothing from itself.")
    runs = [open_run(path) for path in paths]
    pairings = [pair(runs[0], run) for run in runs[1:]]
    labels = [chr(ord("A") + i) for i in range(len(runs))]
    measures = _measures(runs, pairings, catalogue, resamples)
    return Comparison(
        runs=[_run(label, run) for label, run in zip(labels, runs, strict=True)],
        differing=differing([run.record.identity for run in runs]),
        selections=[
            selections((labels[i], labels[j]), runs[i].record, runs[j].record)
            for i, j in combinations(range(len(runs)), 2)
        ],
        pairs=[
            PromptPair(
                first=labels[0],
                second=label,
                paired=pairing.kind,
                why=pairing.why,
                n_items=pairing.n_items,
                n_first=len(pairing.first),
                n_second=len(pairing.second),
                n_same=len(pairing.same),
            )
            for label, pairing in zip(labels[1:], pairings, strict=True)
        ],
        measures=measures,
        family=sum(d is not None and d.p_holm is not None for row in measures for d in row.differences),
        resamples=resamples,
    )


def _run(label: str, run: Run) -> ComparedRun:
    return ComparedRun(
        label=label,
        name=run.record.name,
        run_id=run.record.run_id,
        folder=str(run.path),
        model=run.record.identity.model.id,
        command=_command(run.path),
    )


def _command(folder: Path) -> str | None:
    return read_provenance(folder).command if (folder / PROVENANCE).is_file() else None


# -- what was asked ----------------------------------------------------------------------------------------------------


def differing(identities: Sequence[Identity]) -> list[DifferingField]:
    """The fields of the identities that are not the same in all: ``selector.top``, 6 and 4.

    A parameter that a run does not have is None there. Versions of components, and parameters of metrics, are told only
    where all runs have the component.
    """
    flat = [_flat(identity) for identity in identities]
    fields = list(dict.fromkeys(field for found in flat for field in found))
    everywhere = set.intersection(*map(set, flat))
    fields = [x for x in fields if x in everywhere or not (x.startswith("metric.") or x.endswith(_VERSIONS))]
    rows = [DifferingField(field=field, values=[found.get(field) for found in flat]) for field in fields]
    return [row for row in rows if any(value != row.values[0] for value in row.values)]


def _flat(identity: Identity) -> dict[str, Any]:
    """An identity with its components by name: ``intervention``, ``selector.top``, ``metric.transitions.collapse``."""
    flat: dict[str, Any] = {}
    for kind, component in identity.components.by_kind().items():
        name = "loader" if kind == "model" else kind
        flat |= {name: component.name, **_component(name, component)}
    metrics = identity.components.metrics
    flat["metrics"] = ", ".join(metric.name for metric in metrics)
    for metric in metrics:
        flat |= _component(f"metric.{metric.name}", metric)

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            flat[prefix] = value

    walk("", {name: found for name, found in identity.to_dict().items() if name != "components"})
    return flat


def _component(prefix: str, component: Component) -> dict[str, Any]:
    return {
        **{f"{prefix}.{key}": value for key, value in component.params.items()},
        f"{prefix}.version": component.version,
        f"{prefix}.distribution": component.distribution,
        f"{prefix}.distribution_version": component.distribution_version,
    }


# -- what was selected -------------------------------------------------------------------------------------------------


def selections(labels: tuple[str, str], first: RunRecord, second: RunRecord) -> SelectionPair:
    """How far two runs selected the same neurons, or heads, beside random sets of these sizes in the same layers.

    ``comparable`` is False, and ``why`` says so, where the models have other shapes or one selected heads.
    """
    from harness.statistics import chance_overlap

    units = [record.selection.unit for record in (first, second)]
    models = [record.identity.model for record in (first, second)]
    sizes = [model.n_heads if units[0] == "head" else model.d_mlp for model in models]
    why = ""
    if units[0] != units[1]:
        why = f"one run selected {plural(units[0])}, the other {plural(units[1])}"
    elif units[0] == "direction":
        why = "a direction's name does not tell its vector"
    elif units[0] not in UNITS:
        why = f"how many {plural(units[0])} a layer has is not on record"
    elif (models[0].n_layers, sizes[0]) != (models[1].n_layers, sizes[1]):
        why = "the models have other shapes"
    if why:
        return SelectionPair(
            first=labels[0], second=labels[1], comparable=False, why=why, shared=[], n_first=0, n_second=0, overlap=None
        )
    parse: Callable[[str], Unit] = UNITS[units[0]].parse
    a, b = ([parse(chosen.neuron) for chosen in record.selection.neurons] for record in (first, second))
    both = [unit for unit in a if unit in set(b)]
    shared, own, other = (by_layer(found) for found in (both, a, b))
    groups = [
        (len(shared.get(layer, ())), len(own.get(layer, ())), len(other.get(layer, ())), sizes[0])
        for layer in sorted({*own, *other})
    ]
    same = models[0].weights_sha256 == models[1].weights_sha256
    return SelectionPair(
        first=labels[0],
        second=labels[1],
        comparable=True,
        why="" if same else f"{plural(units[0])} of two models are the same where their places are",
        unit=units[0],
        shared=[str(unit) for unit in both],
        n_first=len(a),
        n_second=len(b),
        n_layer=sizes[0],
        overlap=Overlap(**clean(asdict(chance_overlap(groups)))),
    )


# -- what was measured -------------------------------------------------------------------------------------------------


def _measures(
    runs: Sequence[Run], pairings: Sequence[Pairing], catalogue: Catalogue, resamples: int
) -> list[ComparedMeasure]:
    """The measures of the first run that another one has, too, with their differences, and Holm's p."""
    recorded = [{measure.key: measure for measure in run.record.measures} for run in runs]
    wanted = [key for key in recorded[0] if any(key in found for found in recorded[1:])]
    parts = [{(metric, name): (x, why) for metric, name, x, why in measures_of(run, catalogue)} for run in runs]
    rows = []
    for key in wanted:
        reference, found = recorded[0][key], [measures.get(key) for measures in recorded]
        differences = [
            None
            if measure is None
            else _difference((reference, measure), pairing, (parts[0][key], parts[i][key]), resamples)
            for i, (measure, pairing) in enumerate(zip(found[1:], pairings, strict=True), 1)
        ]
        rows.append(
            ComparedMeasure(
                metric=reference.metric,
                name=reference.name,
                title=reference.title,
                unit=reference.unit,
                higher_is_better=reference.higher_is_better,
                primary=reference.primary,
                runs=[None if measure is None else _own(measure) for measure in found],
                differences=differences,
            )
        )
    return _corrected(rows)


def _corrected(rows: Sequence[ComparedMeasure]) -> list[ComparedMeasure]:
    """The same with Holm's p, over all differences of primary measures."""
    from harness.statistics import adjust

    holm = iter(adjust([d.p for row in rows if row.primary for d in row.differences if d is not None]))

    def corrected(row: ComparedMeasure, difference: Difference | None) -> Difference | None:
        p = {"p_holm": next(holm) if row.primary and difference is not None else None}
        return None if difference is None else difference.model_copy(update=p)

    return [row.model_copy(update={"differences": [corrected(row, d) for d in row.differences]}) for row in rows]


def _own(measure: Measure) -> RunValue:
    """What a run says of a measure by itself."""
    return RunValue(
        value=measure.value,
        ci_low=measure.ci_low,
        ci_high=measure.ci_high,
        count=measure.count,
        denominator=measure.denominator,
        p_two_sided=measure.p_two_sided,
        control_mean=None if measure.controls is None else measure.controls.mean,
        beyond_controls=measure.effects.difference,
        p_adjusted=measure.p_adjusted,
        verdict=measure.verdict,
    )


def _difference(
    recorded: tuple[Measure, Measure],
    pairing: Pairing,
    parts: tuple[tuple[AnyMeasure | None, str], tuple[AnyMeasure | None, str]],
    resamples: int,
) -> Difference:
    """Second minus first.

    Paired, it is over the shared items, with intervals and a test. Otherwise only the difference of the recorded values
    is told: their intervals do not tell how far the difference may be off.
    """
    (first, why_first), (second, why_second) = parts
    if first is not None and second is not None and pairing.kind is not None:
        return paired(first, second, pairing, resamples)
    why = pairing.why if pairing.kind is None else why_first if first is None else why_second
    values = [measure.value for measure in recorded]
    return Difference(
        paired=False,
        why=why if why.startswith("not paired") else f"not paired: {why}",
        first=values[0],
        second=values[1],
        difference=_minus(values),
        low=None,
        high=None,
        p=None,
        n_items=None,
        n_differing=None,
        mcnemar=None,
        beyond_controls=_minus([measure.effects.difference for measure in recorded]),
        beyond_low=None,
        beyond_high=None,
    )


def paired(first: AnyMeasure, second: AnyMeasure, pairing: Pairing, resamples: int) -> Difference:
    """Second minus first over the items of both: values, interval, p of exchanging the two, McNemar of counts."""
    from harness.statistics import Measure, derive_seed, mcnemar, paired_intervals, swap_test

    a, b = first.over(pairing.first), second.over(pairing.second)
    items = pairing.first_items, pairing.second_items
    test = swap_test(a, b, *items, derive_seed(0, "compare", "swaps"))
    interval, beyond = paired_intervals(a, b, *items, derive_seed(0, "compare", "bootstrap"), resamples)
    # Where every resample is alike, the interval says nothing; it does not say that the difference is known exactly.
    interval, beyond = (x if x and x.low < x.high else None for x in (interval, beyond))
    moved = None
    if isinstance(first, Measure) and isinstance(second, Measure) and first.is_count and second.is_count:
        x, y = first.over(pairing.same[:, 0]), second.over(pairing.same[:, 1])
        moved = Discordant(**clean(asdict(mcnemar(x, y))))
    return Difference(
        paired=True,
        why="",
        first=clean(a.treated),
        second=clean(b.treated),
        difference=clean(b.treated - a.treated),
        low=clean(interval.low) if interval else None,
        high=clean(interval.high) if interval else None,
        p=clean(test.p),
        n_items=test.n,
        n_differing=test.differing,
        mcnemar=moved,
        beyond_controls=clean(_minus([_beyond(x) for x in (a, b)])),
        beyond_low=clean(beyond.low) if beyond else None,
        beyond_high=clean(beyond.high) if beyond else None,
    )


def _beyond(measure: AnyMeasure) -> float | None:
    """Treated value minus the mean of the controls."""
    from harness.statistics import effect_sizes

    return effect_sizes(measure.treated, measure.controls)["difference"]


def _minus(values: Sequence[float | None]) -> float | None:
    first, second = values
    return None if first is None or second is None else second - first
