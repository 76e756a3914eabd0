"""What a run leaves behind: its folder, its record, and its rows in the leaderboard.

A run's folder ``reports/<run>-<hash>/`` holds ``samples.jsonl``, ``neurons.jsonl``, ``controls.jsonl``,
``outcomes.safetensors``, ``figures/``, ``tables/`` and ``provenance.json``; ``result.json``, the record, which is
written after these: no more is to be computed then; and last ``files.sha256``, their digests: its presence means that
the run is complete. A reporter makes ``report.html`` from them. All but ``provenance.json`` and ``report.html`` are the
same bytes whenever the same run is made again, and these two are not in the list.
``unfinished/`` is there while a run is under way: the prepared prompts and one file per finished part, from which an
interrupted run continues.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.conditions.conditions import Condition, Selection
from harness.conditions.units import Unit
from harness.errors import HarnessError, not_there
from harness.files import json as jsontext
from harness.files.owned import Written, path_name, remove_empty
from harness.files.store import canonical, read_json, read_jsonl, write_bytes, write_json, write_jsonl, writing
from harness.plugin.records import Alone, Outcomes, Prepared, Prompt, Series
from harness.plugin.unit_kinds import kind_named
from harness.results import beside, record
from harness.results.arrays import Mapped, write_arrays
from harness.results.migrations import lifted
from harness.results.prepared import from_json, to_json
from harness.results.provenance import Provenance
from harness.results.record import RunRecord

RowT = TypeVar("RowT", bound=beside.Row)

RECORD, PAGE, PROVENANCE, MARK = "result.json", "report.html", "provenance.json", "files.sha256"
UNFINISHED, OUTCOMES = "unfinished", "outcomes.safetensors"

FILES = (
    RECORD, PAGE, PROVENANCE, "samples.jsonl", "neurons.jsonl", "controls.jsonl", OUTCOMES,
)  # fmt: skip
"""Files of a run's folder, beside its figures and tables."""

TEMPORARY = re.compile(r"\.[\w=+-][\w=+,.()% -]*\.(?:[a-z0-9_]{8}|partial)")
"""Names of files that are being written; where their writer was killed they stay."""

_KEPT = re.compile(r"prepared\.json|progress\.json|writable|outcomes\.safetensors|part-\d{8}\.(?:json|safetensors)")
"""Names of the files of ``unfinished/``."""


def read_rows(path: Path, cls: type[RowT]) -> list[RowT]:
    """The rows of one of a run's JSONL files; candidates and control sets have the same columns in each.

    Raises:
        HarnessError: it is missing, or was damaged; names the line.
    """
    rows = [cls.read(row, f"{path}, line {number}") for number, row in enumerate(read_jsonl(path), 1)]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, beside.Sample) and row.columns.keys() != rows[0].columns.keys():
            raise HarnessError(f"{path}, line {number}: expected the columns of the first row; the file is damaged.")
    return rows


def read_record(path: Path) -> RunRecord:
    """The record of a finished run, from its folder or its ``result.json``; one of an older schema is lifted to this.

    Raises:
        HarnessError: there is none, this version of the harness cannot read it, or it is damaged.
    """
    path = path / RECORD if path.is_dir() else path
    if not path.is_file():
        if (path.parent / UNFINISHED).is_dir():
            raise HarnessError(f"{path.parent}: this run is not finished; the command that began it continues it.")
        if path.name == RECORD and (runs := sorted(path.parent.glob(f"*/{RECORD}"))):
            raise HarnessError(f"{path.parent}: runs lie in this folder; name one of them, such as {runs[-1].parent}.")
        raise HarnessError(f"{path}: there is no finished run here.")
    return RunRecord.read(lifted(read_json(path), str(path)), str(path))


def read_provenance(path: Path) -> Provenance:
    """``provenance.json`` of a run's folder.

    Raises:
        HarnessError: it is missing or damaged.
    """
    return Provenance.read(read_json(path / PROVENANCE), str(path / PROVENANCE))


class RunFolder:
    """The folder of one run. What the harness has not written to it is left alone, whatever happens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.result = path / RECORD
        self._unfinished = path / UNFINISHED

    @property
    def complete(self) -> bool:
        """Whether everything is there."""
        return (self.path / MARK).is_file() and self.recorded

    @property
    def recorded(self) -> bool:
        """Whether the record is there, and everything before it: no more is to be computed."""
        return self.result.is_file()

    def open(self, fresh: bool) -> None:
        """Make sure that the folder can be written before any work is done; ``fresh`` forgets an earlier run."""
        with writing(self.path):
            if fresh:
                self._forget()
            self._clear(TEMPORARY)
            self._unfinished.mkdir(parents=True, exist_ok=True)
        write_bytes(self._unfinished / "writable", b"")

    def abandon(self) -> bool:
        """Leave nothing behind of a run that failed before a part of it was finished; whether some part was."""
        kept = bool(list(self._unfinished.glob("part-*.safetensors")))
        if not self.recorded and not kept:
            with contextlib.suppress(OSError):
                self.clear()
                self.path.rmdir()  # unless something else is in it
        return kept

    def clear(self) -> None:
        """Remove what a killed process has left, and what only a run under way needs."""
        self._clear(TEMPORARY)
        if self._unfinished.is_dir() and not self._unfinished.is_symlink():
            for path in list(self._unfinished.iterdir()):
                if _KEPT.fullmatch(path.name):
                    path.unlink()
            remove_empty(self.path, [f"{UNFINISHED}/writable"])

    def _clear(self, pattern: re.Pattern[str]) -> None:
        for folder in (self.path, *(self.path / name for name in (UNFINISHED, "figures", "tables"))):
            if folder.is_dir() and (folder == self.path or not folder.is_symlink()):
                for path in list(folder.iterdir()):
                    if pattern.fullmatch(path.name) and path.is_file():
                        path.unlink()

    def _forget(self) -> None:
        """Remove what an earlier run has written; files that were changed since and would not be made again stay."""
        mark = self.path / MARK
        written = Written()
        with contextlib.suppress(HarnessError):  # damaged, as the rest may be: therefore it is made again
            written = Written.read(mark)
        for name in (MARK, *FILES):  # the mark first, the record next: from then on there is no finished run
            (self.path / name).unlink(missing_ok=True)
        for name in written.paths:
            if written.holds(self.path, name):
                (self.path / name).unlink()
        self.clear()
        remove_empty(self.path, written.paths)

    def settle(self) -> None:
        """Bring a run whose record is there to its end: what a killed process still owed, and left behind.

        Raises:
            HarnessError: nothing can be written.
        """
        with writing(self.path):
            self.clear()
        if not self.complete:
            self._mark()

    def _mark(self) -> None:
        """Say that the run is complete: the last file."""
        found = read_record(self.result)
        names = [f"figures/{path_name(figure.name, str(self.result))}" for figure in found.figures]
        paths = [x for x in FILES if x not in (PAGE, PROVENANCE)]
        paths += [f"{name}.{ending}" for name in names for ending in ("csv", "svg", "png")]
        paths += [f"tables/{path_name(frame.name, str(self.result))}.csv" for frame in found.frames]
        with writing(self.path / MARK):
            written = Written.found(self.path, [path for path in paths if (self.path / path).is_file()])
        write_bytes(self.path / MARK, written.to_bytes())

    def save_prepared(self, prepared: Prepared) -> None:
        """Keep the prepared prompts, so that a resumed run need not ask the model again."""
        write_json(self._unfinished / "prepared.json", to_json(prepared), indent=None)

    def load_prepared(self) -> Prepared | None:
        path = self._unfinished / "prepared.json"
        return from_json(read_json(path), str(path)) if path.is_file() else None

    def save_part(self, start: int, part: Outcomes) -> None:
        """Keep the outcomes of the prompts from ``start`` on."""
        stem = self._unfinished / f"part-{start:08d}"
        rows = {name: series.rows for name, series in part.series.items()}
        rest = {"answers": part.answers, "categories": part.categories, "series": rows}
        rest |= {"found": part.found, "details": part.details}
        write_json(stem.with_suffix(".json"), rest, indent=None)
        write_arrays(stem.with_suffix(".safetensors"), part.arrays())  # last: it marks the part as finished

    def on_disk(self, start: int, part: Outcomes) -> Outcomes:
        """A part that was kept, whose values are read from the disk whenever they are asked for."""
        return replace(part, values=Mapped(self._unfinished / f"part-{start:08d}.safetensors").without("series "))

    def load_part(self, start: int, prompts: tuple[Prompt, ...], conditions: tuple[Condition, ...]) -> Outcomes | None:
        stem = self._unfinished / f"part-{start:08d}"
        if not stem.with_suffix(".safetensors").is_file():
            return None
        path = stem.with_suffix(".json")
        rest = beside.Part.read(read_json(path), str(path))
        arrays = Mapped(stem.with_suffix(".safetensors"))
        return Outcomes(
            conditions=conditions,
            prompts=prompts,
            values=arrays.without("series "),
            series={name: Series(tuple(rows), arrays[f"series {name}"].copy()) for name, rows in rest.series.items()},
            answers=tuple(map(tuple, rest.answers)),
            found=tuple(rest.found),
            details=rest.details,
            categories={name: tuple(names) for name, names in rest.categories.items()},
        )

    def join(self, parts: Sequence[Outcomes], selection: Selection) -> Outcomes:
        """The outcomes of the whole run, whose arrays stay on the disk: in the file that :meth:`finish` leaves there.

        Args:
            parts: of consecutive prompts, all of them. selection: what was selected.
        """
        whole = Outcomes.unread(parts).split(selection)
        path = self._unfinished / OUTCOMES
        write_arrays(path, whole.arrays(), {"outcomes": canonical(_labels(whole))})
        return replace(whole, **_placed(Mapped(path).whole(), whole))

    def finish(self, files: Mapping[str, Any], found: RunRecord) -> None:
        """Write everything that was computed, the record last; :meth:`settle` does the rest."""
        for name, content in files.items():
            (write_jsonl if name.endswith(".jsonl") else write_json)(self.path / name, content)
        with writing(self.path / OUTCOMES):
            os.replace(self._unfinished / OUTCOMES, self.path / OUTCOMES)
        write_json(self.result, found.to_dict())

    def load_outcomes(self) -> Outcomes:
        """The outcomes of a finished run, read back.

        Raises:
            HarnessError: a file is missing or damaged, or the run is older than this way of keeping outcomes.
        """
        path = self.path / OUTCOMES
        if not path.is_file():
            raise HarnessError(f"{path}: {not_there(path)}.")
        arrays, labels = Mapped(path).whole(), _read_labels(path)
        samples, scores = self.path / "samples.jsonl", self.path / "neurons.jsonl"
        if labels.answers:
            answered = read_rows(samples, beside.Answered)
            answers = tuple(tuple(row.answer for row in answered[i::2]) for i in (0, 1))
            rows: Sequence[beside.Sample] = answered
        else:
            answers, rows = (), read_rows(samples, beside.Sample)
        observed = {name for name, array in arrays.items() if array.ndim == 2}
        shape = (len(labels.conditions), len(rows) // 2)
        try:
            selection = _read_selection(read_record(self.result).selection, read_rows(scores, beside.Candidate))
        except HarnessError as error:  # a unit's name knows no file
            raise HarnessError(f"{self.path}: {error}") from error
        missing = [name for name in labels.series if f"series {name}" not in arrays]
        if missing or any(arrays[x].shape != shape for x in observed if not x.startswith(("alone ", "series "))):
            raise HarnessError(f"{path}: its arrays are not those of {samples}; one of the files is damaged.")
        return Outcomes(
            conditions=_read_conditions(labels.conditions),
            prompts=tuple(_prompt_of(row, observed) for row in rows[::2]),
            values={name: x for name, x in arrays.items() if not name.startswith(("alone ", "series "))},
            answers=answers,
            categories={name: tuple(names) for name, names in labels.categories.items()},
            details=labels.details,
            series={x: Series(tuple(names), arrays[f"series {x}"]) for x, names in labels.series.items()},
            alone=Alone(
                tuple(labels.alone),
                {name.removeprefix("alone "): x for name, x in arrays.items() if name.startswith("alone ")},
            ),
            selection=selection,
        )


def _read_selection(found: record.Selection, rows: Sequence[beside.Candidate]) -> Selection:
    """A selection, from the record and the rows of ``neurons.jsonl``."""
    parse: Callable[[str], Unit] = kind_named(found.unit).parse
    names = rows[0].score_names if rows else []
    return Selection(
        units=tuple(parse(unit.neuron) for unit in found.neurons),
        rule=found.rule,
        candidates=tuple(parse(row.neuron) for row in rows),
        scores={name: np.array([row.columns[name] for row in rows], float) for name in names},
        details=found.details,
        pool=None if found.pool is None else tuple(map(parse, found.pool)),
        special=found.special,
    )


def _read_conditions(names: Sequence[str]) -> tuple[Condition, ...]:
    """The conditions of a finished run without their edits; of their roles, files have the order alone."""
    baseline, treated, *controls = names
    return (
        Condition(baseline, role="baseline"),
        Condition(treated, role="treated"),
        *(Condition(name, role="control") for name in controls),
    )


def _labels(outcomes: Outcomes) -> dict[str, Any]:
    """What the places of the arrays mean."""
    return {
        "conditions": [condition.name for condition in outcomes.conditions],
        "answers": bool(outcomes.answers),
        "categories": outcomes.categories,
        "details": outcomes.details,
        "series": {name: series.rows for name, series in outcomes.series.items()},
        "alone": outcomes.alone.units,
    }


def _prompt_of(row: beside.Sample, observed: Iterable[str]) -> Prompt:
    """The prompt of a row of ``samples.jsonl``; what was observed of it is none of its fields."""
    fields = {key: value for key, value in row.columns.items() if key not in {"answer", *observed}}
    return Prompt(row.prompt_id, row.prompt, tuple(row.input_ids), row.cluster, fields)


def _placed(arrays: Mapping[str, np.ndarray], outcomes: Outcomes) -> dict[str, Any]:
    """Arrays of a file, :meth:`Outcomes.arrays`, as the fields that they are from."""
    return {
        "values": {name: arrays[name] for name in outcomes.values},
        "alone": replace(outcomes.alone, values={name: arrays[f"alone {name}"] for name in outcomes.alone.values}),
        "series": {name: Series(x.rows, arrays[f"series {name}"]) for name, x in outcomes.series.items()},
    }


def _read_labels(path: Path) -> beside.Labels:
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        labels = (file.metadata() or {}).get("outcomes")
    if labels is None:
        raise HarnessError(f"{path}: it does not say what its arrays are; make the run again with --fresh.")
    return beside.Labels.read(jsontext.parse(labels, str(path)), f"{path}: what its arrays are")


def _category(names: Sequence[str], code: int) -> str | None:
    """The name of a category; -1 is none of them."""
    return names[code] if code >= 0 else None


def sample_rows(outcomes: Outcomes) -> Iterator[dict[str, Any]]:
    """One row a prompt and condition, for the baseline and the treated condition.

    The controls' outcomes are in ``outcomes.safetensors`` only: as text they would be a hundred times as large.
    """
    shown = [(row, condition.name) for row, condition in enumerate(outcomes.conditions) if condition.shown]
    for i, prompt in enumerate(outcomes.prompts):
        for told, (row, condition) in enumerate(shown):
            yield {
                "prompt_id": prompt.id,
                "condition": condition,
                "prompt": prompt.text,
                "input_ids": list(prompt.tokens),
                "cluster": prompt.cluster,
                **prompt.fields,
                **({"answer": outcomes.answers[told][i]} if outcomes.answers else {}),
                **{
                    name: _category(outcomes.categories[name], int(array[row, i]))
                    if name in outcomes.categories
                    else array[row, i]
                    for name, array in sorted(outcomes.values.items())
                    if array.ndim == 2 and name not in outcomes.found
                },
            }
