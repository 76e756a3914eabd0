"""The published way to sweep the final layer's neurons, in plain PyTorch and through TransformerLens' hooks.

    python benchmarks/published.py [--neurons 4] [--prompts 1] [--length 257] [--threads 1]

For every neuron and every block of tokens, the residual with the neuron's activation replaced goes through the final
norm and the whole unembedding: once with the norm's own denominator (total effect), once with that of the untouched
residual (direct effect); then log-softmax, loss and entropy over the vocabulary. That is what arXiv 2406.16254 does.
Both functions return the same arrays, so that a faster sweep can be timed and checked against them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from harness.conditions.conditions import SetNeurons
from harness.model.model import Model

Prompts = Sequence[Sequence[int]]

BLOCK = 256
"""Tokens of one matrix product: the paper's sequences have 256."""


@torch.no_grad()
def published_sweep(
    model: Model, prompts: Prompts, values: Sequence[float], neurons: Sequence[int], block: int = BLOCK
) -> dict[str, np.ndarray]:
    """Set each of the last layer's ``neurons`` to its value, alone, and read every prediction of ``prompts``.

    The model itself runs once per prompt; a block of tokens [block, d_vocab] is evaluated for one neuron at a time.

    Args:
        values: one activation for each of ``neurons``, their means as a rule.

    Returns:
        ``loss``, ``entropy`` [n_tokens]: the untouched model, nats, one column for every token but the first of each
        prompt. ``total_loss``, ``total_entropy``, ``direct_loss``, ``direct_entropy`` [n_neurons, n_tokens]: with the
        neuron set, the norm's denominator its own (total) or that of the untouched residual (direct).
        ``total_effect``, ``direct_effect`` [n_neurons]: mean absolute change of the loss.

    Raises:
        ValueError: neurons do not write into the residual directly (a norm or a factor comes after the MLP).
    """
    if not model.anatomy.direct_write:
        raise ValueError(f"{model.name}: the neurons' outputs pass a norm or a factor before they reach the residual.")
    readout, last = model.readout, model.anatomy.n_layers - 1
    directions = model.w_out(last)[list(neurons)].to(readout.W_U.device)
    residual, activation, target = _predicting(model, prompts, last, neurons)
    measured = _empty(len(neurons), len(target))
    for place in torch.arange(len(target)).split(block):
        x, right = residual[place], target[place]
        denominator = readout.denominator(x)
        _keep(measured, "", (place,), readout.logits(x), right)
        for i, (value, direction) in enumerate(zip(values, directions, strict=True)):
            ablated = x + (value - activation[place, i, None]) * direction
            _keep(measured, "total_", (i, place), readout.logits(ablated), right)
            _keep(measured, "direct_", (i, place), readout.logits(ablated, denominator), right)
    return _finished(measured)


@torch.no_grad()
def transformer_lens_sweep(
    model: Model, prompts: Prompts, values: Sequence[float], neurons: Sequence[int], bridged: Any = None
) -> dict[str, np.ndarray] | None:
    """The arrays of :func:`published_sweep` from TransformerLens: two hooked forward passes per neuron and prompt.

    Args:
        bridged: what :func:`bridge` made of the model, which takes a while; made here by default.

    Returns:
        None where TransformerLens is not installed.
    """
    bridged = bridge(model) if bridged is None else bridged
    if bridged is None:
        return None
    last, first = model.anatomy.n_layers - 1, 0
    measured = _empty(len(neurons), sum(len(tokens) - 1 for tokens in prompts))
    for tokens in prompts:
        place, right = torch.arange(first, first + len(tokens) - 1), torch.as_tensor(list(tokens[1:]))
        first += len(tokens) - 1
        logits, seen = observe(bridged, tokens, [FINAL_SCALE])
        _keep(measured, "", (place,), logits[:-1], right)
        for i, (value, index) in enumerate(zip(values, neurons, strict=True)):
            edits = (SetNeurons(last, (index,), (value,)),)
            _keep(measured, "total_", (i, place), hooked_logits(bridged, tokens, edits)[:-1], right)
            frozen = hooked_logits(bridged, tokens, edits, seen[FINAL_SCALE])
            _keep(measured, "direct_", (i, place), frozen[:-1], right)
    return _finished(measured)


# --- TransformerLens -------------------------------------------------------------------------------------------------

FINAL_SCALE = "ln_final.hook_scale"
"""TransformerLens' name for the final norm's denominator [batch, pos, 1]."""


def post(layer: int) -> str:
    """TransformerLens' name for a layer's neurons [batch, pos, d_mlp], for gated MLPs the product."""
    return f"blocks.{layer}.mlp.hook_post"


def bridge(model: Model, processed: bool = False) -> Any:
    """A ``TransformerBridge`` of a copy of the model (float32, on the CPU), or None without TransformerLens.

    It runs the weights as they are. ``processed`` applies ``enable_compatibility_mode()``, which is what
    ``HookedTransformer`` did on loading: norms folded into what reads them, writing weights and unembedding centred,
    value biases folded.
    """
    if importlib.util.find_spec("transformer_lens") is None:
        return None
    made = importlib.import_module("transformer_lens.model_bridge").TransformerBridge
    with tempfile.TemporaryDirectory() as folder:  # it reads the tokeniser again, from where it was loaded
        model.tokenizer.save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # A copy: the bridge rewires the modules of what it is given, and makes attention eager.
        hf = copy.deepcopy(model.hf).to("cpu", torch.float32)
        hf.config.architectures = [type(hf).__name__]  # by which it knows them; models without a file lack it
        bridged = made.boot_transformers(model.name, hf_model=hf, tokenizer=tokenizer, device="cpu")
    if processed:
        bridged.enable_compatibility_mode(disable_warnings=True)
    return bridged


@torch.no_grad()
def observe(bridged: Any, tokens: Sequence[int], names: Sequence[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits [pos, d_vocab] of one unpadded prompt, and the values of hooks [pos, ...] in TransformerLens."""
    logits, cache = bridged.run_with_cache(torch.tensor([list(tokens)]), names_filter=list(names))
    return logits[0], {name: cache[name][0] for name in names}


@torch.no_grad()
def hooked_logits(
    bridged: Any, tokens: Sequence[int], edits: Sequence[SetNeurons], denominator: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits [pos, d_vocab] of one unpadded prompt under edits in TransformerLens.

    Args:
        denominator: [pos, 1], replaces the final norm's (direct effect).
    """

    def setting(edit: SetNeurons) -> Callable[..., torch.Tensor]:
        def change(activations: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = activations.clone()  # a change in place would not be noticed everywhere
            for index, value in zip(edit.indices, edit.values, strict=True):
                changed[..., index] = value
            return changed

        return change

    def freeze(scale: torch.Tensor, hook: Any) -> torch.Tensor:
        assert denominator is not None
        return denominator.expand_as(scale).clone()

    hooks: list[tuple[str, Callable[..., torch.Tensor]]] = [(post(edit.layer), setting(edit)) for edit in edits]
    if denominator is not None:
        hooks.append((FINAL_SCALE, freeze))
    with warnings.catch_warnings():
        # An edited RMSNorm is evaluated by formula instead of by the module: as wanted here.
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        logits: torch.Tensor = bridged.run_with_hooks(torch.tensor([list(tokens)]), fwd_hooks=hooks)
    return logits[0]


# --- what both measure -----------------------------------------------------------------------------------------------


def _predicting(
    model: Model, prompts: Prompts, layer: int, neurons: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of every position but each prompt's last: final residual [T, d_model], activations [T, n], next token [T]."""
    device, residual, activation, target = model.readout.W_U.device, [], [], []
    for tokens in prompts:
        with model.capture_residual() as seen, model.capture_neurons(layer) as at:
            model.forward(model.pad([tokens]))
        residual.append(seen.residual[0, :-1].float().to(device))
        activation.append(at[layer][0, :-1, list(neurons)].float().to(device))
        target.append(torch.as_tensor(list(tokens[1:]), device=device))
    return torch.cat(residual), torch.cat(activation), torch.cat(target)


def _empty(n_neurons: int, n_tokens: int) -> dict[str, torch.Tensor]:
    shapes = {"": (n_tokens,), "total_": (n_neurons, n_tokens), "direct_": (n_neurons, n_tokens)}
    return {f"{kind}{name}": torch.zeros(shape) for kind, shape in shapes.items() for name in ("loss", "entropy")}


def _keep(measured: dict[str, torch.Tensor], kind: str, place: Any, logits: torch.Tensor, right: torch.Tensor) -> None:
    """Put loss and entropy [tokens] of logits [tokens, d_vocab] where they belong."""
    log_probs = torch.log_softmax(logits.float(), dim=-1)
    measured[f"{kind}loss"][place] = -log_probs.gather(-1, right[:, None])[:, 0].cpu()
    measured[f"{kind}entropy"][place] = -(log_probs.exp() * log_probs).sum(-1).cpu()


def _finished(measured: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    arrays = {name: values.double().numpy() for name, values in measured.items()}
    for kind in ("total", "direct"):
        arrays[f"{kind}_effect"] = abs(arrays[f"{kind}_loss"] - arrays["loss"]).mean(-1)
    return arrays


def seconds_per_neuron_token(
    sweep: Callable[..., Any], model: Model, prompts: Prompts, values: Sequence[float], neurons: Sequence[int]
) -> float:
    """Seconds of a sweep over ``neurons`` less those of a sweep over none, per neuron and predicted token."""

    def seconds(n: int) -> float:
        start = time.perf_counter()
        sweep(model, prompts, values[:n], neurons[:n])
        return time.perf_counter() - start

    seconds(1)  # not counted
    n_tokens = sum(len(tokens) - 1 for tokens in prompts)
    return (seconds(len(neurons)) - seconds(0)) / (len(neurons) * n_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--neurons", type=int, default=4, help="size of the sample, of 3072")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--length", type=int, default=257, help="tokens of a prompt, all but one of them predicted")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    from generation import gpt2_small

    torch.set_num_threads(args.threads)
    model, _ = gpt2_small()
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, model.anatomy.d_vocab, (args.prompts, args.length)).tolist()
    neurons = rng.choice(model.anatomy.d_mlp, args.neurons, replace=False).tolist()
    values = rng.normal(0, 0.5, args.neurons).tolist()
    print(f"{model.name}; {args.neurons} neurons x {args.prompts} prompts of {args.length} tokens, seconds each")
    print(f"  published  {seconds_per_neuron_token(published_sweep, model, prompts, values, neurons):.3g}", flush=True)
    bridged = bridge(model)
    if bridged is not None:
        sweep = functools.partial(transformer_lens_sweep, bridged=bridged)
        print(f"  TransformerLens  {seconds_per_neuron_token(sweep, model, prompts, values, neurons):.3g}")
        ours, theirs = (f(model, prompts, values[:1], neurons[:1]) for f in (published_sweep, sweep))
        assert ours is not None and theirs is not None
        print(f"  largest difference  {max(abs(ours[name] - theirs[name]).max() for name in ours):.1e} nats")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
