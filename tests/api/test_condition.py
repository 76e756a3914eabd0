"""``harness.condition``: a person's own passes under it are the engine's hooked passes, and nothing stays behind."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from families import tiny, tiny_hf, tokenizer

import harness as public
from harness.api.conditions import condition
from harness.conditions.conditions import Condition, Frozen, SetNeurons
from harness.conditions.head_edits import AttendFirst
from harness.conditions.placed import Placed
from harness.conditions.positions import Positions
from harness.conditions.residual_edits import AddVector
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.model import Model

TEXTS = ("abcab", "the cat sat on the mat", "xyz", "one two three")

FAMILIES = ("gpt2", "gpt_neox", "llama_gqa_tied", "opt", "gemma2", "bloom")


def edited(model: Model) -> list[Condition]:
    """Of every site: neurons, heads that read the first token, the residual stream; and several at their own places."""
    neurons, heads = SetNeurons(1, (3, 5), (2.0, -1.5)), AttendFirst(1, (0, 2))
    pushed = AddVector(0, (0,), tuple(torch.linspace(-1, 1, model.anatomy.d_model).tolist()))
    return [
        Condition("neurons", (neurons,)),
        Condition("heads", (heads,)),
        Condition("direction", (pushed,)),
        Condition("placed", (Placed(neurons, Positions("last")), heads)),
        *(Condition(text, (neurons, heads), Positions(text)) for text in ("last", "first", "0:2", "-2:+generated")),
    ]


def padded(model: Model, side: str) -> dict[str, torch.Tensor]:
    """A batch as people make it: of ids and a mask, and of positions where these have to be counted from the mask."""
    batch = model.pad(model.encode(TEXTS))
    if side == "left":
        positions = {"position_ids": batch.position_ids} if "position_ids" in model._accepts else {}
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, **positions}
    rolls = [int(n) for n in batch.attention_mask.sum(1)]
    return {
        name: torch.stack([row.roll(n) for row, n in zip(x, rolls, strict=True)])
        for name, x in (("input_ids", batch.input_ids), ("attention_mask", batch.attention_mask))
    }


def scored(model: Model, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss of every token but the first of each text, of a plain pass of the model over a padded batch."""
    logits = model.hf(**inputs).logits.log_softmax(-1)
    losses = []
    for ids, mask, row in zip(inputs["input_ids"], inputs["attention_mask"].bool(), logits, strict=True):
        losses.append(-row[mask][:-1].gather(1, ids[mask][1:, None])[:, 0])
    return torch.cat(losses)


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_passes_are_the_engines_whatever_the_padding(family: str) -> None:
    model = tiny(family)
    wanted = HookEngine(model, 4).score(model.encode(TEXTS), edited(model)).loss
    for made, loss in zip(edited(model), wanted, strict=True):
        for side in ("left", "right"):
            with torch.no_grad(), condition(model.hf, made, tokenizer=model.tokenizer) as given:
                found = scored(model, padded(model, side))
            assert given is made
            torch.testing.assert_close(found.double(), torch.from_numpy(loss), atol=3e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "bloom"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation_is_the_engines_with_a_cache_and_without(family: str, use_cache: bool) -> None:
    model = tiny(family)
    wanted = HookEngine(model, 4).generate(model.encode(TEXTS), edited(model), 5)
    inputs = padded(model, "left")
    inputs.pop("position_ids", None)  # generate() counts them itself
    n = inputs["input_ids"].shape[1]
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for made, tokens in zip(edited(model), wanted.tokens, strict=True):
        if not use_cache and (made.name == "placed" or not made.positions.everywhere):
            continue  # every pass is a prompt of its own
        with condition(model, made):
            found = model.hf.generate(**inputs, **options, use_cache=use_cache)
        assert found[:, n:].tolist() == tokens.tolist()


def test_what_is_asked_for_in_words_is_what_the_command_line_says() -> None:
    """Mean ablation of named neurons: the mean of these texts' tokens; of a control set, of other neurons."""
    hf, texts = tiny_hf("llama"), ["abc", "hello there"]
    with condition(hf, units=["1.3", "1.7"], intervention="mean", texts=texts, tokenizer=tokenizer()) as treated:
        hf(torch.tensor([[1, 2, 3]]))
    statistics = public.load_model(hf, tokenizer=tokenizer()).statistics(texts, 1)
    assert treated.edits == public.mean(["1.3", "1.7"], statistics).edits
    words: dict[str, Any] = {"selector": "neurons:neurons=[1.3,1.7]", "intervention": "zero:positions=last"}
    with condition(hf, **words, control=2, seed=1, tokenizer=tokenizer()) as control:
        hf(torch.tensor([[1, 2, 3]]))
    assert control.positions == Positions("last") and len(control.units) == 2
    assert set(map(str, control.units)) != {"1.3", "1.7"}
    with condition(hf, units="L0H1", intervention="bos_attention", tokenizer=tokenizer()) as heads:
        hf(torch.tensor([[1, 2, 3]]))
    assert [str(unit) for unit in heads.units] == ["L0H1"]


def hooks_of(hf: torch.nn.Module) -> int:
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) for x in hf.modules())


def test_nothing_stays_behind_whatever_ends_the_block() -> None:
    hf = tiny_hf("gpt2").train()
    hf.transformer.h[0].eval()
    training, tokens = [x.training for x in hf.modules()], torch.tensor([[5, 6, 7]])
    words: dict[str, Any] = {"intervention": "zero", "tokenizer": tokenizer()}
    with pytest.raises(KeyError), condition(hf, units="1.3", **words):
        assert [x.training for x in hf.modules()] == training
        hf(tokens)
        raise KeyError
    with pytest.raises(HarnessError, match=r"layers 0 to 2"), condition(hf, units="7.3", **words):
        pass
    unused = condition(hf, units="1.3", **words)
    with pytest.raises(HarnessError, match="had no effect: no forward pass ran through it"), unused:
        pass
    assert hooks_of(hf) == 0 and [x.training for x in hf.modules()] == training


def test_blocks_nest_and_gradients_go_through() -> None:
    model = public.load_model(tiny_hf("gpt2").requires_grad_(True), tokenizer=tokenizer())
    tokens = torch.tensor([[5, 6, 7, 8]])
    both = Condition("both", (SetNeurons(1, (3,), (0.0,)), SetNeurons(0, (2,), (1.0,))))
    with condition(model, both):
        wanted = model.hf(tokens, labels=tokens)
    wanted.loss.backward()
    gradient = model.hf.transformer.wte.weight.grad.clone()
    model.hf.zero_grad()
    with condition(model, public.zero("1.3")), condition(model, public.hold("0.2", 1.0)):
        found = model.hf(tokens, labels=tokens)
    found.loss.backward()
    assert torch.equal(found.logits, wanted.logits)
    torch.testing.assert_close(model.hf.transformer.wte.weight.grad, gradient)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda hf, tok: condition(hf, tokenizer=tok), "units: say what is edited"),
        (lambda hf, tok: condition(hf, units="1.3", tokenizer=tok), "intervention: a selector and an intervention go"),
        (lambda hf, tok: condition(hf, units="1.3", intervention="mean", tokenizer=tok), "corpus: this selector or"),
        (
            lambda hf, tok: condition(hf, units="x3", intervention="zero", tokenizer=tok),
            '"x3" is not the name of a',
        ),
        (
            lambda hf, tok: condition(hf, public.zero("1.3"), units="1.3", tokenizer=tok),
            "units: a condition that is",
        ),
        (lambda hf, tok: condition(hf, public.zero("1.3")), "tokenizer: there is none beside GPT2LMHeadModel"),
        (lambda hf, tok: condition(torch.nn.Linear(2, 2), public.zero("1.3")), "a Linear is no causal language model"),
        (
            lambda hf, tok: condition(hf, units="1.3", intervention="zero:positions=subject", tokenizer=tok),
            'positions: "subject" is named by a task',
        ),
        (
            lambda hf, tok: condition(hf, replace(public.zero("2.3"), frozen=Frozen("final_norm")), tokenizer=tok),
            "leave frozen out",
        ),
    ],
)
def test_mistakes_are_sentences(ask: Callable[[Any, Any], Any], said: str) -> None:
    hf = tiny_hf("gpt2")
    with pytest.raises(HarnessError, match=said), ask(hf, tokenizer()):
        pass
    assert hooks_of(hf) == 0


def test_a_prompt_that_was_begun_before_the_block_is_refused_where_that_matters() -> None:
    model = tiny("gpt2")
    begun = model.hf(torch.tensor([[5, 6, 7]]), use_cache=True).past_key_values
    with condition(model, public.zero("1.3")):
        model.hf(torch.tensor([[8]]), past_key_values=copy.deepcopy(begun))  # everywhere: no matter
    late = replace(public.zero("1.3"), positions=Positions("last"))
    with pytest.raises(HarnessError, match="goes on from 1 prompt that was run before"), condition(model, late):
        model.hf(torch.tensor([[8]]), past_key_values=begun)


# -- models that other libraries have wrapped --------------------------------------------------------------------------


@pytest.fixture
def bridged() -> Iterator[Callable[[str], Any]]:
    """A ``TransformerBridge`` of a tiny model."""
    bridge = pytest.importorskip("transformer_lens.model_bridge", reason="TransformerLens is not installed")
    with tempfile.TemporaryDirectory() as folder:  # it reads the tokenizer again, from where it was loaded
        tokenizer().save_pretrained(folder)
        reads = transformers.AutoTokenizer.from_pretrained(folder)

        def make(family: str) -> Any:
            hf = tiny_hf(family)
            hf.config.architectures = [type(hf).__name__]  # by which it knows them
            return bridge.TransformerBridge.boot_transformers(family, hf_model=hf, tokenizer=reads, device="cpu")

        yield make


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "phi3"])
def test_a_bridge_of_transformer_lens_runs_under_the_condition(bridged: Any, family: str) -> None:
    """Its own implementation of attention, its own hooks around every module."""
    model, bridge, tokens = tiny(family), bridged(family), torch.tensor([[5, 9, 7, 3, 11]])
    before = bridge(tokens, return_type="logits")
    for made in edited(model):
        with condition(model, made):
            wanted = model.hf(tokens).logits
        with condition(bridge, made):
            found = bridge(tokens, return_type="logits")
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert torch.equal(bridge(tokens, return_type="logits"), before)
    with condition(bridge, units="1.3", intervention="mean", texts="abc", add_bos=False) as asked:
        bridge(tokens)
    with condition(model, units="1.3", intervention="mean", texts="abc") as wished:
        model.hf(tokens)
    assert asked.edits[0].values == pytest.approx(wished.edits[0].values, abs=1e-5)  # type: ignore[attr-defined]


def test_a_bridge_that_runs_other_weights_is_refused(bridged: Any) -> None:
    bridge = bridged("gpt2")
    bridge.original_model.transformer.h[1].mlp.register_forward_hook(lambda module, args, output: output * 1.5)
    asked = condition(bridge, public.zero("1.3"))
    with pytest.raises(HarnessError, match=r"log-probabilities that are .* away from those of the modules"), asked:
        pass
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(HarnessError, match="in compatibility mode"), condition(bridge, public.zero("1.3")):
        pass
