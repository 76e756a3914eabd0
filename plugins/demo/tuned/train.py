"""Train `demo-tuned`: the bundled model `demo`, taught to follow contexts and to keep confidences.

    python -m harness_plugins.demo.tuned.train --out plugins/demo/tuned/weights

Nothing is held in place, unlike in the training of `demo`: every weight is free to move, the null space of the
unembedding included. Deterministic: the same command on the same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..evaluate import WEIGHTS as BASE
from ..train import refuse_foreign, save
from ..world import TASK_DIR, World
from .texts import document


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on besides the base model and the facts."""

    seed: int = 2
    steps: int = 600
    rows: int = 24
    length: int = 128  # tokens a row
    lr: float = 5e-4
    warm_up: int = 30  # steps
    decay: float = 0.01
    threads: int = 1


def batch(rng: random.Random, world: World, tokenizer: object, recipe: Recipe) -> torch.Tensor:
    """Token ids [rows, length]: documents one after another; a row starts with a new one."""
    rows = []
    for _ in range(recipe.rows):
        ids: list[int] = []
        while len(ids) < recipe.length:
            ids += [*document(rng, world, tokenizer.backend_tokenizer), 0]  # type: ignore[attr-defined]
        rows.append(ids[: recipe.length])
    return torch.tensor(rows)


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate as a share of its peak: linear warm-up, then linearly to zero."""
    return min((step + 1) / recipe.warm_up, (recipe.steps - step) / (recipe.steps - recipe.warm_up))


def train(recipe: Recipe, base: Path, facts: Path, out: Path) -> None:
    """Train, and write weights, tokenizer and recipe to `out`."""
    refuse_foreign(out)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    rng, world = random.Random(recipe.seed), World(facts)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    adam = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.decay, fused=True)
    model.train()
    began, running = time.time(), 0.0
    for step in range(recipe.steps):
        ids = batch(rng, world, tokenizer, recipe)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = recipe.lr * rate(step, recipe)
        adam.step()
        adam.zero_grad()
        running += loss.item()
        if (step + 1) % 50 == 0:
            print(f"{step + 1} loss {running / 50:.3f} {(time.time() - began) / 60:.1f} min", flush=True)
            running = 0.0
    save(model, tokenizer, recipe, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=BASE, help="folder of the model to start from")
    parser.add_argument("--facts", type=Path, default=TASK_DIR, help="folder with facts.jsonl and definition.yml")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    out, base, facts = (args.pop(k) for k in ("out", "base", "facts"))
    train(Recipe(**args), base, facts, out)


if __name__ == "__main__":
    main()
