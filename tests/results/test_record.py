"""The record as a typed model: it is written as it is read, and older schemas are lifted to today's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import GOLDEN
from pydantic import BaseModel

from harness.errors import HarnessError
from harness.files.store import json_bytes
from harness.results import migrations
from harness.results.folder import read_record
from harness.results.leaderboard import typed
from harness.results.migrations import lifted
from harness.results.record import SCHEMA_VERSION, Chosen, RunRecord
from harness.results.schema import MODELS, WHERE, json_schema

Harness = Callable[..., tuple[int, str, str]]

RECORD, OF_SCHEMA_2 = GOLDEN / "record.json", GOLDEN / "record_2.json"


def unnamed(model: BaseModel, path: str = "") -> Iterator[str]:
    """Paths of what a model holds beside its fields."""
    yield from (f"{path}.{name}" for name in model.model_extra or {})
    for name in type(model).model_fields:
        found = getattr(model, name)
        for i, item in enumerate(found if isinstance(found, list) else [found]):
            if isinstance(item, BaseModel):
                yield from unnamed(item, f"{path}.{name}.{i}" if isinstance(found, list) else f"{path}.{name}")


# -- the model ---------------------------------------------------------------------------------------------------------


def test_a_record_is_written_as_it_was_read() -> None:
    """Order of keys, whole numbers, what is missing of measures that are not primary: the same bytes."""
    assert json_bytes(read_record(RECORD).to_dict()) == RECORD.read_bytes()


def test_the_model_names_everything_but_the_scores() -> None:
    names = {path.rpartition(".")[2] for path in unnamed(read_record(RECORD))}
    assert names == {f"{score}{what}" for score in ("rho", "logit_var", "norm") for what in ("", "_percentile")}


def test_what_a_later_version_adds_stays() -> None:
    data = json.loads(RECORD.read_text(encoding="utf-8"))
    data["task"]["of_tomorrow"] = {"a": [1, 2.5, None]}
    assert RunRecord.read(data, "x").to_dict() == data


def test_scores_percentiles_and_state_of_a_chosen_unit() -> None:
    data = {"neuron": "1.2", "rho": 1, "rho_percentile": 98.5, "ordinary_in": ["norm"], "set_to": None}
    chosen = Chosen.read(data, "x")
    assert chosen.scores == {"rho": 1} and chosen.percentiles == {"rho": 98.5}
    assert chosen.state == {"ordinary_in": ["norm"], "set_to": None}
    assert list(chosen.to_dict()) == list(data) and isinstance(chosen.to_dict()["rho"], int)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (
            ("task", "n_prompts"),
            2.5,
            "x: task.n_prompts: input should be a valid integer, got 2.5; the file is damaged.",
        ),
        (("measures", 0, "value"), True, "x: measures.0.value: input should be a valid number, got True"),
        (("measures", 0, "value"), float("nan"), "x: measures.0.value: input should be a finite number, got nan"),
        (("selection", "neurons", 0, "rho"), "high", "x: selection.neurons.0.rho: input should be a valid number"),
        (("selection", "neurons", 0, "neuron"), "L0H1", "expected the name of a neuron in neurons, got 'L0H1'"),
        (("selection", "layer_medians"), {"rho": 1.0}, "expected medians that are called median_SCORE"),
        (("controls", "sets"), None, "x: controls.sets: input should be a valid list, got None"),
    ],
)
def test_what_is_damaged_is_named(place: tuple[Any, ...], value: Any, said: str) -> None:
    data = json.loads(RECORD.read_text(encoding="utf-8"))
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(HarnessError) as caught:
        RunRecord.read(data, "x")
    assert said in str(caught.value)


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_record(RECORD).name = "other"


# -- older schemas -----------------------------------------------------------------------------------------------------


def test_a_record_of_schema_2_is_read(tmp_path: Path) -> None:
    old = json.loads(OF_SCHEMA_2.read_text(encoding="utf-8"))
    found = read_record(OF_SCHEMA_2)
    assert old["schema_version"] == 2 and found.schema_version == SCHEMA_VERSION == 3
    assert found.identity.to_dict() == old["identity"] and found.run_id == old["run_id"]
    assert [measure.value for measure in found.measures] == [measure["value"] for measure in old["measures"]]
    words = {"not distinguishable from random neurons": "inconclusive", "underpowered": "cannot tell"}
    was = [measure for measure in old["measures"] if measure["primary"]]
    assert {measure["verdict"] for measure in was} == set(words)
    assert [measure.verdict for measure in found.primary] == [words[measure["verdict"]] for measure in was]
    assert [measure.p_holm for measure in found.primary] == [measure["p_holm"] for measure in was]
    for measure in found.primary:  # what nobody computed then
        assert (measure.p_adjusted, measure.n_clusters, measure.detectable, measure.margin) == (None,) * 4
    assert (found.family.rows, found.family.smallest) == (200, pytest.approx(6 * 2 / 200))
    assert found.selection.intervention_title == "mean ablation"
    assert "of schema 2" in found.remarks[-1]


def test_reports_show_a_record_of_schema_2(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(OF_SCHEMA_2.read_bytes())
    code, out, err = harness("report", tmp_path)
    assert code == 0, err
    assert "inconclusive" in out and "this record is of schema 2" in out and "None" not in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "this record is of schema 2" in page and "inconclusive" in page


def test_a_step_takes_each_schema_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {n: lambda record, n=n: record | {"seen": [*record.get("seen", []), n]} for n in (1, 2)}
    monkeypatch.setattr(migrations, "STEPS", steps)
    assert lifted({"schema_version": 1}, "x") == {"schema_version": 3, "seen": [1, 2]}
    assert lifted({"schema_version": 3}, "x") == {"schema_version": 3}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"schema_version": 4},
            "x: this record is of schema 4, and this version of the harness knows schemas up to 3; ",
        ),
        (
            {"schema_version": 1},
            "x: this record is of schema 1, which this version of the harness no longer reads; make",
        ),
        ({"schema_version": 2}, "x: this record of schema 2 is not as such records are; the file is damaged."),
        ({"schema_version": True}, "x: this is no record of schema 3; make the run again."),
        ({"schema_version": "3"}, "x: this is no record of schema 3; make the run again."),
        ([], "x: this is no record of schema 3; make the run again."),
    ],
)
def test_what_cannot_be_lifted_is_a_sentence(data: Any, said: str) -> None:
    with pytest.raises(HarnessError) as caught:
        lifted(data, "x")
    assert str(caught.value).startswith(said)


# -- JSON Schema -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHERE)
def test_the_command_prints_a_valid_schema(harness: Harness, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    code, out, err = harness("schema", name)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == json_schema(name) and WHERE[name] in found["title"]
    jsonschema.Draft202012Validator.check_schema(found)


def test_the_record_fits_its_schema_and_a_damaged_one_does_not() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema("record"))
    data = json.loads(RECORD.read_text(encoding="utf-8"))
    assert list(validator.iter_errors(data)) == []
    data["measures"][0]["value"] = "much"
    [error] = validator.iter_errors(data)
    assert list(error.path) == ["measures", 0, "value"]


def test_a_row_of_the_leaderboard_fits_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema("leaderboard"))
    row = typed({"row_id": "a", "value": 1.5, "n_prompts": 3, "primary": True, "neurons": ["3.1"]})
    assert list(validator.iter_errors(row)) == []
    assert {tuple(error.path) for error in validator.iter_errors(row | {"primary": "yes"})} == {("primary",)}


def test_an_unknown_schema_is_a_sentence(harness: Harness) -> None:
    code, out, err = harness("schema", "recrd")
    assert (code, out) == (2, "") and "expected one of record, " in err and 'Did you mean "record"' in err


def test_every_model_has_a_schema() -> None:
    assert set(MODELS) | {"leaderboard"} == set(WHERE)
