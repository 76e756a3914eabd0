"""Every architecture, in every format of its configuration, does what its formulas say; what cannot be read is
refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dictionaries as slow
import numpy as np
import pytest
import torch
from families import tiny
from harness_plugins.dictionaries.dictionary import check_fit, load
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError

ARCHITECTURES = (
    "standard", "gated", "jumprelu", "topk", "transcoder", "skip_transcoder", "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)  # fmt: skip
D = 16


def activations(n: int = 20, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def same_as_slow(folder: Path, cfg: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
    dictionary, x = load(str(folder)), activations()
    z = dictionary.encode(torch.from_numpy(x))
    wanted = np.array([slow.slow_encode(cfg, weights, row) for row in x])
    assert 0.02 < (wanted != 0).mean() < 0.9
    np.testing.assert_allclose(z.numpy(), wanted, atol=1e-5)
    y = dictionary.decode(z, torch.from_numpy(x))
    wanted = [slow.slow_decode(cfg, weights, latents, row) for latents, row in zip(wanted, x, strict=True)]
    np.testing.assert_allclose(y.numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
def test_every_architecture_does_what_its_formulas_say(tmp_path: Path, architecture: str, normalisation: str) -> None:
    slow.random_dictionary(tmp_path, architecture, D, normalize_activations=normalisation)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    same_as_slow(tmp_path, cfg, slow.tensors(architecture, D, 48))


@pytest.mark.parametrize(
    "options",
    [{"apply_b_dec_to_input": False}, {"rescale_acts_by_decoder_norm": True}, {"k": 48}],
    ids=["b_dec only added", "latents in units of their decoder rows", "all of the k largest"],
)
def test_options_of_the_k_largest(tmp_path: Path, options: dict[str, Any]) -> None:
    slow.random_dictionary(tmp_path, "topk", D, **options)
    same_as_slow(tmp_path, json.loads((tmp_path / "cfg.json").read_text()), slow.tensors("topk", D, 48))


def older(**given: Any) -> dict[str, Any]:
    """A ``cfg.json`` as SAELens wrote it before its version 6."""
    return {
        "d_in": D, "d_sae": 48, "dtype": "float32", "device": "cuda", "model_name": "gpt2-small", "hook_layer": 1,
        "hook_head_index": None, "prepend_bos": True, "context_size": 128, "normalize_activations": "none",
        "finetuning_scaling_factor": False, "model_from_pretrained_kwargs": {"center_writing_weights": False}, **given,
    }  # fmt: skip


def test_configurations_before_version_6_are_read(tmp_path: Path) -> None:
    """Names and defaults of that time: everything at the top, the k largest as an activation function, ``hook_point``,
    a bias that is taken off unless the file says otherwise."""
    weights = slow.tensors("standard", D, 48)
    for number, (written, as_now) in enumerate(
        [
            (older(hook_name="blocks.1.hook_mlp_out", activation_fn_str="relu"), {}),
            (older(hook_point="blocks.1.hook_resid_pre"), {}),
            (older(hook_name="blocks.1.hook_attn_out", architecture="standard", apply_b_dec_to_input=False),
             {"apply_b_dec_to_input": False}),
            (older(hook_name="blocks.1.hook_resid_post", activation_fn="topk", activation_fn_kwargs={"k": 3}),
             {"architecture": "topk", "k": 3}),
        ]
    ):  # fmt: skip
        folder = slow.save(tmp_path / str(number), written, weights)
        same_as_slow(folder, slow.configuration("standard", D, 48) | as_now, weights)
    assert load(str(tmp_path / "0")).configuration.writes == "mlp_out"
    assert load(str(tmp_path / "1")).configuration.reads == "residual_before"


def test_fine_tuned_latents_and_thresholds_of_a_batch(tmp_path: Path) -> None:
    weights = slow.tensors("standard", D, 48)
    factor = np.linspace(0.5, 2, 48).astype(np.float32)
    cfg = slow.configuration("standard", D, 48)
    tuned = slow.save(
        tmp_path / "tuned", cfg | {"finetuning_scaling_factor": True}, {**weights, "scaling_factor": factor}
    )
    same_as_slow(tuned, cfg, {**weights, "W_dec": weights["W_dec"] * factor[:, None]})
    of_a_batch = slow.save(
        tmp_path / "batch",
        cfg | {"architecture": "batchtopk", "k": 5.5},
        {**weights, "topk_threshold": np.float32([0.4])},
    )
    same_as_slow(of_a_batch, cfg | {"architecture": "jumprelu"}, {**weights, "threshold": np.full(48, 0.4)})


def test_centred_activations(tmp_path: Path) -> None:
    """Trained where TransformerLens had centred what is written: the mean over d_model does not count."""
    cfg = slow.configuration("standard", D, 48)
    cfg["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    weights = slow.tensors("standard", D, 48)
    dictionary, x = load(str(slow.save(tmp_path, cfg, weights))), activations()
    assert dictionary.centred
    centred = x - x.mean(1, keepdims=True)
    wanted = [slow.slow_encode(cfg, weights, row) for row in centred]
    np.testing.assert_allclose(dictionary.encode(torch.from_numpy(x) + 3).numpy(), wanted, atol=1e-4)


@given(st.sampled_from(ARCHITECTURES), st.integers(0, 2**31))
def test_a_step_is_what_the_decoder_makes_of_the_change(
    folders: Callable[[str], Path], architecture: str, seed: int
) -> None:
    """Zero ablation is subtracting z W_dec, no change is no step, and steps add up."""
    dictionary = load(str(folders(architecture)))
    rng, x = np.random.default_rng(seed), torch.from_numpy(activations(4, seed))
    before = dictionary.encode(x)
    assert torch.equal(dictionary.step(before, before.clone(), x), torch.zeros(4, D))
    chosen = rng.choice(48, 5, replace=False)
    ablated = before.clone()
    ablated[:, chosen] = 0
    taken = -before[:, chosen].double() @ dictionary.W_dec[chosen].double()
    torch.testing.assert_close(dictionary.step(before, ablated, x).double(), taken, atol=1e-5, rtol=1e-5)
    third = before + torch.from_numpy(rng.normal(size=before.shape).astype(np.float32))
    whole = dictionary.step(before, ablated, x) + dictionary.step(ablated, third, x)
    torch.testing.assert_close(dictionary.step(before, third, x), whole, atol=1e-4, rtol=1e-4)
    decoded = dictionary.decode(third, x) - dictionary.decode(before, x)
    torch.testing.assert_close(dictionary.step(before, third, x), decoded, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("dictionaries")
    return lambda architecture: (
        root / architecture
        if (root / architecture).exists()
        else slow.random_dictionary(root / architecture, architecture, D)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "jumprel"}, r'cfg\.json: architecture is "jumprel": expected .* Did you mean "jumprelu"'),
        ({"activation_fn": "tanh-relu"}, 'activation_fn is "tanh-relu": expected relu or topk'),
        ({"hook_name": "blocks.1.hook_resid_poost"}, r'expected blocks\.N\. and .* Did you mean "hook_resid_post"'),
        ({"hook_name": "blocks.1.hook_mlp_in"}, r'hook_name is "blocks\.1\.hook_mlp_in": expected blocks'),
        ({"hook_name": "blocks.1.ln2.hook_normalized"}, r'"blocks\.1\.ln2\.hook_normalized": expected blocks'),
        ({"hook_name": None}, "hook_name is missing: it says which activations"),
        ({"hook_head_index": 3}, "hook_head_index is 3: dictionaries of a single head"),
        ({"d_sae": "48"}, "d_sae is '48': expected a whole number"),
        ({"d_sae": 40}, r"W_enc has the shape \(16, 48\), where cfg\.json says \(16, 40\)"),
        ({"normalize_activations": True}, "normalize_activations is expected_average_only_in, which depends on"),
        ({"normalize_activations": "layernorm"}, 'normalize_activations is "layernorm": .* Did you mean "layer_norm"'),
        ({"architecture": "gated"}, "b_gate is missing, which an architecture gated has"),
        ({"architecture": "topk"}, "k is None: expected a whole number"),
        ({"architecture": "topk", "k": 49}, "k is 49, more than the 48 latents"),
        ({"metadata": 3}, "metadata is 3: expected an object"),
        ({"architecture": "transcoder", "hook_name": "blocks.0.ln2.hook_normalized", "d_out": D,
          "hook_name_out": "blocks.1.hook_mlp_out"}, r"reads layer 0 .* and writes layer 1"),
        ({"architecture": "transcoder", "hook_name": "blocks.1.ln2.hook_normalized", "d_out": D,
          "hook_name_out": "blocks.1.hook_mlp_out", "model_from_pretrained_kwargs": {"fold_ln": True}}, "fold_ln"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    cfg = slow.configuration("standard", D, 48) | {"metadata": {}, "hook_name": slow.RESIDUAL} | change
    slow.save(tmp_path, cfg, slow.tensors("standard", D, 48))
    with pytest.raises(HarnessError, match=words):
        load(str(tmp_path))


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r'no folder "demo-lst".* Did you mean "demo-last"'):
        load("demo-lst")
    slow.random_dictionary(tmp_path / "all" / "layer_3", "standard", D)
    with pytest.raises(HarnessError, match=r"has no cfg\.json.* It is in layer_3: name one of these"):
        load(str(tmp_path / "all"))
    weights = tmp_path / "all" / "layer_3" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(HarnessError, match="no whole safetensors file"):
        load(str(weights.parent))
    weights.rename(weights.with_suffix(".pt"))
    with pytest.raises(HarnessError, match=r"only pickles \(sae_weights\.pt\), which can run code"):
        load(str(weights.parent))
    (weights.parent / "cfg.json").write_text("[1]")
    weights.with_suffix(".pt").rename(weights)
    with pytest.raises(HarnessError, match="expected an object"):
        load(str(weights.parent))
    with pytest.raises(HarnessError, match='dictionary "somebody/dictionaries" is not in the local cache'):
        load("somebody/dictionaries/blocks.1.hook_resid_post")


def test_a_dictionary_of_the_hub_is_read_from_its_folder_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "snapshots" / "0123abc"
    slow.random_dictionary(snapshot / "layer_1" / "width_48", "standard", D)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, **options: snapshot / name)
    found = load("somebody/dictionaries/layer_1/width_48")
    assert found.commit == "0123abc" and found.about()["hook"] == slow.RESIDUAL
    assert found == load(str(snapshot / "layer_1" / "width_48"))


def test_a_dictionary_of_another_model_is_refused(tmp_path: Path) -> None:
    model = tiny("gpt2")
    with pytest.raises(HarnessError, match=r"width 16, but gpt2 has 32 numbers there .* another model \(tiny\)"):
        check_fit(load(str(slow.random_dictionary(tmp_path / "narrow", "standard", D))), model, "sae")
    cfg = slow.configuration("standard", 32, 48, hook="blocks.7.hook_resid_post")
    late = load(str(slow.save(tmp_path / "late", cfg, slow.tensors("standard", 32, 48))))
    with pytest.raises(HarnessError, match="is of layer 7, but gpt2 has layers 0 to 2"):
        check_fit(late, model, "sae")
