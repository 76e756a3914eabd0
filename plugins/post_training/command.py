"""``harness compare --base M1 --tuned M2``, or ``harness compare-models``: what post-training changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Debug
from harness.cli.plugins import PluginFiles, installed
from harness.errors import mendable
from harness.files.terminal import Terminal, say_json
from harness.plugin import Corpus, HarnessError, ModelLoader, counted
from harness.plugin.specs import explain, parse_spec
from harness.running.spec import batch_size_of

from .suites import pairs_of

if TYPE_CHECKING:
    from .comparison.run import Compared


def _option(name: str, text: str) -> Any:
    """An option, written with underscores or hyphens."""
    names = [f"--{name}", *([f"--{name.replace('_', '-')}"] if "_" in name else [])]
    return typer.Option(*names, help=text)


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    base: Annotated[str | None, _option("base", "Base model, as --model of eval.")] = None,
    tuned: Annotated[str | None, _option("tuned", "The model that was trained from it.")] = None,
    suite: Annotated[str | None, _option("suite", "Pairs of models, one after another: paper-post-training.")] = None,
    model_args: Annotated[str, _option("model_args", "Loader parameters of both: dtype=bfloat16.")] = "",
    device: Annotated[str | None, _option("device", "cpu, cuda, cuda:0, mps; default: the best there is.")] = None,
    corpus: Annotated[str | None, _option("corpus", "Texts for loss and token-frequency neurons.")] = None,
    unigram: Annotated[str | None, _option("unigram", "File of token counts; default: count the corpus.")] = None,
    truthfulness: Annotated[
        list[str] | None, _option("truthfulness", "Labelled statements, JSONL or CSV; several: data sets for probes.")
    ] = None,
    act_layers: Annotated[
        str | None, _option("act_layers", "Layers at which truthfulness directions of data sets act, 8-12.")
    ] = None,
    refusal: Annotated[str | None, _option("refusal", "Labelled prompts, likewise; true: should be refused.")] = None,
    harmful: Annotated[
        str | None, _option("harmful", "Requests to be refused: a table, or a dataset of the hub (walledai/AdvBench).")
    ] = None,
    harmless: Annotated[
        str | None, _option("harmless", "Requests to be answered, likewise (tatsu-lab/alpaca).")
    ] = None,
    judge: Annotated[
        str | None, _option("judge", "A text classifier, folder or hub id: a second judge of refusals.")
    ] = None,
    judge_label: Annotated[str | None, _option("judge_label", "Its label that means a refusal.")] = None,
    begins: Annotated[list[str] | None, _option("begins", "How refusals begin; may be repeated.")] = None,
    phrases: Annotated[bool, typer.Option("--phrases", help="Refusals begin as in Du et al.'s list.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Requests go through each model's chat template.")] = False,
    ablate: Annotated[str, _option("ablate", "Refusal directions are ablated after their own layer, or all.")] = "own",
    factors: Annotated[
        list[float] | None, _option("factor", "Factors of added directions, searched on training texts.")
    ] = None,
    top: Annotated[int, _option("top", "Neurons that each rule chooses.")] = 10,
    norm_shares: Annotated[
        list[float] | None, _option("norm_share", "Shares of largest norms, for a grid of the overlap.")
    ] = None,
    counts: Annotated[
        list[int] | None, _option("count", "Numbers of neurons, for that grid.")
    ] = None,
    null_dims: Annotated[int | None, _option("null_dims", "Null dimensions; default: from the spectrum.")] = None,
    pairs: Annotated[int, _option("pairs", "Pairs of facts for activation patching; 0: none.")] = 100,
    statements: Annotated[
        list[Path] | None, _option("statements", "True and false statements, for patching; may be repeated.")
    ] = None,
    examples: Annotated[str | None, _option("examples", "Examples of verdicts, JSON; default: drawn.")] = None,
    asked: Annotated[
        list[str] | None, _option("asked", "After statements: examples, question or none; may be repeated.")
    ] = None,
    limit: Annotated[int | None, _option("limit", "Facts that are asked; patched pairs are of all.")] = None,
    seed: Annotated[int, _option("seed", "Seed of everything random.")] = 0,
    batch_size: Annotated[
        str, _option("batch_size", "Prompts in a forward pass; auto: in each section as many as fit.")
    ] = "64",
    output_path: Annotated[
        Path,
        typer.Option(
            "--output_path", "--output-path", "-o", envvar="HARNESS_REPORTS_DIR", help="Folder for results.",
        ),
    ] = Path("reports"),
    registry: Annotated[Path | None, _option("registry", "Registry file with names of models.")] = None,
    quiet: Annotated[bool, _option("quiet", "No progress on stderr.")] = False,
    everything: Annotated[bool, typer.Option("--all", hidden=True)] = False,
    resamples: Annotated[int, typer.Option("--resamples", min=100, max=1_000_000, help="Bootstrap resamples.")] = 2000,
    form: Annotated[str | None, typer.Option("--format", "-f", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of the report.")] = False,
    out: Annotated[Path | None, typer.Option("--out", hidden=True)] = None,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Compare a base model with a tuned one: neurons, behaviour, directions, steering, activation patching."""
    if suite is not None and (base or tuned):
        raise HarnessError("compare: a --suite names its models; leave --base and --tuned out.")
    if (base is None) != (tuned is None):
        raise HarnessError(f"compare: --{'tuned' if tuned is None else 'base'} is missing: give both models, or runs.")
    if suite is None and base is None:
        raise HarnessError("compare: name two models with --base and --tuned.")
    chosen = pairs_of(suite) if suite is not None else ((f"{base}", f"{tuned}"),)
    if runs or form or out or everything:
        raise HarnessError("compare: runs, --all, --format and --out are for comparing runs, not --base and --tuned.")

    from pydantic import ValidationError

    from harness.report.progress import ConsoleReporter
    from harness.running.request import model_named, short_name

    from .analysis.requests import phrases as phrase_list
    from .comparison.report import show
    from .comparison.run import compare_models
    from .comparison.settings import ASKED, BEGINS, Settings

    try:
        settings = Settings.model_validate(
            dict(
                top=top, null_dims=null_dims, limit=limit, unigram=unigram, refusal=refusal,
                harmful=harmful, harmless=harmless, judge=judge, judge_label=judge_label,
                truthfulness=tuple(truthfulness or ()), act_layers=act_layers,
                begins=phrase_list() if phrases else tuple(begins or BEGINS), chat=chat, ablate=ablate,
                factors=tuple(factors or ()), norm_shares=tuple(norm_shares or ()), counts=tuple(counts or ()),
                pairs=pairs, seed=seed, resamples=resamples,
                statements=tuple(map(str, statements or ())), examples=examples, asked=tuple(asked or ASKED),
            )
        )  # fmt: skip
    except ValidationError as error:
        raise HarnessError(explain(error, Settings, "harness compare")) from error
    found, size = installed(), batch_size_of(batch_size)
    texts = None if corpus is None else found.build(Corpus, parse_spec(corpus, "--corpus"), "--corpus")
    reporter = ConsoleReporter(Terminal(stderr=True), quiet)

    def compared(pair: tuple[str, str]) -> Compared:
        specs = [model_named(name, found, model_args, device, registry) for name in pair]
        loaders = [found.build(ModelLoader, x, f"--{y}") for x, y in zip(specs, ("base", "tuned"), strict=True)]
        names = [short_name(spec) for spec in specs]
        return compare_models(loaders, names, settings, texts, output_path, size, reporter.stage)

    failed: list[str] = []
    for pair in chosen:
        try:
            with mendable():
                done = compared(pair)
        except HarnessError as error:
            if suite is None:
                raise
            failed.append(f"{' and '.join(pair)}: {error}")
            continue
        if as_json:
            say_json(done.record.to_dict())
        else:
            show(Terminal(), done.record, done.folder)
    if failed:
        raise HarnessError(f"--suite: {len(failed)} of {counted(len(chosen), 'pair')} not compared. {' '.join(failed)}")
