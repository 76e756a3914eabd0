"""``harness lm-eval``: lm-eval's own command with our model, where our tasks are, and prompts written beforehand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.options import Debug, Device, ModelArgs
from harness.cli.plugins import PluginFiles, installed
from harness.errors import HarnessError, suggest
from harness.files.terminal import say
from harness.files.wording import counted


class _LmEval(TyperGroup):
    """Our commands; whatever else is typed is lm-eval's."""

    def get_command(self, ctx: Any, name: str) -> Any:
        return super().get_command(ctx, name) or super().get_command(ctx, "run")


app = typer.Typer(
    cls=_LmEval,
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True},
    help="lm-eval (lm-evaluation-harness) with our tasks, and with our interventions as --model harness.",
)

PASSED_ON = {
    "run": "Evaluate as `lm-eval run` does; --model harness takes selector=..., intervention=... in --model_args.",
    "ls": "List tasks, as `lm-eval ls` does.",
    "validate": "Validate tasks, as `lm-eval validate` does.",
}


UNKNOWN = "Tasks not found: "
"""How lm-eval begins to say that a task is not known."""

SAID = ("--help", "--config", "--include_path")
"""However far they are spelt out: with these, lm-eval needs no word of our tasks, or has it from elsewhere."""

WORDS = (LookupError, OSError, ValueError)
"""What lm-eval, and the libraries that it calls, raise where what was typed names nothing, or nothing fit."""


def pass_on(ctx: typer.Context) -> None:
    """Run lm-eval's command line with these words, the model ``harness`` registered first.

    lm-eval ends its process after help, or with a code of its own where something is wrong; an end with code 0 in the
    midst of its work is no success.

    Raises:
        HarnessError: what lm-eval raises where a task, a model or a file is not there; with --debug its own exception.
    """
    from harness.lmeval import register

    register()
    from lm_eval.__main__ import cli_evaluate

    words = [str(ctx.info_name), *(word for word in ctx.args if word != "--debug")]
    sys.argv = ["lm-eval", *words, *_ours(words)]
    try:
        cli_evaluate()
    except WORDS as error:
        if "--debug" in ctx.args:
            raise
        raise HarnessError(_sentence(error)) from error
    except SystemExit as stop:
        if not stop.code and not {"-h", "--help"} & set(ctx.args):
            raise
        if isinstance(stop.code, str):
            say(stop.code, err=True)
        raise typer.Exit(stop.code if isinstance(stop.code, int) else 1 if stop.code else 0) from None


def _ours(words: Sequence[str]) -> tuple[str, ...]:
    """What has lm-eval look at our tasks, where it looks at tasks and is not told at what else."""
    looks = words[0] in PASSED_ON or words[0].startswith("-")  # the older form, without `run`
    names = {word.split("=")[0] for word in words}
    told = {"-h", "-C"} & names or any(len(name) > 2 and said.startswith(name) for name in names for said in SAID)
    return ("--include_path", str(files("harness_tasks"))) if looks and not told else ()


def _sentence(error: Exception) -> str:
    """What an exception of lm-eval says, with the nearest name of a task."""
    said = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split()).rstrip(".")
    told = f"lm-eval: {said or type(error).__name__}"
    if said.startswith(UNKNOWN):
        from lm_eval.tasks import TaskManager

        known = TaskManager(include_path=str(files("harness_tasks"))).all_tasks
        near = suggest(said.removeprefix(UNKNOWN).split(", ")[0], known)
        return f"{told}.{near} See harness lm-eval ls tasks."
    return f"{told}. With --debug, where."


for word, about in PASSED_ON.items():
    app.command(
        word,
        help=about,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(pass_on)


@app.command("tasks-path")
def tasks_path(debug: Debug = False) -> None:
    """Print the folder of our tasks: lm_eval --include_path "$(harness lm-eval tasks-path)" --tasks ..."""
    say(str(files("harness_tasks")))


@app.command("prepare")
def prepare(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the prompts; one folder a task in it.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model that is asked, as for harness eval.")] = "demo",
    model_args: ModelArgs = "",
    device: Device = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "--tasks", "-t", help="Task with its parameters; may be repeated; default: all of ours."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", min=1, help="Only so many items of the data.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")] = 0,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Write the prompts that a model is asked, as a task that any lm-eval runs: JSONL, YAML and a scoring function."""
    from harness.lmeval.prepared import write
    from harness.plugin.components import ModelLoader
    from harness.running.request import model_named

    found = installed()
    spec = model_named(model, found, model_args, device)
    loader = found.build(ModelLoader, spec, "--model")
    for folder, n in write(loader, task, output, limit, seed):
        say(f"wrote {folder} ({counted(n, 'prompt')}): lm_eval --include_path {output} --tasks {folder.name}_prepared")
