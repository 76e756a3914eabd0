"""Matched controls: alike in what they are matched on, distinct, seeded; and said where nothing is alike."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from families import tiny
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.conditions import Selection
from harness.conditions.units import NEURONS, Direction, Head, Neuron
from harness.controls.matched import balance, matched_sets, matching_values, neighbours
from harness.controls.random import draw_controls, possible_controls, random_controls
from harness.engine.activation_summaries import activation_statistics
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.output_weights import write_directions
from harness.report.formatting import controls
from harness.results.record import ControlDetails
from harness.statistics import permutation_test

PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12], [60, 61, 62, 63, 64, 65, 66]]


def rest(selected: list[Neuron], d_mlp: int) -> dict[int, list[int]]:
    return {x.layer: [i for i in range(d_mlp) if Neuron(x.layer, i) not in selected] for x in selected}


def draw(model: Model, selected: list[Any], n: int | None = 50, match: str = "norm", **more: Any) -> Any:
    given = {"most": 100, "prompts": PROMPTS, "batch_size": 4, "seed": 0, **more}
    pool = given.pop("pool", None)
    selection = Selection(tuple(selected), "r", pool=pool)
    return draw_controls(
        model, selection, n, given["most"], match, given["prompts"], given["batch_size"], given["seed"]
    )


@given(st.data())
def test_sets_are_distinct_and_mirror_the_selection(data: st.DataObject) -> None:
    d_mlp = data.draw(st.integers(12, 60))
    unit = st.builds(Neuron, st.integers(0, 1), st.integers(0, d_mlp - 1))
    selected = data.draw(st.lists(unit, min_size=1, max_size=5, unique=True))
    values = {layer: np.random.default_rng(layer).normal(size=d_mlp) for layer in (0, 1)}
    sets = matched_sets(selected, 5, rest(selected, d_mlp), values, seed=data.draw(st.integers(0, 9)))
    assert len(set(sets)) == len(sets) == 5
    for chosen in sets:
        assert list(chosen) == sorted(set(chosen)) and not set(chosen) & set(selected)
        assert sorted(x.layer for x in chosen) == sorted(x.layer for x in selected)


def test_each_neuron_gets_one_of_its_nearest_neighbours_all_equally_often() -> None:
    d_mlp, values = 200, {0: np.arange(200.0)}
    assert neighbours(d_mlp) == 20 and neighbours(1000) == 50
    selected = [Neuron(0, 100)]
    pool = rest(selected, d_mlp)
    counts = Counter(
        neuron.index
        for seed in range(2000)
        for chosen in matched_sets(selected, 1, pool, values, seed)
        for neuron in chosen
    )
    assert set(counts) == {*range(90, 100), *range(101, 111)}
    assert min(counts.values()) > 60 and max(counts.values()) < 145  # 100 expected, standard deviation 10


def test_neighbourhoods_that_overlap_give_different_neurons() -> None:
    """All selected neurons are alike, and there are hardly more others."""
    selected = [Neuron(0, i) for i in range(20)]
    values = {0: np.zeros(42)}
    for chosen in matched_sets(selected, 30, rest(selected, 42), values, seed=0):
        assert len(chosen) == 20
    with pytest.raises(HarnessError, match="20 neurons of layer 0 are selected, and only 19 are left to match"):
        matched_sets(selected, 1, rest(selected, 39), {0: np.zeros(39)}, seed=0)


@pytest.mark.parametrize("match", ["norm", "activation"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_matched_controls_are_more_alike_than_random_ones(family: str, match: str) -> None:
    model = tiny(family)
    if match == "norm":
        raw = np.linalg.norm(write_directions(model, 2), axis=1)
    else:
        raw = activation_statistics(model, PROMPTS, [2], 4, 0).std[2]
    values = matching_values(NEURONS, model, [2], match, PROMPTS, 4)[2]  # type: ignore[arg-type]
    np.testing.assert_allclose(values, np.log(raw), rtol=1e-6)
    ranked = np.argsort(raw)
    selected = [Neuron(2, int(i)) for i in ranked[-16:-10]]  # large ones, with others on both sides
    controls = draw(model, selected, match=match)
    assert controls.match == match and controls.layers == (2,) and len(controls.sets) == 50
    place = {int(index): rank for rank, index in enumerate(ranked)}
    for chosen in controls.sets:
        assert all(place[x.index] >= len(raw) - 16 - 26 for x in chosen)
    own, others = np.log(raw[[x.index for x in selected]]), np.delete(np.log(raw), [x.index for x in selected])
    drawn = np.log(raw[[x.index for chosen in controls.sets for x in chosen]])
    details = controls.details
    assert details["smd_random"] == pytest.approx((own.mean() - others.mean()) / others.std(), abs=1e-5)
    assert details["smd"] == pytest.approx((own.mean() - drawn.mean()) / others.std(), abs=1e-5)
    assert abs(details["smd"]) < 0.6 * abs(details["smd_random"])
    assert (details["warning"] is None) == (abs(details["smd"]) <= 0.25)
    assert controls.to_dict()["details"]["neighbours"] == 20


def test_outliers_that_nothing_matches_are_said() -> None:
    model = tiny("llama")
    model.anatomy.down_projections[2].weight[:, :3] *= 30
    selected = [Neuron(2, i) for i in range(3)]
    details = draw(model, selected).details
    warning = details["warning"]
    assert warning.startswith("The matched neurons are not much like the selected ones") and "too few others" in warning
    assert details["within_reach"] == {"2.0": 0, "2.1": 0, "2.2": 0} and details["blocks"].endswith(
        "within one standard deviation of 2.0, 2.1, 2.2 there is no other neuron to draw: leave them out, or select in "
        "a layer that has more like them."
    )
    usual = [Neuron(2, i) for i in np.argsort(matching_values(NEURONS, model, [2], "norm", [], 4)[2])[20:26].tolist()]
    details = draw(model, usual).details
    assert details["warning"] is details["blocks"] is None and min(details["within_reach"].values()) > 10


@pytest.mark.parametrize("match", ["norm", "activation"])
def test_what_is_not_alike_blocks_a_verdict_whatever_it_is_matched_in(match: Any) -> None:
    """With an SMD beyond 0.25 a set stands out for what it was to be matched in, and p is invalid."""
    values, ends = {0: np.arange(100.0)}, [Neuron(0, i) for i in range(94, 100)]
    pool = rest(ends, 100)
    found = balance(ends, pool, matched_sets(ends, 20, pool, values, 0), values, match)
    assert found["smd"] > 0.25 and found["within_reach"]["0.99"] == 22
    assert found["blocks"].startswith("The matched neurons are not like the selected ones: their mean log ")
    assert "(22 or more), but too few of them beyond it: select neurons nearer to the rest" in found["blocks"]
    middle = [Neuron(0, i) for i in (20, 40, 60)]
    pool = rest(middle, 100)
    assert balance(middle, pool, matched_sets(middle, 20, pool, values, 0), values, match)["blocks"] is None


def test_a_difference_where_nothing_else_varies_is_no_balance() -> None:
    values = {0: np.array([0.0] * 30 + [5.0])}
    found = balance([Neuron(0, 30)], {0: list(range(30))}, [(Neuron(0, 0),)], values, "norm")
    assert found["smd"] is found["smd_random"] is None and "more than any two of the others" in found["blocks"]


def test_dead_neurons_have_a_finite_value() -> None:
    model = tiny("llama")
    model.anatomy.down_projections[2].weight[:, 4] = 0
    values = matching_values(NEURONS, model, [2], "norm", [], 4)[2]
    assert np.isfinite(values).all() and values[4] == values.min()
    model.anatomy.down_projections[1].weight[:] = 0
    details = draw(model, [Neuron(1, 4)], n=3).details
    assert details["smd"] == details["smd_random"] == 0 and details["warning"] is None


def test_seeds_layers_and_numbers() -> None:
    model, selected = tiny("gpt2"), [Neuron(2, 0), Neuron(0, 4), Neuron(2, 9)]
    assert (
        draw(model, selected, seed=1).sets == draw(model, selected, seed=1).sets != draw(model, selected, seed=2).sets
    )
    assert [x.layer for x in draw(model, selected).sets[0]] == [0, 2, 2]
    assert len(draw(model, selected, n=None, most=7).sets) == 7
    assert draw(model, selected, n=0).sets == () and draw(model, selected, n=0).details["smd"] is None
    few = tuple(Neuron(2, i) for i in (0, 9, 11, 12, 13))
    assert len(draw(model, [Neuron(2, 0), Neuron(2, 9)], n=None, pool=few).sets) == 3  # all pairs of three
    with pytest.raises(HarnessError, match="4 sets matched by norm were asked for, but only 3 distinct ones were"):
        draw(model, [Neuron(2, 0), Neuron(2, 9)], n=4, pool=few)


def test_few_units_of_many_are_left_out_of_their_controls() -> None:
    """Up to one in a hundred: what is drawn from has no say then."""
    model = tiny("gpt2")
    alone = draw(model, [Neuron(2, 9)], match="none")
    assert list(alone.sets) == random_controls([Neuron(2, 9)], 50, rest([Neuron(2, 9)], 128), seed=0)
    assert alone.details == {"treated_in_pool": False, "candidates": 127, "blocks": None}
    selected = [Neuron(2, 0), Neuron(2, 9), Neuron(2, 11), Neuron(2, 12)]
    controls = draw(model, selected, match="none", pool=tuple(Neuron(2, i) for i in range(400)))
    assert list(controls.sets) == random_controls(selected, 50, rest(selected, 400), seed=0)
    assert controls.details == {"treated_in_pool": False, "candidates": 396, "blocks": None}


def test_of_a_small_pool_all_units_may_be_drawn_but_not_the_selected_set() -> None:
    model, selected = tiny("gpt2"), [Neuron(2, 9), Neuron(2, 0)]
    controls = draw(model, selected, match="none", n=500)
    assert controls.details == {"treated_in_pool": True, "candidates": 128, "blocks": None}
    assert {unit for units in controls.sets for unit in units} >= set(selected)
    assert len(set(controls.sets)) == 500 and tuple(sorted(selected)) not in controls.sets
    few = tuple(Neuron(2, i) for i in (3, 5, 7))
    every = {frozenset(units) for units in draw(model, selected, n=None, match="none", pool=few).sets}
    assert len(every) == 9 and frozenset(selected) not in every  # pairs of five, but one
    with pytest.raises(HarnessError, match="but beside the selected one only 9 distinct sets exist; ask for at most 9"):
        draw(model, selected, n=10, match="none", pool=few)
    both = draw(model, [Neuron(0, 1), *selected], match="none")  # one of 128 in one layer, two in the other
    assert both.details["treated_in_pool"] and {x.layer for units in both.sets for x in units} == {0, 2}


def test_directions_to_compare_with_are_no_candidates() -> None:
    model = tiny("gpt2")
    selected, pool = [Direction(1, 0), Direction(1, 1)], tuple(Direction(1, i) for i in range(2, 12))
    assert not draw(model, selected, match="none", pool=pool, n=5).details["treated_in_pool"]
    assert draw(model, selected, match="none", pool=(*selected, *pool), n=5).details["treated_in_pool"]


@pytest.mark.parametrize("size", [20, 40])
def test_random_sets_of_a_small_pool_are_as_often_extreme_as_the_level_says(size: int) -> None:
    """6 of 20 and 6 of 40 with effects drawn at random: P(p <= .05) was .22 to .29 and .10 to .16 without the treated.

    With 99 controls the two-sided p takes steps of .02, so that .04 is the level that is reached.
    """
    runs, m, few = 600, 99, {0: list(range(size))}

    def p(rng: np.random.Generator, lift: float, pool: Any) -> float:
        effects = rng.standard_t(3, size)
        treated = rng.choice(size, 6, replace=False)
        effects[treated] += lift
        selected = [Neuron(0, int(i)) for i in treated]
        sets = random_controls(selected, m, pool(treated), int(rng.integers(2**32)))
        values = np.array([effects[[x.index for x in units]].sum() for units in sets])
        return float(permutation_test(effects[treated].sum(), values).p_two_sided)

    def rate(lift: float, pool: Any, n: int) -> float:
        rng = np.random.default_rng(1)
        return float(np.mean([p(rng, lift, pool) <= 0.05 for _ in range(n)]))

    error = 2 * np.sqrt(0.05 * 0.95 / runs)
    assert 0.03 - error <= rate(0, lambda treated: few, runs) <= 0.06 + error
    assert rate(4, lambda treated: few, 100) >= 0.9  # a set that does something is found all the same
    assert rate(0, lambda treated: {0: [i for i in few[0] if i not in treated]}, 200) > 0.08  # why it is done so


def test_heads_are_drawn_from_their_pool_wherever_it_lies() -> None:
    model = tiny("gpt2")
    selected, pool = [Head(1, 0), Head(1, 1)], (Head(0, 1), Head(0, 2), Head(1, 2), Head(2, 3))
    controls = draw(model, selected, n=None, match="none", pool=pool)
    every = (Head(0, 1), Head(0, 2), *selected, Head(1, 2), Head(2, 3))  # few: the selected ones are among them
    pairs = {(a, b) for i, a in enumerate(every) for b in every[i + 1 :]}
    assert set(controls.sets) == pairs - {tuple(selected)} and controls.layers == (0, 1, 2)
    assert len(draw(model, selected, n=None, match="none").sets) == 5  # without a pool: the layer's four
    assert draw(model, selected, n=None, match="none", pool=()).sets == ()
    with pytest.raises(HarnessError, match="2 random sets were asked for, but the selector left nothing to draw them"):
        draw(model, selected, n=2, match="none", pool=())
    with pytest.raises(HarnessError, match="match=norm is not for heads"):
        draw(model, selected, match="norm")
    assert possible_controls(selected, {0: [1, 2], 1: [2], 2: [3]}, across=True) == 6
    assert possible_controls(selected, {0: [1, 2], 1: [2], 2: [3]}) == 0


def test_matching_by_activation_needs_prompts() -> None:
    with pytest.raises(HarnessError, match="need prompts to measure activations over"):
        matching_values(NEURONS, tiny("gpt2"), [2], "activation", [], 4)


def test_balance_counts_each_layer_by_its_share() -> None:
    values = {0: np.array([0.0, 1.0, 2.0, 9.0]), 1: np.array([10.0, 12.0, 14.0])}
    selected = [Neuron(0, 3), Neuron(1, 2)]
    found = balance(selected, {0: [0, 1, 2], 1: [0, 1]}, [(Neuron(0, 2), Neuron(1, 1))], values, "norm")
    sd = np.sqrt((np.var([0, 1, 2]) + np.var([10, 12])) / 2)
    assert found["smd_random"] == pytest.approx((11.5 - (1 + 11) / 2) / sd, abs=1e-6)
    assert found["smd"] == pytest.approx((11.5 - 7) / sd, abs=1e-6)


# -- the selectors -----------------------------------------------------------------------------------------------------


def test_matched_random_selectors_stand_in_for_another_choice() -> None:
    from harness_plugins.confidence_regulation.selectors.matched_random import (
        ActivationMatchedRandom,
        NormMatchedRandom,
    )

    from harness.builtin.components import Heads, Neurons
    from harness.engine.hooks import HookEngine
    from harness.plugin.components import SelectionContext

    model = tiny("gpt2")
    like = Neurons(neurons=("2.7", "2.3", "0.5"))
    for cls in (NormMatchedRandom, ActivationMatchedRandom):
        chosen = set()
        for seed in range(20):
            context = SelectionContext(model, HookEngine(model, 4), PROMPTS, seed)
            selection = cls(like=like).select(context)
            assert (
                selection == cls(like=like).select(context) or selection.units == cls(like=like).select(context).units
            )
            assert [x.layer for x in selection.units] == [0, 2, 2]
            assert not {str(x) for x in selection.units} & set(like.neurons)
            assert selection.pool is not None and len(selection.pool) == 2 * 128 - 3
            chosen.add(selection.units)
            values = matching_values(NEURONS, model, [0, 2], cls.match, PROMPTS, 4)
            assert selection.units == matched_sets(
                [Neuron(2, 7), Neuron(2, 3), Neuron(0, 5)], 1,
                rest([Neuron(2, 7), Neuron(2, 3), Neuron(0, 5)], 128), values, seed,
            )[0]  # fmt: skip
        assert len(chosen) > 15
        assert selection.details["like_neurons"] == ["2.7", "2.3", "0.5"]
        controls = draw_controls(model, selection, 30, None, cls.match, PROMPTS, 4, 0)
        assert not {str(x) for chosen in controls.sets for x in chosen} & set(like.neurons)
        with pytest.raises(HarnessError, match="like must choose neurons; heads chooses heads"):
            cls(like=Heads(heads=("L0H1",))).select(context)


# -- what reports say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("details", "pool", "match", "says"),
    [
        ({"treated_in_pool": False}, None, "none", "of the same layer, none of them selected"),
        (
            {"treated_in_pool": True, "candidates": 20},
            None,
            "none",
            "of the same layer, drawn from all 20, the selected ones included",
        ),
        (
            {"treated_in_pool": True, "candidates": 23},
            ["2.1"],
            "none",
            "of the selector's pool and the selected ones (23 in all)",
        ),
        (
            {"smd": 0.031, "smd_random": 1.2, "warning": None},
            None,
            "activation",
            "of the same layer, matched in activation, none of them selected (standardised mean difference +0.03, of "
            "plain random neurons +1.20)",
        ),
        (
            {"smd": 1.1, "smd_random": 1.2, "warning": "Not alike."},
            None,
            "norm",
            "of the same layer, matched in norm, none of them selected (Not alike)",
        ),
    ],
)
def test_reports_say_what_sets_were_drawn_from(details: Any, pool: Any, match: str, says: str) -> None:
    record: Any = SimpleNamespace(
        controls=SimpleNamespace(n=99, layers=[2], match=match, details=ControlDetails.model_validate(details)),
        selection=SimpleNamespace(neurons=[None] * 6, unit="neuron", pool=pool),
    )
    assert controls(record) == f"99 distinct random sets of 6 neurons {says}"
