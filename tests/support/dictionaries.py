"""Folders of small random dictionaries, as SAELens saves them, and what they do, written down slowly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

RESIDUAL = "blocks.1.hook_resid_post"


def configuration(architecture: str, d_in: int, d_sae: int, hook: str = RESIDUAL, **options: Any) -> dict[str, Any]:
    """A ``cfg.json`` of SAELens 6."""
    transcoder = "transcoder" in architecture
    return {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.12.0", "model_name": "tiny", "hook_name": hook},
        **options,
    }


def tensors(architecture: str, d_in: int, d_sae: int, d_out: int | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of an architecture, float32; about half of the latents are active at activations of size 1."""
    rng = np.random.default_rng(seed)
    d_out = d_in if d_out is None else d_out
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    gated = architecture == "gated"
    shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag") if gated else ("b_enc",), (d_sae,))
    shapes |= {"threshold": (d_sae,)} if "jumprelu" in architecture else {}
    shapes |= {"W_skip": (d_out, d_in)} if "skip" in architecture else {}
    found = {name: rng.normal(scale=0.5, size=shape).astype(np.float32) for name, shape in shapes.items()}
    return found | ({"threshold": np.abs(found["threshold"])} if "threshold" in found else {})


def save(folder: Path, cfg: dict[str, Any], weights: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    save_file({name: torch.from_numpy(x) for name, x in weights.items()}, folder / "sae_weights.safetensors")
    return folder


def random_dictionary(folder: Path, architecture: str, d_model: int, d_sae: int = 48, **options: Any) -> Path:
    """A random dictionary of a model of this width; transcoders read what the MLP reads and write what it writes."""
    cfg = configuration(architecture, d_model, d_sae, **options)
    if "transcoder" in architecture:
        layer = cfg["metadata"]["hook_name"].split(".")[1]
        cfg["metadata"] |= {
            "hook_name": f"blocks.{layer}.ln2.hook_normalized",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out",
        }
        cfg |= {"d_out": d_model}
    if architecture == "topk":
        cfg.setdefault("k", 5)
    return save(folder, cfg, tensors(architecture, d_model, d_sae))


def slow_encode(cfg: dict[str, Any], w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Latents [d_sae] of one activation [d_in], by the formulas of the papers, in float64."""
    w = {name: value.astype(np.float64) for name, value in w.items()}
    x = slow_norm(cfg, x.astype(np.float64))[0]
    if cfg["apply_b_dec_to_input"]:
        x = x - w["b_dec"]
    z = np.zeros(cfg["d_sae"])
    for i in range(len(z)):
        along = sum(float(x[j]) * float(w["W_enc"][j, i]) for j in range(len(x)))
        match cfg["architecture"].removesuffix("_transcoder").removesuffix("_skip"):
            case "gated":  # Rajamanoharan et al. 2024a, eq. 7
                z[i] = max(along * np.exp(w["r_mag"][i]) + w["b_mag"][i], 0) if along + w["b_gate"][i] > 0 else 0
            case "jumprelu":  # Rajamanoharan et al. 2024b, eq. 3
                z[i] = max(before, 0) if (before := along + w["b_enc"][i]) > w["threshold"][i] else 0
            case "topk":
                z[i] = along + w["b_enc"][i]
            case _:
                z[i] = max(along + w["b_enc"][i], 0)
    if cfg["architecture"] == "topk":  # Gao et al. 2024, eq. 3
        z *= np.linalg.norm(w["W_dec"], axis=1) if cfg.get("rescale_acts_by_decoder_norm") else 1
        least = sorted(z)[-cfg["k"]]
        z = np.array([max(value, 0) if value >= least else 0 for value in z])
    return z


def slow_norm(cfg: dict[str, Any], x: np.ndarray) -> tuple[np.ndarray, float, float]:
    """An activation as the encoder has it, and the mean and size that were taken off."""
    match cfg["normalize_activations"]:
        case "layer_norm":
            mean = x.mean()
            size = np.sqrt(((x - mean) ** 2).sum() / (len(x) - 1))
            return (x - mean) / (size + 1e-5), mean, size
        case "constant_norm_rescale":
            size = np.sqrt((x**2).sum() / len(x))
            return x / size, 0.0, size
    return x, 0.0, 1.0


def slow_decode(cfg: dict[str, Any], w: dict[str, np.ndarray], z: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The reconstruction [d_out] from latents [d_sae] of one activation [d_in]."""
    _, mean, size = slow_norm(cfg, x.astype(np.float64))
    y = w["b_dec"].astype(np.float64)
    for i, value in enumerate(z):
        scale = np.linalg.norm(w["W_dec"][i]) if cfg.get("rescale_acts_by_decoder_norm") else 1
        y = y + value / scale * w["W_dec"][i]
    if "transcoder" in cfg["architecture"]:
        return y + w["W_skip"] @ x if "skip" in cfg["architecture"] else y
    return y * size + mean
