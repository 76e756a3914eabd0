"""Prompts that selectors look at have no say in the verdict: facts are held out, or the record says "exploratory"."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from harness_plugins.post_training.selectors import DifferenceOfMeans
from small_runs import Silent, record, samples
from strangers import Loud, PlainTask, make, misbehaving

from harness.conditions.units import Neuron
from harness.controls.random import random_controls
from harness.errors import HarnessError
from harness.plugin import Selector
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext
from harness.plugin.records import Prepared, Prompt
from harness.running import execute as run
from harness.running import held_out
from harness.running.spec import RunSpec
from harness.statistics import permutation_test
from harness.testing import prompts_of


def prompts(n_facts: int, each: int = 2, first: int = 0) -> tuple[Prompt, ...]:
    """``each`` prompts a fact."""
    facts = range(first, first + n_facts)
    return tuple(Prompt(f"{i}/{j}", "", (i, j), f"fact {i}") for i in facts for j in range(each))


def plan(hold_out: float | None = None, reads: bool = True, seed: int = 0, sees: Any = None) -> Any:
    """As much of a plan as is looked at."""
    selector = misbehaving(
        Loud, reads_prompts=lambda self: reads, has_seen=lambda self, prompt: sees is not None and sees(prompt)
    )
    return SimpleNamespace(spec=SimpleNamespace(hold_out=hold_out, seed=seed), task=PlainTask(), selector=selector())


def split(found: tuple[Prompt, ...], *arguments: Any, **more: Any) -> Prepared:
    return held_out.split(plan(*arguments, **more), Prepared(found))


def facts(found: tuple[Prompt, ...]) -> set[str]:
    return {prompt.cluster for prompt in found}


def test_whole_facts_are_on_one_side() -> None:
    every = prompts(40, 3)
    made = split(every)
    assert len(facts(made.held_out)) == 12 and not facts(made.held_out) & facts(made.prompts)
    assert sorted((*made.prompts, *made.held_out), key=every.index) == list(every)
    assert list(made.prompts) == [x for x in every if x.cluster in facts(made.prompts)]  # in their order
    [step] = made.steps
    assert (step.name, step.kept, step.dropped) == ("hold out", 84, 36)
    assert step.why == "the others, of 12 of 40 independent items, are held out: only the selector sees them"
    assert split(every) == made != split(every, seed=1)
    assert len(facts(split(every, 0.5).held_out)) == 20


def test_the_same_facts_are_held_out_of_other_ones() -> None:
    """Runs of models that know other facts can be paired: what is held out hangs on a fact's name."""
    first, second = split(prompts(100)), split(prompts(100, first=20))
    both = facts(prompts(80, first=20))
    differ = (facts(first.held_out) ^ facts(second.held_out)) & both
    assert len(differ) < 12 and len(facts(first.held_out) & both) > 15


def test_facts_that_are_asked_for_in_the_same_words_are_on_one_side() -> None:
    every = tuple(Prompt(str(i), "", (i // 4,), f"fact {i}") for i in range(40))
    made = split(every, 0.5)
    assert {x.tokens for x in made.prompts} & {x.tokens for x in made.held_out} == set()
    assert Counter(x.tokens for x in made.held_out) == {x.tokens: 4 for x in made.held_out}


def test_who_looks_at_no_prompts_needs_none() -> None:
    every = prompts(40)
    assert split(every, reads=False) == split(every, 0) == split(every, 0, reads=False) == Prepared(every)
    assert len(split(every, 0.25, reads=False).held_out) == 20  # the same prompts as a run whose selector does


def test_a_task_has_its_own_split() -> None:
    own = Prepared(prompts(10), held_out=prompts(4, first=10))
    assert held_out.split(plan(), own) is held_out.split(plan(0), own) is own
    with pytest.raises(HarnessError, match="--hold_out: the task plain holds out prompts for selectors itself"):
        held_out.split(plan(0.5), own)


@pytest.mark.parametrize(("n", "share"), [(3, None), (1, None), (10, 0.9), (10, 0.1), (3, 0.3)])
def test_too_few_facts_are_refused(n: int, share: float | None) -> None:
    says = rf"of {n} independent items? for selector loud leaves fewer than 2 on one side"
    with pytest.raises(HarnessError, match=says) as error:
        split(prompts(n), share)
    assert str(error.value).count(". ") == 0 and "--hold_out 0" in str(error.value)


def test_few_facts_are_enough() -> None:
    assert len(facts(split(prompts(4)).held_out)) == 2 and len(facts(split(prompts(5)).held_out)) == 2


def test_verdicts_on_what_the_selector_saw_are_exploratory() -> None:
    every = Prepared(prompts(8))
    assert held_out.exploratory(plan(reads=False), every) is None
    assert held_out.exploratory(plan(), held_out.split(plan(), every)) is None
    said = held_out.exploratory(plan(0), held_out.split(plan(0), every))
    assert said is not None and said.startswith("The selector loud looked at the prompts that are evaluated")
    some = held_out.exploratory(plan(reads=False, sees=lambda prompt: prompt.cluster == "fact 3"), every)
    assert some is not None and some.startswith("The selector loud has seen 2 of the 16 prompts that are evaluated")


def test_labelled_texts_of_the_training_split_are_not_evaluated(tmp_path: Path) -> None:
    rows = [
        {"text": f"{split} {i}", "label": bool(i % 2), "group": f"{split} {i}", "split": split}
        for split in ("train", "test")
        for i in range(4)
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    selector = DifferenceOfMeans.model_validate({"data": str(path)})
    seen = [selector.has_seen(Prompt(row["text"], f"Is it so? {row['text']}", (1,), row["group"])) for row in rows]
    assert seen == [row["split"] == "train" for row in rows]
    keeps = catalogue().components["selector"]["activation_shift"].model_validate({"keep": selector, "corpus": "world"})
    assert keeps.has_seen(Prompt("train 1", "", (1,), "")) and not keeps.has_seen(Prompt("test 1", "", (1,), ""))


@pytest.mark.parametrize(
    ("selector", "reads"),
    [
        ("entropy", False),
        ("random", False),
        ("neurons:neurons=[1.1]", False),
        ("heads:heads=[L0H0]", False),
        ("token_frequency:corpus=world", False),
        ("activation_shift:corpus=world", False),
        ("activation_shift:corpus=world,keep=value_neurons", True),
        ("induction_heads", False),
        ("value_neurons", True),
        ("value_heads", True),
        ("query_neurons", True),
        ("value_neurons:corpus=world", False),
        ("norm_matched_random", False),
        ("norm_matched_random:like=value_neurons", True),
        ("activation_matched_random", True),
    ],
)
def test_selectors_say_what_they_look_at(selector: str, reads: bool) -> None:
    from harness.plugin.specs import parse_spec

    made: Any = catalogue().build(Selector, parse_spec(selector, "--selector"), "--selector")
    assert made.reads_prompts() is reads


# -- what it is for ----------------------------------------------------------------------------------------------------


def found_in_noise(rng: np.random.Generator, share: float, runs: int = 200) -> float:
    """How often the 6 of 400 neurons with the largest effect on what a selector sees are found to do more, where
    every effect on every fact is noise."""
    every, n, top, m = prompts(30, 1), 400, 6, 99
    hits = 0
    for seed in range(runs):
        effects = rng.normal(size=(n, len(every)))
        made = split(every, share, seed=seed)
        tested = [every.index(prompt) for prompt in made.prompts]
        seen = [every.index(prompt) for prompt in made.held_out or made.prompts]
        treated = np.argsort(-effects[:, seen].mean(1))[:top].tolist()
        sets = random_controls([Neuron(0, i) for i in treated], m, {0: range(n)}, seed)
        value = effects[:, tested].mean(1)
        controls = np.array([value[[unit.index for unit in units]].mean() for units in sets])
        p = permutation_test(value[treated].mean(), controls).p_two_sided
        hits += p is not None and p <= 0.05
    return hits / runs


def test_what_is_selected_on_noise_is_found_only_where_it_is_tested_on_the_same() -> None:
    rng = np.random.default_rng(0)
    assert found_in_noise(rng, 0.0, runs=30) == 1
    rate, error = found_in_noise(rng, 0.3), np.sqrt(0.05 * 0.95 / 200)
    assert 0.04 - 2 * error <= rate <= 0.05 + 2 * error  # .04 is the level that 99 controls reach


# -- runs --------------------------------------------------------------------------------------------------------------


class Facts(PlainTask):
    """Ten facts, two prompts each."""

    def prepare(self, engine: Any, limit: int | None, seed: int) -> Prepared:
        made = prompts_of(engine.model, n=20)
        return Prepared(tuple(Prompt(str(i), "", x, f"fact {i // 2}") for i, x in enumerate(made)))


def test_a_run_selects_on_facts_that_it_does_not_evaluate(tmp_path: Path, blank_figures: None) -> None:
    looked: list[SelectionContext] = []

    def select(self: Loud, context: SelectionContext) -> Any:
        looked.append(context)
        return Loud.select(self, context)

    watched = misbehaving(Loud, select=select)
    folder = make(tmp_path, Facts, watched, hold_out=None)
    found = record(folder)
    assert found["exploratory"] is None and found["task"]["n_prompts"] == len(samples(folder)) == 14
    assert found["task"]["n_clusters"] == 7 and found["identity"]["hold_out"] is None
    step = found["task"]["steps"][-1]
    assert (step["name"], step["kept"], step["dropped"]) == ("hold out", 14, 6)
    evaluated = {tuple(row["input_ids"]) for row in samples(folder)}
    assert looked[0].held_out and len(looked[0].prompts) == 6 and not evaluated & set(map(tuple, looked[0].prompts))
    folder = make(tmp_path, Facts, watched, hold_out=0)
    found = record(folder)
    assert "looked at the prompts that are evaluated" in found["exploratory"] and found["task"]["n_prompts"] == 20
    assert not looked[1].held_out and len(looked[1].prompts) == 20 and found["identity"]["hold_out"] == 0


def specs(small_facts: Path) -> list[RunSpec]:
    """Runs of one group: with a selector that looks at prompts, with one that does not, and where that is asked for."""
    given: dict[str, Any] = {"task": f"knowledge_conflict:data={small_facts}", "intervention": "mean", "controls": 3}
    looks = "value_neurons:top=3,prompts=8,layer=-1"
    return [
        RunSpec(name="weights", selector="entropy", limit=20, **given),
        RunSpec(name="looks", selector=looks, limit=20, **given),
        RunSpec(name="both", selector=looks, limit=20, hold_out=0, **given),
        RunSpec(name="same", selector="entropy:top=3", limit=20, hold_out=0.3, **given),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_runs_of_one_group_hold_out_what_each_of_them_does(small_facts: Path, tmp_path: Path) -> None:
    plans = [run.plan(spec, catalogue()) for spec in specs(small_facts)]
    assert run.grouped_by_prompts(plans) == [plans]
    shared = run.execute_together(plans, tmp_path / "together", Silent(), "test")
    ids = [[row["prompt_id"] for row in samples(one.path)] for one in shared]
    assert ids[0] == ids[2] and ids[1] == ids[3] and set(ids[1]) < set(ids[0])
    assert [one.record.exploratory is None for one in shared] == [True, True, False, True]
    for one, found in zip(plans, shared, strict=True):
        alone = run.execute(one, tmp_path / "alone", Silent(), "test")
        assert alone.record.to_dict() == found.record.to_dict()


@pytest.mark.usefixtures("blank_figures")
def test_an_interrupted_run_holds_out_the_same(small_facts: Path, tmp_path: Path) -> None:
    one = run.plan(specs(small_facts)[1], catalogue())
    task, observe, calls = type(one.task), type(one.task).observe, []

    def fails(self: object, *arguments: object) -> object:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return observe(self, *arguments)  # type: ignore[arg-type]

    with patch("harness.running.execute.PART", 8):
        whole = run.execute(one, tmp_path / "whole", Silent(), "test")
        with patch.object(task, "observe", fails), pytest.raises(KeyboardInterrupt):
            run.execute(one, tmp_path / "broken", Silent(), "test")
        again = run.execute(one, tmp_path / "broken", Silent(), "test")
    assert whole.record.to_dict() == again.record.to_dict()


def test_what_a_node_is_sent_says_what_is_held_out() -> None:
    spec = RunSpec(name="a", task="plain", selector="loud", hold_out=0.4, margins={"entropy": 0.1})
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
