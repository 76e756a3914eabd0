"""Routed experts by their definition: a loop over tokens and experts, with the formulas of the families under test.

What the harness finds by running models is compared with this; nothing here is shared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Write = Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]
"""(token, expert, weight, neurons [d_expert]) -> what is written [d_model]."""


class OwnExperts(nn.Module):
    """A mixture whose experts are modules of their own, as code that comes with a model builds it, and as
    ``transformers`` did before its version 5; it takes its weights from a fused one."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        experts, gate = block.experts, block.gate
        n, width, d_model = experts.down_proj.shape[0], experts.down_proj.shape[2], experts.down_proj.shape[1]
        self.gate = nn.Linear(d_model, n, bias=False)
        self.gate.weight = nn.Parameter(gate.weight.detach().clone(), requires_grad=False)
        self.experts = nn.ModuleList(_Expert(d_model, width) for _ in range(n))
        for i, expert in enumerate(self.experts):
            both = experts.gate_up_proj[i].detach()
            own = {expert.w1: both[:width], expert.w3: both[width:], expert.w2: experts.down_proj[i].detach()}
            for linear, weight in own.items():
                linear.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.top_k, self.normed = gate.top_k, getattr(gate, "norm_topk_prob", True)
        self.shared = getattr(block, "shared_experts", None)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x = hidden_states.view(-1, hidden_states.shape[-1])
        weights, chosen = self.gate(x).softmax(-1, dtype=torch.float).topk(self.top_k, dim=-1)
        weights = (weights / weights.sum(-1, keepdim=True) if self.normed else weights).to(x.dtype)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            tokens, place = torch.where(chosen == i)
            if len(tokens):
                out.index_add_(0, tokens, expert(x[tokens]) * weights[tokens, place, None])
        if self.shared is not None:
            out = out + self.shared(x)
        return out.view(hidden_states.shape)


class _Expert(nn.Module):
    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(d_model, width, bias=False), nn.Linear(d_model, width, bias=False)
        self.w2 = nn.Linear(width, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


def neurons_of(experts: nn.Module, expert: int, x: torch.Tensor) -> torch.Tensor:
    """Hidden state [d_expert] of a token x [d_model] in an expert, after the activation function."""
    weight = experts.gate_up_proj[expert]
    if not hasattr(experts, "down_proj_bias"):
        gate, up = (weight @ x).chunk(2)
        return nn.functional.silu(gate) * up
    both = x @ weight + experts.gate_up_proj_bias[expert]
    gate, up = both[::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
    return (up + 1) * gate * torch.sigmoid(gate * experts.alpha)


def write_of(experts: nn.Module, expert: int) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Output weights [d_expert, d_model] of an expert, and its bias."""
    if hasattr(experts, "down_proj_bias"):
        return experts.down_proj[expert], experts.down_proj_bias[expert]
    return experts.down_proj[expert].T, 0.0


@contextmanager
def replaced(experts: nn.Module, change: Callable[[int, int, Any], torch.Tensor] | None = None) -> Iterator[Any]:
    """Within the block, a module of fused experts computes token by token; ``change(token, expert, activations)`` gives
    the activations [d_expert] of each expert, routed or not. The block's value has weights [tokens, n_experts] and
    activations [tokens, n_experts, d_expert] of the last pass, unchanged."""
    seen: dict[str, torch.Tensor] = {}

    def hook(module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        x, chosen, weights = (*args, *kwargs.values())
        n, width = module.down_proj.shape[0], neurons_of(module, 0, x[0]).shape[0]
        dense, all_neurons = torch.zeros(len(x), n), torch.zeros(len(x), n, width)
        out = torch.zeros(len(x), output.shape[-1])
        for token in range(len(x)):
            for expert in range(n):
                w_out, bias = write_of(module, expert)
                weight = weights[token][chosen[token] == expert].sum()
                neurons = weight * neurons_of(module, expert, x[token]) if weight != 0 else torch.zeros(width).to(x)
                dense[token, expert], all_neurons[token, expert] = weight, neurons
                now = neurons if change is None else change(token, expert, neurons)
                out[token] += (now.float() @ w_out.float() + weight * bias).float()
        seen.update(weights=dense, activations=all_neurons)
        return out.to(output)

    handle = experts.register_forward_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
