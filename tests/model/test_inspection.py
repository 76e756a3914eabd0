"""What is said of a model before a run: by the oracle of plain loops, and for families whose readouts differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from families import tiny

from harness.errors import HarnessError
from harness.model import write_directions
from harness.model.inspection import inspect
from harness.testing import demo_model


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_the_errors_are_those_of_rounding(family: str) -> None:
    seen = inspect(tiny(family), prompt="abc")
    assert seen.errors.readout < 1e-5
    direct = tiny(family).anatomy.direct_write
    assert (seen.errors.write is None) == (not direct) and seen.engine == ("closed_form" if direct else "batched")
    if seen.errors.write is not None:
        assert seen.errors.write < 1e-4
    assert json.dumps(seen.to_dict())


def test_a_readout_that_is_wrong_is_seen() -> None:
    model = tiny("llama")
    model.readout.gain.mul_(1.01)
    assert inspect(model, prompt="abc").errors.readout > 1e-3


def test_logit_var_is_that_of_a_plain_loop() -> None:
    model = demo_model()
    seen = inspect(model, top=3)
    W = model.readout.folded_unembedding(dtype=torch.float64)
    W = W - W.mean(1, keepdim=True)  # the bundled model has a LayerNorm
    w_out = write_directions(model, model.anatomy.n_layers - 1)
    logit_var = []
    for w in w_out:
        cosines = (W @ torch.from_numpy(w)) / (W.norm(dim=1) * np.linalg.norm(w))
        logit_var.append(float(cosines.var(unbiased=False)))
    assert {x["neuron"] for x in seen.neurons} <= {f"3.{i}" for i in range(8)}  # those that the model was given
    ordinary = inspect(model, top=60).neurons[20]
    assert ordinary["logit_var"] == pytest.approx(logit_var[int(ordinary["neuron"].partition(".")[2])], rel=1e-6)
    assert ordinary["norm"] == pytest.approx(np.linalg.norm(w_out[int(ordinary["neuron"].partition(".")[2])]))


def test_prompts_are_shown_as_they_are_fed() -> None:
    model = tiny("llama")
    model.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}|"
    seen = inspect(model, prompt="ab")
    assert "".join(seen.prompts["as it is"]).endswith("ab")
    assert "".join(seen.prompts["as a chat"]) == "<user>ab|"


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(HarnessError, match="there is no layer 9"):
        inspect(tiny("llama"), layer=9)
