"""lm-eval's tasks under conditions: each number is the one that stock lm-eval gives for that model, hooked or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from commands import files
from engines import some_conditions
from families import BOS, tiny, tiny_hf, tokenizer
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.model.loading import load_hf
from harness.model.model import Model, wrap
from harness.plugin.catalogue import catalogue
from harness.plugin.components import parse_spec
from harness.plugin.records import Outcomes, Prompt
from harness.statistics import Aggregated
from harness.statistics.bootstrap import draw

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]
TASKS = ROOT / "tests" / "support" / "lm_eval_tasks"
EVERY = ("facts_by_task", "facts_word", "facts_rolling", "facts_written")


@pytest.fixture(scope="module")
def demo() -> Model:
    import harness_plugins.demo

    return load_hf(str(Path(harness_plugins.demo.__file__).parent / "weights"))


def lm_eval_task(*names: str, **params: Any) -> Any:
    return catalogue().build(
        "task",
        parse_spec({"name": "lm_eval", "tasks": list(names), "include_path": str(TASKS), **params}, "--task"),
        "--task",
    )


def values(
    task: Any, model: Model, conditions: Sequence[Condition], engine: type = ClosedFormEngine
) -> list[dict[str, float]]:
    """Every metric by name, for each condition."""
    made = engine(model, 16)
    prepared = task.prepare(made, None, 0)
    outcomes = task.observe(made, prepared.prompts, conditions)
    found = catalogue().build("metric", parse_spec("lm_eval", "--metric"), "--metric").measure(outcomes)
    return [{x.name: float(x.values[c]) for x in found.measures} for c in range(len(conditions))]


def lasting(folder: Path) -> dict[str, bytes]:
    """The files of a run that say nothing about when and where it was made."""
    return {name: found for name, found in files(folder).items() if name not in ("provenance.json", "report.html")}


def stock(model: Model, names: Sequence[str], condition: Condition = BASELINE, **options: Any) -> dict[str, float]:
    """What lm-eval itself gives, with hooks on the model."""
    import copy

    import lm_eval
    from harness_plugins.lm_eval_tasks.task_manager import quiet
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with quiet(), under(model, condition):
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model.hf, tokenizer=copy.deepcopy(model.tokenizer), batch_size=5),
            tasks=list(names),
            task_manager=TaskManager(include_path=str(TASKS), include_defaults=False),
            bootstrap_iters=0,
            **options,
        )
    return {
        f"{name}.{key}".removesuffix(",none"): value
        for name, row in found["results"].items()
        for key, value in row.items()
        if "," in key and "_stderr" not in key
    }


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert len(theirs) >= 3
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


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
    assert primary == ["facts_by_task.acc change", "facts_written.exact_match change"]
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


@pytest.mark.slow
def test_through_the_installed_command(demo: Model, tmp_path: Path) -> None:
    weights = demo.hf.config._name_or_path
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={weights},dtype=float32",
         "--tasks", "facts_choice,facts_rolling", "--include_path", str(TASKS), "--num_fewshot", "1", "--device", "cpu",
         "--batch_size", "7", "--output_path", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [path] = tmp_path.rglob("results_*.json")
    found = json.loads(path.read_text())["results"]
    [ours, _] = values(lm_eval_task("facts_choice", "facts_rolling", num_fewshot=1), demo, [BASELINE, BASELINE])
    for name in ("choice.acc", "choice.acc_norm", "choice.brier_score", "rolling.bits_per_byte"):
        task, metric = f"facts_{name}".split(".")
        assert ours[f"facts_{name}"] == pytest.approx(found[task][f"{metric},none"], rel=2e-5)


# -- which tokens are read and scored ----------------------------------------------------------------------------------


def joining() -> Any:
    """The byte-level tokeniser of the tests that also knows the word "world": "wor" and "ld" join to it."""
    import json as text

    import transformers
    from tokenizers import Tokenizer

    state = text.loads(tokenizer().backend_tokenizer.to_str())
    merges = [["w", "o"], ["l", "d"], ["wo", "r"], ["wor", "ld"]]
    state["model"]["vocab"] |= {"wo": 260, "ld": 261, "wor": 262, "world": 263}
    state["model"]["merges"] = merges
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text.dumps(state)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def written_task(folder: Path, docs: Sequence[dict[str, Any]], kind: str, *lines: str) -> Any:
    """An lm-eval task ``mine`` over these documents."""
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    text = [
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/docs.jsonl}}}}",
        f"output_type: {kind}\ntest_split: test",
        *lines,
    ]
    (folder / "mine.yaml").write_text("\n".join(text) + "\n")
    return lm_eval_task(str(folder / "mine.yaml"))


def kept(task: Any, model: Model, limit: int | None = None) -> list[list[int]]:
    """The token ids of the prompts."""
    return [list(prompt.tokens) for prompt in task.prepare(ClosedFormEngine(model, 16), limit, 0).prompts]


CHOICE = ('doc_to_text: "{{a}}"', 'doc_to_choice: "{{b}}"', "doc_to_target: 0", 'target_delimiter: ""')
PAIR = ('doc_to_text: "{{a}}"', 'doc_to_target: "{{b}}"', 'target_delimiter: ""', "metric_list: [{metric: acc}]")
ROLLING = ('doc_to_text: ""', 'doc_to_target: "{{b}}"', "metric_list: [{metric: word_perplexity}]")
WRITTEN = (*PAIR[:2], "generation_kwargs: {max_gen_toks: 2, until: [x]}")


@pytest.mark.parametrize(
    ("kind", "doc", "lines", "said"),
    [
        ("multiple_choice", {"a": "hello wor", "b": ["ld", "xy"]}, CHOICE,
         'continuation "ld" without a token of its own (the tokenizer joins it with the end of its context)'),
        ("multiple_choice", {"a": "hello", "b": ["xy", ""]}, CHOICE,
         'continuation "" without a token of its own (it is empty)'),
        ("loglikelihood", {"a": "", "b": ""}, PAIR, 'continuation "" without a token'),
        ("loglikelihood", {"a": "", "b": "<s>"}, PAIR, 'continuation "<s>" without a token'),
        ("loglikelihood", {"a": "a", "b": "x" * 500}, PAIR, "continuation of 500 tokens, longer than the"),
        ("loglikelihood_rolling", {"a": "", "b": ""}, ROLLING, "is an empty text"),
        ("generate_until", {"a": "", "b": "x"}, WRITTEN, "is empty, and no BOS token is put before it"),
    ],
)  # fmt: skip
def test_nothing_is_scored_that_has_no_tokens(
    tmp_path: Path, kind: str, doc: dict[str, Any], lines: Sequence[str], said: str
) -> None:
    """Stock lm-eval refuses (or sums over nothing); a continuation without tokens would have log p 0 and win."""
    model = wrap(tiny_hf("gpt2"), joining(), "tiny")
    good = {"a": "hello wor", "b": ["xy", "zz"] if kind == "multiple_choice" else "xy"}
    task = written_task(tmp_path, [good, good, doc], kind, *lines)
    assert len(kept(task, model, limit=2)) == 2
    with pytest.raises(HarnessError) as error:
        kept(task, model)
    assert str(error.value).startswith("task lm_eval: mine: document 2 ") and said in str(error.value)
    if kind in ("multiple_choice", "loglikelihood"):
        with pytest.raises((AssertionError, IndexError)):
            stock(model, [str(tmp_path / "mine.yaml")])


@pytest.mark.parametrize("kind", ["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_the_models_bos_is_put_first_as_by_a_tokeniser_that_does(tmp_path: Path, kind: str) -> None:
    """``add_bos`` is one setting: a tokeniser that puts no BOS equals one that does, and the other way round."""
    lines = {"multiple_choice": CHOICE, "loglikelihood": PAIR, "loglikelihood_rolling": ROLLING}.get(kind, WRITTEN)
    b: Any = ["xy", "zab"] if kind == "multiple_choice" else "xy"
    task = written_task(tmp_path, [{"a": "hello", "b": b}, {"a": "<s>hello", "b": b}], kind, *lines)
    for wanted in (True, False):
        own, told = (
            wrap(tiny_hf("gpt2"), tokenizer(bos=bos), "tiny", add_bos=asked)
            for bos, asked in ((wanted, None), (not wanted, wanted))
        )
        first = kept(task, told)
        assert first == kept(task, own)
        # A rolling request's first window begins with BOS, too, as lm-eval's do.
        assert [row[:2].count(BOS) for row in first] == (
            [1 + wanted] * 2 if kind == "loglikelihood_rolling" else [int(wanted), 1]
        )
        ours = values(task, told, [BASELINE, BASELINE])[0]
        for name, value in stock(own, [str(tmp_path / "mine.yaml")]).items():
            assert ours[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_a_generation_config_that_is_not_greedy_is_refused_or_switched_off(tmp_path: Path) -> None:
    """lm-eval's hf obeys the model's repetition_penalty; sampling settings change nothing of a greedy choice."""
    model = wrap(tiny_hf("gpt2"), tokenizer(), "tiny")
    docs = [{"a": text, "b": "x"} for text in ("abcabc", "hello hello", "1 2 3 1 2")]
    lines = (
        *WRITTEN[:2],
        "generation_kwargs: {max_gen_toks: 12, until: ['#']}",
        "metric_list: [{metric: exact_match}]",
    )
    task = written_task(tmp_path, docs, "generate_until", *lines)
    engine = ClosedFormEngine(model, 16)

    def answers(task: Any) -> Any:
        return task.observe(engine, task.prepare(engine, None, 0).prompts, [BASELINE, BASELINE]).answers[0]

    model.hf.generation_config.update(temperature=0.3, top_p=0.5, top_k=3)
    plain = answers(task)
    model.hf.generation_config.update(repetition_penalty=1.9)
    with pytest.raises(HarnessError, match=r"the generation_config of tiny asks for repetition_penalty=1\.9, which"):
        task.prepare(engine, None, 0)
    off = lm_eval_task(str(tmp_path / "mine.yaml"), gen_kwargs={"repetition_penalty": 1.0})
    assert answers(off) == plain
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    hf, until = HFLM(pretrained=model.hf, tokenizer=tokenizer(), batch_size=1), {"max_gen_toks": 12, "until": ["#"]}

    def stock_answers(**options: Any) -> tuple[str, ...]:
        requests = [Instance("generate_until", doc, (doc["a"], until | options), 0) for doc in docs]
        return tuple(hf.generate_until(requests, disable_tqdm=True))

    assert stock_answers(repetition_penalty=1.0) == plain != stock_answers()


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
    assert catalogue().build("task", spec, "--task").tasks == ["a", "b"]  # type: ignore[attr-defined]
    assert catalogue().build("task", parse_spec("lm_eval:a", "--task"), "--task").tasks == ["a"]  # type: ignore[attr-defined]
    with pytest.raises(HarnessError, match='"tasks" is given twice'):
        catalogue().build("task", parse_spec("lm_eval:a,tasks=[b]", "--task"), "--task")


def _part(words: list[str], codes: np.ndarray, start: int, other: bool) -> Outcomes:
    prompts = tuple(Prompt(str(start + i), "", (1,), str(start + i)) for i in range(codes.shape[1]))
    values = {"said": codes} | ({"more": np.ones(codes.shape)} if other else {})
    return Outcomes(("baseline", "treated"), prompts, values, categories={"said": tuple(words)}, found=("said",))


@given(st.data())
def test_joined_parts_have_the_categories_that_occur(data: st.DataObject) -> None:
    """Whatever order they were met in, and in whatever parts."""
    texts = st.lists(st.sampled_from(["", "a", "b", "c", None]), min_size=2, max_size=8)
    rows = [data.draw(texts) for _ in range(3)]
    parts, start = [], 0
    for i, row in enumerate(rows):
        words = data.draw(st.permutations(["", "a", "b", "c"]))
        codes = np.array([[-1 if word is None else words.index(word) for word in row]] * 2, np.int32)
        parts.append(_part(words, codes, start, other=i == 1))
        start += len(row)
    joined = Outcomes.join(parts)
    said = [None if code < 0 else joined.categories["said"][code] for code in joined["said"][0]]
    assert said == [word for row in rows for word in row]
    assert list(joined.categories["said"]) == sorted({word for word in said if word is not None})
    assert np.isnan(joined["more"][:, : len(rows[0])]).all() and (joined["more"] == 1).sum() == 2 * len(rows[1])


def test_an_aggregated_measure_is_resampled_by_calling_its_function() -> None:
    """Of a mean it must give what a ratio of sums gives, but for the fewer resamples."""
    from harness.statistics import Measure, summarise

    rng = np.random.default_rng(0)
    items = list(rng.normal(size=30))
    codes = rng.integers(0, 30, size=(40, 25))
    codes[:, 3] = -1
    clusters = np.arange(25) // 2
    mean: Callable[[list[float]], float] = lambda found: sum(found) / len(found)  # noqa: E731
    measure = Aggregated("m", "m", "", codes, items, mean)
    numbers = np.where(codes < 0, 0, np.array(items)[codes])
    ratio = Measure("m", "m", "", numbers, (codes >= 0).astype(float))
    np.testing.assert_allclose(measure.values, ratio.values)
    ours, theirs = (draw(x, clusters, 1, 200).treated for x in (measure, ratio))
    np.testing.assert_allclose(ours, theirs)
    assert summarise(measure, clusters, 1).difference_interval is not None
    empty = Aggregated("m", "m", "", np.full((2, 4), -1), items, mean)
    assert np.isnan(empty.values).all()
    change = Aggregated("m", "m", "", codes, items, mean, change=True)
    assert (change.values == measure.values - measure.values[0]).all()


def test_a_tokenizer_without_special_tokens_generates_and_is_named_where_one_is_needed() -> None:
    from types import SimpleNamespace

    from harness_plugins.lm_eval_tasks.conditions_lm import ConditionsLM

    from harness.testing import tiny_model

    model = tiny_model("llama")
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    lm = ConditionsLM(ClosedFormEngine(model), [BASELINE])
    about = {"task_name": "t", "doc_id": 0, "idx": 0}
    options = {"until": ["x"], "max_gen_toks": 3}
    [[text]] = lm.generate_until([SimpleNamespace(request_type="generate_until", args=("a b", options), **about)])
    assert text
    with pytest.raises(HarnessError, match="the tokenizer of llama has neither a BOS nor an EOS token"):
        lm.loglikelihood_rolling([SimpleNamespace(request_type="loglikelihood_rolling", args=("a b",), **about)])
