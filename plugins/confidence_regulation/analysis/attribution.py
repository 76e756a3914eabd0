"""Direct feature attribution: what every earlier component adds to a neuron's pre-activation.

Stolfo et al. 2024, app. I.3.

The residual stream x where layer L's MLP reads it is a sum of what the embedding, every head, the attentions' biases
and every MLP before it wrote. With the norm's denominator held at its actual value, the pre-activation is linear in x:

    pre-activation_i = sum over components c of  r_i . write_c / denominator(x)  +  constant_i

where r_i is w_in_i with the norm's gain folded in (centred over d_model before a LayerNorm). Where a norm follows the
attention (Gemma 2 and 3, OLMo 2), its own denominator is held likewise and its gain folded, so that heads stay apart.
That the sum is the pre-activation is checked in every batch: a model whose residual stream is no such sum is refused.

Means over positions are taken before anything is multiplied with r, because everything is linear: a head costs
[batch, d_head] numbers, whatever the number of positions and neurons.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.model import InputWeights, Norm, attention_norm, down_bias, layer_input, read_in, write_matrix
from harness.plugin import HarnessError, Model

BYTES = 2**28
"""Memory for what one forward pass leaves to be summed; longer lists of sequences take more passes."""

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest accepted difference between a pre-activation and its parts, relative to the sum of their magnitudes. Rounding
makes at most a third of it in the verified families; a norm on the residual stream (OPT-350m) makes 0.08."""

EMBEDDING, BIASES = "embedding", "attention biases"


@dataclass(frozen=True, eq=False)
class Attribution:
    """Contributions to weighted sums of pre-activations, means over positions.

    Attributes (float64, on the CPU):
        parts: component ("embedding", "attention biases", "L2H3", "MLP 1") -> [S, N], for S weightings of the layer's
            neurons and N sequences.
        constant: [S], what the biases of the norm and of the input weights add.
        pre_activation, activation: [S, N], the model's own; the parts and the constant sum to the former.
    """

    parts: dict[str, torch.Tensor]
    constant: torch.Tensor
    pre_activation: torch.Tensor
    activation: torch.Tensor


class Attributor:
    """Attributes pre-activations of one layer of a model; finds and folds the weights once."""

    def __init__(self, model: Model, layer: int) -> None:
        """Raises: HarnessError: the layer's input weights are not found, or its heads cannot be told apart."""
        anatomy = model.anatomy
        if some := [i for i in model.expert_layers if i < layer]:
            raise HarnessError(
                f"direct feature attribution: layer {some[0]} of {model.name} is a mixture of experts, whose output is "
                f"not taken apart; layers 0 to {some[0]} can be asked for."
            )
        self.model, self.reading = model, read_in(model, layer)
        attentions = range(layer if anatomy.parallel else layer + 1)
        self.norms = {i: attention_norm(model, i) for i in attentions}
        self.mlps = range(layer)

    @torch.no_grad()
    def __call__(
        self,
        sequences: Sequence[Sequence[int]],
        spans: Sequence[tuple[int, int]],
        weights: torch.Tensor,
        batch_size: int = 64,
    ) -> Attribution:
        """Contributions to ``weights`` [S, d_mlp] times the pre-activations, mean over each sequence's span.

        Args:
            spans: the part (start, stop) of each sequence's tokens over whose positions the mean is taken.

        Raises:
            HarnessError: the parts do not sum to the pre-activation, or something is not finite.
        """
        weights = weights.double().cpu()
        directions = self.reading.norm.fold(weights @ self.reading.w_in)
        constant = weights @ self.reading.b_in + self.reading.norm.constant(weights @ self.reading.w_in)
        step = min(batch_size, max(1, BYTES // self._bytes(max(map(len, sequences)))))
        found = []
        for start in range(0, len(sequences), step):
            rows = slice(start, start + step)
            found.append(self._batch(sequences[rows], spans[rows], weights, directions))
            self._check(found[-1], constant)
        return Attribution(
            parts={name: torch.cat([x.parts[name] for x in found], 1) for name in found[0].parts},
            constant=constant,
            pre_activation=torch.cat([x.pre_activation for x in found], 1),
            activation=torch.cat([x.activation for x in found], 1),
        )

    def _bytes(self, length: int) -> int:
        """What a pass over one sequence of this length leaves."""
        anatomy = self.model.anatomy
        heads, mlps = len(self.norms) * anatomy.n_heads * anatomy.d_head, len(self.mlps) * anatomy.d_model
        return 4 * length * (heads + mlps + 3 * anatomy.d_model + 3 * anatomy.d_mlp)

    def _batch(
        self,
        sequences: Sequence[Sequence[int]],
        spans: Sequence[tuple[int, int]],
        weights: torch.Tensor,
        directions: torch.Tensor,
    ) -> Attribution:
        model, anatomy = self.model, self.model.anatomy
        batch = model.pad([list(tokens) for tokens in sequences])
        inside = torch.zeros(batch.input_ids.shape)
        for row, (tokens, (start, stop)) in enumerate(zip(sequences, spans, strict=True)):
            first = inside.shape[1] - len(tokens)  # left-padded
            inside[row, first + start : first + stop] = 1 / (stop - start)
        with _pass(model, self.reading, self.norms, self.mlps) as seen:
            model.forward(batch)
        scale = inside / self.reading.norm.denominator(seen.read).cpu()

        def mean(x: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
            """Weighted sum over positions: float64 [batch, ...] of x [batch, pos, ...]."""
            return torch.einsum("bt,bt...->b...", over.to(x.device), x.float()).double().cpu()

        parts = {EMBEDDING: directions @ mean(seen.embedding, scale).T}
        added = torch.zeros(len(directions), len(sequences)).double()
        biased = False
        for layer, norm in self.norms.items():
            # What a norm after the attention divides by, and what its gain makes of the directions.
            held = scale if norm.module is None else scale / norm.denominator(seen.attention[layer]).cpu()
            behind = norm.fold(directions) * anatomy.residual_multiplier
            _, projection = model.attention(layer)
            each = write_matrix(projection, model.dtype).double().cpu().view(anatomy.n_heads, anatomy.d_head, -1)
            contributions = torch.einsum("bhe,hed,sd->hsb", mean(seen.heads[layer], held), each, behind)
            parts |= {f"L{layer}H{head}": x for head, x in enumerate(contributions)}
            bias = down_bias(projection)
            if bias is not None:
                added, biased = added + torch.outer(behind @ bias.double().cpu(), held.double().sum(1)), True
            if norm.bias is not None:
                added, biased = added + torch.outer(norm.constant(directions), scale.double().sum(1)), True
        for layer in self.mlps:
            wrote = mean(seen.mlps[layer], scale) * anatomy.residual_multiplier
            parts[f"MLP {layer}"] = directions @ wrote.T
        if biased:
            parts[BIASES] = added
        read, neurons = (mean(x, inside) for x in (seen.pre_activations, seen.neurons))
        return Attribution(parts, torch.zeros(0), weights @ read.T, weights @ neurons.T)

    def _check(self, found: Attribution, constant: torch.Tensor) -> None:
        """Refuse what does not sum to the pre-activation."""
        parts = torch.stack(list(found.parts.values()))
        total = parts.sum(0) + constant[:, None]
        size = (parts.abs().sum(0) + constant.abs()[:, None]).max().clamp(min=1e-9)
        error = ((total - found.pre_activation).abs().max() / size).item()
        if not error < TOLERANCE.get(self.model.dtype, 2e-2):
            raise HarnessError(
                f"direct feature attribution does not hold for {self.model.name}: what its MLP of layer "
                f"{self.reading.layer} reads is not the sum of what the embedding, the heads and the MLPs before it "
                f"wrote (relative difference {error:.1e}); a norm may stand on the residual stream itself."
            )


@dataclass(eq=False)
class _Seen:
    """What one forward pass has left, each [batch, pos, ...].

    Attributes:
        embedding: what enters layer 0. read: what the norm before the MLP reads.
        heads: by layer, [batch, pos, n_heads, d_head]. attention: what a norm after the attention reads.
        mlps: what each MLP adds, before the residual multiplier.
        pre_activations, neurons: [batch, pos, d_mlp].
    """

    embedding: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    read: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    attention: dict[int, torch.Tensor] = field(default_factory=dict)
    mlps: dict[int, torch.Tensor] = field(default_factory=dict)
    pre_activations: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    neurons: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@contextlib.contextmanager
def _pass(model: Model, reading: InputWeights, norms: dict[int, Norm], mlps: Sequence[int]) -> Any:
    """Within the block, ``seen`` is filled by a forward pass; residual-sized tensors are copies, because layers may add
    to them in place."""
    anatomy, seen = model.anatomy, _Seen()
    shape = (0, 0)

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal shape
        seen.embedding = layer_input(args, kwargs).detach().clone()
        shape = tuple(seen.embedding.shape[:2])  # type: ignore[assignment]

    def rows(x: torch.Tensor) -> torch.Tensor:
        """[batch, pos, width] of what may be [batch * pos, width] (OPT)."""
        return x.detach().reshape(*shape, x.shape[-1]).clone()

    def read(module: Any, args: Any) -> None:
        seen.read = rows(args[0])

    def pre_activations(module: Any, args: Any, output: torch.Tensor) -> None:
        seen.pre_activations = rows(output[..., reading.columns])

    def attention(layer: int) -> Any:
        return lambda module, args: seen.attention.__setitem__(layer, rows(args[0]))

    def mlp(layer: int) -> Any:
        return lambda module, args, output: seen.mlps.__setitem__(layer, rows(output))

    with contextlib.ExitStack() as hooks:

        def keep(handle: Any) -> None:
            hooks.callback(handle.remove)

        keep(anatomy.layers[0].register_forward_pre_hook(enter, with_kwargs=True))
        keep((reading.norm.module or reading.projection).register_forward_pre_hook(read))
        keep(reading.projection.register_forward_hook(pre_activations))
        for layer, norm in norms.items():
            if norm.module is not None:
                keep(norm.module.register_forward_pre_hook(attention(layer)))
        for layer in mlps:
            keep((anatomy.post_mlp_norms[layer] or model.down_projection(layer)).register_forward_hook(mlp(layer)))
        heads = hooks.enter_context(model.capture_heads(list(norms)))
        neurons = hooks.enter_context(model.capture_neurons(reading.layer))
        yield seen
        seen.heads, seen.neurons = dict(heads), neurons[reading.layer]
