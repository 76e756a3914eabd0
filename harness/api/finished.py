"""A finished run to look at, and all runs of a folder."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import frames
from harness.errors import HarnessError, mendable, suggest
from harness.files import harmless
from harness.files.paths import expand
from harness.files.terminal import Terminal
from harness.files.wording import counted
from harness.results.folder import PAGE, read_provenance, read_record
from harness.results.record import RunRecord
from harness.running.request import reports_folder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. Everything is read from its folder when it is first asked for.

    In a notebook it shows its verdicts, tables and measures; :meth:`show` prints the report.

    Attributes:
        path: its folder.
    """

    path: Path

    @cached_property
    def record(self) -> RunRecord:
        """``result.json``: ``record.identity.model.id``, ``record.selection.neurons`` ..."""
        with mendable():
            return read_record(self.path)

    @cached_property
    def measures(self) -> pd.DataFrame:
        """A row a measure: the baseline's and the treated value, interval, controls, p-values, verdict."""
        return frames.measures(self.record)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Two rows a prompt, baseline and treated: its text, fields, answer and whatever was observed of it."""
        return frames.samples(self.path)

    @cached_property
    def neurons(self) -> pd.DataFrame:
        """A row a candidate (neuron, head or direction): where it is, whether it was selected, its scores."""
        return frames.neurons(self.path)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """A row a control set: its units, and every measure under it, as ``metric.measure``."""
        return frames.controls(self.path)

    @cached_property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The tables of ``tables/`` by name, each read when it is asked for."""
        return frames.Tables(self.path, self.record.frames)

    @property
    def figures(self) -> tuple[str, ...]:
        """Names that :meth:`figure` takes."""
        return tuple(figure.name for figure in self.record.figures)

    def figure(self, name: str) -> Figure:
        """A figure for matplotlib, with axes to change and data to read.

        It is drawn again from what the run has observed, if that gives the data that lie beside its picture; else it
        shows the picture: of figures of activation statistics, which runs do not keep, and of components that are not
        installed as they were.

        Raises:
            HarnessError: there is none of this name; suggests the nearest.
        """
        from harness.api.drawing import draw

        if name not in self.figures:
            known = ", ".join(self.figures) or "none"
            raise HarnessError(f'{self.path}: no figure "{name}".{suggest(name, self.figures)} There are: {known}.')
        with mendable():
            return draw(self.path, self.record, name)

    @property
    def command(self) -> str:
        """What to type to make it again; of a component of :func:`harness.register`, after that is called."""
        with mendable():
            return read_provenance(self.path).command

    def open(self) -> None:
        """Show its page in the browser.

        Raises:
            HarnessError: it is not there any more.
        """
        page = (self.path / PAGE).resolve()
        if not page.is_file():
            raise HarnessError(f'{page}: there is no page; "harness report {self.path}" writes it.')
        webbrowser.open(page.as_uri())

    def show(self) -> None:
        """Print the report of ``harness report``."""
        from harness.report.console import show

        show(Terminal(), self.record, self.path)

    def __repr__(self) -> str:
        primary = self.record.primary
        more = sum(measure.verdict == "more than random" for measure in primary)
        told = f"{counted(len(primary), 'primary measure')}, {more} more than random"
        return f"<harness run {harmless.line(str(self.path))}: {told}>"

    def _repr_html_(self) -> str:
        from harness.report.summary import html

        return html(self.record, self.path)


def load_run(path: str | Path) -> Run:
    """A finished run, from its folder or its ``result.json``.

    Raises:
        HarnessError: none is there, it is not finished, it is of another version, or it is damaged.
    """
    found = expand(path)
    with mendable():
        read_record(found)
    return Run(found if found.is_dir() else found.parent)


def runs(folder: str | Path | None = None, *, primary: bool = True, history: bool = False) -> pd.DataFrame:
    """The leaderboard of a folder, a row a run and measure, the newest run first.

    Args:
        folder: reports, or a ``leaderboard.jsonl``; None: where runs are left when nobody says where.
        primary: primary measures only. history: also the rows that newer ones of the same setting replace.

    Returns:
        the columns of ``harness leaderboard --columns all``, each of one type whatever is in it.

    Raises:
        HarnessError: there is no leaderboard, or it is damaged.
    """
    from harness.results.leaderboard import read
    from harness.results.leaderboard_query import Query, query_rows

    path = reports_folder() if folder is None else expand(folder)
    with mendable():
        found = query_rows(
            read(path / "leaderboard.jsonl" if path.is_dir() else path), Query(primary=primary, history=history)
        )
    return frames.leaderboard(found.rows)
