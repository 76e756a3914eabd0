"""How many prompts fit into a pass: reckoned on a CPU, tried elsewhere, halved where memory does not suffice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines import same_scores, some_conditions, some_prompts
from families import tiny

from harness.conditions.conditions import BASELINE
from harness.engine import batch_sizes
from harness.engine.batch_sizes import halving, most, out_of_memory
from harness.engine.hooks import HookEngine
from harness.errors import PluginError
from harness.model.model import Batch, Model


def stand_in(device: str, d_vocab: int) -> Any:
    return SimpleNamespace(device=torch.device(device), anatomy=SimpleNamespace(d_vocab=d_vocab))


def test_on_a_cpu_the_logits_of_a_pass_stay_within_the_budget() -> None:
    found = {width: most(stand_in("cpu", 128_000), width) for width in (1, 50, 512, 10_000)}
    assert found == {1: 64, 50: 32, 512: 4, 10_000: 1}
    for width, n in found.items():
        each = 4 * width * 128_000
        assert n == 64 or n * each <= batch_sizes.LOGIT_BYTES < 2 * n * each or n == 1
    assert most(stand_in("cuda", 128_000), 10_000) == batch_sizes.MOST_ELSEWHERE, "which is tried"


def test_a_pass_has_no_more_prompts_than_there_are() -> None:
    assert [most(stand_in("cuda", 9), 1, n) for n in (1, 2, 3, 20, 10**6)] == [1, 2, 4, 32, batch_sizes.MOST_ELSEWHERE]


def test_work_is_done_again_with_half_as_many_prompts_until_it_fits() -> None:
    engine, tried = SimpleNamespace(batch_size=64), []

    def work() -> str:
        tried.append(engine.batch_size)
        if engine.batch_size > 11:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
            except torch.OutOfMemoryError as error:  # as it comes through the border with plugins
                raise PluginError("task slow of x 1.0: observe() raised OutOfMemoryError.") from error
        return "done"

    assert halving([engine], work) == "done"  # type: ignore[list-item]
    assert tried == [64, 32, 16, 8] and engine.batch_size == 8, "it stays so"


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("no room"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_no_lack_of_memory_is_raised_at_once(error: Exception, memory: bool) -> None:
    engine, tried = SimpleNamespace(batch_size=4), []

    def work() -> None:
        tried.append(engine.batch_size)
        raise error

    assert out_of_memory(error) is memory
    with pytest.raises(type(error)):
        halving([engine], work)  # type: ignore[list-item]
    assert tried == ([4, 2, 1] if memory else [4])


def test_a_model_that_holds_five_rows_gives_what_a_model_with_room_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny("gpt2"), some_prompts(1, n=12)
    conditions = [BASELINE, *some_conditions(model, 2)]
    expected = HookEngine(model).score(prompts, conditions)
    engine, forward, rows = HookEngine(model), Model.forward, []

    def small(model: Model, batch: Batch, *args: Any, **more: Any) -> Any:
        rows.append(len(batch.input_ids))
        if rows[-1] > 5:
            raise torch.OutOfMemoryError("no room")
        return forward(model, batch, *args, **more)

    monkeypatch.setattr(Model, "forward", small)
    same_scores(halving([engine], lambda: engine.score(prompts, conditions)), expected)
    assert engine.batch_size == 4 and max(rows) == 12, rows
