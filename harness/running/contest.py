"""What an arena is asked for: selectors, models, tasks and one protocol for all, in words and as specifications."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import HarnessError
from harness.plugin.components import Intervention, ModelLoader, Selector, Task
from harness.plugin.specs import ComponentSpec, explain, parse_spec
from harness.running.request import default_name, model_named
from harness.running.spec import RunSpec, batch_size_of, check_match

if TYPE_CHECKING:
    from harness.plugin.catalogue import Catalogue

SELECTORS = (
    "random",
    "gradient_activation",
    "integrated_gradients",
    "value_neurons",
    "contrastive_difference",
    "sparse_probe",
    "lape",
    "entropy",
)
MODELS = ("demo", "planted:seed=1", "planted:seed=2")
PLANTED, FACTS = "planted_answer", "target_probability"
"""The task of a model in which something is planted, and of any other."""
ZERO, TEXT = ComponentSpec("zero", {}), ComponentSpec("text_loss", {})
PROSE = "prose"
"""Texts for models that have none of their own."""


@dataclass(frozen=True)
class Contest:
    """Selectors on models and tasks, under one protocol.

    Attributes:
        tasks: empty: each model's own (:data:`PLANTED`, :data:`FACTS`).
        neutral: the task whose loss says what else changes. seeds: K, the runs' seeds are 0 to K - 1.
        top, layer: given to selectors that have such a parameter and name none. limit, controls, match, batch_size,
        resamples: of every run.
    """

    selectors: tuple[ComponentSpec, ...]
    models: tuple[ComponentSpec, ...]
    tasks: tuple[ComponentSpec, ...] = ()
    intervention: ComponentSpec = ZERO
    neutral: ComponentSpec = TEXT
    seeds: int = 2
    top: int | None = 10
    layer: str | None = None
    limit: int | None = None
    controls: int | None = None
    match: str = "none"
    batch_size: int | str = 64
    resamples: int = 1000

    @property
    def settings(self) -> dict[str, int | str | None]:
        """What is the same in all rows, and makes their numbers."""
        names = ("seeds", "top", "layer", "limit", "controls", "match", "batch_size", "resamples")
        return {name: getattr(self, name) for name in names}


def listed(written: str, option: str) -> list[str]:
    """Components with commas between them: ``entropy:top=6,null_dims=12,lape`` are two.

    What has ``=`` before any ``:`` belongs to the component before it; commas in quotes and brackets separate nothing.

    Raises:
        HarnessError: there is none.
    """
    found: list[str] = []
    for part in re.findall(r"""(?:[^,"'\[\]{}]|"[^"]*"|'[^']*'|\[[^\]]*\]|\{[^}]*\})+""", written):
        if found and re.match(r"\s*\w+\s*=", part):
            found[-1] += f",{part}"
        elif part.strip():
            found.append(part.strip())
    if not found:
        raise HarnessError(f"{option}: name one or more, with commas between them.")
    return found


def contest(
    found: Catalogue,
    selectors: str | None,
    models: str | None,
    tasks: str | None,
    intervention: str,
    neutral: str,
    **settings: Any,
) -> Contest:
    """The contest that some words mean.

    Raises:
        HarnessError: a component is not there; suggests the nearest.
    """
    chosen = [parse_spec(x, "--selectors") for x in listed(selectors, "--selectors")] if selectors else []
    asked = [parse_spec(x, "--tasks") for x in listed(tasks, "--tasks")] if tasks else []
    made = Contest(
        tuple(chosen) or tuple(ComponentSpec(name, {}) for name in SELECTORS),
        tuple(model_named(x, found) for x in (listed(models, "--models") if models else MODELS)),
        tuple(asked),
        parse_spec(intervention, "--intervention"),
        parse_spec(neutral, "--neutral"),
        **settings,
    )
    for spec, base, option in (
        *((x, Selector, "--selectors") for x in made.selectors),
        *((x, Task, "--tasks") for x in (*made.tasks, made.neutral)),
        *((x, ModelLoader, "--models") for x in made.models),
    ):
        found.get(base, spec.name, option)
    found.build(Intervention, made.intervention, "--intervention")
    try:
        check_match(made.match)
    except ValueError as error:
        raise HarnessError(f'--match: "{made.match}": {error}.') from None
    return replace(made, batch_size=batch_size_of(made.batch_size))


@dataclass(frozen=True)
class Entry:
    """A selector on a model and a task: what a row is about. ``own``: the selector with the contest's top and layer."""

    contest: Contest
    selector: ComponentSpec
    model: ComponentSpec
    task: ComponentSpec
    own: ComponentSpec

    def asked(self, neutral: ComponentSpec) -> dict[str, Any]:
        """What the row's id is made of."""
        return {
            "selector": str(self.selector),
            "model": str(self.model),
            "task": str(self.task),
            "intervention": str(self.contest.intervention),
            "neutral": str(neutral),
            "settings": self.contest.settings,
        }

    def command(self, neutral: ComponentSpec) -> str:
        """What makes this row alone."""
        words = ["harness", "arena", "--selectors", str(self.selector), "--models", str(self.model)]
        words += ["--tasks", str(self.task)]
        for option, spec, default in (("intervention", self.contest.intervention, ZERO), ("neutral", neutral, TEXT)):
            words += [] if spec == default else [f"--{option}", str(spec)]
        for name, value in self.contest.settings.items():
            if value != getattr(Contest, name):
                words += [f"--{name}", str(value)]
        return shlex.join(words)

    def spec(self, seed: int, metric: str | None) -> RunSpec:
        """The run of one seed; ``metric``: the only one, or all of the task's own."""
        return run_spec(self.contest, self.model, self.task, self.own, seed, metric)


def run_spec(
    contest: Contest, model: ComponentSpec, task: ComponentSpec, selector: ComponentSpec, seed: int, metric: str | None
) -> RunSpec:
    """An ordinary run under the contest's settings.

    Raises:
        HarnessError: a setting is out of bounds.
    """
    try:
        return RunSpec(
            name=default_name(model, task, selector, contest.intervention),
            model=model,
            task=task,
            selector=selector,
            intervention=contest.intervention,
            metrics=() if metric is None else (ComponentSpec(metric, {}),),
            seed=seed,
            limit=contest.limit,
            controls=contest.controls,
            match=contest.match,
            batch_size=contest.batch_size,
            resamples=contest.resamples,
        )
    except ValidationError as error:
        raise HarnessError(explain(error, RunSpec, "harness arena")) from error


def entries(
    contest: Contest, model: ComponentSpec, planted: bool, own_texts: bool, found: Catalogue
) -> Iterator[Entry]:
    """All selectors on the tasks of a model.

    Args:
        planted: whether something is planted in the model. own_texts: whether it has texts of its own.
    """
    for task in contest.tasks or (ComponentSpec(PLANTED if planted else FACTS, {}),):
        for selector in contest.selectors:
            fields = found.get(Selector, selector.name, "--selectors").model_fields
            given = {"top": contest.top, "layer": contest.layer}
            more = {key: x for key, x in given.items() if x is not None and key in fields}
            own = ComponentSpec(selector.name, {**more, **selector.params})
            yield Entry(contest, selector, model, task, own if own_texts else _with_prose(own, found))


def _with_prose(selector: ComponentSpec, found: Catalogue) -> ComponentSpec:
    """The selector; one that wants texts and is given none, with prose."""
    with_prose = ComponentSpec(selector.name, {**selector.params, "corpus": PROSE})
    try:
        found.build(Selector, selector, "--selectors")
    except HarnessError:
        try:
            found.build(Selector, with_prose, "--selectors")
        except HarnessError:
            return selector  # what is wrong with it is said where it is planned
        return with_prose
    return selector


def neutral_of(contest: Contest, own_texts: bool, found: Catalogue) -> ComponentSpec:
    """The neutral task for a model: on its own texts, or on prose."""
    fields = found.get(Task, contest.neutral.name, "--neutral").model_fields
    if own_texts or "corpus" not in fields or "corpus" in contest.neutral.params:
        return contest.neutral
    return ComponentSpec(contest.neutral.name, {**contest.neutral.params, "corpus": PROSE})


def metric_of(task: ComponentSpec, found: Catalogue) -> str | None:
    """The metric whose first primary measure is the effect: the task's first."""
    names: Sequence[str] = found.get(Task, task.name, "--tasks").default_metrics
    return names[0] if names else None
