"""Our tasks in stock lm-eval: the same prompts and numbers as in the harness, elicited or prepared."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness.conditions.conditions import BASELINE, Condition
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.files.store import read_jsonl
from harness.lmeval.prepared import ours, write
from harness.plugin import ModelLoader, Task
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.statistics import derive_seed
from harness.testing import demo_model

TASKS = Path(str(files("harness_tasks")))
WEIGHTS = Path(str(files("harness_plugins.demo") / "weights"))
LIMIT = 80
UNTOUCHED = (BASELINE, Condition("treated"))
"""The conditions of a run that edits nothing."""


@pytest.fixture(scope="module")
def stock() -> HFLM:
    return HFLM(pretrained=str(WEIGHTS), device="cpu", batch_size=32)


@pytest.fixture(scope="module")
def engine() -> ClosedFormEngine:
    return ClosedFormEngine(demo_model())


def run(lm: Any, *tasks: str, include: Path = TASKS, metadata: dict[str, Any] | None = None, **options: Any) -> Any:
    manager = TaskManager(include_path=str(include), include_defaults=False, metadata=metadata or {})
    return simple_evaluate(lm, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options)


def component(text: str) -> Any:
    return catalogue().build(Task, parse_spec(text, "test"), "test", "world")


def column(found: Any, task: str, metric: str) -> np.ndarray:
    """A metric of every document, in the order of the documents."""
    return np.array([sample[metric] for sample in found["samples"][task]])


def test_an_lm_eval_that_looks_for_packages_of_tasks_finds_ours() -> None:
    """A stand-in for what lm-eval's pull request 4015 does, which is open: it looks through the folder of the package
    that an entry point names, which is not imported, as through that of ``--include_path``."""
    points = entry_points(group="lm_eval.tasks")
    specs = [find_spec(point.value.partition(":")[0]) for point in points if point.name == "harness"]
    folders = [Path(folder) for spec in specs if spec for folder in (spec.submodule_search_locations or ())[:1]]
    assert [folder.resolve() for folder in folders] == [TASKS.resolve()]
    manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)
    assert manager.all_tasks == ours() == ["induction_synthetic", "knowledge_conflict"]


@pytest.fixture(scope="module")
def found(stock: HFLM) -> Any:
    return run(stock, "knowledge_conflict", "induction_synthetic", limit=LIMIT)


# -- knowledge_conflict ------------------------------------------------------------------------------------------------


def test_conflicts_are_those_of_the_harness(found: Any, engine: ClosedFormEngine) -> None:
    """Same facts, same counter objects, same sources of the answers, same entropy: elicited within lm-eval."""
    task = component("knowledge_conflict")
    prompts = task.prepare(engine, LIMIT, derive_seed(0, "task")).prompts
    samples = found["samples"]["knowledge_conflict"]
    assert [sample["arguments"][0][0] for sample in samples] == [prompt.text for prompt in prompts]
    outcomes = task.observe(engine, prompts, UNTOUCHED)
    assert len({*outcomes["source"][0]}) == 3, "all three sources occur"
    for code, name in enumerate(outcomes.categories["source"]):
        np.testing.assert_array_equal(column(found, "knowledge_conflict", name), outcomes["source"][0] == code)
        share = found["results"]["knowledge_conflict"][f"{name},none"]
        assert share == pytest.approx((outcomes["source"][0] == code).mean())
    np.testing.assert_allclose(column(found, "knowledge_conflict", "entropy"), outcomes["entropy"][0], atol=1e-5)
    better = found["higher_is_better"]["knowledge_conflict"]
    assert better == {"CK": None, "PK": None, "ND": False, "entropy": None}


def test_a_limit_counts_facts_and_a_share_is_one_of_them(stock: HFLM, found: Any, engine: ClosedFormEngine) -> None:
    n = len(component("knowledge_conflict").facts())
    share = run(stock, "knowledge_conflict", limit=LIMIT / n)
    assert share["results"]["knowledge_conflict"] == found["results"]["knowledge_conflict"]
    assert found["n-samples"]["knowledge_conflict"]["effective"] % 3 == 0


def test_parameters_come_with_the_metadata(stock: HFLM) -> None:
    told = run(stock, "knowledge_conflict", limit=LIMIT, metadata={"knowledge_conflict": "context=agreeing"})
    results = told["results"]["knowledge_conflict"]
    assert results["CK,none"] == 0 and results["PK,none"] > 0.5
    with pytest.raises(HarnessError, match=r'--metadata knowledge_conflict: .*"contxt".*Did you mean "context"'):
        run(stock, "knowledge_conflict", metadata={"knowledge_conflict": {"contxt": "agreeing"}})


words = st.text("abC '", min_size=1, max_size=4).filter(str.strip)


@given(answer=st.text("abC '", max_size=8), context=words, memory=words)
def test_answers_are_scored_by_the_rule_of_the_harness(answer: str, context: str, memory: str) -> None:
    from harness_plugins.context_copying.task.answer_sources import SOURCES, knowledge_source

    scoring = load("knowledge_conflict")
    context, memory = " ".join(context.split()), " ".join(memory.split())
    scores = scoring.process_results({"counter_object": context, "parametric_object": memory}, [answer])
    assert {name for name, share in scores.items() if share} == {SOURCES[knowledge_source(answer, context, memory)]}


def load(task: str, folder: Path = TASKS) -> Any:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location(f"scoring_of_{task}", folder / task / "scoring.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_answers_end_where_those_of_the_harness_end() -> None:
    folder = TASKS / "knowledge_conflict"
    definition = yaml.safe_load((folder / "definition.yml").read_text())["generation_kwargs"]
    text = (folder / "scoring.yaml").read_text().replace("!function ", "")
    assert yaml.safe_load(text)["generation_kwargs"] == definition


def test_a_model_without_texts_of_its_own_is_asked_for_a_corpus(stock: HFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_plugins.demo.Demo.is_at", classmethod(lambda cls, path: False))
    with pytest.raises(HarnessError, match=r"--metadata induction_synthetic: .* name the texts to read"):
        run(stock, "induction_synthetic", limit=2)
    metadata = {"induction_synthetic": {"corpus": "world:size=500"}}
    assert run(stock, "induction_synthetic", metadata=metadata, limit=2)["samples"]["induction_synthetic"]


# -- induction_synthetic -----------------------------------------------------------------------------------------------


def test_induction_is_that_of_the_harness(found: Any, engine: ClosedFormEngine) -> None:
    """Loss per token from lm-eval's log-likelihoods, accuracy, on those of our prompts that text can carry."""
    task = component(f"induction_synthetic:sequences={4 * LIMIT}")
    prompts = {x.id: x for x in task.prepare(engine, None, derive_seed(0, "task")).prompts}
    samples = found["samples"]["induction_synthetic"]
    kept = [prompts[sample["doc"]["id"]] for sample in samples]
    assert len(kept) == LIMIT
    assert [x.id for x in kept] == sorted(x.id for x in kept)
    sums = task.observe(engine, kept, UNTOUCHED).values
    np.testing.assert_array_equal([sample["doc"]["tokens"] for sample in samples], sums["tokens"][0])
    for metric, name in (("loss", "loss"), ("accuracy", "right")):
        ours = sums[name][0] / sums["tokens"][0]
        np.testing.assert_allclose(column(found, "induction_synthetic", metric), ours, atol=1e-5)
        assert found["results"]["induction_synthetic"][f"{metric},none"] == pytest.approx(ours.mean(), abs=1e-5)
    assert found["higher_is_better"]["induction_synthetic"] == {"loss": False, "accuracy": True, "all_right": True}


def test_texts_of_a_repeat_are_two_copies(found: Any) -> None:
    for sample in found["samples"]["induction_synthetic"]:
        context, continuation = sample["arguments"][0]
        whole = context + continuation
        assert whole[: len(whole) // 2] == whole[len(whole) // 2 :]


# -- the model behind lm-eval's evaluator ------------------------------------------------------------------------------


@pytest.fixture
def task() -> Iterator[Any]:
    loaded = TaskManager(include_path=str(TASKS), include_defaults=False).load(["knowledge_conflict"])
    yield loaded["tasks"]["knowledge_conflict"]


def test_an_evaluator_that_hides_its_model_is_named(task: Any) -> None:
    lm = object()  # as in another version of lm-eval: a model somewhere, not in its evaluator
    with pytest.raises(HarnessError, match=rf"lm-eval {version('lm-eval')} does not .*harness lm-eval prepare"):
        task.build_all_requests(limit=lm and 2)


class Elsewhere(LM):
    """A model behind an API."""

    def loglikelihood(self, requests: Any) -> Any: ...

    def loglikelihood_rolling(self, requests: Any) -> Any: ...

    def generate_until(self, requests: Any) -> Any: ...


def test_a_model_that_runs_elsewhere_is_sent_to_prepared_prompts() -> None:
    with pytest.raises(HarnessError, match="Elsewhere has none; write the prompts with `harness lm-eval prepare`"):
        run(Elsewhere(), "knowledge_conflict")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_requests": True}, "--cache_requests: the prompts of knowledge_conflict depend on the model"),
        ({"system_instruction": "Be brief."}, "pass --metadata knowledge_conflict=chat=true"),
    ],
)
def test_what_would_change_the_prompts_is_refused(stock: HFLM, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        run(stock, "knowledge_conflict", limit=2, **options)


# -- prepared prompts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared")
    loader: Any = catalogue().build(ModelLoader, parse_spec("demo:device=cpu", "test"), "test")
    made = write(loader, None, output, LIMIT, seed=0)
    assert [(path.name, n) for path, n in made] == [
        (path.name, len(read_jsonl(path / "prompts.jsonl"))) for path in sorted(output.iterdir())
    ]
    moved = output.with_name("moved")
    shutil.move(output, moved)
    return moved


def test_prepared_prompts_give_the_same_numbers_to_any_lm_eval(folder: Path, stock: HFLM, found: Any) -> None:
    again = run(stock, *(f"{name}_prepared" for name in ours()), include=folder)
    for name, shown in (("knowledge_conflict", ("CK", "PK", "ND")), ("induction_synthetic", ("loss", "all_right"))):
        results = again["results"][f"{name}_prepared"]
        assert {key.partition(",")[0] for key in results if key.endswith(",none")} >= {*shown}
        assert "entropy,none" not in results and "accuracy,none" not in results
        for metric in shown:
            np.testing.assert_array_equal(column(again, f"{name}_prepared", metric), column(found, name, metric))


@pytest.mark.slow
def test_prepared_prompts_need_no_harness(folder: Path) -> None:
    program = f"""
import sys
sys.modules["harness"] = sys.modules["harness_tasks"] = None
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path={str(folder)!r}, include_defaults=False)
print(*manager.load({[f"{name}_prepared" for name in ours()]})["tasks"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["induction_synthetic_prepared", "knowledge_conflict_prepared"], done.stderr


def test_nothing_is_written_for_a_task_that_is_not_there(
    harness: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = harness("lm-eval", "prepare", "--output", tmp_path / "out", "--task", "knowledge_conflicts")
    assert code == 2 and 'Did you mean "knowledge_conflict"?' in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
