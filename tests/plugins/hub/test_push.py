"""A run is sent by the hub's own client, to a stand-in of the hub's interface: what arrives, and what never does."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from harness_plugins.hub import Hub as Reporter
from hub_stand_in import Hub, Repository, serving

import harness as public
from harness.errors import HarnessError
from harness.plugin.reporters import Asked, FinishedRun
from harness.report.page import write_page
from harness.results.folder import read_provenance, read_record
from harness.running.telling import asked_of
from harness.testing import demo_run
from harness.testing.reporters import demo_plan

# The client's own way to send large files where the hub has no newer one.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Harness = Callable[..., tuple[int, str, str]]

TOKEN = "hf_thisIsASecretThatNobodyMayRead"
TO = "me/entropy-neurons"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(Hub(TOKEN)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub
    assert hub.unknown == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(demo_run(), tmp_path_factory.mktemp("runs") / demo_run().name))
    write_page(folder)
    return folder


def test_a_private_repository_holds_the_whole_run(harness: Harness, hub: Hub, run: Path) -> None:
    from huggingface_hub import DatasetCard, parse_eval_result_entries

    code, out, err = harness("push", run, "--to", TO)
    assert code == 0, err
    assert out.strip() == f"{hub.address}/datasets/{TO}" and "to the private" in err
    made, record = hub.repositories[TO], public.load_run(run).record
    assert made.private and made.commits == [f"Run demo, {record.run_id[:8]}"]
    for name in ("result.json", "provenance.json", "report.html", "tables/transition_cells.csv"):
        assert made.files[name] == (run / name).read_bytes()
    loaded = public.load_run(run)
    for name, frame in (("samples", loaded.samples), ("measures", loaded.measures), ("controls", loaded.controls)):
        table = pd.read_parquet(io.BytesIO(made.files[f"data/{name}.parquet"]))
        assert list(table) == list(frame) and len(table) == len(frame) > 0
        for column in ("prompt", "value", "p_adjusted", "entropy"):
            if column in frame:
                assert table[column].to_list() == pytest.approx(frame[column].to_list(), nan_ok=True)
    card = DatasetCard(made.files["README.md"].decode())
    assert {"neuron-harness", "knowledge_conflict", "mean"} <= set(card.data.tags)
    assert {x["config_name"]: x["data_files"] for x in card.data.configs}["samples"] == "data/samples.parquet"
    sentences = [line for line in card.text.splitlines() if line.startswith("- ") and "(95% interval " in line]
    assert len(sentences) == len(record.primary)
    for measure, line in zip(record.primary, sentences, strict=True):
        assert str(measure.verdict).split(" d ")[0] in line and f"{measure.p_adjusted:.4f}" in line
    pictures = [line.split("](")[1].rstrip(")") for line in card.text.splitlines() if line.startswith("![")]
    assert pictures and all(path in made.files for path in pictures)
    entries = parse_eval_result_entries(yaml.safe_load(made.files[".eval_results/neuron-harness.yaml"]))
    assert {x.task_id: x.value for x in entries} == {".".join(x.key): x.value for x in record.primary}
    assert all(x.dataset_id == TO and x.notes and "adjusted p" in x.notes for x in entries)


def test_the_token_is_nowhere_and_nothing_else_is_asked(harness: Harness, hub: Hub, run: Path) -> None:
    code, out, err = harness("push", run, "--to", TO)
    assert code == 0 and TOKEN not in out + err
    assert all(TOKEN.encode() not in data and TOKEN not in path for path, data in hub.repositories[TO].files.items())
    assert all(TOKEN not in path for _, path in hub.asked)
    kinds = {(method, path.replace(TO, "REPO").split("/large/")[0]) for method, path in hub.asked}
    assert kinds == {
        ("GET", "/api/datasets/REPO"), ("POST", "/api/repos/create"), ("POST", "/api/validate-yaml"),
        ("POST", "/api/datasets/REPO/preupload/main"), ("POST", "/datasets/REPO.git/info/lfs/objects/batch"),
        ("PUT", ""), ("POST", "/api/datasets/REPO/commit/main"),
    }  # fmt: skip


def test_what_an_earlier_push_has_left_is_replaced_and_the_same_run_is_the_same_bytes(
    harness: Harness, hub: Hub, run: Path, tmp_path: Path
) -> None:
    assert harness("push", run, "--to", TO)[0] == 0
    before = dict(hub.repositories[TO].files)
    hub.repositories[TO].files["figures/old.png"] = b"of an earlier version"
    assert harness("push", run, "--to", TO)[0] == 0
    assert hub.repositories[TO].files == before
    other = Path(shutil.copytree(run, tmp_path / run.name))
    record = json.loads((other / "result.json").read_text())
    changed = (other / "result.json").read_text().replace(record["run_id"], "f" * 64)
    (other / "result.json").write_text(changed)
    remark(other)
    code, _, err = harness("push", other, "--to", TO)
    said = f"--to: {TO} holds another run ({record['run_id'][:8]}); choose another name, or pass --replace."
    assert (code, err.splitlines()[-1]) == (2, f"error: {said}") and hub.repositories[TO].files == before
    assert harness("push", other, "--to", TO, "--replace")[0] == 0
    assert hub.repositories[TO].files["result.json"].decode() == changed


def remark(folder: Path) -> None:
    """List the files of a run anew, as the run itself would."""
    from harness.files.owned import Written

    mark = folder / "files.sha256"
    mark.write_bytes(Written.found(folder, Written.read(mark).paths).to_bytes())


@pytest.mark.parametrize(
    ("there", "options", "sentence"),
    [
        (Repository(True, {"data.csv": b"mine"}), (), "exists and holds no run of the harness; choose another name."),
        (Repository(False, {".gitattributes": b""}), (), "everybody can read it; pass --public to send to it."),
    ],
    ids=["not ours", "public"],
)
def test_a_repository_that_is_there_is_left_alone(
    harness: Harness, hub: Hub, run: Path, there: Repository, options: tuple[str, ...], sentence: str
) -> None:
    hub.repositories[TO] = there
    before = dict(there.files)
    code, _, err = harness("push", run, "--to", TO, *options)
    assert code == 2 and err.splitlines()[-1].endswith(sentence)
    assert there.files == before and {method for method, _ in hub.asked} == {"GET"}


def test_public_is_what_somebody_asks_for(harness: Harness, hub: Hub, run: Path) -> None:
    code, _, err = harness("push", run, "--to", TO, "--public")
    assert code == 0 and "to the public" in err and not hub.repositories[TO].private


def test_a_run_is_sent_when_it_is_finished(hub: Hub, run: Path) -> None:
    record, asked = read_record(run), asked_of(demo_plan())
    reporter = Reporter(to=TO)
    reporter.ready(Asked((asked,), run.parent, "a test"))
    assert hub.asked == []
    reporter.finished(FinishedRun(asked, record.run_id, run, "a test", False, record, read_provenance(run)))
    assert hub.repositories[TO].private and "report.html" in hub.repositories[TO].files
    with pytest.raises(HarnessError, match="a repository holds one run, and 2 are asked for"):
        reporter.ready(Asked((asked, asked), run.parent, "a test"))
    with pytest.raises(HarnessError, match=r"^--report hub: to: expected user/dataset"):
        Reporter(to="entropy").ready(Asked((asked,), run.parent, "a test"))


# -- nothing is asked before -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["entropy", "me/a b", "me/a/b", "../x", "me/..", "me/a.git", ""])
def test_a_name_that_is_none_is_refused(harness: Harness, hub: Hub, run: Path, to: str) -> None:
    code, _, err = harness("push", run, "--to", to)
    assert code == 2 and err.splitlines()[-1].startswith("error: --to: expected user/dataset") and hub.asked == []


def test_without_a_token_nothing_is_asked(
    harness: Harness, hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = harness("push", run, "--to", TO)
    assert code == 2 and "no token of the hub is known here; run `hf auth login`" in err and hub.asked == []


def test_a_run_that_is_not_whole_is_not_sent(harness: Harness, hub: Hub, run: Path, tmp_path: Path) -> None:
    for name, sentence in (("files.sha256", "is not finished"), ("report.html", "there is no page")):
        part = Path(shutil.copytree(run, tmp_path / name / run.name))
        (part / name).unlink()
        code, _, err = harness("push", part, "--to", TO)
        assert code == 2 and sentence in err.splitlines()[-1]
    part = Path(shutil.copytree(run, tmp_path / "changed" / run.name))
    (part / "samples.jsonl").write_text("")
    code, _, err = harness("push", part, "--to", TO)
    assert code == 2 and "samples.jsonl: it is not as the run wrote it" in err and hub.asked == []


def test_a_secret_in_a_file_keeps_it_here(
    harness: Harness, hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Path(shutil.copytree(run, tmp_path / run.name))
    provenance = json.loads((part / "provenance.json").read_text())
    provenance["command"] += f" --model_args token={TOKEN}"
    (part / "provenance.json").write_text(json.dumps(provenance))
    code, out, err = harness("push", part, "--to", TO)
    assert code == 2 and "holds the value of the hub's token; nothing was sent" in err
    assert TOKEN not in out + err and hub.asked == []
    monkeypatch.setenv("SOME_API_KEY", "harness eval --name demo")
    code, _, err = harness("push", run, "--to", TO)
    assert code == 2 and "holds the value of SOME_API_KEY; nothing was sent" in err and hub.asked == []


def test_a_dry_run_lists_and_asks_nothing(harness: Harness, hub: Hub, run: Path) -> None:
    code, out, err = harness("push", run, "--to", TO, "--dry_run")
    assert code == 0 and "data/samples.parquet" in out and "nothing was sent" in err and hub.asked == []


def test_a_token_that_is_refused_and_a_hub_that_is_not_there(
    harness: Harness, hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_anotherOneThatIsNotKnown")
    code, _, err = harness("push", run, "--to", TO)
    assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: harness push: ")
    assert {method for method, _ in hub.asked} == {"GET"} and not hub.repositories
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, err = harness("push", run, "--to", TO)
    assert code == 2 and "the hub cannot be reached" in err.splitlines()[-1]
