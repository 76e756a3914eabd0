"""Every neuron of the final layer by itself: total effect, direct effect and entropy, beside the published procedure.

    python benchmarks/sweep.py [--tokens 128] [--neurons 24] [--quick]

GPT-2 small's shape (V 50,257, d 768, 3,072 neurons, 12 layers) with random weights. The published procedure is timed on
some neurons (--neurons) and on as many tokens, then scaled to all neurons: its cost is the same for each neuron.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
import transformers
from published import bridge, published_sweep, transformer_lens_sweep

from harness.conditions.conditions import Condition, SetNeurons
from harness.effects.sweep import effects
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin.catalogue import catalogue


def shaped(**changes: int) -> Model:
    """A random model in GPT-2 small's shape; ``changes`` are fields of its configuration."""
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(**changes)).eval().requires_grad_(False)
    with (
        torch.no_grad()
    ):  # a trained model's neurons write with norms of about 3, and its logits spread by several nats
        hf.transformer.h[-1].mlp.c_proj.weight *= 5
        hf.transformer.wte.weight *= 5
    tokenizer = catalogue().components["model"]["demo"]().load().tokenizer
    return wrap(hf, tokenizer, "GPT-2 small's shape")


def some_prompts(model: Model, tokens: int) -> list[list[int]]:
    """Random sequences with ``tokens`` predicted tokens in all, 64 each."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, model.anatomy.d_vocab, 65).tolist() for _ in range(max(1, tokens // 64))]


def sweep(
    model: Model, prompts: list[list[int]], values: np.ndarray, neurons: range | list[int], method: Any = "exact"
) -> Any:
    """Our sweep: the total and the direct effect of each neuron alone."""
    layer = model.anatomy.n_layers - 1
    conditions = [Condition(f"{layer}.{i}", (SetNeurons(layer, (i,), (float(values[i]),)),)) for i in neurons]
    return effects(model, prompts, conditions, ("total", "frozen_norm"), method=method)


def seconds(model: Model, tokens: int, neurons: int | None = None) -> float:
    """Seconds of our sweep, after one small sweep that compiles and warms up."""
    values = np.zeros(model.anatomy.d_mlp)
    chosen = range(neurons or model.anatomy.d_mlp)
    sweep(model, some_prompts(model, 64), values, range(4))
    start = time.perf_counter()
    sweep(model, some_prompts(model, tokens), values, chosen)
    return time.perf_counter() - start


def against_the_published_way(tokens: int, n_neurons: int) -> None:
    model = shaped()
    prompts, values = some_prompts(model, tokens), np.zeros(model.anatomy.d_mlp)
    some = list(range(0, model.anatomy.d_mlp, model.anatomy.d_mlp // n_neurons))[:n_neurons]
    sweep(model, prompts[:1], values, range(4))
    before = peak()
    start = time.perf_counter()
    ours = sweep(model, prompts, values, range(model.anatomy.d_mlp))
    time_ours = time.perf_counter() - start
    above = max(0.0, peak() - before)
    start = time.perf_counter()
    fast = sweep(model, prompts, values, range(model.anatomy.d_mlp), "fast")
    time_fast = time.perf_counter() - start
    start = time.perf_counter()
    theirs = published_sweep(model, prompts, [0.0] * n_neurons, some)
    each = (time.perf_counter() - start) / n_neurons
    print(
        f"tokens {tokens}, neurons {model.anatomy.d_mlp}: ours {time_ours:.1f} s, peak {above:.2f} GiB above what was"
    )
    print(
        f"published procedure: {each:.2f} s a neuron (of {n_neurons}), scaled to all {each * model.anatomy.d_mlp:.0f} s"
    )
    print(f"  published / ours = {each * model.anatomy.d_mlp / time_ours:.1f}")
    off = max(float(np.abs(fast.loss_change[kind] - ours.loss_change[kind]).max()) for kind in ours.loss_change)
    print(f"fast: {time_fast:.1f} s, {fast.exact_share:.1%} of the pairs exactly, at most {off:.1e} nats from exact")
    print(f"  published / fast = {each * model.anatomy.d_mlp / time_fast:.1f}")
    for name, kind in (("total", "total"), ("direct", "frozen_norm")):
        loss = ours.loss_change[kind][some] - (theirs[f"{name}_loss"] - theirs["loss"])
        entropy = ours.entropy_change[kind][some] - (theirs[f"{name}_entropy"] - theirs["entropy"])
        print(f"  largest difference, {name}: loss {np.abs(loss).max():.1e}, entropy {np.abs(entropy).max():.1e} nats")
    if (bridged := bridge(model)) is not None:
        few, short = some[:2], prompts[:1]
        start = time.perf_counter()
        transformer_lens_sweep(model, short, [0.0] * len(few), few, bridged)
        lens = (time.perf_counter() - start) / len(few) / 64 * tokens * model.anatomy.d_mlp
        print(f"TransformerLens hooks, scaled: {lens:.0f} s; / ours = {lens / time_ours:.1f}")
    else:
        print("TransformerLens is not installed: not timed")


def peak() -> float:
    """Largest resident memory so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def memory() -> None:
    """Peak memory above the model at a vocabulary of 128k; must run first, because the peak never falls."""
    model = shaped(vocab_size=131072, n_embd=1024, n_head=8, n_layer=1, n_inner=14336)
    prompts, values = some_prompts(model, 64), np.zeros(14336)
    sweep(model, prompts, values, range(2))
    before = peak()
    sweep(model, prompts, values, range(4000))
    print(f"V 131,072, d 1,024, 4,000 neurons, 64 tokens: peak {peak() - before:.2f} GiB above the model (budget 2)")


def growth() -> None:
    """How the time grows, as ratios to the smallest."""
    small = {"n_layer": 2, "n_embd": 256, "n_head": 4, "vocab_size": 8192}

    def row(title: str, times: dict[int, float]) -> None:
        first = next(iter(times.values()))
        print(f"{title:>8}  " + "  ".join(f"{key}: {value / first:.2f}x" for key, value in times.items()))

    row("tokens", {n: seconds(shaped(**small), n) for n in (64, 128, 256, 512)})
    row("neurons", {n: seconds(shaped(**small, n_inner=2048), 128, n) for n in (256, 512, 1024, 2048)})
    row("V", {v: seconds(shaped(**{**small, "vocab_size": v}), 128) for v in (8192, 16384, 32768, 65536)})
    row("layers", {n: seconds(shaped(**{**small, "n_layer": n}), 128) for n in (2, 4, 8)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--neurons", type=int, default=24)
    parser.add_argument("--quick", action="store_true", help="leave out how the time grows")
    args = parser.parse_args()
    if not args.quick:
        memory()
    against_the_published_way(args.tokens, args.neurons)
    if not args.quick:
        growth()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
