"""Quantised checkpoints: they run as they are, and what is read of their weights is what the maps do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoints import change_config
from commands import arguments
from engines import same_scores, some_conditions, some_prompts
from families import tiny_hf, tokenizer
from safetensors.torch import load_file, save_file
from torch import nn

from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.model.inspection import inspect
from harness.model.loading import load_hf
from harness.model.matrices import is_packed, write_matrix
from harness.model.model import Model
from harness.model.quantised import plain
from harness.model.untouched import State, untouched
from harness.model.wrapping import wrap
from harness.results.record import Quantised

ROUGH = 2e-2
"""What 8 bits leave of an input, as a share of the largest."""


# --- tiny checkpoints of each method ---------------------------------------------------------------------------------


def plain_folder(folder: Path) -> Path:
    tiny_hf("llama").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def quantised_by(folder: Path, config: Any) -> None:
    """What a library makes of the tiny model, saved as a user would."""
    plain_folder(folder / "of")
    hf = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "of", dtype=torch.float32, device_map="cpu", quantization_config=config
    )
    hf.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def bitsandbytes(folder: Path, **settings: Any) -> None:
    pytest.importorskip("bitsandbytes")
    quantised_by(folder, transformers.BitsAndBytesConfig(**settings))


def torchao(folder: Path, name: str) -> None:
    made = getattr(pytest.importorskip("torchao.quantization"), name)()
    quantised_by(folder, transformers.TorchAoConfig(made))


def rewritten(
    folder: Path, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]], settings: dict[str, Any]
) -> None:
    """The tiny model with the matrices of its layers written another way, as a format defines it."""
    file = plain_folder(folder) / "model.safetensors"
    new: dict[str, torch.Tensor] = {}
    for name, weight in load_file(file).items():
        new |= change(name, weight) if ".layers." in name and weight.dim() == 2 else {name: weight}
    save_file(new, file, metadata={"format": "pt"})
    change_config(folder, quantization_config=settings)


def fp8(folder: Path, block: int = 16) -> None:
    """As DeepSeek's and Qwen's: float8 with a scale for each square block."""

    def change(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        d_out, d_in = weight.shape
        blocks = weight.view(d_out // block, block, d_in // block, block)
        scale = blocks.abs().amax((1, 3)) / 448
        packed = (blocks / scale[:, None, :, None]).view(d_out, d_in).to(torch.float8_e4m3fn)
        return {name: packed, f"{name}_scale_inv": scale}

    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block, block]}
    rewritten(folder, change, settings)


def compressed(folder: Path) -> None:
    """As llm-compressor writes four bits, eight in an int32."""
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")

    def change(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / 7
        packed = helpers.pack_to_int32((weight / scale).round().clamp(-8, 7).to(torch.int8), 4)
        return {f"{name}_packed": packed, f"{name}_scale": scale, f"{name}_shape": torch.tensor(weight.shape)}

    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
        "ignore": ["lm_head"],
    }
    rewritten(folder, change, settings)


MADE: dict[str, tuple[Callable[[Path], None], str, str | None, bool]] = {
    "bitsandbytes 8": (lambda f: bitsandbytes(f, load_in_8bit=True), "bitsandbytes", "int8", True),
    "bitsandbytes 4": (
        lambda f: bitsandbytes(f, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        "bitsandbytes",
        "nf4",
        False,
    ),
    "torchao int8": (lambda f: torchao(f, "Int8WeightOnlyConfig"), "torchao", "Int8WeightOnly", False),
    "torchao float8": (lambda f: torchao(f, "Float8WeightOnlyConfig"), "torchao", "Float8WeightOnly", False),
    "bitsandbytes unembedding": (
        lambda f: bitsandbytes(f, load_in_4bit=True, llm_int8_skip_modules=["embed_tokens"]),
        "bitsandbytes", "fp4", False,
    ),
    "torchao activations": (
        lambda f: torchao(f, "Int8DynamicActivationInt8WeightConfig"),
        "torchao", "Int8DynamicActivationInt8Weight", True,
    ),
    "float8": (fp8, "fp8", None, False),
    "compressed-tensors": (compressed, "compressed-tensors", "pack-quantized", False),
}  # fmt: skip
"""How a folder is made, what its record must say, and whether its linear maps round what they are fed."""


@pytest.fixture(scope="module", params=MADE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("quantised")
    MADE[request.param][0](folder)
    return request.param, folder


@pytest.fixture(scope="module")
def model(made: tuple[str, Path]) -> Model:
    return load_hf(str(made[1]), device="cpu")


# --- as any other model ----------------------------------------------------------------------------------------------


def test_its_passes_are_those_of_transformers(model: Model, made: tuple[str, Path]) -> None:
    own = transformers.AutoModelForCausalLM.from_pretrained(made[1], dtype=torch.float32).eval()
    ids = torch.tensor([[5, 70, 9, 200]])
    with torch.no_grad():
        wanted = own(input_ids=ids).logits
    found = model.forward(model.pad(ids.tolist()), logits_to_keep=0).logits
    assert torch.allclose(found, wanted, atol=1e-6 * float(wanted.abs().max()))


def test_what_is_read_of_its_weights_is_what_its_maps_do(model: Model, made: tuple[str, Path]) -> None:
    """And not the weights that were quantised, which are near."""
    tolerance = ROUGH if MADE[made[0]][3] else 1e-5
    x = torch.randn(1, 7, model.anatomy.d_mlp, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for layer, down in enumerate(model.anatomy.down_projections):
            wanted = down(x)
            assert (x @ model.w_out(layer) - wanted).abs().max() < tolerance * wanted.abs().max()
            before = tiny_hf("llama").model.layers[layer].mlp.down_proj.weight.T
            assert torch.corrcoef(torch.stack([model.w_out(layer).flatten(), before.flatten()]))[0, 1] > 0.95
            assert (model.w_out(layer) - before).abs().max() > 1e-3 * before.abs().max()


def test_its_readout_and_its_neurons_are_verified(model: Model, made: tuple[str, Path]) -> None:
    seen = inspect(model).errors
    assert seen.readout < 1e-5
    assert seen.write is not None and seen.write < (0.1 if MADE[made[0]][3] else 1e-5)


def test_engines_agree(model: Model, made: tuple[str, Path]) -> None:
    if MADE[made[0]][3]:
        pytest.skip("edited activations are rounded on their way through the map, in closed form they are not")
    prompts, conditions = some_prompts(0), some_conditions(model, 0)
    same_scores(ClosedFormEngine(model).score(prompts, conditions), HookEngine(model).score(prompts, conditions))


def test_it_is_identified_and_left_as_it_was(model: Model, made: tuple[str, Path]) -> None:
    again = load_hf(str(made[1]), device="cpu")
    assert again.weights_digest == model.weights_digest
    with untouched(model, "a pass"):
        model.forward(model.pad([[1, 2, 3]]))
        model.w_out(0)
    changed = State.of(again)
    _, tensor = next(plain("", again.anatomy.down_projections[0].weight.data))
    tensor.view(torch.uint8).view(-1)[0] ^= 1
    assert State.of(again).weights != changed.weights
    again.__dict__.pop("weights_digest")
    assert again.weights_digest != model.weights_digest


def test_its_record_says_how_it_was_quantised(model: Model, made: tuple[str, Path]) -> None:
    _, method, kind, _ = MADE[made[0]]
    stated = json.loads((made[1] / "config.json").read_text())["quantization_config"]
    told = json.loads(json.dumps(model.provenance()))
    found = Quantised(**told["quantised"])
    assert (found.method, found.kind) == (method, kind)
    assert found.settings == {key: value for key, value in stated.items() if not key.startswith("_")}
    maps = 3 * 7 + 1
    assert found.linear_maps == maps
    of_the_layers = maps if "unembedding" in made[0] else maps - 1
    assert found.packed == (0 if method in ("fp8", "compressed-tensors") else of_the_layers)
    if method != "compressed-tensors":  # whose scales stay beside the weights
        assert told["parameters"] == sum(x.numel() for x in tiny_hf("llama").parameters())


@pytest.mark.usefixtures("blank_figures")
def test_a_run_says_so(harness: Callable[..., tuple[int, str, str]], small_facts: Path, tmp_path: Path) -> None:
    """Eight-bit floats need no package, and are dequantised without a GPU that computes in them."""
    model = Path(shutil.copytree(str(files("harness_plugins.demo") / "weights"), tmp_path / "model"))
    change_config(model, quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]})
    changes = {"selector": "neurons:neurons=[3.1]", "intervention": "zero", "controls": "5", "limit": "20"}
    code, out, err = harness(*arguments(small_facts, tmp_path / "reports", "--model", model, **changes))
    assert code == 0, err
    assert "the model's weights are quantised (fp8), and were dequantised" in " ".join(out.split())
    code, out, _ = harness("inspect", model)
    assert code == 0 and "quantised (fp8), and were dequantised when they were loaded" in " ".join(out.split())


# --- maps that are not known by name ---------------------------------------------------------------------------------


class Packed(nn.Module):
    """A stand-in for the quantised linear maps: computes as the original, its weight is no matrix."""

    def __init__(self, linear: nn.Linear, weight: torch.Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.hidden = [linear]
        if weight is not None:
            self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.hidden[0](x)
        return out


class Curved(Packed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(super().forward(x))


class OnlyHalf(Packed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float16:
            raise TypeError("expected float16")
        return super().forward(x.float()).half()


@pytest.mark.parametrize("weight", [torch.zeros(768, 1, dtype=torch.uint8), None], ids=["bitsandbytes", "gptq"])
def test_packed_maps_are_dequantised_by_running_them(weight: torch.Tensor | None) -> None:
    hf = tiny_hf("gpt_neox")
    plain = wrap(tiny_hf("gpt_neox"), tokenizer(), "plain")
    for layer in hf.gpt_neox.layers:
        layer.mlp.dense_4h_to_h = Packed(layer.mlp.dense_4h_to_h, weight)
    hf.set_output_embeddings(Packed(hf.get_output_embeddings(), weight))
    model = wrap(hf, tokenizer(), "packed")
    assert is_packed(model.anatomy.unembedding) and not is_packed(plain.anatomy.unembedding)
    assert torch.allclose(model.w_out(1), plain.w_out(1), atol=1e-6)
    assert torch.allclose(model.readout.W_U, plain.readout.W_U, atol=1e-6)
    assert torch.equal(model.down_bias(1), plain.down_bias(1))  # type: ignore[arg-type]


def test_wide_maps_are_dequantised_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.model.matrices.BLOCK", 5)
    linear = nn.Linear(12, 4)
    assert torch.allclose(write_matrix(Packed(linear, None)), linear.weight.T, atol=1e-6)


def test_maps_that_are_none_are_refused() -> None:
    with pytest.raises(HarnessError, match=r"the quantised weights of a Curved do not act as a matrix \(relative diff"):
        write_matrix(Curved(nn.Linear(12, 4), None))
    with pytest.raises(HarnessError, match=r"a OnlyHalf cannot be dequantised by running it in torch\.float32 \(Type"):
        write_matrix(OnlyHalf(nn.Linear(12, 4), None))
    assert write_matrix(OnlyHalf(nn.Linear(12, 4), None), torch.float16).dtype == torch.float16


# --- what is missing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "missing"),
    [
        ("gptq", "optimum gptqmodel"),
        ("awq", "gptqmodel"),
        ("bitsandbytes", "bitsandbytes"),
        ("compressed-tensors", "compressed-tensors"),
        ("quanto", "optimum-quanto"),
        ("torchao", "torchao"),
    ],
)
def test_the_packages_that_are_missing_are_named(
    folder: Path, method: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.model.quantised.find_spec", lambda name: None)
    change_config(folder, quantization_config={"quant_method": method})
    with pytest.raises(HarnessError, match=rf"are quantised \({method}\), .* is not installed: pip install {missing}$"):
        load_hf(str(folder), device="cpu")


def test_a_method_that_transformers_would_pass_over_is_refused(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "napkin"})
    with pytest.raises(HarnessError, match='are quantised by "napkin", which this version of transformers does not'):
        load_hf(str(folder), device="cpu")


def test_adapters_are_not_merged_into_quantised_weights(folder: Path) -> None:
    change_config(folder, quantization_config={"quant_method": "fp8"})
    with pytest.raises(HarnessError, match="would be rounded again when the adapter mine is merged into them"):
        load_hf(str(folder), device="cpu", peft="mine")
