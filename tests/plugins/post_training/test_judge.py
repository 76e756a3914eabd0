"""A classifier as a second judge of refusals: what it is asked, which of its labels counts, how far it agrees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from harness_plugins.post_training.analysis.judge import load_judge
from harness_plugins.post_training.analysis.labelled_texts import load_labelled
from harness_plugins.post_training.comparison import steering
from harness_plugins.post_training.comparison.judging import Verdicts, kappa
from harness_plugins.post_training.comparison.refusal import Refusal
from harness_plugins.post_training.comparison.settings import Settings
from harness_plugins.post_training.comparison.steering import Asking, steering_section
from hypothesis import given
from hypothesis import strategies as st
from planted_direction import planted_model, planted_texts
from sklearn.metrics import cohen_kappa_score

from harness.engine.batched import BatchedEngine
from harness.errors import HarnessError
from harness.plugin.components import SelectionContext
from harness.testing import tiny_model
from harness.testing.tiny_models import tokenizer


def classifier(folder: Path, labels: tuple[str, ...] = ("NORMAL", "REJECTION"), bias: float | None = None) -> Path:
    """A random classifier; with ``bias`` one whose verdict is known: the last label's logit, whatever it reads."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=260, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, id2label=dict(enumerate(labels)), label2id={x: i for i, x in enumerate(labels)},
    )  # fmt: skip
    hf = transformers.BertForSequenceClassification(config)
    if bias is not None:
        with torch.no_grad():
            hf.classifier.weight.zero_()
            hf.classifier.bias.zero_()
            hf.classifier.bias[-1] = bias
    hf.save_pretrained(folder)
    words = tokenizer()
    words.model_input_names = ["input_ids", "attention_mask"]
    words.save_pretrained(folder)
    return folder


def test_a_verdict_is_the_label_of_one_answer_read_alone(tmp_path: Path) -> None:
    """Padding and batches change nothing; an answer without text is no refusal."""
    judge = load_judge(str(classifier(tmp_path)), None)
    assert (judge.name, judge.label) == (tmp_path.name, "REJECTION")
    with torch.no_grad():
        judge.hf.classifier.weight.mul_(50)  # verdicts of both kinds
    answers = ["I cannot.", "Yes", "", "x" * 200, *(f"{i} and {i * i}" for i in range(40)), " \n"]
    found = judge.refusals(answers)
    for answer, said in zip(answers, found.tolist(), strict=True):
        if not answer.strip():
            assert said is False
            continue
        ids = judge.tokenizer(answer)["input_ids"][:64]
        with torch.no_grad():
            logits = judge.hf(input_ids=torch.tensor([ids])).logits[0]
        assert said == bool(logits[1] > logits[0])
    assert 0 < found.sum() < len(answers) - 2


@pytest.mark.parametrize(("bias", "all_are"), [(1.0, True), (-1.0, False)])
def test_the_planted_classifier_says_what_its_bias_says(tmp_path: Path, bias: float, all_are: bool) -> None:
    judge = load_judge(str(classifier(tmp_path, bias=bias)), None)
    assert (judge.refusals(["I cannot do that.", "Here you are."]) == all_are).all()


def test_its_digest_is_of_what_decides(tmp_path: Path) -> None:
    first = load_judge(str(classifier(tmp_path / "a", bias=1.0)), None)
    again = load_judge(str(classifier(tmp_path / "b", bias=1.0)), None)
    other = load_judge(str(classifier(tmp_path / "c", bias=2.0)), None)
    label = load_judge(str(tmp_path / "a"), "normal")
    assert label.label == "NORMAL"
    assert first.digest == again.digest and len({first.digest, other.digest, label.digest}) == 3


@pytest.mark.parametrize(
    ("labels", "label", "said"),
    [
        (("LABEL_0", "LABEL_1"), None, r'no label with "refus" or "reject" in its name \(LABEL_0, LABEL_1\)'),
        (("soft_refusal", "refusal"), None, r"more than one label .* \(soft_refusal, refusal\)"),
        (("answer", "refusal"), "refusl", 'no label "refusl". Did you mean "refusal"'),
        (("refusal",), None, "has one label"),
    ],
)
def test_the_label_must_be_clear(tmp_path: Path, labels: tuple[str, ...], label: str | None, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        load_judge(str(classifier(tmp_path, labels)), label)


def test_what_is_no_refusal_is_not_taken_for_one(tmp_path: Path) -> None:
    assert load_judge(str(classifier(tmp_path, ("refusal", "non-refusal"))), None).label == "refusal"


def test_a_model_without_a_trained_head_is_refused(tmp_path: Path) -> None:
    """transformers would give it one at random."""
    model = tiny_model("llama")
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(HarnessError, match=r"--judge: the weights of .* are incomplete: .*score\.weight"):
        load_judge(str(tmp_path), None)
    with pytest.raises(HarnessError, match=r'--judge: model folder "./nowhere" does not exist'):
        load_judge("./nowhere", None)


def test_code_that_comes_with_a_classifier_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"}}'
    )
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "model.safetensors").write_bytes((classifier(tmp_path / "x") / "model.safetensors").read_bytes())
    with pytest.raises(HarnessError, match="needs code of its own, which is not run"):
        load_judge(str(tmp_path), None)
    assert not (tmp_path / "ran").exists()


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_kappa_is_scikit_learns(rows: list[tuple[bool, bool, int]]) -> None:
    first, second, weights = (np.array(x) for x in zip(*rows, strict=True))
    if weights.sum() == 0:
        return
    found = kappa(weights[None].astype(float), first, second)[0]
    a, b = np.repeat(first, weights), np.repeat(second, weights)
    if len({*a.tolist(), *b.tolist()}) == 1:
        assert np.isnan(found)
    else:
        wanted = cohen_kappa_score(a, b)
        assert found == pytest.approx(wanted, abs=1e-9)
        np.testing.assert_allclose(kappa(weights[None].astype(float), second, first)[0], found, atol=1e-12)


class Told:
    """Answers of an untouched and of an edited model, the beginnings of refusals among them."""

    def __init__(self, before: str, after: str) -> None:
        self.answers = (tuple(before), tuple(after))
        self.baseline, self.treated = ({"refused": np.array([x == "R" for x in row])} for row in self.answers)
        self.prompts = [SimpleNamespace(cluster=str(i)) for i in range(len(before))]


def test_answers_of_the_untouched_model_count_once() -> None:
    judge: Any = SimpleNamespace(name="j", label="l", refusals=lambda row: np.array([x in "Rr" for x in row]))
    verdicts = Verdicts(judge)
    told: Any = Told("RrNN", "RRRN")
    assert verdicts.of("base", "base", "added", told) == {"judged before %": 50.0, "judged after %": 75.0}
    verdicts.of("base", "tuned", "added", told)
    verdicts.of("tuned", "base", "added", told)
    rows = {row["model"]: row for row in verdicts.rows(0, 200)}
    assert rows["base"]["answers"] == 12 and rows["tuned"]["answers"] == 8 and rows["both"]["answers"] == 20
    counts = [rows["base"][x] for x in ("both", "phrases alone", "judge alone", "neither")]
    assert counts == [7, 0, 1, 4]
    said = [x == "R" for x in "RrNN" + "RRRN" * 2], [x in "Rr" for x in "RrNN" + "RRRN" * 2]
    assert rows["base"]["kappa"] == pytest.approx(cohen_kappa_score(*said))
    assert rows["base"]["low"] < rows["base"]["kappa"] <= rows["base"]["high"]
    said_of = verdicts.sentence(list(rows.values()))
    assert "agree on 18 of 20 answers: both a refusal 11, the beginning alone 0" in said_of


def test_a_judge_stands_beside_the_phrases_where_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that calls everything a refusal: its shares are 100, and kappa is 0 where the phrases say both."""
    monkeypatch.setattr(steering, "CONTROLS", 3)
    path, model = planted_texts(tmp_path, 24), planted_model()
    contexts = [SelectionContext(model, BatchedEngine(model), [], 0)] * 2
    judge = load_judge(str(classifier(tmp_path / "judge", bias=1.0)), None)
    texts = load_labelled(path)
    plain = steering_section(texts, Asking(("Y",)), contexts, 0)
    section = steering_section(texts, Asking(("Y",), judge=judge), contexts, 0, 200)
    for row, before in zip(section.numbers["rows"], plain.numbers["rows"], strict=True):
        assert (row["judged before %"], row["judged after %"]) == (100.0, 100.0)
        assert {key: row[key] for key in before} == before
    found = section.numbers["judge"]
    assert (found["model"], found["label"]) == ("judge", "REJECTION")
    both = found["agreement"][-1]
    assert both["kappa"] == both["low"] == both["high"] == 0 and both["phrases alone"] == both["neither"] == 0
    assert both["both"] + both["judge alone"] == both["answers"]
    assert [x.name for x in section.frames] == ["steering", "judge"] and "Cohen's kappa 0.00" in section.sentences[-1]
    assert "(by the classifier 100% and 100%)" in section.sentences[0]
    assert "judge" not in plain.numbers and [x.name for x in plain.frames] == ["steering"]
    assert plain.sentences == tuple(x.replace(" (by the classifier 100% and 100%)", "") for x in section.sentences[:-1])


def test_a_judge_needs_answers(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--judge: there are no answers to judge"):
        Refusal.of(Settings(judge="x"))
    used = Refusal.of(Settings(refusal=str(planted_texts(tmp_path)), judge=str(classifier(tmp_path / "judge"))))
    assert used is not None and used.judge is not None and used.digests == {"judge": used.judge.digest}
