"""From answers to numbers: lm-eval's own filters and scoring, for every condition.

What a metric gives for a document is an *item*. Most aggregations of lm-eval are functions of sums of numbers that
follow from the items, so these numbers are kept, and resampled as every measure is; items of other aggregations
(F1, BLEU, a task's own function) are kept as they are, and aggregated by lm-eval's function.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .task_manager import quiet

Answers = Sequence[Sequence[Any]]
"""[n_instances][C], in lm-eval's form: a number, (log p, greedy), or a text."""


def items_of(task: Any, instances: Sequence[Any], answers: Answers, n: int) -> Iterator[dict[str, dict[int, Any]]]:
    """For each of n conditions the items of some documents: ``{"acc,none": {doc_id: item}}``.

    Args:
        instances: lm-eval's requests of these documents. answers: of each request, under every condition.
    """
    documents: dict[int, list[Any]] = {}
    for instance in instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    for group in documents.values():
        group.sort(key=lambda instance: instance.idx)
    task._instances = list(instances)
    known: dict[Any, dict[str, Any]] = {}  # of texts: most conditions say the same, which log-probabilities never are
    with quiet(), _remembered(task):
        for c in range(n):
            for instance, answer in zip(instances, answers, strict=True):
                instance.resps = [answer[c]] * (instance.repeats or 1)
                instance.filtered_resps = {}
            task.apply_filters()
            found: dict[str, dict[int, Any]] = {}
            for name in instances[0].filtered_resps:
                for doc_id, group in documents.items():
                    said = [instance.filtered_resps[name] for instance in group]
                    key = (name, doc_id, *said) if all(isinstance(text, str) for text in said) else None
                    items = known.get(key) or task.process_results(group[0].doc, said)
                    if key is not None:
                        known[key] = items
                    for metric, item in items.items():
                        found.setdefault(f"{metric},{name}", {})[doc_id] = item
            yield found


@contextmanager
def _remembered(task: Any) -> Iterator[None]:
    """Within the block, a document's target and choices, which are templates, are rendered once, not per condition."""
    names = [name for name in ("doc_to_target", "doc_to_choice", "doc_to_text") if name not in vars(task)]

    def once(method: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[int, Any] = {}

        @functools.wraps(method)
        def remembered(doc: Any, *rest: Any, **options: Any) -> Any:
            if rest or options:
                return method(doc, *rest, **options)
            if id(doc) not in known:
                known[id(doc)] = method(doc)
            return known[id(doc)]

        return remembered

    for name in names:
        setattr(task, name, once(getattr(task, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(task, name)


def brier(item: Any) -> float:
    """Brier score of one document, from (index of the right choice, probabilities): what lm-eval takes the mean of."""
    gold, predicted = item
    right = np.zeros(len(predicted))
    right[gold] = 1.0
    return float(((np.asarray(predicted) - right) ** 2).sum())


@dataclass(frozen=True)
class Sums:
    """An aggregation that is a function of sums: the numbers kept of an item, and the value from their sums.

    Attributes:
        keep: one number, or two, of an item. value: from the sums (of one number: of it and of how many there are).
    """

    keep: Callable[[Any], Any]
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]


SUMS: Mapping[str, Sums] = {
    "mean": Sums(float, lambda total, n: total / n),
    "nanmean": Sums(float, lambda total, n: total / n),
    "brier_score": Sums(brier, lambda total, n: total / n),
    "perplexity": Sums(float, lambda total, n: np.exp(-total / n)),
    "weighted_perplexity": Sums(tuple, lambda total, weight: np.exp(-total / weight)),
    "bits_per_byte": Sums(tuple, lambda total, weight: -total / weight / np.log(2)),
}
"""lm-eval's aggregations that are functions of sums, by the names of its registry."""


MEANS = ("mean", "nanmean", "brier_score")
"""Those of them that are means over documents."""


def aggregation_of(task: Any, metric: str) -> tuple[str, Callable[[Sequence[Any]], float]]:
    """Name and function of a metric's aggregation; the mean where the task names none, as in lm-eval."""
    from lm_eval.api.metrics import mean
    from lm_eval.api.registry import get_aggregation

    function = task.aggregation().get(metric, mean)
    name = next((name for name in SUMS if get_aggregation(name) is function), "own")
    return name, function


def as_text(item: Any) -> str:
    """An item as JSON; what it holds are numbers, texts and lists of them."""
    from lm_eval.utils import handle_non_serializable

    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else handle_non_serializable(value)

    return json.dumps(item, default=plain, ensure_ascii=False)
