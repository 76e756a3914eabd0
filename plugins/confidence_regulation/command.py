"""``harness spectra MODEL MODEL``: the unembeddings of two models, and how their neurons write to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Debug, Device, Json, ModelArgs, ModelArgument, Quiet, RegistryPath
from harness.cli.plugins import PluginFiles, installed
from harness.files.terminal import Terminal, say, say_json
from harness.plugin import ModelLoader, border


def spectra(
    model: ModelArgument,
    other: Annotated[str, typer.Argument(help="The other model, of any shape; likewise.")],
    out: Annotated[
        Path | None, typer.Option(help="Also write figure (PNG, SVG, CSV) and table (CSV) to this folder.")
    ] = None,
    model_args: ModelArgs = "",
    device: Device = None,
    registry: RegistryPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Set two models side by side: bottom singular values of the unembedding, null-space shares, norms of neurons.

    Stolfo et al. 2024, appendix E: does dropout make the null space? From weights alone; for any two models.
    """
    from rich.table import Table

    from harness.report.figure_files import write_shown
    from harness.report.formatting import cell
    from harness.report.progress import ConsoleReporter
    from harness.running.request import model_named

    from .analysis.spectra import HONEST, Spectrum, table
    from .figures import two_spectra

    found, pair = installed(), []
    loaders = [
        found.build(ModelLoader, model_named(name, found, model_args, device, registry), "MODEL")
        for name in (model, other)
    ]
    reporter = ConsoleReporter(Terminal(stderr=True), quiet)
    for loader in loaders:  # one after the other: two large models need not fit at once
        with reporter.stage("reading a model's weights"):
            pair.append(Spectrum.of(border.load(loader)))
    frame = table(pair)
    if out is not None:
        write_shown(out, [frame, two_spectra(pair)])
        say(f"wrote {out}", err=True)
    if as_json:
        say_json({"models": [{"name": x.name, "null_space": x.why, **x.summary()} for x in pair], "note": HONEST})
        return
    shown = Table(*frame.columns, box=None, pad_edge=False, header_style="bold")
    for row in zip(*frame.columns.values(), strict=True):
        shown.add_row(*(value if isinstance(value, str) else cell(value) for value in row))
    console = Terminal()
    console.print(shown)
    for x in pair:
        console.print(f"null space of {x.name}: {x.null_dims} of {x.d_model}, {x.why}")
    console.print(HONEST)
