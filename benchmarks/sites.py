"""Edits of earlier layers, of every kind of units: conditions batched along the batch dimension against the hook loop;
and edits of the last layer's neurons at all tokens and at one, of coordinates and latents there, in closed form against
it.

    python benchmarks/sites.py [--conditions 100]

The bundled model (4 layers) and prompts of its own task. Best of two each; ratios of times of this run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from generation import demo
from harness_plugins.dictionaries.dictionary import load
from harness_plugins.dictionaries.latents import Latents

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.head_edits import SetHeads
from harness.conditions.positions import Positions
from harness.conditions.units import HEADS, Site
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.model import Model
from harness.plugin.catalogue import catalogue


def best(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of the faster of two calls."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def place(model: Model, name: str, layer: int) -> Site:
    """The site of a name; of latents that of the bundled dictionary, as if it had been trained in this layer."""
    if name != "latents":
        kind = catalogue().kind_at(name)
        assert kind is not None
        return kind.where  # type: ignore[return-value]
    sae = load("demo-last")
    return Latents(replace(sae, configuration=replace(sae.configuration, layer=layer)), model)


def some_conditions(model: Model, name: str, layer: int, n: int) -> list[Condition]:
    """The baseline and n random edits of one layer: one head, or six units of another kind."""
    rng, site = np.random.default_rng(0), place(model, name, layer)
    found = [BASELINE]
    for i in range(n):
        if site == HEADS:
            values = (tuple(rng.normal(size=model.anatomy.d_head).tolist()),)
            found.append(Condition(f"{i}", (SetHeads(layer, (int(rng.integers(model.anatomy.n_heads)),), values),)))
            continue
        indices = tuple(map(int, rng.choice(site.count(model, layer) or 0, 6, replace=False)))
        held = (0.0,) * 6 if name == "latents" else tuple(rng.normal(size=6).tolist())
        found.append(Condition(f"{i}", (SetNeurons(layer, indices, held, site),)))
    return found


def times(
    engine: HookEngine, prompts: list[tuple[int, ...]], conditions: list[Condition], stop: frozenset[int]
) -> tuple[float, float]:
    """Seconds of score and of generate."""
    score = best(lambda: engine.score(prompts, conditions))
    return score, best(lambda: engine.generate(prompts, conditions, 10, stop))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--conditions", type=int, default=100)
    args = parser.parse_args()
    model, prompts, stop = demo()
    names = ("heads", "pre_activations", "attention_neurons", "coordinates_before", "coordinates", "latents")
    shapes = [(8, 2, "neurons"), (8, 1, "neurons"), (32, 2, "neurons"), *((8, 2, name) for name in names)]
    for n, layer, site in shapes:
        given = prompts[:n], some_conditions(model, site, layer, args.conditions)
        hooks, batched = (times(engine(model, 64), *given, stop) for engine in (HookEngine, BatchedEngine))
        ratios = [slow / fast for slow, fast in zip(hooks, batched, strict=True)]
        print(f"{n} prompts, {site} of layer {layer}: score {ratios[0]:.2f}x, generate {ratios[1]:.2f}x", flush=True)
    for text, site in (("all", "neurons"), ("last", "neurons"), ("all", "coordinates"), ("all", "latents")):
        last = some_conditions(model, site, model.anatomy.n_layers - 1, args.conditions)
        given = prompts[:8], [replace(x, positions=Positions(text)) for x in last]
        hooks, closed = (times(engine(model, 64), *given, stop) for engine in (HookEngine, ClosedFormEngine))
        times_as_fast = f"generate {hooks[1] / closed[1]:.0f}x"
        print(f"8 prompts, {site} of the last layer at {Positions(text)}: {times_as_fast}", flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
