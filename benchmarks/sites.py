"""Edits of earlier layers, of every kind of units: conditions batched along the batch dimension against the hook loop;
and edits of the last layer's neurons at all tokens and at one, of coordinates and latents there, in closed form against
it.

    python benchmarks/sites.py [--conditions 100] [--only mixture]

The bundled model (4 layers) and prompts of its own task; and a random mixture of experts (4 layers of 32 experts of 64
neurons, 4 for each token). Best of two each; ratios of times of this run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
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
from harness.model.wrapping import wrap
from harness.plugin.catalogue import catalogue
from harness.testing.tiny_models import filled, tokenizer


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


def mixture() -> Model:
    """A random OLMoE, larger than those that tests are made with."""
    config = transformers.OlmoeConfig(
        vocab_size=2000, hidden_size=128, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, num_experts=32, num_experts_per_tok=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return wrap(filled(transformers.AutoModelForCausalLM.from_config(config)), tokenizer(), "mixture")


def of_experts(n_conditions: int) -> None:
    """Neurons of experts, and experts, against the hook loop."""
    model = mixture()
    prompts = [tuple(row) for row in np.random.default_rng(0).integers(3, 2000, (8, 16)).tolist()]
    engines: list[tuple[str, int, type[HookEngine]]] = [
        ("expert_neurons", 2, BatchedEngine),
        ("experts", 2, BatchedEngine),
        ("expert_neurons", 3, ClosedFormEngine),
    ]
    for name, layer, engine in engines:
        given = prompts, some_conditions(model, name, layer, n_conditions)
        slow, fast = (times(kind(model, 64), *given, frozenset()) for kind in (HookEngine, engine))
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        how = engine(model).path(given[1])
        print(
            f"8 prompts, {name} of layer {layer}, {how}: score {ratios[0]:.2f}x, generate {ratios[1]:.2f}x", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--conditions", type=int, default=100)
    parser.add_argument("--only", choices=["mixture"])
    args = parser.parse_args()
    if args.only:
        return of_experts(args.conditions)
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
    of_experts(args.conditions)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
