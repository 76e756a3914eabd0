"""The border between the harness and its plugins: every call of a component is made here.

What a component raises becomes one sentence that names it, its distribution and the call; what it hands over is looked
at (:mod:`harness.plugin.handed_selections`, :mod:`harness.plugin.handed_outcomes`, :mod:`harness.plugin.handed_edits`)
before anything is done with it; and the model must be as it was (:mod:`harness.model.untouched`). First-party
components are called as strangers' are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, PluginError
from harness.files.wording import shortened

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition, Edit, Frozen, Selection
    from harness.conditions.units import Unit
    from harness.engine.engine import Engine, Progress
    from harness.model.model import Model
    from harness.plugin.base import Component
    from harness.plugin.components import Corpus, Intervention, Metric, ModelLoader, SelectionContext, Selector, Task
    from harness.plugin.records import Figure, Frame, Measurement, Outcomes, Prepared, Prompt

LONGEST = 300
"""Characters of what an exception says that are told; ``--debug`` shows the rest."""


def owner(component: Component | type[Component]) -> str:
    """What errors call a component: ``selector loudest of harness-loudest 1.2.3``."""
    from harness.plugin.catalogue import origin_of

    cls = component if isinstance(component, type) else type(component)
    origin = origin_of(cls)
    own = f"{cls.kind} {getattr(cls, 'name', cls.__name__)}"
    return own if origin is None else f"{own} of {origin.distribution} {origin.version}"


def said(error: BaseException) -> str:
    """The kind of an exception and what it says, on one line, with what a name of an older contract is called now."""
    try:
        words = " ".join(str(error).split())
    except Exception:  # a stranger's exception may fail to say anything
        words = ""
    words = shortened(words, LONGEST)
    return f"{type(error).__name__}: {words}".rstrip(": ").rstrip(".") + _renamed(error, words)


def _renamed(error: BaseException, words: str) -> str:
    """What to call instead what a plugin of an older contract asked for, where that is why it failed."""
    from harness.plugin.hookspecs import CONTRACT_VERSION, RENAMED

    if isinstance(error, TypeError | AttributeError):
        for (cls, old), new in RENAMED.items():
            if cls in words and f"'{old}'" in words:
                return f" ({cls}.{old} is called {cls}.{new} in contract {CONTRACT_VERSION})"
    return ""


@contextlib.contextmanager
def asking(component: Component | type[Component], call: str) -> Iterator[None]:
    """Within the block, a component does what ``call`` says.

    Raises:
        PluginError: whatever it raises, SystemExit and BrokenPipeError, too: a run that did not end is not finished.
            What is a sentence already (HarnessError) stays one; an interruption stays an interruption.
    """
    try:
        yield
    except (KeyboardInterrupt, PluginError):
        raise
    except HarnessError as error:
        if getattr(component, "name", "") in str(error) or _ours(component):
            raise
        raise PluginError(f"{owner(component)}: {call}: {error}") from error
    except BaseException as error:
        raise PluginError(f"{owner(component)}: {call} raised {said(error)}.") from error


def _ours(component: Component | type[Component]) -> bool:
    """Whether it comes with the harness, whose sentences are complete."""
    from harness.plugin.catalogue import origin_of
    from harness.plugin.entries import FIRST_PARTY

    origin = origin_of(component if isinstance(component, type) else type(component))
    return origin is None or origin.distribution == FIRST_PARTY


def _who(component: Component, method: str) -> str:
    return f"{owner(component)}: {method}()"


# -- models and texts --------------------------------------------------------------------------------------------------


def load(loader: ModelLoader) -> Model:
    """The loader's model, in evaluation mode."""
    from harness.model.model import Model
    from harness.plugin.handed import expect, instance, text

    who = _who(loader, "load")
    with asking(loader, "load()"):
        model = loader.load()
    instance(model, Model, who)
    text(model.name, who, "the name of the model")
    expect(not model.hf.training, who, "returned a model in training mode, in which dropout acts; call eval()")
    return model


def planted(loader: ModelLoader) -> dict[str, float]:
    """What is planted in the loader's model, by the names of units: strengths above 0."""
    from harness.plugin.handed import expect, instance
    from harness.plugin.unit_kinds import kinds

    who = _who(loader, "planted")
    with asking(loader, "planted()"):
        found = dict(instance(loader.planted(), dict, who))
    for name, strength in found.items():
        named = any(unit.written.fullmatch(str(name)) for unit in kinds().values())
        expect(named, who, f"expected names of units, such as 11.2378, got {name!r}")
        fine = isinstance(strength, int | float) and 0 < strength < math.inf
        expect(fine, who, f"expected a strength above 0 of {name}, got {strength!r}")
    return {str(name): float(strength) for name, strength in found.items()}


def documents(corpus: Corpus) -> Iterator[str]:
    """The corpus's texts, one after another."""
    from harness.plugin.handed import instance, text

    who = _who(corpus, "documents")
    with asking(corpus, "documents()"):
        given = corpus.documents()
        if isinstance(given, str):  # it would be read letter by letter
            instance(given, list, who)
        texts = iter(given)
    while True:
        with asking(corpus, "documents()"):
            document = next(texts, None)
            if document is None:
                return
        yield text(document, who, "a text", empty=True)


def data_digest(component: Task | Corpus) -> str:
    """The digest of the data of a task or corpus."""
    from harness.plugin.handed import text

    with asking(component, "data_digest()"):
        found = component.data_digest()
    return text(found, _who(component, "data_digest"), "a digest", empty=True)


def n_items(task: Task) -> int | None:
    """How many items a task's data have; None where it cannot tell without a model."""
    from harness.plugin.handed import expect

    with asking(task, "n_items()"):
        found = task.n_items()
    right = found is None or (isinstance(found, int) and found >= 0)
    expect(right, _who(task, "n_items"), f"expected a number of items, or None, got {found!r}")
    return found


def inputs(component: Component) -> dict[str, str]:
    """Digests of the data that a component's parameters point to."""
    from harness.plugin.handed import instance

    with asking(component, "inputs()"):
        return dict(instance(component.inputs(), dict, _who(component, "inputs")))


def check(component: Component, model: Model) -> None:
    """Let a component, and those that are its parameters, refuse a model that its parameters do not fit."""
    from harness.plugin.base import Component

    for name in type(component).model_fields:
        if isinstance(nested := getattr(component, name), Component):
            check(nested, model)
    with asking(component, "check()"):
        component.check(model)


# -- before the conditions ---------------------------------------------------------------------------------------------


def prepare(task: Task, engine: Engine, limit: int | None, seed: int) -> Prepared:
    """The task's prompts."""
    from harness.model.untouched import untouched
    from harness.plugin.handed_selections import prepared

    who = _who(task, "prepare")
    with untouched(engine.model, who), asking(task, "prepare()"):
        found = task.prepare(engine, limit, seed)
    return prepared(found, engine.model, who)


def reads_prompts(selector: Selector) -> bool:
    """Whether the selector looks at the prompts that it is given."""
    with asking(selector, "reads_prompts()"):
        return bool(selector.reads_prompts())


def seen(selector: Selector, prompts: Sequence[Prompt]) -> int:
    """How many of these prompts the selector has seen among texts of its own."""
    with asking(selector, "has_seen()"):
        return sum(bool(selector.has_seen(prompt)) for prompt in prompts)


def select(selector: Selector, context: SelectionContext) -> Selection:
    """What the selector chooses."""
    from harness.model.untouched import untouched
    from harness.plugin.handed_selections import selection

    who = _who(selector, "select")
    with untouched(context.model, who), asking(selector, "select()"):
        found = selector.select(context)
    return selection(found, context.model, who)


def ready(intervention: Intervention, selection: Selection) -> Intervention:
    """The intervention for a selection."""
    from harness.plugin.components import Intervention
    from harness.plugin.handed import instance

    with asking(intervention, "prepare()"):
        found = intervention.prepare(selection)
    return instance(found, Intervention, _who(intervention, "prepare"))


def freeze(intervention: Intervention, model: Model) -> Frozen | None:
    """What the intervention freezes."""
    from harness.model.untouched import untouched
    from harness.plugin.handed_selections import frozen

    who = _who(intervention, "freeze")
    with untouched(model, who), asking(intervention, "freeze()"):
        found = intervention.freeze(model)
    return frozen(found, who)


def edits(
    intervention: Intervention, units: Sequence[Unit], statistics: Any, model: Model, twice: bool = False
) -> tuple[Edit, ...]:
    """The edits of exactly these units; a plugin's own kinds of edits are watched while they act.

    Args:
        twice: ask twice, try both on the same activations, and refuse what differs or is not finite.
    """
    from harness.plugin.handed_edits import checked, same_edits, watched

    who = _who(intervention, "edits")

    def ask() -> tuple[Edit, ...]:
        with asking(intervention, "edits()"):
            found = intervention.edits(units, statistics)
            checked(found, units, model, who)
        return tuple(watched(edit, intervention) for edit in found)

    made = ask()
    if twice:
        same_edits(made, ask(), model, who)
    return made


def alone(task: Task, selection: Selection, model: Model) -> tuple[tuple[Unit, ...], ...]:
    """The task's further sets of units."""
    from harness.plugin.handed import expect
    from harness.plugin.handed_selections import units

    who = _who(task, "alone")
    with asking(task, "alone()"):
        found = tuple(tuple(members) for members in task.alone(selection, model))
    for members in found:
        units(members, model, who, "a set")
        expect(bool(members), who, "gave an empty set")
    return found


def reference(task: Task, prompts: Sequence[Prompt], site: str) -> Any:
    """The parts of prompts that statistics are taken over."""
    from harness.plugin.handed_selections import reference as checked

    with asking(task, "reference()"):
        found = task.reference(prompts, site)
    return checked(found, prompts, _who(task, "reference"))


def acts_at(task: Task) -> frozenset[str]:
    """What interventions may ask for as positions."""
    with asking(task, "acts_at()"):
        return frozenset(map(str, task.acts_at()))


def spans(task: Task, prompts: Sequence[Prompt], model: Model) -> list[dict[str, tuple[int, int]]]:
    """The named parts of each prompt."""
    from harness.plugin.handed_selections import named_spans

    with asking(task, "named_spans()"):
        found = task.named_spans(prompts, model)
    return named_spans(found, prompts, _who(task, "named_spans"))


# -- under the conditions, and after -----------------------------------------------------------------------------------


def observe(
    task: Task,
    engine: Engine,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition],
    progress: Progress | None = None,
) -> Outcomes:
    """What the task observes of these prompts under these conditions."""
    from harness.model.untouched import untouched
    from harness.plugin.handed_outcomes import outcomes

    who = _who(task, "observe")
    with untouched(engine.model, who), asking(task, "observe()"):
        found = task.observe(engine, prompts, conditions, progress)
    return outcomes(found, prompts, conditions, who)


def measure(metric: Metric, outcomes: Outcomes) -> Measurement:
    """What the metric finds in outcomes, which it cannot change."""
    from harness.plugin.handed_outcomes import locked_outcomes, measurement

    with asking(metric, "measure()"):
        found = metric.measure(locked_outcomes(outcomes))
        return measurement(found, outcomes, _who(metric, "measure"))


def figures(component: Selector | Intervention, draw: Callable[[], Any]) -> tuple[Figure | Frame, ...]:
    """What ``draw`` (a call of the component's ``figures``) gives."""
    with asking(component, "figures()"):
        found: tuple[Figure | Frame, ...] = draw()
    return found


def shown(component: Component, method: str, found: Any, taken: dict[tuple[type, str], str]) -> list[Figure | Frame]:
    """Figures and tables of a component, whose functions that draw are watched, too.

    Args:
        taken: names of those of other components; these are added.
    """
    from harness.plugin.handed_outcomes import shown as checked
    from harness.plugin.records import Figure

    def guarded(figure: Figure) -> Figure:
        def draw(canvas: Any) -> None:
            with asking(component, f"drawing the figure {figure.name}"):
                figure.draw(canvas)

        return replace(figure, draw=draw)

    items = checked(found, _who(component, method), taken)
    return [guarded(item) if isinstance(item, Figure) else item for item in items]
