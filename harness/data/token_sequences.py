"""Sequences of a fixed length from a corpus, drawn by a seed, and which of their predictions count.

A corpus is read once, in a stream; of its tokens only the drawn sequences and a batch of documents are held.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import HarnessError
from harness.files.wording import agree, counted, the
from harness.plugin import border

if TYPE_CHECKING:
    from harness.model.model import Model
    from harness.plugin.components import Corpus

Part = Literal["select", "evaluate"]

BATCH_DOCUMENTS = 1024
BATCH_CHARACTERS = 2**20
"""Documents, and characters, that are tokenised together at most (but at least one document)."""


@dataclass(frozen=True)
class Sequence:
    """Tokens of a corpus and where they are from.

    Attributes:
        tokens: as the model reads them, its prefix (BOS) included.
        documents: numbers of the documents that the tokens are from, ascending; 0 is the corpus's first.
        start: how many tokens of the first of these documents come before (the separator counts as its last token).
    """

    tokens: tuple[int, ...]
    documents: tuple[int, ...]
    start: int


def half(text: str) -> Part:
    """The half of any corpus that a document belongs to, by a hash of its text: copies are never on both sides."""
    return (
        "evaluate"
        if hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0] % 2
        else "select"
    )


def sequences(
    model: Model,
    corpus: Corpus,
    n: int,
    length: int,
    seed: int,
    part: Part | None = None,
    across_documents: bool = False,
) -> list[Sequence]:
    """``n`` sequences of exactly ``length`` tokens, drawn uniformly from all that the corpus can be cut into.

    Each document is tokenised as prompts are and cut into consecutive, disjoint chunks; a rest that is too short is
    left out. Every sequence begins with the model's prefix (BOS, or nothing), which counts in ``length``. The same seed
    draws the same sequences, and the first ``k`` of ``n`` are those that ``n=k`` gives.

    Args:
        part: only documents of one half, "select" or "evaluate" (see :func:`half`), so that what neurons are selected
            by and what they are evaluated on share no document.
        across_documents: join the documents, each followed by the tokeniser's EOS if it has one, and cut the whole.

    Returns:
        ``n`` sequences, or all there are where the corpus has fewer: compare the length of the list.

    Raises:
        HarnessError: ``length`` does not fit the model, or no sequence of this length can be had.
    """
    size = length - len(model.prefix)
    if n < 1 or size < 1 or length < 2:
        raise HarnessError(
            f"sequences: {n} of {counted(length, 'token')} were asked for; expected at least 1 of at least 2."
        )
    if model.n_positions is not None and length > model.n_positions:
        raise HarnessError(
            f"sequences: {counted(length, 'token')} are more than the {counted(model.n_positions, 'position')} "
            f"of {model.name}; "
            "ask for a smaller length."
        )
    seen = _Seen(part, corpus)
    documents = seen.count(tokenised(model, seen.texts(), None if part is None else lambda t: half(t) == part))
    chunks = _joined(documents, size, _separator(model)) if across_documents else _cut(documents, size)
    drawn = _draw(chunks, n, seed)
    if not drawn:
        raise HarnessError(seen.nothing(length, size, across_documents))
    return [Sequence((*model.prefix, *chunk.tokens), chunk.documents, chunk.start) for chunk in drawn]


def tokenised(
    model: Model, texts: Iterable[str], wanted: Callable[[str], bool] | None = None
) -> Iterator[tuple[int, list[int]]]:
    """(number, token ids without special tokens) of every text, or of those that ``wanted`` accepts, in order.

    The numbers count all texts, from 0. Texts are tokenised in batches.

    Raises:
        HarnessError: a token that the model has no embedding for.
    """
    n_embeddings = model.hf.get_input_embeddings().weight.shape[0]
    for numbers, batch in _batches(texts, wanted):
        # verbose: a text that is longer than the model's positions is cut later.
        rows = model.tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for number, ids in zip(numbers, rows, strict=True):
            if ids and max(ids) >= n_embeddings:
                raise HarnessError(
                    f"document {number} holds token {max(ids)}, but {model.name} embeds only "
                    f"{counted(n_embeddings, 'token')}: "
                    "this tokeniser does not belong to the model."
                )
            yield number, ids


def _batches(texts: Iterable[str], wanted: Callable[[str], bool] | None) -> Iterator[tuple[list[int], list[str]]]:
    numbers: list[int] = []
    batch: list[str] = []
    characters = 0
    for number, text in enumerate(texts):
        if wanted is not None and not wanted(text):
            continue
        numbers.append(number)
        batch.append(text)
        characters += len(text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield numbers, batch
            numbers, batch, characters = [], [], 0
    if batch:
        yield numbers, batch


class _Seen:
    """Counts what passes, to say why nothing could be drawn."""

    def __init__(self, part: Part | None, corpus: Corpus) -> None:
        self.part, self.corpus = part, corpus
        self.all, self.documents, self.longest = 0, 0, 0

    def texts(self) -> Iterator[str]:
        """The corpus's documents, those of the other half included."""
        for text in border.documents(self.corpus):
            self.all += 1
            yield text

    def count(self, documents: Iterable[tuple[int, list[int]]]) -> Iterator[tuple[int, list[int]]]:
        for number, ids in documents:
            self.documents += 1
            self.longest = max(self.longest, len(ids))
            yield number, ids

    def nothing(self, length: int, size: int, across_documents: bool) -> str:
        corpus = self.corpus.name
        where = f'the half "{self.part}" of the corpus {corpus}' if self.part else f"the corpus {corpus}"
        if not self.documents and not self.all:
            return f"sequences: {where} has no documents."
        if not self.documents:
            found = "the only document" if self.all == 1 else f"all {self.all} documents"
            return (
                f"sequences: {where} has no documents; {found} of the corpus fell into the other half, for halves are "
                f"made of whole documents: {self._more()}."
            )
        prefix = f" ({length - size} for the prefix)" if length > size else ""
        if across_documents:
            held = f"{the(self.documents, 'document')} of {where} {agree(self.documents, 'has', 'together have')}"
            return (
                f"sequences: {held} fewer than the {counted(length, 'token')} of one "
                f"sequence{prefix}; ask for a smaller length, or {self._more()}."
            )
        return (
            f"sequences: no document of {where} is long enough for {counted(length, 'token')}{prefix}, the longest of "
            f"{self.documents} has {self.longest}; ask for a smaller length or join documents (across_documents=true)."
        )

    def _more(self) -> str:
        """What to do where there are too few documents."""
        parameter = self.corpus.document_parameter
        if parameter is None:
            return "take a corpus with more of them"
        now = getattr(self.corpus, parameter)
        return f"take a corpus with more of them, or say with {parameter} what one document is (now {now})"


def _separator(model: Model) -> list[int]:
    eos = model.tokenizer.eos_token_id
    return [] if eos is None else [int(eos)]


def _cut(documents: Iterable[tuple[int, list[int]]], size: int) -> Iterator[Sequence]:
    """Chunks of ``size`` tokens within documents."""
    for number, ids in documents:
        for start in range(0, len(ids) - size + 1, size):
            yield Sequence(tuple(ids[start : start + size]), (number,), start)


def _joined(documents: Iterable[tuple[int, list[int]]], size: int, separator: list[int]) -> Iterator[Sequence]:
    """Chunks of ``size`` tokens of all documents, one after another."""
    held: list[int] = []  # tokens that no chunk has yet, fewer than size
    owners: list[int] = []  # the documents they are from
    first = 0  # how many tokens of the first owner come before them
    for number, ids in documents:
        if not ids:
            continue
        before = len(held)
        held += ids + separator
        owners.append(number)
        taken = 0
        while len(held) - taken >= size:
            yield Sequence(tuple(held[taken : taken + size]), tuple(owners), first)
            taken += size
            owners, first = [number], taken - before
        held = held[taken:]
        if not held:
            owners, first = [], 0


def _draw(chunks: Iterable[Sequence], n: int, seed: int) -> list[Sequence]:
    """``n`` chunks, uniformly: those whose places have the smallest keyed hashes, smallest first.

    A key depends on seed and place alone, so no chunk's chance depends on how many others there are.
    """
    heap: list[tuple[int, int, int, Sequence]] = []  # largest key first: heapq pops the smallest
    for chunk in chunks:
        document, start = chunk.documents[0], chunk.start
        place = hashlib.blake2b(f"{seed}:{document}:{start}".encode(), digest_size=8).digest()
        entry = (-int.from_bytes(place, "big"), -document, -start, chunk)
        if len(heap) < n:
            heapq.heappush(heap, entry)
        elif entry[:3] > heap[0][:3]:
            heapq.heapreplace(heap, entry)
    return [chunk for *_, chunk in sorted(heap, key=lambda entry: entry[:3], reverse=True)]


def special_tokens(model: Model, newlines: bool = False) -> frozenset[int]:
    """BOS, EOS and the tokeniser's other special tokens; with ``newlines`` also the newline, where it is one token."""
    tokenizer = model.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {*tokenizer.all_special_ids, *model.end_tokens, *model.prefix}
    ids |= {i for i, token in added.items() if getattr(token, "special", False)}
    newline = list(tokenizer("\n", add_special_tokens=False)["input_ids"])
    if newlines and len(newline) == 1:
        ids |= set(newline)
    return frozenset(int(i) for i in ids)


def kept(model: Model, tokens: abc.Sequence[int], skip_first: int = 3, newlines: bool = True) -> list[bool]:
    """Which predictions of a sequence count, by the filters of Stolfo et al. 2024: bool [len(tokens) - 1].

    Entry p is about the prediction *made at* position p, of the token at position p + 1: it is the entry of token p + 1
    in ``positions`` of :func:`harness.effects.sweep.effects`. Left out are

    - p < ``skip_first``: the first positions, BOS included, behave unlike any others;
    - p at a special token (BOS, EOS ...) or newline, and p just before one (where it is what is predicted).

    The paper's "last position" is the one that predicts nothing within the sequence, so it has no entry at all.

    Args:
        newlines: leave out newlines, too: the paper does for GPT-2 and not for other models. Without effect where the
            tokeniser writes a newline as more than one token.
    """
    dropped = special_tokens(model, newlines)
    marked = [token in dropped for token in tokens]
    return [p >= skip_first and not marked[p] and not marked[p + 1] for p in range(len(tokens) - 1)]
