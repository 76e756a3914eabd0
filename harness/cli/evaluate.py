"""``harness eval``: one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cli.making import make, telling
from harness.cli.options import Debug, DryRun, Fresh, Json, Output, Quiet, Reports, asks
from harness.cli.plugins import PluginFiles, installed
from harness.files.terminal import Terminal
from harness.running.changes import Change
from harness.running.request import Request


@asks()
def evaluate(
    request: Request,
    changes: Sequence[Change],
    output_path: Output = Path("reports"),
    report: Reports = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Run one evaluation: these neurons, this intervention, this task, against random controls."""
    from harness.running.executors import check_all_made, choose

    found = installed()
    spec = request.specification(found, changes=changes)
    here, told = choose("local", Terminal(stderr=True), quiet), telling(found, report, as_json, quiet)
    check_all_made(make([spec], found, here, output_path, fresh, told, as_json, dry_run))
    told.check()
