"""The weights of a planted model: which units have an effect on the answer, and how strong a one, is construction.

In an orthonormal basis of the residual stream (orthogonal to the constant vector, which a LayerNorm takes away):

    cue       g      every cue's embedding has it, and nothing else
    which     e_c    the embedding of cue c; the unembedding of its answer reads it
    answer    a      the unembedding of every answer reads it; nothing but planted units writes there
    group     h      embeddings of letters: + of the first group, - of the second; only group neurons read it
    null      n      read by nothing
    rest      r      what else is embedded, attended to, computed and read: at random

    answer neurons   read g, write s_j a:      active at a cue; without neuron j the logits of all answers fall by s_j
    loud neurons     read g, write ~0 in n:    as active at a cue, or more; without effect
    silent neurons   read nothing, write 2 a:  never active; without effect
    group neurons    read +h or -h, write r:   active at letters of one group alone
    all others       read at random, write r at random: small effects of either sign

In a model of planted heads all neurons are such others, and of its heads, which are more and narrower:

    answer heads     attend to a cue wherever one is, read g there, write s_j a
    loud heads       attend to a cue, read 4 g there, write ~0 in n: without effect
    silent heads     attend at random, read nothing, write 2 a: without effect
    all others       attend and read at random, write r at random

What is written is scaled by the measured activation and by what the final norm divides by, so that s_j is in nats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .world import ANSWERS, CUES, FIRST, ID, SECOND, TOKENS, answers, words

if TYPE_CHECKING:
    import torch

Planting = Literal["neurons", "heads"]
D, D_MLP, N_LAYERS, N_POSITIONS = 64, 128, 4, 64
N_HEADS: dict[Planting, int] = {"neurons": 4, "heads": 16}
"""Heads of a layer, by what is planted: where it is heads there are others enough to draw controls from."""
WHICH, NULL = len(CUES), 3
READ_BY_ANSWERS = 3.0
"""How strongly the unembedding of an answer reads ``a``."""
RARE = 3.5
"""By how much the logits of answers are lowered everywhere, in nats."""
LEVELS = (0.4, 0.2, 0.1, 0.05)
"""Strengths of answer units, in nats of the answers' logits."""
MISLEADING: dict[Planting, tuple[int, int, int, int]] = {"neurons": (6, 6, 4, 4), "heads": (2, 2, 0, 0)}
"""Loud and silent units, and those of the first and of the second group."""
ATTENDED = 12.0
"""Attention score of a cue for planted heads; that of anything else is 0."""


@dataclass(frozen=True)
class Places:
    """Which units are planted, each as (layer, index).

    Attributes:
        answer: with its strength in nats. loud, silent, first, second: without effect on the answer by construction.
    """

    answer: dict[tuple[int, int], float]
    loud: tuple[tuple[int, int], ...]
    silent: tuple[tuple[int, int], ...]
    first: tuple[tuple[int, int], ...]
    second: tuple[tuple[int, int], ...]


def places(seed: int, each: int, units: Planting = "neurons") -> Places:
    """``each`` answer units of every strength, in random places; those without effect beside them."""
    rng = np.random.default_rng([seed, 0])
    width, sizes = D_MLP if units == "neurons" else N_HEADS[units], (each * len(LEVELS), *MISLEADING[units])
    drawn = rng.choice(N_LAYERS * width, sum(sizes), replace=False)
    at = [(int(i) // width, int(i) % width) for i in drawn]
    answer, loud, silent, first, second = (
        tuple(at[stop - size : stop]) for stop, size in zip(np.cumsum(sizes), sizes, strict=True)
    )
    return Places({x: LEVELS[i // each] for i, x in enumerate(answer)}, loud, silent, first, second)


def build(seed: int, each: int, noise: float, units: Planting = "neurons") -> Any:
    """The ``transformers`` model, float32, in evaluation mode.

    Args:
        each: answer units of every strength. noise: standard deviation of what other neurons write, by dimension.
        units: what is planted.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    rng = np.random.default_rng([seed, 3])
    full = np.linalg.qr(np.concatenate([np.ones((D, 1)), rng.normal(size=(D, D - 1))], axis=1))[0][:, 1:]
    basis = np.split(full, np.cumsum([1, WHICH, 1, 1, NULL]), axis=1)
    config = GPT2Config(
        vocab_size=len(TOKENS), n_embd=D, n_layer=N_LAYERS, n_head=N_HEADS[units], n_inner=D_MLP,
        n_positions=N_POSITIONS, bos_token_id=ID["<s>"], eos_token_id=ID["</s>"],
        tie_word_embeddings=False, planted=seed,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).float().eval().requires_grad_(False)
    where = places(seed, each, units)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.zero_()
        _embed(hf, rng, basis, seed)
        for block in hf.transformer.h:
            _random(block, rng, basis[-1], np.concatenate([*basis[:3], basis[-1]], axis=1), noise)
        _plant(hf, where, basis, rng, units)
    return hf


def _put(parameter: torch.Tensor, values: np.ndarray) -> None:
    import torch

    parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _embed(hf: Any, rng: np.random.Generator, basis: list[np.ndarray], seed: int) -> None:
    """Embeddings of tokens and positions, and the unembedding."""
    cue, which, answer, group, _, rest = basis
    n = rest.shape[1]
    tokens = rng.normal(size=(len(TOKENS), n)) @ rest.T / np.sqrt(n)
    readout = 0.3 * rng.normal(size=(len(TOKENS), n)) @ rest.T
    for letters, sign in ((FIRST, 1.0), (SECOND, -1.0)):
        tokens[[ID[x] for x in letters]] += sign * group[:, 0]
    for c, (sign_of, reply) in enumerate(answers(seed).items()):
        tokens[ID[sign_of]] += 2 * cue[:, 0] + 2 * which[:, c]
        readout[ID[reply]] += 1.2 * which[:, c]
    readout[[ID[x] for x in ANSWERS]] += READ_BY_ANSWERS * answer[:, 0]
    _put(hf.transformer.wte.weight, tokens)
    _put(hf.transformer.wpe.weight, 0.1 * rng.normal(size=(N_POSITIONS, n)) @ rest.T / np.sqrt(n))
    _put(hf.lm_head.weight, readout)
    # Answers are rare but for what planted neurons and the cue do: else their probability would be close to one anyway.
    _put(hf.transformer.ln_f.bias, -RARE / READ_BY_ANSWERS * answer[:, 0])


def _random(block: Any, rng: np.random.Generator, rest: np.ndarray, read: np.ndarray, noise: float) -> None:
    """Attention, and neurons that read anything but ``group`` and ``null``; both write into ``rest``."""
    n = rest.shape[1]
    _put(block.attn.c_attn.weight, 0.2 * rng.normal(size=(D, 3 * D)))
    _put(block.attn.c_proj.weight, 0.05 * rng.normal(size=(D, n)) @ rest.T / np.sqrt(D))
    _put(block.mlp.c_fc.weight, 0.15 * read @ rng.normal(size=(read.shape[1], D_MLP)))
    _put(block.mlp.c_fc.bias, 0.3 * rng.normal(size=D_MLP))
    _put(block.mlp.c_proj.weight, noise * rng.normal(size=(D_MLP, n)) @ rest.T)


@dataclass(frozen=True)
class _Seen:
    """What the model does at the cues of some texts: at the last position, but for ``letters``.

    Attributes:
        attention: layer -> [texts, D], what its attention reads (the output of its norm). read: the same of its MLP.
        letters: the same at all positions of letters of the first group. heads: layer -> outputs of the heads [texts,
        D], before the output projection. neurons: layer -> activations [texts, D_MLP]. final: [texts, D], the residual.
    """

    attention: dict[int, torch.Tensor]
    read: dict[int, torch.Tensor]
    letters: dict[int, torch.Tensor]
    heads: dict[int, torch.Tensor]
    neurons: dict[int, torch.Tensor]
    final: torch.Tensor


def _watch(hf: Any, tokens: torch.Tensor) -> _Seen:
    """Pass texts of one length through the model."""
    import torch

    attention, read, letters, heads, neurons, final = {}, {}, {}, {}, {}, []
    first = torch.isin(tokens, torch.tensor([ID[x] for x in FIRST]))
    handles = [hf.transformer.ln_f.register_forward_pre_hook(lambda _m, args: final.append(args[0][:, -1]))]
    for i, block in enumerate(hf.transformer.h):

        def norm_before(_m: Any, _args: Any, out: torch.Tensor, i: int = i) -> None:
            attention[i] = out[:, -1]

        def project(_m: Any, args: Any, i: int = i) -> None:
            heads[i] = args[0][:, -1]

        def norm(_m: Any, _args: Any, out: torch.Tensor, i: int = i) -> None:
            read[i], letters[i] = out[:, -1], out[first]

        def down(_m: Any, args: Any, i: int = i) -> None:
            neurons[i] = args[0][:, -1]

        handles += [block.ln_1.register_forward_hook(norm_before), block.attn.c_proj.register_forward_pre_hook(project)]
        handles += [block.ln_2.register_forward_hook(norm), block.mlp.c_proj.register_forward_pre_hook(down)]
    hf(tokens)
    for handle in handles:
        handle.remove()
    return _Seen(attention, read, letters, heads, neurons, final[0])


def _plant(hf: Any, where: Places, basis: list[np.ndarray], rng: np.random.Generator, units: Planting) -> None:
    """Planted units, layer by layer: what a layer reads depends on those before it."""
    import torch

    texts = [words(rng, (FIRST, SECOND)[i % 2], 3, 3)[-9:].rjust(9) + CUES[i % len(CUES)] for i in range(32)]
    tokens = torch.tensor([[ID[x] for x in text] for text in texts])
    plant, size = _neurons if units == "neurons" else _heads, 1.0
    for _ in range(3):  # what the final norm divides by is known when all is planted
        for layer in range(N_LAYERS):
            plant(hf, layer, where, basis, tokens, size)
        size = float(_watch(hf, tokens).final.std(-1, correction=0).mean()) / READ_BY_ANSWERS


def _neurons(hf: Any, layer: int, where: Places, basis: list[np.ndarray], tokens: torch.Tensor, size: float) -> None:
    """Planted neurons of a layer. What they read is scaled to pre-activations of 2 (loud ones 6) at cues, or 1.5 at
    letters; what answer neurons write to their strengths, of which ``size`` is one nat."""
    import torch

    cue, _, answer, group, null, _ = (part[:, 0] for part in basis)
    mlp, seen = hf.transformer.h[layer].mlp, _watch(hf, tokens)
    at_cue = float((seen.read[layer] @ torch.from_numpy(cue).float()).mean())
    at_letter = float((seen.letters[layer] @ torch.from_numpy(group).float()).mean())

    def read(neurons: Iterable[tuple[int, int]], direction: np.ndarray, bias: float, top: float) -> list[int]:
        own = [i for at, i in neurons if at == layer]
        for i in own:
            _put(mlp.c_fc.weight[:, i], (top - bias) * direction)
            mlp.c_fc.bias[i] = bias
        return own

    active = read(where.answer, cue / at_cue, -2.0, 2.0)
    for i in read(where.loud, cue / at_cue, -2.0, 6.0):
        _put(mlp.c_proj.weight[i], 1e-3 * null)
    for i in read(where.silent, 0 * cue, -8.0, -8.0):
        _put(mlp.c_proj.weight[i], 2 * answer)
    read(where.first, group / at_letter, -1.5, 1.5)
    read(where.second, -group / at_letter, -1.5, 1.5)
    activations = _watch(hf, tokens).neurons[layer].mean(0)
    for i in active:
        _put(mlp.c_proj.weight[i], where.answer[layer, i] * size / float(activations[i]) * answer)


def _heads(hf: Any, layer: int, where: Places, basis: list[np.ndarray], tokens: torch.Tensor, size: float) -> None:
    """Planted heads of a layer, as :func:`_neurons`: each reads and writes by the first of its dimensions alone."""
    import torch

    cue, _, answer, _, null, _ = (part[:, 0] for part in basis)
    attention, width = hf.transformer.h[layer].attn, D // N_HEADS["heads"]
    at_cue = float((_watch(hf, tokens).attention[layer] @ torch.from_numpy(cue).float()).mean())

    def read(heads: Iterable[tuple[int, int]], values: np.ndarray) -> list[int]:
        own = [i * width for at, i in heads if at == layer]
        for i in own:
            attention.c_proj.weight[i : i + width] = 0
            attention.c_attn.weight[:, 2 * D + i : 2 * D + i + width] = 0
            _put(attention.c_attn.weight[:, 2 * D + i], values)
        return own

    def attend(own: list[int]) -> list[int]:
        for i in own:  # every query is the same, and of the keys only those of cues are not 0
            for at in (i, D + i):
                attention.c_attn.weight[:, at : at + width] = 0
            attention.c_attn.bias[i] = np.sqrt(width)  # by which scores are divided
            _put(attention.c_attn.weight[:, D + i], ATTENDED * cue / at_cue)
        return own

    active = attend(read(where.answer, cue / at_cue))
    for i in attend(read(where.loud, 4 * cue / at_cue)):
        _put(attention.c_proj.weight[i], 1e-3 * null)
    for i in read(where.silent, 0 * cue):
        _put(attention.c_proj.weight[i], 2 * answer)
    outputs = _watch(hf, tokens).heads[layer].mean(0)
    for i in active:
        _put(attention.c_proj.weight[i], where.answer[layer, i // width] * size / float(outputs[i]) * answer)
