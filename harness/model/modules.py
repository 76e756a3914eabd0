"""Small questions about the modules of a ``transformers`` model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from harness.errors import HarnessError


def text_config(hf: Any) -> Any:
    """The configuration of the language model proper (that of a vision-language model has it inside)."""
    config = hf.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def keep_caps(hf: Any) -> None:
    """Compute attention step by step where its scores are capped (Gemma 2).

    The fused kernel of PyTorch knows no cap. ``transformers`` before 5.20 or so hands it such models all the same, and
    they give other logits than their own formula.
    """
    config = text_config(hf)
    if getattr(config, "attn_logit_softcapping", None) and getattr(config, "_attn_implementation", None) == "sdpa":
        hf.set_attn_implementation("eager")


def features(module: nn.Module) -> tuple[int, int] | None:
    """``(d_in, d_out)`` of a linear map (nn.Linear and its kin, the Conv1D of GPT-2), None for other modules."""
    names = ("nx", "nf") if type(module).__name__ == "Conv1D" else ("in_features", "out_features")
    d_in, d_out = (getattr(module, name, None) for name in names)
    return (d_in, d_out) if isinstance(d_in, int) and isinstance(d_out, int) else None


def linear_features(module: nn.Module) -> tuple[int, int]:
    """:func:`features` of a module that is known to be a linear map."""
    found = features(module)
    if found is None:
        raise TypeError(f"{type(module).__name__} is no linear map")
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether the module's class calls itself a norm."""
    return "norm" in type(module).__name__.lower()


@contextlib.contextmanager
def materialised(module: nn.Module) -> Iterator[None]:
    """Within the block, weights that ``device_map`` offloaded to disk or CPU are there to be read."""
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        from accelerate.utils import align_module_device

        with align_module_device(module):
            yield
    else:
        yield


def read_parameter(module: nn.Module, name: str) -> torch.Tensor | None:
    """The module's parameter, detached, not a copy; None where the module has none."""
    with materialised(module):
        found = getattr(module, name, None)
        return found.detach() if isinstance(found, torch.Tensor) else None


def down_bias(down: nn.Module) -> torch.Tensor | None:
    """Bias [d_model] of a down projection in float32, or None."""
    bias = read_parameter(down, "bias")
    return None if bias is None else bias.float()


def input_device(hf: Any) -> torch.device:
    """Where token ids have to be."""
    embedding = hf.get_input_embeddings()
    device: torch.device = embedding.weight.device
    if device.type == "meta":
        return torch.device(embedding._hf_hook.execution_device)
    return device


def refuse_compiled(hf: Any) -> None:
    """Refuse a model of which a part went through ``torch.compile``, which ignores hooks that come later."""
    compiled = (
        hasattr(part, "_orig_mod")
        or part._compiled_call_impl is not None
        or hasattr(part.forward, "_torchdynamo_orig_callable")
        for part in hf.modules()
    )
    if any(compiled):
        raise HarnessError(
            "the model (or a part of it) was compiled with torch.compile, which ignores hooks: pass it uncompiled."
        )


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """The hidden states [batch, pos, d_model] that a decoder layer was called with."""
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def on_final_residual(
    layer: nn.Module, final_norm: nn.Module | None, see: Callable[[torch.Tensor], None]
) -> Callable[[], None]:
    """Call ``see`` with the final residual [batch, pos, d_model] of every forward pass; returns what undoes it.

    The final residual is what enters the final norm, or the output of the last ``layer`` where there is no norm.
    """
    if final_norm is not None:
        return final_norm.register_forward_pre_hook(lambda module, args: see(args[0])).remove
    return layer.register_forward_hook(
        lambda module, args, output: see(output[0] if isinstance(output, list | tuple) else output)
    ).remove
