"""What a model is run under in loops of others (lm-eval's, inspect's, a user's own): units selected on texts, edited as
in ``harness eval``, or a control set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import Field

from harness.conditions.conditions import Condition
from harness.conditions.positions import Positions
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.files.store import clean
from harness.files.terminal import Terminal
from harness.plugin import border
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention, ModelLoader, Selector, Task
from harness.plugin.parameters import AnyCorpus
from harness.plugin.records import Outcomes, Prepared, Prompt
from harness.plugin.specs import ComponentSpec, build, parse_spec
from harness.report.progress import ConsoleReporter
from harness.running.plan import Plan, Stage, look_ahead, set_up
from harness.running.spec import RunSpec

if TYPE_CHECKING:
    from harness.engine.engine import Engine, Progress
    from harness.model.model import Model

BATCH = 16
"""Texts in a forward pass, whatever batches others make: what is selected must not depend on that."""


def own_corpus(path: str) -> str | None:
    """The texts that a model has of its own, by the folder that it was loaded from; None but for bundled models."""
    loaders = catalogue().of(ModelLoader).values()
    return next((loader.corpus for loader in loaders if loader.corpus and loader.is_at(path)), None)


class _NoTokens(tuple[int, ...]):
    """Stands for texts that nobody has named; who looks at it is told so."""

    def _missing(self, *_: Any) -> NoReturn:
        raise HarnessError(
            "corpus: this selector or intervention looks at texts; name a corpus, for example "
            "corpus=text:path=texts.jsonl."
        )

    __len__ = __iter__ = __getitem__ = _missing


class Texts(Task):
    """Sequences of a corpus, of the half of its documents that selectors may see; or whole texts that are given."""

    name = "texts"
    corpus: AnyCorpus | None = Field(None, description="texts; default: none")
    given: tuple[str, ...] = Field((), description="the texts themselves, instead")
    sequences: int = Field(64, ge=1, description="how many sequences")
    length: int = Field(128, ge=2, description="tokens of a sequence, at most the model's positions")

    def data_digest(self) -> str:
        return "" if self.corpus is None else border.data_digest(self.corpus)

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        if self.given:
            read = engine.model.encode(self.given)
            return Prepared(tuple(Prompt(str(i), "", tuple(x), str(i)) for i, x in enumerate(read)))
        if self.corpus is None:
            return Prepared((Prompt("none", "", _NoTokens(), "none"),))
        from harness.data.token_sequences import sequences

        model = engine.model
        length = min(self.length, model.n_positions or self.length)
        found = sequences(model, self.corpus, self.sequences, length, seed, "select", across_documents=True)
        return Prepared(tuple(Prompt(str(i), "", x.tokens, str(i)) for i, x in enumerate(found)))

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        raise NotImplementedError("nothing is observed on these texts")


@dataclass(frozen=True)
class Treatment:
    """How a model is to be treated; made of a person's words before anything is loaded.

    Attributes:
        texts: what selectors look at and statistics are taken over.
        control: edit this control set (from 0) instead of the selection; None: the selection.
    """

    selector: Selector
    intervention: Intervention
    texts: Texts
    seed: int
    control: int | None

    @classmethod
    def of(
        cls,
        selector: Any,
        intervention: Any,
        texts: dict[str, Any],
        seed: int,
        control: int | None,
        corpus: str | None = None,
        field: str = "--model_args",
    ) -> Treatment:
        """From components as users write them.

        Args:
            texts: fields of :class:`Texts`.
            corpus: the texts that the model has of its own.
            field: what errors in ``texts`` are said of.

        Raises:
            HarnessError: names the argument that is missing or wrong.
        """
        found = catalogue()
        for name, given, example in (("selector", selector, "entropy"), ("intervention", intervention, "mean")):
            if given is None:
                raise HarnessError(f"{name}: a selector and an intervention go together; add {name}={example}.")
        for name, number in (("seed", seed), ("control", 0 if control is None else control)):
            if not isinstance(number, int) or number < 0:
                raise HarnessError(f"{name}: expected a number, 0 or more, got {number!r}.")
        chosen, edits = parse_spec(selector, "selector"), parse_spec(intervention, "intervention")
        return cls(
            found.build(Selector, chosen, "selector", corpus),
            found.build(Intervention, edits, "intervention", corpus),
            build(Texts, ComponentSpec("model harness", texts), field),
            seed,
            control,
        )

    def apply(self, model: Model) -> tuple[Condition, dict[str, Any]]:
        """Select on the model: the condition to run it under, and what a record says of it (JSON values).

        Control sets are those that ``harness eval`` draws with the same selection and seed.
        """
        from harness.statistics import derive_seed

        engine = ClosedFormEngine(model, BATCH)
        asked = {"name": "treatment", "task": Texts.name, "selector": self.selector.name, "seed": self.seed}
        controls = 0 if self.control is None else self.control + 1
        spec = RunSpec.model_validate({**asked, "controls": controls, "batch_size": BATCH})
        loader = catalogue().build(ModelLoader, ComponentSpec("hf", {"pretrained": model.name}), "pretrained")
        # The loader stands there for form's sake: the model is loaded.
        # Where edits act is a matter of the loops; a run would refuse what cannot change what follows a prompt.
        everywhere = self.intervention.model_copy(update={"positions": "all"})
        plan = Plan(spec, loader, self.texts, self.selector, everywhere, (), {})
        reporter = ConsoleReporter(Terminal(stderr=True), quiet=True)
        selection = look_ahead(plan, engine, reporter)
        prepared = self.texts.prepare(engine, None, derive_seed(self.seed, "task"))
        stage = set_up(plan, engine, prepared, reporter, selection=selection)
        sets = [condition for condition in stage.conditions if condition.role == "control"]
        condition = stage.treated if self.control is None else sets[self.control]
        condition = replace(condition, positions=Positions(self.intervention.positions))
        return condition, self._record(stage, condition, model)

    def _record(self, stage: Stage, condition: Condition, model: Model) -> dict[str, Any]:
        found: dict[str, Any] = clean(
            {
                "model": model.provenance(),
                "selector": self.selector.identity(),
                "intervention": self.intervention.identity(),
                "texts": self.texts.identity(),
                "seed": self.seed,
                "control": self.control,
                "rule": stage.selection.rule,
                "selected": [str(unit) for unit in stage.selection.units],
                "edited": [str(unit) for unit in condition.units],
            }
        )
        return found
