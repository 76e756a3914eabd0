"""What scores say of themselves: tokens, names, a frame; and that arrays of other shapes are refused in tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from families import tiny
from jaxtyping import TypeCheckError

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.hooks import HookEngine
from harness.engine.scores import Scores

PROMPTS = [[5, 6, 7], [9, 8], [4]]
CONDITIONS = [BASELINE, Condition("edited", (SetNeurons(2, (0,), (9.0,)),))]


def test_a_row_a_condition_and_token() -> None:
    model = tiny("gpt2")
    scores = HookEngine(model).score(PROMPTS, CONDITIONS)
    assert scores.token.tolist() == [6, 7, 8] and scores.conditions == ("baseline", "edited")
    frame = scores.to_frame()
    assert frame["condition"].tolist() == ["baseline"] * 3 + ["edited"] * 3
    assert frame[["prompt", "position", "token"]].to_numpy().tolist() == [[0, 1, 6], [0, 2, 7], [1, 1, 8]] * 2
    for name in ("loss", "entropy", "rank", "top"):
        np.testing.assert_array_equal(frame[name].to_numpy().reshape(2, 3), getattr(scores, name))
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert kinds == {
        "condition": "string", "prompt": "int64", "position": "int64", "token": "int64", "loss": "float64",
        "entropy": "float64", "rank": "int64", "top": "float64",
    }  # fmt: skip


def test_tokens_as_texts() -> None:
    model = tiny("gpt2")
    scores = HookEngine(model).score(PROMPTS, CONDITIONS, first=[2, 1, 1])
    assert scores.str_tokens(model) == [model.token_texts[7], model.token_texts[8]]
    frame = scores.to_frame(model)
    assert frame["token"].tolist() == scores.str_tokens(model) * 2 and str(frame["token"].dtype) == "string"


def test_nothing_scored_is_a_frame_with_all_columns() -> None:
    for prompts, conditions in (([], CONDITIONS), (PROMPTS, [])):
        frame = Scores.empty(prompts, conditions).to_frame()
        assert len(frame) == 0 and list(frame) == list(Scores.empty(PROMPTS, CONDITIONS).to_frame())


def test_arrays_of_other_shapes_or_types_are_refused() -> None:
    """The checks that ``array_types`` puts on the engine's border while tests run."""
    scores = Scores.empty(PROMPTS, CONDITIONS)
    with pytest.raises(TypeCheckError, match="loss"):
        replace(scores, loss=scores.loss.astype(np.float32))
    with pytest.raises(TypeCheckError, match="entropy"):
        replace(scores, entropy=scores.entropy[:, :2])
