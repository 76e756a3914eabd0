"""Runs that a command makes and shows."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from harness.cli import refusals
from harness.files.terminal import Terminal, say, say_json
from harness.plugin.specs import ComponentSpec
from harness.running.request import SETTINGS
from harness.running.stopping import stopped

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue
    from harness.plugin.executors import Executor
    from harness.running.executors import Made
    from harness.running.spec import RunSpec
    from harness.running.telling import Telling


def make(
    specs: list[RunSpec],
    found: Catalogue,
    executor: Executor,
    output: Path,
    told: Telling,
    *,
    fresh: bool = False,
    as_json: bool = False,
    dry_run: bool = False,
    say_folders: bool = False,
) -> list[Made]:
    """Validate every run before the first one starts, then make them, those on the same prompts together.

    With ``as_json`` each of several runs that could not be made is an object; with ``say_folders`` each folder is named
    on standard error once it is finished.

    Whoever asks says at the end which could not be made (:func:`harness.running.executors.check_all_made`), or reported
    (:meth:`harness.running.telling.Telling.check`).
    """
    from harness.running import executors
    from harness.running.execute import grouped_by_prompts, plan
    from harness.running.expectations import of_plan
    from harness.running.named import too_few_controls

    plans = [plan(spec, found) for spec in specs]
    for note in too_few_controls(specs):
        Terminal(stderr=True).print(f"note: {note}.", style="yellow", soft_wrap=True)
    if dry_run:
        for one in plans:
            expected = of_plan(one)
            settings = one.spec.model_dump(mode="json", include={*SETTINGS, "margins"})
            expected_of = expected and expected.to_dict()
            say_json({"name": one.spec.name, **one.components(), "settings": settings, "expected": expected_of})
        return []
    command = shlex.join(["harness", *sys.argv[1:]])
    made: list[Made] = []
    try:
        with told:
            for group in executors.make(executor, grouped_by_prompts(plans), output, command, fresh, told):
                for other in group if as_json and len(plans) > 1 else ():
                    if isinstance(other, executors.NotMade):
                        say_json({"run": other.name, "error": refusals.told(other.error)})
                for run in executors.finished_of(group) if say_folders else ():
                    say(f"made {run.path}", err=True)
                made += group
    except KeyboardInterrupt as error:
        then = "the same command continues from the prompts that are finished"
        raise typer.Exit(stopped(error, then)) from None
    return made


def telling(
    found: Catalogue, report: Sequence[str | ComponentSpec] | None, as_json: bool = False, quiet: bool = False
) -> Telling:
    """Whom a command tells: the usual reporters, the terminal as its options say, and those of ``--report``.

    Raises:
        HarnessError: there is no such reporter, or a parameter is wrong.
    """
    from harness.running.telling import Telling, reporters

    console = ComponentSpec("console", {"progress": not quiet, "report": "json" if as_json else "text"})
    return Telling(reporters(found, report or (), console))
