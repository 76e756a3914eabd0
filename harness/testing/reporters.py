"""A check of what a reporter promises."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.files.digests import files_digest
from harness.plugin.catalogue import catalogue
from harness.plugin.reporters import Asked, BegunRun, FinishedRun, Reporter, Work
from harness.plugin.specs import ComponentSpec
from harness.results.folder import read_provenance, read_record
from harness.running.execute import Plan, execute, plan
from harness.running.spec import RunSpec
from harness.running.telling import Telling, asked_of
from harness.testing.common import made, promise, running

EVENTS = ("begun", "work_begins", "work_advances", "work_ends", "noted", "finished", "failed", "ended")
STRANGE = "a [bold]note[/bold] with\nlines, \x1b[31mcolours\x1b[0m, \u202e and 100% {braces}"


@functools.cache
def demo_plan() -> Plan:
    """A run of some facts on the bundled model: seconds."""
    spec = RunSpec(
        name="demo",
        description="A run to be told of.",
        task=ComponentSpec("knowledge_conflict", {}),
        selector=ComponentSpec("neurons", {"neurons": ["3.0", "3.1"]}),
        intervention=ComponentSpec("mean", {}),
        metrics=(ComponentSpec("entropy_change", {}), ComponentSpec("transitions", {})),
        controls=19,
        limit=40,
        resamples=100,
    )
    return plan(spec, catalogue())


@functools.cache
def demo_run() -> Path:
    """The folder of :func:`demo_plan`'s run, finished, without a page; it is made once in a process, for reading."""
    folder = Path(tempfile.mkdtemp(prefix="harness-demo-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return execute(demo_plan(), folder, Telling(), "harness eval --name demo").path


def check_reporter(cls: type[Reporter], /, **params: Any) -> Reporter:
    """Check what a reporter promises: it can be told everything, in any words, of a run that is made, of one that fails
    and of one that was finished before; and it leaves what is in a run's folder as it is.

    Args:
        params: the reporter's parameters. It is told of a small finished run on the bundled model, in a folder of its
            own that is removed afterwards.

    Returns:
        the reporter, which was told.

    Raises:
        AssertionError: names the promise that was broken.
    """
    reporter, owner = made(cls, "reporter", params), f"reporter {getattr(cls, 'name', '')}"
    deaf = all(getattr(cls, event) is getattr(Reporter, event) for event in EVENTS)
    promise(not deaf, owner, "it does nothing when it is told; override finished(), for example")
    promise(cls.does is None or isinstance(cls.does, str), owner, "does is no text; say what it does, or None")

    def tell(event: str, *given: Any) -> None:
        running(owner, f"{event}()", lambda: getattr(reporter, event)(*given))

    with tempfile.TemporaryDirectory(prefix="harness-reporter-") as place:
        folder = Path(shutil.copytree(demo_run(), Path(place) / demo_run().name))
        record, before = read_record(folder), _files(folder)
        asked, command = asked_of(demo_plan()), "harness eval --name demo"
        run = BegunRun(asked, record.run_id, folder, command, reused=False)
        other = BegunRun(asked, "0" * 64, folder.with_name("other-00000000"), command, reused=False)
        tell("ready", Asked((asked, asked), Path(place), command))
        loading, counted = Work("loading the model", None, ()), Work("prompts", 3, (run, other))
        tell("work_begins", loading)
        tell("work_ends", loading, True)
        for begun in (run, other):
            tell("begun", begun)
        inner = Work(STRANGE, 2, (run, other))
        one, two = Work("prompts", 3, (run,), "a node"), Work("prompts", 3, (other,), STRANGE)  # at once, elsewhere
        for event, *given in (
            ("work_begins", counted), ("work_advances", counted, 2), ("work_begins", inner),
            ("work_advances", inner, 1), ("work_ends", inner, False), ("work_advances", counted, 1),
            ("work_ends", counted, True),
            ("work_begins", one), ("work_begins", two), ("work_advances", one, 0), ("work_advances", two, 1),
            ("work_ends", one, True), ("work_advances", two, 2), ("work_ends", two, False),
            ("noted", STRANGE, True), ("noted", STRANGE, False), ("failed", other, STRANGE),
        ):  # fmt: skip
            tell(event, *given)
        for reused in (False, True):
            if reused:
                tell("begun", replace(run, reused=True))
            about = (asked, record.run_id, folder, command, reused, record, read_provenance(folder))
            tell("finished", FinishedRun(*about))
        tell("ended", (folder,))
        changed = [name for name, digest in before.items() if _files(folder).get(name) != digest]
        promise(not changed, owner, f"it changed {', '.join(changed)} of the run's folder")
    return reporter


def _files(folder: Path) -> dict[str, str]:
    """The digest of each file of a run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): files_digest([path]) for path in paths}
