"""The arena: each selector's choice on a model and a task, judged by ordinary runs under one protocol.

1. Effect: the task's first primary measure under the intervention, beside control sets, a unit that is edited.
2. Specificity: the same units under the same intervention on neutral text, beside control sets.
3. Stability: how alike the choices are on two halves of the prompts that selectors see, and of several seeds.
4. Of planted models: which of the chosen units have an effect by construction, and which of these were chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import harness
from harness.controls.random import too_few
from harness.errors import HarnessError
from harness.files.store import read_jsonl
from harness.files.wording import counted
from harness.plugin import border
from harness.plugin.components import ModelLoader, SelectionContext
from harness.plugin.specs import ComponentSpec
from harness.plugin.unit_kinds import kind_of
from harness.results import arena as board
from harness.results.measures import Measure
from harness.running.contest import Contest, Entry, entries, metric_of, neutral_of, run_spec
from harness.running.execute import Finished, execute_together, loaded, prompts_of
from harness.running.fitting import Fit
from harness.running.held_out import split
from harness.running.plan import Listener, Plan, plan
from harness.statistics import derive_seed
from harness.statistics.discoveries import agreement, beside_chance, combined_p

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.model.model import Model
    from harness.plugin.catalogue import Catalogue
    from harness.plugin.records import Prompt
    from harness.running.telling import Telling

Pair = tuple[int, int, int, int]
"""Two sets: shared, in the first, in the second, candidates."""


@dataclass
class _Case:
    """What is known of one row so far."""

    entry: Entry
    refused: str | None = None
    runs: dict[int, Finished] = field(default_factory=dict)
    neutral: dict[int, Finished] = field(default_factory=dict)
    halves: list[Pair] = field(default_factory=list)
    candidates: int = 0
    reads: bool = True
    same_prompts: bool = False


def contested(contest: Contest, found: Catalogue, output: Path, reporter: Telling) -> Iterator[list[board.ArenaRow]]:
    """The rows of each model, one model after another.

    Raises:
        HarnessError: a model cannot be loaded, or nothing can be written to ``output``. A selector that does not work
            on a model or task has a row that says why.
    """
    for spec in contest.models:
        loader = found.build(ModelLoader, spec, "--models")
        planted, own_texts = border.planted(loader), loader.corpus is not None
        model, neutral = loaded(loader, reporter), neutral_of(contest, own_texts, found)
        cases = [_Case(entry) for entry in entries(contest, spec, bool(planted), own_texts, found)]
        for task in dict.fromkeys(str(case.entry.task) for case in cases):
            own = [case for case in cases if str(case.entry.task) == task]
            for seed in range(contest.seeds):
                _seed(own, seed, found, model, output, reporter)
                _neutral(own, seed, neutral, found, model, output, reporter)
        yield [_row(case, neutral, planted) for case in cases]


def _seed(cases: Sequence[_Case], seed: int, found: Catalogue, model: Model, output: Path, reporter: Telling) -> None:
    """Runs of one seed on the task, and choices on halves of the prompts."""
    plans: dict[int, Plan] = {}
    for i, case in enumerate(cases):
        if case.refused is None:
            try:
                plans[i] = plan(case.entry.spec(seed, metric_of(case.entry.task, found)), found)
            except HarnessError as error:
                case.refused = str(error)
    for i, run in _made(plans, cases, model, output, reporter).items():
        cases[i].runs[seed] = run
    parts: tuple[list[Prompt], ...] | None = None
    for i, one in plans.items():
        case = cases[i]
        case.reads = border.reads_prompts(one.selector)
        if case.refused is None and case.reads:
            fit = Fit.of(one.spec, model, reporter)
            parts = parts or fit(_halves, one, fit.engine, reporter)
            with reporter.stage(f"{case.entry.selector.name}: halves"):
                fit(_choose_twice, case, one, fit.engine, parts)


def _made(
    plans: dict[int, Plan], cases: Sequence[_Case], model: Model, output: Path, reporter: Telling
) -> dict[int, Finished]:
    """The runs that could be made, by number; of the others it is said why."""
    places = {id(one): i for i, one in plans.items()}

    def refuse(one: Plan, error: HarnessError) -> None:
        cases[places.pop(id(one))].refused = str(error)

    if not plans:
        return {}
    made = execute_together(list(plans.values()), output, reporter, "harness arena", model=model, refuse=refuse)
    return dict(zip((i for i, one in plans.items() if id(one) in places), made, strict=True))


def _halves(one: Plan, engine: Engine, reporter: Listener) -> tuple[list[Prompt], ...]:
    """Two halves, of whole clusters, of the prompts that selectors see."""
    prepared = split(one, prompts_of(one, engine, reporter, fresh=False))
    seen = prepared.held_out or prepared.prompts
    clusters = list(dict.fromkeys(prompt.cluster for prompt in seen))
    order = np.random.default_rng(derive_seed(one.spec.seed, "halves")).permutation(len(clusters))
    first = {clusters[int(i)] for i in order[: len(order) // 2]}
    return [x for x in seen if x.cluster in first], [x for x in seen if x.cluster not in first]


def _choose_twice(case: _Case, one: Plan, engine: Engine, halves: Sequence[Sequence[Prompt]]) -> None:
    """Choices on both halves; a half that leaves nothing to choose says nothing."""
    seed, sets = derive_seed(one.spec.seed, "selector"), []
    for half in halves:
        try:
            context = SelectionContext(engine.model, engine, [x.tokens for x in half], seed, held_out=True)
            found = border.select(one.selector, context)
        except HarnessError:
            return
        sets.append(set(found.units))
        case.candidates = len(found.candidates)
    if case.candidates:
        first, second = sets
        case.halves.append((len(first & second), len(first), len(second), case.candidates))


def _neutral(
    cases: Sequence[_Case],
    seed: int,
    neutral: ComponentSpec,
    found: Catalogue,
    model: Model,
    output: Path,
    reporter: Telling,
) -> None:
    """The same units under the same intervention on neutral text."""
    plans: dict[int, Plan] = {}
    for i, case in enumerate(cases):
        if seed in case.runs:
            chosen = ComponentSpec("units", {"units": _units(case.runs[seed])})
            spec = run_spec(case.entry.contest, case.entry.model, neutral, chosen, seed, metric_of(neutral, found))
            plans[i] = plan(spec, found)
    for i, run in _made(plans, cases, model, output, reporter).items():
        cases[i].neutral[seed] = run


def _units(run: Finished) -> list[str]:
    return [chosen.neuron for chosen in run.record.selection.neurons]


# -- a row -------------------------------------------------------------------------------------------------------------


def _row(case: _Case, neutral: ComponentSpec, planted: dict[str, float]) -> board.ArenaRow:
    asked = case.entry.asked(neutral)
    about = {
        "schema_version": board.SCHEMA_VERSION,
        "harness_version": harness.__version__,
        "row_id": board.row_id(asked),
        "command": case.entry.command(neutral),
        **asked,
    }
    if case.refused is not None or not case.runs:
        return board.ArenaRow(**about, refused=case.refused or "it was not run")
    seeds = sorted(case.runs)
    case.same_prompts = len({tuple(_prompts(case.runs[seed])) for seed in seeds}) == 1
    sets = [set(_units(case.runs[seed])) for seed in seeds]
    n = case.candidates or _candidates(case.runs[seeds[0]])
    across = [(len(a & b), len(a), len(b), n) for a, b in combinations(sets, 2)]
    kind = kind_of(_units(case.runs[seeds[0]])[0])
    alike = {unit: strength for unit, strength in planted.items() if kind_of(unit) is kind}
    others = [f"no {kind.word} is planted: discoveries are not counted"] if planted and not alike else []
    return board.ArenaRow(
        **about,
        exploratory=any(run.record.exploratory is not None for run in case.runs.values()),
        n_units=float(np.mean([len(x) for x in sets])),
        effect=_side([(seed, case.runs[seed]) for seed in seeds]),
        specificity=_side([(seed, case.neutral[seed]) for seed in seeds if seed in case.neutral]),
        halves=_agreement(case.halves),
        across_seeds=_agreement(across),
        discoveries=_discoveries(sets, alike, n) if alike else None,
        remarks=[*_remarks(case), *others],
    )


def _prompts(run: Finished) -> list[str]:
    return [str(row["prompt"]) for row in read_jsonl(run.path / "samples.jsonl")]


def _candidates(run: Finished) -> int:
    """How many neurons, or heads, the selection's layers have."""
    model, layers = run.record.identity.model, {unit.rpartition(".")[0] for unit in _units(run)}
    return (model.n_heads * model.n_layers) if "H" in _units(run)[0] else len(layers) * model.d_mlp


def _primary(run: Finished) -> Measure:
    return run.record.primary[0]


def _side(runs: Sequence[tuple[int, Finished]]) -> board.Side | None:
    """Effects of all seeds, and what they are together; None without runs."""
    if not runs:
        return None
    effects = [
        board.Effect(
            seed=seed,
            run_id=run.record.run_id,
            units=_units(run),
            difference=_primary(run).effects.difference,
            low=_primary(run).difference_low,
            high=_primary(run).difference_high,
            p=_primary(run).p_two_sided,
            m=_primary(run).m or 0,
        )
        for seed, run in runs
    ]

    def mean(name: str) -> float | None:
        values = [getattr(effect, name) for effect in effects]
        if any(value is None for value in values):
            return None
        return float(np.mean([value / len(effect.units) for value, effect in zip(values, effects, strict=True)]))

    p = [effect.p for effect in effects if effect.p is not None]
    measure = _primary(runs[0][1])
    return board.Side(
        measure=measure.name,
        unit=measure.unit,
        per_unit=mean("difference"),
        low=mean("low"),
        high=mean("high"),
        p=combined_p(p) if len(p) == len(effects) else None,
        seeds=effects,
    )


def _agreement(pairs: Sequence[Pair]) -> board.Agreement | None:
    found = agreement(pairs, derive_seed(0, "agreement"))
    return None if found is None else board.Agreement(**vars(found))


def _discoveries(sets: Sequence[set[str]], planted: dict[str, float], n: int) -> board.Discoveries:
    true = [len(units & planted.keys()) for units in sets]
    chances = [beside_chance(len(x), hits, len(planted), n) for x, hits in zip(sets, true, strict=True)]
    chosen, there = sum(map(len, sets)), len(planted) * len(sets)
    levels = [
        board.Level(
            strength=strength,
            planted=len(sets) * sum(x == strength for x in planted.values()),
            found=sum(planted.get(unit) == strength for units in sets for unit in units),
        )
        for strength in sorted(set(planted.values()))
    ]
    return board.Discoveries(
        chosen=chosen,
        true=sum(true),
        planted=there,
        expected=sum(chance.expected for chance in chances),
        fdr=1 - sum(true) / chosen,
        recall=sum(true) / there,
        p=combined_p([chance.p for chance in chances]),
        levels=levels,
    )


def _remarks(case: _Case) -> list[str]:
    """What this design cannot tell."""
    runs, found = list(case.runs.values()), []
    if len(runs) == 1:
        found.append("one seed: how the choice and its effect depend on the seed is not known")
    elif case.same_prompts and case.reads:
        found.append("every seed has the same prompts: what differs is what the selector and the controls draw")
    if (said := too_few(min(_primary(run).m or 0 for run in runs))) is not None:
        found.append(said)
    if any(run.record.exploratory is not None for run in runs):
        found.append("exploratory: the selector saw prompts that are evaluated")
    if not case.reads:
        found.append("it does not look at the task's prompts: halves of them tell nothing")
    elif not case.halves:
        found.append("halves of the prompts left it too little to choose from")
    items = min(_primary(run).n_clusters or 0 for run in runs)
    if items < 30:
        found.append(f"{counted(items, 'independent item')}: intervals are wide, and of t distributions")
    if warnings := {x for run in runs if (x := run.record.controls.details.warning) is not None}:
        found += sorted(warnings)
    return found
