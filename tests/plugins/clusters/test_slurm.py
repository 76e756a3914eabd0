"""Jobs through submitit: real processes with its local executor, and a stand-in of SLURM's commands."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import Harness, files
from harness_plugins.clusters import on_slurm, sacct, spool
from small_runs import Silent, spec

from harness.plugin import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.plugin_files import add, read
from harness.running import Job, Lost, Message, Note, Piece, Working, to_bytes
from harness.running.execute import Plan, plan
from harness.running.executors import Executor, executor_of, finished_of, make
from harness.running.messages import Doing

pytest.importorskip("submitit")


def test_what_is_missing_is_said_before_the_work(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "copying", "-o", tmp_path / "out", "--executor", "slurm:partition=gpu,gpus=1,time=60")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = harness(*run)
    assert code == 2 and err.splitlines()[-1].startswith("error: --executor slurm: there is no sbatch here: give the")
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, err = harness(*run)
    sentence = 'error: --executor slurm: submitit is not installed; pip install "neuron-harness[slurm]".'
    assert (code, err.splitlines()[-1]) == (2, sentence)
    assert not list(tmp_path.glob("out/*-*"))


PLUGIN = """
import harness.running.execute
from harness.plugin import Corpus, hookimpl

harness.running.execute.PART = 16
harness.running.execute.write_shown = lambda folder, shown, advance: None


class Nothing(Corpus):
    name = "nothing"

    def documents(self):
        return []

    def data_digest(self):
        return "0"


@hookimpl
def harness_corpora():
    return [Nothing]
"""

SBATCH = """#!/bin/sh
cp "$1" "{folder}/script"
export SLURM_JOB_ID=77 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
export SLURM_JOB_NODELIST=here
sh "$1" > /dev/null 2>&1 &
echo "Submitted batch job 77"
"""

SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
    case "$1" in
        --output | --error) shift 2 ;;
        *) shift ;;
    esac
done
exec "$@"
"""

SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
echo "77|RUNNING|here"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with programs called like SLURM's, which run a job at once; ``script`` is what they were given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": SBATCH.replace("{folder}", str(folder)),
        "srun": SRUN,
        "sacct": SACCT,
        "scancel": "#!/bin/sh\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def planned(small_facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plan]:
    """A run of several parts without figures, here and in jobs, which are sent the plugin's file."""
    monkeypatch.setattr("harness.report.page.write_page", lambda folder: None)
    for name in ("PART", "write_shown"):  # what the file changes of them is undone
        monkeypatch.setattr(f"harness.running.execute.{name}", None)
    (tmp_path / "small_parts.py").write_text(PLUGIN)
    add(read(tmp_path / "small_parts.py"), catalogue())
    yield plan(spec("mine", small_facts, metrics="entropy_change", controls=2, resamples=100), catalogue())
    file = catalogue().files.pop(str(tmp_path / "small_parts.py"))
    catalogue().remove(file.origin)


def watched(happened: Callable[[Message, Path], object]) -> type:
    """Jobs of which ``happened`` sees every message, with the folder of their spools."""

    class Watched(on_slurm.Jobs):  # type: ignore[misc]
        async def run(self, job: Job) -> AsyncGenerator[Message, None]:
            async for message in super().run(job):
                yield message
                happened(message, self.folder)

    return Watched


class Told(Silent):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def tell(self, sentence: str) -> None:
        self.said.append(sentence)


def ended(process: int) -> bool:
    """Whether a process ends within a while: an interrupted job does when it next has something to say. One that nobody
    asks how it ended (a zombie: where process 1 does not) has."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_job_that_dies_is_begun_again_and_an_interrupted_command_continues(
    planned: Plan, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, out, told = executor_of("slurm:cluster=local,poll=0.02"), tmp_path / "out", Told()
    processes: list[int] = []
    sent: list[str] = []

    def happened(message: Any, folder: Path) -> None:
        """The first job is killed when its first part has come; the second is interrupted when the next has."""
        if not (isinstance(message, Piece) and message.path.endswith(".safetensors") and message.last):
            return
        sent.append(message.path[-20:])
        [started] = folder.glob(f"{len(processes):06d}/started.json")
        processes.append(read_pid(started))
        if len(processes) == 2:
            raise KeyboardInterrupt
        os.kill(processes[0], signal.SIGKILL)

    def making(executor: Executor, output: Path = out) -> list[Any]:
        [made] = make(executor, [[planned]], output, "test", False, told)
        return finished_of(made)

    with monkeypatch.context() as patched:
        patched.setattr(on_slurm, "Jobs", watched(happened))
        with pytest.raises(KeyboardInterrupt):
            making(local)
    assert sent == ["00000000.safetensors", "00000016.safetensors"]  # the part that had come was not made again
    assert "continues elsewhere (retry 1 of 3)" in told.said[0] and "its worker was lost (job " in told.said[0]
    assert all(map(ended, processes))
    [kept] = out.glob(".slurm-*")
    assert kept.stat().st_mode & 0o077 == 0 and str(kept) in told.said[-1]

    [there] = making(executor_of("slurm:gpu,poll=0.02,cpus=1,time=90,memory=1.5,options={nice: 5}"))
    script = (slurm / "script").read_text()
    asked = {"partition=gpu", "time=90", "cpus-per-task=1", "mem=1536MB", "nice=5", "no-requeue", "job-name=harness"}
    assert asked <= {line.removeprefix("#SBATCH --") for line in script.splitlines()}
    assert [*out.glob(".slurm-*")] == [kept]  # of what came to its end nothing is left

    [here] = making(executor_of("local"), tmp_path / "here")
    mine, theirs = files(here.path), files(there.path)
    assert mine.keys() == theirs.keys()
    assert all(mine[name] == theirs[name] for name in mine.keys() - {"provenance.json"})
    rows = [(folder / "leaderboard.jsonl").read_text().count("\n") for folder in (out, tmp_path / "here")]
    assert rows[0] == rows[1]


def read_pid(started: Path) -> int:
    import json

    return int(json.loads(started.read_text())["pid"])


def test_a_job_that_is_not_taken_is_a_sentence(planned: Plan, slurm: Path, tmp_path: Path) -> None:
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'invalid partition specified: gup' >&2\nexit 1\n")
    told = make(executor_of("slurm:partition=gup"), [[planned]], tmp_path / "out", "test", False, Silent())
    [[refused]] = told
    assert str(refused.error) == "--executor slurm: the job was not taken: invalid partition specified: gup."  # type: ignore[union-attr]
    with pytest.raises(HarnessError, match="whole GPUs"):
        list(make(executor_of("slurm:gpus=0.5"), [[planned]], tmp_path / "out", "test", False, Silent()))


# -- jobs of which nothing is heard: the test plays the job, and nobody starts one ------------------------------------


@pytest.fixture
def unstarted(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cluster takes jobs; ``said`` is what it says of their states, ``cancelled`` holds those that were."""
    (slurm / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 77\n")
    (slurm / "sacct").write_text(f"#!/bin/sh\ncat {slurm}/said\n")
    (slurm / "scancel").write_text(f"#!/bin/sh\necho $1 >> {slurm}/cancelled\n")
    monkeypatch.setattr(on_slurm, "SILENT", 1e-9)  # a job that shows nothing new at the next look is silent
    monkeypatch.setitem(on_slurm.GRACE, "slurm", 0.0)
    monkeypatch.setattr(sacct, "EVERY", 0.0)
    return slurm


def followed(folder: Path, play: Callable[[Path, int, str | None], None], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages of a job, and how it was lost. ``play`` is called before each look at it: with its folder, how many
    looks there were, and its state as far as it is known."""
    jobs = on_slurm.Jobs(executor_of("slurm:poll=0.001"), folder)
    looks = 0

    class Looking(spool.Spool):  # type: ignore[misc]
        def look(self) -> Any:
            nonlocal looks
            play(self.path, looks, jobs._accounts._said.get("77", (0.0, None))[1])
            looks += 1
            return super().look()

    async def messages() -> list[Any]:
        found: list[Any] = []
        try:
            async for message in jobs.run(Job("{}", {}, 1, 0, "a")):
                found.append(message)
        except Lost as lost:
            found.append(str(lost))
        return found

    monkeypatch.setattr(on_slurm, "Spool", Looking)
    return asyncio.run(asyncio.wait_for(messages(), 60))


@pytest.mark.parametrize("sign", [spool.BEAT, "submitit/77_0_log.out"])
def test_a_job_that_has_begun_and_is_silent_is_lost_where_slurm_says_nothing(
    sign: str, unstarted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as long as it waits, nor as long as it shows that it is there, whatever the time on its machine."""
    (unstarted / "sacct").write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(sacct, "ANSWER", 0.01)
    seen: list[int] = []

    def play(place: Path, looks: int, state: str | None) -> None:
        seen.append(looks)
        if 10 <= looks < 20:
            (place / sign).touch()
            os.utime(place / sign, ns=(10**12 - looks, 10**12 - looks))

    assert followed(tmp_path, play, monkeypatch) == [
        "job 77: it has shown no sign of life for 0 min, and SLURM says nothing of it"
    ]
    assert seen[-1] == 20
    assert not (tmp_path / "000000" / spool.ALIVE).exists() and (unstarted / "cancelled").read_text() == "77\n"


def test_a_silent_job_that_slurm_knows_is_waited_for_until_it_has_ended(
    unstarted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be suspended for a day, or hang with its file system."""
    said = iter(["RUNNING", "SUSPENDED", "RUNNING", "NODE_FAIL"])
    now, since = next(said), 0

    def play(place: Path, looks: int, state: str | None) -> None:
        nonlocal now, since
        (unstarted / "said").write_text(f"77|{now}\n")
        if state == now:
            (place / spool.BEAT).touch()
            os.utime(place / spool.BEAT, (0, 0))
            since += 1
        if since == 5:
            now, since = next(said), 0

    assert followed(tmp_path, play, monkeypatch) == ["job 77: node_fail"]
    assert next(said, None) is None


def test_messages_of_a_job_that_slurm_says_nothing_of_are_taken(
    unstarted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(place: Path, looks: int, state: str | None) -> None:
        if looks == 2:
            (place / "1.message").write_bytes(to_bytes(Note("here")))
        if looks == 4:
            (place / spool.END).touch()

    assert followed(tmp_path, play, monkeypatch) == [Note("here")]
    assert not (unstarted / "cancelled").exists() and not (tmp_path / "000000").exists()


def test_a_job_shows_that_it_is_there_while_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = spool.Spool(tmp_path / "job", Job("{}", {}, 1, 0, "a"))

    def work(order: str, kept: object, node: str) -> Iterator[Message]:
        signs, until = {place.sign()}, time.monotonic() + 60
        while len(signs) < 3 and time.monotonic() < until:
            time.sleep(0.005)
            signs.add(place.sign())
        assert len(signs) == 3 and None not in signs
        yield Note("computed")

    monkeypatch.setattr(spool, "work", work)
    monkeypatch.setattr(spool, "BEATING", 0.01)
    assert place.sign() is None
    spool.serve(str(place.path))
    [message], last = place.look()
    assert (place.take(message), last) == (Note("computed"), True)


def test_no_work_waits_until_it_is_read_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a job does the newest is kept, and taken after what was sent before."""
    doing = [Working(("a-1",), "here", (Doing(0, "prompts", 9, done, 1.5),)) for done in range(9)]
    monkeypatch.setattr(spool, "work", lambda order, kept, node: iter([doing[0], Note("a"), *doing[1:], Note("b")]))
    place = spool.Spool(tmp_path / "job", Job("{}", {}, 1, 0, "a"))
    spool.serve(str(place.path))
    assert [place.take(path) for path in place.look()[0]] == [Note("a"), Note("b"), doing[-1]]
    assert place.look() == ([], True)


def test_a_state_is_the_first_word_of_what_is_said() -> None:
    assert sacct.states("JobID|State\n77|CANCELLED by 1000\n78|\n79|PENDING|here\nnothing\n") == {
        "JobID": "STATE",
        "77": "CANCELLED",
        "79": "PENDING",
    }
