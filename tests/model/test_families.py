"""Every verified family: where its parts are, what an edit does, and that padding and the cache change nothing."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, Family, greedy, tiny, tiny_hf, tokenizer

from harness.conditions.conditions import BASELINE
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.key_values import cache_argument, cache_of
from harness.model.model import Model
from harness.model.wrapping import wrap

PROMPTS = ("The capital of France is", "a", "Bees make hon")
NEURONS = {3: 0.0, 17: 2.5}
"""Neurons, and the values that edits fix them at."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def spec(family: str) -> Family:
    return FAMILIES[family]


@pytest.fixture(scope="module")
def model(family: str) -> Model:
    return tiny(family)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Equal up to ``tolerance`` of the largest magnitude wanted."""
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())


def plain_logits(hf: Any, ids: list[int]) -> torch.Tensor:
    """Logits [pos, d_vocab] of one sequence from the ``transformers`` model alone: no mask, no positions, no cache."""
    logits: torch.Tensor = hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def fix_neurons(activations: torch.Tensor) -> torch.Tensor:
    edited = activations.clone()
    for neuron, value in NEURONS.items():
        edited[..., neuron] = value
    return edited


def with_fixed_neurons(model: Model, layer: int) -> Any:
    """A copy of the ``transformers`` model, edited in its weights: rows of w_out zeroed, constants in the bias."""
    path = {id(module): path for path, module in model.hf.named_modules()}[id(model.anatomy.down_projections[layer])]
    hf = copy.deepcopy(model.hf)
    down = hf.get_submodule(path)
    w_out = down.weight if type(down).__name__ == "Conv1D" else down.weight.T
    constant = torch.zeros(w_out.shape[1])
    for neuron, value in NEURONS.items():
        constant += value * w_out[neuron]
        w_out[neuron] = 0
    down.bias = torch.nn.Parameter(constant if down.bias is None else down.bias + constant, requires_grad=False)
    return hf


# --- where things are ----------------------------------------------------------------------------------------------


def test_it_has_the_properties_of_its_family(model: Model, spec: Family) -> None:
    assert model.readout.norm == spec.norm
    assert model.anatomy.parallel == spec.parallel
    assert model.anatomy.direct_write == spec.direct_write
    assert model.anatomy.residual_multiplier == spec.options.get("residual_multiplier", 1.0)


def test_counts_match_the_configuration_and_the_cache(model: Model) -> None:
    anatomy, config = model.anatomy, model.hf.config
    assert anatomy.n_layers == len(anatomy.layers) == config.num_hidden_layers
    assert anatomy.d_model == config.hidden_size
    assert anatomy.n_heads == config.num_attention_heads
    assert anatomy.d_vocab == config.vocab_size == model.readout.W_U.shape[0]
    keys = cache_of(model.forward(model.pad([[1, 2, 3]]), use_cache=True)).layers[-1].keys
    # The newer Falcon repeats its two key-value heads before they are cached.
    n_kv_heads = 2 if model.name == "falcon_new" else keys.shape[1]
    assert (anatomy.n_kv_heads, anatomy.d_head) == (n_kv_heads, keys.shape[3])
    for layer in range(anatomy.n_layers):
        assert model.w_out(layer).shape == (anatomy.d_mlp, anatomy.d_model)


def test_the_attention_output_projection_reads_the_heads(model: Model) -> None:
    """At the first position a head sees itself alone: its output there is its value vector, which is in the cache."""
    heads: list[torch.Tensor] = []
    projection = model.anatomy.attention_outputs[-1]
    hook = projection.register_forward_pre_hook(lambda module, args: heads.append(args[0]))
    out = model.forward(model.pad(model.encode(PROMPTS[:1])), use_cache=True)
    hook.remove()
    assert projection in list(model.anatomy.attentions[-1].modules())
    first = heads[0][0, 0].view(model.anatomy.n_heads, model.anatomy.d_head)
    values = cache_of(out).layers[-1].values[0, :, 0]
    assert close(first, values.repeat_interleave(len(first) // len(values), dim=0))


def test_neurons_times_w_out_is_what_the_down_projection_gives(model: Model) -> None:
    for layer, down in enumerate(model.anatomy.down_projections):
        outputs: list[torch.Tensor] = []
        # Cloned: Falcon adds the attention's output to it in place.
        hook = down.register_forward_hook(lambda module, args, out, outputs=outputs: outputs.append(out.clone()))
        with model.capture_neurons(layer) as neurons:
            batch = model.pad(model.encode(PROMPTS))
            model.forward(batch)
        hook.remove()
        assert neurons[layer].shape == (*batch.input_ids.shape, model.anatomy.d_mlp)
        written = neurons[layer] @ model.w_out(layer)
        if (bias := model.down_bias(layer)) is not None:
            written = written + bias
        assert close(written, outputs[0].view(written.shape))


def test_the_readout_gives_the_models_logits(model: Model) -> None:
    with model.capture_residual() as captured:
        logits = model.forward(model.pad(model.encode(PROMPTS)), logits_to_keep=0).logits
    assert logits.shape == (*captured.residual.shape[:2], model.anatomy.d_vocab)
    assert close(model.readout.logits(captured.residual), logits)
    denominator = model.readout.denominator(captured.residual)
    assert close(model.readout.logits(captured.residual, denominator), logits), "the explicit formula"


def test_scale_and_cap_of_logits_are_exactly_those_of_the_configuration(model: Model) -> None:
    stated = {"granite": (1 / 8, None), "cohere": (0.25, None), "cohere2": (0.25, None), "gemma2": (1.0, 0.5)}
    assert (model.readout.scale, model.readout.cap) == stated.get(model.name, (1.0, None))


def test_the_folded_unembedding_gives_the_same_logits_up_to_a_constant(model: Model) -> None:
    readout = model.readout
    with model.capture_residual() as captured:
        model.forward(model.pad(model.encode(PROMPTS)))
    x = captured.residual - (captured.residual.mean(-1, keepdim=True) if readout.centre_writes else 0)
    folded = x / readout.denominator(captured.residual) @ readout.folded_unembedding().T + readout.folded_bias()
    raw = replace(readout, scale=1.0, cap=None).logits(captured.residual)
    assert close(folded, raw - raw.mean(-1, keepdim=True))


# --- edits ---------------------------------------------------------------------------------------------------------


def test_an_edit_of_neurons_is_an_edit_of_weights(model: Model) -> None:
    for layer in range(model.anatomy.n_layers):
        edited = with_fixed_neurons(model, layer)
        for ids in model.encode(PROMPTS):
            with model.edit_neurons(layer, fix_neurons):
                found = model.forward(model.pad([ids]), logits_to_keep=0).logits[0]
            assert close(found, plain_logits(edited, ids))
            assert not close(found, plain_logits(model.hf, ids), 1e-4), "the edit must change something"


def test_an_edit_leaves_no_trace(model: Model) -> None:
    batch = model.pad(model.encode(PROMPTS))
    before = model.forward(batch).logits
    with model.edit_neurons(0, fix_neurons), model.capture_neurons([0, 1]):
        model.forward(batch)
    assert torch.equal(model.forward(batch).logits, before)


def test_a_last_layer_edit_moves_the_final_residual_by_what_it_writes(model: Model) -> None:
    last = model.anatomy.n_layers - 1
    batch = model.pad(model.encode(PROMPTS))
    with model.capture_neurons(last) as neurons, model.capture_residual() as before:
        model.forward(batch)
    with model.edit_neurons(last, fix_neurons), model.capture_residual() as after:
        model.forward(batch)
    delta = fix_neurons(neurons[last]) - neurons[last]
    predicted = before.residual + delta @ model.w_out(last) * model.anatomy.residual_multiplier
    # Granite scales what is written: exact too, with the multiplier, though not called direct.
    exact = model.anatomy.direct_write or model.anatomy.residual_multiplier != 1.0
    assert close(after.residual, predicted) == exact


# --- batches -------------------------------------------------------------------------------------------------------


def test_left_padding_changes_nothing(model: Model) -> None:
    sequences = model.encode(PROMPTS)
    batch = model.pad(sequences)
    logits = model.forward(batch).logits
    assert logits.shape == (3, 1, model.anatomy.d_vocab)
    for row, ids in enumerate(sequences):
        n = len(ids)
        assert batch.input_ids[row, -n:].tolist() == ids
        assert batch.position_ids[row, -n:].tolist() == list(range(n))
        assert batch.attention_mask[row].tolist() == [0] * (batch.input_ids.shape[1] - n) + [1] * n
        assert close(logits[row, -1], plain_logits(model.hf, ids)[-1])


def test_the_cache_and_padding_do_not_change_greedy_text(model: Model) -> None:
    sequences = model.encode(PROMPTS)
    last = model.anatomy.n_layers - 1
    edited = with_fixed_neurons(model, last)
    found = greedy(model, sequences, 6)
    with model.edit_neurons(last, fix_neurons):
        found_edited = greedy(model, sequences, 6)
    for hf, rows in ((model.hf, found), (edited, found_edited)):
        for ids, new in zip(sequences, rows, strict=True):
            # Token by token from the plain model, so that no cache can be wrong on both sides.
            predicted = plain_logits(hf, ids + new[:-1])[len(ids) - 1 :].argmax(-1)
            assert new == predicted.tolist()


def test_several_tokens_may_follow_the_cache_at_once(model: Model) -> None:
    prompts, answers = model.encode(PROMPTS), model.encode([" Paris", " dogs.", "ey so"])
    n = min(map(len, answers))
    answers = [ids[:n] for ids in answers]
    batch = model.pad(prompts)
    past = cache_of(model.forward(batch, use_cache=True))
    logits = model.forward(batch.extend(torch.tensor(answers)), past=past, logits_to_keep=n).logits
    for row, ids in enumerate(prompts):
        assert close(logits[row], plain_logits(model.hf, ids + answers[row])[-n:])


def test_capped_attention_is_not_left_to_a_kernel_that_knows_no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the versions of transformers that let sdpa leave the cap out."""
    monkeypatch.setattr(transformers.Gemma2PreTrainedModel, "_supports_sdpa", True)
    hf = tiny_hf("gemma2", attention="sdpa")
    assert hf.config._attn_implementation == "sdpa" and hf.config.attn_logit_softcapping
    model, ids = wrap(hf, tokenizer(), "gemma2"), [1, 2, 3]
    assert torch.equal(plain_logits(model.hf, ids), plain_logits(tiny_hf("gemma2", attention="eager"), ids))


class Bare(transformers.LlamaForCausalLM):
    """As code that comes with a model may be: it takes neither positions nor ``logits_to_keep``, and calls its cache as
    it was called when the code was written."""

    def forward(self, input_ids: Any, attention_mask: Any = None, past_key_values: Any = None, use_cache: Any = None):
        past = {cache_argument(inspect.signature(super().forward).parameters, "Llama"): past_key_values}
        return super().forward(input_ids, attention_mask, **past, use_cache=use_cache)


def test_models_that_do_not_take_every_option() -> None:
    hf = tiny_hf("llama")
    hf.__class__ = Bare
    model = wrap(hf, tokenizer(), "bare")
    sequences = model.encode(PROMPTS)
    assert model.forward(model.pad(sequences), logits_to_keep=2).logits.shape == (3, 2, model.anatomy.d_vocab)
    assert (
        model.forward(model.pad(sequences), logits_to_keep=0).logits.shape[:2] == model.pad(sequences).input_ids.shape
    )
    assert greedy(model, sequences, 4) == greedy(tiny("llama"), sequences, 4)


class Forgetful(transformers.LlamaForCausalLM):
    """Takes a cache and does not read it."""

    def forward(self, input_ids: Any, attention_mask: Any = None, past_key_values: Any = None, use_cache: Any = None):
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        return super().forward(input_ids, mask, use_cache=use_cache)


class Nameless(transformers.LlamaForCausalLM):
    """Has another word for its cache."""

    def forward(self, input_ids: Any, attention_mask: Any = None, memory: Any = None, use_cache: Any = None):
        return super().forward(input_ids, attention_mask, use_cache=use_cache)


class Cacheless(transformers.LlamaForCausalLM):
    def forward(self, input_ids: Any, attention_mask: Any = None, use_cache: Any = None):
        return super().forward(input_ids, attention_mask, use_cache=False)


@pytest.mark.parametrize("engine", [HookEngine, BatchedEngine, ClosedFormEngine])
@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Forgetful, r"bare cannot generate: tokens that follow .* get other logits than in one pass"),
        (
            Nameless,
            r"bare does not take .* an earlier pass: its forward\(\) has no argument cache or past_key_values\.$",
        ),
        (Cacheless, r"bare cannot generate: its passes give no keys and values to go on from\.$"),
    ],
)
def test_a_cache_that_is_not_read_is_found_before_anything_is_generated(cls: Any, message: str, engine: Any) -> None:
    hf = tiny_hf("llama")
    hf.__class__ = cls
    model = wrap(hf, tokenizer(), "bare")
    with pytest.raises(HarnessError, match=f"^{message}"):
        engine(model).generate([[1, 2, 3]], [BASELINE], 2)


@pytest.mark.parametrize("forgets", [False, True])
def test_a_model_that_rounds_much_generates_and_one_that_forgets_is_still_found_out(forgets: bool) -> None:
    """SmolLM2-135M with noise in its weights rounds by 1e-4 of its largest logit where sums have other lengths."""
    hf = tiny_hf("llama")

    def rounded(module: Any, args: Any) -> Any:
        x = args[0]
        return (x + 1e-3 * (x.shape[1] % 5) * x.roll(1, -1), *args[1:])

    hf.model.norm.register_forward_pre_hook(rounded)
    if forgets:
        hf.__class__ = Forgetful
    model = wrap(hf, tokenizer(), "rough")
    assert 1e-4 < model.padding_error < 5e-3
    if forgets:
        with pytest.raises(HarnessError, match=r"^rough cannot generate: tokens that follow"):
            model.check_cache()
    else:
        model.check_cache()
