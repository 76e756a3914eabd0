"""Corpora: what texts come out of files, folders and hub datasets, and which sequences are cut from them."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from checkout import reference
from families import EOS, tiny
from harness_plugins.demo import Demo
from harness_plugins.demo.corpus import WorldTexts
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.builtin.components import STREAM_LIMIT, Text
from harness.data import texts
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
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Corpus, parse_spec


class Given(Corpus):
    """Texts from a test."""

    name = "given"
    texts: tuple[str, ...]

    def documents(self) -> Iterable[str]:
        return self.texts

    def data_digest(self) -> str:
        return "0" * 64


@pytest.fixture(scope="module")
def plain() -> Model:
    """One token a byte, no BOS, EOS 258."""
    return tiny("gpt2")


@pytest.fixture(scope="module")
def with_bos() -> Model:
    return tiny("gpt2", add_bos=True)


@pytest.fixture(scope="module")
def demo() -> Model:
    return Demo().load()


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
    corpus = Given(texts=("abcdefgh", "xy", "ABCDE", ""))
    found = sequences(plain, corpus, 10, 4, seed=0)
    assert {decoded(plain, x) for x in found} == {"abcd", "efgh", "ABCD"}
    assert {(x.documents, x.start) for x in found} == {((0,), 0), ((0,), 4), ((2,), 0)}
    found = sequences(with_bos, corpus, 10, 4, seed=0)
    assert with_bos.prefix and all(x.tokens[:1] == with_bos.prefix and len(x.tokens) == 4 for x in found)
    assert {decoded(with_bos, x) for x in found} == {"abc", "def", "ABC"}


def test_joined_documents_are_parted_by_eos(plain: Model, with_bos: Model) -> None:
    corpus = Given(texts=("abc", "", "de", "fghi"))
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
    assert len(sequences(plain, Given(texts=("abcdef",)), 100, 2, 0)) == 3


@pytest.mark.parametrize(
    ("corpus", "options", "message"),
    [
        (("ab", "abc"), {"length": 4}, 'given is long enough for 4 tokens, the longest of 2 has 3'),
        (("ab", "abc"), {"length": 40, "across_documents": True}, "the 2 documents .* fewer than the 40 tokens"),
        ((), {"length": 4}, "the corpus given has no documents"),
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
        sequences(plain, Given(texts=corpus), **{"n": 5, "seed": 0, **options})


def test_a_message_counts_the_prefix(with_bos: Model) -> None:
    with pytest.raises(HarnessError, match=r"4 tokens \(1 for the prefix\), the longest of 1 has 2"):
        sequences(with_bos, Given(texts=("ab",)), 1, 4, 0)


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


# -- the world -------------------------------------------------------------------------------------------------------


def test_the_world_is_seeded_and_its_digest_follows_its_texts() -> None:
    first = list(WorldTexts(size=200).documents())
    assert first == list(WorldTexts(size=200).documents())
    assert first[:50] == list(WorldTexts(size=50).documents())
    assert first != list(WorldTexts(size=200, seed=2).documents())
    assert all(first) and len(set(first)) > 150
    same = WorldTexts(size=200).data_digest()
    assert same == WorldTexts(size=200).data_digest() and len(same) == 64
    assert len({same, WorldTexts(size=201).data_digest(), WorldTexts(size=200, seed=2).data_digest()}) == 3


# -- files -----------------------------------------------------------------------------------------------------------


def written(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(*values: object, column: str = "text") -> str:
    return "".join(json.dumps({column: value}) + "\n" for value in values)


def parquet(path: Path, *values: str, column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({column: list(values)}).to_parquet(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("a.txt", "one\nof two\n\nsecond\n", {}, ["one\nof two", "second"]),
        ("a.txt", "one\nof two\n\nsecond", {"sample_by": "document"}, ["one\nof two\n\nsecond"]),
        ("a.txt", "one\nof two", {"sample_by": "line"}, ["one", "of two"]),
        ("a.txt", " \n one \n\n of two\n", {"sample_by": "line"}, ["one", "of two"]),
        # As WikiText's files: the lines between paragraphs hold a space.
        ("a.txt", " \n = One = \n \n of two , \n  and three \n \n \n", {}, ["= One =", "of two , \n  and three"]),
        ("a.txt", "one\r\n\r\ntwo\rof two\r\n", {}, ["one", "two\nof two"]),
        ("a.txt", "\ufeffone\n\ntwo", {}, ["one", "two"]),
        ("a.txt", "\ufeffone", {"sample_by": "document"}, ["one"]),
        ("a.txt", "o\u2028n\x85e\n\ntw\x0co", {}, ["o\u2028n\x85e", "tw\x0co"]),
        ("a[1].txt", "one", {}, ["one"]),
        ("a[1].jsonl", "\ufeff" + '{"text": "o\u2028ne"}\n{"text": "two"}', {}, ["o\u2028ne", "two"]),
        ("a.txt.gz", "one\n\ntwo", {}, ["one", "two"]),
        ("a.jsonl", jsonl("x", "y", "z"), {"limit": 2}, ["x", "y"]),
        ("a.jsonl.gz", jsonl("é", "y"), {}, ["é", "y"]),
        ("a.jsonl", jsonl("x", column="body"), {"column": "body"}, ["x"]),
        ("a.json", json.dumps([{"text": "x"}, {"text": "y"}]), {}, ["x", "y"]),
    ],
)
def test_texts_of_files(tmp_path: Path, name: str, content: str, options: dict[str, Any], expected: list[str]) -> None:
    corpus = Text(path=str(written(tmp_path / name, content)), **options)
    assert list(corpus.documents()) == expected == list(corpus.documents())


def test_parquet_and_folders_are_read_in_the_order_of_paths(tmp_path: Path) -> None:
    parquet(tmp_path / "b.parquet", "3")
    parquet(tmp_path / "a" / "z.parquet", "1", "2")
    written(tmp_path / ".cache" / "x.parquet", "no parquet, and hidden")
    written(tmp_path / "README.md", "not read")
    corpus = Text(path=str(tmp_path))
    assert list(corpus.documents()) == ["1", "2", "3"]
    before = corpus.data_digest()
    written(tmp_path / "README.md", "changed")
    assert corpus.data_digest() == before
    parquet(tmp_path / "b.parquet", "4")
    assert corpus.data_digest() != before


def test_the_digest_follows_content_and_reading_but_not_the_place(tmp_path: Path) -> None:
    one, same = written(tmp_path / "a.txt", "a\n\nb"), written(tmp_path / "elsewhere" / "b.txt", "a\n\nb")
    other = written(tmp_path / "c.txt", "a\n\nc")
    digest = Text(path=str(one)).data_digest()
    assert digest == Text(path=str(same)).data_digest() != Text(path=str(other)).data_digest()
    assert digest != Text(path=str(one), sample_by="line").data_digest()
    assert digest != Text(path=str(one), limit=1).data_digest()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.jsonl", jsonl("x", column="body"), {}, r'no column "text".* Its columns are: body'),
        ("a.jsonl", jsonl("x", column="body"), {"column": "bodi"}, 'Did you mean "body"'),
        ("a.jsonl", jsonl("x") + jsonl("y", column="body"), {}, "row 2: expected text .* got None"),
        ("a.jsonl", jsonl(3), {}, "row 1: expected text .* got 3"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, "cannot be read"),
        ("a.jsonl", "", {}, "a.jsonl .*(empty|no documents)"),
        ("a.txt", "", {}, "a.txt holds no documents"),
        ("a.txt", b"caf\xe9", {}, "a.txt cannot be read .it is not UTF-8 text"),
        ("a.parquet", b"nothing", {}, "a.parquet cannot be read"),
        ("a.csv", "text\nx\n", {}, "a.csv is, or holds, no file that can be read; expected .txt"),
        ("a.txt", "x", {"split": "test"}, 'a.txt is local and has only the split "train", not "test"'),
        ("a.txt", "x", {"config": "en"}, "config is for datasets of the hub"),
        ("a.txt", "x", {"revision": "v1"}, "revision is for datasets of the hub"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HarnessError, match=message) as caught:
        list(Text(path=str(written(tmp_path / name, content)), **options).documents())
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_mixed_folder_and_broken_gzip(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"there is no file or folder .*nowhere\.txt"):
        list(Text(path=str(tmp_path / "nowhere.txt")).documents())
    written(tmp_path / "mixed" / "a.txt", "x")
    written(tmp_path / "mixed" / "b.jsonl", jsonl("x"))
    with pytest.raises(HarnessError, match=r"several formats \(json, text\)"):
        list(Text(path=str(tmp_path / "mixed")).documents())
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-12])
    with pytest.raises(HarnessError, match=r"c\.txt\.gz cannot be read"):
        list(Text(path=str(tmp_path / "c.txt.gz")).documents())


def wikitext(n: int) -> str:
    """Text in the shape of WikiText-2: every paragraph is a line, every line between them holds a space."""
    return " \n" + "".join(f" = Heading {i} = \n \n Some words of paragraph {i} <unk> . \n \n" for i in range(n))


def test_a_file_in_the_shape_of_wikitext_has_both_halves(plain: Model, tmp_path: Path) -> None:
    corpus = Text(path=str(written(tmp_path / "wiki.txt", wikitext(20))))
    assert len(list(corpus.documents())) == 40
    for part in ("select", "evaluate"):
        assert len(sequences(plain, corpus, 5, 16, 0, part=part, across_documents=True)) == 5  # type: ignore[arg-type]


def test_wikitext_has_many_documents_and_both_halves(plain: Model) -> None:
    path = reference("data/real/wikitext2_test.txt")
    documents = list(Text(path=str(path)).documents())
    paragraphs = re.split(r"\n(?:[ ]*\n)+", path.read_text(encoding="utf-8"))
    assert documents == [x.strip() for x in paragraphs if x.strip()] and len(documents) > 1000
    share = np.mean([half(x) == "select" for x in documents])
    assert 0.45 < share < 0.55


def test_what_a_corpus_of_one_document_lacks_is_said_with_the_parameter_that_helps(
    plain: Model, tmp_path: Path
) -> None:
    corpus = Text(path=str(written(tmp_path / "one.txt", "one long line\nand another")))
    other = "evaluate" if half("one long line\nand another") == "select" else "select"
    said = (
        rf'the half "{other}" of the corpus text has no documents; the only document of the corpus fell into the other'
    )
    with pytest.raises(HarnessError, match=said + r".*sample_by what one document is \(now paragraph\)"):
        sequences(plain, corpus, 1, 4, 0, part=other)  # type: ignore[arg-type]
    with pytest.raises(HarnessError, match=r"the document of the corpus text has fewer .*; ask for .* sample_by"):
        sequences(plain, corpus, 1, 60, 0, across_documents=True)
    with pytest.raises(HarnessError, match=r"take a corpus with more of them\."):
        sequences(plain, Given(texts=("abc",)), 1, 2, 0, part="select" if half("abc") == "evaluate" else "evaluate")


# -- the hub ---------------------------------------------------------------------------------------------------------

COMMIT = "a" * 40


class _Dataset(list):  # type: ignore[type-arg]
    cache_files = ({"filename": f"/cache/owner___texts/default/0.0.0/{COMMIT}/texts-train.arrow"},)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A dataset ``owner/texts`` with 12,000 rows; the calls of ``load_dataset`` are recorded."""
    calls: list[dict[str, Any]] = []

    def load(path: str, **options: Any) -> Any:
        calls.append({"path": path, **options})
        if path != "owner/texts":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub.\n\nSee ...")
        rows = _Dataset({"text": f"document {i}", "n": i} for i in range(12_000))
        return {"train": rows, "validation": rows[:3]} if options["streaming"] else rows

    def info(_: object, path: str, revision: str | None = None) -> Any:
        return type("Info", (), {"sha": {None: COMMIT, "v1": "b" * 40}[revision]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    texts.hub_commit.cache_clear()
    yield calls
    texts.hub_commit.cache_clear()


def test_a_hub_dataset_is_streamed_at_the_commit_of_its_digest(hub: list[dict[str, Any]]) -> None:
    corpus = Text(path="owner/texts", config="en", limit=2)
    assert list(corpus.documents()) == ["document 0", "document 1"]
    assert hub == [
        {"path": "owner/texts", "name": "en", "revision": COMMIT, "streaming": True, "trust_remote_code": False}
    ]
    same = Text(path="owner/texts", config="en", limit=2, revision=COMMIT)
    others = [
        Text(path="owner/texts", config="en", limit=2, revision="v1"),
        Text(path="owner/texts", config="de", limit=2),
        Text(path="owner/texts", config="en", limit=3),
        Text(path="owner/texts", config="en", limit=2, split="validation"),
        Text(path="owner/texts", config="en", limit=2, column="body"),
    ]
    assert corpus.data_digest() == same.data_digest()
    assert len({corpus.data_digest(), *(x.data_digest() for x in others)}) == 1 + len(others)


def test_a_stream_has_a_limit_by_default_and_a_download_none(hub: list[dict[str, Any]]) -> None:
    assert sum(1 for _ in Text(path="owner/texts").documents()) == STREAM_LIMIT < 12_000
    assert sum(1 for _ in Text(path="owner/texts", streaming=False).documents()) == 12_000
    assert hub[-1]["split"] == "train"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "owner/text"}, '"owner/text" is neither a file here nor a dataset .*doesn\'t exist'),
        ({"path": "owner/texts", "split": "vlidation"}, 'no split "vlidation". Did you mean "validation"'),
        ({"path": "owner/texts", "column": "body"}, 'no column "body".*Its columns are: text, n'),
        ({"path": "owner/texts", "streaming": False, "revision": "c" * 40}, f"not in the cache, which holds {COMMIT}"),
    ],
)
def test_mistakes_about_the_hub(hub: list[dict[str, Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message) as caught:
        list(Text(**options).documents())
    assert "\n" not in str(caught.value)


def test_offline_a_commit_is_its_own_digest_and_a_branch_is_refused() -> None:
    """No test reaches the network (see conftest.py), so this is what offline means."""
    assert len(Text(path="owner/unheard-of", revision=COMMIT).data_digest()) == 64
    with pytest.raises(HarnessError, match=r"whose commit can be asked for .*full commit"):
        Text(path="owner/unheard-of").data_digest()


# -- the command line ------------------------------------------------------------------------------------------------


def test_corpora_are_listed_and_built_from_specifications(harness: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = harness("list", "corpora")
    assert code == 0 and "world" in out and "text" in out
    built = catalogue().build("corpus", parse_spec("world:size=7,seed=3", "--corpus"), "--corpus")
    assert built == WorldTexts(size=7, seed=3)
    with pytest.raises(HarnessError, match=r'text has no parameter "collumn". Did you mean "column"'):
        catalogue().build("corpus", parse_spec("text:path=a.txt,collumn=x", "--corpus"), "--corpus")
