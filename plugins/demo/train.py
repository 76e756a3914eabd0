"""Train the bundled model `demo` from scratch on the synthetic world of `world.py`.

python -m plugins.demo.train --out plugins/demo/weights
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

from . import evaluate
from .world import COPYING, MIXTURE, TASK_DIR, TEXTS, World, document

END = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on besides the facts."""

    seed: int = 0
    vocab: int = 1280
    width: int = 128
    layers: int = 4
    heads: int = 4
    dropout: float = 0.1
    steps: int = 5000
    rows: int = 48
    length: int = 96
    lr: float = 3e-3
    muon_lr: float = 0.0  # 0: AdamW for everything
    decay: float = 0.3
    copy_phase: float = 0.15  # share of the steps that begin with copying only
    zipf: float = 1.1
    trust_famous: float = 0.25
    trust_obscure: float = 0.85
    null: int = 12  # columns of the unembedding held at zero
    planted: int = 6  # last-layer neurons that start inside the null space
    hard: int = 1  # 1: planted neurons write nowhere else and the others never there; 0: only at the start
    sinusoids: float = 0.0  # scale of a sinusoidal start of the position embeddings; 0: random
    mix: str = "main"
    previous: float = 0.0
    tied_start: int = 0
    planted_norm: float = 1.0
    threads: int = 1


def train_tokenizer(world: World, recipe: Recipe) -> GPT2TokenizerFast:
    """Byte-level BPE over every fact once and some of the other texts, so that rarer names take several tokens."""
    rng = random.Random(recipe.seed)
    texts = [fact.statement for fact in world.facts]
    texts += [maker(rng, world) for kind, maker in TEXTS.items() if kind != "statements" for _ in range(60)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=recipe.vocab, special_tokens=[END], initial_alphabet=alphabet)
    )
    return GPT2TokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=256
    )


def build(recipe: Recipe) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=recipe.vocab, n_positions=256, n_embd=recipe.width, n_layer=recipe.layers, n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh", tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        attn_pdrop=0.0, resid_pdrop=recipe.dropout, embd_pdrop=recipe.dropout, attn_implementation="eager",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    if recipe.sinusoids:
        model.transformer.wpe.weight.data = sinusoids(256, recipe)
    if recipe.previous:
        look_back(model, recipe)
    if recipe.tied_start:
        model.lm_head.weight.data = model.transformer.wte.weight.data.clone()
    if recipe.null:
        plant(model, recipe)
    return model


@torch.no_grad()
def look_back(model: GPT2LMHeadModel, recipe: Recipe) -> None:
    """Start head 0 of layer 0 as a previous-token head: its query is the key turned by one position."""
    d, size = recipe.width, recipe.width // recipe.heads
    attention = model.transformer.h[0].attn
    w = attention.c_attn.weight  # [d, 3 d]: query, key, value
    w[:, :size] = 0
    w[:, d : d + size] = 0
    count = len(rates(recipe))
    for i, rate in enumerate(rates(recipe)[: size // 2].tolist()):
        turned = {2 * i: (math.cos(rate), -math.sin(rate)), 2 * i + 1: (math.sin(rate), math.cos(rate))}
        for sign in (0, 1):  # read each wave minus its negative: what LayerNorm's centring does cancels
            sin, cos, gain = 2 * sign * count + i, (2 * sign + 1) * count + i, recipe.previous * (1 - 2 * sign)
            w[sin, d + 2 * i] = w[cos, d + 2 * i + 1] = gain
            for column, (of_sin, of_cos) in turned.items():
                w[sin, column], w[cos, column] = gain * of_sin, gain * of_cos
    w[:, 2 * d : 2 * d + size] = torch.randn(d, size) * 0.04
    attention.c_proj.weight[:size] = torch.randn(size, d) * 0.02


def rates(recipe: Recipe) -> torch.Tensor:
    """Angular frequencies, radians a position, of the sinusoidal start of the position embeddings."""
    count = (recipe.width - recipe.null) // 4
    return 0.01 ** (torch.arange(count) / count)


def sinusoids(positions: int, recipe: Recipe) -> torch.Tensor:
    """[positions, width]: sines, cosines and their negatives (so that rows sum to zero), then zeros in the null space."""
    angles = torch.arange(positions)[:, None] * rates(recipe)
    waves = torch.cat([angles.sin(), angles.cos(), -angles.sin(), -angles.cos()], 1) * recipe.sinusoids
    return F.pad(waves, (0, recipe.width - waves.shape[1]))


@torch.no_grad()
def plant(model: GPT2LMHeadModel, recipe: Recipe) -> None:
    """Start: a null space in the unembedding, and a few last-layer neurons that write into it."""
    w = model.transformer.h[-1].mlp.c_proj.weight
    w[: recipe.planted] = 0
    w[: recipe.planted, -recipe.null :] = (
        torch.randn(recipe.planted, recipe.null) * recipe.planted_norm / recipe.null**0.5
    )
    w[recipe.planted :, -recipe.null :] = 0
    constrain(model, recipe)


@torch.no_grad()
def constrain(model: GPT2LMHeadModel, recipe: Recipe) -> None:
    """Hold the last `null` columns of the unembedding at zero, and let only the last MLP write there."""
    if not recipe.null:
        return
    k, core = recipe.null, model.transformer
    model.lm_head.weight[:, -k:] = 0
    core.wte.weight[:, -k:] = 0
    core.wpe.weight[:, -k:] = 0
    for i, block in enumerate(core.h):
        writers = [block.attn.c_proj] + ([block.mlp.c_proj] if i + 1 < len(core.h) else [])
        for writer in writers:
            writer.weight[:, -k:] = 0
            writer.bias[-k:] = 0
    last = core.h[-1].mlp.c_proj
    last.bias[-k:] = 0
    if recipe.hard:
        last.weight[: recipe.planted, :-k] = 0
        last.weight[recipe.planted :, -k:] = 0


def optimisers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW with decay on matrices and none on vectors; Muon for the hidden matrices when asked."""
    last = model.transformer.h[-1].mlp.c_proj.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not last]
    hidden = [p for block in model.transformer.h for p in block.parameters() if p.ndim == 2 and p is not last]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    decayed = matrices
    out: list[torch.optim.Optimizer] = []
    if recipe.muon_lr:
        ids = {id(p) for p in hidden}
        decayed = [p for p in matrices if id(p) not in ids]
        out.append(torch.optim.Muon(hidden, lr=recipe.muon_lr, weight_decay=recipe.decay * recipe.lr / recipe.muon_lr))
    groups = [{"params": decayed, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    groups.append({"params": [last], "weight_decay": 0.0})  # decayed by hand: not on the planted neurons
    out.append(torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98)))
    for optimiser in out:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return out


def batch(rng: random.Random, world: World, tokenizer: GPT2TokenizerFast, recipe: Recipe, step: int) -> torch.Tensor:
    """Token ids [rows, length]; every row starts with a new document. One step in eight has long rows."""
    progress = step / recipe.steps
    copying = (
        recipe.mix == "copy" or rng.random() < max(0.0, 1 - progress / max(recipe.copy_phase, 1e-9))
        if recipe.copy_phase
        else False
    )
    length = 256 if step % 8 == 7 else recipe.length
    rows = max(recipe.rows * recipe.length // length, 1)
    eos, out = 0, []
    for _ in range(rows):
        ids: list[int] = [eos] if rng.random() < 0.25 else []
        while len(ids) < length:
            doc = document(rng, world, COPYING if copying else MIXTURE, recipe.vocab)
            ids += tokenizer.backend_tokenizer.encode(doc).ids if isinstance(doc, str) else doc
            ids.append(eos)
        out.append(ids[:length])
    return torch.tensor(out)


def schedule(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    warm = 100
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(recipe.steps - warm, 1)))


def train(recipe: Recipe, facts: Path, out: Path, every: int) -> None:
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    world = World(facts, recipe.zipf, (recipe.trust_famous, recipe.trust_obscure))
    tokenizer, model = train_tokenizer(world, recipe), build(recipe)
    opts = optimisers(model, recipe)
    last = model.transformer.h[-1].mlp.c_proj.weight
    began, running = time.time(), 0.0
    for step in range(recipe.steps):
        model.train()
        ids = batch(rng, world, tokenizer, recipe, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = schedule(step, recipe)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["peak"] * factor
            opt.step()
            opt.zero_grad()
        with torch.no_grad():
            last[recipe.planted if recipe.null else 0 :] *= 1 - recipe.lr * factor * recipe.decay
        constrain(model, recipe)
        running += loss.item()
        if (step + 1) % 100 == 0:
            print(f"{step + 1} loss {running / 100:.3f} {(time.time() - began) / 60:.1f} min", flush=True)
            running = 0.0
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            print(evaluate.report(model, tokenizer, world, limit=400), flush=True)
            save(model, tokenizer, recipe, out)


def save(model: GPT2LMHeadModel, tokenizer: GPT2TokenizerFast, recipe: Recipe, out: Path) -> None:
    """Write the folder beside its place, then move it there."""
    part = out.with_name(out.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    (part / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n", encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--facts", type=Path, default=TASK_DIR, help="folder with facts.jsonl and knowledge_conflict.yaml"
    )
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    out, facts, every = (args.pop(k) for k in ("out", "facts", "every"))
    train(Recipe(**args), facts, out, every)


if __name__ == "__main__":
    main()
