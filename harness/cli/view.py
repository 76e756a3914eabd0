"""``harness view``: finished runs in a browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Debug
from harness.cli.plugins import PluginFiles
from harness.errors import HarnessError
from harness.files.terminal import say
from harness.files.wording import counted
from harness.running.stopping import Terminated

if TYPE_CHECKING:
    from harness.view.site import Site


def view(
    folder: Annotated[
        Path, typer.Argument(envvar="HARNESS_REPORTS_DIR", help="Folder of results, as --output_path names it.")
    ] = Path("reports"),
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; one of a network is open to that network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: a free one.")] = 0,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="No secret in the address: every user of this machine may look.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", metavar="SITE", help="Write the same to this folder, as a static site, and stop."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", metavar="RUN:RUN", help="In the site: these side by side (two to six); repeatable."),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Title of the list of runs.")] = None,
    plugin: PluginFiles = None,
    debug: Debug = False,
) -> None:
    """Look at the runs of a folder in a browser: a list to search, filter and sort, and each run's page.

    Serves this machine alone, at an address with a secret in it, until Ctrl-C. Runs appear as they finish.
    """
    if bundle is None and compare:
        raise HarnessError("--compare: it is for --bundle; in the browser, tick runs and press c.")
    from harness.view.server import Server
    from harness.view.site import Site

    site = Site(checked(folder), title)
    n = len(site.runs.now().runs)
    if bundle is not None:
        write(site, bundle, [text.split(":") for text in compare or ()])
        return
    site.at("")  # with a thousand runs it takes a second once
    with Server(site, host, port, "" if no_token else None) as server:
        say(server.url)
        if not n:
            say(f"no run is finished in {folder} yet; one that finishes appears.", err=True)
        say("Ctrl-C ends it.", err=True)
        if open_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except Terminated:
            raise
        except KeyboardInterrupt:  # how it is meant to end
            return


def write(site: Site, to: Path, compared: list[list[str]]) -> None:
    """Write the static site, and say what it holds."""
    from harness.view import bundle

    kept = bundle.write(site, to, compared)
    for path in kept:
        say(f"left {to / path}, of an earlier site: it was changed since", err=True)
    say(f"wrote {counted(len(site.runs.now().runs), 'run')} to {to / 'index.html'}", err=True)


def checked(folder: Path) -> Path:
    """The folder, if it is one of results.

    Raises:
        HarnessError: there is none, or it is the folder of one run.
    """
    from harness.results.folder import RECORD

    if folder.is_file():
        raise HarnessError(f"{folder}: this is a file; expected a folder of results, such as reports.")
    if not folder.is_dir():
        raise HarnessError(f"{folder}: there is no such folder; harness eval and harness run write to reports.")
    if (folder / RECORD).is_file():
        raise HarnessError(f"{folder}: this is one run; name the folder that it lies in, {folder.resolve().parent}.")
    return folder
