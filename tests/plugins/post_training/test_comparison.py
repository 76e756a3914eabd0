"""Base and tuned model beside each other: what is measured of weights and behaviour, and the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_plugins.confidence_regulation.selectors.entropy import Entropy
from harness_plugins.demo import Demo, DemoTuned
from harness_plugins.demo.corpus import WorldTexts
from harness_plugins.post_training import harness_claims
from harness_plugins.post_training.analysis.directions import Readings
from harness_plugins.post_training.comparison import run, steering
from harness_plugins.post_training.comparison.behaviour import difference, same_tokens, sentence
from harness_plugins.post_training.comparison.directions import cosine_rows
from harness_plugins.post_training.comparison.neurons import (
    FinalLayer,
    cosines,
    null_overlap,
    overlap_sentence,
    overlaps,
    spearman,
)
from harness_plugins.post_training.comparison.record import ModelsRecord
from harness_plugins.post_training.comparison.report import markdown
from harness_plugins.post_training.comparison.run import check_comparable, compare_models
from harness_plugins.post_training.comparison.settings import Settings
from harness_plugins.post_training.evidence import NUMBERS, evidence
from scipy.stats import spearmanr

from harness.builtin.components import Neurons
from harness.engine import batch_sizes
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.files.store import json_bytes, read_json
from harness.model.model import Model
from harness.plugin import Value
from harness.plugin.claims import IntervalRule
from harness.plugin.components import SelectionContext
from harness.plugin.records import Prompt
from harness.progress import silent
from harness.testing import tiny_model

pytestmark = pytest.mark.usefixtures("blank_figures")

Harness = Callable[..., tuple[int, str, str]]


# -- statistics of weights ---------------------------------------------------------------------------------------------


def test_spearman_has_bonett_and_wrights_interval() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    b = a + rng.normal(size=50)
    b[7] = np.nan  # left out
    known = np.isfinite(b)
    found = spearman(a, b)
    r = spearmanr(a[known], b[known]).statistic
    half = 1.959964 * np.sqrt((1 + r**2 / 2) / 46)
    assert found == pytest.approx(
        {"r": r, "low": np.tanh(np.arctanh(r) - half), "high": np.tanh(np.arctanh(r) + half), "n": 49}, rel=1e-6
    )
    assert spearman(a, np.ones(50)) == {"r": None, "low": None, "high": None, "n": 50}
    same = spearman(a, a)
    assert same["r"] == pytest.approx(1) and same["low"] is not None and 0.99 < same["low"] <= 1


def test_the_interval_covers_the_true_correlation() -> None:
    """With normal data of correlation 0.8 the true rank correlation is 6/pi asin(0.4)."""
    rng, true = np.random.default_rng(1), 6 / np.pi * np.arcsin(0.4)
    covered = 0
    for _ in range(300):
        x = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], size=100).T
        found = spearman(*x)
        covered += found["low"] <= true <= found["high"]  # type: ignore[operator]
    assert covered / 300 > 0.9


def test_null_spaces_coincide_by_their_principal_angles() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    first, turned = basis[:, :4], basis[:, :4] @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    same = null_overlap(first, turned, 60, seed=0)
    assert same["overlap"] == pytest.approx(1) and same["angles"].max() < 1e-4
    assert same["p"] == 1 / 200 and same["expected"] == 4 / 60
    other = null_overlap(first, basis[:, 10:14], 60, seed=0)
    assert other["overlap"] == pytest.approx(0, abs=1e-12) and other["p"] == 1
    tilted = np.array([[np.cos(0.3)], [np.sin(0.3)], [0]])
    assert null_overlap(np.eye(3)[:, :1], tilted, 3, seed=0)["angles"] == pytest.approx([np.degrees(0.3)])
    random = [
        null_overlap(first, np.linalg.qr(rng.normal(size=(60, 4)))[0], 60, seed=0, draws=1)["overlap"]
        for _ in range(300)
    ]
    assert np.mean(random) == pytest.approx(4 / 60, rel=0.1)


def test_cosines_are_row_by_row() -> None:
    found = cosines(np.array([[1.0, 0], [1, 1], [0, 0]]), np.array([[2.0, 0], [0, 3], [1, 0]]))
    assert found[:2] == pytest.approx([1, 2**-0.5]) and np.isnan(found[2])


def context(model: Model) -> SelectionContext:
    return SelectionContext(model, ClosedFormEngine(model), [], 0)


def test_overlap_of_chosen_neurons_beside_chance() -> None:
    """Two rules that choose known neurons, and one that the model has too few neurons for."""

    class Fixed(Neurons):
        def select(self, context: SelectionContext) -> Any:
            chosen = self.neurons if context.model is first else ("2.1", "2.2", "2.9")
            return Neurons(neurons=chosen).select(context)

    first, second = tiny_model("llama"), tiny_model("llama")
    selectors = {
        "shared": Fixed(neurons=("2.1", "2.2", "2.3")),
        "apart": Fixed(neurons=("2.4", "2.5", "2.6")),
        "too few": Entropy(rule="tighidet2025", min_rho=1.0, null_dims=2),
    }
    rows, chosen = overlaps([context(first), context(second)], selectors)
    shared, apart, few = rows
    n = first.anatomy.d_mlp
    pairs = 3 * (n - 3) + 1  # sets of three of n that share at least two with a given one
    p = pairs / (n * (n - 1) * (n - 2) / 6)
    assert shared["shared"] == ["2.1", "2.2"] and shared["overlap"]["iou"] == 0.5
    assert shared["overlap"]["p"] == pytest.approx(p) and shared["p_holm"] == pytest.approx(2 * p)
    assert apart["overlap"]["shared"] == 0 and apart["p_holm"] == 1
    assert few["overlap"] is None and "no neuron passes" in few["why"]
    assert set(chosen) == {"shared", "apart"}


def test_p_that_equals_alpha_is_below_it() -> None:
    above = np.nextafter(0.05, 1)
    overlap = {"iou": 0.2, "shared": 1, "expected_iou": 0.01}
    rule = {"rule": "norm", "overlap": overlap, "base": ["2.1"], "tuned": ["2.1"]}
    assert "partly the same" in overlap_sentence({**rule, "p_holm": 0.05})
    assert "no more in common than random sets" in overlap_sentence({**rule, "p_holm": above})
    row = {"title": "loss", "unit": "nats", "first": 1.0, "second": 2.0, "difference": 1.0, "low": 0.5, "high": 1.5}
    assert "not distinguishable" not in sentence({**row, "p_holm": 0.05})
    assert "not distinguishable" in sentence({**row, "p_holm": above})


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_final_layer_of_a_model(family: str) -> None:
    model = tiny_model(family)
    layer, k = FinalLayer.of(model, null_dims=3)
    trivial = int(model.readout.centre_writes)
    assert k == 3 and layer.null.shape == (model.anatomy.d_model, 3 - trivial)
    assert layer.null.T @ layer.null == pytest.approx(np.eye(3 - trivial), abs=1e-9)
    if trivial:
        assert np.abs(layer.null.sum(0)).max() < 1e-6  # nothing of the constant direction
    w_out = model.w_out(layer.layer).double().numpy()
    w_out = w_out - w_out.mean(1, keepdims=True) if trivial else w_out
    assert layer.scores["norm"] == pytest.approx(np.linalg.norm(w_out, axis=1))
    ratio = layer.scores["norm"] / np.log(layer.scores["logit_var"])
    assert layer.scores["norm_per_log_logit_var"] == pytest.approx(ratio)
    assert layer.w_in is not None and layer.w_in.shape == layer.w_out.shape


# -- behaviour and directions ------------------------------------------------------------------------------------------


def test_a_difference_is_tuned_minus_base_by_cluster() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(60) < 0.3
    tuned = base | (rng.random(60) < 0.5)
    found = difference("CK", "CK", "%", (base, tuned), np.repeat(np.arange(20), 3), 500)
    assert found["first"] == pytest.approx(100 * base.mean()) and found["second"] == pytest.approx(100 * tuned.mean())
    assert found["difference"] == pytest.approx(100 * (tuned.mean() - base.mean()))
    assert 0 < found["low"] < found["difference"] < found["high"] and found["p"] < 0.001
    assert found["mcnemar"]["second_only"] == (tuned & ~base).sum() and found["mcnemar"]["first_only"] == 0
    nothing = difference("CK", "CK", "%", (base, base), np.repeat(np.arange(20), 3), 500)
    assert nothing["difference"] == 0 and nothing["p"] == 1


def test_prompts_must_be_the_same_tokens() -> None:
    model = Demo(device="cpu").load()
    text = "The capital of France is"
    [tokens] = model.encode([text])
    same_tokens(ClosedFormEngine(model), [Prompt("a", text, tuple(tokens), "a")])
    with pytest.raises(HarnessError, match="divide 1 of 1 prompt differently"):
        same_tokens(ClosedFormEngine(model), [Prompt("a", text, (*tokens, 1), "a")])


def test_alike_directions_are_told_from_chance() -> None:
    rng = np.random.default_rng(0)
    n, d = 40, 30
    label, train = np.arange(n) % 2 == 0, np.ones(n, bool)
    own, other = rng.normal(size=(2, d))

    def readings(*directions: np.ndarray) -> Readings:
        residual = np.stack([rng.normal(size=(n, d)) + 3 * np.outer(label, v) for v in directions])
        return Readings("m", residual.astype(np.float32), label, train, np.arange(n))

    shared, unrelated = cosine_rows(readings(own, own), readings(own, other), seed=0)
    assert shared["cosine"] > 0.9 and shared["p"] == 1 / 1000 and shared["p Holm"] == 2 / 1000
    assert abs(unrelated["cosine"]) < 0.5 and unrelated["p"] > 0.01


# -- the whole ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelsRecord, Path]:
    """The two bundled models, on few facts and with few controls."""
    done = small(tmp_path_factory.mktemp("reports"))
    return done.record, done.folder


def small(folder: Path, batch_size: int | str = 256) -> Any:
    component = run._component

    def of_few_texts(base: Any, name: str, **params: object) -> Any:
        """Token-frequency neurons are measured on a hundred sequences otherwise."""
        return component(base, name, **params, **({"sequences": 8} if name == "token_frequency" else {}))

    loaders = [Demo(device="cpu"), DemoTuned(device="cpu")]
    settings = Settings(limit=40, pairs=4, resamples=100)
    names = ("demo", "demo-tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steering, "CONTROLS", 9)
        patch.setattr(run, "_component", of_few_texts)
        return compare_models(loaders, names, settings, WorldTexts(size=300), folder, batch_size, silent)


def test_a_comparison_is_evidence_of_the_papers_claims(compared: tuple[ModelsRecord, Path]) -> None:
    record, folder = compared
    found = evidence(read_json(folder / "result.json"))
    assert found is not None and (found.name, found.model, found.about) == ("compare", "demo-tuned", "tuned from demo")
    assert set(found.values) == {f"{part}.{name}" for part, names in NUMBERS.items() for name in names}
    assert found.values["neurons.iou"] == Value(part(record, "neurons")["overlaps"][0]["overlap"]["iou"])
    for kind in ("truthfulness", "refusal"):
        of = part(record, kind)
        assert found.values[f"{kind}.cosine"].value == of["cosines"][of["layer"]]["cosine"]
    rows = {(x["direction"], x["model"], x["change"]): x for x in part(record, "steering")["rows"]}
    base, own = rows["base", "tuned", "added"], rows["tuned", "tuned", "added"]
    share = found.values["steering.share_of_base_in_tuned"]
    assert share.value == pytest.approx(base["log-odds"] / own["log-odds"])
    assert share.low is not None and share.high is not None and share.low <= share.value <= share.high
    judged = {name: claim.rule for name, claim in harness_claims()[0].read().claims.items()}
    assert {rule.measure for rule in judged.values() if isinstance(rule, IntervalRule)} <= set(found.values)


def test_what_was_not_compared_is_no_evidence(compared: tuple[ModelsRecord, Path]) -> None:
    data = read_json(compared[1] / "result.json")
    assert evidence({"run_id": "x", "identity": {}}) is None and evidence([]) is None
    data["parts"] = [x for x in data["parts"] if x["name"] != "refusal"]
    steering = next(x for x in data["parts"] if x["name"] == "steering")
    steering["why"] = "no refusals"
    found = evidence(data)
    assert found is not None
    assert found.values["refusal.cosine"] == Value(None, why="the comparison has no such part")
    assert found.values["steering.tuned_added_in_tuned"] == Value(None, why="no refusals")


def part(record: ModelsRecord, name: str) -> dict[str, Any]:
    """What the record says of a question, its numbers included."""
    [found] = [x for x in record.parts if x.name == name]
    return found.to_dict()


@pytest.mark.slow
def test_the_entropy_neurons_are_largely_the_same(compared: tuple[ModelsRecord, Path]) -> None:
    found = part(compared[0], "neurons")
    first = found["overlaps"][0]
    assert first["overlap"]["iou"] >= 0.7 and first["p_holm"] < 1e-6
    assert first["overlap"]["expected_iou"] < 0.02
    assert "largely the same neurons" in found["sentences"][0]
    norm = next(row for row in found["scores"] if row["score"] == "norm")
    assert norm["spearman"] > 0.95 and norm["low"] < norm["spearman"] < norm["high"]
    assert found["null_space"]["overlap"] > 0.99 and found["cosines"]["cosine output"] > 0.95


@pytest.mark.slow
def test_the_tuned_model_follows_contexts(compared: tuple[ModelsRecord, Path]) -> None:
    found = part(compared[0], "behaviour")
    ck = found["measures"][0]
    assert ck["measure"] == "CK_share" and ck["second"] > 85 and ck["low"] > 10 and ck["p_holm"] < 0.05
    assert np.sum(found["transitions"]) == found["n_prompts"]
    assert sum(row[0] for row in found["transitions"]) / found["n_prompts"] == pytest.approx(ck["second"] / 100)


@pytest.mark.slow
def test_only_the_tuned_models_direction_makes_and_stops_refusals(compared: tuple[ModelsRecord, Path]) -> None:
    rows = {(x["direction"], x["model"], x["change"]): x for x in part(compared[0], "steering")["rows"]}
    own = rows["tuned", "tuned", "ablated"]
    assert own["refused before %"] > 50 and own["refused after %"] < 10 and own["p"] == 0.1
    assert rows["tuned", "tuned", "added"]["refused after %"] > 20
    for change in ("added", "ablated"):
        assert rows["base", "base", change]["refused after %"] == 0
        assert abs(rows["base", "tuned", change]["log-odds"]) < 0.3 * abs(rows["tuned", "tuned", change]["log-odds"])


@pytest.mark.slow
def test_the_folder_holds_what_the_record_names(compared: tuple[ModelsRecord, Path]) -> None:
    record, folder = compared
    assert (folder / "result.json").read_bytes() == json_bytes(record.to_dict())
    for found in record.parts:
        assert found.sentences and "why" not in found.to_dict()
        assert list(found.to_dict())[-2:] == ["frames", "figures"]
        for frame in found.frames:
            assert (folder / "tables" / f"{frame.name}.csv").is_file()
        for figure in found.figures:
            assert (folder / "figures" / f"{figure.name}.png").stat().st_size > 1000
            assert f"figures/{figure.name}.png" in (folder / "README.md").read_text()
    assert (folder / "README.md").read_text() == markdown(record)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in page and all(f'id="part-{i + 1}"' in page for i in range(len(record.parts)))
    assert page.count("data:image/png;base64,") >= 1
    assert "NaN" not in (folder / "result.json").read_text()
    assert str(folder.parent) not in (folder / "result.json").read_text()


@pytest.mark.slow
def test_the_same_comparison_is_the_same_bytes(
    compared: tuple[ModelsRecord, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the pictures, which are drawn once here: theirs are tested where figures are; and with ``auto``, where as
    many prompts fit as the other has."""
    monkeypatch.setitem(batch_sizes.MOST, "cpu", 256)
    again, first = small(tmp_path, "auto").folder, compared[1]
    assert again.name == first.name
    files = sorted(x.relative_to(first) for x in first.rglob("*") if x.is_file())
    assert files == sorted(x.relative_to(again) for x in again.rglob("*") if x.is_file())
    texts = [x for x in files if x.suffix not in (".png", ".svg") and x.name != "report.html"]
    assert len(texts) > 10 and [x for x in texts if (first / x).read_bytes() != (again / x).read_bytes()] == []


def test_models_of_other_shapes_are_refused() -> None:
    with pytest.raises(HarnessError, match=r"neurons in a layer|layers|dimensions"):
        check_comparable([Demo(device="cpu").load(), tiny_model("llama")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name two or more finished runs, or two models"),
        (["--base", "demo"], "--tuned is missing"),
        (["--tuned", "demo"], "--base is missing"),
        (["somewhere", "--base", "demo", "--tuned", "demo-tuned"], "are for comparing runs"),
        (["--base", "demo", "--tuned", "demo-tund"], "demo-tuned"),
        (["--base", "demo", "--tuned", "demo-tuned", "--top", "0"], 'parameter "top" of harness compare'),
        (["--base", "demo", "--tuned", "demo-tuned", "--refusal", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_sentence(harness: Harness, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, out, err = harness("compare", *arguments, *(["-o", tmp_path / "reports"] if "--base" in arguments else []))
    assert code == 2 and out == "" and said in err and err.count("\n") == 1
    assert not (tmp_path / "reports").exists()
