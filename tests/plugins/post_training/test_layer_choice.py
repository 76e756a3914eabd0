"""The layer of a direction is chosen on the training texts: those that judge it have no say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from harness_plugins.post_training import selectors
from harness_plugins.post_training.analysis.directions import Readings, areas, difference_of_means
from harness_plugins.post_training.analysis.labelled_texts import load_labelled
from harness_plugins.post_training.analysis.layer_choice import FOLDS, cross_validated, folds
from harness_plugins.post_training.comparison import directions
from harness_plugins.post_training.comparison.run import _truthfulness
from harness_plugins.post_training.comparison.settings import Settings

from harness.errors import HarnessError
from harness.plugin.components import SelectionContext

D = 12


def readings(gaps: list[tuple[float, float]], n: int = 80, per_group: int = 2, seed: int = 0) -> Readings:
    """Noise of ``n`` texts; ``gaps``: by layer how far the classes lie apart in the training and the held-out texts."""
    rng, label, train = np.random.default_rng(seed), np.arange(n) % 2 == 0, np.arange(n) < 0.6 * n
    apart = np.where(train, np.array(gaps)[:, :1], np.array(gaps)[:, 1:]) * label
    residual = rng.normal(size=(len(gaps), n, D)).astype(np.float32)
    residual[..., 0] += apart
    return Readings("noise", residual, label, train, np.arange(n) // per_group)


def labelled(folder: Path) -> Path:
    """A file of as many texts as it takes; what they read as is :func:`readings`."""
    rows = [
        {"text": f"{i}", "label": i % 2 == 0, "group": f"{i // 2}", "split": "train" if i < 48 else "test"}
        for i in range(80)
    ]
    path = folder / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def selected(found: Readings, folder: Path, monkeypatch: pytest.MonkeyPatch, **params: Any) -> Any:
    monkeypatch.setattr("harness_plugins.post_training.analysis.directions.read", lambda *_: found)
    selector = selectors.DifferenceOfMeans.model_validate({"data": str(labelled(folder)), **params})
    context = SelectionContext(SimpleNamespace(), SimpleNamespace(batch_size=4), [], seed=0)  # type: ignore[arg-type]
    return selector.select(context)


def test_a_layer_that_is_good_on_the_held_out_texts_alone_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lucky, steady = (0.5, 6.0), (4.0, 1.0)
    found = readings([lucky, steady])
    selection = selected(found, tmp_path, monkeypatch)
    assert selection.scores["auroc"][0] > selection.scores["auroc"][1]
    assert selection.units[0].layer == 1 and "cross-validation" in selection.rule
    given = selected(found, tmp_path, monkeypatch, layer=0)
    assert given.units[0].layer == 0 and "cross-validation" not in given.rule


def test_the_choice_does_not_depend_on_the_held_out_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = readings([(1.0, 1.0)] * 6)
    first = selected(found, tmp_path, monkeypatch)
    residual = found.residual.copy()
    residual[:, ~found.train] *= np.linspace(-30, 30, 6)[:, None, None].astype(np.float32)
    changed = replace(found, residual=residual, label=np.where(found.train, found.label, ~found.label))
    second = selected(changed, tmp_path, monkeypatch)
    assert second.units == first.units and not np.array_equal(second.scores["auroc"], first.scores["auroc"])
    np.testing.assert_array_equal(second.scores["auroc_train"], first.scores["auroc_train"])


def test_where_nothing_is_to_be_found_the_held_out_area_is_a_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported, best = [], []
    for seed in range(25):
        selection = selected(readings([(0.0, 0.0)] * 20, seed=seed), tmp_path, monkeypatch)
        reported.append(selection.scores["auroc"][selection.units[0].layer])
        best.append(selection.scores["auroc"].max())
    assert abs(np.mean(reported) - 0.5) < 0.05 and np.mean(best) > 0.65


def test_two_models_are_compared_after_a_layer_that_the_training_texts_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = readings([(0.5, 6.0), (4.0, 1.0)])
    monkeypatch.setattr(directions, "read", lambda *_, **__: found)
    context: Any = SimpleNamespace(model=None, engine=SimpleNamespace(batch_size=4))
    part = directions.direction_section("truthfulness", load_labelled(labelled(tmp_path)), [context, context], seed=0)
    assert part.numbers["layer"] == 1 and "cross-validation on the training texts" in part.sentences[0]


def test_of_several_data_sets_each_has_its_direction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "read", lambda *_, **__: readings([(0.5, 6.0), (4.0, 1.0)]))
    context: Any = SimpleNamespace(model=None, engine=SimpleNamespace(batch_size=4))
    paths = [str(labelled(tmp_path).rename(tmp_path / f"{name}.jsonl")) for name in ("cities", "animals (v1.1)")]
    asked = list(_truthfulness(Settings(truthfulness=tuple(paths)), [context, context]))
    assert [(key, title) for key, title, _ in asked] == [
        ("truthfulness_cities", "The direction of truthfulness in cities"),
        ("truthfulness_animals-v1-1", "The direction of truthfulness in animals-v1-1"),
    ]
    part = asked[1][2]()
    assert part.name == asked[1][0] and part.title.startswith(f"{asked[1][1]}, ")
    names = [x.name for x in (*part.frames, *part.figures)]
    assert names == [f"truthfulness_animals-v1-1_{x}" for x in ("cosine", "transfer", "directions")]
    [(key, title, _)] = _truthfulness(Settings(truthfulness=(paths[0],)), [context, context])
    assert (key, title) == ("truthfulness", "The direction of truthfulness")


# -- folds -------------------------------------------------------------------------------------------------------------


def test_each_text_is_judged_by_the_direction_of_the_other_folds() -> None:
    found = readings([(1.0, 1.0), (2.0, 0.0)], per_group=4)
    train, fold = np.flatnonzero(found.train), (np.arange(48) // 4) % FOLDS
    along = np.zeros((48, 2))
    for layer in range(2):
        for i in range(FOLDS):
            rest = np.zeros(80, bool)
            rest[train[fold != i]] = True
            probe = difference_of_means(replace(found, train=rest), layer)
            along[fold == i, layer] = probe.project(found.residual[layer, train[fold == i]].astype(float))
    np.testing.assert_allclose(cross_validated(found, found), areas(along, found.label[None, train])[0])


def test_groups_stay_together_unless_nothing_of_a_label_would_be_left() -> None:
    label = np.arange(24) % 2 == 0
    group = np.repeat([5, 7, 9, 11, 20, 21], 4)
    found = folds(label, group, "m")
    assert [len(np.unique(found[group == x])) for x in np.unique(group)] == [1] * 6
    alone = folds(label, label.astype(int), "m")  # a group is all that there is of a label
    assert all(len(np.unique(label[alone != i])) == 2 for i in range(FOLDS)) and set(alone) == set(range(FOLDS))
    with pytest.raises(HarnessError, match=r"one only is labelled true, .* give the layer"):
        folds(np.array([True, False, False]), np.arange(3), "m")
