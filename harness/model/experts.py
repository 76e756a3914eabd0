"""The routed experts of a mixture-of-experts layer: which neurons they have, what these do to a token, what they write.

    output of the experts = sum over neurons of activation * w_out + sum over experts of weight * bias

The *activation* of an expert's neuron is its hidden state after the activation function times the weight that the
router gives its expert, and exactly 0 where a token is not routed to it. So neurons of experts write as dense neurons
do, w_out per unit of activation; a bias of an expert's output (gpt-oss) is no neuron's: the expert writes it, weighted,
whatever its neurons do. Column ``expert * d_expert + neuron`` of the activations is the neuron.

No formula is known here. A module that holds the weights of all experts is run on its own input with a unit matrix in
place of its output weights, one expert a token, and gives its neurons as it computes them itself. Experts that are
modules of their own are run on the tokens that are routed to them, and the module that routes says its weights when
each expert is replaced by one that writes a coordinate of its own. :mod:`harness.model.expert_search` finds the experts
and verifies all this when a model is loaded; :mod:`harness.model.expert_hooks` reads and edits them in passes.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from harness.model.matrices import write_matrix
from harness.model.modules import down_bias, materialised, read_parameter

Key = int | str
"""Which argument of a call: its place, or its name."""

MOST = 1 << 27
"""Numbers that are made at once while experts are run again."""


class Call(NamedTuple):
    """What a layer's experts were called with in one pass, and what they returned.

    Attributes:
        x: [..., d_model]. output: [..., d_model].
        chosen: int64 [tokens, top_k], the experts of each token, and weights [tokens, top_k]; None where the experts
            are modules of their own.
    """

    x: torch.Tensor
    output: torch.Tensor
    chosen: torch.Tensor | None = None
    weights: torch.Tensor | None = None

    @property
    def tokens(self) -> torch.Tensor:
        """``x`` as [tokens, d_model]."""
        return self.x.reshape(-1, self.x.shape[-1])


@dataclass(frozen=True, eq=False)
class Router:
    """What gives the router's logits [tokens, n_experts].

    Attributes:
        place: where they are in what the module returns; None where it returns nothing else.
        key: its argument that it computes them from.
        matrix: name of its parameter [n_experts, d_model], where it goes on to choose the experts itself; it is then
            run again with other logits, through a unit matrix.
        constants: names of parameters that it adds to the logits.
    """

    module: nn.Module
    place: int | None
    key: Key
    matrix: str | None = None
    constants: tuple[str, ...] = ()

    def logits(self, output: Any) -> torch.Tensor:
        found: torch.Tensor = output if self.place is None else output[self.place]
        return found

    def with_logits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, logits: torch.Tensor) -> Any:
        """What the module returns where its logits are these."""
        if self.place is None:
            return logits.to(output)
        assert self.matrix is not None
        own = self.logits(output)
        x = argument(args, kwargs, self.key)
        fed = own.new_zeros(own[..., 0].numel(), x.shape[-1])
        fed[:, : own.shape[-1]] = logits.reshape(-1, own.shape[-1]).to(own)
        changed = {self.matrix: torch.eye(own.shape[-1], x.shape[-1]).to(own)}
        with materialised(self.module):
            changed |= {name: torch.zeros_like(getattr(self.module, name)) for name in self.constants}
            args, kwargs = replaced(args, kwargs, self.key, fed.view(x.shape))
            new = type(self.module).forward(substituted(self.module, changed), *args, **kwargs)
        both = zip(new, output, strict=True)
        return tuple(a.to(b.dtype) if isinstance(b, torch.Tensor) else b for a, b in both)


@dataclass(frozen=True, eq=False)
class Experts(ABC):
    """The routed experts of one layer.

    Attributes:
        n_experts: how many there are. d_expert: neurons of each. top_k: experts that a token is routed to.
        site: the module behind which their output is read and edited.
        router: what gives the router's logits; None where what decides is not these alone.
    """

    n_experts: int
    d_expert: int
    top_k: int
    site: nn.Module
    router: Router | None

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """Modules that are the experts' own, and the router's."""
        return (self.site, *(() if self.router is None else (self.router.module,)))

    @property
    @abstractmethod
    def reads(self) -> Key:
        """The argument of ``site`` that the experts read."""

    @abstractmethod
    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Call:
        """A call of ``site``."""

    @abstractmethod
    def routing(self, call: Call) -> torch.Tensor:
        """The router's weights [tokens, n_experts], 0 where a token is not routed."""

    @abstractmethod
    def activations(self, call: Call, weights: torch.Tensor) -> torch.Tensor:
        """Activations [tokens, n_experts * d_expert] of the neurons under routing ``weights`` [tokens, n_experts]."""

    @abstractmethod
    def write(self, expert: int) -> torch.Tensor:
        """Output weights [d_expert, d_model] of an expert, as stored."""

    @abstractmethod
    def bias(self) -> torch.Tensor | None:
        """What each expert writes whatever its neurons do, per unit of its weight: float32 [n_experts, d_model]."""

    def rows(self, indices: Sequence[int] | None = None) -> torch.Tensor:
        """Write directions float32 [n, d_model] of neurons, by their columns; of all where ``indices`` is None."""
        if indices is None:
            return torch.cat([self.write(expert).float() for expert in range(self.n_experts)])
        wanted = torch.as_tensor(list(indices), dtype=torch.long)
        first = self.write(0)
        out = first.new_empty(len(wanted), first.shape[1], dtype=torch.float32)
        for expert in (wanted // self.d_expert).unique().tolist():
            here = (wanted // self.d_expert == expert).nonzero()[:, 0]
            matrix = self.write(expert)
            out[here.to(out.device)] = matrix[(wanted[here] % self.d_expert).to(matrix.device)].to(out)
        return out

    def written(self, activations: torch.Tensor) -> torch.Tensor:
        """What activations [tokens, n_experts * d_expert] write, float32 [tokens, d_model], without biases; neurons
        that are 0 at all tokens cost nothing."""
        used = activations.ne(0).any(0).nonzero()[:, 0]
        return activations[:, used].float() @ self.rows(used.tolist()).to(activations.device)

    def output(self, activations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """What the experts return, float32 [tokens, d_model], by the definition at the top of this module."""
        bias = self.bias()
        written = self.written(activations)
        return written if bias is None else written + weights.float() @ bias.to(written)


@dataclass(frozen=True, eq=False)
class FusedExperts(Experts):
    """Experts in one module, which is called with each token's experts and their weights.

    Attributes:
        keys: its arguments x, chosen and weights.
        down: name of the parameter with all output weights, [n_experts, d_model, d_expert], or with the last two axes
            swapped where it is ``transposed``.
        biases: name of the parameter that is :meth:`bias`, or None.
    """

    keys: tuple[Key, Key, Key]
    down: str
    transposed: bool
    biases: str | None

    @property
    def reads(self) -> Key:
        return self.keys[0]

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Call:
        x, chosen, weights = (argument(args, kwargs, key) for key in self.keys)
        return Call(x, output, chosen.reshape(-1, chosen.shape[-1]), weights.reshape(-1, weights.shape[-1]))

    def routing(self, call: Call) -> torch.Tensor:
        assert call.chosen is not None and call.weights is not None
        return call.weights.new_zeros(len(call.chosen), self.n_experts).scatter(1, call.chosen, call.weights)

    def activations(self, call: Call, weights: torch.Tensor) -> torch.Tensor:
        x, d_out = call.tokens, call.output.shape[-1]
        tokens, experts = weights.nonzero(as_tuple=True)
        found = x.new_zeros(len(x), self.n_experts, self.d_expert)
        for start in range(0, self.d_expert, d_out):
            some = min(d_out, self.d_expert - start)
            unit = torch.zeros(d_out, self.d_expert, dtype=x.dtype, device=x.device)
            unit[:some, start : start + some] = torch.eye(some)
            changed = self.with_down(unit)
            for part in torch.arange(len(tokens), device=x.device).split(max(1, MOST // d_out)):
                t, e = tokens[part], experts[part]
                out = self.run(x[t], e[:, None], weights[t, e][:, None], changed)
                found[t, e, start : start + some] = out[:, :some]
        return found.flatten(1)

    def with_down(self, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parameters in which every expert's output weights are this matrix [d_model, d_expert], and no bias is."""
        matrix = matrix.T if self.transposed else matrix
        changed = {self.down: matrix.expand(self.n_experts, *matrix.shape)}
        bias = None if self.biases is None else read_parameter(self.site, self.biases)
        return changed if bias is None else {**changed, str(self.biases): torch.zeros_like(bias, device=matrix.device)}

    def run(
        self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, changed: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The experts' output [tokens, d_model] with other parameters; nothing of the model is touched."""
        named = dict(zip(self.keys, (x, chosen, weights), strict=True))
        args = tuple(named[key] for key in sorted(key for key in named if isinstance(key, int)))
        kwargs = {key: value for key, value in named.items() if isinstance(key, str)}
        with materialised(self.site):
            out: torch.Tensor = type(self.site).forward(substituted(self.site, changed), *args, **kwargs)
        return out.detach()

    def write(self, expert: int) -> torch.Tensor:
        weight = read_parameter(self.site, self.down)
        assert weight is not None
        return weight[expert] if self.transposed else weight[expert].T

    def bias(self) -> torch.Tensor | None:
        found = None if self.biases is None else read_parameter(self.site, self.biases)
        return None if found is None else found.float()


@dataclass(frozen=True, eq=False)
class SeparateExperts(Experts):
    """Experts that are modules of their own, in a list; ``site`` is the module that routes tokens to them.

    Attributes:
        key: the argument of ``site`` that is x.
        path: of the list in ``site``. experts: its modules. downs: their down projections.
        beside: paths of modules in ``site`` that write beside the experts (shared experts).
    """

    key: Key
    path: str
    experts: tuple[nn.Module, ...]
    downs: tuple[nn.Module, ...]
    beside: tuple[str, ...]

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        return (*self.experts, *(() if self.router is None else (self.router.module,)))

    @property
    def reads(self) -> Key:
        return self.key

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Call:
        return Call(argument(args, kwargs, self.key), tensor_in(output))

    def routing(self, call: Call) -> torch.Tensor:
        d_out, parts = call.output.shape[-1], []
        for start in range(0, self.n_experts, d_out):
            stand_ins = nn.ModuleList(Writes(i - start, d_out) for i in range(self.n_experts))
            other: dict[str, nn.Module] = {self.path: stand_ins, **dict.fromkeys(self.beside, Writes(-1, d_out))}
            bare = substituted(self.site, {}, other)
            args, kwargs = ((call.x,), {}) if isinstance(self.key, int) else ((), {self.key: call.x})
            out = tensor_in(type(self.site).forward(bare, *args, **kwargs)).reshape(-1, d_out)
            parts.append(out[:, : self.n_experts - start])
        return torch.cat(parts, 1).detach()

    def activations(self, call: Call, weights: torch.Tensor) -> torch.Tensor:
        x = call.tokens
        found = x.new_zeros(len(x), self.n_experts, self.d_expert)
        for i, (expert, down) in enumerate(zip(self.experts, self.downs, strict=True)):
            rows = weights[:, i].nonzero()[:, 0]
            if len(rows):
                with _entering(down) as neurons:
                    expert(x[rows])
                found[rows, i] = neurons[-1].reshape(len(rows), -1) * weights[rows, i, None].to(x)
        return found.flatten(1)

    def write(self, expert: int) -> torch.Tensor:
        return write_matrix(self.downs[expert])

    def bias(self) -> torch.Tensor | None:
        found = [down_bias(down) for down in self.downs]
        return None if any(x is None for x in found) else torch.stack([x for x in found if x is not None])


class Writes(nn.Module):
    """Stands in for an expert: writes coordinate ``at`` of [rows, width], or nothing where there is no such one."""

    def __init__(self, at: int, width: int) -> None:
        super().__init__()
        self.at, self.width = at, width

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = torch.zeros_like(x)
        if 0 <= self.at < self.width:
            out[..., self.at] = 1
        return out


@contextlib.contextmanager
def _entering(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Within the block, the list ends with what the module was last called with."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()


class _Eager:
    """A configuration with which ``transformers`` runs experts one after another: its other kernels take output
    weights as they are laid out in memory."""

    _experts_implementation = "eager"

    def __init__(self, config: Any) -> None:
        self.__config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__config, name)


def substituted(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module] | None = None
) -> nn.Module:
    """A stand-in for a module in which some parameters, and some modules within it (by their paths), are others. The
    rest is shared, but for hooks."""
    bare: nn.Module = object.__new__(type(module))
    bare.__dict__.update(module.__dict__)
    bare.__dict__["_parameters"] = {name: tensors.get(name, x) for name, x in module._parameters.items()}
    bare.__dict__["_forward_hooks"], bare.__dict__["_forward_pre_hooks"] = OrderedDict(), OrderedDict()
    if "config" in module.__dict__ and hasattr(module.config, "_experts_implementation"):
        bare.__dict__["config"] = _Eager(module.config)
    inside = dict(bare.__dict__["_modules"])
    for path, other in (modules or {}).items():
        own, _, rest = path.partition(".")
        part = inside[own]
        assert part is not None
        inside[own] = substituted(part, {}, {rest: other}) if rest else other
    bare.__dict__["_modules"] = inside
    return bare


def argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Key) -> Any:
    """An argument of a call."""
    return args[key] if isinstance(key, int) else kwargs[key]


def replaced(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Key, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another value for one."""
    if isinstance(key, int):
        return (*args[:key], value, *args[key + 1 :]), dict(kwargs)
    return args, {**kwargs, key: value}


def tensor_in(output: Any) -> torch.Tensor:
    """The hidden states that a module returned, which may be first of several things."""
    found: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return found
