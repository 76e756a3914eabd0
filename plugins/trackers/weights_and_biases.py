"""Weights & Biases: a run of the harness is a run there, with the same id wherever it is made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from harness.files.store import check_writable
from harness.files.terminal import say
from harness.plugin import Asked, BegunRun, FinishedRun, HarnessError, Work

from . import content
from .content import Pace, Tracker

SENT = "harness_sent"
"""Name in a run's summary that says that all of it is there."""

ID = 32
"""Characters of a run's digest that are its id there."""


class Wandb(Tracker):
    """Weights & Biases: settings, progress, measures with intervals and verdicts, figures, the record as an artifact.

    It needs the extra ``neuron-harness[wandb]``, and online an account (``wandb login``, or ``WANDB_API_KEY``). With
    ``mode=offline`` runs are written to a folder, from which ``wandb sync`` sends them. Nothing of the machine is sent
    beside what the run's provenance says.
    """

    name = "wandb"
    positional = "project"
    does = "sending the run to Weights & Biases"
    project: str = Field("harness", pattern=r"^[^/\\#?%:]{1,128}$", description="name of the project")
    entity: str | None = Field(None, description="user or team; default: yours")
    group: str | None = Field(None, description="what runs that belong together are grouped by")
    mode: Literal["online", "offline"] | None = Field(None, description="default: as WANDB_MODE says, else online")
    folder: Path | None = Field(None, description="where it keeps its files; default: ./wandb")
    _open: dict[str, Any] = PrivateAttr(default_factory=dict)
    _pace: Pace = PrivateAttr(default_factory=Pace)
    _sent: list[str] = PrivateAttr(default_factory=list)

    def ready(self, asked: Asked) -> None:
        try:
            import wandb
        except ImportError as error:
            raise HarnessError(
                '--report wandb: Weights & Biases is not installed; pip install "neuron-harness[wandb]".'
            ) from error
        if self.folder is not None:  # W&B would write somewhere else
            check_writable(self.folder.expanduser())
        mode = self.mode or wandb.setup().settings.mode
        if mode != "online":
            return
        try:
            there = wandb.login(prompt=False, verify=True)
        except (wandb.errors.Error, OSError) as error:
            raise HarnessError(f"--report wandb: the server does not let you in: {error}") from error
        if not there:
            raise HarnessError(
                "--report wandb: no key is known here; run `wandb login`, set WANDB_API_KEY, or pass mode=offline."
            )

    def begun(self, run: BegunRun) -> None:
        import wandb

        folder = None if self.folder is None else str(self.folder.expanduser())
        self._open[run.run_id] = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            id=run.run_id[:ID],
            name=run.folder.name,
            notes=run.asked.description or None,
            tags=[tag[:64] for tag in content.words(run, self.tags)],  # longer ones are refused
            config=content.settings(run),
            mode=self.mode,
            dir=folder,
            resume="allow",
            reinit="create_new",  # runs on the same prompts are made together
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )

    def work_advances(self, work: Work, steps: int) -> None:
        if (share := self._pace.advance(work, steps)) is not None:
            for run in work.runs:
                if run.run_id in self._open:
                    self._open[run.run_id].log({"progress": share})

    def work_ends(self, work: Work, done: bool) -> None:
        self._pace.end(work)

    def finished(self, run: FinishedRun) -> None:
        import wandb

        there = self._open.pop(run.run_id, None)
        if there is None:
            self.begun(run)
            there = self._open.pop(run.run_id)
        if there.resumed and there.summary.get(SENT):  # told again, of a run that an earlier command has sent
            there.finish()
            return
        rows = [[row[column] for column in content.COLUMNS] for row in content.measures(run.record)]
        shown = {
            f"figures/{name}": wandb.Image(str(path), caption=title) for name, title, path in content.pictures(run)
        }
        there.log({"measures": wandb.Table(columns=list(content.COLUMNS), data=rows), **shown})
        for name, value in content.numbers(run.record).items():
            there.summary[name] = value
        for name, verdict in content.verdicts(run.record).items():
            there.summary[f"{name}.verdict"] = verdict
        if paths := content.files(run, self.files):
            record = wandb.Artifact(f"run-{run.run_id[:ID]}", "harness-run", metadata=content.settings(run))
            for path in paths:
                record.add_file(str(run.folder / path), path.as_posix(), policy="immutable")
            there.log_artifact(record)
        there.summary[SENT] = True
        there.finish()
        if there.offline:
            self._sent.append(f"kept for Weights & Biases, until it is sent: wandb sync {shlex.quote(there.sync_dir)}")
        else:
            self._sent.append(f"told Weights & Biases of {run.folder.name}: {there.url}")

    def ended(self, folders: Sequence[Path]) -> None:
        for sentence in self._sent:
            say(sentence, err=True)

    def failed(self, run: BegunRun, why: str) -> None:
        there = self._open.pop(run.run_id, None)
        if there is not None:
            there.summary["error"] = why
            there.finish(exit_code=1)
