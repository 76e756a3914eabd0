"""The tokens of a conflict prompt's subject, object and context, and a run that edits them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict
from harness_plugins.context_copying.task.parts import parts_of

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.conditions.positions import Positions
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.plugin import Prompt
from harness.testing import demo_model


def prompt(text: str, query: str = "The capital of France is", **fields: str) -> Prompt:
    given = {"relation": "a/b", "subject": "France", "counter_object": "Rome", **fields}
    return Prompt("p", text, (), f"a/b/{query}", given)


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("The capital of France is Rome. The capital of France is", "The capital of France is Rome."),
        ("A dog is St. Bernard. The capital of France is Rome. Oil is black.\nThe capital of France is", None),
        (
            "Document: France\nOil is black. The oak of Rome. Tea.\n\nThe capital of France is",
            "The oak of Rome.",
        ),
        ("Rome. The capital of France is", "Rome."),
        ("[INST] Answer.\nThe capital of France is Rome. The capital of France is [/INST]", None),
    ],
)
def test_parts_are_those_of_statement_and_question(text: str, context: str | None) -> None:
    said = {name: text[start:stop] for name, (start, stop) in parts_of(prompt(text)).items()}
    assert said == {"subject": "France", "object": "Rome", "context": context or "The capital of France is Rome."}
    question = text.rfind("The capital of France is")
    parts = parts_of(prompt(text))
    assert parts["subject"][0] > question > parts["object"][0]


def test_prompts_that_do_not_name_them_are_refused() -> None:
    with pytest.raises(HarnessError, match="prompt p does not name its subject in the question and its object"):
        parts_of(prompt("The capital of Spain is Rome. The capital of France is", subject="Spain"))
    with pytest.raises(HarnessError, match="its object before it"):
        parts_of(prompt("The capital of France is Oslo. The capital of France is"))


@pytest.mark.parametrize("placement", ["sentence", "document"])
def test_the_tokens_read_as_the_words(small_facts: Path, placement: str) -> None:
    """And edits of an early layer at each of them are edits there: elsewhere another answer, or none."""
    demo = demo_model()
    task = KnowledgeConflict(data=str(small_facts), placement=placement)  # type: ignore[arg-type]
    engine = ClosedFormEngine(demo, 16)
    prompts = task.prepare(engine, 12, 0).prompts[:6]
    spans = task.named_spans(prompts, demo)
    for one, found in zip(prompts, spans, strict=True):
        said = {name: demo.tokenizer.decode(one.tokens[start:stop]).strip() for name, (start, stop) in found.items()}
        assert said["subject"] == one.fields["subject"] and said["object"] == one.fields["counter_object"]
        assert said["context"].endswith(f"{one.fields['counter_object']}.")
        assert found["subject"][0] >= found["context"][1] > found["object"][0] >= found["context"][0]
    edit = SetNeurons(0, tuple(range(64)), (9.0,) * 64)
    names = ("all", "subject", "object", "context")
    conditions = [BASELINE, *(Condition(name, (edit,), Positions(name), role="alone") for name in names)]
    located = [replace(one, spans=found) for one, found in zip(prompts, spans, strict=True)]
    entropy = task.observe(engine, located, conditions)["entropy"]
    assert len({row.tobytes() for row in entropy}) == len(conditions)
    with pytest.raises(HarnessError, match='no span of the name "subject"'):
        task.observe(engine, prompts, conditions)
    assert np.isfinite(entropy).all()
