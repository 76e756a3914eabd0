"""``--tasks a,b`` and ``--limit 0.1`` mean what they mean in lm-eval."""

from __future__ import annotations

from typing import Any

import pytest
from checkout import ROOT

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.running.plan import plan
from harness.running.request import Request
from harness.running.spec import RunSpec

INCLUDED = str(ROOT / "tests" / "support" / "lm_eval_tasks")


def asked(task: str, **words: Any) -> list[RunSpec]:
    request = Request(task=task, selector="entropy", intervention="mean", **words)
    return request.specifications(catalogue())


@pytest.mark.parametrize(
    ("given", "read"),
    [("5", 5), (5, 5), (200.0, 200), ("0.1", 0.1), (".5", 0.5), (None, None), ("1", 1), (1.0, 1)],
)
def test_a_limit_is_a_number_or_a_share(given: Any, read: Any) -> None:
    [spec] = asked("knowledge_conflict", limit=given)
    assert spec.limit == read and type(spec.limit) is type(read)


@pytest.mark.parametrize("given", ["0", "-1", "2.5", "x", "0.5x", 0, 2**63, float("nan"), ""])
def test_what_is_no_limit_is_refused(given: Any) -> None:
    said = '"limit" of harness eval: expected a number of items, at least 1, or a share of them below 1, got '
    with pytest.raises(HarnessError, match=f"{said}'{given}'"):
        asked("knowledge_conflict", limit=given)


def test_a_share_is_of_the_items_and_rounded_up() -> None:
    """The run is that of the number: the same identity, the same folder."""
    [spec] = asked("knowledge_conflict", limit="0.001")
    assert plan(spec, catalogue()).limit == 3, "of 2,180"
    [shared] = asked("lm_eval:facts_choice", include_path=INCLUDED, limit=0.34)
    n = plan(shared, catalogue()).task.n_items()
    assert n is not None and plan(shared, catalogue()).limit == -(-n * 34 // 100)
    [drawn] = asked("text_loss", limit=0.5)
    with pytest.raises(HarnessError, match=r"--limit 0\.5: the task text_loss does not say how many items"):
        plan(drawn, catalogue())


def test_several_tasks_are_a_run_each_and_those_of_lm_eval_one() -> None:
    both = asked("knowledge_conflict,text_loss")
    assert [str(spec.task) for spec in both] == ["knowledge_conflict", "text_loss"]
    mixed = asked("facts_choice,knowledge_conflict,facts_word", include_path=INCLUDED)
    assert [spec.task.name for spec in mixed] == ["knowledge_conflict", "lm_eval"]
    with pytest.raises(HarnessError, match="is 2 runs; here one task is named"):
        Request(task="knowledge_conflict,text_loss", selector="entropy").specification(catalogue())


def test_names_of_lm_eval_are_found_where_no_task_here_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_plugins.lm_eval_tasks import task_manager

    monkeypatch.setattr(task_manager, "known", {"lambada_openai", "piqa"}.__contains__)
    [spec] = asked("lambada_openai,piqa")
    assert str(spec.task) == "lm_eval:lambada_openai,piqa"
    with pytest.raises(HarnessError, match=r'there is no task "piqo"'):
        asked("lambada_openai,piqo")
