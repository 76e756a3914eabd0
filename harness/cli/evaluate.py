"""``harness eval``: one run."""

from __future__ import annotations

from pathlib import Path

from harness.cli.making import make
from harness.cli.options import Debug, DryRun, Fresh, Json, Output, Quiet, asks
from harness.cli.plugins import PluginFiles, installed
from harness.files.terminal import Terminal
from harness.running.request import Request


@asks()
def evaluate(
    request: Request,
    output_path: Output = Path("reports"),
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Run one evaluation: these neurons, this intervention, this task, against random controls."""
    from harness.running.executors import choose

    found = installed()
    spec = request.specification(found)
    make([spec], found, choose("local", Terminal(stderr=True), quiet), output_path, fresh, as_json, quiet, dry_run)
