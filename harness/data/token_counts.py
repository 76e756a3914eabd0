"""How often each token occurs in a corpus: counted in a stream, resumable; or read from a file.

The token-frequency analyses of Stolfo et al. 2024 (section 4) need p_freq, the corpus's unigram distribution with 1
added to every count, and v_freq = log p_freq - mean(log p_freq), the direction in logit space that it defines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.token_sequences import tokenised
from harness.errors import HarnessError, not_there
from harness.files.paths import expand
from harness.files.published_counts import PUBLISHED, counts_file
from harness.files.store import canonical, digest, write_bytes
from harness.files.wording import agree, counted
from harness.model import digests as identity
from harness.plugin import border
from harness.plugin.specs import ComponentSpec

if TYPE_CHECKING:
    from harness.model.model import Model
    from harness.plugin.components import Corpus

FORMAT = "harness-unigrams-1"
CHECKPOINT_DOCUMENTS = 10_000
"""Documents between two checkpoints."""
FLUSH_TOKENS = 2**20
"""Tokens that are counted at a time."""


@dataclass(frozen=True, eq=False)
class Unigrams:
    """Counts of the tokens of a corpus.

    Attributes:
        counts: int64 [d_vocab], by token id; read-only.
        n_tokens: their sum.
        source: what was counted, in words.
        notes: what a reader should know: padding to the model's vocabulary ...
        n_documents: how many documents were read, None where a file does not say.
        smoothing: added to every count before anything is derived from them; 1 in the paper.
    """

    counts: np.ndarray
    n_tokens: int
    source: str
    notes: tuple[str, ...] = ()
    n_documents: int | None = None
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.smoothing) and self.smoothing >= 0):
            raise HarnessError(f"unigrams: expected a smoothing of at least 0, got {self.smoothing}.")
        counts = np.asarray(self.counts, np.int64).view()
        counts.setflags(write=False)  # shared by all who ask for the same count
        object.__setattr__(self, "counts", counts)

    @property
    def probabilities(self) -> np.ndarray:
        """p_freq, float64 [d_vocab], with sum 1."""
        smooth = self.counts.astype(np.float64) + self.smoothing
        found: np.ndarray = smooth / smooth.sum()
        return found

    @property
    def log_frequency(self) -> np.ndarray:
        """v_freq = log p_freq - mean(log p_freq), float64 [d_vocab], with sum 0.

        Raises:
            HarnessError: without smoothing, where a token was never seen.
        """
        if self.smoothing == 0 and (unseen := int((self.counts == 0).sum())):
            raise HarnessError(
                f"unigrams of {self.source}: {counted(unseen, 'token')} {agree(unseen, 'was', 'were')} never "
                "seen, so their "
                "log-frequency is infinite; use a smoothing above 0."
            )
        logs = np.log(self.probabilities)
        found: np.ndarray = logs - logs.mean()
        return found

    @property
    def unseen(self) -> float:
        """Share of the tokens of the vocabulary that never occurred."""
        return float((self.counts == 0).mean())


def summary(found: Unigrams, model: Model, top: int = 10) -> str:
    """What was counted, for a terminal: documents, tokens, distinct tokens, the most frequent ones."""
    d_vocab = len(found.counts)
    most = np.argsort(-found.counts, kind="stable")[:top]
    rows = [
        f"  {model.token_texts[i]!r:<20} {found.counts[i]:>12}  {100 * found.counts[i] / found.n_tokens:6.2f}%"
        for i in most.tolist()
        if found.counts[i]
    ]
    return "\n".join(
        [
            f"documents        {'unknown' if found.n_documents is None else found.n_documents}",
            f"tokens           {found.n_tokens}",
            f"distinct tokens  {int((found.counts > 0).sum())} of {d_vocab}; {100 * found.unseen:.1f}% were never seen",
            "most frequent",
            *rows,
            *(f"note: {note}" for note in found.notes),
        ]
    )


# -- counting ----------------------------------------------------------------------------------------------------------


@dataclass
class _Count:
    """How far a count has come: whole documents only, so that it can be continued."""

    counts: np.ndarray
    n_tokens: int = 0
    n_documents: int = 0

    def add(self, ids: list[int], documents: int) -> None:
        found = np.bincount(np.asarray(ids, np.int64), minlength=len(self.counts))
        if len(found) > len(self.counts):
            raise HarnessError(
                f"unigrams: the corpus holds token {len(found) - 1}, but the model has logits for only "
                f"{counted(len(self.counts), 'token')}: this tokeniser does not belong to the model."
            )
        self.counts += found
        self.n_tokens += len(ids)
        self.n_documents += documents


def count_unigrams(
    model: Model,
    corpus: Corpus,
    max_tokens: int | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Unigrams:
    """Count the tokens of a corpus, each document tokenised as prompts are but without the model's prefix (BOS).

    Args:
        max_tokens: stop after exactly so many tokens, in the middle of a document if need be; default: count all.
        checkpoint: a file to continue from if it is there, written every ``CHECKPOINT_DOCUMENTS`` documents; a count
            that was interrupted and continued equals one that was not.
        progress: called with the number of tokens just counted (first with the checkpoint's).

    Raises:
        HarnessError: the corpus holds no token, or the checkpoint is damaged or belongs to another count.
    """
    done = _Count(np.zeros(model.anatomy.d_vocab, np.int64))
    key = {} if checkpoint is None else _checkpoint_key(model, corpus)
    if checkpoint is not None and checkpoint.is_file():
        done = _continue(checkpoint, key, model)
        if max_tokens is not None and done.n_tokens > max_tokens:
            done = _Count(np.zeros(model.anatomy.d_vocab, np.int64))
        elif progress:
            progress(done.n_tokens)
    pending: list[int] = []
    documents = 0

    def flush() -> None:
        nonlocal pending, documents
        done.add(pending, documents)
        if progress:
            progress(len(pending))
        pending, documents = [], 0

    for _, ids in tokenised(model, islice(border.documents(corpus), done.n_documents, None)):
        room = None if max_tokens is None else max_tokens - done.n_tokens - len(pending)
        if room == 0:
            break
        pending += ids[:room]
        documents += 1
        due = (done.n_documents + documents) % CHECKPOINT_DOCUMENTS == 0
        if due or len(pending) >= FLUSH_TOKENS:
            flush()
        if due and checkpoint is not None and (room is None or len(ids) <= room):
            _write(checkpoint, done.counts, key | {"n_documents": done.n_documents})
    flush()
    if not done.n_tokens:
        raise HarnessError(f"unigrams: the corpus {corpus.name} holds no token.")
    return Unigrams(done.counts, done.n_tokens, _describe(corpus, max_tokens, done), (), done.n_documents)


def _describe(corpus: Corpus, max_tokens: int | None, done: _Count) -> str:
    """The corpus as it is written on a command line, and how much of it was counted."""
    spec = ComponentSpec(corpus.name, corpus.model_dump(mode="json", exclude_defaults=True))
    first = "the first " if done.n_tokens == max_tokens else ""
    return f"{first}{counted(done.n_tokens, 'token')} of {spec}"


def _checkpoint_key(model: Model, corpus: Corpus) -> dict[str, Any]:
    return {"checkpoint": True, "tokenizer_sha256": _tokenizer_digest(model), "corpus": _corpus_digest(corpus)}


def _continue(path: Path, key: dict[str, Any], model: Model) -> _Count:
    """The count of a checkpoint.

    Raises:
        HarnessError: it is damaged, or another tokeniser's or corpus's.
    """
    counts, meta = _read(path)
    for name, value in key.items():
        if meta.get(name) != value:
            other = {"tokenizer_sha256": "another tokenizer", "corpus": "another corpus"}.get(name, "no count")
            raise HarnessError(
                f"{path}: this is the checkpoint of {other}; count into another file, or anew (--fresh)."
            )
    if len(counts) != model.anatomy.d_vocab:
        raise HarnessError(
            f"{path}: this is the checkpoint of a model with {counted(len(counts), 'token')}; count anew (--fresh)."
        )
    return _Count(counts, int(counts.sum()), int(meta["n_documents"]))


def _tokenizer_digest(model: Model) -> str:
    """Of the tokeniser without the policy on BOS, which counts do not depend on."""
    return identity.tokenizer_digest(model.tokenizer, ()) if model.prefix else model.tokenizer_digest


def _corpus_digest(corpus: Corpus) -> str:
    return digest({"component": corpus.identity(), "data": border.data_digest(corpus)})


# -- files -------------------------------------------------------------------------------------------------------------


def _write(path: Path, counts: np.ndarray, meta: dict[str, Any]) -> None:
    """Counts and what is to be said of them, as one atomically written safetensors file."""
    from safetensors.numpy import save

    # One key: the order in which safetensors writes several is not fixed.
    write_bytes(path, save({"counts": counts}, metadata={"harness": canonical({"format": FORMAT, **meta})}))


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """What :func:`_write` wrote.

    Raises:
        HarnessError: the file cannot be read, or is none of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {}).get("harness", "{}"))
            counts = file.get_tensor("counts")
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise HarnessError(
            f"{path}: this file of token counts cannot be read ({' '.join(str(error).split())})."
        ) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise HarnessError(f"{path}: expected token counts as `harness unigrams` writes them, or a .npy file.")
    return np.array(counts), meta


def count_to_file(
    path: Path,
    model: Model,
    corpus: Corpus,
    max_tokens: int | None = None,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[Unigrams, bool]:
    """Count into a file, with the checkpoint ``<file>.unfinished`` beside it; the same count gives the same bytes.

    Returns:
        the counts, and whether the file held them already.

    Raises:
        HarnessError: the file holds another count and not ``fresh``, or anything but a count; as
            :func:`count_unigrams`.
    """
    checkpoint = path.with_name(path.name + ".unfinished")
    request = _request(model, corpus, max_tokens)
    if fresh:
        for old in (path, checkpoint):
            _refuse_foreign(old)
        checkpoint.unlink(missing_ok=True)
    elif path.exists():
        if _read(path)[1].get("request") == request:
            return load_unigrams(path, model), True
        raise HarnessError(f"{path}: this file holds another count; choose another file, or overwrite it with --fresh.")
    found = count_unigrams(model, corpus, max_tokens, checkpoint, progress)
    meta = {
        "tokenizer_sha256": _tokenizer_digest(model),
        "request": request,
        "source": found.source,
        "n_documents": found.n_documents,
    }
    _write(path, found.counts, meta)
    checkpoint.unlink(missing_ok=True)
    return found, False


def _refuse_foreign(path: Path) -> None:
    """Refuse to replace or remove a file that holds no count of ours.

    Raises:
        HarnessError: it holds something else.
    """
    if path.exists():
        try:
            _read(path)
        except HarnessError:
            raise HarnessError(
                f"{path}: this file holds no count that `harness unigrams` has written, so --fresh does not replace it."
            ) from None


def _request(model: Model, corpus: Corpus, max_tokens: int | None) -> str:
    """sha256 of what a finished count depends on."""
    return digest([_tokenizer_digest(model), model.anatomy.d_vocab, _corpus_digest(corpus), max_tokens])


def load_unigrams(path: str | Path, model: Model) -> Unigrams:
    """Counts from a file: what ``harness unigrams`` wrote, or a ``.npy`` array [n] whose index is the token id.

    A file with fewer counts than the model has tokens is filled up with zeros (vocabularies are padded, often to a
    multiple of 64), one with more is cut where the rest is zero; both are stated in ``notes``. A published count has a
    name (:data:`harness.files.published_counts.PUBLISHED`).

    Raises:
        HarnessError: the file cannot be read; it holds anything but whole, non-negative numbers, or nothing but zeros;
            it was counted with another tokeniser, or has counts of tokens that the model does not have.
    """
    path = expand(counts_file(str(path)))
    if not path.is_file():
        raise HarnessError(
            f"{path}: {not_there(path)} of token counts (write one with `harness unigrams`; published ones are "
            f"{', '.join(PUBLISHED)})."
        )
    meta: dict[str, Any] = {}
    if path.suffix == ".npy":
        try:
            raw = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise HarnessError(f"{path}: this is no array that numpy reads without pickle ({error}).") from error
    else:
        raw, meta = _read(path)
        if meta.get("checkpoint"):
            raise HarnessError(f"{path}: this count is unfinished; give the same `harness unigrams` command again.")
        if meta.get("tokenizer_sha256") != _tokenizer_digest(model):
            raise HarnessError(f"{path}: these tokens were counted with another tokenizer than that of {model.name}.")
    counts, fitted = _fit(_whole(raw, path), model, path)
    source = f"{path.name}: {meta['source']}" if meta else path.name
    return Unigrams(counts, int(counts.sum()), source, fitted, meta.get("n_documents"))


def _whole(raw: np.ndarray, path: Path) -> np.ndarray:
    """Counts as int64 [n]."""
    if raw.ndim != 1 or raw.dtype.kind not in "iuf":
        raise HarnessError(
            f"{path}: expected one count a token, an array of numbers [n], got {raw.dtype} of shape {list(raw.shape)}."
        )
    bad = ~np.isfinite(raw) | (raw < 0) | (raw >= 2**53)
    if raw.dtype.kind == "f":
        bad |= raw != np.floor(raw)
    if bad.any():
        first = int(bad.argmax())
        raise HarnessError(
            f"{path}: expected counts, whole numbers from 0 (no frequencies), but token {first} has {raw[first]}."
        )
    if not raw.any():
        raise HarnessError(f"{path}: every count is 0.")
    return raw.astype(np.int64)


def _fit(counts: np.ndarray, model: Model, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Counts of exactly the model's tokens, and what was done about it."""
    n, d_vocab = len(counts), model.anatomy.d_vocab
    if n < d_vocab:
        note = (
            f"the file has {counted(n, 'count')}, the model {counted(d_vocab, 'token')}: the other "
            f"{d_vocab - n} were given the count 0"
        )
        return np.pad(counts, (0, d_vocab - n)), (note,)
    if counts[d_vocab:].any():
        extra = d_vocab + int(np.flatnonzero(counts[d_vocab:])[0])
        raise HarnessError(
            f"{path}: token {extra} has a count, but {model.name} has only {counted(d_vocab, 'token')}: "
            "the file belongs to another tokenizer."
        )
    note = (
        f"the file has {counted(n, 'count')}, the model {counted(d_vocab, 'token')}: the last "
        f"{n - d_vocab}, all 0, were left out"
    )
    return counts[:d_vocab].copy(), (note,) if n > d_vocab else ()


# -- either ------------------------------------------------------------------------------------------------------------

_COUNTED: dict[str, Unigrams] = {}


def unigrams(model: Model, source: str | None, corpus: Corpus, max_tokens: int = 2_000_000) -> Unigrams:
    """The unigram distribution of a file (``source``), else of the corpus's first ``max_tokens`` tokens.

    Counts are kept for the process: the components of one run that ask for the same ones count once.

    Raises:
        HarnessError: as :func:`load_unigrams` and :func:`count_unigrams`.
    """
    if source is not None:
        return load_unigrams(source, model)
    key = _request(model, corpus, max_tokens)
    if key not in _COUNTED:
        _COUNTED[key] = count_unigrams(model, corpus, max_tokens)
    return _COUNTED[key]
