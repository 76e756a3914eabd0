"""Which prompts of two runs belong together, and why some do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import golden
from roles import conditions

from harness.plugin.records import Outcomes, Prompt
from harness.results.pairing import Run, pair
from harness.results.record import RunRecord


def run(ids: list[str], data: str = "d", task: str = "t", text: str = "text") -> Run:
    """A run without measures: prompts of these ids, each id ``item/number``."""
    prompts = tuple(Prompt(id, f"{text} {id}", (1,), id.split("/")[0]) for id in ids)
    outcomes = Outcomes(conditions(), prompts, {})
    record = golden("record.json")
    record["task"]["name"], record["identity"]["data_sha256"] = task, data
    return Run(Path("r"), RunRecord.read(record, "record.json"), outcomes)


def test_the_same_prompts_are_paired_in_any_order() -> None:
    a, b = run(["x/1", "x/2", "y/1"]), run(["y/1", "x/2", "x/1"])
    found = pair(a, b)
    assert (found.kind, found.n_items) == ("prompts", 2)
    assert found.same.tolist() == [[0, 2], [1, 1], [2, 0]]
    assert found.first_items.tolist() == [0, 0, 1] and found.second_items.tolist() == [1, 0, 0]
    assert found.why == "paired: the same 3 prompts of 2 items"


def test_shared_items_are_paired_where_prompts_differ() -> None:
    found = pair(run(["x/1", "x/2", "y/1", "z/1"]), run(["w/1", "y/1", "x/3", "x/2"]))
    assert (found.kind, found.n_items) == ("items", 2)
    assert found.first.tolist() == [0, 1, 2] and found.second.tolist() == [1, 2, 3]
    assert found.first_items.tolist() == [0, 0, 1] and found.second_items.tolist() == [1, 0, 0]
    assert found.same.tolist() == [[1, 3], [2, 1]]
    assert "2 items in common (of 3 and 3), with 3 and 3 prompts, 2 of them the same" in found.why


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (run(["x/1", "y/1"], data="e"), "the data differ"),
        (run(["x/1", "y/1"], task="u"), "the tasks differ"),
        (run(["x/1", "y/1"], text="other"), "2 prompts have the same id and another text"),
        (run(["x/1", "z/1"]), "1 item in common, and it takes two"),
        (Run(Path("r"), run(["x/1"]).record, missing="r/outcomes.safetensors: there is no such file."), "no such file"),
    ],
)
def test_what_is_not_paired_says_why(other: Run, why: str) -> None:
    found = pair(run(["x/1", "y/1"]), other)
    assert found.kind is None and found.why.startswith("not paired: ") and why in found.why
