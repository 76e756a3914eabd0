"""The kinds of components, and how one is written down: ``entropy:top=6,null_dims=12``.

A component is a pydantic model. Its fields are its parameters: their types, bounds, defaults and descriptions are what
``harness list NAME`` prints, what a specification is validated by, and what the result record stores.
Modules that define components must not import torch, transformers or datasets at the top: listing must stay instant.
"""

from __future__ import annotations

import abc
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from harness.errors import HarnessError, PluginError, suggest
from harness.files.published_counts import counts_file
from harness.plugin.notation import BARE, not_key_value, parse_params, write_params
from harness.plugin.places import PositionsText
from harness.progress import Stage, silent

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition, Edit, Frozen, Selection
    from harness.conditions.units import Unit
    from harness.engine.engine import Engine, Progress
    from harness.model.model import Model
    from harness.plugin.records import Figure, Frame, Matrix, Measurement, Outcomes, Prepared, Prompt

Kind = Literal["model", "corpus", "selector", "intervention", "task", "metric", "reporter", "executor"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PLURALS: dict[Kind, str] = {kind: "corpora" if kind == "corpus" else f"{kind}s" for kind in KINDS}


class Component(BaseModel, abc.ABC):
    """Base of all components: an immutable set of validated parameters.

    Class attributes:
        name: what users type; unique within its kind.
        version: raise it when results of the same parameters change; it is part of a run's identity.
        positional, later: see below.
        kind: set by the base class of each kind, below and in :mod:`harness.plugin.reporters` and ``executors``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    positional: ClassVar[str | None] = None
    """The parameter that values without a name belong to: ``lm_eval:arc_easy`` is ``lm_eval:tasks=[arc_easy]``."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Own parameters that a later version has brought: where they are left at their defaults, runs depend on nothing
    more than they did before, and are still the same runs."""
    kind: ClassVar[Kind]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Whole numbers fit 64 bits: what they are handed to has no larger ones."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"expected a number of at most 64 bits in {name}")
        return self

    @classmethod
    def summary(cls) -> str:
        """First sentence of the docstring."""
        return inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    def check(self, model: Model) -> None:
        """Refuse a model that the parameters do not fit: layers, numbers of units, positions, files.

        Called once the model is loaded and before any prompt is made. Components that are parameters are asked by
        themselves. By default nothing is refused.

        Raises:
            HarnessError: names the parameter, and what the model has.
        """

    def identity(self) -> dict[str, Any]:
        """What a run depends on: name, version and every parameter with its value."""
        later = {name for cls in type(self).__mro__ for name in cls.__dict__.get("later", ())}
        new = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        params = self.model_dump(mode="json", exclude=new)
        nested = {key: value for key in params if isinstance(value := getattr(self, key), Component)}
        return {
            "name": self.name,
            "version": self.version,
            "params": params | {key: value.identity() for key, value in nested.items()},
        }

    def inputs(self) -> dict[str, str]:
        """sha256 of the data that parameters point to, by parameter: of corpora, and of files marked ``InputFile``.

        Raises:
            HarnessError: a file cannot be read.
        """
        found: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Component):
                found |= {f"{name}.{key}": digest for key, digest in value.inputs().items()}
            elif isinstance(value, str) and (marks := [x for x in field.metadata if isinstance(x, InputFile)]):
                from harness.files.digests import files_digest

                found[name] = files_digest([marks[0].find(value)])
        return found


class ModelLoader(Component):
    """Loads a language model."""

    kind = "model"
    corpus: ClassVar[str | None] = None
    """Texts like those that the model was trained on, for components that read texts where the user names none (see
    :data:`ModelCorpus`); None: the user has to."""
    labelled: ClassVar[Mapping[str, str]] = {}
    """Files of labelled texts that are the model's own, by what a label says: ``truthfulness`` (the statement is true)
    and ``refusal`` (the prompt should be refused). For components that read such where the user names none."""
    refusals: ClassVar[tuple[str, ...]] = ()
    """How the model's refusals begin, where that is known."""

    @classmethod
    def is_at(cls, path: str) -> bool:
        """Whether a folder holds the model whose :attr:`corpus` it is, for who loads it from there by other means."""
        return False

    def planted(self) -> Mapping[str, float]:
        """Units, as text, that were built to have an effect on the answer of a task, each with its strength (above 0);
        by default nothing is planted. Selectors are judged by it (``harness arena``): what else they choose is false.
        """
        return {}

    @abc.abstractmethod
    def load(self) -> Model:
        """Return the model with its tokenizer, in evaluation mode on its device."""


@dataclass(frozen=True)
class InputFile:
    """Marks a parameter that is the path of a file: its content is part of a run's identity.

    Attributes:
        find: from what users write to the file, where a name stands for one.
    """

    find: Callable[[str], Path] = Path


def _source(value: str) -> str:
    if not value.strip() or "\0" in value:
        raise ValueError("expected the name of a file or folder, or an id on the hub")
    return value


Source = Annotated[str, AfterValidator(_source)]
"""Type of a parameter that is a file, a folder, or the id of something on the hub."""

CountsPath = Annotated[Source | None, InputFile(counts_file)]
"""Type of a parameter that is a file of token counts, or the name of a published one (openwebtext-gpt2)."""


INNER = "a component within another"


def _nested(base: type[Component]) -> BeforeValidator:
    """Accept another component as a user writes it: its name, ``name:key=value``, or a mapping with its name."""

    def found(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Component):
            return value
        from harness.plugin.catalogue import catalogue

        corpus = (info.context or {}).get("corpus")
        try:
            return catalogue().build(base, parse_spec(value, INNER), INNER, corpus)
        except PluginError:
            raise
        except HarnessError as error:  # whoever is built says which of its parameters it is
            raise ValueError(str(error).removeprefix(f"{INNER}: ")) from error

    return BeforeValidator(found)


def _models_own(value: Any, info: ValidationInfo) -> Any:
    """In place of no corpus that of the model, which the context of the validation names."""
    own = (info.context or {}).get("corpus")
    if value is None and own is None:
        raise ValueError(
            f"name the texts to read, for example {info.field_name}=text:path=FILE (only the bundled models have "
            "texts of their own)"
        )
    return own if value is None else value


@dataclass(frozen=True)
class SelectionContext:
    """What a selector may look at: the model, an engine on it, the task's prompts as token ids, and a seed.

    ``fields``: what the task remembers of each of these prompts (:attr:`harness.plugin.Prompt.fields`); may be empty.
    ``held_out``: the run is not evaluated on these prompts, but on others. ``stage``: tells of work that takes long,
    ``with context.stage("effects of 3,072 neurons", steps) as advance``.
    """

    model: Model
    engine: Engine
    prompts: Sequence[Sequence[int]]
    seed: int
    held_out: bool = False
    stage: Stage = silent
    fields: Sequence[Mapping[str, Any]] = ()


class Corpus(Component):
    """Texts: what unigram distributions are counted on, and what analyses over plain text read."""

    kind = "corpus"
    document_parameter: ClassVar[str | None] = None
    """The parameter that says what one document is, for whom a corpus has too few."""

    @abc.abstractmethod
    def documents(self) -> Iterable[str]:
        """The texts, one after another, in the same order every time."""

    @abc.abstractmethod
    def data_digest(self) -> str:
        """sha256 of what the texts depend on; part of a run's identity."""

    def inputs(self) -> dict[str, str]:
        return {"data": self.data_digest()}


class Selector(Component):
    """Chooses units: neurons, heads, directions, or those of a plugin's kind."""

    kind = "selector"
    site: ClassVar[str | None] = None
    """What it chooses: the name of a site, such as "neurons"; None: that is known only when it has chosen."""

    def reads_prompts(self) -> bool:
        """Whether :meth:`select` looks at ``context.prompts``, itself or through a selector that is its parameter.

        One that does not chooses before the prompts are made, with ``context.prompts`` empty, so that what is wrong
        with its choice is found at once. For one that does, a part of the prompts is held out of the evaluation
        (:mod:`harness.running.held_out`).
        """
        return True

    def has_seen(self, prompt: Prompt) -> bool:
        """Whether :meth:`select` looks at this prompt but not in ``context.prompts``: among texts of its own.

        Asked of the prompts that are evaluated: what is found on those that had a say in the choice is exploratory.
        """
        return False

    @abc.abstractmethod
    def select(self, context: SelectionContext) -> Selection:
        """Return the chosen units with the scores and the rule that chose them."""

    def figures(self, selection: Selection) -> tuple[Figure | Frame, ...]:
        """Figures, and tables, of what :meth:`select` returned."""
        return ()


AnyCorpus = Annotated[Corpus, _nested(Corpus), WithJsonSchema({"type": "corpus"})]
"""Type of a parameter that is a corpus: ``corpus: AnyCorpus | None = Field(None, description=...)``."""

ModelCorpus = Annotated[AnyCorpus, BeforeValidator(_models_own), Field(default=None)]
"""Type of a corpus that must be named unless the model has texts of its own (:attr:`ModelLoader.corpus`):
``corpus: ModelCorpus = Field(description=...)``. No model reads another one's texts unasked."""

AnySelector = Annotated[Selector, _nested(Selector), WithJsonSchema({"type": "selector"})]
"""Type of a parameter that is a selector."""

AnyModel = Annotated[ModelLoader, _nested(ModelLoader), WithJsonSchema({"type": "model"})]
"""Type of a parameter that is a model."""


def _unread_mapping(value: Any) -> Any:
    """``{query}``, which YAML takes for a mapping, as the text that it stands for."""
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value.values())) in (None, ""):
        return f"{{{next(iter(value))}}}"
    return value


Template = Annotated[str, BeforeValidator(_unread_mapping)]
"""Type of a parameter that is a text with ``{places}``; ``template: {query}`` in YAML is ``"{query}"``."""


if TYPE_CHECKING:
    from typing_extensions import TypeVar as Default

    UnitT = Default("UnitT", bound=Unit, default=Any)
    StatisticsT = Default("StatisticsT", default=Any)
else:  # Python has defaults of type variables from 3.13 on
    UnitT, StatisticsT = TypeVar("UnitT"), TypeVar("StatisticsT")


class Intervention(Component, Generic[UnitT, StatisticsT]):
    """Says how chosen units are edited.

    For type checkers it says of which kind the units are and what their statistics: ``Intervention[Neuron,
    "ActivationStatistics"]``, ``Intervention[Head, "HeadStatistics"]``, ``Intervention[Direction, None]``; a plain
    ``Intervention`` takes anything.
    """

    kind = "intervention"
    site: ClassVar[str] = "neurons"
    """What it edits: the name of a site, such as "neurons", "heads" or "directions"."""
    one_number: ClassVar[bool] = False
    """Whether it acts on the units of every site whose activation is one number, neurons among them; what it makes are
    then edits with the units' own ``where``."""
    needs_statistics: ClassVar[bool] = True
    """Whether :meth:`edits` wants the activation statistics of the units."""

    @classmethod
    def acts_on(cls, kind: type[Unit]) -> bool:
        """Whether it can edit units of this kind."""
        return kind.site == cls.site or (cls.one_number and kind.one_number)

    later = frozenset({"positions"})
    positions: PositionsText = Field(
        "all",
        description="tokens at which it acts: all, prompt, generated, first, last, a slice of the prompt as in Python "
        "(-2: or 0:5; token 0 is BOS where it is put first) or of what is generated (generated[2:]), what the task "
        "names (subject), or several: last+generated",
    )

    def __class_getitem__(cls, types: Any) -> type[Self]:
        """The class itself: kinds of units are for type checkers; pydantic would make a class of each."""
        return cls

    def parts(self) -> tuple[Intervention, ...]:
        """The interventions that it is made of: itself, or the steps of a circuit, each with positions of its own."""
        return (self,)

    def title(self) -> str:
        """What units are under, in reports: "mean ablation" where that is what it is called."""
        return f"the intervention {self.name}"

    @abc.abstractmethod
    def edits(self, units: Sequence[UnitT], statistics: StatisticsT) -> tuple[Edit, ...]:
        """Return the edits (one or more a layer) that treat exactly these units.

        ``statistics``: their :class:`harness.engine.activation_summaries.ActivationStatistics`, or ``HeadStatistics``
        of heads; None unless ``needs_statistics``.
        """

    def prepare(self, selection: Selection) -> Intervention[UnitT, StatisticsT]:
        """The intervention for what was selected; one that depends on the selector's scores overrides this."""
        return self

    def figures(self, selection: Selection, statistics: StatisticsT) -> tuple[Figure, ...]:
        """Figures of the values that :meth:`edits` takes from ``statistics``."""
        return ()

    def freeze(self, model: Model) -> Frozen | None:
        """What keeps the untouched model's value while the edits act (direct effects); by default nothing."""
        return None


AnyIntervention = Annotated[Intervention, _nested(Intervention), WithJsonSchema({"type": "intervention"})]
"""Type of a parameter that is an intervention."""


class Task(Component):
    """Makes prompts and observes what the model does with them under every condition."""

    kind = "task"
    default_metrics: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that are computed when the user names none."""
    intervenes: ClassVar[bool] = True
    """Whether conditions edit anything. A task that does not takes no intervention; its conditions name the units
    (``condition.units``) that are looked at."""

    shares_passes: ClassVar[bool] = False
    """Whether :meth:`observe` may be given the conditions of several runs at once: what is observed of a condition must
    then not depend on the others. Baseline and treated conditions come first; ``answers`` are those of all of them."""
    keeps_prompts: ClassVar[bool] = False
    """Whether :meth:`prepare` is long work for the model, so that its prompts are kept for the next run on the same
    model, parameters and data."""
    positions_treated: ClassVar[str] = "all positions"
    """Where edits act, for reports."""

    def acts_at(self) -> frozenset[str]:
        """What interventions may ask for in their parameter ``positions``: "prompt" (its tokens, or some of them),
        "generated", and the names of parts, which :meth:`named_spans` finds. What is observed then follows the prompts.
        A task that scores whole texts, or says itself where edits act, gives nothing here."""
        return frozenset({"prompt", "generated"})

    def named_spans(self, prompts: Sequence[Prompt], model: Model) -> Sequence[Mapping[str, tuple[int, int]]]:
        """For each prompt, the tokens (start, stop) of every part that :meth:`acts_at` names. The run puts them into
        :attr:`harness.plugin.Prompt.spans`; :meth:`observe` hands them to the engine.

        Raises:
            HarnessError: a prompt does not have such a part.
        """
        return [{} for _ in prompts]

    def gives(self) -> frozenset[str] | None:
        """Names of the outcomes that every metric may count on; None: they are known only when it has observed.

        Beside names of :attr:`harness.plugin.records.Outcomes.values` any words that the task's own metrics ask for in
        ``Metric.needs`` will do.
        """
        return None

    def title(self) -> str:
        """What reports call it."""
        return self.name

    def reference(self, prompts: Sequence[Prompt], site: str) -> Sequence[tuple[int, int]] | None:
        """The part (start, stop) of each prompt's tokens that activation statistics are taken over; None: all of it.

        ``site``: whose statistics they are: "neurons", "heads", or the name of another site.
        """
        return None

    def alone(self, selection: Selection, model: Model) -> Sequence[tuple[Unit, ...]]:
        """Further sets of units to treat beside the selection as a whole: each on its own, for example.

        Their outcomes are in :attr:`harness.plugin.records.Outcomes.alone`.
        """
        return ()

    @abc.abstractmethod
    def data_digest(self) -> str:
        """sha256 of the data that the prompts are made of; part of a run's identity."""

    @classmethod
    def takes(cls, name: str) -> bool:
        """Whether a name that no task here has is one of another collection's, whose tasks this one runs:
        ``--tasks NAME`` is this task then, with the name as its positional parameter."""
        return False

    def n_items(self) -> int | None:
        """How many items the data have, of which ``--limit`` takes some; None: it takes a model to tell."""
        return None

    @abc.abstractmethod
    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        """Build the prompts, with the untouched model where the task needs its answers.

        ``limit``: use only so many items of the data (all when None); ``seed``: for whatever is drawn at random.
        """

    @abc.abstractmethod
    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Run these prompts under these conditions; called with consecutive parts of the prepared prompts.

        ``conditions`` have their roles (:attr:`harness.plugin.Condition.role`) and come in their order: baseline,
        treated, controls, those of :meth:`alone`. Outcomes are of ``tuple(conditions)``.

        ``progress`` is handed to the engine, which calls it with the number of (condition, prompt) pairs just finished.
        """


class Metric(Component):
    """Turns outcomes into measures, tables and tests."""

    kind = "metric"
    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of the outcomes that :meth:`measure` cannot do without (``Task.gives``): a task that does not give them is
    refused before a model is loaded."""

    layouts: ClassVar[Mapping[str, Matrix]] = {}
    """How ``harness report --latex`` sets frames of this metric, by their name; the others are not set."""

    @abc.abstractmethod
    def measure(self, outcomes: Outcomes) -> Measurement:
        """Return the measures; the harness adds controls, p-values and intervals to each."""


@dataclass(frozen=True)
class ComponentSpec:
    """A component as written by a user, before its plugin is known: a name and raw parameters."""

    name: str
    params: Mapping[str, Any]

    def __str__(self) -> str:
        if not self.params:
            return self.name
        return f"{self.name}:{write_params(self.params)}"


def parse_spec(value: Any, field: str) -> ComponentSpec:
    """Read ``"entropy"``, ``"entropy:top=6"`` or ``{"name": "entropy", "top": 6}``.

    Raises:
        HarnessError: names ``field`` (``--selector``, or a place in a registry).
    """
    if isinstance(value, ComponentSpec):
        return value
    if isinstance(value, str) and value.strip():
        name, _, rest = value.strip().partition(":")
        return ComponentSpec(name, parse_params(rest, field, bare=True))
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return ComponentSpec(value["name"], {key: item for key, item in value.items() if key != "name"})
    raise HarnessError(f"{field}: expected a component such as entropy:top=6 or {{name: entropy, top: 6}}.")


ComponentT = TypeVar("ComponentT", bound=Component)


def build(cls: type[ComponentT], spec: ComponentSpec, field: str, corpus: str | None = None) -> ComponentT:
    """Validate the parameters of ``spec`` and construct the component.

    ``corpus``: what is read where a component needs texts and none are named (:data:`ModelCorpus`).

    Raises:
        HarnessError: one sentence for the first wrong parameter, with the nearest valid name.
    """
    params = dict(spec.params)
    if bare := params.pop(BARE, None):
        if cls.positional is None:
            raise not_key_value(bare[0], field)
        if cls.positional in params:
            raise HarnessError(f'{field}: parameter "{cls.positional}" is given twice.')
        params[cls.positional] = bare[0] if len(bare) == 1 else bare
    try:
        return cls.model_validate(params, context={"corpus": corpus})
    except ValidationError as error:
        raise HarnessError(f"{field}: {explain(error, cls, spec.name)}") from error


def explain(error: ValidationError, cls: type[BaseModel], owner: str) -> str:
    """One sentence for the first error of a validation, in the words of a person."""
    errors = error.errors()  # what is missing may be there, misspelt
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    path = ".".join(str(part) for part in first["loc"])
    fields = {info.alias or name for name, info in cls.model_fields.items()}
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(fields)) or "none"
        return f'{owner} has no parameter "{path}".{suggest(path, fields)} It has: {known}.'
    if first["type"] == "missing":
        return f'{owner} needs the parameter "{path}".'
    message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
    given = repr(first["input"])
    got = "" if first["type"] == "value_error" else f", got {given if len(given) <= 80 else given[:80] + '...'}"
    choices = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
    near = suggest(str(first["input"]), choices) if first["type"] == "literal_error" else ""
    whose = f'parameter "{path}" of {owner}' if path else owner
    end = "" if message.endswith("?") else "."
    return f"{whose}: {message[:1].lower()}{message[1:].rstrip('.')}{got}{end}{near}"
