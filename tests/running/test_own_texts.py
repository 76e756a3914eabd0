"""No model reads another one's texts unasked: a corpus is named, or the model has one of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from checkout import GOLDEN
from harness_plugins.confidence_regulation.tasks.mediation import Mediation
from harness_plugins.demo import Demo, DemoTuned
from printed import printed

from harness.errors import HarnessError
from harness.lmeval.tasks import own_corpus
from harness.plugin.catalogue import catalogue
from harness.running.plan import Plan, corpora_of, plan
from harness.running.spec import RunSpec

READERS = [
    (kind, name)
    for kind in ("task", "selector")
    for name, cls in catalogue().components[kind].items()  # type: ignore[index]
    if cls.__module__.startswith("harness") and "corpus" in cls.model_fields
]


def planned(
    model: str, task: str = "knowledge_conflict", selector: str = "entropy:rule=tighidet2025", **fields: Any
) -> Plan:
    intervention = None if task.startswith("lm") else fields.pop("intervention", "mean")
    spec = RunSpec(name="a", model=model, task=task, selector=selector, intervention=intervention, **fields)
    return plan(spec, catalogue())


def test_there_are_components_that_read_texts() -> None:
    names = {name for _, name in READERS}
    assert names >= {"mediation", "unigram_entropy", "induction_synthetic", "induction_natural", "token_frequency",
                     "activation_shift", "head_neuron_interaction", "dfa"}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), READERS)
def test_no_component_has_texts_by_default(kind: str, name: str) -> None:
    cls = catalogue().components[kind][name]  # type: ignore[index]
    field = cls.model_fields["corpus"]
    assert field.is_required() or field.get_default() is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [("task", "mediation"), ("task", "induction_natural"), ("selector", "token_frequency"),
     ("selector", "activation_shift")],
)  # fmt: skip
def test_the_bundled_models_have_their_world_and_others_are_asked_for_a_corpus(kind: str, name: str) -> None:
    for model in ("demo", "demo-tuned"):
        [read] = planned(model, **{kind: name}).texts()
        assert read["corpus"].startswith("world (") and read["read_by"] == [f"{kind} {name}"]
    with pytest.raises(HarnessError, match=rf'--{kind}: parameter "corpus" of {name}: name the texts .*text:path='):
        planned("hf:pretrained=nowhere", **{kind: name})  # nothing is loaded
    found = planned("hf:pretrained=nowhere", **{kind: f"{name}:corpus=text:path=a.txt"})
    assert found.texts() == [{"corpus": "text:path=a.txt", "read_by": [f"{kind} {name}"]}]


def test_a_component_within_another_asks_as_well() -> None:
    nested = "activation_shift:keep=token_frequency,corpus=text:path=a.txt"
    with pytest.raises(HarnessError, match=r'"corpus" of token_frequency: name the texts'):
        planned("hf:pretrained=nowhere", selector=nested)
    read = planned("demo", selector=nested).texts()
    assert sorted(x["corpus"].split(" ")[0] for x in read) == ["text:path=a.txt", "world"]


def test_in_python_a_corpus_is_named() -> None:
    with pytest.raises(ValueError, match="name the texts to read"):
        Mediation()
    assert [x.name for x in corpora_of(Mediation.model_validate({"corpus": "world"}))] == ["world"]


def test_the_command_line_says_so_before_anything_is_loaded(harness: Callable[..., tuple[int, str, str]]) -> None:
    code, _, said = harness("eval", "--model", "hf:pretrained=/nowhere", "--task", "mediation", "--selector", "entropy",
                            "--intervention", "mean")  # fmt: skip
    assert code == 2 and said.count("\n") == 1 and 'parameter "corpus" of mediation: name the texts to read' in said


def test_lm_eval_knows_the_bundled_models_by_their_folders(tmp_path: Path) -> None:
    assert own_corpus(str(files("harness_plugins.demo") / "weights")) == "world"
    assert own_corpus(str(tmp_path)) is None and own_corpus("gpt2") is None
    assert Demo.corpus == DemoTuned.corpus == "world"


def test_the_report_says_first_which_texts_were_read(tmp_path: Path) -> None:
    record = json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    said = copy.deepcopy(record) | {"texts": [{"corpus": "text:path=a[1].txt", "read_by": ["task t", "selector s"]}]}
    lines = printed(said, 120).splitlines()
    [line] = [i for i, line in enumerate(lines) if "text:path=a[1].txt; read by task t and selector s" in line]
    assert lines[line].split()[0] == "texts" and line < lines.index("Prompts")
