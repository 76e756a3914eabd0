"""What a command says where it refuses: typer's words as one sentence of ours, and every sentence as JSON for programs.

Our sentences begin with what they are about (``--selector: ...``, ``registry.yaml, line 12 (runs.one): ...``) and end
with the nearest valid name (:func:`harness.errors.suggest`); for programs these are read out of the sentence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from harness.errors import HarnessError, RunsNotMade, suggest

EXIT_CODE = 2
"""Of everything that is refused."""

OPTION = re.compile(r"(?:harness [\w -]+?: )?(--?[A-Za-z][\w-]*(?: [\w.]+)?)(?=[:,] )")
PLACE = re.compile(r"(?P<file>(?:[A-Za-z]:(?=[/\\]))?[^:\n]+?), line (?P<line>\d+)(?: \((?P<field>[^)]*)\))?: ")
FILE = re.compile(r"(?P<file>(?:[A-Za-z]:[/\\]|\.{0,2}/)[^:\n]+?|[^\s:]*[/\\.][^\s:]+)(?:: | has no )")
"""A path that says where it begins may hold spaces."""
PARAMETER = re.compile(r'parameter "([^"]+)"')
NEAREST = re.compile(r'Did you mean "([^"]+)"\?')


class Misused(HarnessError):
    """The command line has another form: an option that there is not, or whose value is none."""

    kind = "usage"


def is_typers(error: Exception) -> bool:
    """Whether it is typer's way to refuse a command line."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def misused(error: Any, words: Sequence[str]) -> Misused:
    """What typer refuses of the ``words`` of a command line, in one sentence."""
    context: Any = getattr(error, "ctx", None)
    message = str(error.format_message())
    command: Any = getattr(context, "command", None)
    path = _path(context)
    if (name := getattr(error, "option_name", None)) is not None:
        if not message.startswith("No such option"):
            return Misused(f"{name}: it needs a value.")
        known = [x for param in command.params for x in (*param.opts, *param.secondary_opts) if x.startswith("-")]
        return Misused(f"{path}: there is no option {name}.{suggest(name, known)}")
    if found := re.match(r"No such command '(.*?)'", message):
        commands = command.list_commands(context)
        near, there = suggest(found[1], commands), ", ".join(commands)
        return Misused(f'{path}: there is no command "{found[1]}".{near} There are: {there}.')
    if (param := getattr(error, "param", None)) is not None:
        is_option = param.param_type_name == "option"
        option = next((x for x in param.opts if x.startswith("--")), param.opts[-1])
        name = option if is_option else f"{path} {str(param.name).upper()}"
        if not error.message:
            about = (getattr(param, "help", None) or "").rstrip(".")
            return Misused(f"{name}: it must be given{f' ({about[:1].lower()}{about[1:]})' if about else ''}.")
        got = f", got {given!r}" if is_option and (given := _given(param.opts, words)) is not None else ""
        return Misused(f"{name}: {error.message[:1].lower()}{error.message[1:].rstrip('.')}{got}.")
    return Misused(f"{path}: {message[:1].lower()}{message[1:].rstrip('.')}.")


def _path(context: Any) -> str:
    """The command as it is typed, whatever started it."""
    words: list[str] = []
    while context is not None and context.parent is not None:
        words, context = [str(context.info_name), *words], context.parent
    return " ".join(["harness", *words])


def _given(options: Sequence[str], words: Sequence[str]) -> str | None:
    """The value of an option on a command line."""
    for word, then in itertools.pairwise([*words, ""]):
        if word in options:
            return then
        if word.partition("=")[0] in options:
            return word.partition("=")[2]
    return None


def json_wanted(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    pairs = itertools.pairwise([*words, ""])
    return any(
        word in ("--json", "--format=json") or (word in ("--format", "-f") and then == "json") for word, then in pairs
    )


def told(error: HarnessError) -> dict[str, Any]:
    """An error for programs: the sentence, and what it is about.

    Returns:
        message; kind (``usage``, ``mistake``, ``plugin``, ``system``, ``runs``); field: option, or place in the file;
        parameter: of a component; file, line; nearest: the valid name that is meant, perhaps; exit_code. What is not
        known is None. Of runs that were not made ``runs``, too: the name of each with its error.
    """
    message = str(error)
    option, place, file = OPTION.match(message), PLACE.match(message), FILE.match(message)
    of_file = place or (None if option else file)
    near = NEAREST.search(message)
    found: dict[str, Any] = {
        "message": message,
        "kind": error.kind,
        "field": option[1] if option else (place["field"] if place else None),
        "parameter": parameter[1] if (parameter := PARAMETER.search(message)) else None,
        "file": of_file["file"] if of_file else None,
        "line": int(place["line"]) if place else None,
        "nearest": near[1] if near else None,
        "exit_code": EXIT_CODE,
    }
    if isinstance(error, RunsNotMade):
        found["runs"] = {name: told(one) for name, one in error.runs.items()}
    return found
