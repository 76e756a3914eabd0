"""The command line: ``harness eval | run | plan | inspect | unigrams | list | report | leaderboard | view``, ..."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import harness
from harness.cli.arena import arena
from harness.cli.claims import claims
from harness.cli.evaluate import evaluate
from harness.cli.inspect import inspect
from harness.cli.listing import list_components
from harness.cli.lm_eval import app as lm_eval_app
from harness.cli.main import main
from harness.cli.new_plugin import new_plugin
from harness.cli.offered import OfferedCommand, offered
from harness.cli.plan import plan
from harness.cli.report import report
from harness.cli.results import compare, leaderboard, schema
from harness.cli.run import run
from harness.cli.unigrams import unigrams
from harness.cli.view import view
from harness.errors import HarnessError, mendable
from harness.files.terminal import say
from harness.running.stopping import stopped

__all__ = ["app", "main"]


FORMS = {"compare": (("--base", "--tuned", "--suite"), "compare-models")}
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


def _version(value: bool) -> None:
    if value:
        import platform

        from harness.results.provenance import NUMERICAL, packages

        with_these = ", ".join(f"{name} {found}" for name, found in packages().items() if name in NUMERICAL[1:])
        say(f"{harness.__version__}\nPython {platform.python_version()}, {with_these}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version, and those that numbers depend on."
        ),
    ] = False,
) -> None:
    pass


app.command("eval")(evaluate)
app.command("run")(run)
app.command("inspect")(inspect)
app.command("unigrams")(unigrams)
app.command("list")(list_components)
app.command("report")(report)
app.command("leaderboard")(leaderboard)
app.command("plan")(plan)
app.command("compare")(compare)
app.command("view")(view)
app.command("claims")(claims)
app.command("arena")(arena)
app.command("schema")(schema)
app.command("new-plugin")(new_plugin)
app.add_typer(lm_eval_app, name="lm-eval")
