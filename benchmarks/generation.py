"""How much a hundred control conditions cost: knowledge-conflict prompts, closed form against the hook loop.

    python benchmarks/generation.py [--prompts 512] [--hooked 6] [--json FILE]

Times are medians of three; every number that is reported is a ratio of two times of this run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from harness_plugins.context_copying.task.knowledge_conflict import stop_tokens

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.units import Neuron
from harness.controls.random import random_controls
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin.catalogue import catalogue

REPEATS = 3


def timed(work: Callable[[], Any]) -> float:
    """Median wall-clock seconds of three calls, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


Setting = tuple[Model, list[tuple[int, ...]], frozenset[int]]
"""A model, prompts, and the tokens that end an answer."""


def demo() -> Setting:
    """The bundled model with the prompts and stop tokens of its own task."""
    found = catalogue()
    model = found.components["model"]["demo"]().load()
    task = found.components["task"]["knowledge_conflict"]()
    prepared = task.prepare(ClosedFormEngine(model, 64), None, 0)
    stop = stop_tokens(model, ['"', ".", "\n", ",", "(", "[", "]", "<"])
    return model, [prompt.tokens for prompt in prepared.prompts], stop


def gpt2_small() -> Setting:
    """Random weights in GPT-2 small's shape (V 50,257, d 768, 12 layers), prompts of 20 to 30 tokens, no stops."""
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval().requires_grad_(False)
    tokenizer = found_tokenizer()
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(0, 50257, rng.integers(20, 31)).tolist()) for _ in range(4096)]
    return wrap(hf, tokenizer, "gpt2-small shape, random weights"), prompts, frozenset()


def found_tokenizer() -> Any:
    """Any tokeniser: the benchmark generates from token ids."""
    return catalogue().components["model"]["demo"]().load().tokenizer


def measure(setting: Setting, hooked: int, controls: tuple[int, ...]) -> dict[str, Any]:
    """Times over one un-ablated generation of the same prompts, and over the hook loop."""
    model, prompts, stop = setting
    layer, d_mlp = model.anatomy.n_layers - 1, model.anatomy.d_mlp
    rng = np.random.default_rng(0)
    selected = [Neuron(layer, int(i)) for i in rng.choice(d_mlp, 6, replace=False)]
    means = dict(enumerate(rng.normal(0, 0.5, d_mlp)))

    def condition(name: str, neurons: list[Neuron] | tuple[Neuron, ...]) -> Condition:
        indices = tuple(neuron.index for neuron in neurons)
        return Condition(name, (SetNeurons(layer, indices, tuple(float(means[i]) for i in indices)),))

    pool = {layer: sorted({*range(d_mlp)} - {neuron.index for neuron in selected})}
    sets = random_controls(selected, max(controls), pool, 0)
    all_conditions = [BASELINE, condition("treated", selected)]
    all_conditions += [condition(f"control-{i}", neurons) for i, neurons in enumerate(sets)]
    hooks, fast, tokens = HookEngine(model, 64), ClosedFormEngine(model, 64), 10
    plain = timed(lambda: hooks.generate(prompts, [BASELINE], tokens, stop))
    row: dict[str, Any] = {"model": model.name, "prompts": len(prompts), "baseline seconds": plain}
    few = all_conditions[: hooked + 1]
    start = time.perf_counter()
    by_hooks = hooks.generate(prompts, few, tokens, stop)
    each = (time.perf_counter() - start) / len(few)
    by_form = fast.generate(prompts, few, tokens, stop)
    row["same tokens"] = float((by_hooks.tokens == by_form.tokens).all(-1).mean())
    row["entropy difference"] = float(abs(by_hooks.entropy - by_form.entropy).max())
    for n in controls:
        conditions = all_conditions[: n + 2]
        seconds = timed(lambda conditions=conditions: fast.generate(prompts, conditions, tokens, stop))  # type: ignore[misc]
        row[f"{n} controls over baseline"] = seconds / plain
        row[f"hook loop over {n} controls"] = each * len(conditions) / seconds
    last, first = max(controls), min(controls)
    if last > first:
        slope = row[f"{last} controls over baseline"] - row[f"{first} controls over baseline"]
        row["one more control over baseline"] = slope / (last - first)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--hooked", type=int, default=3, help="conditions of the hook loop that are timed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for make, controls, share in ((demo, (100, 999), 1), (gpt2_small, (10, 100), 8)):
        model, prompts, stop = make()
        rows.append(measure((model, prompts[: args.prompts // share], stop), args.hooked, controls))
        for key, value in rows[-1].items():
            print(f"{key:>32}  {value:.4g}" if isinstance(value, float) else f"{key:>32}  {value}", flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {sys.version.split()[0]}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
