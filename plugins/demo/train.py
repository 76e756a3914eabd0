"""Train the bundled model `demo` from scratch on the synthetic world of `world.py`.

    python -m harness_plugins.demo.train --out plugins/demo/weights

Deterministic: the same command on the same machine gives the same bytes (fixed seed, fixed number of threads).
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
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from . import evaluate
from .world import TASK_DIR, TEXTS, World, document, token_repeats

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

END = "<|endoftext|>"
WRITTEN = {
    "config.json", "generation_config.json", "model.safetensors", "recipe.json", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip
SHORT = 16  # longest span, in tokens, of the first half of the copy phase


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on besides the facts."""

    seed: int = 0
    vocab: int = 1280
    width: int = 128
    layers: int = 4
    heads: int = 4
    rotary: float = 0.5  # share of a head's dimensions that carry positions
    theta: float = 100.0
    dropout: float = 0.1
    steps: int = 4500
    rows: int = 36
    length: int = 128  # tokens a row
    lr: float = 3e-3
    decay: float = 0.2
    copying: int = 500  # first steps, on repeated random tokens only
    zipf: float = 1.4
    trust_famous: float = 0.2
    trust_obscure: float = 0.8
    null: int = 12  # columns of the unembedding held at zero
    planted: int = 8  # last-layer neurons that write into the null space and nowhere else
    threads: int = 1


def train_tokenizer(world: World, recipe: Recipe) -> PreTrainedTokenizerFast:
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
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=256
    )


def build(recipe: Recipe) -> Any:
    """A GPT-NeoX model in which a head that copies is easy to find: each token's embedding and unembedding agree."""
    config = GPTNeoXConfig(
        vocab_size=recipe.vocab, hidden_size=recipe.width, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, intermediate_size=4 * recipe.width, max_position_embeddings=256,
        hidden_act="gelu_pytorch_tanh", use_parallel_residual=False, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.theta, "partial_rotary_factor": recipe.rotary},
        hidden_dropout=recipe.dropout, attention_dropout=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        attn_implementation="eager",
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        tokens = torch.randn(recipe.vocab, recipe.width)
        model.get_input_embeddings().weight.copy_(0.5 * tokens)
        model.get_output_embeddings().weight.copy_(0.03 * tokens)
        model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight[-recipe.null :, : recipe.planted].normal_(
            std=recipe.null**-0.5
        )
    constrain(model, recipe)
    return model


@torch.no_grad()
def constrain(model: Any, recipe: Recipe) -> None:
    """Hold the last `null` columns of the unembedding at zero, and let only the planted neurons write there."""
    k, core = recipe.null, model.gpt_neox
    model.get_output_embeddings().weight[:, -k:] = 0
    core.embed_in.weight[:, -k:] = 0
    last = core.layers[-1].mlp.dense_4h_to_h
    planted = last.weight[-k:, : recipe.planted].clone()
    planted -= planted.mean(0)  # a sum other than 0 would leave the null space where LayerNorm centres
    for layer in core.layers:
        for writer in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            writer.weight[-k:] = 0
            writer.bias[-k:] = 0
    last.weight[:, : recipe.planted] = 0
    last.weight[-k:, : recipe.planted] = planted


def optimiser(model: Any, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices, but not on the planted neurons' output weights (see `train`)."""
    last = model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not last]
    others = [last, *(p for p in model.parameters() if p.ndim < 2)]
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)


def batch(
    rng: random.Random, world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [rows, length], and which of ids[:, 1:] count in the loss. A row starts with a new document."""
    length, eos, rows, counts = recipe.length, 0, [], []
    for _ in range(recipe.rows):
        ids: list[int] = []
        count: list[bool] = []
        while len(ids) < length:
            if step < recipe.copying:  # only the copies count: the spans themselves cannot be predicted
                longest = SHORT if step < recipe.copying / 2 else length // 2
                doc, first = token_repeats(rng, recipe.vocab, longest)
                count += [False] * first + [True] * (len(doc) - first)
                ids += doc
                continue
            doc = document(rng, world, tokenizer.backend_tokenizer)
            ids += [*doc, eos]
            count += [True] * (len(doc) + 1)
        rows.append(ids[:length])
        counts.append(count[1:length])
    return torch.tensor(rows), torch.tensor(counts)


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate as a share of its peak: linear warm-up, constant while copying, then a cosine to a fiftieth."""
    if step < recipe.copying:
        return min((step + 1) / 50, 1.0)
    done = (step - recipe.copying) / max(recipe.steps - recipe.copying, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def train(recipe: Recipe, facts: Path, out: Path, every: int = 0) -> None:
    """Train, and write weights, tokenizer and recipe to `out`; with `every`, also measure and write every so many steps
    (which does not change the result)."""
    refuse_foreign(out)
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    world = World(facts, recipe.zipf, (recipe.trust_famous, recipe.trust_obscure))
    tokenizer, model = train_tokenizer(world, recipe), build(recipe)
    adam = optimiser(model, recipe)
    last = model.gpt_neox.layers[-1].mlp.dense_4h_to_h.weight
    began, running = time.time(), 0.0
    for step in range(recipe.steps):
        model.train()
        ids, counts = batch(rng, world, tokenizer, recipe, step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.gpt_neox(ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.get_output_embeddings()(hidden[counts])
        loss = F.cross_entropy(logits.float(), ids[:, 1:][counts])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        factor = rate(step, recipe)
        for group in adam.param_groups:
            group["lr"] = recipe.lr * factor
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            last[:, recipe.planted :] *= 1 - recipe.lr * factor * recipe.decay
        constrain(model, recipe)
        running += loss.item()
        if (step + 1) % 50 == 0:
            print(f"{step + 1} loss {running / 50:.3f} {(time.time() - began) / 60:.1f} min", flush=True)
            running = 0.0
        if every and (step + 1) % every == 0:
            print(evaluate.report(model, tokenizer, world, limit=400), flush=True)
            save(model, tokenizer, recipe, out)
    save(model, tokenizer, recipe, out)


def save(model: Any, tokenizer: PreTrainedTokenizerFast, recipe: DataclassInstance, out: Path) -> None:
    """Write the folder beside its place, then move it there."""
    part = out.with_name(out.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    (part / "recipe.json").write_text(recipe_text(recipe), encoding="utf-8")
    for file in part.iterdir():
        file.chmod(0o644)
    refuse_foreign(out)
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)


def refuse_foreign(out: Path) -> None:
    """Refuse to replace a folder that is anything but a model that was trained here; asked before the training, too."""
    found = {x.name for x in out.iterdir()} if out.exists() else set()
    if found and (found - WRITTEN or "recipe.json" not in found):
        raise SystemExit(f"error: {out} holds more than a model that was trained here; choose another folder.")


def recipe_text(recipe: DataclassInstance) -> str:
    """The recipe as it is kept beside the weights."""
    return json.dumps(asdict(recipe), indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--facts", type=Path, default=TASK_DIR, help="folder with facts.jsonl and definition.yml")
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = vars(parser.parse_args())
    out, facts, every = (args.pop(k) for k in ("out", "facts", "every"))
    train(Recipe(**args), facts, out, every)


if __name__ == "__main__":
    main()
