"""Places in a layer: together they make the residual stream, edited or not, in every family."""

from __future__ import annotations

import contextlib

import pytest
import torch
from engines import some_prompts
from families import FAMILIES, tiny

from harness.errors import HarnessError
from harness.model.input_weights import read_in
from harness.model.model import Model

SUMS = ("residual_before", "residual_after", "attention_out", "mlp_out")


def run(model: Model, layer: int, edited: str | None = None, places: tuple[str, ...] = SUMS) -> dict[str, torch.Tensor]:
    """What is at the places of a layer in one pass, and its logits; the place ``edited`` becomes 2x + 1."""
    with torch.no_grad(), contextlib.ExitStack() as stack:
        if edited is not None:
            stack.enter_context(model.edit_place(edited, layer, lambda x: 2 * x + 1))
        seen = {place: stack.enter_context(model.capture_place(place, layer)) for place in places}
        logits = model.forward(model.pad(some_prompts(0, n=3)), logits_to_keep=0).logits
    return {place: found[layer] for place, found in seen.items()} | {"logits": logits}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"opt_350m"}))  # a norm stands on its residual stream
def test_what_attention_and_mlp_write_is_what_the_layer_adds(family: str) -> None:
    model, layer = tiny(family), 1
    rho, untouched = model.anatomy.residual_multiplier, run(model, layer)
    for edited in (None, "residual_before", "attention_out", "mlp_out"):
        seen = run(model, layer, edited)
        if edited is not None:
            torch.testing.assert_close(seen[edited], 2 * untouched[edited] + 1)
            assert (seen["logits"] - untouched["logits"]).abs().max() > 1e-3
        added = rho * (seen["attention_out"] + seen["mlp_out"])
        torch.testing.assert_close(seen["residual_after"], seen["residual_before"] + added, atol=1e-4, rtol=1e-4)
    before, after = run(model, layer, "residual_before"), run(model, layer - 1, "residual_after")
    assert torch.equal(before["logits"], after["logits"])


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama", "gpt_neox", "phi3", "gemma2", "olmo2", "falcon"])
def test_what_the_mlp_reads_gives_its_pre_activations(family: str) -> None:
    model = tiny(family)
    weights, outputs = read_in(model, 1), []
    handle = weights.projection.register_forward_hook(lambda module, args, output: outputs.append(output))
    read = run(model, 1, places=("mlp_in",))["mlp_in"]
    handle.remove()
    found = read @ weights.w_in.float().T + weights.b_in.float()
    torch.testing.assert_close(found.flatten(0, 1), outputs[-1][..., weights.columns].flatten(0, -2))


def test_heads_are_side_by_side_and_places_that_do_not_exist_are_refused() -> None:
    model = tiny("llama_gqa_tied")
    batch = model.pad(some_prompts(0, n=3))
    with torch.no_grad(), model.capture_place("heads", 1) as flat, model.capture_heads(1) as heads:
        model.forward(batch)
    assert torch.equal(flat[1], heads[1].flatten(2))
    with pytest.raises(HarnessError, match=r'no place "mlp_output" in a layer.* Did you mean "mlp_out"'):
        run(model, 1, places=("mlp_output",))
    with pytest.raises(HarnessError, match="layers 0 to 2, there is no layer 3"):
        run(model, 3)
    with pytest.raises(HarnessError, match='"mlp_in" of a layer can be read, but not edited'):
        run(model, 1, "mlp_in")
