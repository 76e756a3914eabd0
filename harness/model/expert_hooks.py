"""Reading and editing routed experts in forward passes: their neurons' activations, their weights, the router's logits.

All three are [batch, pos, ...], padding positions included, in the model's order of tokens. Within one pass the logits
come first, then the weights, then the activations, however blocks of edits are nested; of one kind, an inner edit sees
what the outer one returned, and what is captured inside an edit is edited.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float32

from harness.errors import HarnessError
from harness.files.wording import agree, counted, noun_for
from harness.model.experts import Experts, FusedExperts, argument, replaced, tensor_in
from harness.model.modules import layer_input, refuse_compiled

if TYPE_CHECKING:
    from harness.model.anatomy import Anatomy

Change = Callable[[torch.Tensor], torch.Tensor]
"""Takes activations [batch, pos, ...], returns new ones of the same shape; must not write into its argument."""

See = Callable[[torch.Tensor], torch.Tensor | None]
"""Is handed what runs through; what it returns takes its place, None leaves it."""


def removed(weights: torch.Tensor, experts: Sequence[int]) -> torch.Tensor:
    """Routing weights [..., n_experts] without some experts: their weights become 0, the others stay as they are.

    What these experts would have added is missing, so the weights of a token routed to them sum to less.
    """
    new = weights.clone()
    new[..., list(experts)] = 0
    return new


def redistributed(weights: torch.Tensor, experts: Sequence[int]) -> torch.Tensor:
    """Routing weights [..., n_experts] without some experts, whose weight goes to the others that the token is routed
    to, in proportion to theirs: the sum of a token's weights stays what it was.

    No token is routed anew: experts that were not chosen stay at 0. Where all of a token's experts are taken away,
    nothing is left to take the weight, and all are 0.
    """
    left = removed(weights, experts)
    total, rest = weights.sum(-1, keepdim=True), left.sum(-1, keepdim=True)
    share = left / torch.where(rest == 0, torch.ones_like(rest), rest)  # first, for total / rest may overflow
    return torch.where(rest == total, left, share * total)


@dataclass
class _Now:
    """Where the experts of a layer stand within a pass: weights [tokens, n_experts], and activations
    [tokens, n_experts * d_expert] once somebody asked for them."""

    weights: torch.Tensor
    activations: torch.Tensor | None = None


_NOTE = "_harness_experts"
"""Attribute of the experts' output in which hooks on one pass hand on :class:`_Now`."""


class ExpertHooks:
    """What :class:`harness.model.model.Model` offers of mixtures of experts.

    A neuron of an expert is a column, ``expert * d_expert + neuron``, of the layer's activations
    [batch, pos, n_experts * d_expert]: its hidden state times its expert's routing weight, exactly 0 where a token is
    not routed to the expert (:mod:`harness.model.experts`). Shared experts, which see every token, are the layer's
    dense neurons.
    """

    if TYPE_CHECKING:
        name: str
        hf: Any
        anatomy: Anatomy

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """The layers that have routed experts, ascending."""
        return tuple(layer for layer, found in enumerate(self.anatomy.experts) if found is not None)

    def experts(self, layer: int) -> Experts:
        """The routed experts of a layer: ``n_experts``, ``d_expert``, ``top_k`` and where they are.

        Raises:
            HarnessError: there is no such layer, or it has no experts.
        """
        self.check_layer(layer)
        found = self.anatomy.experts[layer]
        if found is None:
            has = self.expert_layers
            raise HarnessError(
                f"layer {layer} of {self.name} has no routed experts; "
                + (
                    f"{noun_for(len(has), 'layer')} {', '.join(map(str, has))} {agree(len(has), 'has', 'have')}."
                    if has
                    else "it is a dense model."
                )
            )
        return found

    def expert_out(self, layer: int, indices: Sequence[int] | None = None) -> Float32[torch.Tensor, "n d_model"]:
        """Write directions of neurons of a layer's experts by their columns, float32 [n, d_model]; of all where
        ``indices`` is None, [n_experts * d_expert, d_model], which may be as large as the model in float32.

        Row i is what neuron i adds to the output of the experts per unit of activation, as for :meth:`Model.w_out`.
        """
        return self.experts(layer).rows(indices)

    def expert_bias(self, layer: int) -> Float32[torch.Tensor, "n_experts d_model"] | None:
        """What each expert writes per unit of its routing weight whatever its neurons do, or None."""
        return self.experts(layer).bias()

    # --- activations -----------------------------------------------------------------------------------------------

    def capture_experts(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the activations [batch, pos, n_experts * d_expert] of the neurons of
        the layer's experts in the last pass: routing weight times hidden state, 0 where a token is not routed.

        ``activations @ expert_out(layer)``, plus routing weights @ ``expert_bias(layer)`` where there is one, is what
        the experts add to the output of the layer's MLP. The neurons are computed once more to be read.

        Raises:
            HarnessError: the layer has no experts; the block ran no forward pass through it.
        """
        return self._captured(self._at_activations, layers, "the experts of layer")

    def edit_experts(self, layer: int, change: Change) -> AbstractContextManager[None]:
        """Within the block, every pass goes on as if the activations of the neurons of the layer's experts were
        ``change(activations)``, [batch, pos, n_experts * d_expert] as :meth:`capture_experts` has them.

        The output of the experts becomes ``output + (new - old) @ expert_out(layer)``, by definition; where nothing
        changes it is the output that there was, bit by bit. An activation is given to a neuron whether or not the token
        is routed to its expert: an edit that is to leave tokens alone that are not routed leaves zeros zero (scaling
        does, setting a value does not). The expert's bias is no neuron's and stays.

        Raises:
            HarnessError: as :meth:`Model.edit_neurons`; the layer has no experts.
        """
        return self._edited(self._at_activations, layer, change, "the experts of layer")

    # --- routing ---------------------------------------------------------------------------------------------------

    def capture_routing(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the weights [batch, pos, n_experts] that the router gave the layer's
        experts in the last pass, as they multiply the experts' outputs; 0 where a token is not routed."""
        return self._captured(self._at_routing, layers, "the routing of layer")

    def edit_routing(self, layer: int, change: Change) -> AbstractContextManager[None]:
        """Within the block, every pass goes on with routing weights ``change(weights)``, [batch, pos, n_experts].

        An expert that is given a weight is run on tokens that were not routed to it. :func:`removed` and
        :func:`redistributed` are the two ways of taking experts away.

        Raises:
            HarnessError: as :meth:`Model.edit_neurons`; the layer has no experts.
        """
        return self._edited(self._at_routing, layer, change, "the routing of layer")

    def capture_router_logits(self, layers: int | Sequence[int]) -> AbstractContextManager[dict[int, torch.Tensor]]:
        """Within the block, ``captured[layer]`` is the router's logits [batch, pos, n_experts] of the last pass.

        Raises:
            HarnessError: the layer has no router that decides by its logits alone (biases that it has are its own).
        """
        return self._captured(self._at_logits, layers, "the router of layer")

    def edit_router_logits(self, layer: int, change: Change) -> AbstractContextManager[None]:
        """Within the block, the router of the layer decides by ``change(logits)``: tokens may be routed to others.

        Raises:
            HarnessError: as :meth:`capture_router_logits` and :meth:`edit_routing`.
        """
        return self._edited(self._at_logits, layer, change, "the router of layer")

    # --- what they write -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def capture_expert_write(self, layer: int, hold: bool = False) -> Iterator[list[torch.Tensor]]:
        """Within the block, the list ends with what the layer's experts returned in the last pass, d_model last. With
        ``hold`` it is kept back, as in :meth:`Model.capture_write`."""
        written: list[torch.Tensor] = []

        def hook(module: Any, args: Any, output: Any) -> Any:
            out = tensor_in(output)
            written[:] = [out.detach()]
            return _instead(output, torch.zeros_like(out)) if hold else None

        with _removing(self.experts(layer).site.register_forward_hook(hook)):
            yield written

    # --- hooks -----------------------------------------------------------------------------------------------------

    def check_layer(self, layer: int) -> None:
        """Raises: HarnessError: there is no such layer."""
        if not 0 <= layer < self.anatomy.n_layers:
            raise HarnessError(f"{self.name} has layers 0 to {self.anatomy.n_layers - 1}, there is no layer {layer}.")

    @contextlib.contextmanager
    def _at_activations(self, layer: int, see: See) -> Iterator[None]:
        experts = self.experts(layer)

        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            call = experts.call(args, kwargs, tensor_in(output))
            out = call.output
            now = _now(experts, call)
            if now.activations is None:
                now.activations = experts.activations(call, now.weights)
            new = see(now.activations.view(*shape, -1))
            if new is None or torch.equal(flat := new.reshape(now.activations.shape), now.activations):
                return None
            added = experts.written(flat.float() - now.activations.float())
            edited = (out.float() + added.view(out.shape).to(out.device)).to(out.dtype)
            setattr(edited, _NOTE, _Now(now.weights, flat))
            return _instead(output, edited)

        with self._with_shape(layer) as shape, _removing(experts.site.register_forward_hook(hook, with_kwargs=True)):
            yield

    @contextlib.contextmanager
    def _at_routing(self, layer: int, see: See) -> Iterator[None]:
        experts = self.experts(layer)

        def enter(module: Any, args: Any, kwargs: Any) -> Any:
            assert isinstance(experts, FusedExperts)
            chosen, weights = (argument(args, kwargs, key) for key in experts.keys[1:])
            old = weights.new_zeros(weights[..., 0].numel(), experts.n_experts)
            old.scatter_(1, chosen.reshape(len(old), -1), weights.reshape(len(old), -1))
            new = see(old.view(*shape, -1))
            if new is None or torch.equal(new := new.reshape(old.shape), old):
                return None
            picked = _picking(new, chosen.reshape(len(old), -1))
            for key, value in zip(experts.keys[1:], (picked, new.gather(1, picked)), strict=True):
                args, kwargs = replaced(args, kwargs, key, value.view(*weights.shape[:-1], -1))
            return args, kwargs

        def leave(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            call = experts.call(args, kwargs, tensor_in(output))
            out = call.output
            now = _now(experts, call)
            new = see(now.weights.view(*shape, -1))
            if new is None or torch.equal(new := new.reshape(now.weights.shape), now.weights):
                return None
            more = new - now.weights
            neurons = experts.activations(call, more)
            edited = (out.float() + experts.output(neurons, more).view(out.shape).to(out.device)).to(out.dtype)
            setattr(edited, _NOTE, _Now(new, None if now.activations is None else now.activations + neurons))
            return _instead(output, edited)

        site = experts.site
        with self._with_shape(layer) as shape:
            if isinstance(experts, FusedExperts):
                handle = site.register_forward_pre_hook(enter, with_kwargs=True)
            else:
                handle = site.register_forward_hook(leave, with_kwargs=True)
            with _removing(handle):
                yield

    @contextlib.contextmanager
    def _at_logits(self, layer: int, see: See) -> Iterator[None]:
        router = self.experts(layer).router
        if router is None:
            raise HarnessError(
                f"the router of layer {layer} of {self.name} was not found to decide by its logits alone; its weights "
                "can be read and edited (capture_routing, edit_routing)."
            )

        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            own = router.logits(output)
            new = see(own.reshape(*shape, -1))
            if new is None or torch.equal(new := new.reshape(own.shape), own):
                return None
            return router.with_logits(args, kwargs, output, new)

        with self._with_shape(layer) as shape, _removing(router.module.register_forward_hook(hook, with_kwargs=True)):
            yield

    @contextlib.contextmanager
    def _with_shape(self, layer: int) -> Iterator[list[int]]:
        """Within the block, the list is [batch, pos] of the pass that runs through the layer."""
        shape = [0, 0]

        def enter(module: Any, args: Any, kwargs: Any) -> None:
            shape[:] = layer_input(args, kwargs).shape[:2]

        refuse_compiled(self.hf)
        with _removing(self.anatomy.layers[layer].register_forward_pre_hook(enter, with_kwargs=True)):
            yield shape

    @contextlib.contextmanager
    def _edited(self, at: Any, layer: int, change: Change, what: str) -> Iterator[None]:
        fired = False

        def see(old: torch.Tensor) -> torch.Tensor:
            nonlocal fired
            fired = True
            new = change(old)
            if new.shape != old.shape:
                raise HarnessError(
                    f"an edit of {what} {layer} returned shape {tuple(new.shape)} for activations of shape "
                    f"{tuple(old.shape)}."
                )
            return new.to(old)

        with at(layer, see):
            yield
        if not fired:
            raise HarnessError(
                f"an edit of {what} {layer} of {self.name} had no effect: no forward pass ran through it."
            )

    @contextlib.contextmanager
    def _captured(self, at: Any, layers: int | Sequence[int], what: str) -> Iterator[dict[int, torch.Tensor]]:
        wanted = [layers] if isinstance(layers, int) else list(layers)
        captured: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> See:
            def see(x: torch.Tensor) -> None:
                captured[layer] = x.detach()

            return see

        with contextlib.ExitStack() as stack:
            for layer in wanted:
                stack.enter_context(at(layer, keep(layer)))
            yield captured
        for layer in wanted:
            if layer not in captured:
                raise HarnessError(f"nothing was captured: no forward pass ran through {what} {layer} of {self.name}.")


def without_neurons(name: str, layer: int, experts: Experts | None, has: Sequence[int]) -> HarnessError:
    """The refusal to speak of dense neurons of a layer that has none."""
    assert experts is not None
    others = f"{noun_for(len(has), 'layer')} {', '.join(map(str, has))} {agree(len(has), 'has', 'have')} some"
    return HarnessError(
        f"layer {layer} of {name} has no dense neurons: its MLP is {counted(experts.n_experts, 'expert')} of "
        f"{counted(experts.d_expert, 'neuron')}, which are named E{layer}.expert.neuron"
        + (f"; {others}." if has else ".")
    )


def _now(experts: Experts, call: Any) -> _Now:
    found = getattr(call.output, _NOTE, None)
    if found is None:
        found = _Now(experts.routing(call))
        setattr(call.output, _NOTE, found)
    return found


def _picking(weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Experts [tokens, k] that hold all weights [tokens, n_experts]: those chosen, and as many more as are needed."""
    others = weights.scatter(1, chosen, 0).abs()
    more = int(others.ne(0).sum(1).max()) if len(others) else 0
    # Where a token needs fewer, the rest are experts whose weight is 0, and none twice.
    return torch.cat([chosen, others.scatter(1, chosen, -1).topk(more, dim=1).indices], dim=1) if more else chosen


def _instead(output: Any, new: torch.Tensor) -> Any:
    """What a module returned, with other hidden states."""
    return (new, *output[1:]) if isinstance(output, tuple | list) else new


@contextlib.contextmanager
def _removing(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
