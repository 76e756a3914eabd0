"""lm-eval's own tasks and groups, loaded by its task manager, with the same overrides that its evaluator makes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.plugin import HarnessError, suggest

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


BUILT_IN = True
"""Whether names that ``include_path`` does not have are looked for among lm-eval's own."""


@dataclass(frozen=True)
class Loaded:
    """Tasks and groups of lm-eval by name, tasks in the order in which they were asked for.

    ``requests``: those that were built, by whatever they depend on: of a prefix of a task's documents.
    """

    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    requests: dict[Any, list[Any]] = field(default_factory=dict)


@contextmanager
def quiet() -> Iterator[None]:
    """Without lm-eval's progress bars and its remarks on every task; what matters is raised."""
    import datasets
    from lm_eval.api import task as module

    logger, bars = logging.getLogger("lm_eval"), datasets.is_progress_bar_enabled()
    level, bar = logger.level, module.tqdm
    logger.setLevel(logging.ERROR)
    module.tqdm = partial(bar, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = bar
        if bars:
            datasets.enable_progress_bars()


@lru_cache(maxsize=4)
def load(
    names: tuple[str, ...],
    include_path: str | None = None,
    num_fewshot: int | None = None,
    fewshot_seed: int = 1234,
    gen_kwargs: str = "{}",
) -> Loaded:
    """Tasks, groups, tags and YAML files by name, as ``lm_eval --tasks`` finds them.

    Args:
        include_path: a folder of task definitions; they are looked at before lm-eval's own.
        num_fewshot: instead of the tasks' own number, but for tasks that insist on none.
        gen_kwargs: JSON, added to the tasks' own generation arguments.

    Raises:
        HarnessError: a name is unknown, or a task's definition or data cannot be read.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise HarnessError(f"task lm_eval: include_path: {include_path} is no folder.")
    with quiet():
        manager = _manager(names, include_path)
        try:
            found = manager.load(list(names))
        except Exception as error:  # definitions are programs, and data come from anywhere
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise HarnessError(f"task lm_eval: {', '.join(names)} cannot be loaded: {why.rstrip('.')}.") from error
        for task in found["tasks"].values():
            _override(task, num_fewshot, fewshot_seed, json.loads(gen_kwargs))
    return Loaded(found["tasks"], found["groups"])


def _manager(names: Sequence[str], include_path: str | None) -> TaskManager:
    """A task manager that knows all names: lm-eval's own 14,000 tasks are read only where they are asked for."""
    from lm_eval.tasks import TaskManager

    def unknown(manager: TaskManager) -> list[str]:
        return [name for name in names if name not in manager.task_index and not Path(name).is_file()]

    manager = TaskManager(include_path=include_path, include_defaults=False)
    if unknown(manager) and BUILT_IN:
        manager = _own() if include_path is None else TaskManager(include_path=include_path)
    for name in unknown(manager):
        known = manager.all_tasks
        raise HarnessError(
            f'task lm_eval: lm-eval has no task, group or tag "{name}".{suggest(name, known)} '
            "`lm_eval ls tasks` lists them; include_path=FOLDER adds your own."
        )
    return manager


@cache
def _own() -> TaskManager:
    """A task manager that has read lm-eval's own definitions: once in a process, for it takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def known(name: str) -> bool:
    """Whether lm-eval has a task, group or tag of its own of this name."""
    with quiet():
        return BUILT_IN and name in _own().task_index


def _override(task: Any, num_fewshot: int | None, seed: int, gen_kwargs: Mapping[str, Any]) -> None:
    """What ``lm_eval.evaluator.simple_evaluate`` does to every task before it evaluates it."""
    if task.get_config("output_type") == "generate_until" and gen_kwargs:
        task.set_config(key="generation_kwargs", value=dict(gen_kwargs), update=True)
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def digest(loaded: Loaded) -> str:
    """sha256 of lm-eval's version, the definitions, and all documents that are asked or shown as examples."""
    from lm_eval.utils import handle_non_serializable

    seen = hashlib.sha256(version("lm_eval").encode())

    def add(value: Any) -> None:
        text = json.dumps(value, sort_keys=True, default=handle_non_serializable, ensure_ascii=False)
        seen.update(hashlib.sha256(text.encode()).digest())

    with quiet():
        for name, task in loaded.tasks.items():
            add([name, task.dump_config()])
            for doc in task.eval_docs:
                add(doc)
            for doc in task.fewshot_docs() if task.get_config("num_fewshot") else ():
                add(doc)
    for name, group in loaded.groups.items():
        add([name, group.to_dict()])
    return seen.hexdigest()
