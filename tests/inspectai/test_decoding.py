"""Continuations for inspect: greedy ones are the engine's, drawn ones are from the distribution they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import tiny
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.conditions import Condition, Frozen, SetNeurons
from harness.conditions.head_edits import AttendFirst
from harness.conditions.positions import Positions
from harness.engine.hooks import HookEngine
from harness.inspectai.decoding import Drawing, continued


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied"])
def test_greedy_ones_are_the_engines_under_every_kind_of_condition(family: str) -> None:
    model = tiny(family)
    last = SetNeurons(model.anatomy.n_layers - 1, (3, 5), (2.0, -1.5))
    conditions = [
        Condition("heads", (AttendFirst(1, (0, 2)), last)),
        Condition("where it ends", (SetNeurons(0, (3,), (4.0,)),), Positions("last+generated[1:]")),
        Condition("frozen", (last,), frozen=Frozen("final_norm")),
    ]
    [prompt] = model.encode(["the cat sat"])
    engine = HookEngine(model, 1)
    made = engine.generate([prompt], conditions, 5, frozenset(model.end_tokens))
    for c, condition in enumerate(conditions):
        found = continued(model, condition, prompt, Drawing(), 5, top=3, of_prompt=True)
        wanted = [x for x in made.tokens[c, 0].tolist() if x >= 0 and x not in model.end_tokens]
        assert found.tokens == wanted and found.text == model.tokenizer.decode(wanted, skip_special_tokens=True)
        assert found.log_p[0][0] == pytest.approx(made.top[c, 0], abs=2e-5)
        assert [own for own, _ in found.log_p] == [best[0][1] for _, best in found.log_p]
        if condition.positions.everywhere and condition.frozen is None:
            read = [-own for own, _ in found.prompt_log_p]
            np.testing.assert_allclose(read, engine.score([prompt], [condition]).loss[0], atol=3e-5)


def test_they_end_where_it_is_asked_for() -> None:
    model = tiny("gpt2")
    [prompt] = model.encode(["the cat sat"])
    free = continued(model, Condition("none"), prompt, Drawing(1.0, seed=3), 12)
    assert free.reason == "max_tokens" and len(free.tokens) == 12
    cut = free.text[4:6]
    found = continued(model, Condition("none"), prompt, Drawing(1.0, seed=3), 12, stop=("never", cut))
    assert found.reason == "stop" and found.text == free.text[: free.text.find(cut)]
    assert model.n_positions is not None
    long = continued(model, Condition("none"), [5] * (model.n_positions - 2), Drawing(1.0, seed=3), 12)
    assert long.reason == "model_length" and len(long.tokens) == 2


@given(
    logits=st.lists(st.floats(-4, 4), min_size=3, max_size=6),
    temperature=st.floats(0.3, 3),
    top_k=st.integers(1, 4) | st.none(),
    top_p=st.floats(0.05, 1) | st.none(),
)
def test_tokens_are_drawn_among_the_likeliest(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    log_p = torch.tensor(logits).log_softmax(-1)
    p = (log_p.double() / temperature).softmax(-1).numpy()
    order = np.argsort(-p, kind="stable")[:top_k]
    before = np.concatenate([[0.0], p[order].cumsum()[:-1]])
    allowed = order if top_p is None else order[before < top_p * p[order].sum() + 1e-9]
    drawing, generator = Drawing(temperature, top_k, top_p), torch.Generator().manual_seed(0)
    seen = {drawing.take(log_p, generator) for _ in range(30)}
    assert seen <= set(allowed.tolist())
    if top_k == 1:
        assert seen == {int(p.argmax())}


def test_drawn_tokens_have_the_distribution_of_the_temperature() -> None:
    log_p, generator = torch.tensor([0.5, 0.3, 0.2]).log(), torch.Generator().manual_seed(1)
    drawn = np.bincount([Drawing(0.5).take(log_p, generator) for _ in range(4000)], minlength=3) / 4000
    p = np.array([0.25, 0.09, 0.04]) / 0.38
    np.testing.assert_allclose(drawn, p, atol=4 * np.sqrt(0.25 / 4000))
    assert Drawing().take(torch.tensor([-1.0, -0.5, -0.5]), generator) == 1, "ties to the smaller id"
