"""Whether a model is as it was: its weights, its mode, and the hooks that hang on its modules."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.errors import PluginError
from harness.model.quantised import plain

if TYPE_CHECKING:
    from harness.model.model import Model


LIBRARIES = frozenset({"transformers", "accelerate"})
"""Their hooks belong to the model."""


@dataclass(frozen=True)
class State:
    """What a component must leave as it found it.

    Attributes:
        weights: name -> checksum of each parameter that is in memory.
        hooks: forward hooks on all modules. training: whether any module is in training mode.
    """

    weights: dict[str, int]
    hooks: int
    training: bool

    @classmethod
    def of(cls, model: Model) -> State:
        modules = list(model.hf.modules())
        return cls(
            {
                name: checksum(tensor)
                for path, weight in model.hf.named_parameters()
                for name, tensor in plain(path, weight.detach())
                if not tensor.is_meta
            },
            sum(map(_hooks, modules)),
            any(module.training for module in modules),
        )


def _hooks(module: torch.nn.Module) -> int:
    """How many forward hooks a module has, but for those that transformers leaves when asked for attentions."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return sum(getattr(hook, "__module__", "").partition(".")[0] not in LIBRARIES for hook in hooks)


@torch.no_grad()
def checksum(weight: torch.Tensor) -> int:
    """A checksum of a tensor's bytes, one look at each: sums of rows, exact in integers that wrap, in their order."""
    rows = weight.detach().reshape(weight.shape[0] if weight.dim() > 1 else 1, -1).contiguous()
    whole = rows.view({8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[rows.element_size()])
    if whole.dtype == torch.int16 and whole.shape[1] % 2 == 0:
        whole = whole.view(torch.int32)  # half the additions
    sums = whole.sum(1, dtype=whole.dtype if whole.dtype in (torch.int32, torch.int64) else torch.int32)
    return zlib.crc32(sums.cpu().numpy().tobytes())


@contextlib.contextmanager
def untouched(model: Model, who: str) -> Iterator[None]:
    """After the block the model is as it was before.

    Raises:
        PluginError: ``who`` (a component and its method) changed a weight, left a hook, or switched the mode.
    """
    before = State.of(model)
    yield
    after = State.of(model)
    changed = [name for name, value in before.weights.items() if after.weights.get(name) != value]
    if changed or before.weights.keys() != after.weights.keys():
        what = changed[0] if changed else "one is new"
        raise PluginError(f"{who} changed the weights of the model ({what}); work on a copy.")
    if after.hooks != before.hooks:
        raise PluginError(f"{who} left hooks in the model; remove what it registers.")
    if after.training != before.training:
        raise PluginError(f"{who} left the model in training mode, in which dropout acts; call eval().")
