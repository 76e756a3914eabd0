"""What is refused, each in one sentence that says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from families import D_VOCAB, tiny, tiny_hf, tokenizer
from torch import nn

from harness.errors import HarnessError
from harness.model.digests import check_finite
from harness.model.wrapping import wrap

SMALL = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def refusal(hf: Any) -> str:
    """The sentence with which a model is refused."""
    with pytest.raises(HarnessError) as caught:
        wrap(hf.eval(), tokenizer(), "tiny")
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def from_config(config: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, config)(**{**SMALL, **options}))


def test_a_device_that_holds_the_weights_alone() -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    hf = tiny_hf("gpt2")
    hf.register_forward_pre_hook(full)
    said = "tiny does not fit into the device's memory with the passes that look for its parts: take dtype=bfloat16 or"
    assert refusal(hf) == f"{said} device_map=auto."


# --- architectures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["JetMoeConfig", "Llama4TextConfig"])
def test_mixtures_of_experts_that_are_not_understood(config: str) -> None:
    message = refusal(from_config(config, num_local_experts=4, num_key_value_heads=2))
    assert re.match(r"\w+ForCausalLM is a mixture of experts that was not understood \(layer 0 has a ", message)


def test_encoders() -> None:
    message = refusal(transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)))
    assert message.startswith("BertForMaskedLM is not a causal language model: a token changes the predictions before")


def test_encoder_decoders() -> None:
    config = transformers.T5Config(vocab_size=D_VOCAB, d_model=32, num_layers=2, num_heads=4, d_ff=48, d_kv=8)
    message = refusal(transformers.T5ForConditionalGeneration(config))
    assert message == "T5ForConditionalGeneration is not a causal language model: it has an encoder."


def test_models_without_unembedding() -> None:
    message = refusal(transformers.LlamaModel(transformers.LlamaConfig(**SMALL)))
    assert message.startswith("LlamaModel is not supported: did not find an unembedding")


def test_unknown_families_are_told_where_to_teach_them() -> None:
    message = refusal(from_config("MambaConfig", state_size=4))
    assert "MambaForCausalLM is not supported: did not find an attention" in message
    assert "harness/model/anatomy.py" in message
    assert "harness/testing/tiny_models.py" in message


def test_unknown_treatment_of_logits() -> None:
    hf = tiny_hf("llama")
    hf.lm_head.register_forward_hook(lambda module, args, out: out.abs())
    message = refusal(hf)
    assert "its logits are not those of its final norm and unembedding" in message
    assert "harness/model/readout.py" in message


def test_unknown_final_norms() -> None:
    hf = tiny_hf("llama")
    hf.model.norm.forward = torch.tanh
    assert refusal(hf).startswith("the final norm LlamaRMSNorm is neither a LayerNorm nor an RMSNorm")


def test_layers_of_different_widths() -> None:
    hf = tiny_hf("llama")
    mlp = hf.model.layers[0].mlp
    mlp.gate_proj, mlp.up_proj, mlp.down_proj = nn.Linear(32, 40), nn.Linear(32, 40), nn.Linear(40, 32)
    assert "MLPs of different widths (40 to 48 neurons)" in refusal(hf)


# --- weights -------------------------------------------------------------------------------------------------------


def test_adapters_on_the_neurons_output() -> None:
    hf = tiny_hf("llama")
    for layer in hf.model.layers:
        layer.mlp.down_proj.register_forward_hook(lambda module, args, out: out * 1.1)
    assert "the MLP's output differs from neurons @ w_out + bias by 1.0e-01" in refusal(hf)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_damaged_weights_are_named(value: float) -> None:
    hf = tiny_hf("gpt2")
    hf.transformer.h[1].mlp.c_fc.weight[3, 5:7] = value
    message = refusal(hf)
    assert message.startswith('the weights of tiny are damaged: "transformer.h.1.mlp.c_fc.weight" holds 2 values')


@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 6e4), (torch.float32, 3e38)])
def test_weights_whose_sum_overflows_are_not_damaged(dtype: torch.dtype, large: float) -> None:
    hf = tiny_hf("llama", dtype)
    hf.model.embed_tokens.weight.fill_(large)
    check_finite(hf, "tiny")


# --- compiled models -----------------------------------------------------------------------------------------------


def compile_outside(hf: Any) -> Any:
    return torch.compile(hf)


def compile_inside(hf: Any) -> Any:
    hf.compile()
    return hf


def compile_a_layer(hf: Any) -> Any:
    hf.model.layers[1].compile()
    return hf


def compile_forward(hf: Any) -> Any:
    hf.forward = torch.compile(hf.forward)
    return hf


COMPILED = pytest.mark.parametrize("compiled", [compile_outside, compile_inside, compile_a_layer, compile_forward])


@COMPILED
def test_compiled_models(compiled: Callable[[Any], Any]) -> None:
    """None of them is run, so nothing is compiled in fact."""
    assert "compiled with torch.compile, which ignores hooks" in refusal(compiled(tiny_hf("llama")))


@COMPILED
def test_models_that_are_compiled_after_they_were_wrapped(compiled: Callable[[Any], Any]) -> None:
    model = tiny("llama")
    model.hf = compiled(model.hf)
    for block in (model.edit_neurons(2, lambda x: x), model.capture_neurons(2), model.capture_residual()):
        with pytest.raises(HarnessError, match=r"compiled with torch\.compile"), block:
            pass


# --- edits ---------------------------------------------------------------------------------------------------------


def test_edits_that_change_the_shape() -> None:
    for family in ("gpt2", "opt"):  # OPT flattens batch and positions
        model = tiny(family)
        batch = model.pad([[1, 2, 3], [1, 2]])
        d_mlp = model.anatomy.d_mlp
        wanted = rf"^an edit of layer 1 returned shape \(2, 3, 4\) for activations of shape \(2, 3, {d_mlp}\)\.$"
        with pytest.raises(HarnessError, match=wanted), model.edit_neurons(1, lambda x: x[..., :4]):
            model.forward(batch)
        # The hook is gone all the same.
        model.forward(batch)


def test_edits_that_no_pass_ran_through() -> None:
    model = tiny("gpt2")
    wanted = r"^an edit of layer 1 of gpt2 had no effect: no forward pass ran through it\.$"
    with pytest.raises(HarnessError, match=wanted), model.edit_neurons(1, lambda x: x):
        pass


def test_captures_that_no_pass_ran_through() -> None:
    model = tiny("gpt2")
    wanted = "^nothing was captured: no forward pass ran through "
    with pytest.raises(HarnessError, match=wanted + r"layer 2 of gpt2\.$"), model.capture_neurons([2]):
        pass
    with pytest.raises(HarnessError, match=wanted + r"gpt2\.$"), model.capture_residual():
        pass


def test_an_error_inside_a_block_is_not_hidden() -> None:
    model = tiny("gpt2")
    with pytest.raises(ZeroDivisionError), model.edit_neurons(1, lambda x: x), model.capture_residual():
        raise ZeroDivisionError
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.hf.modules())


def test_edits_nest() -> None:
    """The inner one sees what the outer one returned; a capture inside sees both, one outside neither."""
    model = tiny("gpt2")
    batch = model.pad([[1, 2, 3]])
    with (
        model.capture_neurons(1) as before,
        model.edit_neurons(1, lambda x: x + 1),
        model.edit_neurons(1, lambda x: x * 2),
        model.capture_neurons(1) as after,
    ):
        model.forward(batch)
    assert torch.equal(after[1], (before[1] + 1) * 2)
