"""One is one and several are several, in every sentence that counts something."""

from __future__ import annotations

import ast
import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from checkout import ROOT
from golden import golden

from harness.builtin.components import Heads, Neurons
from harness.files import wording
from harness.files.terminal import Terminal
from harness.plugin.components import SelectionContext
from harness.report import console, page
from harness.report import formatting as numbers
from harness.report.latex import export as export_latex
from harness.report.markdown import export as export_markdown
from harness.results.folder import read_record
from harness.results.record import RunRecord
from harness.statistics import Circumstances, Measure, family_of, summarise, table_tests, verdict

_NOUNS = "prompt|neuron|head|direction|item|control|measure|set|token|layer|row|run|fact|sequence|position|parameter"
_NOT = r"(?!(?:and|of|to|or|x|is|has|does|was|in)\b)"
WRONG = re.compile(
    rf"(?<![\d.,:/e-])1 {_NOT}(?:[a-z_-]+ ){{0,2}}?(?:{_NOUNS})s\b|\b0 prompts changed|\b1 \w+ (?:are|were|have)\b"
)
"""A one with a plural, and "only 0"."""


@pytest.mark.parametrize(
    ("n", "counted", "the", "only"),
    [
        (0, "0 prompts", "the 0 prompts", "no prompt"),
        (1, "1 prompt", "the prompt", "only 1 prompt"),
        (2, "2 prompts", "the 2 prompts", "only 2 prompts"),
    ],
)
def test_words(n: int, counted: str, the: str, only: str) -> None:
    assert (wording.counted(n, "prompt"), wording.the(n, "prompt"), wording.only(n, "prompt")) == (counted, the, only)
    assert wording.last(n, "prompt") == ("last prompt" if n == 1 else f"last {counted}")
    assert wording.agree(n, "is", "are") == ("is" if n == 1 else "are")


def test_nouns() -> None:
    assert wording.plural("random control") == "random controls" and wording.plural("corpus") == "corpora"
    assert wording.counted(3072, "neuron", ",") == "3,072 neurons"
    assert [wording.apart(unit) for unit in ("%", "nats", "share", "")] == [" points", " nats", "", ""]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_too_few_moved(n: int) -> None:
    moved = np.arange(60) < n
    note = table_tests(np.zeros(60, int), moved.astype(int), (0, 1), np.arange(60)).note
    assert note is not None and note.startswith(f"only {wording.counted(n, 'independent item')} moved: ")


def said_of(numerator: np.ndarray, unit: str, **around: Any) -> str:
    measure = Measure("m", "m", unit, numerator, np.ones(numerator.shape), primary=True)
    summary = summarise(measure, np.arange(numerator.shape[1]), 0, 200)
    family = family_of([measure.values[1]], measure.values[2:][None], [0.0])
    return verdict(summary, family, 0, Circumstances(**around)).sentence


@pytest.mark.parametrize(("m", "said"), [(1, "1 random set cannot"), (2, "2 random sets cannot")])
def test_too_few_controls(m: int, said: str) -> None:
    numerator = np.random.default_rng(0).integers(0, 2, (2 + m, 60)).astype(float)
    assert said_of(numerator, "%").startswith(said)


def test_a_verdict_speaks_of_what_was_selected() -> None:
    rng = np.random.default_rng(0)
    numerator = np.concatenate([np.zeros((1, 80)), np.ones((1, 80)), rng.random((99, 80))])
    found = said_of(numerator, "nats", selected="the selected direction")
    assert "with the selected direction," in found and "neurons" not in found


@pytest.mark.parametrize(("n", "said"), [(1, "the neuron named by the user"), (2, "the 2 neurons named by the user")])
def test_rules(n: int, said: str) -> None:
    context: Any = SelectionContext.__new__(SelectionContext)
    assert Neurons(neurons=tuple(f"0.{i}" for i in range(n)), published=None).select(context).rule == said
    heads = Heads(heads=tuple(f"L0H{i}" for i in range(n))).select(context)
    assert heads.rule == said.replace("neuron", "head")


def record_of(n: int, unit: str, selector: str, intervention: str, title: str) -> RunRecord:
    record = golden("record.json")
    components = record["identity"]["components"]
    components["selector"]["name"], components["intervention"]["name"] = selector, intervention
    written = {"neuron": "0.{}", "head": "L0H{}", "direction": "D{}.0"}[unit]
    record["selection"] |= {
        "neurons": [{"neuron": written.format(i)} for i in range(n)], "unit": unit, "intervention": intervention,
        "intervention_title": title,
    }  # fmt: skip
    record["task"]["title"] = "T"
    return RunRecord.read(record, "record.json")


@pytest.mark.parametrize(
    ("asked", "question"),
    [
        (
            (1, "direction", "difference_of_means", "ablate_direction", "the intervention ablate_direction"),
            "What changes in T when 1 difference_of_means direction is under the intervention ablate_direction, and is "
            "it more than with 1 random direction?",
        ),
        (
            (6, "neuron", "entropy", "mean", "mean ablation"),
            "What changes in T when 6 entropy neurons are under mean ablation, and is it more than with 6 random "
            "neurons?",
        ),
        (
            (1, "neuron", "value_neurons", "zero", "zero ablation"),
            "What changes in T when 1 value_neuron is under zero ablation, and is it more than with 1 random neuron?",
        ),
        (
            (1, "head", "induction_heads", "none", "no intervention"),
            "What does T show of 1 induction_head, and is it more than of 1 random head?",
        ),
    ],
)
def test_questions(asked: tuple[Any, ...], question: str) -> None:
    assert numbers.question(record_of(*asked)) == question


def test_a_question_has_the_number_that_runs_of_a_sweep_differ_in() -> None:
    record = record_of(6, "neuron", "entropy", "scale", "scaling")
    record.identity.components.intervention.params.update({"factor": 0.5, "seed": 3, "frozen": None})
    assert "are under scaling (factor 0.5), and is it" in numbers.question(record)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_facts: Path) -> Path:
    task, output = f"knowledge_conflict:data={small_facts}", tmp_path_factory.mktemp("runs")
    return small_runs.finish(output, task=task, selector="entropy:top=1", intervention="mean", controls=1)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_reports_of_one_of_everything(run: Path, tmp_path: Path, n: int) -> None:
    """One neuron, one control; n primary measures, prompts and items: no report has a one with a plural."""
    record = copy.deepcopy(small_runs.record(run))
    record["family"]["size"] = n
    for i, measure in enumerate(record["measures"]):
        measure |= {"primary": i < n, "verdict": "cannot tell", "verdict_sentence": "It cannot."}
        measure |= dict.fromkeys(("p_adjusted", "p_holm", "margin", "detectable"))
        measure |= dict.fromkeys(f"detectable_{x}" for x in ("above", "below", "limit", "controls"))
    record["task"] |= {"n_prompts": n, "n_clusters": n}
    record["selection"]["activation_positions"] = n
    record["figures"] = []
    (tmp_path / "result.json").write_text(json.dumps(record), encoding="utf-8")
    terminal = Terminal(file=io.StringIO(), width=1000)
    console.show(terminal, read_record(tmp_path), tmp_path)
    html = page.write_page(tmp_path).read_text(encoding="utf-8").partition("<body>")[2].partition("<script")[0]
    found = [terminal.file.getvalue(), re.sub("<[^>]+>", " ", html)]  # type: ignore[attr-defined]  # the StringIO above
    found.append(export_markdown([tmp_path], tmp_path / "page", "t", "d")[0].read_text(encoding="utf-8"))
    found += [path.read_text(encoding="utf-8") for path in export_latex([tmp_path], tmp_path / "tables")]
    for text in found:
        assert not WRONG.search(text), WRONG.search(text)
    assert "each of the primary measure" not in found[1]


NOUNS = (
    "prompts|tokens|neurons|heads|directions|sets|controls|measures|items|facts|layers|sequences|rows|runs|conditions"
)
COUNTS_THEMSELVES = {"train.py", "evaluate.py", "world.py", "kernels.py"}


def test_no_sentence_counts_by_itself() -> None:
    """A number that is followed by a plural in an f-string comes from harness/files/wording.py."""
    root, found = ROOT, []
    follows = re.compile(
        rf"^ (?:(?:random|distinct|selected|independent|primary|held-out|finished|older) )?({NOUNS})\b"
    )
    for path in [*(root / "harness").rglob("*.py"), *(root / "plugins").rglob("*.py")]:
        if path.name in COUNTS_THEMSELVES:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, text in zip(node.values, node.values[1:], strict=False):
                number = isinstance(value, ast.FormattedValue) and COUNTS.search(ast.unparse(value.value))
                if number and isinstance(text, ast.Constant) and follows.match(str(text.value)):
                    found.append(f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}")
    assert not found, "\n".join(found)


COUNTS = re.compile(r"^(len\(.*|n|n_\w+|\w+\.n_\w+|.*\['n'\]|.*\['n_\w+'\]|int\(.*)$")
"""Expressions that are numbers of something."""
