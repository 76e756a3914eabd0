"""One model in several places: what `device_map` spreads, and leaves on the disk, gives the same numbers."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from families import D_VOCAB, tiny_hf, tokenizer
from safetensors.torch import load_file, save_file
from two_devices import two_devices

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.activation_summaries import activation_statistics
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.loading import load_hf
from harness.model.wrapping import wrap

PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 10, 11, 12]]
LAST = [BASELINE, *(Condition(f"last {i}", (SetNeurons(2, (i, i + 1), (0.5, -0.5)),)) for i in range(3))]
EARLIER = [BASELINE, *(Condition(f"early {i}", (SetNeurons(1, (i,), (1.0,)),)) for i in range(3))]
EVERYWHERE = [LAST[1], EARLIER[1], Condition("both", LAST[2].edits + EARLIER[2].edits)]

MODULES = {
    "gpt2": ("transformer", "h", ("wte", "wpe", "ln_f")),
    "llama": ("model", "layers", ("embed_tokens", "rotary_emb", "norm")),
    "gemma2": ("model", "layers", ("embed_tokens", "rotary_emb", "norm")),
}


@pytest.fixture(params=MODULES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / request.param
    tiny_hf(request.param).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def spread(folder: Path, where: str) -> dict[str, str]:
    """A device map: one layer on the disk, or all but that layer."""
    top, layers, others = MODULES[folder.name]
    units = [*(f"{top}.{name}" for name in others), *(f"{top}.{layers}.{i}" for i in range(3)), "lm_head"]
    return {unit: "disk" if (unit == f"{top}.{layers}.1") == (where == "a layer") else "cpu" for unit in units}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["a layer", "all but a layer"])
def test_a_model_partly_on_the_disk_gives_the_same_numbers(folder: Path, where: str) -> None:
    whole, parts = load_hf(str(folder)), load_hf(str(folder), device_map=spread(folder, where))
    places = {parameter.is_meta for parameter in parts.hf.parameters()}
    assert places == {True, False}  # some are on the disk
    assert parts.provenance() == whole.provenance()
    for engine, conditions in (
        (ClosedFormEngine, LAST),
        (BatchedEngine, EVERYWHERE),
        (HookEngine, LAST),
        (HookEngine, EARLIER),
    ):
        found, wanted = (engine(model, 2).score(PROMPTS, conditions) for model in (parts, whole))
        for name in ("loss", "entropy", "rank", "top"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=engine.__name__)
        made, known = (engine(model, 2).generate(PROMPTS, conditions, 3) for model in (parts, whole))
        np.testing.assert_array_equal(made.tokens, known.tokens)
        np.testing.assert_array_equal(made.entropy, known.entropy)
    found, wanted = (activation_statistics(model, PROMPTS, (0, 1, 2), 2, seed=0) for model in (parts, whole))
    for layer in range(3):
        np.testing.assert_array_equal(found.mean[layer], wanted.mean[layer])
        assert torch.equal(parts.w_out(layer), whole.w_out(layer))


def test_two_devices_give_the_numbers_of_one(folder: Path) -> None:
    """As with `device_map=auto` and two GPUs: no operation may meet tensors of both."""
    from accelerate import dispatch_model

    whole = load_hf(str(folder), attn_implementation="eager")
    places = {unit: "lazy:0" for unit in spread(folder, "a layer")}
    second = [unit for unit in places if unit.endswith((".1", ".2", ".norm", ".ln_f"))]
    places |= dict.fromkeys(second if whole.provenance()["tied_embeddings"] else [*second, "lm_head"], "lazy:1")
    with two_devices():
        hf = load_hf(str(folder), attn_implementation="eager").hf
        parts = wrap(dispatch_model(hf, places, main_device="lazy:0", force_hooks=True), whole.tokenizer, whole.name)
        assert {str(parameter.device) for parameter in hf.parameters()} == {"lazy:0", "lazy:1"}
        for engine, conditions in ((ClosedFormEngine, LAST[:3]), (BatchedEngine, EVERYWHERE), (HookEngine, EVERYWHERE)):
            found, wanted = (engine(model, 3).score(PROMPTS, conditions) for model in (parts, whole))
            np.testing.assert_allclose(found.loss, wanted.loss, atol=2e-5)
            np.testing.assert_allclose(found.entropy, wanted.entropy, atol=2e-5)
            made, known = (engine(model, 3).generate(PROMPTS, conditions, 2) for model in (parts, whole))
            np.testing.assert_array_equal(made.tokens, known.tokens)
        found, wanted = (activation_statistics(model, PROMPTS, (0, 2), 3, seed=0) for model in (parts, whole))
        np.testing.assert_allclose(found.mean[2], wanted.mean[2], atol=1e-6)


def test_the_second_device_is_one_of_its_own() -> None:
    with two_devices():
        here, there = torch.ones(2, device="lazy:0"), torch.ones(2).to("lazy:1")
        assert (here + here.to("lazy:0")).cpu().tolist() == [2, 2]
        for other in (there, torch.ones(2)):
            with pytest.raises(RuntimeError, match="same device"):
                here + other


def test_a_damaged_weight_on_the_disk_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    tiny_hf("gpt2").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    [name] = [name for name in weights if name.endswith("h.1.mlp.c_proj.weight")]
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(HarnessError, match=r"h\.1\.mlp\.c_proj\.weight.*1 value that is NaN"):
        load_hf(str(folder), device_map=spread(folder, "a layer"))


def test_auto_is_quiet_where_there_is_one_device(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        model = load_hf(str(folder), device_map="auto")
        load_hf(str(folder), device_map=spread(folder, "a layer"))
    assert model.provenance() == load_hf(str(folder)).provenance() and not caplog.records
    assert model.forward(model.pad(PROMPTS)).logits.shape == (3, 1, D_VOCAB)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device_map": "auto", "device": "cpu"}, r'device "cpu" and device_map exclude each other'),
        ({"device_map": {"transformer.hh": "cpu"}}, r'no module "transformer.hh". Did you mean "transformer.h"\?'),
    ],
)
def test_a_wrong_map_is_one_sentence(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    folder = tmp_path / "gpt2"
    tiny_hf("gpt2").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    with pytest.raises(HarnessError, match=sentence):
        load_hf(str(folder), **options)  # type: ignore[arg-type]
