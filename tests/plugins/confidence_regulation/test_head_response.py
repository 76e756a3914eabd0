"""The response of neurons to the ablation of heads, against plain forward hooks on modules named by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny_hf, tokenizer
from harness_plugins.confidence_regulation.tasks import head_response
from harness_plugins.confidence_regulation.tasks.head_response import HeadNeuronInteraction, HeadResponse, sets_of
from harness_plugins.confidence_regulation.tasks.plain_text import prompt_of
from hypothesis import given, settings
from hypothesis import strategies as st
from roles import conditions

from harness.conditions.conditions import BASELINE, Condition, Selection
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.conditions.units import Head, Neuron
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin import Selector
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext
from harness.plugin.records import Alone, Outcomes, Prompt, Series
from harness.plugin.specs import parse_spec
from harness.statistics import derive_seed


@pytest.fixture(scope="module")
def demo() -> Model:
    return catalogue().components["model"]["demo"]().load()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def llama() -> Model:
    """Three layers of four heads of width 8; a prompt begins with <s>."""
    return wrap(tiny_hf("llama"), tokenizer(bos=True), "llama")


def task(**given: Any) -> HeadNeuronInteraction:
    return HeadNeuronInteraction.model_validate({"corpus": "world", **given})


# -- which heads are ablated -------------------------------------------------------------------------------------------


def selected(*heads: Head, pool: Sequence[Head] | None = ()) -> Selection:
    return Selection(tuple(heads), rule="", pool=None if pool is None else tuple(pool))


def test_every_proper_subset_of_three_heads(llama: Model) -> None:
    a, b, c = Head(1, 2), Head(0, 1), Head(1, 0)
    assert task().alone(selected(a, b, c), llama) == [(a,), (b,), (c,), (a, b), (a, c), (b, c)]
    assert task().alone(selected(a, b), llama) == [(a,), (b,)]
    assert task().alone(selected(a), llama) == []


@given(st.integers(1, 9))
def test_subsets_are_proper_distinct_and_few(llama: Model, n: int) -> None:
    heads = [Head(i // 4, i % 4) for i in range(n)]
    sets = task().alone(selected(*heads), llama)
    assert len(set(sets)) == len(sets)
    assert all(0 < len(x) < n and set(x) < set(heads) for x in sets)
    singles = [x for x in sets if len(x) == 1]
    assert singles == ([(x,) for x in heads] if n > 1 else [])
    assert len(sets) == (2**n - 2 if n <= 3 else 2 * n - 2)


def test_baseline_heads_stand_beside_every_smaller_size(llama: Model) -> None:
    chosen, pool = (Head(2, 0), Head(2, 1), Head(1, 0)), (Head(0, 0), Head(0, 1), Head(0, 3))
    sets = task(baselines=2).alone(selected(*chosen, pool=pool), llama)
    beside = [x for x in sets if not set(x) <= set(chosen)]
    assert [len(x) for x in beside] == [1, 1, 2, 2] and len(set(beside)) == 4
    assert all(set(x) <= set(pool) for x in beside)
    assert task(baselines=2).alone(selected(*chosen, pool=pool), llama) == sets
    # The pool holds no more than three of one, and three pairs.
    assert len(task(baselines=50).alone(selected(*chosen, pool=pool), llama)) == 6 + 3 + 3
    assert len(task(baselines=0).alone(selected(*chosen, pool=pool), llama)) == 6


def test_neurons_are_refused(llama: Model) -> None:
    with pytest.raises(HarnessError, match=r"head_neuron_interaction ablates heads, .* choose induction_heads"):
        task().alone(Selection((Neuron(1, 1),), rule=""), llama)


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_prompts_are_spans_twice_behind_one_bos(llama: Model) -> None:
    job = task(length=9, neurons="neurons:neurons=[2.5,1.0]")
    prepared = job.prepare(ClosedFormEngine(llama), 4, seed=1)
    assert len(prepared.prompts) == 4 and prepared.details["watched"] == ["2.5", "1.0"]
    for prompt in prepared.prompts:
        assert prompt.tokens[:1] == llama.prefix
        assert prompt.tokens[1:10] == prompt.tokens[10:] and prompt.fields["split"] == 10
        assert llama.prefix[0] not in prompt.tokens[1:]
    assert job.prepare(ClosedFormEngine(llama), 4, seed=1) == prepared
    assert job.reference(prepared.prompts, "heads") == [(10, 19)] * 4
    assert job.reference(prepared.prompts, "neurons") is None
    # 64 positions: <s> and twice 31 tokens.
    long = task(length=50, neurons="random").prepare(ClosedFormEngine(llama), 2, seed=1)
    assert len(long.prompts[0].tokens) == 63
    assert any("spans of 31 tokens" in x.why and "50 were asked for, but llama has 64" in x.why for x in long.steps)


ENTROPY = "entropy:top=4,corpus=world"


def test_the_watched_neurons_are_those_of_the_selector(demo: Model) -> None:
    prepared = task(length=8, neurons=ENTROPY).prepare(ClosedFormEngine(demo), 2, seed=0)
    entropy = catalogue().build(Selector, parse_spec(ENTROPY, ""), "")
    seed = derive_seed(0, "watched neurons")  # draws the texts on which candidates are confirmed
    chosen = entropy.select(SelectionContext(demo, ClosedFormEngine(demo), [], seed))  # type: ignore[attr-defined]
    assert prepared.details["watched"] == list(map(str, chosen.units))
    assert prepared.details["watched_rule"] == chosen.rule


def test_heads_cannot_be_watched(demo: Model) -> None:
    job = task(length=8, neurons="induction_heads:sequences=2,length=5")
    with pytest.raises(HarnessError, match="neurons=induction_heads selects heads, expected neurons"):
        job.prepare(ClosedFormEngine(demo), 2, seed=0)


# -- observing ---------------------------------------------------------------------------------------------------------

NEURONS = ("2.5", "1.0", "0.3")
PROMPTS = [(257, 7, 8, 9, 10, 7, 8, 9, 10), (257, 30, 41, 30, 41)]
SPLITS = (5, 3)


@torch.no_grad()
def slowly(hf: Any, ids: Sequence[int], split: int, heads: dict[tuple[int, int], torch.Tensor | None]) -> list[float]:
    """Mean activations over the second copy; a head's output becomes a vector, or what it is at the first token."""

    def ablate(layer: int) -> Any:
        def hook(module: Any, args: Any) -> Any:
            x = args[0].clone()
            for (at, head), value in heads.items():
                if at == layer:
                    columns = slice(8 * head, 8 * head + 8)
                    x[0, :, columns] = x[0, 0, columns] if value is None else value
            return (x,)

        return hook

    seen: dict[int, torch.Tensor] = {}
    handles = []
    for i, layer in enumerate(hf.model.layers):
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(ablate(i)))
        handles.append(
            layer.mlp.down_proj.register_forward_pre_hook(lambda module, args, i=i: seen.__setitem__(i, args[0][0]))
        )
    hf(torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    watched = [Neuron.parse(x) for x in NEURONS]
    return [float(seen[x.layer][split:, x.index].double().mean()) for x in watched]


def test_activations_are_those_of_the_slow_account(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    value = torch.linspace(-1, 1, 8)
    conditions = [
        BASELINE,
        Condition("treated", (AttendFirst(0, (1, 2)), AttendFirst(1, (3,)))),
        Condition("control-0000", (AttendFirst(1, (0,)),), role="control"),
        Condition("alone-00000", (SetHeads(1, (2,), (tuple(value.tolist()),)),), role="alone"),
    ]
    ablated: list[dict[tuple[int, int], torch.Tensor | None]] = [
        {}, {(0, 1): None, (0, 2): None, (1, 3): None}, {(1, 0): None}, {(1, 2): value}
    ]  # fmt: skip
    prompts = [
        prompt_of(llama, i, ids, split=split, watched=list(NEURONS))
        for i, (ids, split) in enumerate(zip(PROMPTS, SPLITS, strict=True))
    ]
    told: list[int] = []
    found = task().observe(ClosedFormEngine(llama), prompts, conditions, told.append)
    assert sum(told) == len(prompts) * len(conditions)
    for c, heads in enumerate(ablated):
        for i, (ids, split) in enumerate(zip(PROMPTS, SPLITS, strict=True)):
            got = [found[f"activation {x}"][c, i] for x in NEURONS]
            assert got == pytest.approx(slowly(llama.hf, ids, split, heads), rel=1e-4, abs=1e-6)
    # The neuron of layer 0 reads what head 0.1 wrote, but none of layer 1's.
    change = found["activation 0.3"] - found["activation 0.3"][:1]
    assert np.abs(change[1]).min() > 1e-4 and np.abs(change[2:]).max() < 1e-6
    curves = found.series["activation 2.5"]
    assert curves.rows == ("baseline", "treated") and curves.values.shape == (2, 2, 9)
    assert np.isnan(curves["treated"][1, 5:]).all()
    assert curves["treated"][1, 3:5].mean() == pytest.approx(found["activation 2.5"][1, 1], rel=1e-5)

    monkeypatch.setattr(head_response, "CELLS", 1)  # one condition at a time
    again = task().observe(ClosedFormEngine(llama), prompts, conditions)
    for name, values in found.values.items():
        np.testing.assert_array_equal(again[name], values)
    for name, series in found.series.items():
        np.testing.assert_array_equal(again.series[name].values, series.values)


# -- the metric --------------------------------------------------------------------------------------------------------


def made(n_controls: int = 3, n: int = 5) -> Outcomes:
    """Two neurons, one of which the treatment moves by +3 and one by -2; heads A, B are selected."""
    rng = np.random.default_rng(0)
    shape = (2 + n_controls, n)
    prompts = tuple(Prompt(str(i), "", (1,) * 8, str(i), {"split": 4, "watched": ["1.1", "1.2"]}) for i in range(n))
    curves = rng.standard_normal((2, 2, n, 8)).astype(np.float32)
    values = {}
    for k, neuron in enumerate(("1.1", "1.2")):
        base = curves[k, 0, :, 4:].mean(1, dtype=np.float64)
        moved = np.concatenate([[0.0], [(3.0, -2.0)[k]], rng.normal(0, 0.1, n_controls)])
        values[f"activation {neuron}"] = base + np.broadcast_to(moved[:, None], shape)
    units = ("L0H0", "L0H1", "L1H3", "L1H2")
    alone = Alone(units, {name: array[:1] + np.array([[1.0], [0.5], [0.25], [0.75]]) for name, array in values.items()})
    series = {f"activation {x}": Series(("baseline", "treated"), curves[k]) for k, x in enumerate(("1.1", "1.2"))}
    selection = Selection((Head(0, 0), Head(0, 1)), rule="")
    return Outcomes(conditions(n_controls), prompts, values, series=series, alone=alone, selection=selection)


def test_the_response_is_in_standard_deviations_of_each_neuron() -> None:
    outcomes = made()
    measures = {x.name: x for x in HeadResponse().measure(outcomes).measures}
    sd = [outcomes.series[f"activation {x}"].values[0, :, 4:].std(dtype=np.float64) for x in ("1.1", "1.2")]
    assert measures["head_response"].values[1] == pytest.approx((3 / sd[0] + 2 / sd[1]) / 2)
    assert measures["head_response_signed"].values[1] == pytest.approx((3 / sd[0] - 2 / sd[1]) / 2)
    assert measures["change_1.1"].values[1] == pytest.approx(3)
    assert measures["change_1.2"].values[1] == pytest.approx(-2)
    assert [x.name for x in measures.values() if x.primary] == ["head_response"]
    assert all(x.values[0] == 0 for x in measures.values())


@settings(max_examples=30)
@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_the_response_does_not_depend_on_a_neurons_scale_and_offset(scale: float, offset: float) -> None:
    outcomes = made()
    name = "activation 1.1"
    curves = outcomes.series[name]
    moved = replace(
        outcomes,
        values={**outcomes.values, name: scale * outcomes[name] + offset},
        series={**outcomes.series, name: Series(curves.rows, scale * curves.values.astype(np.float64) + offset)},
        alone=Alone(),
    )
    before, after = (HeadResponse().measure(x).measures[0].values for x in (outcomes, moved))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-9)


def test_dead_neurons_are_named_and_left_out() -> None:
    outcomes = made()
    for array in (outcomes.values["activation 1.2"], outcomes.series["activation 1.2"].values):
        array[...] = 0.1
    found = HeadResponse().measure(outcomes)
    assert found.remarks == ("constant, and left out of the response: 1.2",)
    assert found.measures[0].values[1] == pytest.approx(
        3 / outcomes.series["activation 1.1"].values[0, :, 4:].std(dtype=np.float64)
    )
    outcomes.series["activation 1.1"].values[...] = -0.17
    with pytest.raises(HarnessError, match=r"watched neurons \(1.1, 1.2\) have the same activation at every token"):
        HeadResponse().measure(outcomes)


def test_sets_stand_beside_as_many_baseline_heads() -> None:
    outcomes = made()
    sets = sets_of(outcomes, ["1.1", "1.2"])
    assert sets.heads == ("none", "L0H0", "L0H1", "L0H0+L0H1") and sets.sizes == (0, 1, 1, 2)
    change = sets.mean - sets.mean[:, :1]
    np.testing.assert_allclose(change, [[0, 1, 0.5, 3], [0, 1, 0.5, -2]], atol=1e-12)
    assert sets.n_baseline.tolist() == [0, 2, 2, 3]
    baseline = sets.baseline - sets.mean[:, :1]
    np.testing.assert_allclose(baseline[:, 1:3], 0.5)
    np.testing.assert_allclose(sets.baseline_sd[:, 1:3], 0.25)
    controls = (outcomes["activation 1.1"][2:] - outcomes["activation 1.1"][:1]).mean(1)
    assert baseline[0, 3] == pytest.approx(controls.mean()) and sets.baseline_sd[0, 3] == pytest.approx(controls.std())
    assert np.isnan(sets.baseline[:, 0]).all()
    table = HeadResponse().measure(outcomes).frames[0]
    assert {len(column) for column in table.columns.values()} == {8}
    row = list(zip(table.columns["neuron"], table.columns["heads"], strict=True)).index(("1.2", "L0H1"))
    assert table.columns["change"][row] == pytest.approx(0.5)


def test_without_controls_and_subsets() -> None:
    outcomes = replace(made(n_controls=0), alone=Alone(), selection=Selection((Head(0, 0),), rule=""))
    found = HeadResponse().measure(outcomes)
    assert list(found.frames[0].columns["heads"]) == ["none", "L0H0"] * 2
    assert len(found.figures) == 1


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """On the bundled model, whose induction heads are in layer 2 and whose entropy neurons are in layer 3."""
    flags = ["--task", "head_neuron_interaction:length=12,sequences=6", "--intervention", "mean_attention_output"]
    flags += ["--selector", "induction_heads:top=2,sequences=8,length=12,min_bos=0.02,max_prefix=0.5"]
    runs = []
    for name in ("a", "b"):
        code, out, err = harness(
            "eval", *flags, "--controls", "3", "--output_path", tmp_path / name, "--json", "--quiet"
        )
        assert code == 0, err
        runs.append((json.loads(out), next(path for path in (tmp_path / name).iterdir() if path.is_dir())))
    record, folder = runs[0]
    for name in ("result.json", "outcomes.safetensors", "tables/head_response.csv", "figures/head_ablation.svg"):
        assert (folder / name).read_bytes() == (runs[1][1] / name).read_bytes(), name
    assert record["selection"]["unit"] == "head" and record["controls"]["n"] == 3
    assert {row["neuron"][:2] for row in record["selection"]["neurons"]} == {"L2"}
    [response] = [row for row in record["measures"] if row["primary"]]
    assert response["name"] == "head_response" and response["value"] > 0
    lines = (folder / "tables" / "head_response.csv").read_text().splitlines()
    assert len(lines) == 1 + len(record["task"]["details"]["watched"]) * 4
    sizes = [row["n_heads"] for row in csv.DictReader(lines)][:4]
    assert sizes == ["0", "1", "1", "2"]


def test_the_wrong_kind_of_selection_is_one_sentence(
    harness: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = harness(
        "eval", "--task", "head_neuron_interaction:length=8,sequences=2", "--selector", "random", "--intervention",
        "zero", "--output_path", tmp_path, "--quiet",
    )  # fmt: skip
    assert code == 2 and "ablates heads, but neurons were selected" in " ".join(err.split())
