"""The task: requests of lm-eval, answered under all conditions in one pass and scored by lm-eval under each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import yaml
from pydantic import BeforeValidator, Field

from harness.plugin import HarnessError, Outcomes, Prepared, Prompt, Source, Step, Task

if TYPE_CHECKING:
    from harness.plugin import Condition, Engine, Progress

    from .conditions_lm import ConditionsLM
    from .task_manager import Loaded

ABSENT = -1
"""Code of a document that a metric has no item for."""


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Generation arguments as YAML has them: values given on the command line are text."""
    if not isinstance(value, Mapping):
        return value
    try:
        return {key: yaml.safe_load(item) if isinstance(item, str) else item for key, item in value.items()}
    except yaml.YAMLError as error:
        raise ValueError(f"expected values as YAML writes them ({getattr(error, 'problem', error)})") from error


class LmEval(Task):
    """Tasks and groups of lm-evaluation-harness, with its own requests, few-shot examples, filters and metrics.

    ``lm_eval:lambada_openai``, ``lm_eval:arc_easy,piqa``. Under no intervention the numbers are lm-eval's own, too.
    Documents are the prompts; activations are measured, and selectors look, at the first request of each document.
    Whatever generates does so greedily.
    """

    name = "lm_eval"
    positional = "tasks"
    shares_passes = True
    default_metrics: ClassVar[tuple[str, ...]] = ("lm_eval", "temperature")

    tasks: Annotated[list[str], BeforeValidator(_names), Field(min_length=1)] = Field(
        description="names of tasks, groups and tags of lm-eval, or paths of their YAML files"
    )
    include_path: Source | None = Field(None, description="folder of further task definitions")
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(None, description="examples shown; default: the tasks' own")
    fewshot_seed: int = Field(1234, description="seed of the choice of examples; 1234 is lm-eval's default")
    gen_kwargs: Annotated[dict[str, Any], BeforeValidator(_plain)] = Field(
        default_factory=dict, description="generation arguments beside the tasks' own, as {max_gen_toks: 32}"
    )
    apply_chat_template: bool = Field(False, description="speak to the model through its tokenizer's chat template")
    system_instruction: str | None = Field(None, description="text before everything else")
    fewshot_as_multiturn: bool = Field(False, description="examples as turns of a conversation")
    unsafe_code: bool = Field(False, description="run tasks that execute what the model writes")

    def gives(self) -> frozenset[str]:
        return frozenset({"scores of lm-eval", "log_temperature", "no_temperature"})

    def title(self) -> str:
        return ", ".join(self.tasks)

    def loaded(self) -> Loaded:
        """The tasks, loaded once."""
        from .task_manager import load

        options = self.num_fewshot, self.fewshot_seed, json.dumps(self.gen_kwargs, sort_keys=True)
        found = load(tuple(self.tasks), self.include_path, *options)
        for name, task in found.tasks.items():
            if getattr(task, "UNSAFE_CODE", False) and not self.unsafe_code:
                raise HarnessError(f"task lm_eval: {name} runs code that the model writes; unsafe_code=true allows it.")
            if own := getattr(task, "component", None):
                raise HarnessError(
                    f"task lm_eval: {name} makes its prompts with the model, which takes lm-eval's own evaluator; "
                    f"write --task {own}, or take prompts written by `harness lm-eval prepare`."
                )
            if getattr(task, "MULTIMODAL", False):
                raise HarnessError(f"task lm_eval: {name} shows pictures or sounds, which no model here takes.")
        return found

    def data_digest(self) -> str:
        from .task_manager import digest

        return digest(self.loaded())

    @classmethod
    def takes(cls, name: str) -> bool:
        from .task_manager import known

        return known(name)

    def n_items(self) -> int | None:
        """Documents of each task; None where the tasks have different numbers of them, since a limit is each task's."""
        from .task_manager import quiet

        with quiet():
            found = {len(task.eval_docs) for task in self.loaded().tasks.values()}
        return found.pop() if len(found) == 1 else None

    def prepare(self, engine: Engine, limit: int | None, seed: int) -> Prepared:
        """Documents as prompts, ``limit`` of each task (its first ones, as in lm-eval); nothing is drawn at random."""
        from .conditions_lm import ConditionsLM

        loaded, lm = self.loaded(), ConditionsLM(engine, [])
        prompts: list[Prompt] = []
        for name in loaded.tasks:
            seen: dict[int, Any] = {}
            for instance in self._requests(name, lm, limit):
                if limit is None or instance.doc_id < limit:
                    lm.read(instance)  # refuses what cannot be scored, before any work
                    seen.setdefault(instance.doc_id, instance)
            prompts += [_prompt(lm, name, instance) for instance in seen.values()]
        if not prompts:
            raise HarnessError(f"task lm_eval: {', '.join(self.tasks)} has no documents.")
        n = len(prompts)
        steps = [Step("documents", n, 0, f"of {', '.join(loaded.tasks)}")]
        tasks = {
            name: {
                "version": task.VERSION,
                "output_type": task.OUTPUT_TYPE,
                "num_fewshot": task.get_config("num_fewshot"),
            }
            for name, task in loaded.tasks.items()
        }
        return Prepared(tuple(prompts), tuple(steps), {"lm_eval": tasks, "prompt": prompts[0].text})

    def _requests(self, name: str, lm: ConditionsLM, limit: int | None, last: int | None = None) -> list[Any]:
        """lm-eval's requests of at least the first ``limit`` documents, or all; the same ones whenever it is called.

        ``last``: requests that were built before will do, if this document is among theirs.
        """
        from .task_manager import quiet

        loaded, template = self.loaded(), lm.tokenizer.chat_template if self.apply_chat_template else None
        key = name, template, self.system_instruction, self.fewshot_as_multiturn
        built = loaded.requests.get(key, [])
        if last is not None and built and built[-1].doc_id >= last:
            return built
        task = loaded.tasks[name]
        task.set_fewshot_seed(seed=self.fewshot_seed)  # the sampler goes on from where it was
        with quiet():
            try:
                task.build_all_requests(
                    limit=limit,
                    rank=0,
                    world_size=1,
                    system_instruction=self.system_instruction,
                    apply_chat_template=self.apply_chat_template,
                    fewshot_as_multiturn=self.fewshot_as_multiturn,
                    chat_template=lm.apply_chat_template if self.apply_chat_template else None,
                    tokenizer_name=lm.tokenizer_name if self.apply_chat_template else "",
                )
            except Exception as error:  # templates and definitions are programs
                why = " ".join(str(error).split())[:300] or type(error).__name__
                raise HarnessError(
                    f"task lm_eval: the requests of {name} cannot be made: {why.rstrip('.')}."
                ) from error
        loaded.requests[key] = list(task.instances)
        return loaded.requests[key]

    def observe(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        conditions: Sequence[Condition],
        progress: Progress | None = None,
    ) -> Outcomes:
        """Values: for each task, metric and filter ("arc_easy.acc_norm,none") what is summed, or codes of the items;
        and what temperature alone would do to log-likelihoods (:mod:`.tempering`).

        ``details`` says of each how it is aggregated; see :mod:`.metric`.
        """
        from . import tempering
        from .conditions_lm import ConditionsLM

        lm, n = ConditionsLM(engine, conditions), len(conditions)
        tempered = tempering.outcomes_of(self.loaded(), (n, len(prompts)))
        told = sum(condition.shown for condition in conditions)
        found = _Found(n, len(prompts))
        answers: list[list[str]] = [[""] * len(prompts) for _ in range(told)]
        for name, task in self.loaded().tasks.items():
            place = {p.fields["doc_id"]: i for i, p in enumerate(prompts) if p.fields["task"] == name}
            if not place:
                continue
            instances = [x for x in self._requests(name, lm, None, last=max(place)) if x.doc_id in place]
            lm.progress = None if progress is None else _share(progress, len(place) / len(instances), len(place) * n)
            said, sums = _answer(lm, instances)
            found.add(name, task, place, instances, said)
            tempering.fill(tempered, task, place, instances, sums)
            for c in range(told):
                for doc_id, text in _told(task, instances, said, c).items():
                    answers[c][place[doc_id]] = text
        return Outcomes(
            conditions=tuple(conditions),
            prompts=tuple(prompts),
            values=found.values | tempered,
            categories={key: tuple(names) for key, names in found.items.items()},
            found=tuple(found.items),
            answers=tuple(map(tuple, answers)),
            details=found.details
            | {
                "groups": _groups(self.loaded()),
                "task": self.model_dump(mode="json"),
                "tempered": tempering.quantities(self.loaded(), self.tasks),
                "unchanged": [tempering.UNCHANGED],
            },
        )


def _prompt(lm: ConditionsLM, name: str, instance: Any) -> Prompt:
    """A document: the tokens that the model reads for the first of its requests."""
    kind, arguments = instance.request_type, instance.args
    before, scored = lm.read(instance)
    shown = "".join(arguments) if kind == "loglikelihood" else arguments[0]
    # As rolling windows do, the beginning of what is too long; of everything else, its end.
    tokens = [*before, *scored]
    tokens = tokens[: lm.max_length] if kind == "loglikelihood_rolling" else tokens[-lm.max_length :]
    identity = f"{name}/{instance.doc_id}"
    return Prompt(identity, shown, tuple(tokens), identity, {"task": name, "doc_id": instance.doc_id})


def _answer(lm: ConditionsLM, instances: Sequence[Any]) -> tuple[list[Sequence[Any]], list[np.ndarray | None]]:
    """The answer to each request under every condition, in the form in which lm-eval scores it; and, of
    log-likelihoods, the sums of :mod:`.tempering`."""
    answers: dict[int, Sequence[Any]] = {}
    sums: dict[int, np.ndarray] = {}
    kinds: dict[str, list[Any]] = {}
    for instance in instances:
        kinds.setdefault(instance.request_type, []).append(instance)
    for kind, members in kinds.items():
        for instance, found in zip(members, getattr(lm, kind)(members), strict=True):
            if kind == "loglikelihood":
                sums[id(instance)], greedy = found
                found = [(float(p), bool(x)) for p, x in zip(sums[id(instance)][0], greedy, strict=True)]
            elif kind == "loglikelihood_rolling":
                sums[id(instance)] = found
                found = found[0].tolist()
            answers[id(instance)] = found
    return [answers[id(x)] for x in instances], [sums.get(id(x)) for x in instances]


def _told(task: Any, instances: Sequence[Any], answers: Sequence[Sequence[Any]], c: int) -> dict[int, str]:
    """What the model answers, in words, for each document under condition c: its text, or its choice."""
    best: dict[int, tuple[float, str]] = {}
    for instance, answer in zip(instances, answers, strict=True):
        said = answer[c]
        if isinstance(said, str):
            best.setdefault(instance.doc_id, (0.0, said))
        else:
            log_p = said[0] if isinstance(said, tuple) else said
            text = instance.args[-1].strip() if task.OUTPUT_TYPE == "multiple_choice" else f"log p {log_p:.3f}"
            if instance.doc_id not in best or log_p > best[instance.doc_id][0]:
                best[instance.doc_id] = (log_p, text)
    return {doc_id: text for doc_id, (_, text) in best.items()}


def _share(progress: Progress, share: float, most: int) -> Progress:
    """Tells of documents what the engine tells of requests."""
    done = [0.0, 0]

    def tell(n: int) -> None:
        done[0] += n * share
        new = min(most, int(done[0] + 1e-6)) - int(done[1])
        done[1] += new
        progress(new)

    return tell


def _groups(loaded: Loaded) -> dict[str, Any]:
    """What lm-eval averages over the tasks of a group."""
    return {
        name: {
            "tasks": [task.task_name for task in group.get_all_tasks()],
            "metrics": [
                {"metric": one.metric, "filters": one.filter_list, "weight_by_size": one.weight_by_size}
                for one in group.aggregate_metric_list or ()
            ],
        }
        for name, group in loaded.groups.items()
    }


class _Found:
    """Arrays that grow with the tasks and metrics that turn up."""

    def __init__(self, n_conditions: int, n_prompts: int) -> None:
        self.shape = n_conditions, n_prompts
        self.values: dict[str, np.ndarray] = {}
        self.items: dict[str, dict[str, int]] = {}
        self.details: dict[str, Any] = {}

    def add(
        self, name: str, task: Any, place: Mapping[int, int], instances: Sequence[Any], answers: Sequence[Sequence[Any]]
    ) -> None:
        """Score one task's requests; place: of a document among the prompts."""
        from .scoring import SUMS, aggregation_of, as_text, items_of

        for c, scored in enumerate(items_of(task, instances, answers, self.shape[0])):
            for metric, items in scored.items():
                key = f"{name}.{metric}"
                if key not in self.details:
                    bare = metric.rpartition(",")[0]
                    aggregation, _ = aggregation_of(task, bare)
                    higher = task.higher_is_better().get(bare)
                    self.details[key] = {"task": name, "aggregation": aggregation, "higher_is_better": higher}
                sums = SUMS.get(self.details[key]["aggregation"])
                keep = sums.keep if sums else partial(self._code, key, as_text)
                for doc_id, item in items.items():
                    self._put(key, c, place[doc_id], keep(item))

    def _put(self, key: str, c: int, i: int, kept: Any) -> None:
        if key not in self.values:
            if isinstance(kept, int):
                self.values[key] = np.full(self.shape, ABSENT, np.int32)
            else:
                self.values[key] = np.full((*self.shape, len(kept)) if isinstance(kept, tuple) else self.shape, np.nan)
        self.values[key][c, i] = kept

    def _code(self, key: str, as_text: Any, item: Any) -> int:
        known = self.items.setdefault(key, {})
        return known.setdefault(as_text(item), len(known))
