"""How the time of generation under many conditions grows: with prompts, conditions, vocabulary and depth.

    python benchmarks/growth.py

GPT-2's shape with random weights (d 256, two layers, V 8,192; 32 prompts of 20 tokens, 100 conditions of six neurons of
the last layer, five tokens), one of these changed at a time. Processor time of one thread, over the first of each row.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from sweep import shaped

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine

USUAL = {"n_layer": 2, "n_embd": 256, "n_head": 4, "vocab_size": 8192}


def seconds(prompts: int = 32, conditions: int = 100, **changes: int) -> float:
    """The least of three times, after one that is not counted."""
    model, rng = shaped(**USUAL | changes), np.random.default_rng(0)
    tokens = rng.integers(0, model.anatomy.d_vocab, (prompts, 20)).tolist()
    layer, made = model.anatomy.n_layers - 1, [BASELINE]
    for i in range(conditions):
        indices = tuple(map(int, rng.choice(model.anatomy.d_mlp, 6, replace=False)))
        made.append(Condition(f"{i}", (SetNeurons(layer, indices, (0.0,) * 6),)))
    engine, times = ClosedFormEngine(model, 32), []
    for _ in range(4):
        start = time.process_time()
        engine.generate(tokens, made, 5)
        times.append(time.process_time() - start)
    return min(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    rows: dict[str, tuple[str, tuple[Any, ...]]] = {
        "prompts": ("prompts", (32, 64, 128)),
        "conditions": ("conditions", (10, 100, 1000)),
        "V": ("vocab_size", (8192, 32768, 131072)),
        "layers": ("n_layer", (2, 8, 32)),
    }
    for title, (name, values) in rows.items():
        times = {value: seconds(**{name: value}) for value in values}
        first = next(iter(times.values()))
        shown = (f"{value}: {time / first:.2f}x" for value, time in times.items())
        print(f"{title:>10}  " + "  ".join(shown), flush=True)


if __name__ == "__main__":
    main()
