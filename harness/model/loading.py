"""Loading models of the Hugging Face hub or of a local folder, quietly, with one clear sentence when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, not_there, suggest
from harness.files.paths import expand
from harness.files.wording import counted
from harness.model.adapters import merged
from harness.model.checkpoints import check_folder, check_loaded, check_repository
from harness.model.quantised import check_readable, silently
from harness.model.sources import config_of, find, hub_is_off, is_path, nearest
from harness.model.transformers_calls import explained, quietly

if TYPE_CHECKING:
    import torch

    from harness.model.model import Model

DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
"""What ``dtype`` may be; "auto" is the checkpoint's own."""


def load_hf(
    pretrained: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    allow_unused: bool = False,
    tokenizer: str | None = None,
    add_bos: bool | None = None,
    local_files_only: bool | None = None,
    name: str | None = None,
    gguf_file: str | None = None,
    package: str | None = None,
    peft: str | None = None,
) -> Model:
    """Load a causal language model with its tokeniser.

    A token for gated models comes from ``HF_TOKEN`` or ``hf auth login``; ``HF_HUB_OFFLINE=1`` is honoured.

    Args:
        pretrained: hub id ("openai-community/gpt2"), local folder, or GGUF file.
        revision: branch, tag or commit of a hub id.
        dtype: of the forward pass, one of ``DTYPES``.
        device: "auto" (CUDA if there is one, else CPU), "cpu", "cuda", "cuda:1", "mps".
        device_map: "auto", "balanced", "sequential", a device, or module -> device ("cuda:1", "cpu", "disk"):
            ``accelerate`` places the layers, instead of ``device``; those on the disk are read for every pass.
        attn_implementation: "eager", "sdpa", "flash_attention_2"; by default what ``transformers`` chooses.
        trust_remote_code: run Python code that comes with the model.
        allow_pickle: load weights that are not safetensors; unpickling can run code.
        allow_unused: load a checkpoint with tensors that its architecture has no place for; the model's provenance
            names them.
        tokenizer: hub id or folder of the tokeniser, by default the model's.
        add_bos: whether prompts begin with the BOS token; by default as the tokeniser does.
        local_files_only: do not ask the hub; by default as ``HF_HUB_OFFLINE`` says.
        name: what results call the model, by default ``pretrained``, or ``package``.
        gguf_file: which GGUF file of the folder, repository or package; weights are dequantised
            (:mod:`harness.model.gguf_weights`).
        package: Python package that ships a GGUF file; where it is not installed, ``pretrained`` serves.
        peft: hub id or folder of an adapter, which is merged into the weights (:mod:`harness.model.adapters`).

    Raises:
        HarnessError: one sentence for whatever is wrong with the arguments, the files, the hub or the model.
    """
    if dtype not in DTYPES:
        raise HarnessError(f'unknown dtype "{dtype}": expected one of {", ".join(DTYPES)}.{suggest(dtype, DTYPES)}')
    if device_map is not None and device != "auto":
        raise HarnessError(f'device "{device}" and device_map exclude each other: device_map places every layer.')
    place = resolve_device(device) if device_map is None else None
    offline = hub_is_off() if local_files_only is None else local_files_only
    source = find(pretrained, revision, offline, gguf_file, package)
    called = name or source.called
    if isinstance(source.place, Path):
        check_folder(source.place, allow_pickle)
    else:
        check_repository(source.place, source.commit, offline)
    config = config_of(source, revision, offline)
    check_readable(called, config)
    if peft is not None and config.get("quantization_config"):
        raise HarnessError(
            f"the weights of {called} are quantised, and would be rounded again when the adapter {peft} is merged into "
            "them: name the model that it was quantised from."
        )
    shared: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    options: dict[str, Any] = {
        "revision": source.commit or revision or "main",
        "dtype": dtype if dtype == "auto" else _torch_dtype(dtype),
        # Left open, transformers would fall back on pickles.
        "use_safetensors": None if allow_pickle else True,
        "output_loading_info": True,
        # Reported by _check_loaded with the names, which transformers would only log.
        "ignore_mismatched_sizes": True,
        **shared,
    }
    optional = {"device_map": device_map, "attn_implementation": attn_implementation}
    options |= {key: value for key, value in optional.items() if value is not None}
    with quietly(), silently(config), explained(called):
        hf, info = _auto_class(config).from_pretrained(str(source.place), **options)
        unused = check_loaded(called, info, allow_unused)
        _check_places(called, hf, device_map)
        if place is not None:
            hf = hf.to(place)
        origin = dict(source.origin)
        if stated := config.get("quantization_config"):
            origin["quantised"] = stated
        if peft is not None:
            hf, origin["adapter"] = merged(hf, peft, called, offline, allow_pickle)
    hf.requires_grad_(False)
    words = (
        _load_tokenizer(tokenizer, None, shared)
        if tokenizer is not None and tokenizer != pretrained
        else _load_tokenizer(str(source.place), options["revision"], shared)
    )
    from harness.model.wrapping import wrap

    with quietly(), silently(config):
        return wrap(hf, words, called, revision, source.commit, add_bos, unused, origin)


def resolve_device(device: str) -> torch.device:
    """The torch device that ``device`` names; "auto" is CUDA where there is one, else the CPU.

    Raises:
        HarnessError: no such kind of device, or none in this machine.
    """
    import torch

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdigit())):
        known = suggest(kind, ("auto", "cpu", "cuda", "mps"))
        raise HarnessError(f'unknown device "{device}": expected auto, cpu, cuda, cuda:1 or mps.{known}')
    if kind == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise HarnessError(f'device "{device}" was asked for, but there is no usable CUDA GPU here; use device=cpu.')
    if index and int(index) >= torch.cuda.device_count():
        raise HarnessError(
            f'device "{device}" was asked for, but there are only {counted(torch.cuda.device_count(), "GPU")} here.'
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise HarnessError('device "mps" was asked for, but Apple\'s Metal is not available here; use device=cpu.')
    return torch.device(device)


def _auto_class(config: dict[str, Any]) -> Any:
    """The class of transformers that loads what config.json describes; an image-text model is loaded whole, and asked
    about text alone."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGE_TEXT,
    )

    kind, has_parts = config.get("model_type"), not {"text_config", "vision_config"}.isdisjoint(config)
    if kind in IMAGE_TEXT and (has_parts or kind not in CAUSAL):
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def _check_places(pretrained: str, hf: Any, device_map: str | dict[str, Any] | None) -> None:
    """Refuse names that accelerate would pass over."""
    modules = {name for name, _ in hf.named_modules()}
    for name in device_map if isinstance(device_map, dict) else ():
        if name not in modules:
            raise HarnessError(f'device_map: {pretrained} has no module "{name}".{suggest(name, modules)}')


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, dtype)
    return found


def _load_tokenizer(source: str, revision: str | None, shared: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    folder = expand(source)
    if is_path(source) and not folder.is_dir():
        raise HarnessError(f'tokeniser "{source}": {not_there(folder, "folder")}.{nearest(folder)}')
    with quietly(), explained(f'the tokeniser of "{source}"'):
        try:
            found = AutoTokenizer.from_pretrained(
                str(folder) if folder.is_dir() else source, revision=revision or "main", **shared
            )
        except ValueError as error:
            if "instantiate the backend tokenizer" not in str(error):
                raise
            found = None
    # Where there are no files, many classes come up with their special tokens and nothing else.
    if found is None or found.get_vocab().keys() <= found.get_added_vocab().keys():
        raise HarnessError(f'no tokeniser was found in "{source}": name another with tokenizer=...')
    return found
