"""Files of other programs, read by these programs' own functions: they hold what the record says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness_plugins.log_formats import InspectLog, LmEvalResults
from lm_eval import utils

from harness.results.folder import read_record
from harness.testing import check_reporter, demo_run

MODELS = ("demo", "demo+neurons+mean")


def test_lm_eval_reads_the_results(tmp_path: Path) -> None:
    check_reporter(LmEvalResults, folder=tmp_path)
    record = read_record(demo_run())
    files = [str(path) for path in tmp_path.rglob("*.json*")]
    assert {Path(x).parent.name for x in files} == set(map(utils.sanitize_model_name, MODELS))
    for model in MODELS:
        here = [x for x in files if Path(x).parent.name == utils.sanitize_model_name(model)]
        [results], [samples] = utils.get_results_filenames(here), utils.get_sample_results_filenames(here)
        assert utils.get_latest_filename([samples]) == samples
        assert utils.get_file_task_name(Path(samples).name) == "knowledge_conflict"
        found = json.loads(Path(results).read_text(encoding="utf-8"))
        row = found["results"]["knowledge_conflict"]
        table = utils.make_table(found)
        for measure in record.measures:
            value = measure.value if model != "demo" else measure.baseline
            name = measure.name if measure.name == measure.metric else f"{measure.metric}.{measure.name}"
            assert row.get(f"{name},none") == value
            if value is not None:
                assert f"|{name}" in table.replace("| ", "|")
        assert found["config"]["harness"]["run_id"] == record.run_id
        assert [x["verdict"] for x in found["config"]["harness"]["measures"]] == [x.verdict for x in record.primary]


def test_the_datasets_library_reads_the_samples(tmp_path: Path) -> None:
    """As lm-eval's own is read: every line has the same columns, of one type."""
    datasets = pytest.importorskip("datasets")
    check_reporter(LmEvalResults, folder=tmp_path)
    rows = [json.loads(line) for line in (demo_run() / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    for model, condition in zip(MODELS, ("baseline", "treated"), strict=True):
        [file] = (tmp_path / utils.sanitize_model_name(model)).glob("samples_*.jsonl")
        found = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
        mine = [row for row in rows if row["condition"] == condition]
        assert [x[0][0] for x in found["resps"]] == [row["answer"] for row in mine]
        assert [x["gen_args_0"]["arg_0"] for x in found["arguments"]] == [row["prompt"] for row in mine]
        assert found["entropy"] == [row["entropy"] for row in mine] and len(set(found["prompt_hash"])) > 1
    both = [next(tmp_path.rglob(f"{utils.sanitize_model_name(model)}/samples_*.jsonl")) for model in MODELS]
    hashes = [[json.loads(x)["prompt_hash"] for x in file.read_text(encoding="utf-8").splitlines()] for file in both]
    assert hashes[0] == hashes[1], "the same prompts, which is how pairs are found"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["eval", "json"])
def test_inspect_reads_the_log(tmp_path: Path, form: str) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install -e '.[inspect]'")
    check_reporter(InspectLog, folder=tmp_path, format=form)
    record = read_record(demo_run())
    rows = [json.loads(line) for line in (demo_run() / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {x.eval.model: x for x in (log.read_eval_log(str(path)) for path in tmp_path.glob(f"*.{form}"))}
    assert found.keys() == {f"harness/{model}" for model in MODELS}
    for model, condition in zip(MODELS, ("baseline", "treated"), strict=True):
        read = found[f"harness/{model}"]
        mine = [row for row in rows if row["condition"] == condition]
        assert read.status == "success" and len(read.samples) == len(mine) == read.results.total_samples
        by_id = {row["prompt_id"]: row for row in mine}
        for sample in read.samples:
            row = by_id[sample.id]
            assert (sample.input, sample.output.completion, sample.target) == (
                row["prompt"], row["answer"], row["object"],
            )  # fmt: skip
            assert sample.scores["entropy"].value == row["entropy"]
        [score] = read.results.scores
        values = {name: x.value for name, x in score.metrics.items()}
        primary = record.primary[0]
        assert values[primary.name] == (primary.value if condition == "treated" else primary.baseline)
        assert read.eval.metadata["harness"]["run_id"] == record.run_id
    listed = log.list_eval_logs(str(tmp_path))
    assert len(listed) == 2 * len({path.name.rpartition("_")[2] for path in tmp_path.glob(f"*.{form}")})
