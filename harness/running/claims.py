"""What the runs of a folder say of papers' claims."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, suggest
from harness.files.store import read_json
from harness.files.wording import counted
from harness.plugin.catalogue import Catalogue
from harness.plugin.claims import Claim, Claims, CountRule, NumberRule, SelectionRule, models_of
from harness.plugin.registers import Evidence, Register
from harness.plugin.specs import ComponentSpec
from harness.results.claims import ClaimedPaper, ClaimRow, ClaimTable, Judged, TestedOn
from harness.results.folder import RECORD, read_provenance, read_record
from harness.results.judging import judge, judge_value
from harness.results.record import Component, RunRecord
from harness.results.recounting import recount
from harness.running.registry import FILENAME, Registry, load_registry
from harness.running.request import model_named, reports_folder, short_name
from harness.running.spec import RunSpec, default


@dataclass(frozen=True)
class Paper:
    """A register that was read. ``specs``: the runs of the registry that its claims name."""

    register: Register
    claims: Claims
    specs: Mapping[str, RunSpec]


@dataclass(frozen=True)
class Reports:
    """What lies in a reports folder: the newest finished run of each name and model, and evidence that is no run's.

    ``notes``: what could not be read.
    """

    runs: Mapping[tuple[str, str], tuple[Path, RunRecord]]
    evidence: Mapping[tuple[str, str], tuple[Path, Evidence]]
    notes: tuple[str, ...]

    @property
    def models(self) -> list[str]:
        """The models of runs, in alphabetical order."""
        return sorted({model for _, model in self.runs})


# -- what is asked -----------------------------------------------------------------------------------------------------


def registry_of_claims(path: Path | None) -> Registry:
    """The registry whose runs claims name: the one that ships with the harness, where none is named."""
    return load_registry(path or Path(str(files("harness") / FILENAME)))


def papers(found: Catalogue, known: Registry, only: str | None = None) -> list[Paper]:
    """The registers of all plugins, or of one paper.

    Raises:
        HarnessError: a register is wrong, names a run that there is not, or a list of neurons; or there is no such
            paper. Names the nearest.
    """
    read = [(register, register.read()) for register in found.registers]
    names = [claims.paper.name for _, claims in read]
    if only is not None and only not in names:
        near = suggest(only, names) or f" There are: {', '.join(names) or 'none'}."
        raise HarnessError(f'--paper: no paper is called "{only}".{near}')
    return [_checked(register, claims, found, known) for register, claims in read if only in (None, claims.paper.name)]


def _checked(register: Register, claims: Claims, found: Catalogue, known: Registry) -> Paper:
    """The register, if the registry has its runs and the plugins have its lists."""
    specs = {}
    for name, claim in claims.claims.items():
        for run in claim.runs:
            if run not in specs:
                specs[run] = _spec(run, known, f"{register.path}, claims.{name}.runs")
        for chosen in getattr(claim.rule, "lists", {}).values():
            if chosen not in found.published:
                where = f"{register.path}, claims.{name}.rule.lists"
                raise HarnessError(
                    f'{where}: there is no list of neurons "{chosen}".{suggest(chosen, found.published)}'
                )
    return Paper(register, claims, specs)


def _spec(run: str, known: Registry, where: str) -> RunSpec:
    """The one run of this name."""
    try:
        specs = known.find(run)
    except HarnessError as error:
        raise HarnessError(f"{where}: {error}") from error
    if len(specs) != 1:
        raise HarnessError(f"{where}: {run} is {counted(len(specs), 'run')}; name one of them: {specs[0].name}.")
    return specs[0]


def model_asked(model: str, found: Catalogue, known: Registry) -> str:
    """What the table calls a model that a user names."""
    spec = model_named(model, found, registry=known)
    return called(spec.name, spec.params, known)


def called(loader: str, params: Mapping[str, Any], known: Registry) -> str:
    """The registry's name of the model that a loader with these parameters gives; a short one where it has none."""
    for name, spec in known.models.items():
        if spec.name == loader and all(str(params.get(key)) == str(value) for key, value in spec.params.items()):
            return name
    return short_name(ComponentSpec(loader, dict(params)))


# -- what there is -----------------------------------------------------------------------------------------------------


def read_reports(folder: Path, asked: Sequence[Paper], known: Registry) -> Reports:
    """The runs of a folder that test some claim, and what plugins' commands have left there; {} where there is none."""
    names = {run for paper in asked for run in paper.specs}
    runs: dict[tuple[str, str], tuple[str, Path, RunRecord]] = {}
    evidence: dict[tuple[str, str], tuple[Path, Evidence]] = {}
    notes = []
    for path in sorted(folder.glob(f"*/{RECORD}")):
        try:
            data = read_json(path)
            if isinstance(data, dict) and "run_id" not in data:
                for one in filter(None, (x.register.reads and x.register.reads(data) for x in asked)):
                    evidence[one.name, _id_called(one.model, known)] = path.parent, one
            elif isinstance(data, dict) and data.get("name") in names:
                record = read_record(path)
                key = record.name, _model_of(record.identity.components.model, known)
                if key not in runs or _finished(path.parent) >= runs[key][0]:
                    runs[key] = _finished(path.parent), path.parent, record
        except HarnessError as error:
            notes.append(f"passed over {str(error).rstrip('.')}")
    return Reports({key: (path, record) for key, (_, path, record) in runs.items()}, evidence, tuple(notes))


def _model_of(loader: Component, known: Registry) -> str:
    return called(loader.name, loader.params, known)


def _id_called(model: str, known: Registry) -> str:
    """The registry's name of a model of this id."""
    return next((name for name, x in known.models.items() if x.params.get("pretrained") == model), model)


def _finished(folder: Path) -> str:
    """When a run was finished; nothing where nobody knows."""
    with contextlib.suppress(HarnessError):
        return read_provenance(folder).finished
    return ""


# -- what it says ------------------------------------------------------------------------------------------------------


def table_of(
    asked: Sequence[Paper], found: Catalogue, known: Registry, folder: Path, model: str | None = None
) -> ClaimTable:
    """Every claim on a model, or on all models that there are runs of, by the runs of a folder.

    Raises:
        HarnessError: a rule names a measure, a quantity or a category that there is not; names the nearest.
    """
    reports = read_reports(folder, asked, known)
    models = [model] if model is not None else reports.models or [str(default("model"))]
    tested: list[ClaimRow] = []
    recounted: list[ClaimRow] = []
    for paper in asked:
        for name, claim in paper.claims.claims.items():
            if isinstance(claim.rule, CountRule):
                recounted += _recounted(paper, name, claim, claim.rule)
            elif claim.evidence is not None:
                there = sorted(of for what, of in reports.evidence if what == claim.evidence)
                for of in [model] if model is not None else there or models[:1]:
                    tested.append(_on_evidence(paper, name, claim, reports, of))
            else:
                tested += [_on_run(paper, name, claim, found, reports, folder, of) for of in models]
    shown = list(dict.fromkeys(row.model for row in tested))
    headings = [ClaimedPaper(**paper.claims.paper.model_dump()) for paper in asked]
    return ClaimTable(papers=headings, models=shown, tested=tested, recounted=recounted, notes=list(reports.notes))


def missing(table: ClaimTable, asked: Sequence[Paper]) -> dict[str, list[str]]:
    """The runs that would test what is not run, by model."""
    found: dict[str, list[str]] = {}
    for row in table.tested:
        paper = next(x for x in asked if x.claims.paper.name == row.paper)
        claim = paper.claims.claims[row.claim]
        if row.judged.outcome == "not run" and claim.runs:
            found.setdefault(row.model, []).append(_first(paper, claim, row.model))
    return {model: list(dict.fromkeys(names)) for model, names in found.items()}


def _row(paper: Paper, name: str, claim: Claim, model: str, judged: Judged, **rest: Any) -> ClaimRow:
    return ClaimRow(
        paper=paper.claims.paper.name,
        claim=name,
        says=claim.says,
        source=claim.source,
        model=model,
        published=_published(claim, model),
        rule=claim.rule.words,
        judged=judged,
        known=claim.known.get(model),
        **rest,
    )


def _published(claim: Claim, model: str) -> str:
    """What the paper gives: for this model if it does, else for each of its own."""
    said = dict(claim.published)
    unit = "%" if claim.rule.kind == "recount" else ""
    said |= {of: f"{x:g}{unit}" for of, x in getattr(claim.rule, "published", {}).items() if of not in said}
    if model in said:
        return said[model]
    return "; ".join(f"{of}: {x}" for of, x in said.items())


def _recounted(paper: Paper, name: str, claim: Claim, rule: CountRule) -> Iterator[ClaimRow]:
    where = f"{paper.register.path}, claims.{name}.rule"
    for model in models_of(rule):
        yield _row(paper, name, claim, model, recount(rule, paper.claims, model, where))


def _not_about(claim: Claim, model: str) -> Judged | None:
    """Why a claim about certain models says nothing of another one."""
    about = claim.models or (models_of(claim.rule) if isinstance(claim.rule, NumberRule | SelectionRule) else (model,))
    if model in about:
        return None
    return Judged(outcome="cannot be tested", why=f"wrong model: the claim is about {', '.join(about)}")


def _on_run(
    paper: Paper, name: str, claim: Claim, found: Catalogue, reports: Reports, folder: Path, model: str
) -> ClaimRow:
    """A claim on the first of its runs that there is."""
    if (other := _not_about(claim, model)) is not None:
        return _row(paper, name, claim, model, other)
    assert not isinstance(claim.rule, CountRule)  # the claim's own validation: such a claim has no runs
    for run in claim.runs:
        if (run, model) in reports.runs:
            path, record = reports.runs[run, model]
            lists = {key: x.neurons for key, x in found.published.items()}
            judged = judge(claim.rule, record, lists, model, f"{paper.register.path}, claims.{name}.rule.measure")
            return _row(
                paper, name, claim, model, judged, tested_on=TestedOn(name=run, folder=str(path), about=_size(record))
            )
    run = _first(paper, claim, model)
    words = ["harness", "run", run]
    words += [] if _of_spec(paper.specs[run]) == model else ["--model", model]
    words += [] if folder == reports_folder() else ["--output_path", str(folder)]
    return _row(paper, name, claim, model, Judged(outcome="not run", why=""), command=shlex.join(words))


def _first(paper: Paper, claim: Claim, model: str) -> str:
    """The run to make: one that the registry has on this model, else the first."""
    return next((run for run in claim.runs if _of_spec(paper.specs[run]) == model), claim.runs[0])


def _of_spec(spec: RunSpec) -> str:
    return str(spec.model)


def _on_evidence(paper: Paper, name: str, claim: Claim, reports: Reports, model: str) -> ClaimRow:
    """A claim on what a plugin's command has left."""
    assert claim.evidence is not None and claim.command is not None and not isinstance(claim.rule, CountRule)
    if (other := _not_about(claim, model)) is not None:
        return _row(paper, name, claim, model, other)
    if (claim.evidence, model) not in reports.evidence:
        command = claim.command.replace("{model}", shlex.quote(model))
        return _row(paper, name, claim, model, Judged(outcome="not run", why=""), command=command)
    path, evidence = reports.evidence[claim.evidence, model]
    judged = judge_value(claim.rule, evidence.values, f"{paper.register.path}, claims.{name}.rule.measure")
    tested = TestedOn(name=evidence.name, folder=str(path), about=evidence.about)
    return _row(paper, name, claim, model, judged, tested_on=tested)


def _size(record: RunRecord) -> str:
    """How large a run is."""
    limit = "" if record.identity.limit is None else f", limit {record.identity.limit}"
    return f"{counted(record.task.n_prompts, 'prompt', ',')}, {counted(record.controls.n, 'control set', ',')}{limit}"
