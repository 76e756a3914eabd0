"""Latents read and edited in a model's passes.

All that reads or edits the latents of one dictionary goes through one hook: activations are encoded once, the changes
are made in the order in which their blocks were entered, each on what the one before has left, and the decoder's step
from the first latents to the last is added to what the model had. Encoding edited activations again would give other
latents: an encoder does not invert its decoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import torch

from harness.plugin import HarnessError

if TYPE_CHECKING:
    from harness.plugin import Model

    from .dictionary import Dictionary

Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From latents [batch, pos, d_sae] to new ones, or to the same."""

_LIVE: WeakKeyDictionary[Model, dict[Dictionary, list[Change]]] = WeakKeyDictionary()
"""The changes of blocks that are open, by model and dictionary, in order."""


@contextlib.contextmanager
def edited(model: Model, dictionary: Dictionary, change: Change) -> Iterator[None]:
    """Within the block, every pass has the latents that ``change`` makes of those that it would have, and keeps what
    the dictionary does not reconstruct. Where none changes, the pass is the untouched one, bit by bit.

    Raises:
        HarnessError: ``change`` gives another shape, or the block ran no forward pass through the layer.
    """
    live = _LIVE.setdefault(model, {})
    if dictionary in live:
        live[dictionary].append(change)
        try:
            yield
        finally:
            live[dictionary].remove(change)
        return
    live[dictionary] = [change]
    try:
        with _hooked(model, dictionary, live[dictionary]):
            yield
    finally:
        del live[dictionary]


@contextlib.contextmanager
def captured(model: Model, dictionary: Dictionary) -> Iterator[dict[int, torch.Tensor]]:
    """Within the block, ``captured[layer]`` is the latents [batch, pos, d_sae], float32, of the last pass; inside a
    block of :func:`edited` the edited ones.

    Raises:
        HarnessError: the block ran no forward pass through the layer.
    """
    layer, found = dictionary.configuration.layer, dict[int, torch.Tensor]()

    def see(z: torch.Tensor) -> torch.Tensor:
        found[layer] = z.detach()
        return z

    with edited(model, dictionary, see):
        yield found
    if not found:
        raise HarnessError(f"no latents were captured: no forward pass ran through layer {layer} of {model.name}.")


@contextlib.contextmanager
def _hooked(model: Model, dictionary: Dictionary, changes: list[Change]) -> Iterator[None]:
    cfg = dictionary.configuration

    def write(x: torch.Tensor) -> torch.Tensor:
        read = seen[cfg.layer] if cfg.transcodes else x
        before = after = dictionary.encode(read)
        for change in changes:
            latents, after = after, change(after)
            if after.shape != latents.shape:
                raise HarnessError(
                    f"an edit of latents of layer {cfg.layer} returned shape {tuple(after.shape)} for latents of shape "
                    f"{tuple(latents.shape)}."
                )
        return x if after is before else x + dictionary.step(before, after, read)

    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(model.capture_place(cfg.reads, cfg.layer)) if cfg.transcodes else {}
        stack.enter_context(model.edit_place(cfg.writes, cfg.layer, write))
        yield
