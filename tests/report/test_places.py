"""Names of neurons are told from numbers: layer and index stand beside them wherever rows name units."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from checkout import GOLDEN
from small_runs import finish

from harness.conditions.conditions import Selection
from harness.conditions.units import Direction, Head, Neuron, Unit
from harness.files.store import write_jsonl
from harness.plugin.specs import parse_spec
from harness.plugin.unit_kinds import score_names
from harness.report.figure_files import csv_bytes
from harness.report.leaderboard import csv_text, json_text
from harness.report.places import with_places
from harness.results import leaderboard
from harness.results.folder import RunFolder
from harness.results.provenance import provenance
from harness.results.record import RunRecord

ALIKE = ["3.1", "3.10", "3.100"]
"""Three neurons, and one number."""


def read_csv(columns: Any) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(csv_bytes(columns)))


def test_a_table_read_with_pandas_defaults_keeps_three_neurons_apart() -> None:
    found = read_csv({"neuron": ALIKE, "rho": [0.1, 0.2, 0.3]})
    assert found["neuron"].nunique() == 1  # what the names alone would be
    assert found[["layer", "index"]].values.tolist() == [[3, 1], [3, 10], [3, 100]]
    assert list(found.columns) == ["neuron", "layer", "index", "rho"]
    assert csv_bytes({"neuron": ALIKE}).decode().split() == [
        "neuron,layer,index",
        "3.1,3,1",
        "3.10,3,10",
        "3.100,3,100",
    ]


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ((Neuron(3, 1), Neuron(3, 10)), [{"layer": 3, "index": 1}, {"layer": 3, "index": 10}]),
        ((Head(2, 10),), [{"layer": 2, "head": 10}]),
        ((Direction(7, 0),), [{"layer": 7}]),
    ],
)
def test_neurons_jsonl_has_places_by_kind(units: tuple[Unit, ...], expected: list[Any], tmp_path: Path) -> None:
    rows = Selection(units, "", units, {"score": np.arange(len(units))}).table()
    write_jsonl(tmp_path / "neurons.jsonl", rows)
    found = pd.read_json(tmp_path / "neurons.jsonl", lines=True)
    assert found[list(expected[0])].to_dict("records") == expected
    assert [row["neuron"] for row in rows] == [str(unit) for unit in units]


def test_a_score_may_be_called_as_a_place_is() -> None:
    units = (Neuron(3, 10),)
    [row] = Selection(units, "", units, {"index": np.array([0.5]), "rho": np.array([1.0])}).table()
    assert row == {"neuron": "3.10", "layer": 3, "neuron index": 10, "selected": True, "index": 0.5, "rho": 1.0}
    assert score_names(row) == ["index", "rho"]
    assert score_names({"neuron": "L0H1", "layer": 0, "head": 1, "selected": False, "index": 0.5}) == ["index"]


def test_columns_that_are_there_are_not_written_over_and_other_texts_are_left_alone() -> None:
    same = {"neuron": ALIKE, "layer": [3, 3, 3]}
    assert list(with_places(same)) == ["neuron", "index", "layer"]
    other = with_places({"neuron": ALIKE, "layer": [0, 1, 2]})
    assert other["layer"] == [0, 1, 2] and other["neuron layer"] == [3, 3, 3]
    both = with_places({"head": ["L0H1"], "neuron": np.array(["2.10"])})
    assert both == {"head": ["L0H1"], "layer": [0], "head index": [1], "neuron": both["neuron"], "neuron layer": [2],
                    "index": [10]}  # fmt: skip
    for column in ({"answer": ["3.10"]}, {"neuron": ["3.1", "3.1+3.2"]}, {"neuron": [3.1]}, {"neuron": []}):
        assert with_places(column) == column


def test_the_leaderboard_keeps_a_single_neuron_apart() -> None:
    record = json.loads((GOLDEN / "record.json").read_text(encoding="utf-8"))
    record["selection"]["neurons"] = [{"neuron": "3.10"}]
    rows = leaderboard.rows_of(RunRecord.read(record, "record.json"), provenance("harness eval", 0.0, "0"))
    columns = ["neurons", "neuron_layers", "neuron_indices"]
    for found in (
        pd.read_csv(io.StringIO(csv_text(rows, columns))),
        pd.read_json(io.StringIO(json_text(rows, columns))),
    ):
        first = found.iloc[0]
        layer, index = (x[0] if isinstance(x, list) else x for x in (first["neuron_layers"], first["neuron_indices"]))
        assert (int(layer), int(index)) == (3, 10)


def test_a_runs_files_have_places_and_are_read_back(tmp_path: Path) -> None:
    run = finish(
        tmp_path,
        model=parse_spec("demo:device=cpu", "m"),
        task=parse_spec("mediation:sequences=2,length=16,others=3", "t"),
        selector=parse_spec("entropy:top=3", "s"),
        intervention=parse_spec("mean", "i"),
        controls=4,
    )
    rows = [json.loads(line) for line in (run / "neurons.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert all(f"{row['layer']}.{row['index']}" == row["neuron"] for row in rows)
    named = [path for path in (run / "tables").glob("*.csv") if "neuron" in pd.read_csv(path).columns]
    assert named
    for path in named:
        found = pd.read_csv(path, dtype={"neuron": str})
        assert (found["layer"].astype(str) + "." + found["index"].astype(str) == found["neuron"]).all(), path.name
    selection = RunFolder(run).load_outcomes().selection
    assert selection is not None and not {"layer", "index", "head"} & set(selection.scores)
    assert set(selection.scores) == set(rows[0]) - {"neuron", "selected", "layer", "index"}
