"""Run the layers before an edit once, and many edited passes from there on."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import HarnessError
from harness.model.key_values import cache_of
from harness.model.model import Batch
from harness.model.modules import layer_input
from harness.model.probes import relative_error, tolerance_between_passes

if TYPE_CHECKING:
    from harness.model.model import Model


@dataclass
class Prefix:
    """What an untouched pass has left.

    Attributes:
        inputs: the residual stream [batch, pos, d_model] that entered some layers.
        extra: for every layer that ran, how many things it returned beside the hidden states; None where it returned
            the bare tensor.
    """

    inputs: dict[int, torch.Tensor] = field(default_factory=dict)
    extra: dict[int, int | None] = field(default_factory=dict)


@contextlib.contextmanager
def capture_prefix(model: Model, layers: Sequence[int]) -> Iterator[Prefix]:
    """Within the block, ``prefix`` is what the last forward pass has left at the inputs of ``layers``."""
    prefix = Prefix()

    def enter(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            # Cloned: a layer may add to its input in place.
            prefix.inputs[layer] = layer_input(args, kwargs).detach().clone()

        return hook

    def leave(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            prefix.extra[layer] = len(output) - 1 if isinstance(output, tuple) else None

        return hook

    with contextlib.ExitStack() as hooks:
        for layer, module in enumerate(model.anatomy.layers):
            if layer in layers:
                hooks.callback(module.register_forward_pre_hook(enter(layer), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave(layer)).remove)
        yield prefix


@contextlib.contextmanager
def resume(model: Model, prefix: Prefix, layer: int, copies: int) -> Iterator[None]:
    """Within the block, forward passes skip what is before ``layer`` and go on with the captured residual.

    The passes must read the tokens of the captured pass, ``copies`` times one after another along the batch dimension.
    They still embed them and make masks and position embeddings: that is cheap, and differs between families.
    """
    residual = prefix.inputs[layer].repeat(copies, 1, 1)

    def enter(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return ((residual, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": residual})

    with contextlib.ExitStack() as stack:
        for before in range(layer):
            stack.enter_context(_skipped(model.anatomy.layers[before], prefix.extra[before]))
        # First of all: edits of what enters the layer find the captured residual.
        module = model.anatomy.layers[layer]
        stack.callback(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
        yield


@contextlib.contextmanager
def _skipped(module: torch.nn.Module, extra: int | None) -> Iterator[None]:
    """Within the block, the layer returns its input, in the form in which it returns its output."""
    missing = object()
    # accelerate has put its own forward() on the instance; otherwise the class's is uncovered again.
    own: Any = module.__dict__.get("forward", missing)

    def skip(*args: Any, **kwargs: Any) -> Any:
        hidden = layer_input(args, kwargs)
        return hidden if extra is None else (hidden, *[None] * extra)

    module.forward = skip
    try:
        yield
    finally:
        if own is missing:
            del module.forward
        else:
            module.forward = own


def fill_cache(past: Any, shared: Any, layer: int, copies: int) -> None:
    """Put into the cache of a resumed pass what the untouched pass cached of the layers before ``layer``.

    Args:
        past: of the resumed pass, empty before ``layer``; changed in place.
        shared: of the captured pass; left alone.
    """
    for i in range(layer):
        own = copy.copy(shared.layers[i])  # reorder_cache() gives the copy new tensors
        rows = torch.arange(len(own.keys), device=own.keys.device)
        own.reorder_cache(rows.repeat(copies))
        past.layers[i] = own


@dataclass(frozen=True)
class Begun:
    """Passes that begin with the same tokens, which are read once; made by :func:`begun`.

    Attributes:
        rest: what is left to read, every pass from the same token on.
        past: the cache of what is read; None of nothing. It is left as it is.
    """

    model: Model
    rest: Batch
    past: Any

    def forward(self, copies: int = 1, layer: int = 0) -> Any:
        """A pass over what is left, ``copies`` times one after another along the batch dimension.

        Args:
            layer: at whose input the pass goes on (:func:`resume`), so that it reads no cache of those before it.
        """
        past = None
        if self.past is not None:
            past = copy.copy(self.past)
            past.layers = [copy.copy(own) for own in self.past.layers]  # whose tensors are replaced, and not written to
            for own in past.layers[layer:] if copies > 1 else ():
                own.reorder_cache(torch.arange(len(own.keys), device=own.keys.device).repeat(copies))
        return self.model.forward(self.rest.tile(copies), past=past)


def begun(model: Model, batch: Batch, n: int) -> Begun:
    """Read the first ``n`` tokens of a batch, fewer than it has.

    What comes after them is what it is in a pass over all tokens where the model's cache says so
    (:meth:`harness.model.model.Model.check_cache`, :func:`can_resume_after`).
    """
    if n == 0:
        return Begun(model, batch, None)
    first = Batch(batch.input_ids[:, :n], batch.attention_mask[:, :n], batch.position_ids[:, :n])
    return Begun(model, first.extend(batch.input_ids[:, n:]), cache_of(model.forward(first, use_cache=True)))


@torch.no_grad()
def can_resume_after(model: Model, layers: Sequence[int]) -> bool:
    """Whether passes over the tokens that follow those which were read before (:func:`begun`), and which go on from
    any of the ``layers``, give the logits of passes over all tokens; found out with a few."""
    batch = model.pad([[1, 2, 3, 4, 5, 9, 8], [6, 7, 8, 1, 2]])
    try:
        wanted = model.forward(batch).logits
        begin = begun(model, batch, 5)
        with capture_prefix(model, layers) as prefix:
            found = [begin.forward().logits]
        for layer in layers:
            with resume(model, prefix, layer, 2):
                found += begin.forward(2, layer).logits.chunk(2)
    except (AttributeError, HarnessError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    return all(relative_error(logits, wanted) < tolerance_between_passes(model, wanted) for logits in found)


@torch.no_grad()
def can_resume(model: Model, layer: int, cache: bool) -> bool:
    """Whether passes that go on from ``layer`` give the model's logits; found out with a few tokens.

    They would not in a model whose later layers read more of the earlier ones than the residual stream (keys and values
    that layers share, say).

    Args:
        cache: also whether the next pass, with the cache filled, does.
    """
    batch = model.pad([[1, 2, 3, 4, 5], [6, 7, 8]])
    more = torch.tensor([[9], [4]], device=batch.input_ids.device)
    try:
        with capture_prefix(model, [layer]) as prefix:
            plain = model.forward(batch, logits_to_keep=0, use_cache=cache)
        tiled = batch.tile(2)
        with resume(model, prefix, layer, 2):
            resumed = model.forward(tiled, logits_to_keep=0, use_cache=cache)
        pairs = [(plain.logits, resumed.logits, batch.attention_mask.bool())]
        if cache:
            fill_cache(cache_of(resumed), cache_of(plain), layer, 2)
            wanted = model.forward(batch.extend(more), past=cache_of(plain)).logits
            found = model.forward(tiled.extend(more.repeat(2, 1)), past=cache_of(resumed)).logits
            pairs.append((wanted, found, torch.ones_like(more).bool()))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    return all(
        relative_error(part[real.to(part.device)], wanted[real.to(part.device)])
        < tolerance_between_passes(model, wanted)
        for wanted, found, real in pairs
        for part in found.chunk(2)
    )
