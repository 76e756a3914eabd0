"""``harness unigrams``: how often each token occurs in a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Debug, ModelArgs, Quiet, RegistryPath
from harness.cli.plugins import PluginFiles, installed
from harness.errors import HarnessError
from harness.files.terminal import Terminal, say
from harness.plugin import border
from harness.plugin.components import Corpus, ModelLoader
from harness.plugin.specs import parse_spec
from harness.running.stopping import stopped


def unigrams(
    corpus: Annotated[str, typer.Option("--corpus", "-c", help="Corpus, for example text:path=texts.jsonl.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the counts (.safetensors).")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model whose tokenizer counts; as for eval.")] = "demo",
    model_args: ModelArgs = "",
    max_tokens: Annotated[
        int | None, typer.Option("--max_tokens", "--max-tokens", min=1, help="Stop after so many tokens.")
    ] = None,
    registry: RegistryPath = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier or interrupted count.")] = False,
    quiet: Quiet = False,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Count how often each token occurs in a corpus; continues where it was interrupted."""
    if output.suffix != ".safetensors":
        raise HarnessError(f'--output: expected the name of a file that ends with .safetensors, got "{output}".')
    from harness.data.token_counts import count_to_file, summary
    from harness.report.progress import ConsoleReporter
    from harness.running.request import model_named

    found = installed()
    loader = found.build(ModelLoader, model_named(model, found, model_args, None, registry), "--model")
    texts = found.build(Corpus, parse_spec(corpus, "--corpus"), "--corpus")

    reporter = ConsoleReporter(Terminal(stderr=True), quiet)
    try:
        with reporter.stage("loading the model"):
            loaded = border.load(loader)
        with reporter.stage("counting tokens", max_tokens) as advance:
            counted, reused = count_to_file(output, loaded, texts, max_tokens, fresh, advance)
    except KeyboardInterrupt as error:
        raise typer.Exit(stopped(error, "the same command continues from the last checkpoint")) from None
    say(f"{summary(counted, loaded)}\n{'counted before' if reused else 'written'}: {output}")
