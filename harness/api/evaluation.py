"""Runs made from Python, in the words of the command line."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from harness.api.finished import Run
from harness.api.words import in_words
from harness.errors import HarnessError, HarnessWarning, mendable
from harness.files.paths import expand
from harness.plugin import border
from harness.plugin.base import Component
from harness.plugin.catalogue import Catalogue, catalogue
from harness.plugin.components import ModelLoader
from harness.plugin.notation import write_value
from harness.plugin.specs import ComponentSpec
from harness.running import environment, executors
from harness.running.changes import changes_in
from harness.running.named import named, too_few_controls
from harness.running.registry import default_path, load_registry
from harness.running.request import Request, Written, command_of, model_named, reports_folder
from harness.running.telling import Telling, reporters

if TYPE_CHECKING:
    from harness.api.loaded import LoadedModel
    from harness.running.spec import RunSpec

ComponentClass = TypeVar("ComponentClass", bound=type[Component])


@dataclass(frozen=True, kw_only=True)
class Evaluation(Request):
    """A request of Python: with where the run is left."""

    output_path: Annotated[
        Path | str | None, Field(description="Folder for results; default: HARNESS_REPORTS_DIR, else ./reports.")
    ] = None
    fresh: Annotated[bool, Field(description="Forget an earlier or interrupted run.")] = False
    report: Annotated[
        Sequence[Written], Field(description='Reporters to tell, beside page and leaderboard: ["wandb"].')
    ] = ()
    progress: Annotated[
        bool | None, Field(description="Show it; default: where a person is watching (a terminal, a notebook).")
    ] = None
    executor: Annotated[
        Written, Field(description='Where: "local" (in this process), "ray", "slurm:partition=gpu" ...')
    ] = "local"


@in_words(Evaluation)
def evaluate(request: Evaluation) -> Run:
    """One run: these neurons, this intervention, this task, against random controls.

    It is the run of ``harness eval`` with the same words: of the same name and identity, in the same folder, with the
    same bytes where nobody imported torch before. One that is finished is not made again; one that was interrupted,
    by Ctrl-C, too, continues from the prompts that are finished. Components are text (``"entropy:top=6"``) or mappings
    (``{"name": "entropy", "top": 6}``).

    Raises:
        HarnessError: whatever can be mended: the sentence that the command says.
    """
    environment.prepare()
    with mendable():
        found = _installed()
        spec, output = request.specification(found), _path(request.output_path) or reports_folder()
        told = _telling(found, request.report, request.progress)
        command = command_of(spec, output)
        [run] = _made([spec], found, command, output, request.fresh, told, request.executor)
    return run


def run(
    *names: str,
    model: str | None = None,
    device: str | None = None,
    limit: int | float | None = None,
    changes: Mapping[str, Any] | None = None,
    registry: str | Path | None = None,
    output_path: str | Path | None = None,
    report: Sequence[Written] = (),
    fresh: bool = False,
    progress: bool | None = None,
    executor: Written = "local",
) -> list[Run]:
    """Runs, matrices and suites of the registry by name, as ``harness run`` makes them.

    Args:
        model: run them on this one instead, with the registry's settings for it.
        limit: override the runs' limit.
        changes: settings of the runs, as ``--set`` has them: ``{"controls": 199, "selector.top": 8}``.
        report: reporters to tell, beside those that the registry names.
        executor: where, ``"ray:address=auto"``; default: in this process.
        The others: as for :func:`evaluate`.

    Raises:
        HarnessError: there is no run of a name, or what :func:`evaluate` raises. Of a run that cannot be made it is
            raised when the others are finished; they are in the folder then (:func:`harness.runs`).
    """
    environment.prepare()
    options = {"--model": model, "--device": device, "--limit": limit, "--registry": registry}
    options |= {"--output_path": output_path}
    given = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
    given += [word for key, value in (changes or {}).items() for word in ("--set", f"{key}={write_value(value)}")]
    with mendable():
        found, known = _installed(), load_registry(_path(registry) or default_path())
        if not names:
            raise HarnessError(f"name one or more runs; {known.path} has: {', '.join(known.runs) or 'none'}.")
        specs = named(names, known, found, model, device, limit, changes_in(changes or {}))
        output, told = _path(output_path) or reports_folder(), _telling(found, [*known.report, *report], progress)
        command = shlex.join(["harness", "run", *names, *given])
        return _made(specs, found, command, output, fresh, told, executor)


def _made(
    specs: Sequence[RunSpec],
    found: Catalogue,
    command: str,
    output: Path,
    fresh: bool,
    told: Telling,
    executor: Written,
) -> list[Run]:
    """Validate every run before the first one starts, then make them, those on the same prompts together."""
    from harness.running.execute import grouped_by_prompts, plan

    plans = [plan(spec, found) for spec in specs]
    for note in too_few_controls(specs):
        told.note(f"{note}.")
    chosen, groups = executors.executor_of(executor), grouped_by_prompts(plans)
    with told:
        made = [one for some in executors.make(chosen, groups, output, command, fresh, told) for one in some]
    executors.check_all_made(made)
    try:
        told.check()
    except HarnessError as error:  # the runs are there: whoever made them wants them
        warnings.warn(str(error), HarnessWarning, stacklevel=4)
    return [Run(one.path) for one in executors.finished_of(made)]


def load_model(model: Written | Path | Any = "demo", *, device: str | None = None, **parameters: Any) -> LoadedModel:
    """A model with its tokenizer, its parts found and verified, in evaluation mode.

    Args:
        model: as for :func:`evaluate`; or a model of ``transformers`` that is there already, which stays as it is.
        device: "cpu", "cuda", "cuda:0", "mps"; None: the best there is.
        parameters: further ones of its loader, ``dtype="bfloat16"``; of a model that is there ``tokenizer=`` (default:
            what lies beside its weights) and ``add_bos=``.

    Raises:
        HarnessError: there is none, or it cannot be verified.
    """
    from harness.api.loaded import LoadedModel

    environment.prepare()
    with mendable():
        if not isinstance(model, str | Mapping | ComponentSpec | Path):
            from harness.api.conditions import opened

            if device is not None:
                raise HarnessError("device: the model is there already; move it before, with model.to(...).")
            return opened(model, **parameters)
        found = _installed()
        spec = model_named(model, found, "", device)
        spec = ComponentSpec(spec.name, {**spec.params, **parameters})
        return LoadedModel.of(border.load(found.build(ModelLoader, spec, "load_model")))


def register(component: ComponentClass) -> ComponentClass:
    """Let a component of this process be named as an installed one is; also as a decorator of its class.

    It replaces one of the same kind and name that was registered before. A digest of its source is part of a run's
    identity, so that a changed class makes another run; of what it calls outside of the class it is not: raise its
    ``version`` when that changes.

    Raises:
        HarnessError: it is no component, its name is an installed one's, or its source cannot be read.
    """
    catalogue().register(component)
    return component


def _installed() -> Catalogue:
    found = catalogue()
    for broken in found.broken:
        warnings.warn(f"left out {broken}", HarnessWarning, stacklevel=3)
    return found


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else expand(given)


def _telling(found: Catalogue, asked: Sequence[Written], progress: bool | None) -> Telling:
    return Telling(reporters(found, asked, ComponentSpec("console", {"progress": progress, "report": "none"})))
