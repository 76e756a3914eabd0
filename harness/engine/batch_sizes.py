"""How many prompts fit into a pass (``batch_size: auto``).

On an accelerator this is found by trying, as lm-eval's ``auto`` finds it: from the most that is worth trying, half as
many each time the device's memory does not suffice (:func:`halving`). What a CPU computes with is the machine's memory:
where it does not suffice, the process is ended from outside or everything becomes slow, and nothing is raised that
could be caught. So on a CPU the number is reckoned from a budget (:func:`reckoned`), and not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from harness.engine.batched import LOGIT_BYTES

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.model.model import Model

T = TypeVar("T")

MOST = {"cpu": 64}
"""Prompts in a pass, by device. A CPU is no faster with more: 128 prompts of 24 tokens take SmolLM2-135M 14.2, 13.2,
13.9 and 14.7 seconds of one core in batches of 8, 32, 64 and 128."""

MOST_ELSEWHERE = 256
"""``MOST`` of other devices: as many prompts as are run before outcomes are put on the disk."""


def tries(model: Model) -> bool:
    """Whether the model is where what fits is found by trying."""
    return model.device.type != "cpu"


def most(model: Model, width: int = 1, n_prompts: int | None = None) -> int:
    """The largest power of two of prompts that is worth trying in a pass.

    Args:
        width: tokens of the longest one, which a CPU's number is reckoned from (:func:`reckoned`).
        n_prompts: how many there are, where that is known; a pass has no more, rounded up to a power of two.
    """
    device = model.device.type
    found = MOST.get(device, MOST_ELSEWHERE)
    if n_prompts is not None:
        found = min(found, 1 << max(n_prompts - 1, 0).bit_length())
    return found if tries(model) else min(found, reckoned(width, model.anatomy.d_vocab))


def reckoned(width: int, d_vocab: int) -> int:
    """The largest power of two of prompts of so many tokens whose float32 logits take no more than
    :data:`harness.engine.batched.LOGIT_BYTES` together, at most what a CPU is given; at least 1."""
    fitting = LOGIT_BYTES // (4 * max(width, 1) * d_vocab)
    return min(MOST["cpu"], 1 << max(fitting.bit_length() - 1, 0))


def halving(engines: Sequence[Engine], work: Callable[[], T]) -> T:
    """What ``work`` returns; done again with half as many prompts in a pass while the memory does not suffice for it.

    Args:
        engines: whose ``batch_size`` is halved; it stays so.

    Raises:
        torch.OutOfMemoryError, RuntimeError: the memory does not suffice for one prompt; whatever else ``work`` raises.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not out_of_memory(error) or all(engine.batch_size == 1 for engine in engines):
                raise
        # Only here is what the work held let go of: the exception's frames are gone.
        for engine in engines:
            engine.batch_size = max(1, engine.batch_size // 2)
        clear_device_cache(garbage_collection=True)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that a device's memory does not suffice."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, torch.OutOfMemoryError) or (
            isinstance(found, Exception) and should_reduce_batch_size(found)
        ):
            return True
        found = found.__cause__
    return False
