"""Conditions from names of neurons."""

from __future__ import annotations

import numpy as np
import pytest

import harness as public
from harness.conditions.conditions import Condition, SetNeurons
from harness.conditions.units import Neuron
from harness.engine.activation_summaries import ActivationStatistics
from harness.errors import HarnessError


def statistics() -> ActivationStatistics:
    values = {3: np.array([1.0, 2.0, 4.0])}
    return ActivationStatistics(2, values, values, values, values, {3: np.zeros((2, 3), np.float32)})


def test_they_are_the_conditions_that_one_would_write() -> None:
    chosen = (Neuron(3, 2),)
    assert public.zero("3.2") == Condition("zero 3.2", (SetNeurons(3, (2,), (0.0,)),), units=chosen)
    assert public.hold(Neuron(3, 2), 1.5) == Condition("3.2 = 1.5", (SetNeurons(3, (2,), (1.5,)),), units=chosen)
    assert public.mean("3.2", statistics()) == Condition("mean 3.2", (SetNeurons(3, (2,), (4.0,)),), units=chosen)


def test_several_neurons_are_edited_layer_by_layer_each_at_its_own_value() -> None:
    held = public.zero(["3.2", "1.0", "3.0"])
    assert held.name == "zero 3.2, 1.0, 3.0"
    assert held.edits == (SetNeurons(1, (0,), (0.0,)), SetNeurons(3, (2, 0), (0.0, 0.0)))
    assert public.mean(["3.2", "3.0"], statistics()).edits == (SetNeurons(3, (2, 0), (4.0, 1.0)),)


def test_mistakes_are_sentences() -> None:
    with pytest.raises(HarnessError, match=r'"3-2" is not a neuron: expected layer\.index'):
        public.zero("3-2")
    with pytest.raises(HarnessError, match="no neuron is named"):
        public.zero([])
    with pytest.raises(HarnessError, match=r"neuron 2\.1: there are statistics of layer 3 only"):
        public.mean("2.1", statistics())
