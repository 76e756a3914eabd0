"""Attention heads, and conditions that edit their outputs.

A head's output at a position is its attention pattern there times its values: [d_head] numbers that the attention's
output projection reads. Editing them works for every attention implementation, fused kernels included.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from harness.conditions.units import HEADS, Site
from harness.errors import HarnessError
from harness.model.key_values import cached_tokens

if TYPE_CHECKING:
    from harness.model.model import Model


class HeadEdit(Protocol):
    """A change of the outputs of some heads of one layer; an :class:`harness.conditions.conditions.Edit` whose site is
    "heads".

    Heads are query heads: with grouped queries, those that share a value head are edited one by one.

    Attributes:
        reads_first: ``apply`` reads ``first``.
    """

    where: ClassVar[Site]
    reads_first: ClassVar[bool]

    @property
    def layer(self) -> int: ...

    @property
    def indices(self) -> tuple[int, ...]: ...

    def apply(self, outputs: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
        """New outputs, shape and dtype of the given ones.

        Args:
            outputs: [batch, pos, len(indices), d_head].
            first: [batch, 1, len(indices), d_head], the same heads' outputs at each row's first real position, which
                may have been run in an earlier pass (generation with a cache).
        """
        ...


@dataclass(frozen=True)
class SetHeads:
    """Replace each head's output by a constant at every position (mean-output ablation, zero ablation).

    Attributes:
        values: [len(heads)][d_head].
    """

    layer: int
    heads: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]

    where: ClassVar[Site] = HEADS
    reads_first: ClassVar[bool] = False

    @property
    def indices(self) -> tuple[int, ...]:
        return self.heads

    def apply(self, outputs: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
        values = outputs.new_tensor(self.values)
        if values.shape != outputs.shape[2:]:
            raise HarnessError(
                f"values for heads {', '.join(map(str, self.heads))} of layer {self.layer} have shape "
                f"{tuple(values.shape)}, expected {tuple(outputs.shape[2:])}."
            )
        return values.expand_as(outputs)


@dataclass(frozen=True)
class AttendFirst:
    """Let the heads attend to the prompt's first token only (BOS ablation), from every position.

    A causal head has nothing but the first token to attend to at the first position, so its output there *is* that
    token's value vector, with grouped queries, too. An attention pattern that is 1 on the first token and 0 elsewhere
    gives that vector at every position: so the head's output at every position is replaced by its own output at the
    row's first real position. Position encodings in the scores (rotary, ALiBi), soft caps and sliding windows do not
    matter, because they act on the pattern alone.

    It would not hold where the first position's output is not its value: with learned attention sinks, which take
    part of the attention away (GPT-OSS), and where something that depends on the position stands between the heads and
    the output projection (a norm as in BitNet, a gate as in Qwen3-Next), or where attention is not causal.
    """

    layer: int
    heads: tuple[int, ...]

    where: ClassVar[Site] = HEADS
    reads_first: ClassVar[bool] = True

    @property
    def indices(self) -> tuple[int, ...]:
        return self.heads

    def apply(self, outputs: torch.Tensor, first: torch.Tensor | None = None) -> torch.Tensor:
        return (outputs[:, :1] if first is None else first).expand_as(outputs)


class Starts:
    """Where each row of the running forward pass begins; computed when an edit asks, once a pass.

    Attributes:
        given: the arguments of the pass by name, a new mapping each pass.
    """

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self._column: torch.Tensor | None = None
        self._before = 0

    def enter(self, given: dict[str, Any]) -> None:
        """A forward pass begins with these arguments."""
        # The pass extends the cache in place: its length is read now.
        self._before = cached_tokens(given) if given.get("attention_mask") is None else 0
        self.given, self._column = given, None

    @property
    def column(self) -> torch.Tensor:
        """int64 [batch], column of the first real token of each row; negative where it lies in the cache."""
        if self._column is None:
            tokens, mask = self._tokens, self.given.get("attention_mask")
            if mask is None:
                self._column = torch.full(tokens.shape[:1], -self._before, device=tokens.device)
            else:
                self._column = mask.int().argmax(1) - (mask.shape[1] - tokens.shape[1])
        return self._column

    @property
    def n_tokens(self) -> int:
        """How many tokens, padding included, each row of the pass has."""
        return int(self._tokens.shape[1])

    @property
    def _tokens(self) -> torch.Tensor:
        """What is read: ids [batch, pos], or embeddings [batch, pos, d_model]."""
        ids = self.given.get("input_ids")
        found: torch.Tensor = self.given["inputs_embeds"] if ids is None else ids
        return found

    @property
    def here(self) -> bool:
        """Whether every row begins in this pass."""
        return bool((self.column >= 0).all())


@contextlib.contextmanager
def watch_starts(model: Model) -> Iterator[Starts]:
    """Within the block, ``starts`` describes the forward pass that is running."""
    starts, signature = Starts(), inspect.signature(model.hf.forward)

    def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        starts.enter({**signature.bind_partial(*args).arguments, **kwargs})

    hook = model.hf.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield starts
    finally:
        hook.remove()


class FirstReader:
    """Makes one edit in place that reads the first position, whose values it remembers from pass to pass."""

    def __init__(self, edit: HeadEdit, starts: Starts, part: tuple[int, int] = (0, 1)) -> None:
        """``part``: (i, n), the edit is for the rows of the i-th of n equal parts of the running pass."""
        self.edit, self.starts, self.part = edit, starts, part
        self.columns = list(edit.indices)
        self.first: torch.Tensor | None = None

    def __call__(self, heads: torch.Tensor) -> None:
        """Write the edit into ``heads`` [batch, pos, n_heads, d_head], the rows of this edit only."""
        outputs = heads[:, :, self.columns]
        heads[:, :, self.columns] = self.edit.apply(outputs, self._first(outputs)[:, None]).to(heads)

    def _first(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs at the first real position, [batch, len(indices), d_head]."""
        part, n = self.part
        column = self.starts.column.view(n, -1)[part].to(outputs.device)
        first = outputs[torch.arange(len(outputs), device=outputs.device), column.clamp(min=0)]
        if not self.starts.here:
            if self.first is None:
                raise HarnessError(
                    f"an edit of heads of layer {self.edit.layer} needs the first token of every prompt, which was run "
                    "before the edit began."
                )
            first = torch.where((column >= 0)[:, None, None], first, self.first)
        self.first = first
        return first
