"""``harness arena``: rows are made of ordinary runs, by one command each, and submitted rows are validated."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from harness_plugins.planted.build import places

from harness.errors import HarnessError
from harness.files.terminal import Terminal
from harness.report import arena as board
from harness.results.arena import read
from harness.results.folder import read_record
from harness.running.contest import listed

ASKED = (
    "--selectors", "random:layer=3,gradient_activation,lape:active=0.9999", "--models", "planted:seed=1",
    "--limit", "30", "--controls", "19", "--resamples", "100", "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.cli import arena as command

    folder = tmp_path_factory.mktemp("arena")
    options = {name[2:]: value for name, value in zip(ASKED[:-1:2], ASKED[1:-1:2], strict=True)}
    numbers = {name: int(options.pop(name)) for name in ("limit", "controls", "resamples")}
    command.arena(**options, **numbers, output_path=folder, quiet=True)
    return folder / "arena"


def test_rows_are_made_of_ordinary_runs(arena):
    random, gradient, refused = read([arena / "arena.jsonl"])
    assert refused.refused and "no neuron passes its thresholds" in refused.refused and refused.effect is None
    records = {record.run_id: record for path in (arena / "runs").glob("*/") if (record := read_record(path))}
    for row in (random, gradient):
        assert [effect.seed for effect in row.effect.seeds] == [0, 1]
        for side in (row.effect, row.specificity):
            per_unit = []
            for effect in side.seeds:
                record = records[effect.run_id]
                measure = record.primary[0]
                assert measure.name == side.measure and record.identity.seed == effect.seed
                assert effect.units == [x.neuron for x in record.selection.neurons]
                assert effect.difference == pytest.approx(measure.value - measure.controls.mean)
                assert effect.p == measure.p_two_sided and effect.m == 19
                per_unit.append(effect.difference / len(effect.units))
            assert side.per_unit == pytest.approx(np.mean(per_unit))
        same = [a.units == b.units for a, b in zip(row.effect.seeds, row.specificity.seeds, strict=True)]
        assert same == [True, True]
    assert gradient.effect.p == pytest.approx(2 * np.mean([effect.p for effect in gradient.effect.seeds]))
    assert gradient.effect.high < 0 and not gradient.exploratory and random.halves is None


def test_discoveries_are_counted_by_what_was_planted(arena):
    _, gradient, _ = read([arena / "arena.jsonl"])
    planted = {f"{layer}.{index}": strength for (layer, index), strength in places(1, 3).answer.items()}
    chosen = [unit for effect in gradient.effect.seeds for unit in effect.units]
    true = sum(unit in planted for unit in chosen)
    found = gradient.discoveries
    assert (found.chosen, found.true, found.planted) == (len(chosen), true, 2 * len(planted))
    assert found.fdr == pytest.approx(1 - true / len(chosen)) and found.recall == pytest.approx(true / 24)
    strong = next(level for level in found.levels if level.strength == 0.4)
    assert (strong.found, strong.planted) == (6, 6) and found.p < 0.001
    assert gradient.halves.iou > gradient.halves.expected and gradient.across_seeds.pairs == 1


def test_selectors_of_heads_are_judged_by_planted_heads_alone(tmp_path):
    from harness.cli import arena as command

    asked = {"models": "planted:seed=1,units=heads", "limit": 20, "controls": 19, "resamples": 100, "seeds": 1}
    for selector, intervention in (("value_heads", "bos_attention"), ("random", "zero")):
        command.arena(
            selectors=selector, intervention=intervention, **asked, output_path=tmp_path / selector, quiet=True
        )
    (heads,), (neurons,) = (read([tmp_path / name / "arena" / "arena.jsonl"]) for name in ("value_heads", "random"))
    planted = {f"L{layer}H{index}": strength for (layer, index), strength in places(1, 3, "heads").answer.items()}
    (chosen,) = (effect.units for effect in heads.effect.seeds)
    found = heads.discoveries
    assert (found.chosen, found.true, found.planted) == (10, sum(unit in planted for unit in chosen), 12)
    assert {level.strength: level.found for level in found.levels}[0.4] == 3
    assert found.p < 0.001 and heads.effect.high < 0
    assert neurons.discoveries is None and "no neuron is planted: discoveries are not counted" in neurons.remarks


def test_a_rows_command_makes_the_row(arena, harness, tmp_path):
    _, gradient, _ = (arena / "arena.jsonl").read_text().splitlines()
    words = shlex.split(json.loads(gradient)["command"])
    code, out, _ = harness(*words[1:], "--output_path", tmp_path, "--quiet")
    assert code == 0 and "gradient_activation" in out
    assert (tmp_path / "arena" / "arena.jsonl").read_text().splitlines() == [gradient]


def test_the_board_is_shown_in_every_format(arena, harness):
    file = arena / "arena.jsonl"
    _, table, _ = harness("leaderboard", "--arena", file)
    assert "planted:seed=1, planted_answer" in table and "Lape:active=0.9999 on planted:seed=1" in table
    _, page, _ = harness("leaderboard", "--arena", file, "--format", "html")
    assert page == (arena / "arena.html").read_text().replace("harness arena</p>", f"{file}</p>", 1)
    _, text, _ = harness("leaderboard", "--arena", file, "--format", "markdown")
    assert "| gradient\\_activation | 10 |" in text and "harness arena --selectors" in text
    _, rows, _ = harness("leaderboard", "--arena", file, "--format", "json")
    assert [row["selector"] for row in json.loads(rows)][1] == "gradient_activation"
    assert (arena / "figures" / "power.csv").read_text().startswith("selector,strength,found,planted")


def test_a_terminal_breaks_no_number():
    rows, shown = read([ROOT / "reports" / "reference" / "arena" / "arena.jsonl"]), io.StringIO()
    board.show(Terminal(file=shown, width=120), rows)
    words = set(shown.getvalue().split())
    for line in board.lines(rows):
        assert set(" ".join(line[2:]).split()) <= words, line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"effect": None}, "expected either refused, with the reason, or effect"),
        ({"selector": "mine"}, "row_id does not belong to what the row says was asked"),
        ({"schema_version": 7}, "expected schema_version 1, got 7"),
        ({"n_units": "ten"}, "n_units: input should be a valid number, got 'ten'"),
    ],
)
def test_rows_that_are_none_are_refused(arena, harness, tmp_path, change, said):
    first, second, _ = (arena / "arena.jsonl").read_text().splitlines()
    path = tmp_path / "theirs.jsonl"
    path.write_text(f"{first}\n{json.dumps(json.loads(second) | change)}\n")
    code, _, err = harness("leaderboard", "--arena", path)
    assert code == 2 and said in err and "theirs.jsonl, line 2" in err.replace("\n", " ")


def test_selectors_are_listed_with_their_parameters():
    assert listed("entropy:top=6,null_dims=12,lape", "x") == ["entropy:top=6,null_dims=12", "lape"]
    assert listed('lape:data="a,b.jsonl",top=3, neurons:neurons=[1.2,3.4]', "x")[1] == "neurons:neurons=[1.2,3.4]"
    with pytest.raises(HarnessError, match="name one or more"):
        listed(" , ", "--selectors")


def test_what_is_not_there_is_said_before_anything_is_run(harness):
    code, _, err = harness("arena", "--selectors", "gradient_activations")
    assert code == 2 and 'Did you mean "gradient_activation"' in err
