"""What temperature alone would do to the log-likelihoods that lm-eval scores: margins between choices, and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.engine import Scores

    from .task_manager import Loaded

ROWS = ("log_p", "tempered_log_p", "log_temperature", "no_temperature", "tokens")
"""What is summed over the scored tokens of a request, under each condition. Every token has its own temperature: the
one at which the untouched model is as uncertain about it as the condition is."""

KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "multiple_choice": (("margin", "nats"), ("right", "share")),
    "loglikelihood": (("log_p", "nats"),),
    "loglikelihood_rolling": (("log_p", "nats"),),
}
"""Outcomes of lm-eval's kinds of tasks, and their units. What is generated is greedy, and has none."""

TITLES = {
    "margin": "the margin of the right choice",
    "right": "the share of right choices",
    "log_p": "the log-likelihood",
}

UNCHANGED = (
    "greedy answers, and the most likely of choices that are one token each after the same text, are the same at every "
    "temperature: any change of theirs is beyond it"
)


def sums_of(scores: Scores, columns: np.ndarray, before: int) -> np.ndarray:
    """:data:`ROWS` of one request, float64 [5, C].

    Args:
        columns: of its scored tokens. before: the row of the untouched model.
    """
    assert scores.tempered is not None
    entropy, loss = scores.entropy[:, columns], scores.loss[:, columns]
    equal = scores.tempered.only(columns).at_entropy(entropy, entropy[before])
    rows = (-loss, equal.log_p(-loss[before]), equal.log_temperature, equal.outside, np.ones_like(loss))
    return np.stack([row.sum(axis=1, dtype=np.float64) for row in rows])


def outcomes_of(loaded: Loaded, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Arrays [C, N] for what these tasks have, to be filled in; NaN where a document has nothing."""
    kinds = {task.OUTPUT_TYPE for task in loaded.tasks.values()}
    names = dict.fromkeys(name for kind in KINDS if kind in kinds for name, _ in KINDS[kind])
    floats = [*names, *(f"tempered_{name}" for name in names), "log_temperature"]
    return {**{name: np.full(shape, np.nan) for name in floats}, "no_temperature": np.zeros(shape, bool)}


def fill(
    values: Mapping[str, np.ndarray],
    task: Any,
    place: Mapping[int, int],
    instances: Sequence[Any],
    sums: Sequence[np.ndarray | None],
) -> None:
    """Put the documents of one task in.

    Args:
        place: of a document among the prompts. sums: of each of lm-eval's requests, :func:`sums_of`; None of a text
            that is generated.
    """
    documents: dict[int, list[tuple[Any, np.ndarray]]] = {}
    for instance, found in zip(instances, sums, strict=True):
        if found is not None:
            documents.setdefault(instance.doc_id, []).append((instance, found))
    for doc_id, pairs in documents.items():
        pairs.sort(key=lambda pair: pair[0].idx)
        own, column = np.stack([found for _, found in pairs]), place[doc_id]  # [requests, 5, C]
        if task.OUTPUT_TYPE == "multiple_choice":
            requests = [instance for instance, _ in pairs]
            own = own[: len(task.doc_to_choice(requests[0].doc))]  # the others are without a context
            found_of = _choices(task, requests[: len(own)], own)
        else:
            found_of = {"log_p": own[:, 0].sum(axis=0), "tempered_log_p": own[:, 1].sum(axis=0)}
        log_temperature, outside, tokens = own[:, 2:].sum(axis=0)
        found_of |= {"log_temperature": log_temperature / tokens, "no_temperature": outside > 0}
        for name, row in found_of.items():
            values[name][:, column] = row


def _choices(task: Any, requests: Sequence[Any], sums: np.ndarray) -> dict[str, np.ndarray]:
    """Margin of the right choice over the most likely other one, and whether the most likely one is right [C].

    Args:
        sums: [choices, 5, C].
    """
    right = _right(task, requests[0].doc, len(requests))
    if not right.any() or right.all():
        return {}
    found = {}
    fixed = bool((sums[:, 4] == 1).all()) and len({request.args[0] for request in requests}) == 1
    for row, prefix in enumerate(("", "tempered_")):
        log_p = sums[:, row]
        found[f"{prefix}margin"] = log_p[right].max(axis=0) - log_p[~right].max(axis=0)
        if not fixed:
            found[f"{prefix}right"] = right[log_p.argmax(axis=0)].astype(np.float64)
    return found


def _right(task: Any, doc: Any, n: int) -> np.ndarray:
    """Which of n choices are right, bool [n], as lm-eval takes a document's target; none where that is no choice."""
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    choices, golds = task.doc_to_choice(doc), gold if isinstance(gold, list | tuple) else [gold]
    places = {choices.index(x) if isinstance(x, str) and x in choices else x for x in golds}
    return np.array([place in places for place in range(n)])


def quantities(loaded: Loaded, asked: Sequence[str]) -> list[dict[str, Any]]:
    """What the metric ``temperature`` is told: of each group that was asked for, and of each task of none."""
    groups = {
        name: [task.task_name for task in loaded.groups[name].get_all_tasks()]
        for name in asked
        if name in loaded.groups
    }
    seen = {task for tasks in groups.values() for task in tasks}
    groups |= {name: [name] for name in loaded.tasks if name not in seen}
    found = []
    for name, tasks in groups.items():
        kinds = dict.fromkeys(loaded.tasks[task].OUTPUT_TYPE for task in tasks)
        for outcome, unit in dict.fromkeys(x for kind in kinds for x in KINDS.get(kind, ())):
            about = {"outcome": outcome, "title": f"{TITLES[outcome]}, {name}", "unit": unit, "called": name}
            found.append(about | {"among": {"task": tasks}, "primary": outcome != "right"})
    return found
