"""Loading models of the Hugging Face hub or of a local folder, quietly, with one clear sentence when it fails."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, not_there, suggest
from harness.files.paths import expand
from harness.files.wording import agree, counted

if TYPE_CHECKING:
    import torch

    from harness.model.model import Model

DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
"""What ``dtype`` may be; "auto" is the checkpoint's own."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_COMPUTED = re.compile(r"(^|\.)((self_)?(attn|attention|self_attention)\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
"""Buffers that older versions of transformers saved: causal masks and rotary frequencies, which follow from the
configuration. A learned bias belongs to a projection, never to the attention itself."""


def load_hf(
    pretrained: str,
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
) -> Model:
    """Load a causal language model with its tokeniser.

    A token for gated models comes from ``HF_TOKEN`` or ``hf auth login``; ``HF_HUB_OFFLINE=1`` is honoured.

    Args:
        pretrained: hub id ("openai-community/gpt2") or local folder.
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
        name: what results call the model, by default ``pretrained``.

    Raises:
        HarnessError: one sentence for whatever is wrong with the arguments, the files, the hub or the model.
    """
    if dtype not in DTYPES:
        raise HarnessError(f'unknown dtype "{dtype}": expected one of {", ".join(DTYPES)}.{suggest(dtype, DTYPES)}')
    if device_map is not None and device != "auto":
        raise HarnessError(f'device "{device}" and device_map exclude each other: device_map places every layer.')
    place = resolve_device(device) if device_map is None else None
    offline = _offline() if local_files_only is None else local_files_only
    source, commit = _find(pretrained, revision, offline)
    if isinstance(source, Path):
        _check_folder(source, allow_pickle)
    else:
        _check_repository(source, commit, offline)
    shared: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {
        "revision": commit or revision or "main",
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
    with _quietly(), _explained(pretrained):
        hf, info = AutoModelForCausalLM.from_pretrained(str(source), **options)
        unused = _check_loaded(pretrained, info, allow_unused)
        _check_places(pretrained, hf, device_map)
        if place is not None:
            hf = hf.to(place)
    hf.requires_grad_(False)
    words = (
        _load_tokenizer(tokenizer, None, shared)
        if tokenizer is not None and tokenizer != pretrained
        else _load_tokenizer(str(source), options["revision"], shared)
    )
    from harness.model.model import wrap

    with _quietly():
        return wrap(hf, words, name or pretrained, revision, commit, add_bos, unused)


# --- arguments -----------------------------------------------------------------------------------------------------


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


def _offline() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


# --- finding the model ---------------------------------------------------------------------------------------------


def _find(pretrained: str, revision: str | None, offline: bool) -> tuple[Path | str, str | None]:
    """A local folder, or a hub id with the commit that the revision resolves to."""
    folder = expand(pretrained)
    if folder.is_dir():
        if revision is not None:
            raise HarnessError(f'revision "{revision}" was asked for, but {pretrained} is a local folder without any.')
        return folder, None
    if folder.is_file():
        raise HarnessError(f"{pretrained} is a file: expected the folder that holds config.json and model.safetensors.")
    if _is_path(pretrained):
        raise HarnessError(f'model folder "{pretrained}" does not exist.{_nearest(folder)}')
    return pretrained, _resolve_commit(pretrained, revision, offline)


def _is_path(source: str) -> bool:
    """Whether a name can only be that of a folder, not of a repository of the hub."""
    return source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source)


def _nearest(folder: Path) -> str:
    """Which folder beside a missing one may have been meant."""
    parent = folder.parent
    return suggest(folder.name, [x.name for x in parent.iterdir() if x.is_dir()]) if parent.is_dir() else ""


def _resolve_commit(pretrained: str, revision: str | None, offline: bool) -> str | None:
    """Fetch config.json, for the commit in its cache path and for the hub's precise errors."""
    import huggingface_hub
    from huggingface_hub import errors

    at = f' at revision "{revision}"' if revision else ""
    try:
        with _quietly():
            config = huggingface_hub.hf_hub_download(
                pretrained, "config.json", revision=revision, local_files_only=offline
            )
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{pretrained}"
        if huggingface_hub.get_token() is None:
            raise HarnessError(
                f'model "{pretrained}" is gated: accept its licence at {page} and set HF_TOKEN (or `hf auth login`).'
            ) from None
        raise HarnessError(
            f'model "{pretrained}" is gated, and your token has no access to it: accept its licence at {page}.'
        ) from None
    except errors.RevisionNotFoundError:
        raise HarnessError(f'model "{pretrained}" has no revision "{revision}" on the hub.') from None
    except errors.RepositoryNotFoundError:
        raise HarnessError(
            f'model "{pretrained}" was not found: there is no local folder of that name and no such model on the hub '
            f"(a private one needs HF_TOKEN).{_nearest(Path(pretrained))}"
        ) from None
    except errors.LocalEntryNotFoundError:
        if offline:
            raise HarnessError(
                f'model "{pretrained}"{at} is not in the local cache, and the hub may not be asked (HF_HUB_OFFLINE); '
                f"there is no local folder of that name either.{_nearest(Path(pretrained))}"
            ) from None
        raise HarnessError(
            f'model "{pretrained}"{at} is not in the local cache, and the hub cannot be reached; check the network.'
        ) from None
    except errors.EntryNotFoundError:
        raise HarnessError(
            f'"{pretrained}"{at} has no config.json on the hub: it is no transformers model (an adapter has to be '
            "merged into its model first)."
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise HarnessError(f'model "{pretrained}"{at} could not be fetched: {_first_line(error)}') from error
    snapshot = Path(config).parent
    return snapshot.name if snapshot.parent.name == "snapshots" else None


# --- checking files ------------------------------------------------------------------------------------------------


def _check_folder(folder: Path, allow_pickle: bool) -> None:
    """Look at a local folder before transformers does, whose messages are about something else."""
    config = folder / "config.json"
    if found := [name for name in _ADAPTER if (folder / name).is_file()]:
        _refuse_adapter(f"model folder {folder}", found, config.is_file())
    if not config.is_file():
        raise HarnessError(f"model folder {folder} has no config.json.")
    _read_json(config)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = _read_json(index).get("weight_map")
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


def _check_repository(pretrained: str, commit: str | None, offline: bool) -> None:
    """Refuse an adapter beside a model of the hub, which transformers leaves out, or adds unmerged where peft is."""
    from transformers.utils import find_adapter_config_file

    with _quietly(), _explained(pretrained):
        found = find_adapter_config_file(pretrained, revision=commit or "main", local_files_only=offline)
    if found is not None:
        _refuse_adapter(f'model "{pretrained}"', [Path(found).name], has_model=True)


def _refuse_adapter(owner: str, files: Sequence[str], has_model: bool) -> None:
    merge = "merge it with peft (merge_and_unload, then save_pretrained into another folder)"
    if has_model:
        raise HarnessError(
            f"{owner} holds an adapter ({', '.join(files)}) beside its own weights, which would be left out: {merge}, "
            "or move its files away to run the model without it."
        )
    raise HarnessError(
        f"{owner} holds an adapter ({', '.join(files)}) and no model: {merge}, and name the folder of the merged model."
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise HarnessError(f"{file} is damaged: {_first_line(error)}") from error
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
        raise HarnessError(f"{file} is damaged or truncated: {_first_line(error)}") from error


def _check_loaded(pretrained: str, info: dict[str, Any], allow_unused: bool) -> tuple[str, ...]:
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


def _load_tokenizer(source: str, revision: str | None, shared: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    folder = expand(source)
    if _is_path(source) and not folder.is_dir():
        raise HarnessError(f'tokeniser "{source}": {not_there(folder, "folder")}.{_nearest(folder)}')
    with _quietly(), _explained(f'the tokeniser of "{source}"'):
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


# --- transformers' manners -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars and no log lines from transformers and the hub within the block; settings are put back."""
    import logging as python_logging
    import warnings

    from huggingface_hub import utils as hub
    from transformers.utils import logging

    verbosity, hub_verbosity = logging.get_verbosity(), hub.logging.get_verbosity()
    bars, hub_bars = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    hub.logging.set_verbosity(hub.logging.CRITICAL)
    logging.disable_progress_bar()
    accelerate = python_logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(python_logging.CRITICAL)
    if not hub_bars:
        hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        hub.logging.set_verbosity(hub_verbosity)
        accelerate.setLevel(level)
        if bars:
            logging.enable_progress_bar()
        if not hub_bars:
            hub.enable_progress_bars()


@contextlib.contextmanager
def _explained(pretrained: str) -> Iterator[None]:
    """Turn the errors of ``from_pretrained`` into one sentence each."""
    import torch

    try:
        yield
    except HarnessError:
        raise
    except torch.OutOfMemoryError as error:
        raise HarnessError(f"{pretrained} does not fit into the device's memory: {_first_line(error)}") from error
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise HarnessError(
                f"{pretrained} comes with its own Python code; if you trust it, allow it with trust_remote_code=true."
            ) from error
        if "does not appear to have a file named" in text and "safetensors" in text:
            raise HarnessError(
                f"{pretrained} has no safetensors weights; if you trust its pickled ones, allow them with "
                "allow_pickle=true."
            ) from error
        if "Unrecognized configuration class" in text:
            raise HarnessError(f"{pretrained} is not a causal language model that transformers knows.") from error
        raise HarnessError(f"{pretrained} could not be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
