"""``harness attribute MODEL "The capital of France is"``: why a model says a token next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Debug, Device, Json, ModelArgs, ModelArgument, Quiet, RegistryPath
from harness.cli.plugins import PluginFiles, installed
from harness.files.terminal import Terminal, say, say_json
from harness.plugin import HarnessError, ModelLoader, border

KINDS = ["attention", "neurons"]


def attribute(
    model: ModelArgument,
    sentence: Annotated[str, typer.Argument(help="What the model reads; its next token is attributed.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help='Next token, as it continues the sentence: " Paris"; repeatable. Default: what it predicts.'),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(
            help="Value neurons whose query neurons are shown: attention, neurons (the first of these kinds), or one: "
            "11.2378, L5H1.32, L5H1.32@4 (source position 4); repeatable. Default: both kinds."
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(help="What a neuron brings through a head's value and output weights: 2.13:L5H1; repeatable."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Heads and neurons in the tables.")] = 10,
    values: Annotated[int, typer.Option(min=1, help="Value neurons of a kind that query neurons are for.")] = 30,
    page: Annotated[Path | None, typer.Option(help="Also write a web page (no network needed) to this file.")] = None,
    model_args: ModelArgs = "",
    device: Device = None,
    registry: RegistryPath = None,
    as_json: Json = False,
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Show which layers, heads and neurons make a sentence's next token likely, what they say and what activates them.

    Yu & Ananiadou 2024: log-probability increases at the last position, value neurons, query neurons, logit lens.
    """
    from harness.report.progress import ConsoleReporter
    from harness.running.request import model_named

    from .sentence.attribution import attribute as attributed
    from .sentence.console import show
    from .sentence.page import write

    kinds, paths = tuple(of or KINDS), tuple(_path(text) for text in path or ())
    found = installed()
    loader = found.build(ModelLoader, model_named(model, found, model_args, device, registry), "--model")
    reporter = ConsoleReporter(Terminal(stderr=True), quiet)
    with reporter.stage("loading the model"):
        loaded = border.load(loader)
    with reporter.stage("reading the sentence"):
        own = attributed(loaded, sentence, top=top, values=values)
        several = [own.aimed_at(text) for text in target] if target else [own]
    with reporter.stage("attributing"):
        records = [one.to_dict(kinds, paths) for one in several]  # all of it before anything is written
    if page is not None:
        write(page, several, kinds, paths)
        say(f"wrote {page}", err=True)
    if as_json:
        say_json(records)
        return
    for one in several:
        show(Terminal(), one, kinds, paths)


def _path(text: str) -> tuple[str, str]:
    """The neuron and the head of ``2.13:L5H1``."""
    neuron, colon, head = text.partition(":")
    if not colon:
        raise HarnessError(f'--path: expected a neuron, a colon and a head, for example 2.13:L5H1, got "{text}".')
    return neuron, head
