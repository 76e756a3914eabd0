"""Neurons, selections and random controls."""

from __future__ import annotations

import pytest
from families import tiny
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.units import Head, Neuron, check_units
from harness.controls.random import random_controls
from harness.errors import HarnessError


@given(st.integers(0, 200), st.integers(0, 100_000))
def test_a_neuron_is_read_as_it_is_written(layer: int, index: int) -> None:
    assert Neuron.parse(str(Neuron(layer, index))) == Neuron(layer, index)


def test_trailing_zeros_belong_to_the_index() -> None:
    assert Neuron.parse("11.2370") == Neuron(11, 2370)


@pytest.mark.parametrize("text", ["11", "11.", ".5", "L11.5", "11.5.6", "-1.5", ""])
def test_what_is_no_neuron_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match=r"expected layer\.index"):
        Neuron.parse(text)


def rest(selected: list[Neuron], d_mlp: int) -> dict[int, list[int]]:
    """The neurons of the selected layers that are not selected."""
    return {x.layer: [i for i in range(d_mlp) if Neuron(x.layer, i) not in selected] for x in selected}


@given(st.data())
def test_controls_mirror_the_selection_and_never_touch_it(data: st.DataObject) -> None:
    d_mlp = data.draw(st.integers(10, 40))
    selected = data.draw(
        st.lists(st.builds(Neuron, st.integers(0, 2), st.integers(0, d_mlp - 1)), min_size=1, max_size=4, unique=True)
    )
    sets = random_controls(selected, 5, rest(selected, d_mlp), seed=3)
    assert len(set(sets)) == len(sets) == 5
    for neurons in sets:
        assert len(set(neurons)) == len(selected)
        assert not set(neurons) & set(selected)
        assert sorted(x.layer for x in neurons) == sorted(x.layer for x in selected)


def test_controls_are_a_function_of_the_seed() -> None:
    selected = [Neuron(1, 0), Neuron(1, 5)]
    pool = rest(selected, 64)
    assert random_controls(selected, 20, pool, seed=1) == random_controls(selected, 20, pool, seed=1)
    assert random_controls(selected, 20, pool, seed=1) != random_controls(selected, 20, pool, seed=2)


def test_every_neuron_is_as_likely_as_any_other() -> None:
    sets = random_controls([Neuron(0, 0), Neuron(0, 1)], 2000, {0: range(2, 102)}, seed=0)
    counts = [sum(Neuron(0, i) in chosen for chosen in sets) for i in range(2, 102)]
    assert min(counts) > 15  # 40 expected, standard deviation 6
    assert max(counts) < 70


def test_all_sets_that_exist_can_be_asked_for_and_not_one_more() -> None:
    selected = [Neuron(0, 0), Neuron(0, 1)]
    assert len(random_controls(selected, 6, rest(selected, 6), seed=0)) == 6
    with pytest.raises(HarnessError, match="only 6 distinct sets exist; ask for at most 6"):
        random_controls(selected, 7, rest(selected, 6), seed=0)


def test_units_must_exist_in_the_model() -> None:
    model = tiny("gpt2")
    d_mlp = model.anatomy.d_mlp
    check_units([Neuron(1, d_mlp - 1)], model, "selector x")
    with pytest.raises(HarnessError, match=r"names neuron 9\.3, but the model has layers 0 to 2 with neurons 0 to"):
        check_units([Neuron(9, 3)], model, "selector x")
    with pytest.raises(HarnessError, match=rf"names neuron 1\.{d_mlp}, but the model has layers 0 to 2 with neurons"):
        check_units([Neuron(1, d_mlp)], model, "selector x")
    with pytest.raises(HarnessError, match=r"names neuron 1\.3 twice"):
        check_units([Neuron(1, 3), Neuron(1, 3)], model, "selector x")
    with pytest.raises(HarnessError, match="names both neurons and heads"):
        check_units([Neuron(1, 3), Head(1, 0)], model, "selector x")
