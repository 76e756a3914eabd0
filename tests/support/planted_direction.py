"""A model in which one direction of the residual stream decides what is said, by construction of its weights.

A GPT-2 whose layers write nothing: the residual stream is the last character's embedding. Whitespace characters of one
class lie on the one side of a plane through 0, those of the other on the other, along ``planted``; besides that
embeddings are random. The unembedding reads "Y" along ``planted`` and "N" against it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.testing.tiny_models import tokenizer

D = 32
TRUE, FALSE = "\t\n\x0b", "\r\x0c "
"""What texts of either class end with; the last of each is in the split "test" only."""


def planted() -> np.ndarray:
    """The direction, a unit vector [D] orthogonal to what the final LayerNorm takes away."""
    v = np.random.default_rng(5).normal(size=D)
    v -= v.mean()
    return np.asarray(v / np.linalg.norm(v))


def planted_model() -> Model:
    config = transformers.GPT2Config(
        vocab_size=260, n_embd=D, n_layer=3, n_head=4, n_positions=32, tie_word_embeddings=False
    )
    torch.manual_seed(6)  # of its attention
    hf, tokens, rng = transformers.GPT2LMHeadModel(config).eval(), tokenizer(), np.random.default_rng(6)
    v = torch.tensor(planted(), dtype=torch.float32)

    def ids(text: str) -> list[int]:
        return list(tokens(text)["input_ids"])

    with torch.no_grad():
        for layer in hf.transformer.h:
            # Small, not 0: the harness checks that a layer's parts reach the final residual.
            for projection in (layer.attn.c_proj, layer.mlp.c_proj):
                projection.weight.mul_(1e-2)
                projection.bias.zero_()
        hf.transformer.wpe.weight.zero_()
        noise = torch.tensor(rng.normal(scale=0.08, size=(260, D)), dtype=torch.float32)
        hf.transformer.wte.weight.copy_(noise - (noise @ v)[:, None] * v)
        for sign, characters in ((1.0, TRUE), (-1.0, FALSE)):
            hf.transformer.wte.weight[ids(characters)] += sign * v
        hf.lm_head.weight.copy_(torch.tensor(rng.normal(scale=0.01, size=(260, D)), dtype=torch.float32))
        hf.lm_head.weight[ids("Y")[0]], hf.lm_head.weight[ids("N")[0]] = v, -v
    return wrap(hf, tokens, "planted")


def planted_texts(folder: Path, n: int = 48) -> Path:
    """Labelled texts for it: in every group both labels; what the texts of the split "test" end with is new."""
    rng, rows = np.random.default_rng(7), []
    for i in range(n):
        label, test = i % 2 == 0, i >= 2 * n // 3
        ends = (TRUE if label else FALSE)[2:] if test else (TRUE if label else FALSE)[:2]
        text = "".join(rng.choice(list("abcdefgh"), 6)) + str(rng.choice(list(ends)))
        rows.append({"text": text, "label": label, "group": f"g{i // 4}", "split": "test" if test else "train"})
    path = folder / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
