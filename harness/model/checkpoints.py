"""A model's files, looked at before ``transformers`` reads them, and what it says that it has read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files.wording import agree, counted
from harness.model.transformers_calls import explained, first_line, quietly

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_COMPUTED = re.compile(r"(^|\.)((self_)?(attn|attention|self_attention)\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
"""Buffers that older versions of transformers saved: causal masks and rotary frequencies, which follow from the
configuration. A learned bias belongs to a projection, never to the attention itself."""


def check_folder(folder: Path, allow_pickle: bool) -> None:
    """Look at a local folder before transformers does, whose messages are about something else."""
    config = folder / "config.json"
    if found := [name for name in _ADAPTER if (folder / name).is_file()]:
        _refuse_adapter(f"model folder {folder}", found, config.is_file())
    if not config.is_file():
        raise HarnessError(f"model folder {folder} has no config.json.")
    read_object(config)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = read_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise HarnessError(f"{index} is damaged: expected a weight_map from tensors to files.")
        names = set(places.values())
        if missing := sorted(name for name in names if not (folder / name).is_file()):
            raise HarnessError(f"model folder {folder} is incomplete: {missing[0]}, named in {index.name}, is missing.")
        weights = [folder / name for name in sorted(names)]
    else:
        weights = sorted(folder.glob("*.safetensors"))
    for file in weights:
        _check_safetensors(file)
    if weights or (allow_pickle and any(any(folder.glob(pattern)) for pattern in _PICKLES)):
        return
    pickles = [file.name for pattern in _PICKLES for file in sorted(folder.glob(pattern))]
    if pickles:
        raise HarnessError(
            f"model folder {folder} holds only pickled weights ({pickles[0]}), which can run code when loaded; "
            "convert them to safetensors, or allow them with allow_pickle=true if you trust them."
        )
    raise HarnessError(f"model folder {folder} has no weights: expected model.safetensors.")


def check_repository(pretrained: str, commit: str | None, offline: bool) -> None:
    """Refuse an adapter beside a model of the hub, which transformers leaves out, or adds unmerged where peft is."""
    from transformers.utils import find_adapter_config_file

    with quietly(), explained(pretrained):
        found = find_adapter_config_file(pretrained, revision=commit or "main", local_files_only=offline)
    if found is not None:
        _refuse_adapter(f'model "{pretrained}"', [Path(found).name], has_model=True)


def _refuse_adapter(owner: str, files: Sequence[str], has_model: bool) -> None:
    if has_model:
        raise HarnessError(
            f"{owner} holds an adapter ({', '.join(files)}) beside its own weights, which would be left out: move its "
            "files to another folder, and name that with peft= to have it merged."
        )
    raise HarnessError(
        f"{owner} holds an adapter ({', '.join(files)}) and no model: name the model that it is of, and this "
        "with peft=."
    )


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object of a file that comes with a model.

    Raises:
        HarnessError: it cannot be read, or is none.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise HarnessError(f"{file} is damaged: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise HarnessError(f"{file} is damaged: it holds no JSON object.")
    return found


def _check_safetensors(file: Path) -> None:
    """Read the header, which states the length of the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise HarnessError(f"{file} is damaged or truncated: {first_line(error)}") from error


def check_loaded(pretrained: str, info: dict[str, Any], allow_unused: bool) -> tuple[str, ...]:
    """Refuse weights that transformers would leave at random initial values, and those that it would leave out.

    Returns:
        Names of the checkpoint's tensors that the model does not use, where that is allowed.
    """
    if untold := sorted({"missing_keys", "mismatched_keys", "unexpected_keys"} - info.keys()):
        raise HarnessError(
            f"whether the weights of {pretrained} are whole cannot be told: this version of transformers does not say "
            f"{untold[0]}; install one that constraints.txt names."
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise HarnessError(
            f"the weights of {pretrained} are incomplete: {counted(len(missing), 'tensor')} of the architecture "
            f"{agree(len(missing), 'is', 'are')} missing "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})."
        )
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        raise HarnessError(
            f'the weights of {pretrained} do not have the shapes of its config.json: "{name}" is {list(stored)}, '
            f"expected {list(wanted)}."
        )
    unused = tuple(sorted(name for name in info["unexpected_keys"] if not _COMPUTED.search(name)))
    if unused and not allow_unused:
        raise HarnessError(
            f"the weights of {pretrained} hold {len(unused)} tensor{'s' if len(unused) > 1 else ''} that the model of "
            f"its config.json has no place for ({', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}): it would "
            "be another model without them; mend config.json, or leave them out with allow_unused=true."
        )
    return unused
