"""The kinds of components, each a base class of what plugins offer (:mod:`harness.plugin.base`); reporters and
executors are in modules of their own.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field

from harness.plugin.base import Component
from harness.plugin.places import PositionsText
from harness.progress import Stage, silent

if TYPE_CHECKING:
    from harness.conditions.conditions import Condition, Edit, Frozen, Selection
    from harness.conditions.units import Unit
    from harness.engine.engine import Engine, Progress
    from harness.model.model import Model
    from harness.plugin.records import Figure, Frame, Matrix, Measurement, Outcomes, Prepared, Prompt


class ModelLoader(Component):
    """Loads a language model."""

    kind = "model"
    corpus: ClassVar[str | None] = None
    """Texts like those that the model was trained on, for components that read texts where the user names none
    (:data:`harness.plugin.parameters.ModelCorpus`); None: the user has to."""
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
