"""A finished run from Python: the one of the command, its tables with types, its figures, how it looks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import harness as public
from harness.api import finished, frames
from harness.api.finished import Run
from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.results.record import Frame
from harness.running.request import Request, command_of


@pytest.fixture(scope="module")
def made(words: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return public.evaluate(**words, output_path=tmp_path_factory.mktemp("reports"))


def test_it_is_the_run_of_the_command(
    words: dict[str, Any], made: Run, harness: Callable[..., Any], tmp_path: Path
) -> None:
    options = [word for name, value in words.items() for word in (f"--{name}", value)]
    code, _, err = harness("eval", *options, "--quiet", "-o", tmp_path)
    assert code == 0, err
    same = tmp_path / made.path.name
    for name in ("result.json", "samples.jsonl", "controls.jsonl", "outcomes.safetensors", "files.sha256"):
        assert (made.path / name).read_bytes() == (same / name).read_bytes()
    again = public.load_run(same / "result.json")
    assert again.path == same and again.command.startswith("harness eval --task knowledge_conflict")
    assert public.evaluate(**words, output_path=tmp_path, progress=False).path == same  # finished, not made again


def test_the_command_makes_the_same_run(made: Run, harness: Callable[..., Any]) -> None:
    code, out, _ = harness(*shlex.split(made.command)[1:], "--json")
    assert code == 0 and json.loads(out)["run_id"] == made.record.run_id


def test_where_nobody_says_where(words: dict[str, Any], made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_REPORTS_DIR", str(made.path.parent))
    run = public.evaluate(**words)
    assert run.path == made.path and len(public.runs()) == 7
    spec = Request(task="a", selector="b").specification(catalogue())
    assert "--output_path reports" in command_of(spec, Path("reports"))
    assert "--output_path" not in command_of(spec, made.path.parent)


# -- what it has -------------------------------------------------------------------------------------------------------


def test_columns_have_types(made: Run) -> None:
    measures = made.measures
    assert len(measures) == len(made.record.measures)
    wanted = {
        "metric": "string", "name": "string", "primary": "boolean", "value": "float64", "count": "Int64",
        "control_mean": "float64", "p_adjusted": "float64", "verdict": "string",
    }  # fmt: skip
    assert {name: str(measures[name].dtype) for name in wanted} == wanted
    primary = measures[measures["primary"]].set_index("name")
    recorded = {measure.name: measure.value for measure in made.record.measures if measure.primary}
    assert primary.loc["entropy_change", "value"] == recorded["entropy_change"]

    samples = made.samples
    assert len(samples) == 2 * made.record.task.n_prompts and set(samples["condition"]) == {"baseline", "treated"}
    assert str(samples["entropy"].dtype) == "float64" and str(samples["answer"].dtype) == "string"

    neurons = made.neurons
    assert str(neurons["neuron"].dtype) == "string" and str(neurons["layer"].dtype) == "Int64"
    chosen = neurons.loc[neurons["selected"], "neuron"]
    assert set(chosen) == {one.neuron for one in made.record.selection.neurons}

    controls = made.controls
    assert list(controls["control"]) == list(range(5)) and len(controls["units"][0]) == 3
    mean = controls["entropy_change.entropy_change"].mean()
    assert mean == pytest.approx(primary.loc["entropy_change", "control_mean"])


def test_tables(made: Run, tmp_path: Path) -> None:
    cells = made.tables["transition_cells"]
    assert str(cells["before"].dtype) == "string" and str(cells["count"].dtype) == "Int64"
    assert set(made.tables) == {path.stem for path in (made.path / "tables").glob("*.csv")}
    with pytest.raises(HarnessError, match='Did you mean "transition_cells"'):
        made.tables["transition_cell"]
    for name in made.tables:  # of short ones: what their files hold
        told = pd.read_csv(made.path / "tables" / f"{name}.csv", dtype={"neuron": str})
        assert list(told) == list(made.tables[name])


def test_long_tables_are_read_from_their_files(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    text = "neuron,layer,found,score,text\n3.10,3,true,0.5,NA\n3.1,3,,,None\n"
    (tmp_path / "tables" / "long.csv").write_text(text, encoding="utf-8")
    read = frames.Tables(tmp_path, [Frame(name="long", title="", n=2, rows=None)])["long"]
    assert [str(kind) for kind in read.dtypes] == ["string", "Int64", "boolean", "float64", "string"]
    assert list(read["neuron"]) == ["3.10", "3.1"] and list(read["text"]) == ["NA", "None"]
    assert read["found"].isna().tolist() == [False, True] and np.isnan(read["score"][1])


def test_figures_are_drawn_again(made: Run, tmp_path: Path) -> None:
    drawn = made.figure("conversion_ratios")
    assert drawn.axes and not drawn.axes[0].images  # lines and bars, no picture
    assert drawn._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    shown = made.figure("activation_values")  # of statistics that the run does not keep
    assert shown.axes[0].images
    with pytest.raises(HarnessError, match=r'no figure "conversion_ratio".*Did you mean "conversion_ratios"'):
        made.figure("conversion_ratio")


def test_how_it_looks(made: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert repr(made) == f"<harness run {made.path}: 7 primary measures, {_more(made)} more than random>"
    html = made._repr_html_()
    assert "change of entropy" in html and "Primary measures beside the 5 random controls" in html
    assert "<script" not in html and "http" not in html and "How sure this can be" in html
    made.show()
    assert "Effects beside the random controls" in capsys.readouterr().out


def _more(run: Run) -> int:
    return sum(measure.verdict == "more than random" for measure in run.record.measures)


def test_text_of_others_is_escaped(made: Run, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    record = json.loads((made.path / "result.json").read_text(encoding="utf-8"))
    record["task"]["title"] = record["selection"]["selector"] = record["measures"][0]["title"] = hostile
    record["identity"]["model"]["id"] = record["tables"][0]["title"] = record["tables"][0]["categories"][0] = hostile
    for measure in record["measures"]:
        measure |= {"title": hostile, "verdict_sentence": f"{hostile}\x1b[31m"} if measure["primary"] else {}
    folder = tmp_path / "a\x1b[31m\nb"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    run = public.load_run(folder)
    html = run._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and "\x1b" not in html
    assert "\x1b" not in repr(run) and "\n" not in repr(run)
    assert run.record.identity.model.id == hostile


def test_open_shows_the_page(made: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[str] = []
    monkeypatch.setattr(finished.webbrowser, "open", seen.append)
    made.open()
    assert seen == [(made.path / "report.html").resolve().as_uri()]
    with pytest.raises(HarnessError, match="harness report"):
        Run(tmp_path).open()


def test_there_is_no_run(made: Run, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="there is no finished run here"):
        public.load_run(tmp_path)
    (tmp_path / "half" / "unfinished").mkdir(parents=True)
    with pytest.raises(HarnessError, match="not finished"):
        public.load_run(tmp_path / "half")
    with pytest.raises(HarnessError, match="run something first"):
        public.runs(tmp_path)


def test_the_leaderboard(made: Run) -> None:
    board, everything = public.runs(made.path.parent), public.runs(made.path.parent, primary=False)
    assert len(board) == 7 and len(everything) == len(made.measures)
    assert str(board["seed"].dtype) == "Int64" and str(board["value"].dtype) == "float64"
    assert str(board["finding"].dtype) == "boolean" and str(board["model"].dtype) == "string"
