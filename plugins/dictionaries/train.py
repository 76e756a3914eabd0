"""Train a small top-k sparse autoencoder on the residual stream of a model, in minutes.

    python -m harness_plugins.dictionaries.train --model demo --out FOLDER
    python -m harness_plugins.dictionaries.train --model smollm2-135m-instruct --corpus text:path=FILE --layers -2,-1 \\
        --out FOLDER

Gao et al. 2024 (Scaling and evaluating sparse autoencoders, arXiv:2406.04093): of W_enc (x - b_dec) + b_enc the k
largest, decoder rows of length 1, the squared error of the reconstruction, and an auxiliary loss (eq. 7) with which
latents that were not active for long learn what the others leave. Activations are scaled to a mean length of
sqrt(d_model), which is folded into the weights at the end. The first token of each sequence is left out.

Deterministic: the same command on the same machine gives the same bytes. Written is a folder for each layer, as SAELens
saves dictionaries, and its quality on sequences that were not trained on, of the corpus's other half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.files.terminal import say
from harness.plugin import Corpus, HarnessError, ModelLoader, layers_in

from .dictionary import load
from .folders import CONFIGURATION, WEIGHTS
from .quality import quality

if TYPE_CHECKING:
    from harness.plugin import Model

FORMAT = "6.0.0"
"""The version of SAELens whose format is written."""


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on besides the model and the texts."""

    seed: int = 0
    latents: int = 1024
    k: int = 16
    sequences: int = 4000
    length: int = 64  # tokens a sequence
    steps: int = 3000
    batch: int = 1024  # tokens a step
    lr: float = 1e-3
    dead_after: int = 100  # steps without activity
    auxiliary: float = 1 / 32  # weight of the auxiliary loss
    threads: int = 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo", help="as of harness eval")
    parser.add_argument("--corpus", help="as of harness list, for example text:path=FILE; default: the model's own")
    parser.add_argument("--layers", default="-1", help="one, or several: -2,-1; negative ones count from the last")
    parser.add_argument("--held", type=int, default=256, help="sequences that its quality is measured on")
    parser.add_argument("--out", type=Path, required=True, help="folder; of several layers one in it for each")
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args(arguments))
    model, corpus, layers, held, out = (given.pop(key) for key in ("model", "corpus", "layers", "held", "out"))
    try:
        run(model, corpus, tuple(int(x) for x in layers.split(",")), held, out, Recipe(**given))
    except (HarnessError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


def run(
    model_spec: str, corpus_spec: str | None, layers: tuple[int, ...], n_held: int, out: Path, recipe: Recipe
) -> None:
    """Train on each layer, write, and say how good what was written is."""
    from harness.data import sequences
    from harness.plugin.catalogue import catalogue
    from harness.plugin.specs import parse_spec
    from harness.running.request import model_named

    torch.set_num_threads(recipe.threads)
    found = catalogue()
    loader = found.build(ModelLoader, model_named(model_spec, found, ""), "--model")
    named = corpus_spec or loader.corpus
    if named is None:
        raise HarnessError(f"--corpus: the model {loader.name} has no texts of its own; name a corpus.")
    corpus = found.build(Corpus, parse_spec(named, "--corpus"), "--corpus")
    model = loader.load()
    wanted = layers_in(layers, model.anatomy.n_layers, "--layers")
    folders = {layer: out / f"layer-{layer}" if len(wanted) > 1 else out for layer in wanted}
    for folder in folders.values():
        _refuse_foreign(folder)
    shared = (model, corpus)
    train = sequences(*shared, recipe.sequences, recipe.length, recipe.seed, "select", across_documents=True)
    held = sequences(*shared, n_held, recipe.length, recipe.seed, "evaluate", across_documents=True)
    _say(f"{len(train)} sequences of {recipe.length} tokens")
    activations = harvest(model, [x.tokens for x in train], wanted)
    for layer, folder in folders.items():
        weights = fit(activations.pop(layer), recipe)
        write(folder, weights, model, layer, recipe)
        measured = quality(model, load(str(folder)), [x.tokens for x in held], 16)
        _say(json.dumps({"folder": str(folder), **measured.about()}))


@torch.no_grad()
def harvest(model: Model, tokens: Sequence[Sequence[int]], layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """The residual stream after some layers at all tokens but the first of each sequence, float32 [n, d_model]."""
    parts: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    began = time.time()
    for start in range(0, len(tokens), 32):
        with model.capture_place("residual_after", layers) as seen, model.without_logits():
            model.forward(model.pad(tokens[start : start + 32]))
        for layer, x in seen.items():
            parts[layer].append(x[:, 1:].flatten(0, 1).float().cpu())
        if start % 1024 == 0:
            _say(f"read {start + 32} sequences, {time.time() - began:.0f} s")
    return {layer: torch.cat(found) for layer, found in parts.items()}


def fit(x: torch.Tensor, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The weights of a top-k autoencoder of activations [n, d_model]."""
    generator = torch.Generator().manual_seed(recipe.seed)
    scale = float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())
    x, d_model = x * scale, x.shape[1]
    rows = torch.randn(recipe.latents, d_model, generator=generator)
    rows = rows / rows.norm(dim=1, keepdim=True)
    weights = {
        "W_enc": rows.T.clone(),
        "b_enc": torch.zeros(recipe.latents),
        "W_dec": rows.clone(),
        "b_dec": x[:10_000].median(0).values,
    }
    for tensor in weights.values():
        tensor.requires_grad_(True)
    adam = torch.optim.Adam(weights.values(), lr=recipe.lr, betas=(0.9, 0.999))
    silent = torch.zeros(recipe.latents, dtype=torch.long)
    began = time.time()
    for step in range(recipe.steps):
        batch = x[torch.randint(len(x), (recipe.batch,), generator=generator)]
        for group in adam.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 50, 5 * (1 - step / recipe.steps))
        loss, active = _loss(weights, batch, silent >= recipe.dead_after, recipe)
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
            silent = torch.where(active, 0, silent + 1)
        if (step + 1) % 500 == 0:
            dead = int((silent >= recipe.dead_after).sum())
            _say(f"step {step + 1} loss {loss.item():.4f} dead {dead}, {time.time() - began:.0f} s")
    found = {name: tensor.detach() for name, tensor in weights.items()}
    return found | {name: found[name] / scale for name in ("b_enc", "b_dec")}


def _loss(
    w: dict[str, torch.Tensor], x: torch.Tensor, dead: torch.Tensor, recipe: Recipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error over the batch's variance, with the auxiliary loss; and which latents were active [latents]."""
    before = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    z = _largest(before, recipe.k)
    error = x - (z @ w["W_dec"] + w["b_dec"])
    variance = (x - x.mean(0)).square().sum()
    loss = error.square().sum() / variance
    if dead.any():
        instead = _largest(before[:, dead], min(x.shape[1] // 2, int(dead.sum())))
        left = error.detach() - instead @ w["W_dec"][dead]
        loss = loss + recipe.auxiliary * left.square().sum() / variance
    return loss, (z.detach() > 0).any(0)


def _largest(before: torch.Tensor, k: int) -> torch.Tensor:
    values, places = before.topk(k, dim=-1)
    return torch.zeros_like(before).scatter(-1, places, values.relu())


def write(folder: Path, weights: dict[str, torch.Tensor], model: Model, layer: int, recipe: Recipe) -> None:
    """The folder of a dictionary, as SAELens saves it; what it was trained with is in the metadata."""
    from safetensors.torch import save_file

    d_model = model.anatomy.d_model
    content: dict[str, Any] = {
        "architecture": "topk",
        "d_in": d_model,
        "d_sae": recipe.latents,
        "k": recipe.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {
            "sae_lens_version": FORMAT,
            "model_name": model.name,
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "context_size": recipe.length,
            "prepend_bos": model.adds_bos,
            "recipe": asdict(recipe),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: x.contiguous() for name, x in weights.items()}, folder / WEIGHTS)
    (folder / CONFIGURATION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _refuse_foreign(folder: Path) -> None:
    """Refuse to write into a folder that holds anything but a dictionary; asked before the training."""
    if folder.exists() and ({x.name for x in folder.iterdir()} - {CONFIGURATION, WEIGHTS}):
        raise HarnessError(f"--out: {folder} holds more than a dictionary; choose another folder.")


def _say(sentence: str) -> None:
    say(sentence, err=True)


if __name__ == "__main__":
    main()
