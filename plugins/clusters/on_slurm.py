"""Runs as jobs of a SLURM cluster."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import math
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.plugin import Executor, HarnessError, RunGroups
from harness.running import Cpus, Gpus, Job, Lost, Message

from .sacct import ENDED, Accounts
from .spool import Spool, serve

if TYPE_CHECKING:
    from harness.running.executors import Made

GRACE = {"slurm": 60.0, "local": 0.0}
"""Seconds for the last files of a job that has ended to be seen: network file systems remember what folders held."""

SILENT = 900.0
"""Seconds after which a job is lost that has begun, shows no sign of life, and of which SLURM says nothing."""

OVER = {"FINISHED", "INTERRUPTED", *ENDED}
"""States of jobs that have ended: submitit's, and SLURM's."""

ENDING = 20.0
"""Seconds that are waited for a process of this machine to end."""


class OnSlurm(Executor):
    """As jobs of a SLURM cluster, one for each group of runs, through submitit (extra ``slurm``).

    The command is given on a login node and waits for its jobs, whose results it puts in place. The folder of results
    must be on a file system that the command and its jobs share, as must be what runs read.
    """

    name = "slurm"
    positional = "partition"
    partition: str | None = Field(None, description="where jobs are queued; default: the cluster's default")
    time: int = Field(60, ge=1, le=525_600, description="minutes of a job; what is finished by then is kept")
    cpus: Cpus = None
    gpus: Gpus = None
    memory: float | None = Field(None, gt=0, le=1e6, description="GB of memory of a job")
    account: str | None = Field(None, description="who is charged")
    qos: str | None = Field(None, description="quality of service")
    constraint: str | None = Field(None, description="features that a node must have")
    options: dict[str, str | int | bool] = Field({}, description="further ones of sbatch: {exclude: node7, nice: 100}")
    setup: list[str] = Field([], description="lines of shell before Python: [module load cuda]")
    jobs: int | None = Field(None, ge=1, description="at once; default: all of them, with cluster=local one")
    workers: int = Field(1, ge=1, le=10_000, description="among how many jobs the prompts of each run are divided")
    max_retries: int = Field(3, ge=0, description="tries in vain after a job was lost")
    cluster: Literal["slurm", "local"] = Field("slurm", description="local: processes of this machine, to try it")
    poll: float = Field(2.0, gt=0, le=600, description="seconds between looks at the jobs")

    def ready(self) -> None:
        if find_spec("submitit") is None:
            raise HarnessError('--executor slurm: submitit is not installed; pip install "neuron-harness[slurm]".')
        missing = [program for program in ("sbatch", "srun", "sacct", "scancel") if shutil.which(program) is None]
        if self.cluster == "slurm" and missing:
            raise HarnessError(
                f"--executor slurm: there is no {missing[0]} here: give the command on a login node of the cluster, or "
                "try it with slurm:cluster=local."
            )

    def execute(self, work: RunGroups) -> Iterator[list[Made]]:
        if any(gpus != int(gpus) for _, gpus in work.needs(self.cpus, self.gpus)):
            raise HarnessError("--executor slurm: a job is given whole GPUs; see gpus.")
        if "%" in str(work.output.absolute()):
            raise HarnessError(f"{work.output}: SLURM takes % in the name of a folder for something else.")
        folder = Path(tempfile.mkdtemp(prefix=".slurm-", dir=work.output.absolute()))  # for this user alone
        jobs = Jobs(self, folder)
        try:
            yield from work.on(jobs, self.max_retries, self.cpus, self.gpus, self.workers)
        finally:
            if jobs.lost:
                work.tell(f"what was written by jobs that were lost is in {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)


class Jobs:
    """Workers that are jobs.

    Attributes:
        lost: folders of jobs that came to no end.
    """

    def __init__(self, asked: OnSlurm, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.lost: list[Path] = []
        self._numbers = itertools.count()
        self._accounts = Accounts()
        at_once = asked.jobs or (1 if asked.cluster == "local" else None)
        self._room: Any = asyncio.Semaphore(at_once) if at_once else contextlib.nullcontext()

    async def run(self, job: Job) -> AsyncGenerator[Message, None]:
        """See :class:`harness.running.Workers`."""
        async with self._room:
            spool = Spool(self.folder / f"{next(self._numbers):06d}", job)
            submitted = self._submit(job, spool)
            last, pulse = False, Pulse()
            try:
                gone: float | None = None
                while not last:
                    state = self._state(submitted)
                    gone = (gone or time.monotonic()) if state in OVER else None
                    messages, last = spool.look()
                    for path in messages:
                        yield spool.take(path)
                    if not last and (why := self._lost(submitted, state, gone, pulse.silent(_sign(spool, submitted)))):
                        self.lost.append(spool.path)
                        raise Lost(f"job {submitted.job_id}: {why}")
                    if not last:
                        await asyncio.sleep(self.asked.poll)
            finally:
                self._end(submitted, spool, last)

    def _state(self, submitted: Any) -> str | None:
        """In SLURM's words, or submitit's of a process of this machine; None where nothing is known."""
        if self.asked.cluster == "local":
            return str(submitted.state).upper()
        if submitted.paths.result_pickle.exists():
            return "FINISHED"
        return self._accounts.state(submitted.job_id)

    def _lost(self, submitted: Any, state: str | None, gone: float | None, silent: float) -> str:
        """Why a job is lost, with the last line that it wrote to stderr; nothing if it is not."""
        if gone is not None and time.monotonic() - gone >= GRACE[self.asked.cluster]:
            how = str(state).lower()
        elif state is None and silent >= SILENT:
            how = f"it has shown no sign of life for {silent / 60:.0f} min, and SLURM says nothing of it"
        else:
            return ""
        lines = (submitted.stderr() or "").strip().splitlines()
        return how + (f", {lines[-1].strip()[:200]}" if lines else "")

    def _submit(self, job: Job, spool: Spool) -> Any:
        """Queue a job.

        Raises:
            HarnessError: the cluster does not take it; in its words.
        """
        import submitit

        folder, cpus, gpus = spool.path / "submitit", math.ceil(job.cpus), int(job.gpus)
        try:
            executor: Any
            if self.asked.cluster == "local":
                executor = submitit.LocalExecutor(folder)
                executor.update_parameters(timeout_min=self.asked.time, gpus_per_node=gpus)
            else:
                executor = submitit.SlurmExecutor(folder, max_num_timeout=0)
                executor.update_parameters(**self._of_sbatch(cpus, gpus))
            with _threads(cpus), contextlib.redirect_stderr(io.StringIO()):
                return executor.submit(serve, str(spool.path))
        except (submitit.core.utils.FailedJobError, RuntimeError, OSError) as error:
            said = " ".join(str(error).split())[:300]
            raise HarnessError(f"--executor slurm: the job was not taken: {said.rstrip('.')}.") from error

    def _of_sbatch(self, cpus: int, gpus: int) -> dict[str, Any]:
        """Of sbatch, as submitit calls them."""
        asked = self.asked
        more = {"no-requeue": True, **asked.options}  # ours know what is finished
        found = {"job_name": "harness", "time": asked.time, "cpus_per_task": cpus, "additional_parameters": more}
        found |= {"gpus_per_node": gpus} if gpus else {}
        found |= {"mem": f"{math.ceil(asked.memory * 1024)}MB"} if asked.memory else {}
        found |= {"setup": asked.setup} if asked.setup else {}
        named = {name: getattr(asked, name) for name in ("partition", "account", "qos", "constraint")}
        return found | {name: value for name, value in named.items() if value is not None}

    def _end(self, submitted: Any, spool: Spool, last: bool) -> None:
        """Cancel a job that has not come to its end; forget one that has."""
        self._accounts.forget(submitted.job_id)
        if not last:
            spool.give_up()
            with contextlib.suppress(OSError):
                submitted.cancel(check=False)
        if self.asked.cluster == "local":
            until = time.monotonic() + ENDING
            while not submitted.done() and time.monotonic() < until:
                time.sleep(0.02)
        if last:
            shutil.rmtree(spool.path, ignore_errors=True)


@contextlib.contextmanager
def _threads(cpus: int) -> Iterator[None]:
    """Within the block, what is started has as many threads as CPUs, as on a node of Ray."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(cpus)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


class Pulse:
    """For how long a job has shown no sign of life, by this process's clock alone."""

    def __init__(self) -> None:
        self._sign: int | None = None
        self._since = 0.0

    def silent(self, sign: int | None) -> float:
        """Seconds since the sign was another one; 0 before there is any: who waits in the queue is not silent."""
        now = time.monotonic()
        if sign is None or sign != self._sign:
            self._sign, self._since = sign, now
        return now - self._since


def _sign(spool: Spool, submitted: Any) -> int | None:
    """The job's sign of life, or before its first one the log that SLURM begins with it."""
    sign = spool.sign()
    if sign is None:
        with contextlib.suppress(OSError):
            sign = submitted.paths.stdout.stat().st_mtime_ns
    return sign
