"""Token counts by name: found where the harness keeps them, refused with what to fetch, told from other files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from checkout import reference
from harness_plugins.confidence_regulation.selectors.token_frequency import TokenFrequency
from harness_plugins.confidence_regulation.tasks.mediation import Mediation

from harness.data import load_unigrams
from harness.errors import HarnessError
from harness.files.digests import bytes_digest, files_digest
from harness.files.published_counts import PUBLISHED, counts_file
from harness.testing import demo_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are looked for; empty."""
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))
    return tmp_path / "token-counts"


def test_a_name_whose_file_is_not_there_says_what_to_fetch(folder: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        counts_file("pile-pythia")
    said = str(caught.value)
    assert str(folder / "pythia-unigrams.npy") in said and "confidence-regulation-neurons" in said and "\n" not in said


def test_another_file_of_that_name_is_refused(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "pythia-unigrams.npy", np.arange(9))
    with pytest.raises(HarnessError, match=r"pile-pythia: .* is not the published file"):
        counts_file("pile-pythia")


def test_any_other_text_is_a_path(folder: Path) -> None:
    assert counts_file("openwebtext-gpt3") == Path("openwebtext-gpt3")
    with pytest.raises(HarnessError, match="published ones are openwebtext-gpt2, pile-pythia, c4-phi-2"):
        load_unigrams("openwebtext-gpt3", demo_model())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_files_are_those(name: str, folder: Path) -> None:
    source, known = reference(f"data/{PUBLISHED[name].file}"), PUBLISHED[name]
    assert bytes_digest(source) == known.sha256
    folder.mkdir()
    shutil.copy(source, folder / known.file)
    assert counts_file(name) == folder / known.file
    assert np.load(counts_file(name)).sum() > 1e6
    given = TokenFrequency(corpus="world", unigram=name)
    assert given.identity()["params"]["unigram"] == name  # no path of this machine
    assert given.inputs()["unigram"] == files_digest([source])


def test_a_task_that_reads_no_counts_needs_no_file(folder: Path) -> None:
    asked = {"corpus": "world", "unigram": "openwebtext-gpt2"}
    assert "unigram" not in Mediation(**asked).inputs()
    Mediation(**asked).check(demo_model())
    for call in (lambda task: task.inputs(), lambda task: task.check(demo_model())):
        with pytest.raises(HarnessError, match=r"unigram=openwebtext-gpt2: .*download gpt2-small-unigrams"):
            call(Mediation(**asked, frequency=True))
