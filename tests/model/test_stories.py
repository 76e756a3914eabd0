"""A small trained Llama that this project did not make: real text in, the same real text out."""

from __future__ import annotations

import pytest
import torch
from checkout import reference
from families import greedy

from harness.model.loading import load_hf
from harness.model.model import Model

PROMPTS = (
    "Once upon a time, there was a little girl named Lily. She",
    "Tom had a dog.",
    "The sun",
)


@pytest.fixture(scope="module")
def model(stories: Model) -> Model:
    return stories


def test_it_is_what_its_card_says(model: Model) -> None:
    anatomy = model.anatomy
    assert (anatomy.n_layers, anatomy.d_model, anatomy.d_mlp, anatomy.d_vocab) == (5, 64, 172, 512)
    assert (anatomy.n_heads, anatomy.n_kv_heads, anatomy.d_head) == (8, 4, 8)
    assert (anatomy.parallel, anatomy.direct_write) == (False, True)
    assert (model.readout.norm, model.readout.eps, model.readout.bias) == ("rmsnorm", 1e-5, None)
    assert (model.prefix, model.pad_id, model.end_tokens, model.n_positions) == ((1,), 2, (2,), 512)


def test_tokens_are_those_of_the_tokeniser(model: Model) -> None:
    for prompt, ids in zip(PROMPTS, model.encode(PROMPTS), strict=True):
        assert ids == model.tokenizer(prompt)["input_ids"]
        assert "".join(model.token_texts[i] for i in ids[1:]).strip() == prompt


def test_greedy_text_is_sensible(model: Model) -> None:
    (new,) = greedy(model, model.encode(PROMPTS[:1]), 16)
    assert model.tokenizer.decode(new).startswith("loved to play outside in the park.")


def test_greedy_text_of_a_padded_batch_is_that_of_transformers_one_by_one(model: Model) -> None:
    sequences = model.encode(PROMPTS)
    for ids, new in zip(sequences, greedy(model, sequences, 40), strict=True):
        wanted = model.hf.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, eos_token_id=None)
        assert new == wanted[0, len(ids) :].tolist()


def test_the_model_predicts_stories_well(model: Model) -> None:
    """Mean loss in nats per token; 6.24 would be chance."""
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    (ids,) = model.encode([text])
    logits = model.forward(model.pad([ids]), logits_to_keep=0).logits[0, :-1]
    assert torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item() < 1.0


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_neurons_are_what_the_mlp_computes(model: Model, layer: int) -> None:
    mlp = model.anatomy.layers[layer].mlp
    seen: list[torch.Tensor] = []
    hook = mlp.register_forward_hook(lambda module, args, out: seen.extend((args[0], out)))
    with model.capture_neurons(layer) as neurons:
        model.forward(model.pad(model.encode(PROMPTS)))
    hook.remove()
    by_hand = torch.nn.functional.silu(mlp.gate_proj(seen[0])) * mlp.up_proj(seen[0])
    assert torch.allclose(neurons[layer], by_hand, atol=1e-6)
    assert torch.allclose(neurons[layer] @ model.w_out(layer), seen[1], atol=1e-5)


@pytest.mark.parametrize("layer", [2, 4])
def test_ablating_a_neuron_is_zeroing_its_write_direction(model: Model, layer: int) -> None:
    def ablate(activations: torch.Tensor) -> torch.Tensor:
        edited = activations.clone()
        edited[..., 7] = 0
        return edited

    batch = model.pad(model.encode(PROMPTS))
    before = model.forward(batch).logits
    with model.edit_neurons(layer, ablate):
        found = model.forward(batch).logits
    edited = load_hf(str(reference("models/stories260k")))
    edited.anatomy.down_projections[layer].weight[:, 7] = 0
    wanted = edited.forward(batch).logits
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, before, atol=1e-3)


def test_a_last_layer_edit_moves_the_logits_as_the_readout_says(model: Model) -> None:
    batch = model.pad(model.encode(PROMPTS))
    with model.capture_neurons(4) as neurons, model.capture_residual() as before:
        model.forward(batch)
    with model.edit_neurons(4, lambda x: x * 2):
        found = model.forward(batch, logits_to_keep=0).logits
    assert torch.allclose(model.readout.logits(before.residual + neurons[4] @ model.w_out(4)), found, atol=1e-4)
