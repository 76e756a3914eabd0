"""Direct feature attribution against plain loops: one sequence, token and head at a time, parts named by family."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, SHAPES, tiny
from harness_plugins.confidence_regulation.analysis import attribution
from harness_plugins.confidence_regulation.analysis.attribution import Attribution, Attributor
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_dfa import LLAMA, NAMES, NEOX, SEQUENCE, Names, slowly

from harness.errors import HarnessError
from harness.model.model import Model
from harness.testing import demo_model


def one_neuron(model: Model, neuron: int) -> torch.Tensor:
    weights = torch.zeros(1, model.anatomy.d_mlp).double()
    weights[0, neuron] = 1
    return weights


def compare(model: Model, names: Names, layer: int, neuron: int, ids: list[int]) -> None:
    """Every component at every position: spans of one token."""
    slow = slowly(model, names, layer, neuron, ids)
    spans = [(t, t + 1) for t in range(len(ids))]
    fast = Attributor(model, layer)([ids] * len(ids), spans, one_neuron(model, neuron), batch_size=3)
    for t, wanted in enumerate(slow):
        pre_activation = wanted.pop("pre-activation")
        got = {name: float(part[0, t]) for name, part in fast.parts.items()}
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert float(fast.pre_activation[0, t]) == pytest.approx(pre_activation, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("family", NAMES)
def test_every_component_is_that_of_the_slow_account(family: str) -> None:
    compare(tiny(family), NAMES[family], FAMILIES[family].options.get("n_layer", 3) - 1, 7, SEQUENCE)


def test_bundled_model() -> None:
    demo = demo_model()
    compare(demo, NEOX, 3, 11, [40, 7, 300, 2, 40, 7])
    compare(demo, NEOX, 1, 500, [40, 7, 300, 2, 40, 7])


def test_stories_model(stories: Model) -> None:
    compare(stories, LLAMA, 3, 100, [1, 403, 407, 261, 378])


# -- every family ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(set(SHAPES) - {"opt_350m"}))
def test_contributions_sum_to_the_pre_activation(family: str) -> None:
    """Means over spans of padded sequences; the model's own numbers are captured one by one, without padding."""
    model = tiny(family)
    layer = model.anatomy.n_layers - 1
    weights = torch.randn(2, model.anatomy.d_mlp, generator=torch.Generator().manual_seed(1)).double()
    sequences, spans = [SEQUENCE, SEQUENCE[2:]], [(3, 7), (1, 4)]
    found = Attributor(model, layer)(sequences, spans, weights)
    assert found.parts.keys() >= {"embedding", *(f"MLP {i}" for i in range(layer))}
    assert (f"L{layer}H0" in found.parts) == (not FAMILIES[family].parallel)
    total = sum(found.parts.values()) + found.constant[:, None]
    torch.testing.assert_close(total, found.pre_activation, rtol=1e-4, atol=1e-4)
    for i, (ids, (start, stop)) in enumerate(zip(sequences, spans, strict=True)):
        with model.capture_neurons(layer) as neurons, torch.no_grad():
            model.forward(model.pad([ids]))
        mean = neurons[layer][0, start:stop].double().mean(0)
        torch.testing.assert_close(found.activation[:, i], weights @ mean, rtol=1e-4, atol=1e-4)


def test_a_norm_on_the_residual_stream_is_refused() -> None:
    """OPT-350m: the residual stream after a layer is not a sum."""
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny("opt_350m", dtype)
        with pytest.raises(HarnessError, match=r"opt_350m.*not the sum.*a norm may stand on the residual stream"):
            Attributor(model, 2)([SEQUENCE], [(2, 7)], one_neuron(model, 0))


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "granite"])
def test_half_precision_sums_up_to_rounding(family: str) -> None:
    model = tiny(family, torch.bfloat16)
    found = Attributor(model, 2)([SEQUENCE], [(2, 7)], one_neuron(model, 3))
    exact = Attributor(tiny(family), 2)([SEQUENCE], [(2, 7)], one_neuron(model, 3))
    for name, part in found.parts.items():
        torch.testing.assert_close(part, exact.parts[name], rtol=0.1, atol=0.1)


# -- algebra -----------------------------------------------------------------------------------------------------------


def close(a: Attribution, b: Attribution) -> None:
    assert a.parts.keys() == b.parts.keys()
    for name in a.parts:
        torch.testing.assert_close(a.parts[name], b.parts[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.pre_activation, b.pre_activation, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.activation, b.activation, rtol=1e-5, atol=1e-6)


def test_passes_and_padding_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    attribute, weights = Attributor(model, 2), one_neuron(model, 5)
    sequences, spans = [SEQUENCE, SEQUENCE[3:], SEQUENCE[1:]], [(3, 7), (0, 4), (2, 3)]
    together = attribute(sequences, spans, weights)
    monkeypatch.setattr(attribution, "BYTES", 1)  # a pass for every sequence
    close(attribute(sequences, spans, weights), together)


@pytest.fixture(scope="module")
def gemma() -> Attributor:
    return Attributor(tiny("gemma2"), 1)


@settings(max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.integers(0, 47), st.integers(0, 47))
def test_contributions_are_linear_in_the_neurons(gemma: Attributor, factors: list[float], i: int, j: int) -> None:
    model = gemma.model
    one, other = one_neuron(model, i), one_neuron(model, j)
    rows = torch.cat([one, other, factors[0] * one + factors[1] * other])
    found = gemma([SEQUENCE], [(2, 7)], rows)
    for part in (*found.parts.values(), found.pre_activation, found.constant[:, None]):
        torch.testing.assert_close(part[2], factors[0] * part[0] + factors[1] * part[1], rtol=1e-6, atol=1e-6)
