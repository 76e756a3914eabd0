"""The final norm's denominators against one hooked pass of one prompt at a time, and against torch by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import Scale, late_mixture, some_conditions, some_prompts
from families import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Frozen, SetNeurons
from harness.conditions.positions import Layout, Positions
from harness.engine import final_norm
from harness.engine.final_norm import denominators
from harness.engine.hooks import under
from harness.errors import HarnessError
from harness.model.model import Model


def slowly(model: Model, prompt: list[int], condition: Condition) -> np.ndarray:
    """Of one prompt [pos]: of what enters the final norm; a frozen norm sees the untouched model."""
    held = condition.frozen is not None and condition.frozen.what == "final_norm"
    condition = BASELINE if held else condition
    layout = Layout.of([len(prompt)])
    with torch.no_grad(), under(model, condition, layout), model.capture_residual() as seen:
        model.hf(torch.tensor([prompt]))
    x = seen.residual[0].double()
    if model.readout.norm == "layernorm":
        x = x - x.mean(-1, keepdim=True)
    return ((x**2).mean(-1) + model.readout.eps).sqrt().numpy()


@settings(max_examples=12)
@given(
    st.sampled_from(["gpt2", "llama", "gpt_neox", "gemma2", "granite"]),
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.booleans(),
)
def test_they_are_those_of_one_prompt_at_a_time(family: str, seed: int, batch: int, last: bool) -> None:
    """In closed form where the last layer is edited, by hooks elsewhere."""
    model = tiny(family)
    scaled = Condition("scaled", (Scale(model.anatomy.n_layers - 1, (3, 5), -4.0),))
    parts = [scaled, replace(scaled, positions=Positions("first")), replace(scaled, positions=Positions("-2:"))]
    conditions = [*some_conditions(model, seed, n=3), *parts] if last else late_mixture(model, seed)
    prompts = some_prompts(seed, n=4)
    found = denominators(model, prompts, conditions, batch)
    assert found.shape == (len(conditions), 4, max(map(len, prompts))) and found.dtype == np.float32
    for c, condition in enumerate(conditions):
        for i, prompt in enumerate(prompts):
            expected = slowly(model, prompt, condition)
            np.testing.assert_allclose(found[c, i, : len(prompt)], expected, rtol=2e-5)
            assert np.isnan(found[c, i, len(prompt) :]).all()


def test_the_last_layer_takes_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = tiny("llama"), []
    monkeypatch.setattr(final_norm, "_hooked", lambda *_: passes.append(1))
    denominators(model, [[1, 2, 3]], some_conditions(model, 0))
    assert not passes


def test_a_frozen_norm_is_the_untouched_one() -> None:
    model = tiny("llama")
    for layer in (model.anatomy.n_layers - 1, 0):
        edited = Condition("edited", (SetNeurons(layer, (1,), (9.0,)),))
        held = replace(edited, name="held", frozen=Frozen("final_norm"))
        if layer == 0:
            with pytest.raises(HarnessError):  # only the last layer's edits can hold it
                denominators(model, [[5, 6, 7]], [BASELINE, edited, held])
            continue
        before, after, frozen = denominators(model, [[5, 6, 7]], [BASELINE, edited, held])
        np.testing.assert_array_equal(frozen, before)
        assert (np.abs(after - before) > 1e-3).all()


def test_what_is_not_finite_is_refused() -> None:
    model = tiny("llama")
    bad = Condition("bad", (SetNeurons(model.anatomy.n_layers - 1, (3,), (float("inf"),)),))
    with pytest.raises(HarnessError, match='not finite under condition "bad"'):
        denominators(model, [[1, 2, 3]], [bad])
    assert denominators(model, [], [BASELINE]).shape == (1, 0, 0)
