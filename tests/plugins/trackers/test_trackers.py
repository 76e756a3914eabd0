"""What trackers hold of a run is what its record says: written by their own libraries, offline, and read back."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_plugins.trackers import Mlflow, Wandb, content

from harness.plugin.catalogue import catalogue
from harness.plugin.reporters import Asked, FinishedRun
from harness.plugin.specs import ComponentSpec, build
from harness.results.folder import read_provenance, read_record
from harness.running.telling import asked_of
from harness.testing import check_reporter, demo_run
from harness.testing.reporters import demo_plan

Harness = Callable[..., tuple[int, str, str]]


def log_records(path: Path) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, after W&B's own header: blocks of 32 KiB; each piece has a
    checksum, a length and a kind (1 whole, 2 first, 3 middle, 4 last)."""
    data, at, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def offline_run(folder: Path) -> dict[str, Any]:
    """What an offline run of W&B holds, read with its own message types."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"summary": {}, "history": {}, "artifacts": [], "exit": None}
    [file] = folder.glob("run-*.wandb")
    for data in log_records(file):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "name": record.run.display_name, "tags": list(record.run.tags)}
            found["project"] = record.run.project
            found["config"] = {x.key: json.loads(x.value_json) for x in record.run.config.update}
        elif kind == "summary":
            found["summary"] |= {
                x.key or ".".join(x.nested_key): json.loads(x.value_json) for x in record.summary.update
            }
        elif kind == "history":
            items = record.history.item
            found["history"] |= {x.key or ".".join(x.nested_key): json.loads(x.value_json) for x in items}
        elif kind == "artifact":
            entries = {entry.path: entry for entry in record.artifact.manifest.contents}
            found["artifacts"].append((record.artifact.name, record.artifact.type, entries))
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


@pytest.mark.slow
def test_weights_and_biases_has_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_API_KEY", secret := "0123456789" * 4)
    run, record = demo_run(), read_record(demo_run())
    check_reporter(Wandb, project="neurons", mode="offline", folder=tmp_path, tags=["mine"])
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    found = [offline_run(folder) for folder in folders]
    [failed] = [one for one in found if one["id"] == "0" * content_id()]
    whole, *_ = [one for one in found if one["id"] == record.run_id[: content_id()]]
    assert failed["exit"] == 1 and "and 100% {braces}" in failed["summary"]["error"]
    assert (whole["exit"], whole["project"], whole["name"]) == (0, "neurons", run.name)
    assert {"mine", "demo", "knowledge_conflict", "neurons", "mean"} == set(whole["tags"])
    assert whole["config"]["selector"]["neurons"] == ["3.0", "3.1"] and whole["config"]["controls"] == 19
    for measure in record.primary:
        name = ".".join(measure.key)
        assert whole["summary"][name] == measure.value and whole["summary"][f"{name}.verdict"] == measure.verdict
        assert whole["summary"].get(f"{name}.ci_low") == measure.ci_low
        assert whole["summary"].get(f"{name}.p_adjusted") == measure.p_adjusted
    for figure in record.figures:
        key = f"figures/{figure.name}"
        assert whole["history"][f"{key}._type"] == "image-file" and whole["history"][f"{key}.caption"] == figure.title
    folder = next(x for x in folders if offline_run(x)["exit"] == 0)
    [table] = folder.glob("files/media/table/measures*.table.json")
    written = json.loads(table.read_text())
    assert written["columns"] == list(content.COLUMNS) and len(written["data"]) == len(record.measures)
    [(name, kind, entries)] = [x for x in whole["artifacts"] if x[1] == "harness-run"]
    assert name == f"run-{record.run_id[: content_id()]}" and kind == "harness-run"
    assert {"result.json", "controls.jsonl", "tables/transition_cells.csv"} <= entries.keys()
    assert "samples.jsonl" not in entries
    assert f"kept for Weights & Biases, until it is sent: wandb sync {folder}" in capsys.readouterr().err
    assert all(secret.encode() not in x.read_bytes() for x in tmp_path.rglob("*") if x.is_file())


def test_what_an_earlier_command_has_sent_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from unittest.mock import MagicMock

    there = MagicMock(resumed=True, summary={"harness_sent": True})
    monkeypatch.setattr(wandb, "init", lambda **given: there)
    record, asked = read_record(demo_run()), asked_of(demo_plan())
    about = (asked, record.run_id, demo_run(), "a test", True, record, read_provenance(demo_run()))
    Wandb(mode="online").finished(FinishedRun(*about))
    there.finish.assert_called_once_with()
    there.log.assert_not_called()


def content_id() -> int:
    from harness_plugins.trackers.weights_and_biases import ID

    return ID


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of MLflow's own modules
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_mlflow_has_the_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow, _ = pytest.importorskip("mlflow"), pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    record, uri = read_record(demo_run()), f"sqlite:///{tmp_path}/mlflow.db"
    check_reporter(Mlflow, experiment="neurons", uri=uri, tags=["mine"])
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("neurons")
    runs = {run.info.status: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"FINISHED", "FAILED"}
    assert "{braces}" in runs["FAILED"].data.tags["harness.error"]
    found = runs["FINISHED"]
    assert found.info.run_name == demo_run().name and found.data.tags["harness.run_id"] == record.run_id
    assert found.data.tags["mine"] == "true" and found.data.tags["harness.selector"] == "neurons"
    assert json.loads(found.data.params["selector.neurons"]) == ["3.0", "3.1"] and found.data.params["controls"] == "19"
    for measure in record.primary:
        name = ".".join(measure.key)
        assert found.data.metrics[name] == measure.value and found.data.tags[f"verdict.{name}"] == measure.verdict
        assert found.data.metrics.get(f"{name}.ci_high") == measure.ci_high
        assert len(client.get_metric_history(found.info.run_id, name)) == 1  # told twice, sent once
    said = f'told MLflow of {demo_run().name}, in experiment "neurons", its files in {found.info.artifact_uri}'
    assert capsys.readouterr().err.count(said) == 1
    folder = Path(client.download_artifacts(found.info.run_id, "", str(tmp_path)))
    assert (folder / "result.json").read_bytes() == (demo_run() / "result.json").read_bytes()
    assert {x.stem for x in (folder / "figures").iterdir()} == {x.name for x in record.figures}
    written = json.loads((folder / "measures.json").read_text())
    assert written["columns"] == list(content.COLUMNS) and len(written["data"]) == len(record.measures)


# -- before any work ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("mlflow", "mlflow")])
def test_each_is_an_extra(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = harness("run", "copying", "-o", tmp_path / "out", "--report", name)
    assert code == 2 and err.splitlines()[-1].endswith(f'is not installed; pip install "neuron-harness[{name}]".')
    assert not list((tmp_path / "out").glob("copying*"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("wandb:a/b", '--report: parameter "project" of wandb: '),
        ("wandb:files=some", '--report: parameter "files" of wandb: '),
        ("mlflow:experimnt=x", 'Did you mean "experiment"?'),
    ],
)
def test_a_wrong_parameter_is_one_sentence(harness: Harness, tmp_path: Path, given: str, sentence: str) -> None:
    code, _, err = harness("run", "copying", "-o", tmp_path / "out", "--report", given)
    assert code == 2 and sentence in err.splitlines()[-1]


@pytest.mark.parametrize(("name", "given"), [("wandb", "mode=offline,folder"), ("mlflow", "uri=sqlite:///")])
def test_a_place_that_cannot_be_written_is_told_at_once(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, given: str
) -> None:
    """W&B would write somewhere else, MLflow would try for minutes."""
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    place = "=file/x" if name == "wandb" else "file/x/runs.db"
    code, _, err = harness("run", "copying", "-o", "out", "--report", f"{name}:{given}{place}")
    assert code == 2 and err.splitlines()[-1] == "error: cannot write file/x: file is a file, not a folder."


def test_nobody_is_asked_for_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from harness.errors import HarnessError

    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: prompt)
    with pytest.raises(HarnessError, match=r"no key is known here; run `wandb login`, set WANDB_API_KEY, or pass mode"):
        Wandb(mode="online").ready(Asked((), tmp_path, "test"))


def test_a_store_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from harness.errors import HarnessError

    reporter = build(Mlflow, ComponentSpec("mlflow", {"uri": "http://127.0.0.1:9"}), "--report")
    with pytest.raises(HarnessError, match=r"^--report mlflow: the store http://127\.0\.0\.1:9 cannot be used: "):
        reporter.ready(Asked((), tmp_path, "test"))
    assert "mlflow" in catalogue().components["reporter"]


def test_a_password_is_not_taken_on_the_command_line_and_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command says is kept in ``provenance.json`` and in the leaderboard."""
    pytest.importorskip("mlflow")
    from harness.errors import HarnessError

    uri = "postgresql://me:s3cret@127.0.0.1:9/runs"
    with pytest.raises(HarnessError, match=r"uri holds a password, .*set MLFLOW_TRACKING_URI in its place") as refused:
        build(Mlflow, ComponentSpec("mlflow", {"uri": uri}), "--report").ready(Asked((), tmp_path, "test"))
    assert "s3cret" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        HarnessError, match=r"the store postgresql://me:\.\.\.@127\.0\.0\.1:9/runs cannot be used"
    ) as refused:
        build(Mlflow, ComponentSpec("mlflow", {}), "--report").ready(Asked((), tmp_path, "test"))
    assert "s3cret" not in str(refused.value)
