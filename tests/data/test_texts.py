"""Corpora: what texts come out of files, folders and hub datasets."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from checkout import reference
from harness_plugins.demo.corpus import WorldTexts
from texts import Texts

from harness.builtin.components import STREAM_LIMIT, Text
from harness.data import texts
from harness.data.token_sequences import (
    half,
    sequences,
)
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin import Corpus
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec

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
        sequences(plain, Texts(texts=("abc",)), 1, 2, 0, part="select" if half("abc") == "evaluate" else "evaluate")


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
    built = catalogue().build(Corpus, parse_spec("world:size=7,seed=3", "--corpus"), "--corpus")
    assert built == WorldTexts(size=7, seed=3)
    with pytest.raises(HarnessError, match=r'text has no parameter "collumn". Did you mean "column"'):
        catalogue().build(Corpus, parse_spec("text:path=a.txt,collumn=x", "--corpus"), "--corpus")
