"""Files of directions that others have computed: tensors alone, by layer; nothing in a file is ever run.

    safetensors   [d_model], [n_layers, d_model], or one [d_model] a layer, whose name ends with the layer's number
    GGUF          control vectors of llama.cpp and repeng: ``direction.N`` is added to the output of layer N, from 0
    .pt, .pth     what safetensors may hold, or a dictionary layer -> [d_model]; only through torch's restricted
                  unpickler (``weights_only``), which refuses whatever is no tensor

Row i of a stack is a direction of the residual stream after layer i.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.plugin import HarnessError, counted

_NUMBER = re.compile(r"(?:.*[^0-9])?(\d+)")


@dataclass(frozen=True)
class DirectionFile:
    """What a file holds.

    Attributes:
        format: "safetensors", "GGUF" or "torch".
        single: a direction [d_model] of which the file does not say the layer, float64; or None.
        by_layer: those of which it does.
    """

    format: str
    single: np.ndarray | None
    by_layer: Mapping[int, np.ndarray]


def read_directions(path: Path, n_layers: int, d_model: int) -> DirectionFile:
    """Read a file of directions for a model of ``n_layers`` layers of width ``d_model``.

    Raises:
        HarnessError: names the file: it cannot be read, is none of these formats or holds more than tensors; a tensor
            has another width or is not finite or zero; a layer that the model does not have, or that is there twice.
    """
    readers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        ".safetensors": ("safetensors", _safetensors),
        ".gguf": ("GGUF", _gguf),
        ".pt": ("torch", _torch),
        ".pth": ("torch", _torch),
    }
    if path.suffix not in readers:
        raise HarnessError(f"{path}: expected a file of directions: {', '.join(readers)}.")
    name, read = readers[path.suffix]
    try:
        held = read(path)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if isinstance(held, Mapping) and len(held) == 1 and name != "GGUF":
        [(key, value)] = held.items()
        held = held if _NUMBER.fullmatch(str(key)) else value  # "direction": [d_model], or a stack of them
    if not isinstance(held, Mapping):
        vectors = _array(held, str(path))
        if vectors.ndim == 1:
            return DirectionFile(name, _checked(vectors, d_model, str(path)), {})
        if vectors.ndim != 2 or len(vectors) != n_layers:
            raise HarnessError(
                f"{path}: holds a tensor of shape {list(vectors.shape)}; expected one direction [{d_model}], or "
                f"one a layer [{n_layers}, {d_model}]."
            )
        held = dict(enumerate(vectors))
    found: dict[int, np.ndarray] = {}
    for key, value in held.items():
        number = _NUMBER.fullmatch(str(key))
        if number is None:
            raise HarnessError(f'{path}: "{key}" does not end with the number of a layer.')
        layer = int(number[1])
        if layer >= n_layers or layer in found:
            why = "stands there twice" if layer in found else f"does not exist: the model has {n_layers} (from 0)"
            raise HarnessError(f'{path}: "{key}": layer {layer} {why}.')
        found[layer] = _checked(_array(value, f'{path}: "{key}"'), d_model, f'{path}: "{key}"')
    if not found:
        raise HarnessError(f"{path}: holds no directions.")
    return DirectionFile(name, None, dict(sorted(found.items())))


def _array(value: Any, where: str) -> np.ndarray:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().to(torch.float64).cpu().numpy()
    if not isinstance(value, np.ndarray):
        raise HarnessError(f"{where}: expected a tensor, got {type(value).__name__}.")
    return value.astype(np.float64)


def _checked(vector: np.ndarray, d_model: int, where: str) -> np.ndarray:
    if vector.shape != (d_model,):
        raise HarnessError(
            f"{where}: has shape {list(vector.shape)}, but the residual stream has {counted(d_model, 'number')}."
        )
    if not np.isfinite(vector).all() or not vector.any():
        raise HarnessError(f"{where}: is {'zero' if not vector.any() else 'not finite'}, which is no direction.")
    return vector


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise HarnessError(f"{path}: is no whole safetensors file ({error}).") from error


def _torch(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HarnessError(
            f"{path}: holds more than tensors, and reading it could run whatever it was made of; save its tensors "
            "alone (safetensors.torch.save_file, or torch.save of a tensor)."
        ) from error
    except (EOFError, RuntimeError, ValueError, KeyError) as error:
        raise HarnessError(f"{path}: is no whole file of torch.save ({type(error).__name__}).") from error


def _gguf(path: Path) -> Any:
    try:
        from gguf import GGUFReader, dequantize
    except ImportError as error:
        raise HarnessError(
            f'{path}: reading GGUF needs the package gguf: pip install "neuron-harness[gguf]".'
        ) from error
    try:
        reader = GGUFReader(path)
        kind = reader.get_field("general.architecture")
        if kind is None or kind.contents() != "controlvector":
            raise HarnessError(f"{path}: is no control vector (general.architecture is not controlvector).")
        return {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError) as error:
        raise HarnessError(f"{path}: is no whole GGUF file ({error}).") from error
