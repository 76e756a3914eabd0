"""Adapters are merged into the weights: W + scaling * B A, and results say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.errors import HarnessError
from harness.model import load_hf
from harness.testing import demo_model

peft = pytest.importorskip("peft")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The bundled model, and a LoRA adapter of it with random weights."""
    from transformers import AutoModelForCausalLM

    base = tmp_path_factory.mktemp("base")
    demo = demo_model()
    demo.hf.save_pretrained(base)
    demo.tokenizer.save_pretrained(base)
    hf = AutoModelForCausalLM.from_pretrained(base)
    names = [name for name, module in hf.named_modules() if isinstance(module, torch.nn.Linear) and "mlp" in name]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights=False)
    adapted = peft.get_peft_model(hf, config)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return base, folder


def test_weights_are_the_sum(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    plain, changed = load_hf(str(base), device="cpu"), load_hf(str(base), device="cpu", peft=str(adapter))
    lora = load_file(adapter / "adapter_model.safetensors")
    before, after = plain.hf.state_dict(), changed.hf.state_dict()
    assert before.keys() == after.keys()
    touched = set()
    for name in (key for key in lora if key.endswith(".lora_A.weight")):
        own = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        update = 8 / 4 * lora[name.replace("lora_A", "lora_B")] @ lora[name]
        torch.testing.assert_close(after[own], before[own] + update, rtol=0, atol=1e-5)
        assert not torch.equal(after[own], before[own])
        touched.add(own)
    assert touched and all(torch.equal(after[name], before[name]) for name in before.keys() - touched)


def test_results_say_what_was_merged(folders: tuple[Path, Path]) -> None:
    base, adapter = folders
    told = load_hf(str(base), device="cpu", peft=str(adapter)).provenance()
    assert told["adapter"]["id"] == str(adapter) and told["adapter"]["kind"] == "LORA"
    assert len(told["adapter"]["sha256"]) == 64
    assert told["weights_sha256"] != load_hf(str(base), device="cpu").provenance()["weights_sha256"]


def test_what_is_no_adapter_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    with pytest.raises(HarnessError, match=r'peft: there is no folder ".*nowhere"'):
        load_hf(str(base), device="cpu", peft=str(tmp_path / "nowhere"))
    with pytest.raises(HarnessError, match=r"holds no adapter: expected adapter_config\.json"):
        load_hf(str(base), device="cpu", peft=str(base))
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    with pytest.raises(HarnessError, match=r"is incomplete: expected adapter_model\.safetensors"):
        load_hf(str(base), device="cpu", peft=str(tmp_path))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickled")
    with pytest.raises(HarnessError, match=r"holds only pickled weights .* allow_pickle=true"):
        load_hf(str(base), device="cpu", peft=str(tmp_path))


def test_an_adapter_that_is_read_as_tokens_cannot_be_merged(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, _ = folders
    hf = AutoModelForCausalLM.from_pretrained(base)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(hf, config).save_pretrained(tmp_path)
    with pytest.raises(HarnessError, match="of the kind PROMPT_TUNING, which changes what the model reads"):
        load_hf(str(base), device="cpu", peft=str(tmp_path))


def test_an_adapter_of_another_model_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from harness.testing.tiny_models import tiny_hf

    _, adapter = folders
    tiny_hf("llama").save_pretrained(tmp_path)
    with pytest.raises(HarnessError, match=r"merged into .*, could not be loaded"):
        load_hf(str(tmp_path), device="cpu", peft=str(adapter), tokenizer=str(folders[0]))
