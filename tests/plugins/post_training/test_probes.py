"""Probes: planted directions are found, what each needs is asked for, and data sets that were not seen are judged."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from harness_plugins.post_training.analysis.probes import PROBES, Activations, ccs, ccs_loss, mass_mean, ttpd
from harness_plugins.post_training.analysis.truth_data import load_truth
from harness_plugins.post_training.comparison.probing import probing_section
from harness_plugins.post_training.comparison.run import input_digests
from harness_plugins.post_training.comparison.settings import Settings
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.plugin.components import SelectionContext
from harness.testing import tiny_model
from harness.testing.common import check_shown

D = 12
AXES = np.eye(D)


def planted(n: int = 60, seed: int = 0, truth: float = 3.0, polarity: float = 2.0, mixed: float = 0.0) -> Activations:
    """Two data sets and their negations: label along axis 0, polarity along axis 1, their product along axis 2.

    The data sets lie far apart, in directions that say nothing of truth.
    """
    rng = np.random.default_rng(seed)
    label, dataset, negated, twin, x = [], [], [], [], []
    for topic in (0, 1):
        own = rng.random(n) < 0.5
        for neg in (False, True):
            here = own ^ neg
            y, p = np.where(here, 1.0, -1.0), -1.0 if neg else 1.0
            centre = 5 * AXES[4 + topic]
            x.append(
                centre
                + rng.normal(size=(n, D))
                + np.outer(y, truth * AXES[0] + mixed * p * AXES[2])
                + polarity * p * AXES[1]
            )
            label.append(here), dataset.append(np.full(n, 2 * topic + neg)), negated.append(np.full(n, neg))
            twin.append(np.full(n, -1) if neg else n * (2 * topic + 1) + np.arange(n))
    return Activations(np.concatenate(x), *map(np.concatenate, (label, dataset, negated, twin)))


@pytest.mark.parametrize("probe", list(PROBES))
def test_a_planted_direction_is_found_and_tells_new_data_apart(probe: str) -> None:
    fitted = PROBES[probe](planted(), 0)
    cosine = fitted.direction[0] / np.linalg.norm(fitted.direction)
    assert cosine > 0.9
    new = planted(seed=1)
    assert ((fitted.score(new) > 0) == new.label).mean() > 0.97
    noise = planted(seed=1, truth=0.0)
    assert 0.35 < ((PROBES[probe](planted(truth=0.0), 0).score(noise) > 0) == noise.label).mean() < 0.65


@pytest.mark.parametrize("probe", ["mass-mean", "logistic regression", "CCS"])
def test_where_a_data_set_lies_makes_no_difference(probe: str) -> None:
    data = planted()
    moved = Activations(data.x + 7 * AXES[8] * data.dataset[:, None], data.label, data.dataset, data.negated, data.twin)
    fitted = PROBES[probe](data, 0)
    np.testing.assert_allclose(fitted.score(moved), fitted.score(data), atol=1e-9)


def test_ttpd_parts_truth_from_what_depends_on_polarity() -> None:
    """Its truth direction is the first axis though y p lies along the third, as the least squares of its definition."""
    data = planted(n=400, mixed=3.0)
    fitted = ttpd(data)
    y, p = np.where(data.label, 1.0, -1.0), np.where(data.negated, -1.0, 1.0)
    design = np.stack([y, y * p], 1)
    wanted = (np.linalg.inv(design.T @ design) @ design.T @ data.centred)[0]
    np.testing.assert_allclose(fitted.direction, wanted / np.linalg.norm(wanted), atol=1e-9)
    assert abs(fitted.direction[2]) < 0.1 and abs(fitted.polarity[1]) > 0.8
    affirmative = data[~data.negated]
    assert abs(mass_mean(affirmative).direction[2]) > 2  # of affirmative statements alone both are one direction
    with pytest.raises(HarnessError, match="TTPD needs statements and negated ones"):
        ttpd(affirmative)


def test_ccs_asks_for_negations_and_uses_labels_for_its_sign_alone() -> None:
    data = planted()
    with pytest.raises(HarnessError, match="CCS needs statements with their negations"):
        ccs(data[~data.negated])
    turned = Activations(data.x, ~data.label, data.dataset, data.negated, data.twin)
    rng = np.random.default_rng(0)
    shuffled = Activations(data.x, rng.permutation(data.label), data.dataset, data.negated, data.twin)
    directions = [ccs(x).direction for x in (data, turned, shuffled)]
    np.testing.assert_allclose(directions[1], -directions[0])
    np.testing.assert_allclose(np.abs(directions[2]), np.abs(directions[0]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_gradient_of_ccs_is_that_of_its_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, pair, step = rng.normal(size=D + 1), rng.normal(size=(2, 9, D)), rng.normal(size=D + 1)
    slope = (ccs_loss(at + 1e-6 * step, pair)[0] - ccs_loss(at - 1e-6 * step, pair)[0]) / 2e-6
    assert ccs_loss(at, pair)[1] @ step == pytest.approx(slope, rel=1e-3, abs=1e-5)
    p, other = (1 / (1 + np.exp(-(pair[i] @ at[:-1] + at[-1]))) for i in (0, 1))
    wanted = np.mean((p - (1 - other)) ** 2 + np.minimum(p, other) ** 2) + 0.01 * (at[:-1] ** 2).sum()
    assert ccs_loss(at, pair)[0] == pytest.approx(wanted)


def test_a_part_keeps_the_twins_that_are_in_it() -> None:
    data = planted(n=3)
    rows = np.array([False, True, True, True, False, True, *[True] * 6])
    part = data[rows]
    assert part.twin[:3].tolist() == [-1, 3, -1]  # of statements 1, 2 and 3: the negation of 1 is left out
    for i in np.flatnonzero(part.twin >= 0):
        np.testing.assert_array_equal(part.x[part.twin[i]], data.x[data.twin[np.flatnonzero(rows)[i]]])


# -- data sets ---------------------------------------------------------------------------------------------------------


def tables(folder: Path) -> list[str]:
    """Two data sets, one with its negation, whose true statements end in one letter and false ones in another."""
    made = {
        "cities": [(f"the city {i} is in {'x' if i % 2 else 'y'}.", i % 2) for i in range(12)],
        "neg_cities": [(f"the city {i} is not in {'x' if i % 2 else 'y'}.", 1 - i % 2) for i in range(12)],
        "words": [(f"the word {i} means {'x' if i % 3 else 'y'}.", int(i % 3 > 0)) for i in range(12)],
    }
    for name, rows in made.items():
        text = "statement,label\n" + "".join(f"{statement},{label}\n" for statement, label in rows)
        (folder / f"{name}.csv").write_text(text)
    return [str(folder / f"{name}.csv") for name in made]


def test_data_sets_are_files_and_negations_are_of_one_group(tmp_path: Path) -> None:
    data = load_truth(tables(tmp_path))
    assert data.names == ("cities", "neg_cities", "words") and list(data.families) == ["cities", "words"]
    assert data.families["cities"].sum() == 24 and (data.negated == (data.dataset == 1)).all()
    assert data.twin[:12].tolist() == list(range(12, 24)) and (data.twin[12:] == -1).all()
    assert (data.group[12:24] == data.group[:12]).all() and len(np.unique(data.group)) == 24
    assert set(input_digests(Settings(truthfulness=tuple(tables(tmp_path))), None)) == {
        "truthfulness cities", "truthfulness neg_cities", "truthfulness words",
    }  # fmt: skip


def test_wrong_data_sets_are_refused(tmp_path: Path) -> None:
    cities, negated, words = tables(tmp_path)
    with pytest.raises(HarnessError, match=r"two files are called cities\.csv"):
        load_truth([cities, cities])
    Path(negated).write_text(Path(cities).read_text())
    with pytest.raises(HarnessError, match="neg_cities does not negate cities row by row"):
        load_truth([cities, negated])
    Path(words).write_text("statement,label\na,1\n")
    with pytest.raises(HarnessError, match="expected true statements and false ones"):
        load_truth([words])


def test_probes_of_a_model_in_its_copy_are_its_own(tmp_path: Path) -> None:
    """Known: with two equal models every transfer is in-domain, and every cosine is 1."""
    model = tiny_model("llama")
    contexts = [SelectionContext(x, ClosedFormEngine(x), [], 0) for x in (model, copy.deepcopy(model))]
    data = load_truth(tables(tmp_path))
    section = probing_section(data, contexts, 0, 100)
    numbers = section.numbers
    by_cell: dict[tuple[str, ...], set[float]] = {}
    for row in numbers["accuracy"]:
        by_cell.setdefault((row["probe"], row["tested on"], row["trained on"]), set()).add(row["accuracy"])
    assert all(len(values) == 1 for values in by_cell.values())
    assert all(row["difference"] == 0 for row in numbers["transfer"])
    assert all(row["cosine"] == pytest.approx(1) for row in numbers["cosines"])
    assert len(numbers["sweep"]) == 4 * 2 * model.anatomy.n_layers
    # CCS and TTPD can be trained on the cities alone: on words neither with the others held out nor in their half
    assert {name: len(why) for name, why in numbers["left_out"].items()} == {"CCS": 2, "TTPD": 2}
    assert any("Left out 2 trainings of 4" in sentence for sentence in section.sentences)
    check_shown(section.figures, "probes")
    with pytest.raises(HarnessError, match="name two --truthfulness or more"):
        probing_section(load_truth(tables(tmp_path)[:2]), contexts, 0, 100)
