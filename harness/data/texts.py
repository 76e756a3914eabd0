"""Texts of local files and of datasets on the Hugging Face hub, read in a stream.

``datasets`` reads all but plain text, whose lines and paragraphs it would take too literally.
"""

from __future__ import annotations

import bz2
import functools
import glob
import gzip
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from harness.errors import HarnessError, suggest
from harness.files.paths import expand

FORMATS = {".txt": "text", ".jsonl": "json", ".json": "json", ".ndjson": "json", ".parquet": "parquet"}
"""What a file holds, by its ending; text and JSON may be compressed."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


COMMIT = re.compile(r"[0-9a-f]{40}")


def is_local(path: str) -> bool:
    """Whether ``path`` means a file or folder here rather than the id of a dataset on the hub."""
    return expand(path).exists() or format_of(Path(path)) is not None or path.startswith(("/", ".", "~"))


def format_of(path: Path) -> str | None:
    """The format of a file by its name, None for one that is not read."""
    suffixes = path.suffixes[-2:] if path.suffix in COMPRESSED else path.suffixes[-1:]
    found = FORMATS.get(suffixes[0].lower()) if suffixes else None
    return None if found == "parquet" and path.suffix in COMPRESSED else found


def local_files(path: str) -> tuple[str, list[Path]]:
    """(format, files) of a file, or of a folder with all its subfolders, in the order of their paths.

    Raises:
        HarnessError: there is no such file, none of a format that can be read, or files of several formats.
    """
    root = expand(path)
    known = "expected .txt, .jsonl, .json or .parquet (text and JSON also as .gz)"
    if root.is_dir():
        inside = sorted((x for x in root.rglob("*") if x.is_file()), key=lambda x: x.relative_to(root).as_posix())
        files = [x for x in inside if not any(y.startswith(".") for y in x.relative_to(root).parts)]
    elif root.is_file():
        files = [root]
    else:
        raise HarnessError(f"corpus text: there is no file or folder {path}.")
    formats = {x: format_of(x) for x in files}
    found = {y for y in formats.values() if y is not None}
    if not found:
        raise HarnessError(f"corpus text: {path} is, or holds, no file that can be read; {known}.")
    if len(found) > 1:
        raise HarnessError(
            f"corpus text: the folder {path} holds files of several formats ({', '.join(sorted(found))}); "
            "name one file, or a folder with one format."
        )
    return found.pop(), [x for x in files if formats[x] is not None]


def read_local(path: str, column: str, sample_by: str) -> Iterator[str]:
    """The texts of local files, streamed; nothing is written to the cache of ``datasets``.

    Raises:
        HarnessError: see :func:`local_files`; a file that cannot be read; a row without text in the column.
    """
    kind, files = local_files(path)
    if kind == "text":
        for file in files:
            yield from plain_texts(file, sample_by)
        return
    rows = _load(path, kind, data_files=[glob.escape(str(x)) for x in files], split="train", streaming=True)
    yield from _column(rows, path, column)


def plain_texts(file: Path, sample_by: str) -> Iterator[str]:
    """What a .txt file holds, UTF-8 with or without a byte order mark.

    Args:
        sample_by: "paragraph": lines up to one that is empty, or holds nothing but spaces (WikiText's do), stripped on
            the outside; "line": every line, stripped, that is not empty; "document": the whole file as it is.

    Raises:
        HarnessError: it cannot be read, unpacked or decoded.
    """
    try:
        with _opened(file) as lines:
            if sample_by == "document":
                texts: Iterator[str] = iter([lines.read()])
            elif sample_by == "line":
                texts = (line.strip() for line in lines)
            else:
                groups = itertools.groupby(lines, lambda line: bool(line.strip()))
                texts = ("".join(group).strip() for full, group in groups if full)
            yield from (text for text in texts if text.strip())
    except (OSError, EOFError, ValueError, ImportError, lzma.LZMAError, zlib.error) as error:
        raise HarnessError(_unreadable(str(file), error)) from error


def _opened(file: Path) -> IO[str]:
    """A text file, unpacked; only what ends a line everywhere (\\n, \\r\\n, \\r) ends one here."""
    if file.suffix == ".zst":
        import zstandard  # as for datasets, it must have been installed

        return cast(IO[str], zstandard.open(file, "rt", encoding="utf-8-sig"))
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(IO[str], openers.get(file.suffix, open)(file, "rt", encoding="utf-8-sig"))


def read_hub(
    path: str, config: str | None, split: str, column: str, revision: str | None, streaming: bool
) -> Iterator[str]:
    """The texts of a dataset on the hub; ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` act as everywhere.

    Raises:
        HarnessError: the dataset, its configuration or split cannot be had; a row without text in the column.
    """
    if streaming:
        # What is read is what the digest names, also when the branch moves on meanwhile.
        splits = _load(path, path, name=config, revision=hub_commit(path, revision), streaming=True)
        if split not in splits:
            raise HarnessError(
                f'corpus text: {path} has no split "{split}".{suggest(split, splits)} It has: {", ".join(splits)}.'
            )
        rows = splits[split]
    else:
        rows = _load(path, path, name=config, revision=revision, split=split, streaming=False)
        _check_cached(rows, path, revision)
    yield from _column(rows, path, column)


def _check_cached(rows: Any, path: str, revision: str | None) -> None:
    """Offline, ``datasets`` takes the latest version of its cache, whatever revision was asked for."""
    wanted = revision if revision is not None and COMMIT.fullmatch(revision) else None
    folders = {part for file in rows.cache_files for part in Path(file["filename"]).parts}
    found = {part for part in folders if COMMIT.fullmatch(part)}
    if wanted and found and wanted not in found:
        raise HarnessError(
            f"corpus text: revision {wanted} of {path} is not in the cache, which holds {', '.join(sorted(found))}."
        )


def _load(shown: str, path: str, **options: Any) -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said once, by us
    try:
        # Older versions of datasets ask on the terminal whether code may run unless they are told.
        return datasets.load_dataset(path, trust_remote_code=False, **options)
    except Exception as error:  # datasets raises many kinds; each means that the texts cannot be had
        raise HarnessError(_unreadable(shown, error)) from error


def _column(rows: Any, path: str, column: str) -> Iterator[str]:
    """The texts of one column; whatever goes wrong while a stream is read becomes one sentence."""
    number = -1
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise HarnessError(_unreadable(path, error)) from error
        number += 1
        if column not in row:
            raise HarnessError(
                f'corpus text: {path} has no column "{column}".{suggest(column, row)} '
                f"Its columns are: {', '.join(row) or 'none'}; choose one with column=..."
            )
        if not isinstance(row[column], str):
            raise HarnessError(
                f'corpus text: {path}, row {number + 1}: expected text in the column "{column}", '
                f"got {_shown(row[column])}."
            )
        yield row[column]


def _unreadable(path: str, error: Exception) -> str:
    said = " ".join(re.split(r"\n\s*\n|\nExample of usage", str(error).strip())[0].split()) or type(error).__name__
    if isinstance(error, UnicodeError):
        said = "it is not UTF-8 text"
    elif isinstance(error, StopIteration):
        said = "it is empty"
    if is_local(path):
        return f"corpus text: {path} cannot be read ({said.rstrip('.')})."
    return (
        f'corpus text: "{path}" is neither a file here nor a dataset of the hub that can be read ({said.rstrip(".")}); '
        "check the id, config, split and revision, and the network."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- what texts depend on ----------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def hub_commit(path: str, revision: str | None) -> str:
    """The commit of a dataset that a revision (branch, tag; default: the main branch) means now.

    A full commit is its own answer and needs no network.

    Raises:
        HarnessError: it cannot be resolved: offline, unknown, gated.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(path, revision=revision).sha)
    except Exception as error:  # the hub's client raises many kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise HarnessError(
            f'corpus text: "{path}" is neither a file here nor a dataset of the hub whose commit can be asked for '
            f"({said[:200].rstrip('.')}); check the id, the revision and the network, or give a full commit."
        ) from error
