"""Folders of models, changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from families import tiny_hf
from safetensors.torch import load_file, save_file

DOWN = "model.layers.1.mlp.down_proj.weight"


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def shard(folder: Path) -> None:
    tiny_hf("llama").save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
