"""Unigram distributions: counted, continued after a kill, read from files of ours and of the authors."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkout import reference
from commands import after
from families import D_VOCAB, tiny
from harness_plugins.demo.corpus import WorldTexts
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from harness.data import token_counts as module
from harness.data.token_counts import Unigrams, count_to_file, count_unigrams, load_unigrams, summary, unigrams
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin.components import Corpus

Harness = Callable[..., tuple[int, str, str]]


class Given(Corpus):
    """Texts from a test; ``stop``: the stream breaks off before this document."""

    name = "given"
    texts: tuple[str, ...]

    def documents(self) -> Iterable[str]:
        for i, text in enumerate(self.texts):
            if i == self._stop:
                raise KeyboardInterrupt
            self._read.append(i)
            yield text

    _stop: int = -1
    _read: list[int] = []  # noqa: RUF012  # pydantic copies private defaults

    def data_digest(self) -> str:
        return "0" * 64


@pytest.fixture(scope="module")
def model() -> Model:
    """One token a byte, without BOS."""
    return tiny("gpt2")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every 4 documents, batches of 3, so that small corpora have everything."""
    monkeypatch.setattr(module, "CHECKPOINT_DOCUMENTS", 4)
    monkeypatch.setattr(module, "FLUSH_TOKENS", 7)
    monkeypatch.setattr("harness.data.token_sequences.BATCH_DOCUMENTS", 3)


WORDS = tuple(f"the {i} and the {i * i}" for i in range(31))


def by_hand(model: Model, texts: Iterable[str], max_tokens: int | None = None) -> np.ndarray:
    ids = [token for text in texts for token in (model.encode([text], add_bos=False)[0] if text else [])]
    seen = Counter(ids[:max_tokens])
    return np.array([seen[i] for i in range(model.anatomy.d_vocab)])


# -- the distribution ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=50), st.floats(0.01, 100))
def test_probabilities_and_log_frequencies(counts: list[int], smoothing: float) -> None:
    found = Unigrams(np.array(counts), sum(counts), "x", smoothing=smoothing)
    p, v = found.probabilities, found.log_frequency
    total = sum(counts) + smoothing * len(counts)
    np.testing.assert_allclose(p, [(c + smoothing) / total for c in counts], rtol=1e-12)
    assert abs(p.sum() - 1) < 1e-12 and abs(v.sum()) < 1e-8 * len(counts)
    np.testing.assert_allclose(v - v[0], np.log(p) - np.log(p[0]), atol=1e-9)


def test_smoothing_is_one_as_in_the_paper_and_zero_needs_every_token() -> None:
    found = Unigrams(np.array([3, 0, 1]), 4, "x")
    np.testing.assert_allclose(found.probabilities, [4 / 7, 1 / 7, 2 / 7])
    assert found.unseen == 1 / 3
    plain = Unigrams(np.array([3, 0, 1]), 4, "x", smoothing=0)
    np.testing.assert_allclose(plain.probabilities, [3 / 4, 0, 1 / 4])
    with pytest.raises(HarnessError, match=r"1 token was never seen.*smoothing above 0"):
        _ = plain.log_frequency
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(HarnessError, match="smoothing of at least 0"):
            Unigrams(np.array([1]), 1, "x", smoothing=wrong)
    with pytest.raises(ValueError, match="read-only"):
        found.counts[0] = 5


# -- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("max_tokens", [None, 1, 50, 51, 52, 53, 10**6])
def test_counts_are_those_of_a_plain_loop(model: Model, max_tokens: int | None) -> None:
    steps: list[int] = []
    found = count_unigrams(model, Given(texts=(*WORDS, "")), max_tokens, progress=steps.append)
    assert (found.counts == by_hand(model, WORDS, max_tokens)).all()
    assert found.n_tokens == found.counts.sum() == sum(steps) == min(max_tokens or 10**6, len("".join(WORDS)))
    if max_tokens is None:
        assert (
            found.n_documents == 32 and found.source == f"{found.n_tokens} tokens of " + found.source.split(" of ")[1]
        )


def test_bos_is_not_counted() -> None:
    """Neither the prefix that prompts begin with, nor does it make another tokeniser of it."""
    plain, with_bos = tiny("gpt2"), tiny("gpt2", add_bos=True)
    corpus = Given(texts=WORDS)
    assert with_bos.prefix
    assert (count_unigrams(with_bos, corpus).counts == count_unigrams(plain, corpus).counts).all()


def test_a_corpus_without_tokens_and_a_foreign_tokeniser_are_refused(model: Model) -> None:
    with pytest.raises(HarnessError, match="corpus given holds no token"):
        count_unigrams(model, Given(texts=("", "")))
    short = SimpleNamespace(**{name: getattr(model, name) for name in ("hf", "tokenizer", "name", "prefix")})
    short.anatomy = SimpleNamespace(d_vocab=50)
    with pytest.raises(HarnessError, match="logits for only 50 tokens"):
        count_unigrams(short, Given(texts=WORDS))  # type: ignore[arg-type]


# -- interruption ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("max_tokens", [None, 200])
@pytest.mark.parametrize("stop", [0, 3, 5, 9, 12, 30])
def test_a_count_that_was_interrupted_equals_one_that_was_not(
    model: Model, tmp_path: Path, stop: int, max_tokens: int | None
) -> None:
    whole = tmp_path / "whole.safetensors"
    count_to_file(whole, model, Given(texts=WORDS), max_tokens)
    path, unfinished = tmp_path / "cut.safetensors", tmp_path / "cut.safetensors.unfinished"
    broken, again = Given(texts=WORDS), Given(texts=WORDS)
    broken._stop = stop
    try:
        count_to_file(path, model, broken, max_tokens)
        assert max_tokens is not None  # enough was read before the stream broke off
    except KeyboardInterrupt:
        assert unfinished.exists() == (stop > 5)  # batches of 3, a checkpoint every 4
        steps: list[int] = []
        count_to_file(path, model, again, max_tokens, progress=steps.append)
        assert sum(steps) == load_unigrams(path, model).n_tokens
    assert path.read_bytes() == whole.read_bytes()
    assert not unfinished.exists()


@pytest.mark.usefixtures("often")
def test_a_checkpoint_serves_a_larger_count_and_not_a_smaller_one(model: Model, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    count_unigrams(model, Given(texts=WORDS), 250, checkpoint)
    meta = module._read(checkpoint)[1]
    assert meta["n_documents"] % 4 == 0 and meta["n_documents"] > 4
    for max_tokens in (None, 300, 60):
        found = count_unigrams(model, Given(texts=WORDS), max_tokens, checkpoint)
        assert (found.counts == by_hand(model, WORDS, max_tokens)).all()


@pytest.mark.usefixtures("often")
def test_checkpoints_of_other_counts_and_damaged_ones_are_refused(model: Model, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c"
    count_unigrams(model, Given(texts=WORDS), None, checkpoint)
    with pytest.raises(HarnessError, match=r"checkpoint of another corpus.*--fresh"):
        count_unigrams(model, Given(texts=WORDS[1:]), None, checkpoint)
    with pytest.raises(HarnessError, match="this count is unfinished"):
        load_unigrams(checkpoint, model)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5])
    with pytest.raises(HarnessError, match="cannot be read"):
        count_unigrams(model, Given(texts=WORDS), None, checkpoint)


KILLED = """
import os, signal
import harness.data.token_counts, harness_plugins.demo.corpus as corpus
harness.data.token_counts.CHECKPOINT_DOCUMENTS = 500
generate = corpus.generate
def dies(documents, seed):
    for i, text in enumerate(generate(documents, seed)):
        if i == 2600:
            os.kill(os.getpid(), signal.SIGKILL)
        yield text
corpus.WorldTexts.documents = lambda self: dies(self.size, self.seed)
"""


def test_the_command_continues_after_a_kill(harness: Harness, tmp_path: Path) -> None:
    command = ["unigrams", "--model", "demo", "--corpus", "world", "--quiet", "--output"]
    path, whole = tmp_path / "u.safetensors", tmp_path / "whole.safetensors"
    killed = after(KILLED, [*command, path])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [x.name for x in tmp_path.iterdir()] == ["u.safetensors.unfinished"]
    assert module._read(tmp_path / "u.safetensors.unfinished")[1]["n_documents"] == 2000
    code, out, err = harness(*command, path)
    assert (code, err) == (0, "")
    assert re.search(r"documents +4000\ntokens +\d{6}\ndistinct tokens +\d+ of 1280; [\d.]+% were never seen\n", out)
    assert len(re.findall(r"(?m)^  '.+%$", out)) == 10 and f"written: {path}" in out
    assert harness(*command, whole)[0] == 0
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["u.safetensors", "whole.safetensors"]
    # The same command again reads; another one does not overwrite unless it is told to.
    assert "counted before" in harness(*command, path)[1]
    command[command.index("world")] = "world:size=50"
    code, out, err = harness(*command, path)
    assert code == 2 and "holds another count" in err and "Traceback" not in err
    code, out, _ = harness(*command, path, "--fresh", "--max_tokens", 100)
    assert code == 0 and re.search(r"tokens +100\n", out)


def test_mistakes_on_the_command_line(harness: Harness, tmp_path: Path) -> None:
    code, _, err = harness("unigrams", "--corpus", "wrld", "--output", tmp_path / "u.safetensors")
    assert (code, err) == (
        2,
        'error: --corpus: no corpus is called "wrld". Did you mean "world"? '
        "There are: planted_texts, prose, python_docs, text, world.\n",
    )
    code, _, err = harness("unigrams", "--corpus", "world", "--output", tmp_path / "u.npy")
    assert code == 2 and "ends with .safetensors" in err
    code, _, err = harness("unigrams", "--corpus", "world", "--model", "dmo", "--output", tmp_path / "u.safetensors")
    assert code == 2 and 'Did you mean "demo"' in err


# -- files -----------------------------------------------------------------------------------------------------------


def test_our_files_come_back_and_know_their_tokenizer(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "u.safetensors"
    made, reused = count_to_file(path, model, Given(texts=WORDS))
    read = load_unigrams(path, model)
    assert not reused and (read.counts == made.counts).all() and read.counts.dtype == np.int64
    assert (read.n_tokens, read.n_documents, read.notes) == (made.n_tokens, made.n_documents, ())
    assert read.source == f"u.safetensors: {made.source}"
    assert (load_unigrams(path, tiny("gpt2", add_bos=True)).counts == made.counts).all()
    other = tiny("gpt2")
    other.tokenizer.add_tokens(["new"])
    with pytest.raises(HarnessError, match="counted with another tokenizer than that of gpt2"):
        load_unigrams(path, other)
    assert summary(read, model).splitlines()[:2] == ["documents        31", f"tokens           {made.n_tokens}"]


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, np.float64, np.float32])
def test_npy_counts_are_fitted_to_the_vocabulary_and_that_is_stated(
    model: Model, tmp_path: Path, dtype: type[Any]
) -> None:
    counts = np.arange(D_VOCAB).astype(dtype)
    exact = load_unigrams(saved(tmp_path / "a.npy", counts), model)
    assert exact.counts.tolist() == list(range(D_VOCAB)) and exact.notes == ()
    assert (exact.source, exact.n_tokens, exact.n_documents) == ("a.npy", counts.sum(), None)
    shorter = load_unigrams(saved(tmp_path / "b.npy", counts[:257]), model)
    assert shorter.counts.tolist() == [*range(257), *[0] * (D_VOCAB - 257)]
    assert shorter.notes == ("the file has 257 counts, the model 300 tokens: the other 43 were given the count 0",)
    longer = load_unigrams(saved(tmp_path / "c.npy", np.pad(counts, (0, 4))), model)
    assert (longer.counts == exact.counts).all() and "the last 4, all 0, were left out" in longer.notes[0]
    assert "note: the file has 304 counts" in summary(longer, model)
    with pytest.raises(HarnessError, match="token 302 has a count, but gpt2 has only 300 tokens"):
        load_unigrams(saved(tmp_path / "d.npy", np.append(counts, [0, 0, 1]).astype(dtype)), model)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, np.nan]), "token 1 has nan"),
        (np.array([1.0, np.inf]), "token 1 has inf"),
        (np.array([3, -1]), "token 1 has -1"),
        (np.array([0.25, 0.75]), r"no frequencies.* token 0 has 0.25"),
        (np.zeros(5), "every count is 0"),
        (np.ones((2, 3)), r"an array of numbers \[n\], got float64 of shape \[2, 3\]"),
        (np.array([True, False]), "got bool"),
        (np.array(["a"]), "expected one count a token"),
        (np.array([1 + 2j]), "got complex128"),
    ],
)
def test_what_is_no_count_is_refused(model: Model, tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        load_unigrams(saved(tmp_path / "a.npy", array), model)


def test_pickles_foreign_files_and_missing_ones_are_refused(model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.safetensors").write_text("no tensors")
    save_file({"counts": np.ones(D_VOCAB, np.int64)}, tmp_path / "foreign.safetensors")
    for name, message in {
        "pickle.npy": "without pickle",
        "text.npy": "without pickle",
        "text.safetensors": "cannot be read",
        "foreign.safetensors": "as `harness unigrams` writes them",
        "missing.npy": "there is no such file",
    }.items():
        with pytest.raises(HarnessError, match=message) as caught:
            load_unigrams(tmp_path / name, model)
        assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "length", "d_vocab"),
    [
        ("gpt2-small-unigrams_openwebtext-2M_rows_500000.npy", 50257, 50257),
        ("pythia-unigrams.npy", 50277, 50304),
        ("phi-2-unigrams_c4_en_validation.npy", 50295, 51200),
    ],
)
def test_the_authors_counts_load(name: str, length: int, d_vocab: int) -> None:
    padded = SimpleNamespace(anatomy=SimpleNamespace(d_vocab=d_vocab), name="a model")
    found = load_unigrams(reference(f"data/{name}"), padded)  # type: ignore[arg-type]
    assert found.counts.shape == (d_vocab,) and found.n_tokens > 10**6
    assert len(found.notes) == (length < d_vocab)
    p = found.probabilities
    assert (p > 0).all() and abs(p.sum() - 1) < 1e-12
    assert np.isfinite(found.log_frequency).all() and abs(found.log_frequency.mean()) < 1e-9
    assert (found.counts == 0).any()  # which is why 1 is added
    short = SimpleNamespace(anatomy=SimpleNamespace(d_vocab=40000), name="a model")
    with pytest.raises(HarnessError, match="a model has only 40000 tokens"):
        load_unigrams(reference(f"data/{name}"), short)  # type: ignore[arg-type]


# -- either ----------------------------------------------------------------------------------------------------------


def test_counts_are_made_once_a_process(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COUNTED", {})
    corpus = Given(texts=WORDS)
    first = unigrams(model, None, corpus)
    assert len(corpus._read) == len(WORDS)
    same = Given(texts=WORDS)
    assert unigrams(tiny("gpt2"), None, same) is first and not same._read
    assert unigrams(model, None, corpus, max_tokens=60).n_tokens == 60
    assert (unigrams(model, None, Given(texts=WORDS[:3])).counts == by_hand(model, WORDS[:3])).all()
    path = saved(tmp_path / "a.npy", np.arange(D_VOCAB))
    assert unigrams(model, str(path), corpus).source == "a.npy"


def test_the_worlds_distribution_has_the_right_shape(model: Model) -> None:
    found = count_unigrams(model, WorldTexts(size=100))
    assert found.source.endswith("tokens of world:size=100")
    assert found.counts.argmax() == model.encode([" "])[0][0]  # one token a byte: the space
