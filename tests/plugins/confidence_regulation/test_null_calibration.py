"""Are p-values uniform where the treated neurons are random ones, and small where they are planted?

Outcomes of 40 neurons and of every pair of them are computed once; treated ones and controls are then drawn among them
as runs draw theirs. Given the outcomes, draws with different seeds are independent, so that a Kolmogorov-Smirnov test
of their p-values is one of the drawing and of the test, not of the luck of one model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from families import tokenizer
from harness_plugins.confidence_regulation.metrics import Effects
from harness_plugins.confidence_regulation.tasks.mediation import Mediation
from planted import ENTROPY, planted, texts
from scipy.stats import kstest

from harness.builtin.calibration import Calibration
from harness.conditions.conditions import BASELINE, Condition, Selection, SetNeurons
from harness.conditions.units import NEURONS, Neuron
from harness.controls.matched import matched_sets, matching_values
from harness.controls.random import draw_controls, random_controls
from harness.engine.closed_form import ClosedFormEngine
from harness.model.model import Model
from harness.plugin.records import Outcomes, Prompt
from harness.statistics import permutation_test

LAYER, SEEDS, M = 1, 600, 39
FREE = tuple(i for i in range(48) if i not in ENTROPY)[:40]
"""Neurons that pairs are made of; with the planted ones, pairs of those are known, too."""

SETS: list[tuple[int, ...]] = [*combinations(FREE, 2), *combinations(ENTROPY, 2), *((i,) for i in FREE)]
MEASURES = ("total_effect", "norm_mediated", "entropy_change", "loss_change", "ece")


@pytest.fixture(scope="module")
def model() -> Model:
    return planted("gpt2").model()


@pytest.fixture(scope="module")
def values(model: Model) -> dict[str, dict[tuple[Neuron, ...], float]]:
    """Every measure of every pair, and every neuron alone, under mean ablation."""
    from harness.engine.activation_summaries import activation_statistics

    tokens = [tokenizer()(text)["input_ids"][:24] for text in texts()[:10]]
    prompts = [Prompt(str(i), "", tuple(ids), str(i)) for i, ids in enumerate(tokens)]
    mean = activation_statistics(model, tokens, [LAYER], 64, 0).mean[LAYER]
    conditions = [BASELINE, Condition("treated", _hold((0,), mean))]
    conditions += [Condition(f"control-{i}", _hold(pair, mean), role="control") for i, pair in enumerate(SETS)]
    outcomes = Mediation(corpus="world").observe(ClosedFormEngine(model, 64), prompts, conditions)
    names = [tuple(Neuron(LAYER, i) for i in pair) for pair in SETS]
    found = {x.name: x.values for metric in (Effects(), Calibration()) for x in _measures(metric, outcomes)}
    return {name: dict(zip(names, found[name][2:].tolist(), strict=True)) for name in MEASURES}


def _hold(pair: tuple[int, ...], mean: np.ndarray) -> tuple[SetNeurons, ...]:
    return (SetNeurons(LAYER, pair, tuple(float(mean[i]) for i in pair)),)


def _measures(metric: Effects | Calibration, outcomes: Outcomes) -> tuple:  # type: ignore[type-arg]
    return metric.measure(outcomes).measures


Draw = Callable[[int], tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]]
"""A seed's treated pair and its controls."""


def p_values(values: dict[tuple[Neuron, ...], float], draw: Draw, seeds: int = SEEDS) -> np.ndarray:
    """Two-sided p-values [seeds], with the steps between their possible values filled up at random: p is one of the
    multiples of 2 / (M + 1), all equally probable, exactly if p - u 2 / (M + 1) is uniform."""
    rng = np.random.default_rng(0)
    found = []
    for seed in range(seeds):
        treated, controls = draw(seed)
        test = permutation_test(values[treated], np.array([values[x] for x in controls]))
        assert test.m == M and test.p_two_sided is not None
        found.append(test.p_two_sided - rng.random() * 2 / (M + 1))
    return np.clip(found, 0, 1)


def free(without: tuple[Neuron, ...]) -> dict[int, list[int]]:
    return {LAYER: [i for i in FREE if Neuron(LAYER, i) not in without]}


def alone(seed: int) -> tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]:
    """One neuron as selector random draws it, and all the controls that a run can draw beside it: the others."""
    treated = (Neuron(LAYER, int(np.random.default_rng([1, seed]).choice(FREE))),)
    return treated, [(Neuron(LAYER, i),) for i in free(treated)[LAYER]]


def pairs(seed: int) -> tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]:
    """One of 40 random pairs is the treated one."""
    nobody = (Neuron(LAYER, -1), Neuron(LAYER, -2))
    treated, *controls = random_controls(nobody, M + 1, free(()), seed)
    return treated, controls


def avoiding(seed: int) -> tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]:
    """A pair as selector random draws it, and pairs of the others, as a run draws them of large pools."""
    drawn = np.sort(np.random.default_rng([1, seed]).choice(FREE, 2, replace=False)).tolist()
    treated = tuple(Neuron(LAYER, i) for i in drawn)
    return treated, random_controls(treated, M, free(treated), seed)


def whole(seed: int) -> tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]:
    """A pair as selector random draws it, and the controls that a run draws beside it: any other pairs."""
    treated, _ = avoiding(seed)
    return treated, random_controls(treated, M, free(()), seed)


@pytest.mark.parametrize("draw", [alone, pairs, whole])
@pytest.mark.parametrize("name", MEASURES)
def test_p_values_of_random_neurons_are_uniform(
    values: dict[str, dict[tuple[Neuron, ...], float]], name: str, draw: Draw
) -> None:
    assert kstest(p_values(values[name], draw), "uniform").pvalue > 0.01


@pytest.mark.parametrize("name", MEASURES)
def test_controls_of_a_small_pool_hold_treated_neurons(
    values: dict[str, dict[tuple[Neuron, ...], float]], model: Model, name: str
) -> None:
    """Where no control holds a treated neuron, whoever draws the loudest one of the layer is beyond all of them. With 2
    of 40 neurons that is seen, and so these are drawn, too; it goes with their share of the layer."""
    share, exact = ((p_values(values[name], draw) <= 0.05).mean() for draw in (avoiding, whole))
    assert 0.03 < share < 0.13 and 0.01 < exact < 0.07
    treated, _ = avoiding(0)
    selection = Selection(treated, "random", pool=tuple(Neuron(LAYER, i) for i in FREE))
    drawn = draw_controls(model, selection, M, None, "none", [], 64, 0)
    assert list(drawn.sets) == random_controls(treated, M, free(()), 0)


@pytest.mark.parametrize(("name", "match"), [("total_effect", "norm"), ("ece", "activation")])
def test_p_values_of_matched_neurons_are_uniform(
    values: dict[str, dict[tuple[Neuron, ...], float]], model: Model, name: str, match: str
) -> None:
    """Treated pairs are drawn as the controls are: matched to one selection."""
    tokens = [tokenizer()(text)["input_ids"][:24] for text in texts()[:10]]
    kind = "norm" if match == "norm" else "activation"
    on = matching_values(NEURONS, model, [LAYER], kind, tokens, 64)  # type: ignore[arg-type]
    like = [Neuron(LAYER, i) for i in sorted(FREE, key=lambda i: -on[LAYER][i])[:4:3]]
    pool = free(tuple(like))

    def draw(seed: int) -> tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]:
        sets = matched_sets(like, M, pool, on, seed)
        [treated] = matched_sets(like, 1, pool, on, seed + 10**6)
        return treated, sets

    p = p_values(values[name], draw)
    assert kstest(p, "uniform").pvalue > 0.01


def test_wrong_controls_are_noticed(values: dict[str, dict[tuple[Neuron, ...], float]], model: Model) -> None:
    """The test above can fail: loud neurons beside plain random controls are no null."""
    on = matching_values(NEURONS, model, [LAYER], "norm", [], 64)
    loud = sorted(FREE, key=lambda i: -on[LAYER][i])[:12]

    def draw(seed: int) -> tuple[tuple[Neuron, ...], list[tuple[Neuron, ...]]]:
        drawn = np.sort(np.random.default_rng(seed).choice(loud, 2, replace=False)).tolist()
        treated = tuple(Neuron(LAYER, i) for i in drawn)
        return treated, random_controls(treated, M, free(treated), seed)

    assert kstest(p_values(values["total_effect"], draw), "uniform").pvalue < 1e-6


def test_planted_neurons_stand_out(values: dict[str, dict[tuple[Neuron, ...], float]]) -> None:
    """Beyond every control: p is as small as so many controls let it be."""
    for pair in combinations(ENTROPY, 2):
        treated = tuple(Neuron(LAYER, i) for i in pair)
        controls = random_controls(treated, M, free(()), 0)
        of = values["norm_mediated"]
        test = permutation_test(of[treated], np.array([of[x] for x in controls]))  # type: ignore[index]
        assert (test.p_greater, test.p_two_sided) == (1 / (M + 1), 2 / (M + 1))
        assert of[treated] == pytest.approx(1, abs=1e-3)
