"""Checkpoints of quantised weights: what reading them needs, what results say of them, the tensors they are kept in.

The passes run on the weights as they are; what is read of them is dequantised (:mod:`harness.model.matrices`).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch

from harness.errors import HarnessError
from harness.files.wording import counted
from harness.model.matrices import is_packed
from harness.model.modules import features

NEEDS = {
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "gptq": {"optimum.gptq": "optimum", "gptqmodel": "gptqmodel"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "torchao": {"torchao": "torchao"},
}
"""By method of quantising: modules without which transformers cannot read the weights, and the packages that they are
of. For methods that are not named here it says itself what is missing."""


def check_readable(called: str, config: dict[str, Any]) -> None:
    """Refuse a checkpoint before its weights are read, where that needs what is not there.

    Args:
        called: what errors call the model. config: its config.json.

    Raises:
        HarnessError: names the packages that are missing, or a method that transformers does not know and passes over.
    """
    stated = config.get("quantization_config")
    if not isinstance(stated, dict):
        return
    with silently(config):  # imports the libraries that are there
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    method = _method(stated)
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    if method not in known:
        raise HarnessError(
            f'the weights of {called} are quantised by "{method}", which this version of transformers does not read; '
            "load the model unquantised."
        )
    if missing := [package for module, package in NEEDS.get(method, {}).items() if not _installed(module)]:
        raise HarnessError(
            f"the weights of {called} are quantised ({method}), and what reads them is not installed: "
            f"pip install {' '.join(missing)}"
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _method(stated: dict[str, Any]) -> str:
    # Early files of bitsandbytes name no method.
    unnamed = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & stated.keys() else None
    return str(stated.get("quant_method") or unnamed)


def facts(hf: Any, stated: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """What results say of a model that was loaded from quantised weights, JSON values only; None for others.

    Args:
        stated: the settings in the checkpoint's config.json; by default those that the model's configuration still has
            (where transformers dequantises, it takes them away).

    Returns:
        ``method``; ``kind``, what the weights are kept as; ``settings`` as config.json has them; ``packed``, how
        many of the ``linear_maps`` run on packed weights (none: transformers dequantised them when it loaded them).
    """
    if stated is None:
        stated = json.loads(hf.config.to_json_string(use_diff=False)).get("quantization_config")
    if not isinstance(stated, dict):
        return None
    maps = [module for module in hf.modules() if features(module) is not None]
    return {
        "method": _method(stated),
        "kind": _kind(stated),
        "settings": {key: value for key, value in sorted(stated.items()) if not key.startswith("_")},
        "packed": sum(map(is_packed, maps)),
        "linear_maps": len(maps),
    }


def _kind(stated: dict[str, Any]) -> str | None:
    """What the weights are kept as, where the settings have a word for it."""
    if stated.get("load_in_8bit"):
        return "int8"
    if stated.get("load_in_4bit"):
        return str(stated.get("bnb_4bit_quant_type", "4 bits"))
    if isinstance(of_torchao := stated.get("quant_type"), dict):
        named = (str(x["_type"]) for x in of_torchao.values() if isinstance(x, dict) and "_type" in x)
        return ", ".join(name.removesuffix("Config") for name in named) or None
    if bits := stated.get("bits"):
        return f"{bits} bits"
    form = stated.get("format")
    return None if form is None else str(form)


@contextlib.contextmanager
def silently(config: dict[str, Any]) -> Iterator[None]:
    """Within the block, nothing is heard of the libraries of quantised weights, whose bars and log lines know no
    setting; for other checkpoints nothing is changed.

    bitsandbytes is not heard later either: it would say at every pass in which precision it is made.
    """
    if not config.get("quantization_config"):
        yield
        return
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def in_words(method: str, kind: str | None, packed: int, linear_maps: int) -> str:
    """:func:`facts` as reports have them."""
    how = method if kind is None else f"{method}, {kind}"
    if packed == 0:
        return f"quantised ({how}), and were dequantised when they were loaded"
    return f"quantised ({how}), and {packed} of {counted(linear_maps, 'linear map')} run on them as they are"


def sizes(hf: Any) -> dict[int, int]:
    """How many numbers each parameter stands for, by its id; a packed map's, as many as its matrix has."""
    found = {id(parameter): parameter.numel() for parameter in hf.parameters()}
    for module in hf.modules():
        shape = features(module)
        if shape is None or not is_packed(module):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if name != "bias":
                found.pop(id(parameter), None)
        found[id(module)] = shape[0] * shape[1]
    return found


def plain(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of numbers that a tensor is kept in: itself, or those that one of torchao's is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for inner in sorted(tensor.__tensor_flatten__()[0]):
        yield from plain(f"{name}.{inner}", getattr(tensor, inner))
