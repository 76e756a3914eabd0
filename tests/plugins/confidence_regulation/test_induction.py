"""The induction tasks: n-gram filters, where edits act, every number against the slow implementation, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from against_slow import induction_agrees
from harness_plugins.confidence_regulation.metrics import curves
from harness_plugins.confidence_regulation.tasks.natural_induction import repeated_ngrams
from harness_plugins.demo import Demo
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file as load_arrays
from slow_confidence import repeated
from small_runs import all_finite, finish, measures, prompts, record, samples, table

from harness.errors import HarnessError
from harness.model.model import Model
from harness.plugin.records import Series

SYNTHETIC: dict[str, Any] = {
    "task": "induction_synthetic:sequences=4,length=24",
    "selector": "neurons:neurons=3.7+3.300+3.41",
    "intervention": "clip_mean",
    "controls": 9,
}
NATURAL = SYNTHETIC | {"task": "induction_natural:candidates=80,length=120,ngram=4,sequences=5"}


@pytest.fixture(scope="module")
def model() -> Model:
    return Demo().load()


@pytest.fixture(scope="module", params=[SYNTHETIC, NATURAL], ids=["synthetic", "natural"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A complete run, figures and all, and what was asked for."""
    return finish(tmp_path_factory.mktemp("runs"), draw=True, **request.param), request.param


# -- n-grams -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(2, 5))
def test_repeated_ngrams_are_those_of_comparing_all_places(tokens: list[int], n: int) -> None:
    assert repeated_ngrams(tokens, n) == repeated(tokens, n)


@given(st.lists(st.integers(0, 300), min_size=6, max_size=6, unique=True), st.integers(0, 4), st.integers(0, 4))
def test_a_planted_ngram_is_found(gram: list[int], between: int, behind: int) -> None:
    """Two tokens must follow it, one must stand between."""
    tokens = [*gram, *range(1000, 1000 + between), *gram, *range(2000, 2000 + behind)]
    found = repeated_ngrams(tokens, 6)
    assert found["distinct"] == ([(0, 6 + between)] if behind >= 2 else [])
    assert found["apart"] == ([(0, 6 + between)] if behind >= 2 and between >= 1 else [])


def test_a_third_occurrence_is_one_too_many() -> None:
    gram = [1, 2, 3]
    assert repeated_ngrams([*gram, 9, *gram, 8, 7], 3)["apart"] == [(0, 4)]
    assert repeated_ngrams([*gram, 9, *gram, 8, *gram, 7, 6], 3)["repeat"] == []


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_the_prompts_are_what_the_steps_say(made: tuple[Path, dict[str, Any]]) -> None:
    folder, asked = made
    steps = {step["name"]: step for step in record(folder)["task"]["steps"]}
    for row in samples(folder):
        tokens, begin, split = row["input_ids"], row["begin"], row["split"]
        if asked is SYNTHETIC:
            assert tokens[begin:split] == tokens[split:] and split - begin == 24
            continue
        first = row["first"]
        assert len(tokens) == split + 4 + 2
        gram = tokens[split : split + 4]
        assert tokens[first : first + 4] == gram and len(set(gram)) == 4 and split > first + 4
        places = [i for i in range(begin, len(tokens) - 3) if tokens[i : i + 4] == gram]
        assert places == [first, split]
    if asked is NATURAL:
        survivors = [steps[name]["kept"] for name in ("sequences", "repeat", "distinct", "apart", "wanted")]
        assert survivors == sorted(survivors, reverse=True) and survivors[-1] == 5
        assert all(steps[b]["dropped"] == steps[a]["kept"] - steps[b]["kept"]
                   for a, b in (("sequences", "repeat"), ("repeat", "distinct"), ("distinct", "apart")))  # fmt: skip


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_they_are_those_of_the_definitions(made: tuple[Path, dict[str, Any]], model: Model) -> None:
    folder, asked = made
    induction_agrees(folder, model.hf, None if asked is SYNTHETIC else 4)


@pytest.mark.parametrize("neurons", ["1.5+1.60+1.300", "0.3+2.7+3.9"])
@pytest.mark.parametrize("task", [SYNTHETIC, NATURAL], ids=["synthetic", "natural"])
def test_earlier_layers_act_from_the_repeat_on(
    task: dict[str, Any], neurons: str, model: Model, tmp_path: Path
) -> None:
    """Keys and values of the first occurrence are untouched, which the slow implementation knows by itself."""
    folder = finish(tmp_path, **task | {"selector": f"neurons:neurons={neurons}", "controls": 2})
    induction_agrees(folder, model.hf, None if task is SYNTHETIC else 4)


def test_nothing_moves_before_the_repeat(made: tuple[Path, dict[str, Any]]) -> None:
    folder, asked = made
    entropy = load_arrays(folder / "outcomes.safetensors")["series entropy"]  # [baseline, treated, each alone]
    split = 24 + 1 if asked is SYNTHETIC else 5  # the token at the split is predicted before it
    early, late = entropy[..., :split], entropy[..., split:]
    np.testing.assert_array_equal(*np.broadcast_arrays(early, early[:1]))
    assert np.nanmax(np.abs(late[1] - late[0])) > 1e-4


def test_one_neuron_alone_is_the_same_as_a_run_of_it(tmp_path: Path, made: tuple[Path, dict[str, Any]]) -> None:
    folder, asked = made
    each = table(folder, "neurons")
    assert each["neuron"].tolist() == ["3.7", "3.300", "3.41"]
    single = measures(finish(tmp_path, **asked | {"selector": "neurons:neurons=3.300", "controls": 2}))
    for name in ("entropy_change", "loss_change"):
        assert each[name][1] == pytest.approx(single[name]["value"], abs=1e-6)


def test_curves_of_a_single_prompt_have_no_error() -> None:
    """Positions that fewer prompts have than two are left out, unless there is but one prompt."""
    values = np.array([[[np.nan, 1.0, 2.0, 5.0], [np.nan, 3.0, 6.0, np.nan]]], np.float32)
    position, rows = curves(Series(("baseline",), values))
    mean, error = rows["baseline"]
    assert (position.tolist(), mean.tolist()) == ([1, 2], [2.0, 4.0])
    np.testing.assert_allclose(error, [np.std([1, 3], ddof=1) / 2**0.5, np.std([2, 6], ddof=1) / 2**0.5])
    position, rows = curves(Series(("baseline",), values[:, :1]))
    assert position.tolist() == [1, 2, 3] and rows["baseline"][0].tolist() == [1.0, 2.0, 5.0]
    assert np.isnan(rows["baseline"][1]).all()


# -- runs --------------------------------------------------------------------------------------------------------------


def test_every_number_is_finite_and_every_file_is_there(made: tuple[Path, dict[str, Any]]) -> None:
    folder, asked = made
    found = record(folder)
    assert all_finite(found)
    assert all(row["value"] is not None for row in found["measures"])
    names = {figure["name"] for figure in found["figures"]}
    wanted = {"entropy_by_position", "activation_curves", "by_position"}
    assert names >= (wanted if asked is SYNTHETIC else {"natural_entropy", "natural_activation"})
    for name in names:
        assert all((folder / "figures" / f"{name}.{x}").stat().st_size > 200 for x in ("png", "svg", "csv"))
    for frame in found["frames"]:
        assert (folder / "tables" / f"{frame['name']}.csv").is_file()


def test_the_same_command_gives_the_same_bytes_and_a_limit_fewer_prompts(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, asked = made
    again, few = finish(tmp_path, **asked), finish(tmp_path, **asked, limit=1)
    for name in ("result.json", "samples.jsonl", "outcomes.safetensors", "tables/neurons.csv"):
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    assert prompts(few) == prompts(folder)[:1]
    assert all_finite(record(few))


def test_one_surviving_sequence_can_be_drawn(tmp_path: Path) -> None:
    folder = finish(tmp_path, draw=True, **NATURAL, limit=1)
    assert (folder / "figures" / "natural_entropy.png").is_file()


def test_both_engines_agree(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, asked = made
    hooked = measures(finish(tmp_path, **asked | {"controls": 2, "engine": "hooks"}))
    for name, row in measures(folder).items():
        # A share of squared changes: what rounding leaves of small ones is divided by them.
        allowed = 2e-3 if row["unit"] == "%" or name.endswith("_explained") else 2e-5
        assert hooked[name]["value"] == pytest.approx(row["value"], abs=allowed), name


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"task": "induction_natural:candidates=20,length=64,ngram=30"}, "none of 20 sequences .*; raise candidates"),
        ({"task": "induction_synthetic:sequences=4,corpus={name: world, size: 4}"}, "fewer than the 100|no docu"),
        ({"selector": "heads:heads=L1H1"}, "clip_mean edits neurons, but the selector heads chooses heads"),
        ({"metrics": ("mediation",)}, '--metric: mediation needs "changed", which the task induction_synth'),
        ({"selector": "neurons:neurons=1.5", "intervention": "mean:frozen=final_norm"}, "edits of what the last layer"),
        ({"intervention": "clip_mean:side=shift"}, "side=shift needs a selector that measures shifts"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_sentence(asked: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=says) as caught:
        finish(tmp_path, **SYNTHETIC | {"controls": 2} | asked)
    assert "\n" not in str(caught.value)
