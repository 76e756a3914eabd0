"""``harness push``: a finished run as a dataset repository of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Debug
from harness.files.terminal import say
from harness.plugin import counted


def push_run(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[str, typer.Option("--to", help="Dataset repository, user/dataset.")],
    public: Annotated[bool, typer.Option("--public", help="Everybody can read it; by default only you.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In place of another run that is there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", "--dry-run", help="List what would be sent; ask the hub for nothing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Send a finished run to a dataset repository of the Hugging Face hub: card, record, page, figures, Parquet.

    The repository is private unless --public is given. One that holds anything else is left alone.
    """
    from .repository import files_of
    from .sending import check_name, push

    if dry_run:
        files = files_of(run, check_name(to))
        for path, data in sorted(files.items()):
            say(f"{len(data):>12,}  {path}")
        say(f"{counted(len(files), 'file')} for https://huggingface.co/datasets/{to}; nothing was sent", err=True)
        return
    say(push(run, to, public, replace, lambda sentence: say(sentence, err=True)))
