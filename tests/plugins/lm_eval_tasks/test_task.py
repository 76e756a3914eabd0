"""lm-eval's tasks under conditions: each number is the one that stock lm-eval gives for that model, hooked or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import files
from engines import some_conditions
from families import tiny
from roles import in_order
from slow_temperature import log_softmax, tempered
from stock_lm_eval import TASKS, lm_eval_task, same, stock, values

from harness.builtin.temperature import Temperature
from harness.conditions.conditions import BASELINE
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.loading import load_hf
from harness.model.model import Model
from harness.plugin import Task
from harness.plugin.catalogue import catalogue
from harness.plugin.records import Outcomes
from harness.plugin.specs import parse_spec

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]
EVERY = ("facts_by_task", "facts_word", "facts_rolling", "facts_written")


@pytest.fixture(scope="module")
def demo() -> Model:
    import harness_plugins.demo

    return load_hf(str(Path(harness_plugins.demo.__file__).parent / "weights"))


def lasting(folder: Path) -> dict[str, bytes]:
    """The files of a run that say nothing about when and where it was made."""
    return {name: found for name, found in files(folder).items() if name not in ("provenance.json", "report.html")}


@pytest.mark.parametrize("num_fewshot", [None, 2])
def test_every_number_is_that_of_lm_eval_hooked_or_not(demo: Model, num_fewshot: int | None) -> None:
    conditions = [BASELINE, *some_conditions(demo, 3, n=1, size=12.0)[1:]]
    ours = values(lm_eval_task(*EVERY, num_fewshot=num_fewshot), demo, conditions)
    theirs = [stock(demo, EVERY, condition, num_fewshot=num_fewshot) for condition in conditions]
    assert len(theirs[0]) == 16
    for found, wanted in zip(ours, theirs, strict=True):
        same(found, wanted)
    assert abs(ours[1]["facts_word.perplexity"] - ours[0]["facts_word.perplexity"]) > 0.01  # the edit does something
    change = ours[1]["facts_word.perplexity change"]
    assert change == pytest.approx(theirs[1]["facts_word.perplexity"] - theirs[0]["facts_word.perplexity"], rel=1e-4)


@pytest.mark.parametrize("family", ["llama_gqa_tied", "gemma2"])
def test_other_families_and_earlier_layers(family: str) -> None:
    """Untrained models that read bytes: answers are right now and then, and edits of layer 0 move them."""
    model = tiny(family)
    conditions = [BASELINE, *some_conditions(model, 5, n=2, layer=0)[1:]]
    names = ("facts_choice", "facts_by_size", "facts_word", "facts_written")
    ours = values(lm_eval_task(*names), model, conditions)
    hooks = values(lm_eval_task(*names), model, conditions, HookEngine)
    for c, condition in enumerate(conditions):
        same(ours[c], stock(model, names, condition))
        assert ours[c] == pytest.approx(hooks[c], rel=1e-4, abs=1e-5)
    assert 0 < ours[0]["facts_choice.acc"] < 1


def test_long_texts_are_cut_as_lm_eval_cuts_them(demo: Model, tmp_path: Path) -> None:
    """Rolling windows, and contexts that are cut from the left: texts of several times the model's positions."""
    text = " ".join(f"The capital of place {i} is town {i}." for i in range(80))
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"text": text[i:]}) + "\n" for i in range(3)))
    rest = {
        "loglikelihood_rolling": 'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list: [{metric: word_perplexity}]',
        "loglikelihood": 'doc_to_text: "{{text[:-9]}}"\ndoc_to_target: "{{text[-9:]}}"\n'
        "metric_list: [{metric: perplexity, aggregation: perplexity}]",
    }
    for kind, lines in rest.items():
        (tmp_path / f"long_{kind}.yaml").write_text(
            f"task: long_{kind}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/long.jsonl}}}}\n"
            f"output_type: {kind}\ntest_split: test\n{lines}\n"
        )
    names = [str(tmp_path / f"long_{kind}.yaml") for kind in rest]
    assert len(demo.tokenizer(text)["input_ids"]) > 2 * (demo.n_positions or 0)
    [ours] = values(lm_eval_task(*names), demo, [BASELINE, BASELINE])[:1]
    for name, value in stock(demo, names).items():
        assert ours[name] == pytest.approx(value, rel=2e-5)


def test_a_run_has_its_tables_its_groups_and_one_primary_measure_a_task(harness: Harness, tmp_path: Path) -> None:
    command = (
        "eval", "--task", "lm_eval:facts_by_task,facts_written", "--include_path", TASKS, "--selector", "entropy",
        "--intervention", "zero", "--controls", 4, "--limit", 6, "--output_path", tmp_path, "--json",
    )  # fmt: skip
    code, out, err = harness(*command)
    assert code == 0, err
    record = json.loads(out)
    assert record["task"]["title"] == "facts_by_task, facts_written"
    assert record["task"]["n_prompts"] == 18  # six documents of each of three tasks
    assert record["task"]["tokens"]["first"][0] == "The" and record["task"]["tokens"]["prefix"] == []
    primary = [x["name"] for x in record["measures"] if x["primary"]]
    assert primary == [
        "facts_by_task.acc change", "facts_written.exact_match change", "margin_facts_by_task_beyond"
    ]  # fmt: skip
    assert {x["name"] for x in record["tables"]} == {"facts_written.exact_match"}
    by_name = {x["name"]: x for x in record["measures"]}
    assert (
        by_name["facts_written.chrf"]["value"] == 100 and by_name["facts_written.chrf"]["ci_low"] is None
    )  # in every one
    assert by_name["facts_by_task.acc"]["null"] == by_name["facts_by_task.acc"]["baseline"]
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert folder.name.startswith("demo-facts_by_task_facts_written-entropy-zero-")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {"facts_capital", "facts_animal", "facts_written"}
    written = next(row for row in rows if row["task"] == "facts_written")
    assert written["facts_capital.acc,none"] is None and written["answer"].strip()
    before = lasting(folder)
    assert harness(*command, "--fresh")[0] == 0
    assert lasting(folder) == before


def test_parts_and_companions_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in parts, alone or together with another run: the same bytes, codes of generated texts included."""
    from small_runs import Silent

    from harness.running import execute as run
    from harness.running.spec import RunSpec

    task, neurons = f"lm_eval:facts_written,facts_word,include_path={TASKS}", "neurons:neurons=[3.40,3.41,3.42]"
    specs = [
        RunSpec(name=name, task=task, selector=neurons, intervention=change, controls=3, limit=9)  # type: ignore[arg-type]
        for name, change in (("one", "scale:factor=60"), ("other", "scale:factor=-60"))
    ]
    plans = [run.plan(spec, catalogue()) for spec in specs]
    monkeypatch.setattr(run, "PART", 5)
    alone = run.execute(plans[0], tmp_path / "alone", Silent(), "harness").path  # type: ignore[arg-type]
    both = run.execute_together(plans, tmp_path / "both", Silent(), "harness")  # type: ignore[arg-type]
    assert lasting(both[0].path) == lasting(alone)


# -- what cannot be done is said ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("lm_eval:facts_wird", 'no task, group or tag "facts_wird". Did you mean "facts_word"?'),
        ("lm_eval:facts_word,include_path=nowhere", "include_path: nowhere is no folder"),
        ("lm_eval:facts_word,num_fewshot=-1", "num_fewshot"),
        ("lm_eval", 'needs the parameter "tasks"'),
        ("lm_eval:facts_written,gen_kwargs={do_sample: true}", "a task generates with do_sample=true"),
        ("lm_eval:facts_written,gen_kwargs={repetition_penalty: 2}", "generates with repetition_penalty"),
        ("lm_eval:facts_written,gen_kwargs={max_gen_toks: 5000}", "5000 new tokens do not fit"),
        ("lm_eval:induction_synthetic,include_path=tasks", "write --task induction_synthetic"),
        ("knowledge_conflict:facts_word", '"facts_word" is not key=value'),
    ],
)
def test_errors_are_sentences(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, said: str
) -> None:
    from harness_plugins.lm_eval_tasks import task_manager

    monkeypatch.setattr(task_manager, "BUILT_IN", False)  # reading lm-eval's own definitions takes seconds
    given = () if "include_path" in task or not task.startswith("lm_eval:") else ("--include_path", TASKS)
    code, _, err = harness(
        "eval", "--task", task, *given, "--selector", "entropy", "--intervention", "mean", "--output_path", tmp_path,
        "--quiet",
    )  # fmt: skip
    assert code == 2 and said in err, err
    assert err.count("\n") == 1 and not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_task_that_runs_code_is_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    task = lm_eval_task("facts_word")
    monkeypatch.setattr(task.loaded().tasks["facts_word"], "UNSAFE_CODE", True, raising=False)
    with pytest.raises(HarnessError, match="unsafe_code=true allows it"):
        task.loaded()
    lm_eval_task("facts_word", unsafe_code=True).loaded()


# -- what the core learned for it --------------------------------------------------------------------------------------


def test_values_without_a_name_belong_to_the_positional_parameter() -> None:
    spec = parse_spec("lm_eval:a,b,num_fewshot=3", "--task")
    assert str(spec) == "lm_eval:a,b,num_fewshot=3"
    assert catalogue().build(Task, spec, "--task").tasks == ["a", "b"]  # type: ignore[attr-defined]
    assert catalogue().build(Task, parse_spec("lm_eval:a", "--task"), "--task").tasks == ["a"]  # type: ignore[attr-defined]
    with pytest.raises(HarnessError, match='"tasks" is given twice'):
        catalogue().build(Task, parse_spec("lm_eval:a,tasks=[b]", "--task"), "--task")


def slow_margins(model: Model, outcomes: Outcomes, task: Any, i: int, c: int) -> tuple[np.ndarray, int]:
    """Log-likelihoods of the choices of document i under condition c, plain and of the untouched model at equal
    entropies: [2, choices], from hooked passes over one text at a time; and the right choice."""
    doc = task.eval_docs[outcomes.prompts[i].fields["doc_id"]]
    before = model.encode([doc["query"]])[0]
    found = []
    for choice in doc["choices"]:
        tokens = model.encode([f"{doc['query']} {choice}"])[0]
        places, target = range(len(before) - 1, len(tokens) - 1), tokens[len(before) :]
        rows = []
        for condition in (outcomes.conditions[0], outcomes.conditions[c]):
            with torch.no_grad(), under(model, condition):
                logits = model.forward(model.pad([tokens]), logits_to_keep=len(tokens)).logits
                rows.append(logits[0, list(places)].double().numpy())
        untouched, own = map(log_softmax, rows)
        at = np.arange(len(target)), np.array(target)
        found.append([own[at].sum(), tempered(untouched, own)[at].sum()])
    return np.array(found).T, doc["label"]


def test_margins_beyond_temperature_are_those_of_the_definition(demo: Model) -> None:
    """On choices of several tokens and of one; what is generated has none."""
    task = lm_eval_task("facts_choice", "facts_written")
    conditions = in_order([BASELINE, *some_conditions(demo, 3, n=2, size=6.0)[1:]])
    engine = ClosedFormEngine(demo, 16)
    outcomes = task.observe(engine, task.prepare(engine, 8, 0).prompts, conditions)
    [own] = [x for name, x in task.loaded().tasks.items() if name == "facts_choice"]
    several = 0
    for i in range(0, 8, 3):
        for c in range(len(conditions)):
            log_p, right = slow_margins(demo, outcomes, own, i, c)
            others = np.delete(log_p, right, axis=1).max(axis=1)
            found = [outcomes[name][c, i] for name in ("margin", "tempered_margin")]
            np.testing.assert_allclose(found, log_p[:, right] - others, atol=5e-3)
            picked = [outcomes[name][c, i] for name in ("right", "tempered_right")]
            several += not np.isnan(picked[0])
            if not np.isnan(picked[0]):
                assert picked == (log_p.argmax(axis=1) == right).tolist()
    measured = Temperature().measure(outcomes)
    values = {x.name: x.values for x in measured.measures}
    assert several and {x.name for x in measured.measures if x.primary} == {"margin_facts_choice_beyond"}
    assert (
        abs(values["margin_facts_choice_beyond"][0]) < 1e-12
        and abs(values["margin_facts_choice_beyond"][1:]).max() > 0.01
    )
    assert any("one token each after the same text" in remark for remark in measured.remarks)
    assert np.isnan(outcomes["log_temperature"][:, 8:]).all()


def test_of_generated_answers_temperature_says_one_sentence(demo: Model) -> None:
    task, engine = lm_eval_task("facts_written"), ClosedFormEngine(demo, 16)
    outcomes = task.observe(engine, task.prepare(engine, 2, 0).prompts, in_order([BASELINE, BASELINE]))
    found = Temperature().measure(outcomes)
    assert found.measures == () and len(found.remarks) == 1 and "greedy answers" in found.remarks[0]
