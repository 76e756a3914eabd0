"""The command line: ``harness eval | run | plan | unigrams | list | report | leaderboard | compare | new-plugin``."""

from __future__ import annotations

import functools
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import harness
from harness.cli import new_plugin as scaffold
from harness.cli import plan as commands_plan
from harness.cli import results as commands
from harness.cli.lm_eval import app as lm_eval_app
from harness.cli.main import main
from harness.cli.offered import OfferedCommand, offered
from harness.cli.plugins import installed
from harness.errors import HarnessError, mendable
from harness.files.terminal import Terminal, say, say_json
from harness.plugin import border
from harness.plugin.components import ComponentSpec, parse_spec
from harness.running.stopping import stopped

if TYPE_CHECKING:
    from harness.results.record import RunRecord
    from harness.plugin.catalogue import Catalogue
    from harness.running.execute import Finished
    from harness.running.executors import Executor
    from harness.running.registry import Registry
    from harness.running.spec import RunSpec

__all__ = ["app", "main"]


FORMS = {"compare": (("--base", "--tuned"), "compare-models")}
"""Options with which a command of ours is another, which a plugin offers."""


class Commands(TyperGroup):
    """Our commands, and those of installed packages; one that ends before its work is done has failed, whatever ended
    it."""

    @functools.cached_property
    def offered(self) -> Mapping[str, OfferedCommand]:
        return offered(self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *self.offered]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or self.offered.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        options, other = FORMS.get(args[0], ((), ""))
        given = next((option for option in options for arg in args if arg.partition("=")[0] == option), None)
        if given is None:
            return super().resolve_command(ctx, args)
        if other not in self.offered:
            raise HarnessError(f"{args[0]}: {given} is for the command {other}, which no installed plugin offers.")
        return args[0], self.offered[other], args[1:]

    def invoke(self, ctx: Any) -> Any:
        try:
            with mendable():
                return super().invoke(ctx)
        except SystemExit as stop:  # typer's own end comes later, outside
            raise HarnessError(
                f"something that the command called ended it (exit code {stop.code}) before its work was done."
            ) from stop
        except KeyboardInterrupt as error:
            raise typer.Exit(stopped(error)) from None


app = typer.Typer(
    name="harness",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find neurons in language models, intervene on them, and measure what changes.",
)

Output = Annotated[
    Path, typer.Option("--output_path", "--output-path", "-o", envvar="HARNESS_REPORTS_DIR", help="Folder for results.")
]
RegistryPath = Annotated[
    Path | None, typer.Option("--registry", help="Registry file; default: ./registry.yaml, else the bundled one.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget an earlier or interrupted run and start anew.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result record instead of the report.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRun = Annotated[bool, typer.Option("--dry_run", "--dry-run", help="Validate, print what would run, and stop.")]


def _version(value: bool) -> None:
    if value:
        say(harness.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("eval")
def evaluate(
    task: Annotated[str, typer.Option("--task", "--tasks", "-t", help="Task, for example knowledge_conflict.")],
    selector: Annotated[
        str, typer.Option("--selector", "-s", help="Selector, for example entropy:top=6,null_dims=12.")
    ],
    intervention: Annotated[
        str | None,
        typer.Option("--intervention", "-i", help="Intervention, for example mean; none where the task edits nothing."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Loader (demo, hf), a model of the registry, a hub id or a folder.")
    ] = "demo",
    model_args: Annotated[
        str,
        typer.Option("--model_args", "--model-args", "-a", help="Loader parameters: pretrained=gpt2,dtype=float32."),
    ] = "",
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, cuda:0, mps; default: the best there is.")
    ] = None,
    include_path: Annotated[
        str | None, typer.Option("--include_path", "--include-path", help="With --task lm_eval:NAME: more tasks.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option("--num_fewshot", "--num-fewshot", help="With --task lm_eval:NAME: examples shown.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Metric; may be repeated; default: the task's.")
    ] = None,
    controls: Annotated[
        int | None,
        typer.Option("--controls", help="Random control sets; default: 999 where they are cheap, else 100."),
    ] = None,
    match: Annotated[
        str,
        typer.Option("--match", help="Controls resemble the selected neurons: none, in norm, or in activation."),
    ] = "none",
    hold_out: Annotated[
        float | None,
        typer.Option(
            "--hold_out",
            "--hold-out",
            help="Share of the facts that only the selector sees; default: 0.3 for one that looks at prompts.",
        ),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option("--margin", metavar="NAME=D", help="Difference that matters of a measure; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 0,
    engine: Annotated[
        str, typer.Option("--engine", help="auto: the fastest that is exact; hooks: a hooked pass for each condition.")
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option("--batch_size", "--batch-size", "-b", help="Prompts in a forward pass.")
    ] = 64,
    limit: Annotated[
        int | None, typer.Option("--limit", "-L", help="Use only so many items of the task's data.")
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", help="Bootstrap resamples.")] = 2000,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run; default: made of its components.")
    ] = None,
    output_path: Output = Path("reports"),
    registry: RegistryPath = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Run one evaluation: these neurons, this intervention, this task, against random controls."""
    from harness.running.executors import choose
    from harness.running.request import model_named, specification

    found = installed()
    loader = model_named(model, found, model_args, device, registry)
    asked = parse_spec(task, "--task")
    options = {"include_path": include_path, "num_fewshot": num_fewshot}
    given = {key: value for key, value in options.items() if value is not None}
    spec = specification(
        "harness eval",
        model=loader,
        task=ComponentSpec(asked.name, {**asked.params, **given}),
        selector=selector,
        intervention=intervention,
        metrics=metric or (),
        name=name,
        controls=controls,
        match=match,
        hold_out=hold_out,
        margins=_margins(margin or ()),
        seed=seed,
        engine=engine,
        batch_size=batch_size,
        limit=limit,
        resamples=resamples,
    )
    local = choose("local", Terminal(stderr=True), quiet)
    _run_all([spec], found, local, output_path, fresh, as_json, quiet, dry_run)


@app.command("run")
def run(
    names: Annotated[
        list[str] | None, typer.Argument(help="Runs, or suites of runs, of the registry; see `harness list runs`.")
    ] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="Every run of the registry.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Run on this model, with the registry's settings for it.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:0, mps; default: the best.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", help="Override the runs' limit.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Also write one page about all of them, with figures, here.")
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local: in this process; ray: on the nodes of a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Ray cluster: auto or HOST:PORT; default: RAY_ADDRESS, else one started here."),
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus_per_run", "--cpus-per-run", help="CPUs of each run; default: 1.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus_per_run", "--gpus-per-run", help="GPUs of each run; default: none.")
    ] = None,
    max_retries: Annotated[
        int | None, typer.Option("--max_retries", "--max-retries", min=0, help="After a lost worker; default: 3.")
    ] = None,
    output_path: Output = Path("reports"),
    registry: RegistryPath = None,
    fresh: Fresh = False,
    as_json: Json = False,
    quiet: Quiet = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Run named evaluations of the registry."""
    from harness.running.executors import choose
    from harness.running.request import named

    chosen = choose(executor, Terminal(stderr=True), quiet, address, cpus, gpus, max_retries)
    found = installed()
    known = _registry(registry)
    if bool(names) == all_runs:
        raise HarnessError(
            f"name one or more runs, or pass --all; {known.path} has: {', '.join(known.runs) or 'none'}."
        )
    specs = named(names or list(known.runs), known, found, model, device, limit)
    if markdown is not None and not dry_run:
        from harness.report.markdown import check

        check(markdown)
    finished = _run_all(specs, found, chosen, output_path, fresh, as_json, quiet, dry_run)
    if markdown is not None and finished:
        suite = known.suites.get(names[0]) if names and len(names) == 1 else None
        title, about = (names[0], suite.description) if names and suite else ("Runs", "")
        _page([one.path for one in finished], markdown, title, about)


@app.command("unigrams")
def unigrams(
    corpus: Annotated[str, typer.Option("--corpus", "-c", help="Corpus, for example text:path=texts.jsonl.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the counts (.safetensors).")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model whose tokenizer counts; as for eval.")] = "demo",
    model_args: Annotated[str, typer.Option("--model_args", "--model-args", "-a", help="Loader parameters.")] = "",
    max_tokens: Annotated[
        int | None, typer.Option("--max_tokens", "--max-tokens", min=1, help="Stop after so many tokens.")
    ] = None,
    registry: RegistryPath = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier or interrupted count.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Count how often each token occurs in a corpus; continues where it was interrupted."""
    if output.suffix != ".safetensors":
        raise HarnessError(f'--output: expected the name of a file that ends with .safetensors, got "{output}".')
    from harness.data.token_counts import count_to_file, summary
    from harness.report.progress import ConsoleReporter
    from harness.running.request import model_named

    found = installed()
    loader = found.build("model", model_named(model, found, model_args, None, registry), "--model")
    texts = found.build("corpus", parse_spec(corpus, "--corpus"), "--corpus")

    reporter = ConsoleReporter(Terminal(stderr=True), quiet)
    try:
        with reporter.stage("loading the model"):
            loaded = border.load(loader)  # type: ignore[arg-type]  # a model loader
        with reporter.stage("counting tokens", max_tokens) as advance:
            counted, reused = count_to_file(output, loaded, texts, max_tokens, fresh, advance)  # type: ignore[arg-type]
    except KeyboardInterrupt as error:
        raise typer.Exit(stopped(error, "the same command continues from the last checkpoint")) from None
    say(f"{summary(counted, loaded)}\n{'counted before' if reused else 'written'}: {output}")


@app.command("list")
def list_components(
    what: Annotated[
        str | None, typer.Argument(help="A kind (selectors), a component (entropy), runs or plugins.")
    ] = None,
    registry: RegistryPath = None,
    debug: Debug = False,
) -> None:
    """List components, or show one with its parameters.

    A component is written name:key=value,key=value. Lists: key=\\[a,b]. Mappings: key={a: b}. A value that holds a
    comma goes in quotes, within the shell's: 'labelled_response:data=a.jsonl,template="Q, {text}"'. A component within
    another goes in quotes, too: 'mediation:corpus="text:path=a.jsonl,column=body"'.
    """
    from harness.cli.listing import show

    found = installed()
    show(Terminal(), found, what, lambda: _registry(registry))


@app.command("report")
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folder of a finished run (or its result.json); several with --markdown or --latex."),
    ],
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write one page about these runs, with their figures, here.")
    ] = None,
    latex: Annotated[
        Path | None, typer.Option("--latex", help="Write tables of these runs, LaTeX and CSV, to this folder.")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Title of the page.")] = "Runs",
    description: Annotated[str, typer.Option("--description", help="A sentence under the title.")] = "",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the report of a finished run again and write its page, or write a page about several."""
    from harness.report.page import write_page
    from harness.results.folder import read_record

    paths = [run / "result.json" if run.is_dir() else run for run in runs]
    records = [read_record(path) for path in paths]
    if markdown is not None:
        _page([path.parent for path in paths], markdown, title, description)
    if latex is not None:
        from harness.report.latex import export

        for table in export([path.parent for path in paths], latex):
            say(f"wrote {table}")
    if markdown is not None or latex is not None:
        return
    for path, record in zip(paths, records, strict=True):
        say(f"wrote {write_page(path.parent)}", err=True)
        _show(record, path.parent, as_json)


app.command("leaderboard")(commands.leaderboard)
app.command("plan")(commands_plan.plan)
app.command("compare")(commands.compare)
app.command("schema")(commands.schema)
app.command("new-plugin")(scaffold.new_plugin)
app.add_typer(lm_eval_app, name="lm-eval")


# -- helpers -----------------------------------------------------------------------------------------------------------


def _registry(path: Path | None) -> Registry:
    from harness.running.registry import default_path, load_registry

    return load_registry(path or default_path())


def _margins(given: Sequence[str]) -> dict[str, float]:
    """What ``--margin NAME=D`` says, by measure."""
    found: dict[str, float] = {}
    for text in given:
        name, _, size = text.partition("=")
        try:
            found_size = float(size)
        except ValueError:
            found_size = math.nan
        if not name or not 0 < found_size < math.inf:
            raise HarnessError(
                f'--margin: expected a measure and a number above 0, for example entropy_change=0.05, got "{text}".'
            )
        if name in found:
            raise HarnessError(f"--margin: {name} is given twice.")
        found[name] = found_size
    return found


def _run_all(
    specs: list[RunSpec],
    found: Catalogue,
    executor: Executor,
    output: Path,
    fresh: bool,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
) -> list[Finished]:
    """Validate every run before the first one starts, then make them, those on the same prompts together."""
    from harness.running.execute import plan, together
    from harness.running.request import too_few_controls

    plans = [plan(spec, found) for spec in specs]
    for note in too_few_controls(specs):
        Terminal(stderr=True).print(f"note: {note}.", style="yellow", soft_wrap=True)
    if dry_run:
        for one in plans:
            say_json({"name": one.spec.name, **one.components()})
        return []
    command = shlex.join(["harness", *sys.argv[1:]])
    made = []
    try:
        for finished in executor.execute(together(plans), output, command, fresh):
            for run in finished:
                if run.reused and not quiet:
                    say(f"{run.path}: this run was finished before; --fresh makes it again.", err=True)
                _show(run.record, run.path, as_json)
            made += finished
    except KeyboardInterrupt as error:
        then = "the same command continues from the prompts that are finished"
        raise typer.Exit(stopped(error, then)) from None
    return made


def _page(runs: list[Path], folder: Path, title: str, description: str) -> None:
    """Write the Markdown page about some runs."""
    from harness.report.markdown import export

    page, kept = export(runs, folder, title, description)
    say(f"wrote {page}", err=True)
    for path in kept:
        say(f"left {folder / path}, of an earlier page: it was changed since", err=True)


def _show(record: RunRecord, path: Path, as_json: bool) -> None:
    from harness.report.console import show

    if as_json:
        say_json(record.to_dict())
    else:
        show(Terminal(), record, path)
