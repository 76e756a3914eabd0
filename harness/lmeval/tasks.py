"""lm-eval tasks whose prompts are made with the model that is evaluated.

lm-eval builds all requests before the model answers the first one, and hands no model to its tasks. But a knowledge
conflict contradicts what the model has said, and a repeat is a matter of the model's own tokens. So these tasks look
for the model where lm-eval calls them from (:func:`running_model`); prompts that were written beforehand
(``harness lm-eval prepare``) do without.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, cast

from lm_eval.api.task import ConfigurableTask

from harness.conditions.conditions import BASELINE, Condition
from harness.errors import HarnessError
from harness.lmeval import WRITTEN_FOR, register
from harness.plugin import border
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Task
from harness.plugin.notation import parse_params
from harness.plugin.specs import ComponentSpec
from harness.running.treatment import own_corpus

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.model.model import Model
    from harness.plugin.records import Prompt

register()  # stock lm-eval that was given a YAML file of ours knows our model, too

INSTEAD = "write the prompts with `harness lm-eval prepare`: lm-eval runs those with any model"


def build(component: str, params: str | Mapping[str, Any], field: str, corpus: str | None = None) -> Task:
    """A task of the harness with parameters as a user writes them.

    Raises:
        HarnessError: there is no such task or parameter; names ``field``.
    """
    given = parse_params(params, field) if isinstance(params, str) else params
    return catalogue().build(Task, ComponentSpec(component, given), field, corpus)


def _running_corpus() -> str | None:
    """:func:`own_corpus` of the model that is running."""
    return own_corpus(str(getattr(getattr(running_model(), "model", None), "name_or_path", "")))


def running_model() -> Any:
    """The model that lm-eval's evaluator, somewhere up the stack, is running.

    Raises:
        HarnessError: there is no evaluator as that of the version that this was written for.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "lm_eval.evaluator" and "lm" in frame.f_locals:
            return frame.f_locals["lm"]
        frame = cast(Any, frame.f_back)
    raise HarnessError(
        f"lm-eval {version('lm-eval')} does not hold its model where lm-eval {WRITTEN_FOR} does, and its tasks are "
        f"given none; {INSTEAD}."
    )


def model_of(lm: Any, name: str | None = None) -> Model:
    """The model behind an lm-eval model, to be run without the intervention that ``lm`` may have.

    Prompts begin with a BOS token where ``lm`` puts one.

    Raises:
        HarnessError: it runs elsewhere (an API, vLLM), or its architecture is not supported.
    """
    from torch.nn import Module

    from harness.model.wrapping import wrap

    if (own := getattr(lm, "neurons", None)) is not None:
        return cast("Model", own)
    hf, tokenizer = getattr(lm, "model", None), getattr(lm, "tokenizer", None)
    if not isinstance(hf, Module) or tokenizer is None:
        raise HarnessError(
            f"this needs a transformers model in this process, and {type(lm).__name__} has none; {INSTEAD}."
        )
    adds_bos = lm.tok_encode("a") != tokenizer("a", add_special_tokens=False)["input_ids"]
    return wrap(hf, tokenizer, name or str(hf.name_or_path), add_bos=adds_bos)


class ModelTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types
    """Base of our tasks in lm-eval; see the module's docstring.

    Parameters of the component come with ``--metadata``, under the task's name:
    ``--metadata knowledge_conflict=context=agreeing``. ``--limit`` counts items of the task's data, as that of
    ``harness eval`` does, not prompts.

    Class attributes:
        component: name of the task of the harness that makes the prompts.
    """

    component: ClassVar[str]

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.params = config.get("metadata", {}).get(self.component, {})
        try:
            corpus = _running_corpus()
        except HarnessError:  # somebody looks at the task before there is a model: with one, it is made anew
            corpus = catalogue().some_texts()
        self.task = self._made(corpus)
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def _made(self, corpus: str | None) -> Task:
        """The harness's task; ``corpus``: the texts that the model has of its own."""
        return build(self.component, self.params, f"--metadata {self.component}", corpus)

    @staticmethod
    def items(task: Task) -> int:
        """How many items the task's data has: what ``--limit 0.1`` is a share of."""
        raise NotImplementedError

    @classmethod
    def prompts(cls, engine: Engine, task: Task, limit: int | None, seed: int) -> Sequence[Prompt]:
        """The task's prompts for a model, those of ``harness eval --seed SEED --limit LIMIT``."""
        from harness.statistics import derive_seed

        return border.prepare(task, engine, limit, derive_seed(seed, "task")).prompts

    @staticmethod
    def row(model: Model, prompt: Prompt) -> dict[str, Any]:
        """A prompt as a document of lm-eval."""
        raise NotImplementedError

    @staticmethod
    def beyond(engine: Engine, condition: Condition, prompts: Sequence[Prompt]) -> dict[str, list[float]]:
        """Columns of what no request of lm-eval asks for, one number a prompt, observed under ``condition``."""
        raise NotImplementedError

    # -- what lm-eval calls -------------------------------------------------------------------------------------------

    def download(self, dataset_kwargs: Any = None, **_: Any) -> None:
        """Documents that are none: lm-eval wants to count them, and to see one, before there is a model."""
        self._documents([{"id": str(i)} for i in range(self.items(self.task))])

    def build_all_requests(
        self,
        *,
        limit: int | None = None,
        cache_requests: bool = False,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        **rest: Any,
    ) -> None:
        """Make the prompts with the model that is evaluated, then lm-eval's requests of all of them."""
        from harness.engine.closed_form import ClosedFormEngine

        name = self.config.task
        if cache_requests:
            raise HarnessError(f"--cache_requests: the prompts of {name} depend on the model; leave it out.")
        if apply_chat_template or system_instruction:
            raise HarnessError(
                f"--apply_chat_template, --system_instruction: {name} writes its prompts itself; leave them out"
                + (f" and pass --metadata {name}=chat=true." if "chat" in type(self.task).model_fields else ".")
            )
        lm = running_model()
        self.task = self._made(_running_corpus())
        engine = ClosedFormEngine(model_of(lm))
        prompts = self.prompts(engine, self.task, limit, seed=0)
        columns = self.beyond(engine, getattr(lm, "condition", BASELINE), prompts)
        rows = [self.row(engine.model, prompt) for prompt in prompts]
        self._documents([row | {key: x[i] for key, x in columns.items()} for i, row in enumerate(rows)])
        super().build_all_requests(**rest)

    def doc_iterator(self, *, limit: int | None = None, **rest: Any) -> Any:
        """All documents: the limit was for what they are made of."""
        return super().doc_iterator(**rest)

    def _documents(self, rows: list[dict[str, Any]]) -> None:
        import datasets

        self.dataset = {self.config.test_split: datasets.Dataset.from_list(rows)}
        self.features = list(rows[0])
