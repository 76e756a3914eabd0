"""Refusal as the paper does it: the chat template, all-layer ablation, the search of factors, the list of phrases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from harness_plugins.post_training.analysis.labelled_texts import LabelledText, load_labelled
from harness_plugins.post_training.analysis.requests import DIALOGUE, asked, phrases, request_template
from harness_plugins.post_training.comparison import steering
from harness_plugins.post_training.comparison.settings import Settings
from harness_plugins.post_training.comparison.steering import Asking, edits, searched, steering_section
from harness_plugins.post_training.task import LabelledResponse
from planted_direction import planted_model, planted_texts

from harness.engine.batched import BatchedEngine
from harness.errors import HarnessError
from harness.files.templates import fill
from harness.plugin import AddVector, Engine, ProjectOut
from harness.plugin.components import SelectionContext
from harness.testing import tiny_model

TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}{% endfor %}<assistant>{}"


def test_a_request_goes_through_the_chat_template_or_a_dialogue() -> None:
    model = tiny_model("llama")
    assert request_template(model) == DIALOGUE == "User: {text}\nAssistant:"
    chat = dataclasses.replace(model, tokenizer=type(model.tokenizer)(tokenizer_object=model.tokenizer._tokenizer))
    chat.tokenizer.chat_template = TEMPLATE
    template = request_template(chat)
    wanted = chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": "what {is} it"}], tokenize=False, add_generation_prompt=True
    )
    text = LabelledText(text="what {is} it", label=True, group="a", split="train")
    assert fill(template, {"text": text.text}, "x") == wanted == asked([text], template)[0].text
    assert wanted == "<user>what {is} it<assistant>{}"
    assert asked([text], "{text}") == [text]
    for broken, said in (("hello", "does not hold a user's message"), ("{{ raise_exception('no') }}", "does not take")):
        chat.tokenizer.chat_template = broken
        with pytest.raises(HarnessError, match=said):
            request_template(chat)


def test_the_papers_phrases_are_beginnings_that_differ() -> None:
    found = phrases()
    assert len(found) == len(set(found)) == 21 and "I cannot" in found
    assert not [(a, b) for a in found for b in found if a != b and b.startswith(a)]


def test_ablation_may_be_after_every_layer() -> None:
    vector = np.array([3.0, 4.0])
    assert edits(1, vector, "ablated", None) == (ProjectOut(1, (0,), ((0.6, 0.8),)),)
    assert [x.layer for x in edits(1, vector, "ablated", 3)] == [0, 1, 2]
    assert edits(1, vector, "added", 3) == (AddVector(1, (0,), (3.0, 4.0)),)


def test_later_settings_are_in_the_identity_where_they_are_used() -> None:
    assert not {"chat", "ablate", "factors", "judge", "judge_label"} & set(Settings().recorded)
    used = Settings(chat=True, ablate="all", factors=(1.0, 2.0), judge="x", judge_label="no").recorded
    assert "judge" not in used and used["judge_label"] == "no"  # files by their digests
    assert used["chat"] is True and used["ablate"] == "all" and used["factors"] == (1.0, 2.0)


def test_the_planted_direction_refuses_at_the_least_factor_that_suffices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By construction "Y" is said where the last character's embedding lies on the one side: half of the distance of
    the classes does not get there, once and twice does; searched on training texts, once is taken."""
    monkeypatch.setattr(steering, "CONTROLS", 19)
    path, model = planted_texts(tmp_path), planted_model()
    contexts = [SelectionContext(model, BatchedEngine(model), [], 0)] * 2
    asking = Asking(("Y",), ablate_all=True, factors=(2.0, 0.25, 1.0))
    section = steering_section(load_labelled(path), asking, contexts, 0)
    numbers = section.numbers
    for found in numbers["searches"]:
        assert found["factor"] == 1.0
        assert found["training refusals %"]["0.25"] == 0 and found["training refusals %"]["1"] == 100
    assert len(numbers["searches"]) == 4 and numbers["ablated"] == "after every layer"
    added = [row for row in numbers["rows"] if row["change"] == "added"]
    assert all(row["refused before %"] == 0 and row["refused after %"] == 100 for row in added)
    assert section.sentences[-2].startswith("Added times the factor, of 0.25, 1, 2,")
    train = {x.text for x in load_labelled(path) if x.split == "train"}
    seen: list[str] = []

    class Told:
        controls = {"refused": np.ones((1, 3))}  # noqa: RUF012

    def observed(engine: Engine, task: LabelledResponse, *_: object) -> type[Told]:
        seen.extend(prompt.text for prompt in task.prepare(engine, None, 0).prompts)
        return Told

    monkeypatch.setattr(steering, "observed", observed)
    task = asking.task(load_labelled(path), "train", model)
    searched(contexts[0].engine, task, steering.read(model, load_labelled(path)), numbers["layer"], (1.0,))
    assert seen and set(seen) <= train  # held-out requests have no say
