"""The pages of the site that are not written by hand (a hook of mkdocs): the reference, from the code; reports and
other documents of the repository, from where they are. Nothing of it is stored, so nothing of it can go stale."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from harness import plugin
from harness.cli.listing import parameters
from harness.plugin import components, hookspecs
from harness.plugin.base import KINDS, PLURALS, Component, Kind
from harness.plugin.catalogue import catalogue
from harness.results import leaderboard, schema

ROOT = Path(__file__).resolve().parents[1]

DOCUMENTS = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "benchmarks.md": "benchmarks/README.md",
    "bundled-model.md": "plugins/demo/README.md",
}
"""Pages that are documents of the repository."""

REPORTS = "reports/reference"
"""Reports that are pages with pictures."""

PYTHON = {
    "Runs, results and models: import harness": tuple(
        f"harness.{name}"
        for name in (
            "evaluate", "run", "Run", "load_run", "runs", "load_model", "LoadedModel", "zero", "mean", "hold",
            "register",
        )
    ),
    "Models": ("harness.model.loading.load_hf", "harness.model.model.Model", "harness.model.anatomy.Anatomy"),
    "Conditions": tuple(
        f"harness.conditions.{name}"
        for name in (
            "units.Unit", "units.Site", "units.Neuron", "units.Head", "units.Direction", "conditions.Selection",
            "conditions.Edit", "conditions.SetNeurons", "conditions.Frozen", "conditions.Condition",
            "positions.Positions",
        )
    ),
    "Engines": (
        "harness.engine.engine.Engine",
        "harness.engine.closed_form.ClosedFormEngine",
        "harness.engine.hooks.HookEngine",
        "harness.engine.scores.Scores",
        "harness.engine.generations.Generations",
    ),
    "Effects of many neurons": ("harness.effects.sweep.effects", "harness.effects.sweep.Effects"),
    "What tasks and metrics pass on": tuple(
        f"harness.plugin.records.{name}"
        for name in (
            "Prompt", "Step", "Prepared", "Outcomes", "Rows", "Alone", "Measurement", "Table", "Frame", "Figure",
        )
    ),
    "Statistics": tuple(
        f"harness.statistics.{name}"
        for name in (
            "Measure", "Functional", "summarise", "verdict", "permutation_test", "adjust", "interval_of",
            "table_tests", "derive_seed",
        )
    ),
    "Results": (
        "harness.results.folder.read_record", "harness.results.record.RunRecord", "harness.results.leaderboard.read",
        "harness.results.compare.compare", "harness.results.comparison.Comparison",
    ),
    "Tests of plugins": tuple(
        f"harness.testing.{name}"
        for name in (
            "tiny_model", "demo_model", "prompts_of", "check_selector", "check_intervention", "check_task",
            "check_metric", "check_corpus", "check_model_loader", "check_executor", "demo_outcomes",
        )
    ),
}  # fmt: skip
"""The public Python interface, by what it is for."""

HTML = str.maketrans({"<": "&lt;", "*": "&#42;", "{": "&#123;", "}": "&#125;"})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder (called by mkdocs before the navigation is made)."""
    for kind in KINDS:
        files.append(File.generated(config, f"reference/{PLURALS[kind]}.md", content=components_page(kind)))
    files.append(File.generated(config, "reference/hooks.md", content=hooks_page()))
    files.append(File.generated(config, "reference/cli.md", content=cli_page()))
    files.append(File.generated(config, "reference/leaderboard.md", content=leaderboard_page()))
    files.append(File.generated(config, "reference/python.md", content=python_page()))
    files.append(File.generated(config, "reference/schema.md", content=schema_page()))
    for name in schema.WHERE:
        text = json.dumps(schema.json_schema(name), indent=2, ensure_ascii=False) + "\n"
        files.append(File.generated(config, f"reference/{name}.schema.json", content=text))
    for page, source in DOCUMENTS.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")  # on the site, docs/ is the root
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / REPORTS).rglob("*")):
        name = f"reports/{path.relative_to(ROOT / REPORTS).as_posix()}"
        if path.suffix == ".md":
            text = folded(path.read_text(encoding="utf-8"))
            files.append(File.generated(config, name.replace("README.md", "index.md"), content=text))
        elif path.suffix == ".png":
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def folded(text: str) -> str:
    """A report of many runs with what it has of each run folded beneath the run's name and question: the whole of it is
    a hundred screens. Pictures are fetched when they come into sight."""
    text = re.sub(r"(?<=[^\n])\n(?=\| Measure \|)", "\n\n", text)
    text = re.sub(r"^(!\[.*\]\(.*\))$", r"\1{ loading=lazy }", text, flags=re.M)
    top, *sections = re.split(r"^(?=## )", text, flags=re.M)
    return top + "".join(map(_folded, sections))


def _folded(section: str) -> str:
    head, _, rest = section.partition("\n- **Model**")
    if not rest:
        return section
    inner = f"- **Model**{rest}".rstrip()
    return f'{head}\n\n<details markdown="1">\n<summary>Numbers and figures</summary>\n\n{inner}\n\n</details>\n\n'


# -- pages -------------------------------------------------------------------------------------------------------------


def components_page(kind: Kind) -> str:
    """All components of a kind, third parties' included where they are installed."""
    found, blocks = catalogue(), [f"# {PLURALS[kind].capitalize()}"]
    for name, cls in sorted(found.components[kind].items()):
        blocks += [f"## {name}", markdown(cls.__doc__ or "")]
        blocks += [table(("parameter", "type", "default", "what it is"), rows)] if (rows := _rows(cls)) else []
        blocks.append(f"*{'; '.join([*_traits(cls), f'version {cls.version}', f'from {found.origins[cls]}'])}*")
    return "\n\n".join(blocks)


def _rows(cls: type[Component]) -> list[tuple[str, ...]]:
    return [
        (f"`{name}`", type_, value if value in ("", "required") else f"`{value}`", escaped(what))
        for name, type_, value, what in parameters(cls)
    ]


def _traits(cls: type[Component]) -> Iterator[str]:
    """What a user of the component should know beside its parameters."""
    if not parameters(cls):
        yield "takes no parameters"
    if issubclass(cls, components.Intervention):
        yield f"edits {cls.site}"
    if issubclass(cls, components.Task):
        yield f"metrics {', '.join(cls.default_metrics) or 'none of its own'}"
        if not cls.intervenes:
            yield "edits nothing: leave `--intervention` out"


def hooks_page() -> str:
    """Every hook, and the base class of what it returns."""
    blocks = [
        "# Hooks and base classes",
        "A plugin is a module that an entry point of the group `harness` names and that implements one or more of "
        f"these hooks; their contract has version {hookspecs.CONTRACT_VERSION}. [Contributing](../contributing.md"
        "#writing-a-plugin) shows a whole package.",
    ]
    bases = {kind: getattr(plugin, "ModelLoader" if kind == "model" else kind.capitalize()) for kind in KINDS}
    for kind in KINDS:
        hook = getattr(hookspecs, hookspecs.HOOKS[kind])
        blocks += [f"## {hook.__name__}", code(signature(hook.__name__, hook)), markdown(hook.__doc__ or "")]
        blocks += described(bases[kind], "###")
    for hook in (hookspecs.harness_units, hookspecs.harness_published_neurons, hookspecs.harness_claims):
        blocks += [f"## {hook.__name__}", code(signature(hook.__name__, hook)), markdown(hook.__doc__ or "")]
    return "\n\n".join([*blocks, "## All components", *described(Component, "###")])


def cli_page() -> str:
    """Every command with its arguments and options, as `--help` shows them."""
    from typer.main import get_command

    from harness.cli.app import app

    return "\n\n".join(["# Command line", *_command("harness", get_command(app))])


def _command(name: str, command: Any) -> Iterator[str]:
    """A command's blocks, then those of its subcommands."""
    rows = [_option(param) for param in command.params if not getattr(param, "hidden", False)]
    if " " in name:
        yield f"## {name}"
    yield markdown(command.help or "")
    if rows:
        yield table(("option", "default", "what it does"), rows)
    offered = {sub: x.own for sub, x in getattr(command, "offered", {}).items() if x.first_party}
    for sub, inner in (getattr(command, "commands", {}) | offered).items():
        yield from _command(f"{name} {sub}", inner)


def _option(param: Any) -> tuple[str, str, str]:
    """Name, default and help of one argument or option."""
    options = [*param.opts, *param.secondary_opts]
    names = " ".join(f"`{x}`" for x in options) if options[0].startswith("-") else f"`{param.name.upper()}`"
    said = param.default is not False and param.default not in (None, "", ())
    default = "required" if param.required else f"`{param.default}`" if said else ""
    variable = f" Also from `{param.envvar}`." if getattr(param, "envvar", None) else ""
    return names, default, escaped(getattr(param, "help", None) or "") + variable


def leaderboard_page() -> str:
    """The columns of a leaderboard row."""
    return "\n\n".join(
        [
            "# Leaderboard columns",
            "Every row of `leaderboard.jsonl` has these columns, each of one type or null. `harness leaderboard "
            "--where`, `--sort` and `--columns` take their names, and `finding` (yes/no), which is computed over the "
            "whole board when it is shown.",
            table(("column", "type"), [(f"`{name}`", type_) for name, type_ in leaderboard.COLUMNS.items()]),
        ]
    )


def schema_page() -> str:
    """What is on the disk, field by field, from the models that read and write it."""
    blocks = [
        "# Schemas",
        "What a run writes and reads again, and the rows of the leaderboard, as "
        "[JSON Schema](https://json-schema.org): `harness schema record` prints it, and so do the others by name. "
        "A field that is not required may be missing in records that are older than it; [Files of a run](../files.md) "
        "says more of the record. From Python, "
        '`harness.load_run("reports/...").record` has these fields as attributes.',
    ]
    for name, where in schema.WHERE.items():
        found = schema.json_schema(name)
        blocks += [f"## {name}", f"Of {where}: [{name}.schema.json]({name}.schema.json)."]
        blocks += _fields(found)
        for part, inner in found.get("$defs", {}).items():
            blocks += [f"### {name}: {part}", *_fields(inner)]
    return "\n\n".join(blocks)


def _fields(found: dict[str, Any]) -> Iterator[str]:
    """What an object is, and its fields."""
    yield markdown(found.get("description", ""))
    rows = [
        (
            f"`{name}`",
            _json_type(field),
            "yes" if name in found.get("required", ()) else "",
            field.get("description", ""),
        )
        for name, field in found["properties"].items()
    ]
    told = any(row[-1] for row in rows)
    head = ("field", "type", "required", "what it is")
    yield table(head if told else head[:-1], rows if told else [row[:-1] for row in rows])


def _json_type(field: dict[str, Any]) -> str:
    """The type of a field, as people say it."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_json_type, field["anyOf"])))
    if "enum" in field:
        return " or ".join(f'"{value}"' for value in field["enum"])
    kinds = [field["type"]] if isinstance(field.get("type"), str) else field.get("type", ["any value"])
    inner = field.get("items") or field.get("additionalProperties")
    of = f" of {_json_type(inner)}" if isinstance(inner, dict) else ""
    return " or ".join(f"{kind}{of}" if kind in ("array", "object") else kind for kind in kinds)


def python_page() -> str:
    """The Python interface, from signatures and docstrings."""
    blocks = ["# Python interface", "What is here can be relied on; other modules may change without notice."]
    for title, names in PYTHON.items():
        blocks.append(f"## {title}")
        for path in names:
            module, _, name = path.rpartition(".")
            blocks += described(getattr(importlib.import_module(module), name), "###", f"`{module}`")
    return "\n\n".join(blocks)


# -- pieces ------------------------------------------------------------------------------------------------------------


def described(thing: Any, level: str, origin: str = "") -> list[str]:
    """A class with its public methods and properties, or a function: headings, signatures and docstrings."""
    blocks = [f"{level} {thing.__name__}", *([f"in {origin}"] if origin else [])]
    if not inspect.isclass(thing):
        return [*blocks, code(signature(thing.__name__, thing)), markdown(thing.__doc__ or "")]
    of_fields = issubclass(thing, BaseModel)  # their fields are on other pages: parameters, schemas
    if not of_fields and not getattr(thing, "_is_protocol", False):
        blocks.append(code(signature(thing.__name__, thing)))
    blocks.append(markdown(thing.__doc__ or ""))
    for name, member in vars(thing).items():
        is_attribute = isinstance(member, property | functools.cached_property)
        function = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        attribute = f"{name}: {inspect.signature(function).return_annotation}"
        shown = attribute if is_attribute else signature(name, function)
        about = inspect.cleandoc(function.__doc__)
        blocks.append(f"{level}# {thing.__name__}.{name}\n\n{code(shown)}\n\n{markdown(about)}")
    return blocks


class _Bare(str):
    """An annotation that is shown as it was written."""

    def __repr__(self) -> str:
        return str(self)


def signature(name: str, function: Any) -> str:
    """``name(a: int, b: str = "x") -> str``, one parameter a line where it is long."""
    found = inspect.signature(function)
    bare = [
        x.replace(annotation=x.annotation if x.annotation is x.empty else _Bare(x.annotation))
        for x in found.parameters.values()
        if x.name not in ("self", "cls")
    ]
    returns = found.return_annotation
    arrow = "" if returns is found.empty or returns is None else f" -> {returns}"
    one = f"{name}{found.replace(parameters=bare, return_annotation=found.empty)}{arrow}"
    if len(one) <= 88:
        return one
    return "\n".join([f"{name}(", *(f"    {x}," for x in bare), f"){arrow}"])


def code(text: str) -> str:
    return f"```python\n{text}\n```"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Text whose brackets, braces and asterisks stand for themselves outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(x if x.startswith("`") else x.translate(HTML) for x in parts)


def markdown(docstring: str) -> str:
    """A docstring as Markdown: roles and literals become code, sections (``Args:``) lists."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", inspect.cleandoc(docstring)).replace("``", "`")
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text))


def _block(block: str) -> str:
    title, _, rest = block.partition("\n")
    if not re.fullmatch(r"[A-Z][a-z ]*:", title) or not rest.startswith("    "):
        return escaped(block)
    entries = re.split(r"\n(?=\S)", textwrap.dedent(rest))
    listed = [re.sub(r"^([\w.`*, ]+): ", _named, " ".join(entry.split())) for entry in entries]
    return f"**{title[:-1]}**\n\n" + "\n".join(f"- {escaped(entry)}" for entry in listed)


def _named(match: re.Match[str]) -> str:
    """The names at the beginning of an entry, as code."""
    return ", ".join(f"`{name.strip('`')}`" for name in match[1].split(", ")) + ": "
