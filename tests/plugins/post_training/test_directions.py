"""Directions from labelled texts: found where they were planted, and taken away or added, with controls beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkout import reference
from harness_plugins.post_training.analysis import directions
from harness_plugins.post_training.analysis.labelled_texts import LabelledText, load_labelled
from harness_plugins.post_training.interventions import AblateDirection, AddDirection, DirectionIntervention
from harness_plugins.post_training.selectors import DifferenceOfMeans
from harness_plugins.post_training.task import LabelledResponse, LabelledResponseMetric
from planted_direction import planted, planted_model, planted_texts
from slow_temperature import log_softmax, tempered

from harness.builtin.temperature import Temperature
from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.units import Direction
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import under
from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin import ModelLoader, Task
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext
from harness.plugin.records import Outcomes
from harness.plugin.specs import parse_spec
from harness.testing import check_intervention, check_metric, check_selector, check_task, tiny_model
from harness.testing.selectors_and_interventions import prompts_of

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def model() -> Model:
    return planted_model()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_texts(tmp_path_factory.mktemp("texts"))


def select(model: Model, texts: Path, **params: Any) -> Selection:
    selector = DifferenceOfMeans.model_validate({"data": str(texts), **params})
    return selector.select(SelectionContext(model, ClosedFormEngine(model), prompts_of(model), seed=3))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# -- labelled texts ----------------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    return {"text": "Two is even.", "label": True, "group": "number", "split": "train", **changes}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(label="yes")], 'line 1: parameter "label" of a labelled text: input should be a valid boolean'),
        ([row(split="dev")], "line 1: parameter \"split\" of a labelled text: input should be 'train' or 'test'"),
        ([row(text="")], 'line 1: parameter "text" of a labelled text'),
        ([row(), {"text": "x", "label": True, "split": "test"}], 'line 2: a labelled text needs the parameter "group"'),
        ([row(), row(label=False)], "line 2: the text stands already in line 1"),
        (
            [row(), row(text="b", split="test")],
            'line 2: the group "number" is in the split test here and in train in line',
        ),
        ([row(), row(text="b")], "no text with the label false in the split train"),
        ([row(), row(text="b", label=False)], "there are no texts in the split test"),
    ],
)
def test_wrong_rows_are_told_by_their_line(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(HarnessError) as error:
        load_labelled(path)
    assert said in str(error.value) and str(path) in str(error.value)


def test_a_csv_is_read_as_the_same_jsonl_is(tmp_path: Path) -> None:
    rows = [
        row(text=f'A "quoted" text, {i}\nof two lines', label=i % 2 == 0, group=f"g{i // 2}", split=split)
        for i, split in enumerate(["train"] * 4 + ["test"] * 4)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for true, false in (("1", "0"), ("True", "false")):
        with (tmp_path / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**x, "label": true if x["label"] else false} for x in rows)
        assert load_labelled(tmp_path / "a.csv") == load_labelled(tmp_path / "a.jsonl")
    (tmp_path / "b.csv").write_text("text,label,group,split\nx,maybe,g,train\n", encoding="utf-8")
    with pytest.raises(HarnessError, match=r"b\.csv, line 2: parameter \"label\" .* valid boolean, got 'maybe'"):
        load_labelled(tmp_path / "b.csv")


def test_a_published_table_is_read_as_it_is() -> None:
    found = load_labelled(reference("data/real/truthfulness/cities.csv"))
    assert len(found) == 1496 and sum(x.label for x in found) == 748
    assert found[0] == LabelledText(
        text="The city of Krasnodar is in Russia.", label=True, group=found[0].text, split=found[0].split
    )
    assert 0.4 < np.mean([x.split == "train" for x in found]) < 0.6


# -- directions --------------------------------------------------------------------------------------------------------


def test_readings_and_contrasts_are_what_one_text_at_a_time_gives() -> None:
    model = tiny_model("llama")
    texts = [
        LabelledText(text=text, label=i % 2 == 0, group=str(i), split="train" if i < 4 else "test")
        for i, text in enumerate(["a", "bcd", "efghij", "kl", "mnopqrs", "t u v"])
    ]
    last, mean = (directions.read(model, texts, position, batch_size=4) for position in ("last", "mean"))
    for i, text in enumerate(texts):
        hidden = model.hf.model(
            **model.tokenizer(text.text, return_tensors="pt", add_special_tokens=False), output_hidden_states=True
        ).hidden_states
        np.testing.assert_allclose(last.residual[0, i], hidden[1][0, -1].detach(), atol=1e-5)
        np.testing.assert_allclose(mean.residual[1, i], hidden[2][0].mean(0).detach(), atol=1e-5)
    probe, x = directions.difference_of_means(last, 1), last.residual[1].astype(float)
    np.testing.assert_allclose(probe.vector, x[[0, 2]].mean(0) - x[[1, 3]].mean(0), atol=1e-6)
    middle = (x[[0, 2]].mean(0) + x[[1, 3]].mean(0)) / 2
    np.testing.assert_allclose(probe.project(middle[None]), 0, atol=1e-6)


def test_the_area_counts_pairs_and_ties_half() -> None:
    along, label = np.array([3.0, 1, 1, 0]), np.array([True, True, False, False])
    assert directions.areas(along[:, None], label[None])[0, 0] == (2 + 1 + 0.5) / 4
    assert directions.areas(-along[:, None], label[None])[0, 0] == 1 - (2 + 1 + 0.5) / 4


def test_shuffled_labellings_are_balanced_distinct_and_never_the_true_one(model: Model, texts: Path) -> None:
    readings = directions.read(model, load_labelled(texts))
    labels = directions.labellings(readings, 200, seed=1)
    train = labels[:, readings.train]
    assert len(np.unique(np.concatenate([train, ~train]), axis=0)) == 400
    assert (train.sum(1) == readings.label[readings.train].sum()).all()
    assert not ((train == readings.label[readings.train]).all(1)).any()
    assert (labels[:, ~readings.train] == readings.label[~readings.train]).all()
    few = [LabelledText(text=t, label=t in "ac", group=t, split="train") for t in "abcd"]
    small = directions.read(model, [*few, *(x for x in load_labelled(texts) if x.split == "test")])
    assert len(directions.labellings(small, 99, seed=0)) == 2  # of (4 choose 2) / 2 = 3 one is the true one


def test_the_planted_direction_is_found_in_every_layer_and_transfers(model: Model, texts: Path) -> None:
    readings = directions.read(model, load_labelled(texts))
    for layer in range(3):
        probe = directions.difference_of_means(readings, layer)
        assert cosine(probe.vector, planted()) > 0.95
        found = directions.separation(readings, probe)
        assert found.auroc == found.accuracy == 1.0 and found.n == 16 and found.interval is not None
    np.testing.assert_allclose(directions.cosines(readings, readings), 1.0)
    table = directions.transfer(readings, readings, [0, 2]).columns
    assert list(zip(table["trained_on"], table["tested_on"], strict=True))[:3] == [
        ("base", "base"), ("base", "tuned"), ("tuned", "base"),
    ]  # fmt: skip
    assert table["layer"] == [0] * 4 + [2] * 4 and set(table["auroc"]) == {1.0}
    other = directions.read(tiny_model("gpt_neo"), load_labelled(texts))
    with pytest.raises(HarnessError, match="planted has 3 layers of width 32 and gpt_neo 2 of width 32"):
        directions.transfer(readings, other, [0])


# -- the selector ------------------------------------------------------------------------------------------------------


def test_the_selection_has_the_direction_its_scores_and_controls_of_equal_length(model: Model, texts: Path) -> None:
    found = check_selector(DifferenceOfMeans, on=model, data=str(texts))
    assert found.units == (Direction(0, 0),)  # all layers separate perfectly: the first of them
    assert [row["selected"] for row in found.table()] == [True, False, False]
    assert found.details["auroc_p"] < 0.05 and "AUROC" not in found.rule and "1.000" in found.rule
    own = found.vectors[Direction(0, 0)]
    assert found.pool is not None and len(found.pool) > 200 and own.shape == (32,)
    np.testing.assert_allclose([np.linalg.norm(found.vectors[x]) for x in found.pool], np.linalg.norm(own))
    across = select(model, texts, control="orthogonal", layer=-1)
    assert across.units == (Direction(2, 0),) and across.pool is not None
    assert max(abs(cosine(across.vectors[x], across.vectors[Direction(2, 0)])) for x in across.pool) < 1e-9
    unit = select(model, texts, normalise=True, control="isotropic")
    np.testing.assert_allclose([np.linalg.norm(x) for x in unit.vectors.values()], 1.0)


def test_a_direction_of_another_model_is_transferred_and_its_weights_are_part_of_the_identity(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = catalogue().build(ModelLoader, parse_spec("demo:device=cpu", "m"), "m")
    other = demo.load()  # type: ignore[attr-defined]
    selector = DifferenceOfMeans.model_validate({"data": str(texts), "from_model": demo})
    assert selector.inputs()["from_model"] == other.weights_digest
    found = selector.select(SelectionContext(other, ClosedFormEngine(other), [], seed=0))
    direct = select(other, texts)
    np.testing.assert_array_equal(found.vectors[found.units[0]], direct.vectors[direct.units[0]])
    with pytest.raises(HarnessError, match="from_model has 4 layers of width 128, but planted has 3 of width 32"):
        model = planted_model()
        selector.select(SelectionContext(model, ClosedFormEngine(model), [], seed=0))


# -- interventions and the task ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "params"), [
    (AddDirection, {"factor": -2.0}), (AblateDirection, {}), (AblateDirection, {"layers": "all"}),
])  # fmt: skip
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_interventions_keep_their_promises(cls: type[DirectionIntervention], params: Any, family: str) -> None:
    check_intervention(cls, on=tiny_model(family), **params)


def test_directions_without_vectors_are_refused() -> None:
    prepared = AddDirection.model_validate({}).prepare(Selection((Direction(0, 0),), "none"))
    with pytest.raises(HarnessError, match=r"the selection has no vector of direction D0\.0"):
        prepared.edits([Direction(0, 0)], None)


def responses(model: Model, texts: Path, change: DirectionIntervention, **params: Any) -> Outcomes:
    """Baseline, treated and 30 controls on the held-out texts."""
    selection = select(model, texts)
    ready = change.prepare(selection)
    assert selection.pool is not None
    conditions = [BASELINE, Condition("treated", ready.edits(selection.units, None))]  # type: ignore[arg-type]
    conditions += [Condition(f"control-{u}", ready.edits([u], None), role="control") for u in selection.pool[:30]]  # type: ignore[list-item]
    task, engine = LabelledResponse.model_validate({"data": str(texts), **params}), ClosedFormEngine(model)
    return task.observe(engine, task.prepare(engine, None, 0).prompts, conditions)


def test_ablating_the_planted_direction_removes_the_behaviour_and_other_directions_do_not(
    model: Model, texts: Path
) -> None:
    outcomes = responses(model, texts, AblateDirection.model_validate({"layers": "all"}), answers=["Y", "N"])
    label = np.array([prompt.fields["label"] for prompt in outcomes.prompts])
    signed = np.where(label, 1, -1) * outcomes["log_odds"]
    assert ((outcomes["said_true"][0]) == label).all() and signed[0].min() > 3
    assert np.abs(signed[1]).max() < 0.3 * signed[0].min()
    assert np.median(signed[2:].mean(1)) > 0.8 * signed[0].mean()


@pytest.mark.parametrize("asked", [{"answers": ["Y", "N"]}, {"refusal": ["Y", "yes"], "max_new_tokens": 2}])
def test_temperature_is_that_of_bisection_and_leaves_what_the_direction_does(
    model: Model, texts: Path, asked: dict[str, Any]
) -> None:
    outcomes = responses(model, texts, AddDirection.model_validate({"factor": 0.7}), **asked)
    prompt, treated = outcomes.prompts[0], outcomes.conditions[1]
    rows = []
    for condition in (BASELINE, treated):
        with torch.no_grad(), under(model, condition):
            rows.append(model.forward(model.pad([prompt.tokens]), logits_to_keep=1).logits[0, -1:].double().numpy())
    before, after = map(log_softmax, rows)
    odds = []
    for log_p in (before[0], tempered(before, after)[0], after[0]):
        if "answers" in asked:
            odds.append(np.subtract(*log_p[prompt.fields["begins"]]))
        else:
            p = np.exp(log_p[list(set(prompt.fields["begins"]))]).sum()
            odds.append(np.log(p / (1 - p)))
    np.testing.assert_allclose(
        [outcomes["log_odds"][0, 0], outcomes["tempered_log_odds"][1, 0], outcomes["log_odds"][1, 0]], odds, atol=2e-3
    )
    found = {x.name: x.values for x in Temperature().measure(outcomes).measures}
    raw = {x.name: x.values for x in LabelledResponseMetric().measure(outcomes).measures}
    for label in ("true", "false"):
        name = f"log_odds_{label}"
        np.testing.assert_allclose(found[f"{name}_tempered"] + found[f"{name}_beyond"], raw[name], atol=1e-6)
    assert abs(found["log_odds_false_beyond"][1]) > 1  # a direction that writes an answer is no temperature


def test_adding_the_planted_direction_brings_the_behaviour_and_other_directions_do_not(
    model: Model, texts: Path
) -> None:
    outcomes = responses(model, texts, AddDirection.model_validate({}), refusal=["Y"], max_new_tokens=2)
    found = {x.name: x for x in LabelledResponseMetric().measure(outcomes).measures}
    assert found["rate_true"].values[0] == 100 and found["rate_false"].values[0] == 0
    assert found["rate_false"].values[1] == 100 and np.median(found["rate_false"].values[2:]) == 0
    assert found["log_odds_false"].values[0] == 0
    assert found["log_odds_false"].values[1] > found["log_odds_false"].values[2:].max()
    assert found["accuracy"].values[:2].tolist() == [100, 50]


def test_the_task_and_its_metric_keep_their_promises(model: Model, texts: Path) -> None:
    outcomes = check_task(LabelledResponse, on=model, data=str(texts), refusal=["Y", "yes"], split="all")
    check_metric(LabelledResponseMetric, outcomes)
    check_metric(LabelledResponseMetric, check_task(LabelledResponse, on=model, data=str(texts), answers=["Y", "N"]))


def test_log_odds_of_a_refusal_count_every_first_token_once(model: Model, texts: Path) -> None:
    once, twice, both = (
        responses(model, texts, AddDirection.model_validate({}), refusal=words)["log_odds"][0]
        for words in (["Y"], ["Yes", "Y"], ["Y", "N"])
    )
    np.testing.assert_array_equal(once, twice)
    assert (both > once).all() and np.isfinite(both).all()


def test_wrong_parameters_are_told(model: Model, texts: Path) -> None:
    def built(spec: str) -> Any:
        return catalogue().build(Task, parse_spec(f"labelled_response:data={texts}{spec}", "--task"), "--task")

    for spec in ("", ",answers=[Y,N],refusal=[Y]"):
        with pytest.raises(HarnessError, match=r"give either answers=\[WORD FOR TRUE,WORD FOR FALSE\] or refusal="):
            built(spec)
    with pytest.raises(HarnessError, match='parameter "template" of labelled_response'):
        built(",answers=[Y,N],template=none here")
    with pytest.raises(HarnessError, match="the answers Yes and Y begin with the same token"):
        built(",answers=[Yes,Y]").prepare(ClosedFormEngine(model), None, 0)


def test_a_run_from_the_command_line_and_two_beside_each_other(
    harness: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """The whole pipeline with directions: record, controls, files, comparison."""
    rows = [
        row(text=f"The capital of {country} is {city}.", label=label, group=f"{i // 2}", split=split)
        for i, (country, city, label, split) in enumerate(
            (country, city if label else "Podgorica", label, split)
            for split, known in (("train", ("France Paris", "Italy Rome", "Japan Tokyo")), ("test", ("Spain Madrid",)))
            for country, city in map(str.split, known)
            for label in (True, False)
        )
    ]
    data = tmp_path / "labelled.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    common = ["--task", f"labelled_response:data={data},answers=[The,A]", "--output_path", tmp_path / "runs"]
    common += ["--selector", f"difference_of_means:data={data},layer=1,control=isotropic", "--controls", 5, "-q"]
    code, _, said = harness("eval", *common, "--intervention", "add_direction")
    assert code == 0, said
    code, _, said = harness("eval", *common, "--intervention", "ablate_direction:layers=all")
    assert code == 0, said
    runs = sorted(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    record = json.loads((runs[0] / "result.json").read_text())
    assert record["selection"]["unit"] == "direction" and record["selection"]["neurons"][0]["neuron"] == "D1.0"
    assert record["engine"] == "batched" and record["controls"]["n"] == 5
    assert "difference_of_means.data" in record["identity"]["inputs_sha256"]
    assert (runs[0] / "figures" / "separation_by_layer.png").is_file()
    code, shown, said = harness("compare", *runs)
    assert code == 0 and "not compared, for a direction's name does not tell its vector" in " ".join(shown.split()), (
        said
    )
    code, _, said = harness("eval", *common, "--intervention", "zero")
    assert code == 2 and "zero edits neurons, but the selector difference_of_means chooses directions" in said
