"""MLflow: a run of the harness is a run of an experiment, which its tag ``harness.run_id`` names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from harness.files.store import check_writable
from harness.files.terminal import say
from harness.plugin import Asked, BegunRun, FinishedRun, HarnessError, Work
from harness.results.folder import RECORD

from . import content
from .content import Pace, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "harness.run_id"
LONGEST = 5000
"""Characters of a parameter or a tag; servers refuse more than 6,000, and 5,000 of a tag."""

SQLITE = "sqlite:///"
"""What stands before the file of an SQLite store."""

PASSWORD = re.compile(r"(//[^/@\s:]*:)[^@\s]+@")
"""Of an address: ``postgresql://name:password@host/...``."""


class Mlflow(Tracker):
    """MLflow: settings, progress, measures with intervals and verdicts, figures, tables and the record as artifacts.

    It needs the extra ``neuron-harness[mlflow]``. A run that was sent before is sent no second time.
    """

    name = "mlflow"
    positional = "experiment"
    does = "sending the run to MLflow"
    experiment: str = Field("harness", min_length=1, max_length=500, description="name of the experiment")
    uri: str | None = Field(
        None, description="tracking server or store: http://..., sqlite:///mlflow.db; default: MLFLOW_TRACKING_URI"
    )
    _client: Any = PrivateAttr(None)
    _open: dict[str, str] = PrivateAttr(default_factory=dict)
    _pace: Pace = PrivateAttr(default_factory=Pace)
    _sent: list[str] = PrivateAttr(default_factory=list)

    def ready(self, asked: Asked) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise HarnessError('--report mlflow: MLflow is not installed; pip install "neuron-harness[mlflow]".') from (
                error
            )
        if self.uri and PASSWORD.search(self.uri):
            raise HarnessError(
                "--report mlflow: uri holds a password, which every run would keep with its command; set "
                "MLFLOW_TRACKING_URI in its place."
            )
        if self.uri and self.uri.startswith(SQLITE):  # MLflow would try for minutes
            check_writable(Path(self.uri.removeprefix(SQLITE)).parent)
        uri = PASSWORD.sub(r"\1...@", self.uri or mlflow.get_tracking_uri())
        try:
            with _soon():
                found = self.client.get_experiment_by_name(self.experiment)
        except Exception as error:  # of the store, the network, the database
            said = PASSWORD.sub(r"\1...@", " ".join(str(error).split()))[:300].rstrip(".")
            raise HarnessError(f"--report mlflow: the store {uri} cannot be used: {said}.") from error
        if found is not None and found.lifecycle_stage != "active":
            raise HarnessError(
                f'--report mlflow: the experiment "{self.experiment}" was deleted there; restore it, or name another.'
            )

    @property
    def client(self) -> MlflowClient:
        """Of the store."""
        if self._client is None:
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri)
        client: MlflowClient = self._client
        return client

    def begun(self, run: BegunRun) -> None:
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = self.client.create_experiment(self.experiment) if found is None else found.experiment_id
        before = self.client.search_runs([experiment], f"tags.`{TAG}` = '{run.run_id}'", max_results=1)
        if before and before[0].info.status == "FINISHED":
            return
        if before:
            there = before[0].info.run_id
            self.client.update_run(there, status="RUNNING")
        else:
            tags = {f"harness.{kind}": name for kind, name in content.names(run).items()}
            tags |= {TAG: run.run_id, **dict.fromkeys(self.tags, "true")}
            tags |= {"mlflow.note.content": run.asked.description} if run.asked.description else {}
            there = self.client.create_run(experiment, tags=tags, run_name=run.folder.name).info.run_id
            for key, value in content.flat(content.settings(run)):
                self.client.log_param(there, key, _text(value))
        self._open[run.run_id] = there

    def work_advances(self, work: Work, steps: int) -> None:
        if (share := self._pace.advance(work, steps)) is not None:
            for run in work.runs:
                if there := self._open.get(run.run_id):
                    self.client.log_metric(there, "progress", share)

    def work_ends(self, work: Work, done: bool) -> None:
        self._pace.end(work)

    def finished(self, run: FinishedRun) -> None:
        if run.run_id not in self._open:  # it failed to hear of its beginning, or has it already
            self.begun(run)
        there = self._open.pop(run.run_id, None)
        if there is None:
            return
        for name, value in content.numbers(run.record).items():
            self.client.log_metric(there, name, value)
        for name, verdict in content.verdicts(run.record).items():
            self.client.set_tag(there, f"verdict.{name}", verdict)
        rows = [[row[column] for column in content.COLUMNS] for row in content.measures(run.record)]
        self.client.log_dict(there, {"columns": list(content.COLUMNS), "data": rows}, "measures.json")
        for _, _, path in content.pictures(run):
            self.client.log_artifact(there, str(path), "figures")
        for path in content.files(run, self.files):
            self.client.log_artifact(
                there, str(run.folder / path), None if path.parent.name == "" else str(path.parent)
            )
        self.client.set_terminated(there)
        artifacts = PASSWORD.sub(r"\1...@", self.client.get_run(there).info.artifact_uri)
        self._sent.append(
            f'told MLflow of {run.folder.name}, in experiment "{self.experiment}", its files in {artifacts}'
        )

    def ended(self, folders: Sequence[Path]) -> None:
        for sentence in self._sent:
            say(sentence, err=True)

    def failed(self, run: BegunRun, why: str) -> None:
        if there := self._open.pop(run.run_id, None):
            self.client.set_tag(there, "harness.error", _text(why))
            self.client.set_terminated(there, status="FAILED")


def _text(value: Any) -> str:
    """A value as a parameter: text as it is, everything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... (all of it is in {RECORD})"


@contextmanager
def _soon() -> Iterator[None]:
    """Within the block, a server that does not answer is given up after seconds, unless the user says otherwise."""
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES as RETRIES

    mine = not RETRIES.is_set()
    if mine:
        RETRIES.set(1)
    try:
        yield
    finally:
        if mine:
            RETRIES.unset()
