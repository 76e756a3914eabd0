"""Sequences of tokens: how they are cut from documents and drawn, and which predictions count."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from families import EOS, tiny
from harness_plugins.demo.corpus import WorldTexts
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import Texts

from harness.data.token_sequences import (
    Sequence,
    _cut,
    _draw,
    _joined,
    half,
    kept,
    sequences,
    special_tokens,
    tokenised,
)
from harness.errors import HarnessError
from harness.model.model import Model


def decoded(model: Model, sequence: Sequence) -> str:
    return str(model.tokenizer.decode(list(sequence.tokens[len(model.prefix) :])))


# -- cutting and drawing ---------------------------------------------------------------------------------------------

rows = st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=12)


@given(rows, st.integers(1, 7))
def test_cut_chunks_are_disjoint_and_cover_all_but_a_rest(documents: list[list[int]], size: int) -> None:
    chunks = list(_cut(enumerate(documents), size))
    assert len(chunks) == sum(len(ids) // size for ids in documents)
    for chunk in chunks:
        [number] = chunk.documents
        assert list(chunk.tokens) == documents[number][chunk.start : chunk.start + size]
        assert len(chunk.tokens) == size
    assert len({(chunk.documents, chunk.start) for chunk in chunks}) == len(chunks)


@given(rows, st.integers(1, 7), st.sampled_from([[], [99]]))
def test_joined_chunks_are_the_whole_stream_and_can_be_found_again(
    documents: list[list[int]], size: int, separator: list[int]
) -> None:
    chunks = list(_joined(enumerate(documents), size, separator))
    stream = [token for ids in documents if ids for token in ids + separator]
    assert [token for chunk in chunks for token in chunk.tokens] == stream[: len(stream) // size * size]
    for chunk in chunks:
        told = [token for number in chunk.documents for token in documents[number] + separator]
        assert list(chunk.tokens) == told[chunk.start : chunk.start + size]
        inner = told[chunk.start :][: -len(documents[chunk.documents[-1]] + separator)]
        assert len(inner) < size  # the last document named does contribute
        assert chunk.start < len(documents[chunk.documents[0]] + separator)  # and the first


def test_a_draw_is_nested_uniform_and_depends_on_the_seed() -> None:
    chunks = [Sequence((i,), (i // 3,), i % 3) for i in range(30)]
    assert _draw(chunks, 5, seed=1) == _draw(chunks, 12, seed=1)[:5]
    assert set(_draw(chunks, 99, seed=1)) == set(chunks)
    assert _draw(chunks, 5, seed=1) != _draw(chunks, 5, seed=2)
    assert _draw(chunks[::-1], 5, seed=1) == _draw(chunks, 5, seed=1)
    draws = [{chunk.tokens[0] for chunk in _draw(chunks, 6, seed)} for seed in range(3000)]
    times = Counter(i for draw in draws for i in draw)
    expected = 3000 * 6 / 30
    chi2 = sum((times[i] - expected) ** 2 / expected for i in range(30))
    assert chi2 < 60  # 29 degrees of freedom: above with p < 0.001; the seeds are fixed
    together = np.mean([{0, 1} <= draw for draw in draws])  # two chunks of one document
    assert abs(together - 6 * 5 / (30 * 29)) < 0.01


def test_places_where_a_draw_is_full_keep_the_smallest_keys() -> None:
    """A stream's draw equals the draw of a list sorted by key: the heap drops nothing that belongs in."""
    chunks = [Sequence((i,), (i,), 0) for i in range(200)]
    order = _draw(chunks, 200, seed=3)
    for n in (1, 2, 7, 199):
        assert _draw(iter(chunks), n, seed=3) == order[:n]


# -- sequences -------------------------------------------------------------------------------------------------------


def test_sequences_stay_within_documents_and_count_the_prefix(plain: Model, with_bos: Model) -> None:
    corpus = Texts(texts=("abcdefgh", "xy", "ABCDE", ""))
    found = sequences(plain, corpus, 10, 4, seed=0)
    assert {decoded(plain, x) for x in found} == {"abcd", "efgh", "ABCD"}
    assert {(x.documents, x.start) for x in found} == {((0,), 0), ((0,), 4), ((2,), 0)}
    found = sequences(with_bos, corpus, 10, 4, seed=0)
    assert with_bos.prefix and all(x.tokens[:1] == with_bos.prefix and len(x.tokens) == 4 for x in found)
    assert {decoded(with_bos, x) for x in found} == {"abc", "def", "ABC"}


def test_joined_documents_are_parted_by_eos(plain: Model, with_bos: Model) -> None:
    corpus = Texts(texts=("abc", "", "de", "fghi"))
    for model in (plain, with_bos):
        size = 5
        found = sequences(model, corpus, 10, size + len(model.prefix), seed=0, across_documents=True)
        tokens = sorted((x.documents[0], x.start, x.tokens[len(model.prefix) :]) for x in found)
        stream = [*model.encode(["abc"], add_bos=False)[0], EOS, *model.encode(["de"], add_bos=False)[0], EOS]
        stream += [*model.encode(["fghi"], add_bos=False)[0], EOS]
        assert [x[2] for x in tokens] == [tuple(stream[0:5]), tuple(stream[5:10])]
        assert EOS not in model.prefix
        assert [x[:2] for x in tokens] == [(0, 0), (2, 1)]


def test_tokens_are_those_of_encode(demo: Model) -> None:
    documents = list(WorldTexts(size=1500).documents())  # more than a batch
    found = dict(tokenised(demo, documents))
    assert list(found) == list(range(1500))
    assert [found[i] for i in range(1500)] == demo.encode(documents, add_bos=False)
    some = dict(tokenised(demo, documents, lambda text: half(text) == "select"))
    assert some == {i: ids for i, ids in found.items() if half(documents[i]) == "select"}


@pytest.mark.parametrize("across", [False, True])
def test_the_halves_share_no_document(demo: Model, across: bool) -> None:
    corpus = WorldTexts(size=600)
    documents = list(corpus.documents())
    of = {
        part: {number for x in sequences(demo, corpus, 10**6, 24, 5, part, across) for number in x.documents}
        for part in ("select", "evaluate")
    }
    assert all(len(numbers) > 100 for numbers in of.values())
    assert not of["select"] & of["evaluate"]
    assert all(half(documents[i]) == part for part, numbers in of.items() for i in numbers)
    assert not {documents[i] for i in of["select"]} & {documents[i] for i in of["evaluate"]}


def test_256_tokens_of_the_bundled_world_need_joined_documents(demo: Model) -> None:
    with pytest.raises(
        HarnessError, match=r"no document .* 256 tokens, the longest of 300 has \d+; .*across_documents"
    ):
        sequences(demo, WorldTexts(size=300), 2, 256, 0)
    found = sequences(demo, WorldTexts(size=300), 20, 256, 0, across_documents=True)
    assert len(found) == 20 and {len(x.tokens) for x in found} == {256}
    assert demo.prefix == () and all(demo.tokenizer.eos_token_id in x.tokens for x in found)
    demo.pad([x.tokens for x in found])  # as many positions as the model has


def test_fewer_sequences_than_asked_for_are_all_there_are(plain: Model) -> None:
    assert len(sequences(plain, Texts(texts=("abcdef",)), 100, 2, 0)) == 3


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        (("ab", "abc"), {"length": 4}, 'texts is long enough for 4 tokens, the longest of 2 has 3'),
        (("ab", "abc"), {"length": 40, "across_documents": True}, "the 2 documents .* fewer than the 40 tokens"),
        ((), {"length": 4}, "the corpus texts has no documents"),
        (("ab",), {"length": 2, "part": "select" if half("ab") == "evaluate" else "evaluate"}, "half .* no documents"),
        (("ab",), {"length": 65}, "65 tokens are more than the 64 positions"),
        (("ab",), {"length": 1}, "at least 2"),
        (("ab",), {"length": 2, "n": 0}, "0 of 2 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said(
    plain: Model, corpus: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HarnessError, match=message):
        sequences(plain, Texts(texts=corpus), **{"n": 5, "seed": 0, **options})


def test_a_message_counts_the_prefix(with_bos: Model) -> None:
    with pytest.raises(HarnessError, match=r"4 tokens \(1 for the prefix\), the longest of 1 has 2"):
        sequences(with_bos, Texts(texts=("ab",)), 1, 4, 0)


# -- which predictions count -----------------------------------------------------------------------------------------


def test_kept_by_hand(plain: Model) -> None:
    """Entry p is the prediction made at p of the token at p + 1."""
    a, newline = plain.encode(["a"])[0][0], plain.encode(["\n"])[0][0]
    #         0  1  2  3  4  5    6  7  8        9  10
    tokens = [a, a, a, a, a, EOS, a, a, newline, a, a]
    assert kept(plain, tokens) == [
        False, False, False,  # positions 0 to 2
        True,
        False,  # before EOS: EOS is what is predicted
        False,  # at EOS
        True,
        False, False,  # before and at the newline
        True,  # the last prediction there is; the last position has none
    ]  # fmt: skip
    assert kept(plain, tokens, newlines=False)[7:9] == [True, True]
    assert kept(plain, tokens, skip_first=0)[:3] == [True] * 3
    assert kept(plain, tokens[:1]) == [] and kept(plain, tokens[:3]) == [False, False]


@settings(max_examples=30)
@given(tokens=st.lists(st.integers(0, 259), min_size=1, max_size=40), skip=st.integers(0, 5), newlines=st.booleans())
def test_kept_is_the_papers_filter(tokens: list[int], skip: int, newlines: bool) -> None:
    """The same over a table of all positions: drop what is marked and what comes before it, then cut the ends."""
    model = _plain()
    dropped = special_tokens(model, newlines)
    table = [{"position": p, "marked": token in dropped} for p, token in enumerate(tokens)]
    left = [
        row["position"]
        for row, following in zip(table, [*table[1:], {"marked": False}], strict=True)
        if not row["marked"] and not following["marked"]
    ]
    left = [p for p in left if skip <= p < len(tokens) - 1]
    assert list(np.flatnonzero(kept(model, tokens, skip, newlines))) == left


def _plain(cache: list[Model] = []) -> Model:  # noqa: B006  # made once: hypothesis calls many times
    if not cache:
        cache.append(tiny("gpt2"))
    return cache[0]


def test_special_tokens_are_all_that_the_tokenizer_marks(plain: Model, with_bos: Model) -> None:
    assert {256, 257, 258} <= special_tokens(plain) and len(special_tokens(plain)) < 6
    assert special_tokens(plain, newlines=True) - special_tokens(plain) == {plain.encode(["\n"])[0][0]}
    assert set(with_bos.prefix) <= special_tokens(with_bos)
