"""Models whose answers are known: neurons with planted roles, by construction of the weights.

The folded unembedding (final norm's gain in, centred over the vocabulary) of a planted model is

    W = C v u_f^T / ||v||  +  M R^T        v = log p_freq - mean(log p_freq) of the corpus, M orthogonal to v and to 1

in an orthonormal basis of the residual stream: u_f, the rest R, and ``NULL`` directions N that W does not read (before
a LayerNorm also the constant vector). Neurons of the last layer write into exactly one part:

    entropy    w in N        logits move by the final norm's denominator alone: DE_LN = 0
    frequency  w = a u_f     W w = a C v / ||v||: but for the denominator the effect is along the token frequencies
    shift      w in R        and they read the position (GPT-2 only): their activations differ in a second copy
    others     w in R        W w is orthogonal to v

Nothing else writes along u_f. So where the frequency neurons' ``a`` is small (and C as much larger), they hardly move
the denominator: their effect is the component along v and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from families import BOS, EOS, tokenizer

from harness.model.model import Model
from harness.model.wrapping import wrap

D, D_MLP, NULL, D_VOCAB, N_POSITIONS = 64, 96, 3, 300, 64
ENTROPY, FREQUENCY, RISING, FALLING = (5, 33, 70), (11, 48, 90), (20, 61), (77,)
SHIFT = (*RISING, *FALLING)
QUIET = 0.01
"""A ``loudness`` of the frequency neurons at which the final norm does not hear them."""

WORDS = (
    "the small model reads what we planted and says what it must a neuron writes into nothing but the norm moves "
    "frequent letters come often rare ones seldom quick jumps over lazy dogs box five wizards vex my jug"
)


# -- texts -------------------------------------------------------------------------------------------------------------


def texts(n: int = 120, seed: int = 0) -> list[str]:
    """Sentences of 30 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS.split(), int(rng.integers(30, 40))).tolist()) + "." for _ in range(n)]


def write_corpus(folder: Path, documents: Sequence[str] | None = None) -> str:
    """A .jsonl of the documents (default: :func:`texts`), as a corpus is specified."""
    path = folder / "texts.jsonl"
    lines = (json.dumps({"text": text}) + "\n" for text in documents or texts())
    path.write_text("".join(lines), encoding="utf-8")
    return f"{{name: text, path: {path}}}"


def token_counts(documents: Sequence[str]) -> np.ndarray:
    """How often each token of ``families.tokenizer`` occurs, int64 [D_VOCAB]."""
    ids = [i for text in documents for i in tokenizer()(text)["input_ids"]]
    return np.bincount(ids, minlength=D_VOCAB)


def log_frequency(counts: np.ndarray) -> np.ndarray:
    """v_freq, float64 [D_VOCAB], of counts + 1."""
    log_p = np.log((counts + 1) / (counts + 1).sum())
    return np.asarray(log_p - log_p.mean())


# -- models ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A model, and the float64 quantities of its construction.

    Attributes:
        hf: the ``transformers`` model. layernorm: whether the final norm subtracts the mean. eps: of the final norm.
        v: v_freq [D_VOCAB]. scale: C, so that W u_f = C v / ||v||; 0 where nothing is planted.
        folded: W [D_VOCAB, D]. writes: [D_MLP, D], the last layer's output weights.
        roles: neuron -> "entropy", "frequency", "shift"; the others are not in it.
    """

    hf: Any
    layernorm: bool
    eps: float
    v: np.ndarray
    scale: float
    folded: np.ndarray
    writes: np.ndarray
    roles: dict[int, str] = field(default_factory=dict)

    def model(self) -> Model:
        return wrap(self.hf, tokenizer(), "planted")

    def save(self, folder: Path) -> str:
        """Write the model with its tokenizer; returns how a run names it."""
        self.hf.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return f"hf:pretrained={folder}"


def planted(family: str = "gpt2", loudness: float = 1.0, plant: bool = True, seed: int = 0) -> Planted:
    """A random model of two layers, of the shape "gpt2" (LayerNorm) or "llama" (RMSNorm), with what is said above.

    Args:
        loudness: length of the frequency neurons' output weights, relative to the entropy neurons'.
        plant: False: the same shape and spreads, but W_U and the last layer's output weights are random.
    """
    hf, layernorm = _random(family, seed), family == "gpt2"
    rng = np.random.default_rng(seed)
    v = log_frequency(token_counts(texts()))
    gain = 1 + 0.2 * rng.uniform(-1, 1, D)
    norm = hf.transformer.ln_f if layernorm else hf.model.norm
    roles: dict[int, str] = {}
    if plant:
        basis = _basis(rng, layernorm)
        folded, writes, scale = _readout(rng, v, basis, loudness)
        roles |= {i: "entropy" for i in ENTROPY} | {i: "frequency" for i in FREQUENCY}
        roles |= {i: "shift" for i in SHIFT} if layernorm else {}
    else:
        folded, writes, scale = 0.5 * rng.normal(size=(D_VOCAB, D)), rng.normal(size=(D_MLP, D)) / np.sqrt(D), 0.0
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(gain))
        hf.lm_head.weight.copy_(torch.from_numpy(folded / gain))
        _down(hf, -1).copy_(torch.from_numpy(writes))
        if plant:
            _silence(hf, basis[:, NULL])
            if layernorm:
                _read_positions(hf, rng)
            some = [*ENTROPY, *FREQUENCY]
            writes[some] /= _spread(hf)[some, None]
            _down(hf, -1).copy_(torch.from_numpy(writes))
    return Planted(hf, layernorm, 1e-5, v, scale, folded, writes, roles)


def _random(family: str, seed: int) -> Any:
    common: dict[str, Any] = {"vocab_size": D_VOCAB, "bos_token_id": BOS, "eos_token_id": EOS}
    common["tie_word_embeddings"] = False
    if family == "gpt2":
        config: Any = transformers.GPT2Config(
            n_embd=D, n_layer=2, n_head=4, n_inner=D_MLP, n_positions=N_POSITIONS, **common
        )
    else:
        config = transformers.LlamaConfig(
            hidden_size=D, intermediate_size=D_MLP, num_hidden_layers=2, num_attention_heads=4, rms_norm_eps=1e-5,
            max_position_embeddings=N_POSITIONS, **common,
        )  # fmt: skip
    hf = transformers.AutoModelForCausalLM.from_config(config).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:  # gains keep their 1, so that a direction stays one behind a norm
                weight.copy_(torch.ones_like(weight) if "weight" in name else 0.1 * noise)
            else:
                weight.copy_((0.5 if "wte" in name or "embed" in name else 0.15) * noise)
    return hf.eval().requires_grad_(False)


def _down(hf: Any, layer: int) -> torch.Tensor:
    """Output weights [D_MLP, D] of a layer's neurons, a view of the parameter."""
    if hasattr(hf, "transformer"):
        return hf.transformer.h[layer].mlp.c_proj.weight
    return hf.model.layers[layer].mlp.down_proj.weight.T


def _basis(rng: np.random.Generator, layernorm: bool) -> np.ndarray:
    """Orthonormal columns [D, D], or [D, D - 1] orthogonal to the constant vector."""
    start = np.ones((D, 1)) if layernorm else np.zeros((D, 0))
    full = np.linalg.qr(np.concatenate([start, rng.normal(size=(D, D))], axis=1)[:, :D])[0]
    return full[:, start.shape[1] :]


def _readout(
    rng: np.random.Generator, v: np.ndarray, basis: np.ndarray, loudness: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """W [D_VOCAB, D], output weights [D_MLP, D] and C."""
    null, u_f, rest = basis[:, :NULL], basis[:, NULL], basis[:, NULL + 1 :]
    unit = v / np.linalg.norm(v)
    M = 0.5 * rng.normal(size=(D_VOCAB, rest.shape[1]))
    M -= M.mean(axis=0)
    M -= np.outer(unit, unit @ M)  # v has mean 0, so the columns keep theirs
    scale = 0.5 * np.sqrt(D_VOCAB) / loudness
    writes = rng.normal(size=(D_MLP, rest.shape[1])) @ rest.T / np.sqrt(D)
    inside = rng.normal(size=(len(ENTROPY), NULL)) @ null.T
    if basis.shape[1] < D:  # a LayerNorm's: only there shift neurons are planted
        writes[list(SHIFT)] *= 3
    writes[list(ENTROPY)] = 5 * inside / np.linalg.norm(inside, axis=1, keepdims=True)
    writes[list(FREQUENCY)] = 2 * loudness * np.array([1.0, -0.8, 0.6])[:, None] * u_f
    return scale * np.outer(unit, u_f) + M @ rest.T, writes, float(scale)


def _silence(hf: Any, direction: np.ndarray) -> None:
    """Nothing but the last layer's neurons writes along ``direction`` [D]."""
    u = torch.from_numpy(direction).float()
    for name, weight in hf.named_parameters():
        last = "h.1.mlp" in name or "layers.1.mlp" in name
        if any(part in name for part in ("wte", "wpe", "embed_tokens")):
            weight -= (weight @ u)[:, None] * u
        elif name.endswith(("o_proj.weight", "down_proj.weight")) and not last:  # [D, in]
            weight -= u[:, None] * (u @ weight)
        elif name.endswith("c_proj.weight") and not last:  # [in, D]
            weight -= (weight @ u)[:, None] * u
        elif name.endswith("c_proj.bias"):
            weight -= (weight @ u) * u


def _spread(hf: Any) -> np.ndarray:
    """Standard deviation of the last layer's activations on some of the texts [D_MLP]."""
    seen: list[torch.Tensor] = []
    module = hf.transformer.h[-1].mlp.c_proj if hasattr(hf, "transformer") else hf.model.layers[-1].mlp.down_proj
    hook = module.register_forward_hook(lambda _module, args, _output: seen.append(args[0].reshape(-1, D_MLP)))
    for text in texts()[:8]:
        hf(torch.tensor([tokenizer()(text)["input_ids"][:N_POSITIONS]]))
    hook.remove()
    return torch.cat(seen).double().std(0).numpy()


def _read_positions(hf: Any, rng: np.random.Generator) -> None:
    """The position embeddings go from -r to r along a direction that the shift neurons read, and no others."""
    direction = rng.normal(size=D)
    direction -= direction.mean()
    r = torch.from_numpy(direction / np.linalg.norm(direction)).float()
    embeddings, read = hf.transformer.wpe.weight, hf.transformer.h[-1].mlp.c_fc.weight
    embeddings += 4 * torch.linspace(-1, 1, N_POSITIONS)[:, None] * r
    read -= r[:, None] * (r @ read)
    for index in SHIFT:
        read[:, index] = (3 if index in RISING else -3) * r


def induction_circuit() -> Model:
    """Two layers of three heads: L0H0 copies the previous token, L1H1 looks for the current one among those copies, and
    L1H2 attends to the first position; the others attend to everything alike.

    The residual stream holds the token, the position and the previous token in three parts that are orthogonal to each
    other and to the constant vector, so that LayerNorms only scale. It knows 31 positions.
    """
    d, width, n = 96, 32, 31
    config = transformers.GPT2Config(
        vocab_size=D_VOCAB, n_embd=d, n_layer=2, n_head=3, n_inner=16, n_positions=n, bos_token_id=BOS,
        eos_token_id=EOS, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(config).float()
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(np.concatenate([np.ones((d, 1)), rng.normal(size=(d, d - 1))], axis=1))[0][:, 1:]
    token, place, previous = (torch.from_numpy(x).float() for x in np.split(basis, [width, width + n], axis=1))
    words = torch.from_numpy(rng.normal(size=(D_VOCAB, width))).float()
    before = torch.zeros(n, width)  # position p asks for position p - 1
    before[torch.arange(1, n), torch.arange(n - 1)] = 4.0
    same = torch.zeros(n, width)
    same[:, :n] = torch.eye(n)

    def head(block: Any, index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor | None = None) -> None:
        for part, weight in enumerate((query, key, value)):
            if weight is not None:
                block.attn.c_attn.weight[:, d * part + width * index : d * part + width * (index + 1)] = weight

    with torch.no_grad():
        hf.transformer.wte.weight.copy_(words / words.norm(dim=1, keepdim=True) @ token.T)
        hf.transformer.wpe.weight.copy_(place.T)
        for block in hf.transformer.h:
            for linear in (block.attn.c_attn, block.attn.c_proj):
                linear.weight.zero_()
            block.mlp.c_proj.weight.mul_(0.01)
        first, second = hf.transformer.h
        head(first, 0, place @ before, place @ same, token)
        first.attn.c_proj.weight[:width] = previous.T / 7  # a LayerNorm of two unit vectors in 96 dimensions is long 7
        head(second, 1, 8 * token, previous)
        second.attn.c_attn.weight[:, d + 2 * width : d + 3 * width] = place @ same
        second.attn.c_attn.bias[2 * width] = 20.0  # whoever asks, the key of position 0 answers
    return wrap(hf.eval().requires_grad_(False), tokenizer(), "induction circuit")
