"""``positions`` of an intervention in a run: what is offered and refused, what the record says, what the hash holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import record, spec
from strangers import Halved, PlainTask, make, misbehaving

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention, Task
from harness.plugin.specs import parse_spec
from harness.running.execute import plan

FACTS = Path("facts.jsonl")


def test_a_run_says_where_it_acts(tmp_path: Path) -> None:
    everywhere, last = (make(tmp_path, Halved, intervention=f"halved{x}") for x in ("", ":positions=last"))
    assert everywhere.name != last.name
    assert record(everywhere)["selection"]["positions"] == "all positions"
    found = record(last)["selection"]
    assert found["positions"] == "the last token of the prompt"
    assert found["intervention_title"] == "the intervention halved at the last token of the prompt"
    # What is predicted after the prompt is all that is observed, and the last layer is edited: the same numbers.
    assert record(last)["measures"] == record(everywhere)["measures"]


def test_positions_are_part_of_what_a_run_depends_on_where_they_are_given() -> None:
    def params(text: str) -> dict[str, object]:
        found = catalogue().build(Intervention, parse_spec(text, "--intervention"), "--intervention")
        return dict(found.identity()["params"])

    assert params("zero") == params("zero:positions=all") == {"unigram": None, "corpus": None, "frozen": None}
    assert params("zero:positions=-2:-1") == params("zero") | {"positions": "-2:-1"}


@pytest.mark.parametrize(
    ("task", "positions", "says"),
    [
        (
            "knowledge_conflict",
            "subjekt",
            r'no tokens that are called "subjekt"\. Did you mean "subject"\? It has: ',
        ),
        ("target_probability", "generated", 'no tokens that are called "generated"'),
        ("target_probability", "last+object", 'no tokens that are called "object"'),
        ("mediation", "last", r"the task mediation says itself where interventions act \(all positions\)"),
        ("induction_synthetic", "first", r"where interventions act \(the positions of the repeat\)"),
        ("knowledge_conflict", "1-2", r"positions.* \"1-2\" is none of all, prompt, generated, first, last, a slice"),
    ],
)
def test_what_a_task_does_not_offer_is_refused_before_a_model_is_loaded(task: str, positions: str, says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        plan(spec("small", FACTS, task=task, intervention=f"mean:positions={positions}"), catalogue())


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ("first", r"an edit of the last layer \(2\) changes what is predicted at its own token and nothing else"),
        ("40:", "positions=40:: no prompt has such a token"),
    ],
)
def test_edits_that_cannot_change_what_follows_are_refused(tmp_path: Path, positions: str, says: str) -> None:
    task = misbehaving(PlainTask, observe=lambda *_: pytest.fail("too late"))
    with pytest.raises(HarnessError, match=says):
        make(tmp_path, task, intervention=f"halved:positions={positions}")


def test_spans_that_do_not_fit_are_the_tasks_fault(tmp_path: Path) -> None:
    offers = {"acts_at": lambda self: frozenset({"subject"})}
    for found, says in (
        (lambda self, prompts, model: [{} for _ in prompts], 'has no span of the name "subject"'),
        (lambda self, prompts, model: [], "named_spans.* gave parts of 0 of 4 prompts"),
        (lambda self, prompts, model: [{"subject": (0, 99)} for _ in prompts], r'gave \(0, 99\) as the part "subject"'),
    ):
        task = misbehaving(PlainTask, **offers, named_spans=found)
        with pytest.raises(HarnessError, match=says):
            make(tmp_path, task, intervention="halved:positions=subject")


def test_lm_eval_alone_does_not_know_where_a_prompt_ends() -> None:
    from harness.lmeval.model import HarnessLM

    with pytest.raises(HarnessError, match="positions=last: lm-eval does not say where a prompt ends"):
        HarnessLM("demo", selector="random", intervention="zero:positions=last")


def test_tasks_offer_what_their_answers_read() -> None:
    def offered(text: str) -> frozenset[str]:
        return catalogue().build(Task, parse_spec(text, "--task"), "--task").acts_at()

    assert offered("labelled_response:data=truthfulness.csv,answers=[true,false]") == {"prompt"}
    assert offered("labelled_response:data=truthfulness.csv,refusal=[Sorry]") == {"prompt", "generated"}
    assert offered("knowledge_conflict") == {"prompt", "generated", "subject", "object", "context"}
