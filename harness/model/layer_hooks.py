"""Reading and editing what runs through a model's layers in forward passes: neurons, heads, the residual stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from harness.errors import HarnessError
from harness.files.wording import agree, counted, noun_for
from harness.model.expert_hooks import ExpertHooks, without_neurons
from harness.model.modules import layer_input, linear_features, on_final_residual, refuse_compiled
from harness.model.places import READ_ONLY, Spot, spot_of

if TYPE_CHECKING:
    from harness.model.model import Model

ActivationEdit = Callable[[torch.Tensor], torch.Tensor]
"""Takes activations [batch, pos, ...], returns new ones of the same shape; must not write into its argument."""


@dataclass
class Captured:
    """What :meth:`LayerHooks.capture_residual` has seen: the final residual [batch, pos, d_model] of the last pass."""

    residual: torch.Tensor = field(default_factory=lambda: torch.empty(0))


class LayerHooks(ExpertHooks):
    """What :class:`harness.model.model.Model` offers of its layers' insides; where they are its anatomy says.

    Blocks of edits nest: an inner one sees what the outer one returned, and what is captured inside an edit is edited.
    """

    def down_projection(self, layer: int) -> nn.Module:
        """The linear map that a layer's dense neurons write through.

        Raises:
            HarnessError: there is no such layer, or it has no dense neurons: its MLP is routed experts alone.
        """
        self.check_layer(layer)
        found = self.anatomy.down_projections[layer]
        if found is None:
            has = [i for i, down in enumerate(self.anatomy.down_projections) if down is not None]
            raise without_neurons(self.name, layer, self.anatomy.experts[layer], has)
        return found

    def attention(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """A layer's attention and its output projection.

        Raises:
            HarnessError: there is no such layer, or it mixes tokens in another way.
        """
        self.check_layer(layer)
        found, output = self.anatomy.attentions[layer], self.anatomy.attention_outputs[layer]
        if found is None or output is None:
            has = self.anatomy.with_attention
            raise HarnessError(
                f"layer {layer} of {self.name} has no attention, hence no heads; {noun_for(len(has), 'layer')} "
                f"{', '.join(map(str, has))} {agree(len(has), 'has', 'have')}."
            )
        return found, output

    def edit_neurons(self, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces the layer's activations by ``fn(activations)``.

        ``fn`` sees [batch, pos, d_mlp], padding positions included, and must return the same shape; its result is cast
        to the model's dtype and device. Blocks nest: an inner edit sees what the outer one returned.

        Raises:
            HarnessError: ``fn`` returns another shape; the block ran no forward pass through the layer; the model was
                compiled (``torch.compile`` ignores hooks).
        """
        return self._edit(self._neurons, layer, fn)

    def capture_neurons(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the activations [batch, pos, d_mlp] of the last forward pass.

        Inside a block of :meth:`edit_neurons` it holds the edited activations, around one the unedited.

        Raises:
            HarnessError: the block ran no forward pass through a layer.
        """
        return self._capture(self._neurons, layers)

    @contextlib.contextmanager
    def capture_write(self, layer: int, hold: bool = False) -> Iterator[list[torch.Tensor]]:
        """Within the block, the list ends with what the layer's down projection returned in the last forward pass, in
        its own shape. With ``hold`` it is kept back: the MLP then writes nothing into the residual stream.
        """
        written: list[torch.Tensor] = []

        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
            written[:] = [output.detach()]
            return torch.zeros_like(output) if hold else None

        handle = self.down_projection(layer).register_forward_hook(hook)
        try:
            yield written
        finally:
            handle.remove()

    # --- heads -----------------------------------------------------------------------------------------------------

    def edit_heads(self, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces the outputs of the layer's heads by ``fn(outputs)``.

        A head's output is its attention pattern times its values, before the output projection, whatever attention
        implementation computed it. ``fn`` sees [batch, pos, n_heads, d_head]; otherwise as :meth:`edit_neurons`.

        Raises:
            HarnessError: as :meth:`edit_neurons`; the output projection does not read n_heads * d_head numbers.
        """
        return self._edit(self._heads, layer, fn)

    def capture_heads(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the heads' outputs [batch, pos, n_heads, d_head] of the last pass.

        Raises:
            HarnessError: as :meth:`capture_neurons`; the output projection does not read n_heads * d_head numbers.
        """
        return self._capture(self._heads, layers)

    # --- residual stream after a layer ------------------------------------------------------------------------------

    def edit_residual(self, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces the residual stream after the layer by ``fn(residual)``.

        ``fn`` sees [batch, pos, d_model]: what the layer hands to the next, or to the final norm. Otherwise as
        :meth:`edit_neurons`.
        """
        return self._edit(self._residual, layer, fn)

    def capture_residuals(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the residual stream [batch, pos, d_model] after the layer in the
        last pass; otherwise as :meth:`capture_neurons`."""
        return self._capture(self._residual, layers)

    # --- other places in a layer -------------------------------------------------------------------------------------

    def edit_place(self, place: str, layer: int, fn: ActivationEdit) -> AbstractContextManager[None]:
        """Within the block, every forward pass replaces what is at a place of the layer by ``fn(activations)``.

        Args:
            place: one of :data:`harness.model.places.PLACES`, which says the shapes; otherwise as
                :meth:`edit_neurons`.

        Raises:
            HarnessError: there is no such place, or it can be read only.
        """
        if place in READ_ONLY:
            raise HarnessError(f'the place "{place}" of a layer can be read, but not edited: several modules read it.')
        return self._edit(partial(self._spot, place), layer, fn)

    def capture_place(self, place: str, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is what was at a place of the layer in the last pass; otherwise as
        :meth:`capture_neurons`, with the places of :meth:`edit_place`."""
        return self._capture(partial(self._spot, place), layers)

    # --- neurons, heads, residual stream ----------------------------------------------------------------------------

    def _neurons(self, layer: int) -> Spot:
        return Spot(self.down_projection(layer), (self.anatomy.d_mlps[layer],), f"layer {layer}")

    def _residual(self, layer: int) -> Spot:
        return self._spot("residual_after", layer)

    def _spot(self, place: str, layer: int) -> Spot:
        return spot_of(cast("Model", self), place, layer)

    def _heads(self, layer: int) -> Spot:
        (_, projection), anatomy = self.attention(layer), self.anatomy
        width = linear_features(projection)[0]
        if width != anatomy.n_heads * anatomy.d_head:
            raise HarnessError(
                f"the heads of layer {layer} of {self.name} cannot be told apart: the attention output projection "
                f"reads {counted(width, 'number')}, which is not {counted(anatomy.n_heads, 'head')} of width "
                f"{anatomy.d_head}."
            )
        return Spot(projection, (anatomy.n_heads, anatomy.d_head), f"the heads of layer {layer}")

    @contextlib.contextmanager
    def _edit(self, find: Callable[[int], Spot], layer: int, fn: ActivationEdit) -> Iterator[None]:
        refuse_compiled(self.hf)
        site, fired = find(layer), 0

        def hook(activations: torch.Tensor) -> torch.Tensor:
            nonlocal fired
            fired += 1
            edited = fn(activations)
            if edited.shape != activations.shape:
                raise HarnessError(
                    f"an edit of {site.name} returned shape {tuple(edited.shape)} for activations of shape "
                    f"{tuple(activations.shape)}."
                )
            return edited.to(activations)

        with self._at(site, layer, hook):
            yield
        if not fired:
            raise HarnessError(f"an edit of {site.name} of {self.name} had no effect: no forward pass ran through it.")

    @contextlib.contextmanager
    def _capture(self, find: Callable[[int], Spot], layers: int | Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
        refuse_compiled(self.hf)
        wanted = [layers] if isinstance(layers, int) else list(layers)
        captured: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[[torch.Tensor], None]:
            def hook(activations: torch.Tensor) -> None:
                # What leaves a layer is cloned: the next one may add to it in place.
                captured[layer] = activations.detach().clone() if sites[layer].leaves else activations.detach()

            return hook

        sites = {layer: find(layer) for layer in wanted}
        with contextlib.ExitStack() as stack:
            for layer, site in sites.items():
                stack.enter_context(self._at(site, layer, keep(layer)))
            yield captured
        for layer, site in sites.items():
            if layer not in captured:
                raise HarnessError(f"nothing was captured: no forward pass ran through {site.name} of {self.name}.")

    @contextlib.contextmanager
    def _at(self, site: Spot, layer: int, fn: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
        """Call ``fn`` with the activations [batch, pos, *width] of each pass; what it returns replaces them."""
        shape = (0, 0)

        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal shape
            shape = tuple(layer_input(args, kwargs).shape[:2])  # type: ignore[assignment]

        def changed(x: torch.Tensor) -> torch.Tensor | None:
            """``x`` with what ``fn`` makes of the site's part of it."""
            if x.dim() == 2 and x.shape[0] != shape[0] * shape[1]:
                raise HarnessError(f"{site.name} flattens its activations and the batch's shape cannot be recovered.")
            rows = x if x.dim() == 3 else x.view(*shape, -1)
            part = rows if site.columns is None else rows[..., site.columns]
            new = fn(part.unflatten(-1, site.width))
            if new is not None and site.columns is not None:
                whole = rows.clone()
                whole[..., site.columns] = new.flatten(len(shape))
                new = whole
            return None if new is None else new.reshape(x.shape)

        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            new = changed(layer_input(args, kwargs))
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            hidden, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            new = changed(hidden)
            return None if new is None else new if rest is None else (new, *rest)

        with contextlib.ExitStack() as stack:
            # Some projections see [batch * pos, width] (the MLP of OPT): what enters the layer tells the two apart.
            begun = self.anatomy.layers[layer].register_forward_pre_hook(begin, with_kwargs=True)
            stack.callback(begun.remove)
            if site.leaves:
                stack.callback(site.module.register_forward_hook(leave).remove)
            else:
                stack.callback(site.module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            yield

    # --- final residual --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def capture_residual(self) -> Iterator[Captured]:
        """Within the block, ``captured.residual`` is the final residual [batch, pos, d_model] of the last forward pass.

        It is what enters the final norm (the last layer's output where there is no norm), at every position.

        Raises:
            HarnessError: the block ran no forward pass.
        """
        refuse_compiled(self.hf)
        captured, fired = Captured(), False

        def keep(residual: torch.Tensor) -> None:
            nonlocal fired
            captured.residual, fired = residual.detach(), True

        undo = on_final_residual(self.anatomy.layers[-1], self.anatomy.final_norm, keep)
        try:
            yield captured
        finally:
            undo()
        if not fired:
            raise HarnessError(f"nothing was captured: no forward pass ran through {self.name}.")
