"""``harness inspect`` on the bundled model."""

from __future__ import annotations

import json
from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]


def test_it_shows_parts_tokens_spectrum_and_neurons(harness: Run) -> None:
    code, out, _ = harness("inspect", "demo", "--quiet", "--top", "3")
    assert code == 0
    for words in (
        "GPTNeoXForCausalLM, 1.1M parameters",
        "what enters gpt_neox.layers.3.mlp.dense_4h_to_h",
        "verified: logits by the norm's formula are the model's",
        "closed_form, 999 controls by default",
        "['The'] [' capital'] [' of'] [' France'] [' is']",
        "suggested null space: 12 directions",
        "the last of them is no coordinate that the final norm closes",
        "Neurons of layer 3 with the lowest LogitVar",
    ):
        assert words in out, words


def test_json_is_all_of_it(harness: Run) -> None:
    code, out, _ = harness("inspect", "demo", "--quiet", "--json", "--layer", "1", "--prompt", "The animal")
    seen = json.loads(out)
    assert code == 0 and seen["layer"] == 1 and len(seen["neurons"]) == 10
    assert "".join(seen["prompts"]["as it is"]) == "The animal"


def test_what_is_no_model_or_layer_is_a_sentence(harness: Run) -> None:
    code, out, err = harness("inspect", "demoo")
    assert (code, out) == (2, "") and 'Did you mean "demo"?' in err
    code, out, err = harness("inspect", "demo", "--quiet", "--layer", "7")
    assert (code, out) == (2, "") and "has layers 0 to 3, there is no layer 7" in err
