"""Adapters of the ``peft`` library, merged into the weights of the model that they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files.digests import files_digest
from harness.files.paths import expand
from harness.model.checkpoints import read_object
from harness.model.sources import commit_of, fetch, is_path, nearest
from harness.model.transformers_calls import explained, quietly

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"


def merged(hf: Any, peft: str, model: str, offline: bool, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """The model with an adapter's changes added to its weights, and what results say of the adapter.

    Args:
        hf: the ``transformers`` model; it is changed. peft: hub id or folder of the adapter.
        model: what errors call the model.

    Raises:
        HarnessError: there is no such adapter, it is of another model, of a kind that cannot be merged, pickled, or
            the package ``peft`` is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise HarnessError('adapters need the package peft: pip install "neuron-harness[peft]".') from error
    folder, commit = _find(peft, offline, allow_pickle)
    about = read_object(folder / CONFIG)
    weights = folder / (WEIGHTS if (folder / WEIGHTS).is_file() else PICKLED)
    before = {name: tuple(x.shape) for name, x in hf.state_dict().items()}
    with quietly(), explained(f"the adapter {peft}, merged into {model},"):
        adapted = PeftModel.from_pretrained(hf, str(folder), local_files_only=True)
        if not hasattr(adapted.base_model, "merge_and_unload"):
            raise HarnessError(
                f"the adapter {peft} is of the kind {about.get('peft_type')}, which changes what the model reads and "
                "cannot be merged into its weights."
            )
        found = adapted.merge_and_unload(safe_merge=True)
    after = {name: tuple(x.shape) for name, x in found.state_dict().items()}
    if before != after:
        changed = sorted(before.items() ^ after.items())[0][0]
        raise HarnessError(f'the adapter {peft} leaves {model} with other weights than it has ("{changed}").')
    return found, {
        "id": peft,
        "commit": commit,
        "kind": about.get("peft_type"),
        "of": about.get("base_model_name_or_path"),
        "sha256": files_digest([folder / CONFIG, weights]),
    }


def _find(peft: str, offline: bool, allow_pickle: bool) -> tuple[Path, str | None]:
    """The adapter's folder, and its commit on the hub."""
    folder = expand(peft)
    if not folder.is_dir():
        if is_path(peft) or folder.exists():
            raise HarnessError(f'peft: there is no folder "{peft}".{nearest(folder)}')
        folder = fetch(peft, CONFIG, None, offline).parent
        fetch(peft, PICKLED if allow_pickle and not _safe_on_hub(peft, offline) else WEIGHTS, None, offline)
    if not (folder / CONFIG).is_file():
        raise HarnessError(f"peft: {folder} holds no adapter: expected {CONFIG}.")
    if not (folder / WEIGHTS).is_file():
        if not (folder / PICKLED).is_file():
            raise HarnessError(f"peft: {folder} is incomplete: expected {WEIGHTS}.")
        if not allow_pickle:
            raise HarnessError(
                f"peft: {folder} holds only pickled weights ({PICKLED}), which can run code when loaded; convert them "
                "to safetensors, or allow them with allow_pickle=true if you trust them."
            )
    return folder, commit_of(folder / CONFIG)


def _safe_on_hub(peft: str, offline: bool) -> bool:
    try:
        fetch(peft, WEIGHTS, None, offline)
    except HarnessError:
        return False
    return True
