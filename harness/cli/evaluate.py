"""``harness eval``: one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cli.making import make, telling
from harness.cli.options import Debug, DryRun, ExecutorName, Fresh, Json, Output, Quiet, Reports, asks
from harness.cli.plugins import PluginFiles, installed
from harness.running.changes import Change
from harness.running.request import Request


@asks()
def evaluate(
    request: Request,
    changes: Sequence[Change],
    executor: ExecutorName = "local",
    output_path: Output = Path("reports"),
    report: Reports = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Run one evaluation: these neurons, this intervention, this task, against random controls; of several tasks one
    each."""
    from harness.running.executors import check_all_made, executor_of

    found = installed()
    specs, chosen = request.specifications(found, changes), executor_of(executor)
    told = telling(found, report, as_json, quiet)
    made = make(specs, found, chosen, output_path, told, fresh=fresh, as_json=as_json, dry_run=dry_run)
    check_all_made(made)
    told.check()
