"""The tasks over plain text, from the command to the files: the bundled model, few sequences, few controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted as garden
import pytest
from against_slow import correlation_agrees, counted, frequencies, mediation_agrees
from harness_plugins.confidence_regulation.tasks import mediation
from harness_plugins.demo import Demo
from harness_plugins.demo.corpus import WorldTexts
from safetensors.numpy import load_file as load_arrays
from small_runs import all_finite, finish, measures, prompts, record, samples, table

from harness.errors import HarnessError
from harness.model.model import Model
from harness.results.folder import MARK, RunFolder
from harness.running import execute as run

MEDIATION: dict[str, Any] = {
    "task": "mediation:frequency=true,sequences=4,length=40,others=3",
    "selector": "entropy:top=3",
    "intervention": "mean",
    "controls": 9,
}
UNIGRAM = MEDIATION | {
    "task": "unigram_entropy:sequences=4,length=40",
    "selector": "token_frequency:top=3,sequences=4,length=24",
}


@pytest.fixture(scope="module")
def model() -> Model:
    return Demo().load()


@pytest.fixture(scope="module", params=[MEDIATION, UNIGRAM], ids=["mediation", "unigram_entropy"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A complete run, figures and all, and what was asked for."""
    return finish(tmp_path_factory.mktemp("runs"), draw=True, **request.param), request.param


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run that is the same when the run is made again."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "provenance.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# -- what a run leaves -------------------------------------------------------------------------------------------------


def test_every_number_is_finite_and_every_file_is_there(made: tuple[Path, dict[str, Any]]) -> None:
    folder, asked = made
    found = record(folder)
    assert all_finite(found)
    assert found["task"]["n_prompts"] == 4 and found["controls"]["n"] == 9
    assert all(row["value"] is not None and row["p_two_sided"] is not None for row in found["measures"])
    arrays = load_arrays(folder / "outcomes.safetensors")
    assert all(np.isfinite(array).all() for name, array in arrays.items() if not name.startswith("series"))
    names = [figure["name"] for figure in found["figures"]]
    wanted = {"singular_values", "total_direct", "total_direct_frequency", "frequency_kl", "reliability", "by_position"}
    assert set(names) >= (wanted if asked is MEDIATION else {"entropy_kl", "kl_entropy_changes"})
    for name in names:
        files = [folder / "figures" / f"{name}.{ending}" for ending in ("png", "svg", "csv")]
        assert all(file.stat().st_size > 200 for file in files), name
    for frame in found["frames"]:
        lines = (folder / "tables" / f"{frame['name']}.csv").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 + frame["n"] > 1
    assert found["task"]["details"]["tokens"] == counted(prompts(folder), Demo().load().tokenizer)


def test_the_same_command_gives_the_same_bytes(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, asked = made
    again = finish(tmp_path, **asked)
    first, second = contents(folder), contents(again)
    drawn = [line for line in first.pop(MARK).splitlines() if b"  figures/" not in line]
    assert second.pop(MARK).splitlines() == drawn
    assert set(second) == {name for name in first if not name.startswith("figures/")}
    assert all(first[name] == second[name] for name in second)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PART", 2)
    whole = finish(tmp_path / "whole", **MEDIATION)
    save, seen = RunFolder.save_part, []

    def interrupted(self: RunFolder, start: int, part: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        save(self, start, part)
        seen.append(start)

    monkeypatch.setattr(RunFolder, "save_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path / "cut", **MEDIATION)
    resumed: list[int] = []
    monkeypatch.setattr(
        RunFolder, "save_part", lambda self, start, part: (resumed.append(start), save(self, start, part))
    )
    continued = finish(tmp_path / "cut", **MEDIATION)
    assert (seen, resumed) == ([0], [2])
    assert contents(continued) == contents(whole)


def test_a_limit_takes_the_first_sequences(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, asked = made
    few = finish(tmp_path, **asked, limit=2)
    assert prompts(few) == prompts(folder)[:2]
    for mine, theirs in zip(samples(few), samples(folder), strict=False):
        assert mine["entropy" if asked is MEDIATION else "tokens"] == pytest.approx(
            theirs["entropy" if asked is MEDIATION else "tokens"], abs=1e-4
        )


def test_small_memory_gives_the_same_numbers(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = made
    monkeypatch.setattr(mediation, "CELLS", 1)  # one prompt at a time
    parts, whole = measures(finish(tmp_path, **asked)), measures(folder)
    for name, row in whole.items():
        assert parts[name]["value"] == pytest.approx(row["value"], abs=2e-5), name


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_they_are_those_of_the_definitions(made: tuple[Path, dict[str, Any]], model: Model) -> None:
    folder, asked = made
    p_freq = frequencies(model.tokenizer, list(WorldTexts().documents()), model.anatomy.d_vocab)
    agree = mediation_agrees if asked is MEDIATION else correlation_agrees
    agree(folder, model.hf, model.tokenizer, p_freq)


def test_of_the_whole_layer_or_some_of_it(tmp_path: Path, model: Model) -> None:
    """``others`` neurons beside the selected, the same ones again; and the quick method is close."""
    task = "mediation:sequences=2,length=24,others={},method={}"
    common = MEDIATION | {"controls": 2}
    exact, fast, none = (
        table(finish(tmp_path, **common | {"task": task.format(*x)}), "neurons")
        for x in ((40, "exact"), (40, "fast"), (0, "exact"))
    )
    assert exact["neuron"].tolist() == fast["neuron"].tolist() and len(set(exact["neuron"])) == 43
    assert exact["neuron"][:3].tolist() == none["neuron"].tolist() and none["selected"].all()
    for name in ("total_effect", "direct_effect", "entropy_change"):
        np.testing.assert_allclose(fast[name], exact[name], atol=1e-4)
    task = mediation.Mediation.model_validate({"corpus": "world"})
    from harness.conditions.conditions import Selection
    from harness.conditions.units import Neuron

    chosen = (Neuron(3, 5), Neuron(3, 2))
    alone = task.alone(Selection(chosen, "by hand"), model)
    assert list(alone[:2]) == [(chosen[0],), (chosen[1],)] and len({units[0] for units in alone}) == 512


# -- what cannot be --------------------------------------------------------------------------------------------------


M, U = "mediation:sequences=4,length=32,others=0", "unigram_entropy:sequences=2,length=32"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"selector": "neurons:neurons=1.5"}, r"--selector: the task mediation .* last layer \(3\); 1.5 is none"),
        ({"selector": "neurons:neurons=3.7+1.5"}, r"1.5 is none"),
        ({"selector": "heads:heads=L3H1"}, "--intervention: mean edits neurons, but the selector heads chooses heads"),
        ({"selector": "heads:heads=L3H1", "intervention": "bos_attention"}, "last layer .*; L3H1 is none"),
        ({"engine": "hooks"}, "task mediation: .* closed form; leave --engine hooks out"),
        ({"intervention": "mean:frozen=final_norm"}, "--intervention: the task mediation .* leave frozen out"),
        ({"task": M.replace("32", "250") + ",corpus={tiny}"}, "fewer than the 250 tokens of one sequence; ask for"),
        ({"task": M + ",corpus={tiny},across_documents=false"}, "no document .* is long enough for 32 tokens"),
        ({"task": M + ",skip_first=31"}, "no token is left"),
        ({"task": M + ",unigram=nowhere.npy"}, "nowhere.npy"),
        ({"task": "mediation:lenght=3"}, 'no parameter "lenght". Did you mean "length"'),
        ({"task": U, "metrics": ("by_position",)}, 'by_position needs "series loss", which the task'),
        ({"task": U, "metrics": ("mediation",)}, 'mediation needs "changed", which the task'),
        ({"task": U, "engine": "hooks"}, "task unigram_entropy: .* closed form"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_sentence(asked: dict[str, Any], says: str, tmp_path: Path) -> None:
    tiny = garden.write_corpus(tmp_path, ["a few words only .", "and a few more", "so it goes on"] * 2)
    given = {"task": M, "selector": "entropy:top=3", "intervention": "mean", "controls": 2} | asked
    given["task"] = given["task"].replace("{tiny}", tiny)
    with pytest.raises(HarnessError, match=says) as caught:
        finish(tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*/result.json"))
