"""The keys and values that a forward pass takes and gives, whatever ``transformers`` calls them.

Argument and output are ``cache`` since ``transformers`` 5.24, ``past_key_values`` before; code that comes with a model
may keep the older name. A name that is not known must never mean "nothing was cached": numbers would be wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import HarnessError
from harness.model.probes import relative_error, tolerance_between_passes

if TYPE_CHECKING:
    from harness.model.model import Model

NAMES = ("cache", "past_key_values")
"""Newest first: where both are taken, the second is deprecated."""


def cache_argument(accepted: Collection[str], name: str) -> str:
    """What the model called ``name``, whose ``forward`` takes the arguments ``accepted``, calls its cache.

    Raises:
        HarnessError: it takes none that is known.
    """
    for argument in NAMES:
        if argument in accepted:
            return argument
    raise HarnessError(
        f"{name} does not take the keys and values of an earlier pass: its forward() has no argument {NAMES[0]} or "
        f"{NAMES[1]}."
    )


def cache_of(out: Any) -> Any:
    """The cache that a pass has given; None where it was not asked for one."""
    for field in NAMES:
        if hasattr(out, field):
            return getattr(out, field)
    return None


@torch.no_grad()
def check_cache(model: Model) -> None:
    """Refuse a model whose passes do not go on from the cache of earlier ones; found out with a few tokens.

    Raises:
        HarnessError: no cache is given or taken, or the continued pass gives other logits than one over the whole text.
    """
    start, more = [[1, 2, 3, 4], [5, 6, 7]], [[8, 9], [3, 1]]
    whole = model.forward(model.pad([a + b for a, b in zip(start, more, strict=True)]), logits_to_keep=2).logits
    batch = model.pad(start)
    past = cache_of(model.forward(batch, use_cache=True))
    rest = batch.extend(torch.tensor(more, device=batch.input_ids.device))
    error = relative_error(model.forward(rest, past=past, logits_to_keep=2).logits, whole)
    if not error < tolerance_between_passes(model, whole):
        raise HarnessError(
            f"{model.name} cannot generate: tokens that follow the keys and values of an earlier pass get other logits "
            f"than in one pass over the whole text (relative difference {error:.1e})."
        )


def cached_tokens(given: Mapping[str, Any]) -> int:
    """How many tokens lie in the cache among the arguments of a pass, found by what it can do and not by name.

    Raises:
        HarnessError: an argument may be a cache, but of a kind that is not known.
    """
    plain = (torch.Tensor, bool, int, float, str, type(None))
    for name, value in given.items():
        if hasattr(value, "get_seq_length"):
            return int(value.get_seq_length())
        if not isinstance(value, plain):
            raise HarnessError(
                f"an edit of heads cannot tell where the prompts begin: {name} of the forward pass is a "
                f"{type(value).__name__}, which may hold earlier tokens; pass an attention_mask."
            )
    return 0
