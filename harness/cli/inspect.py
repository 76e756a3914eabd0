"""``harness inspect``: what a model is made of, before anything is run on it."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import Debug, Device, Json, ModelArgs, ModelArgument, Quiet, RegistryPath
from harness.cli.plugins import PluginFiles, installed
from harness.files.terminal import Terminal, say_json
from harness.plugin import ModelLoader, border


def inspect(
    model: ModelArgument,
    model_args: ModelArgs = "",
    device: Device = None,
    layer: Annotated[
        int, typer.Option("--layer", help="Whose neurons are scored; negative counts from the last.")
    ] = -1,
    top: Annotated[int, typer.Option("--top", min=1, help="How many neurons are shown.")] = 10,
    prompt: Annotated[str, typer.Option("--prompt", help="A sentence, shown as the model is fed it.")] = (
        "The capital of France is"
    ),
    registry: RegistryPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Show a model's parts and how they were verified, its tokens, the spectrum of its unembedding, and its neurons."""
    from harness.model.inspection import inspect as look_at
    from harness.report.inspection import show
    from harness.report.progress import ConsoleReporter
    from harness.running.request import model_named

    found = installed()
    loader = found.build(ModelLoader, model_named(model, found, model_args, device, registry), "--model")
    reporter = ConsoleReporter(Terminal(stderr=True), quiet)
    with reporter.stage("loading the model"):
        loaded = border.load(loader)
    with reporter.stage("looking at it"):
        seen = look_at(loaded, layer, top, prompt)
    if as_json:
        say_json(seen.to_dict())
    else:
        show(Terminal(), seen)
