"""A run in the words of a person, on the command line or in Python, and the specification that they mean."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from harness.errors import HarnessError, suggest
from harness.files.paths import expand
from harness.files.wording import counted
from harness.plugin.components import ModelLoader, Task
from harness.plugin.notation import BARE, parse_params
from harness.plugin.specs import ComponentSpec, explain, parse_spec
from harness.running.changes import Change, changed
from harness.running.registry import Registry, models_for
from harness.running.spec import (
    BatchSize,
    Controls,
    EngineName,
    HoldOut,
    Limit,
    Match,
    Resamples,
    RunSpec,
    Seed,
    default,
)

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue

Written = str | Mapping[str, Any] | ComponentSpec
"""A component: ``"entropy:top=6"``, ``{"name": "entropy", "top": 6}``, or what these are read as."""

WORD = re.compile(r"""\w+=[^\s,"']+""")
"""A parameter without commas, quotes or spaces."""


@dataclass(frozen=True)
class Spelt:
    """How the command line spells a field, where it is not ``--field VALUE`` alone.

    Attributes:
        others: further spellings. each: the option that gives one item of several. metavar: what help calls its value.
    """

    others: tuple[str, ...] = ()
    each: str | None = None
    metavar: str | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One run as it is asked for: the options of ``harness eval`` and ``harness plan``, and what ``harness.evaluate``
    takes. Bounds are those of :class:`harness.running.spec.RunSpec`, which :meth:`specification` makes of it.
    """

    task: Annotated[Written, Field(description="Task, for example knowledge_conflict."), Spelt(("--tasks", "-t"))]
    selector: Annotated[Written, Field(description="Selector, for example entropy:top=6,null_dims=12."), Spelt(("-s",))]
    intervention: Annotated[
        Written | None,
        Field(description="Intervention, for example mean; none where the task edits nothing."),
        Spelt(("-i",)),
    ] = None
    model: Annotated[
        Written | Path,
        Field(description="Loader (demo, hf), a model of the registry, a hub id or a folder."),
        Spelt(("-m",)),
    ] = field(default="demo", kw_only=False)
    model_args: Annotated[
        str, Field(description="Loader parameters: pretrained=gpt2,dtype=float32."), Spelt(("-a",))
    ] = ""
    device: Annotated[str | None, Field(description="cpu, cuda, cuda:0, mps; default: the best there is.")] = None
    include_path: Annotated[str | None, Field(description="With --task lm_eval:NAME: more tasks.")] = None
    num_fewshot: Annotated[int | None, Field(description="With --task lm_eval:NAME: examples shown.")] = None
    metrics: Annotated[
        Written | Sequence[Written],
        Field(description="Metric; may be repeated; default: the task's."),
        Spelt(each="--metric"),
    ] = ()
    controls: Controls = default("controls")
    match: Match = default("match")
    hold_out: HoldOut = default("hold_out")
    margins: Annotated[
        Mapping[str, float] | Sequence[str],
        Field(description="Difference that matters of a measure; may be repeated."),
        Spelt(each="--margin", metavar="NAME=D"),
    ] = ()
    seed: Seed = default("seed")
    engine: EngineName = default("engine")
    batch_size: Annotated[BatchSize, Spelt(("-b",))] = default("batch_size")
    limit: Annotated[Limit, Spelt(("-L",), metavar="N")] = default("limit")
    resamples: Resamples = default("resamples")
    name: Annotated[str | None, Field(description="Name of the run; default: made of its components.")] = None
    registry: Annotated[
        Path | str | None, Field(description="Registry file; default: ./registry.yaml, else the bundled one.")
    ] = None

    def specifications(self, found: Catalogue, changes: Sequence[Change] = ()) -> list[RunSpec]:
        """What it means where several tasks may be named (``--tasks a,b``): a run for each of ours, and one for all of
        another collection's.

        Raises:
            HarnessError: as :meth:`specification`; or one of several names is no task.
        """
        tasks = tasks_of(self.task, found, self.include_path is not None)
        return [replace(self, task=task).specification(found, changes=changes) for task in tasks]

    def specification(self, found: Catalogue, asker: str = "harness eval", changes: Sequence[Change] = ()) -> RunSpec:
        """What it means, given the components that there are.

        Args:
            asker: who asks, in errors. changes: of settings and of components' parameters; they have the last word.

        Raises:
            HarnessError: a component or the model cannot be read or is not there, or a setting is none, or out of
                bounds; names it.
        """
        said = {change.key[0]: change for change in changes if change.whole}
        asked = replace(self, **{name: x.value for name, x in said.items() if name in type(self).__dataclass_fields__})
        try:
            spec = changed(asked._specification(found, said), [x for x in changes if not x.whole], found)
        except ValidationError as error:
            first = str((*error.errors()[0]["loc"], "")[0])
            place = f"{said[first].place}: " if first in said else ""
            raise HarnessError(f"{place}{explain(error, RunSpec, asker)}") from error
        if asked.name is None:  # after the parameters of its components that are in it
            name = default_name(spec.model, spec.task, spec.selector, spec.intervention)
            return spec.model_copy(update={"name": name})
        return spec

    def _specification(self, found: Catalogue, said: Mapping[str, Change]) -> RunSpec:
        """What its own fields mean; ``said``: whole settings, for who is to be named in errors, and those that are no
        fields of a request.

        Raises:
            HarnessError: as :meth:`specification`. ValidationError: a setting is none, or out of bounds.
        """
        place = {name: change.place for name, change in said.items()}
        registry = None if self.registry is None else expand(self.registry)
        model = model_named(self.model, found, self.model_args, self.device, registry)
        tasks = tasks_of(self.task, found, self.include_path is not None)
        if len(tasks) > 1:
            raise HarnessError(f"--task: {self.task} is {counted(len(tasks), 'run')}; here one task is named.")
        asked = parse_spec(tasks[0], place.get("task", "--task"))
        chosen = parse_spec(self.selector, place.get("selector", "--selector"))
        shown = {"include_path": self.include_path, "num_fewshot": self.num_fewshot}
        task = ComponentSpec(asked.name, {**asked.params, **{k: v for k, v in shown.items() if v is not None}})
        edit = None if self.intervention is None else parse_spec(self.intervention, "--intervention")
        metrics = [self.metrics] if isinstance(self.metrics, str | Mapping | ComponentSpec) else self.metrics
        return RunSpec(
            name=self.name or default_name(model, task, chosen, edit),
            model=model,
            task=task,
            selector=chosen,
            intervention=edit,
            metrics=tuple(parse_spec(item, "--metric") for item in metrics or ()),
            margins=dict(self.margins) if isinstance(self.margins, Mapping) else _margins(self.margins or ()),
            **{setting: getattr(self, setting) for setting in SETTINGS},
            **{name: said[name].value for name in ("description", "resources") if name in said},
        )


SETTINGS = ("controls", "match", "hold_out", "seed", "engine", "batch_size", "limit", "resamples")
"""Fields of a request that are fields of :class:`RunSpec` as they are."""


def tasks_of(written: Written, found: Catalogue, included: bool = False) -> list[Written]:
    """The tasks that are named: one, with its parameters, or several names with commas between them.

    Args:
        included: whether there are definitions (``--include_path``) that names may be of.

    Raises:
        HarnessError: one of several names is no task.
    """
    if not isinstance(written, str) or ":" in written:
        return [written]
    names = [name.strip() for name in written.split(",")]
    tasks = found.of(Task)
    ours, others = ([name for name in names if (name in tasks) == here] for here in (True, False))
    if not others:
        return [*ours]
    takers = [task for task in tasks.values() if task.positional is not None]
    for task in takers:
        if (included and "include_path" in task.model_fields) or all(task.takes(name) for name in others):
            return [*ours, ComponentSpec(task.name, {BARE: tuple(others)})]
    if len(names) == 1:
        return [written]  # whose error names the nearest
    unknown = next((name for name in others if not any(task.takes(name) for task in takers)), others[0])
    raise HarnessError(f'--tasks: there is no task "{unknown}".{suggest(unknown, tasks)}')


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


def reports_folder() -> Path:
    """Where runs are left when nobody says where: what HARNESS_REPORTS_DIR names, else ``reports``."""
    return Path(os.environ.get("HARNESS_REPORTS_DIR") or "reports")


def model_named(
    written: Written | Path,
    found: Catalogue,
    arguments: str = "",
    device: str | None = None,
    registry: Path | Registry | None = None,
) -> ComponentSpec:
    """The loader of a model: one with its parameters, a model of the registry, a hub id or a folder.

    Args:
        arguments: further parameters of the loader, ``pretrained=gpt2,dtype=float32``.
        registry: the registry or its file, which is read where the name may be in it; None: the default one.

    Raises:
        HarnessError: there is none of this name; suggests the nearest.
    """
    words = arguments.split()
    if len(words) > 1 and all(WORD.fullmatch(word) for word in words):  # lm-eval takes spaces for commas, too
        arguments = ",".join(words)
    given = parse_params(arguments, "--model_args")
    if device is not None:
        given["device"] = device
    name = str(written) if isinstance(written, str | Path) else None
    spec = parse_spec(written, "--model") if name is None else _loader(name, found, registry)
    return ComponentSpec(spec.name, {**spec.params, **given})


def _loader(name: str, found: Catalogue, registry: Path | Registry | None) -> ComponentSpec:
    loaders = found.of(ModelLoader)
    models = registry.models if isinstance(registry, Registry) else models_for(name, loaders, registry)
    if name.partition(":")[0] in loaders:
        return parse_spec(name, "--model")
    if name in models:
        return models[name]
    if "/" in name or expand(name).exists():
        return ComponentSpec("hf", {"pretrained": name})
    known = [*loaders, *models]
    raise HarnessError(
        f'--model: "{name}" is no loader, no model of the registry and no folder.{suggest(name, known)} '
        f"There are: {', '.join(known)}. For a hub model without an owner write hf:pretrained={name}."
    )


def default_name(
    model: ComponentSpec, task: ComponentSpec, selector: ComponentSpec, intervention: ComponentSpec | None
) -> str:
    """What a run is called whose name nobody gives: its components; of lm-eval's tasks, these."""
    asked = _fit("_".join(task.params.get(BARE, ())).removesuffix(".yaml") or task.name, task.name)
    return "-".join([short_name(model), asked, selector.name, *([intervention.name] if intervention else [])])


def short_name(model: ComponentSpec) -> str:
    """A name for a model that can be part of a folder's name."""
    return _fit(
        str(model.params.get("pretrained") or model.params.get("package") or model.name).rstrip("/").rsplit("/", 1)[-1],
        model.name,
    )


def _fit(name: str, otherwise: str) -> str:
    """A name as it can be part of a folder's, if anything is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:60] or otherwise


def command_of(spec: RunSpec, output: Path) -> str:
    """The command that makes this run, in the folder that this one is made in.

    Settings that are as they would be by default are left out.
    """
    words = ["harness", "eval"]
    for option, written in (
        ("--model", spec.model), ("--task", spec.task), ("--selector", spec.selector),
        ("--intervention", spec.intervention), *(("--metric", metric) for metric in spec.metrics),
    ):  # fmt: skip
        words += [] if written is None else [option, str(written)]
    for setting in SETTINGS:
        value = getattr(spec, setting)
        words += [] if value == default(setting) else [f"--{setting}", str(value)]
    for measure, margin in spec.margins.items():
        words += ["--margin", f"{measure}={margin}"]
    if spec.name != default_name(spec.model, spec.task, spec.selector, spec.intervention):
        words += ["--name", spec.name]
    return shlex.join([*words, *([] if output == reports_folder() else ["--output_path", str(output)])])
