"""Truthfulness directions that are added and subtracted: where, by which formula, and what follows in a copy."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness_plugins.post_training.analysis.statement_pairs import QUESTION
from harness_plugins.post_training.analysis.truth_data import load_truth
from harness_plugins.post_training.comparison import truth_interventions
from harness_plugins.post_training.comparison.run import check_fits
from harness_plugins.post_training.comparison.settings import Settings
from harness_plugins.post_training.comparison.truth_interventions import (
    Judgements,
    directions,
    effects,
    interventions_section,
    judgements,
)

from harness.engine.batched import BatchedEngine
from harness.errors import HarnessError
from harness.plugin.components import SelectionContext
from harness.testing import tiny_model

SHORT = {name: ["b. This statement is: TRUE"] for name in ("cities", "words")}
"""One short example: the tiny models read 64 tokens."""


def tables(folder: Path) -> list[str]:
    for name in ("cities", "words"):
        rows = [f"{name[0]}{i} {'x' if i % 2 else 'y'}.,{i % 2}" for i in range(14)]
        (folder / f"{name}.csv").write_text("\n".join(["statement,label", *rows, ""]))
    return [str(folder / f"{name}.csv") for name in ("cities", "words")]


def test_statements_are_judged_after_examples_that_are_not_among_them(tmp_path: Path) -> None:
    model, data = tiny_model("llama"), load_truth(tables(tmp_path))
    found = judgements(model, data, "cities", {}, 100, 0)
    assert len(found.tokens) == 10 and len(set(found.group.tolist())) == 10  # four of the 14 are examples
    assert found.after == len(model.encode([QUESTION], add_bos=False)[0])
    given = judgements(model, data, "cities", {"cities": ["c0 y. This statement is: TRUE"]}, 5, 0)
    assert len(given.tokens) == 5 and 0 not in given.group


def test_the_effect_is_that_of_the_formula() -> None:
    """With an engine that answers what is written here: (PD - PD before) / (1 - PD before), by sums over statements."""
    p = {
        False: np.array([[[0.1, 0.7], [0.2, 0.6]], [[0.5, 0.3], [0.2, 0.4]]]),
        True: np.array([[[0.9, 0.1]], [[0.4, 0.4]]]),
    }
    asked: list[Any] = []

    def generate(tokens: Any, conditions: Any, n: int, choices: Any) -> Any:
        asked.append(conditions)
        return SimpleNamespace(choices=np.log(p[len(asked) == 2]))

    judged = Judgements([[1, 2, 3]] * 3, np.array([False, False, True]), np.arange(3), (5, 6), 4)
    rows = effects(SimpleNamespace(generate=generate), judged, np.ones((1, 3)), [8, 9], 0)  # type: ignore[arg-type]
    assert rows[0]["NIE"] == pytest.approx((0.8 + 0.2) / (1.6 + 1.4))
    assert rows[1]["NIE"] == pytest.approx((0.8 - 0.0) / (1 + 0.8)) and rows[1]["way"] == "true to false"
    assert rows[0]["PD before"] == pytest.approx(-0.5) and rows[0]["PD after"] == pytest.approx(0.0)
    treated = [conditions[1] for conditions in asked]
    assert [x.positions.text for x in treated] == ["-6:-4"] * 2
    assert [edit.layer for edit in treated[0].edits] == [8, 9]
    assert [x.edits[0].vector for x in treated] == [(1.0,) * 3, (-1.0,) * 3]


@torch.no_grad()
def test_a_direction_is_added_at_the_last_two_tokens_of_the_statement(tmp_path: Path) -> None:
    model, data = tiny_model("llama"), load_truth(tables(tmp_path))
    judged = judgements(model, data, "cities", SHORT, 3, 0)
    vector = np.random.default_rng(0).normal(size=(1, model.anatomy.d_model))
    rows = effects(BatchedEngine(model), judged, vector, [0, 1], 0)
    wanted = []
    for tokens, label in zip(judged.tokens, judged.label, strict=True):
        sign, pd = (-1 if label else 1), []
        for factor in (0, sign):

            def put(module: Any, args: Any, output: Any, factor: int = factor) -> None:
                hidden = output[0] if isinstance(output, tuple) else output
                end = len(tokens) - judged.after  # noqa: B023
                hidden[0, end - 2 : end] += factor * torch.tensor(vector[0], dtype=hidden.dtype)

            hooks = [model.anatomy.layers[layer].register_forward_hook(put) for layer in (0, 1)]
            p = model.hf(input_ids=torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
            pd.append(float(p[judged.answers[0]] - p[judged.answers[1]]))
            for hook in hooks:
                hook.remove()
        wanted.append((label, pd))
    for row in rows:
        here = [pd for label, pd in wanted if label == (row["way"] == "true to false")]
        assert row["n"] == len(here)
        assert row["PD before"] == pytest.approx(np.mean([x for x, _ in here]), abs=1e-6)
        assert row["PD after"] == pytest.approx(np.mean([x for _, x in here]), abs=1e-6)


def test_in_a_copy_directions_do_what_they_do_in_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth_interventions, "CONTROLS", 19)
    model, data = tiny_model("llama"), load_truth(tables(tmp_path))
    contexts = [SelectionContext(x, BatchedEngine(x), [], 0) for x in (model, copy.deepcopy(model))]
    section = interventions_section(data, SHORT, [0, 1], contexts, 6, 0)
    rows = section.numbers["rows"]
    assert len(rows) == 2 * 4 * 2 and len(section.sentences) == 4
    cells: dict[tuple[str, str], set[float]] = {}
    for row in rows:
        cells.setdefault((row["statements"], row["way"]), set()).add(round(row["NIE"], 9))
    assert all(len(values) == 1 for values in cells.values())
    readings = truth_interventions._readings(contexts[0], data, 1)
    vectors = directions(readings, data.families["cities"], 0)
    assert vectors.shape[0] == 20 and np.ptp(np.linalg.norm(vectors, axis=1)) < 1e-9
    x, label = data.after(readings.residual[0])[data.families["cities"]].centred, data.label[data.families["cities"]]
    np.testing.assert_allclose(vectors[0], x[label].mean(0) - x[~label].mean(0), atol=1e-6)
    with pytest.raises(HarnessError, match="name two --truthfulness or more"):
        interventions_section(load_truth(tables(tmp_path)[:1]), {}, [0], contexts, 6, 0)


def test_layers_are_looked_at_before_anything_is_done() -> None:
    assert Settings(act_layers="8-12").recorded["act_layers"] == ("8-12",)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match="--act_layers: layer 8 does not exist"):
        check_fits(Settings(act_layers="8-12"), tiny_model("llama"))  # type: ignore[arg-type]
