"""Direct feature attribution against plain loops: one sequence, token and head at a time, parts named by family."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, tiny
from harness_plugins.confidence_regulation.analysis import attribution
from harness_plugins.confidence_regulation.analysis.attribution import Attribution, Attributor
from harness_plugins.confidence_regulation.tasks.direct_feature_attribution import Attributions, DirectFeatureAttribution, _bars, component_names
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Head, Neuron, Selection
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.input_weights import read_in
from harness.model.model import Model
from harness.plugin.catalogue import catalogue
from harness.plugin.records import Outcomes, Prompt

SEQUENCE = [5, 17, 80, 41, 17, 80, 3]


@pytest.fixture(scope="module")
def demo() -> Model:
    return catalogue().components["model"]["demo"]().load()  # type: ignore[attr-defined,no-any-return]


# -- the slow account --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """Where a family keeps what attribution needs; paths within a layer, "" where there is nothing."""

    layers: str
    out: str
    mlp: str
    read: str
    norm: str
    after_attention: str = ""
    after_mlp: str = ""
    rows: tuple[int, int] | None = None
    parallel: bool = False
    factor: float = 1.0
    one_plus: bool = False
    """The norms multiply by 1 + weight (Gemma)."""


_GPT2 = Names("transformer.h", "attn.c_proj", "mlp", "mlp.c_fc", "ln_2")
_LLAMA = Names("model.layers", "self_attn.o_proj", "mlp", "mlp.gate_proj", "post_attention_layernorm")
_NEOX = Names("gpt_neox.layers", "attention.dense", "mlp", "mlp.dense_h_to_4h", "post_attention_layernorm")
NAMES = {
    "gpt2": _GPT2,
    "gpt_neox": replace(_NEOX, parallel=True),
    "gpt_neox_sequential": _NEOX,
    "gptj": Names("transformer.h", "attn.out_proj", "mlp", "mlp.fc_in", "ln_1", parallel=True),
    "cohere": replace(_LLAMA, norm="input_layernorm", parallel=True),
    "opt": Names("model.decoder.layers", "self_attn.out_proj", "fc2", "fc1", "final_layer_norm"),
    "llama": _LLAMA,
    "llama_gqa_tied": _LLAMA,
    "phi3": replace(_LLAMA, read="mlp.gate_up_proj", rows=(0, 48)),
    "gemma2": replace(
        _LLAMA,
        norm="pre_feedforward_layernorm",
        after_attention="post_attention_layernorm",
        after_mlp="post_feedforward_layernorm",
        one_plus=True,
    ),
    "olmo2": replace(
        _LLAMA, norm="", after_attention="post_attention_layernorm", after_mlp="post_feedforward_layernorm"
    ),
    "granite": replace(_LLAMA, factor=0.22),
}


def linear(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [d_out, d_in] and bias of a linear map, float64."""
    weight = module.weight.double()
    weight = weight.T if type(module).__name__ == "Conv1D" else weight
    bias = getattr(module, "bias", None)
    return weight, torch.zeros(len(weight)).double() if bias is None else bias.double()


def normed(norm: Any, x: torch.Tensor, part: torch.Tensor, bias: bool, one_plus: bool) -> torch.Tensor:
    """What ``part`` of the norm's input x [d_model] becomes, with the denominator of x."""
    if norm is None:
        return part
    gain = norm.weight.double() + (1 if one_plus else 0)
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    if "RMS" in type(norm).__name__:
        out = gain * part / (x.square().mean() + eps).sqrt()
    else:
        out = gain * (part - part.mean()) / (x.var(unbiased=False) + eps).sqrt()
    return out + norm.bias.double() if bias and getattr(norm, "bias", None) is not None else out


@torch.no_grad()
def slowly(model: Model, names: Names, layer: int, neuron: int, ids: list[int]) -> list[dict[str, float]]:
    """For every position: each component's contribution, and the pre-activation that the model computed."""
    layers = model.hf.get_submodule(names.layers)
    seen: dict[str, torch.Tensor] = {}

    def at(module: torch.nn.Module, key: str, output: bool) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            x = out if output else (args[0] if args else kwargs["hidden_states"])
            x = x[0] if isinstance(x, tuple) else x
            seen[key] = x.detach().double().reshape(len(ids), -1).clone()

        return module.register_forward_hook(hook, with_kwargs=True)

    handles = [at(layers[0], "embedding", output=False)]
    for i in range(layer + 1):
        get = layers[i].get_submodule
        handles.append(at(get(names.out), f"heads {i}", output=False))
        handles.append(at(get(names.out), f"attention {i}", output=True))
        handles.append(at(get(names.after_mlp or names.mlp), f"mlp {i}", output=True))
    read = layers[layer].get_submodule(names.read)
    norm = layers[layer].get_submodule(names.norm) if names.norm else None
    handles += [at(norm or read, "residual", output=False), at(read, "read", output=True)]
    model.hf(torch.tensor([ids]))
    for handle in handles:
        handle.remove()

    row = neuron + (names.rows or (0, 0))[0]
    w_in = linear(read)[0][row]
    found = []
    for t in range(len(ids)):
        x = seen["residual"][t]

        def contribution(part: torch.Tensor, x: torch.Tensor = x) -> float:
            return float(w_in @ normed(norm, x, part, False, names.one_plus))

        parts = {"embedding": contribution(seen["embedding"][t])}
        biases = 0.0
        for i in range(layer + (0 if names.parallel else 1)):
            weight, bias = linear(layers[i].get_submodule(names.out))
            after = layers[i].get_submodule(names.after_attention) if names.after_attention else None
            width = weight.shape[1] // model.anatomy.n_heads
            for head in range(model.anatomy.n_heads):
                alone = torch.zeros_like(seen[f"heads {i}"][t])
                alone[head * width : (head + 1) * width] = seen[f"heads {i}"][t, head * width : (head + 1) * width]
                wrote = normed(after, seen[f"attention {i}"][t], weight @ alone, False, names.one_plus)
                parts[f"L{i}H{head}"] = contribution(names.factor * wrote)
            biases += contribution(names.factor * normed(after, seen[f"attention {i}"][t], bias, False, names.one_plus))
        for i in range(layer):
            parts[f"MLP {i}"] = contribution(names.factor * seen[f"mlp {i}"][t])
        if biases:
            parts["attention biases"] = biases
        found.append({**parts, "pre-activation": float(seen["read"][t, row])})
    return found


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


def test_bundled_model(demo: Model) -> None:
    compare(demo, _NEOX, 3, 11, [40, 7, 300, 2, 40, 7])
    compare(demo, _NEOX, 1, 500, [40, 7, 300, 2, 40, 7])


def test_stories_model(stories: Model) -> None:
    compare(stories, _LLAMA, 3, 100, [1, 403, 407, 261, 378])


# -- every family ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"opt_350m"}))
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


# -- input weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", NAMES)
def test_input_weights_are_those_of_the_named_map(family: str) -> None:
    model, names = tiny(family), NAMES[family]
    layer = model.hf.get_submodule(names.layers)[1]
    weight, bias = linear(layer.get_submodule(names.read))
    rows = slice(*(names.rows or (0, model.anatomy.d_mlp)))
    found = read_in(model, 1)
    assert torch.equal(found.w_in, weight[rows]) and torch.equal(found.b_in, bias[rows])
    assert found.norm.module is (layer.get_submodule(names.norm) if names.norm else None)
    assert found.attention_norm.module is (
        layer.get_submodule(names.after_attention) if names.after_attention else None
    )
    gated = {"cohere", "llama", "llama_gqa_tied", "phi3", "gemma2", "olmo2", "granite"}
    assert found.gated == (family in gated)


def with_mlp(forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> Model:
    """A tiny Llama whose second MLP computes something else."""
    model = tiny("llama")
    mlp = model.hf.model.layers[1].mlp
    mlp.forward = MethodType(forward, mlp)
    return model


def test_columns_that_are_not_the_neurons_in_order_are_refused() -> None:
    def rolled(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).roll(1, -1)) * self.up_proj(x).roll(1, -1))

    with pytest.raises(HarnessError, match="input weights of layer 1 of llama were not found: 0 linear maps"):
        read_in(with_mlp(rolled), 1)


def test_a_bilinear_mlp_has_no_gate() -> None:
    def bilinear(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * self.up_proj(x))

    with pytest.raises(HarnessError, match="2 linear maps move its neurons one by one, 0 of them through"):
        read_in(with_mlp(bilinear), 1)


def test_the_gate_is_found_by_what_it_does_and_not_by_its_place() -> None:
    def swapped(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_proj(x) * torch.relu(self.up_proj(x)))

    model = with_mlp(swapped)
    assert read_in(model, 1).projection is model.hf.model.layers[1].mlp.up_proj


def test_a_map_that_moves_no_neuron_is_passed_over() -> None:
    def idle(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) + 0 * self.idle(x))

    model = with_mlp(idle)
    mlp = model.hf.model.layers[1].mlp
    mlp.idle = torch.nn.Linear(32, 48)
    found = read_in(model, 1)
    assert found.projection is mlp.gate_proj and found.gated


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


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.integers(0, 47), st.integers(0, 47))
def test_contributions_are_linear_in_the_neurons(gemma: Attributor, factors: list[float], i: int, j: int) -> None:
    model = gemma.model
    one, other = one_neuron(model, i), one_neuron(model, j)
    rows = torch.cat([one, other, factors[0] * one + factors[1] * other])
    found = gemma([SEQUENCE], [(2, 7)], rows)
    for part in (*found.parts.values(), found.pre_activation, found.constant[:, None]):
        torch.testing.assert_close(part[2], factors[0] * part[0] + factors[1] * part[1], rtol=1e-6, atol=1e-6)


# -- the task ----------------------------------------------------------------------------------------------------------


def test_pairs_share_the_second_half_only(demo: Model) -> None:
    prepared = DirectFeatureAttribution(corpus="world", length=12).prepare(ClosedFormEngine(demo), 5, seed=3)  # type: ignore[arg-type,call-arg]
    assert len(prepared.prompts) == 5 and prepared.details["input_weights"] == "of the MLP"
    for prompt in prepared.prompts:
        first, second = prompt.tokens[:12], prompt.tokens[12:]
        assert first == second and prompt.fields["split"] == 12
        assert tuple(prompt.fields["corrupted"][12:]) == second
        assert tuple(prompt.fields["corrupted"][:12]) != first
    again = DirectFeatureAttribution(corpus="world", length=12).prepare(ClosedFormEngine(demo), 5, seed=3)  # type: ignore[arg-type,call-arg]
    assert again == prepared
    spans = [(*x.tokens[:12], *x.fields["corrupted"][:12]) for x in prepared.prompts]
    assert len(set(spans)) == 5


def test_spans_are_cut_to_the_positions_of_the_model(demo: Model) -> None:
    prepared = DirectFeatureAttribution(corpus="world", length=200).prepare(ClosedFormEngine(demo), 2, seed=0)  # type: ignore[arg-type,call-arg]
    assert len(prepared.prompts[0].tokens) == 256
    assert any("128 tokens" in step.why and "200 were asked for" in step.why for step in prepared.steps)


def test_outcomes_are_means_over_neurons_and_the_second_half(demo: Model) -> None:
    engine = ClosedFormEngine(demo, batch_size=2)
    task = DirectFeatureAttribution(corpus="world", length=5)  # type: ignore[arg-type,call-arg]
    prompts = task.prepare(engine, 3, seed=0).prompts
    neurons = (Neuron(3, 8), Neuron(1, 2))
    conditions = [BASELINE, Condition("treated", units=neurons), *(Condition("alone", units=(x,)) for x in neurons)]
    found = task.observe(engine, prompts, conditions)
    assert set(component_names(found.values)) == {
        "embedding", "attention biases", *(f"L{i}H{h}" for i in range(4) for h in range(4)), "MLP 0", "MLP 1", "MLP 2"
    }  # fmt: skip
    for name, values in found.values.items():
        assert not values[0].any()
        np.testing.assert_allclose(values[1], values[2:].mean(0), rtol=1e-4, atol=1e-6, err_msg=name)
    assert not found["induction L2H0"][3].any(), "what comes after a neuron does not contribute to it"
    for row, neuron in ((2, neurons[0]), (3, neurons[1])):
        for kind, ids in (("induction", prompts[1].tokens), ("corrupted", prompts[1].fields["corrupted"])):
            slow = slowly(demo, _NEOX, neuron.layer, neuron.index, list(ids))[5:]
            for name in slow[0]:
                wanted = np.mean([position[name] for position in slow])
                assert found[f"{kind} {name}"][row, 1] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_heads_are_refused(demo: Model) -> None:
    with pytest.raises(HarnessError, match="the task dfa attributes the input of neurons, but heads were selected"):
        DirectFeatureAttribution(corpus="world").alone(Selection((Head(1, 1),), rule=""), demo)  # type: ignore[arg-type,call-arg]


# -- the metric --------------------------------------------------------------------------------------------------------


def made(n_components: int, n_controls: int = 4, seed: int = 0) -> Outcomes:
    rng = np.random.default_rng(seed)
    shape = (2 + n_controls, 6)
    names = [f"{kind} L0H{i}" for i in range(n_components) for kind in ("induction", "corrupted")]
    names += [f"{kind} {x}" for x in ("pre-activation", "activation") for kind in ("induction", "corrupted")]
    values = {name: rng.standard_normal(shape).astype(np.float32) for name in names}
    for array in values.values():
        array[0] = 0
    prompts = tuple(Prompt(str(i), "", (1, 2), str(i)) for i in range(6))
    conditions = ("baseline", "treated", *(f"control-{i:04d}" for i in range(n_controls)))
    return Outcomes(conditions, prompts, values, selection=Selection((Neuron(0, 1),), rule=""))


def primary(outcomes: Outcomes, family: int = 3) -> set[str]:
    return {x.name for x in Attributions(family=family).measure(outcomes).measures if x.primary}


def test_measures_are_the_paired_differences() -> None:
    outcomes = made(2)
    [first, *_] = Attributions().measure(outcomes).measures
    assert first.name == "dfa_L0H0" and first.primary
    wanted = (outcomes["induction L0H0"].astype(float) - outcomes["corrupted L0H0"]).mean(1)
    np.testing.assert_allclose(first.values, wanted, rtol=1e-6)


@given(st.integers(0, 2**16), st.integers(0, 3))
def test_the_tested_components_do_not_know_which_set_is_selected(seed: int, control: int) -> None:
    outcomes = made(8, seed=seed)
    order = np.arange(6)
    order[[1, 2 + control]] = order[[2 + control, 1]]
    exchanged = replace(outcomes, values={name: array[order] for name, array in outcomes.values.items()})
    assert primary(outcomes) == primary(exchanged)
    assert len(primary(outcomes)) == 3
    assert len(primary(outcomes, family=8)) == 8


def test_the_largest_components_are_tested() -> None:
    outcomes = made(6)
    outcomes.values["induction L0H4"][3] += 100  # type: ignore[index]
    assert "dfa_L0H4" in primary(outcomes, family=1)
    assert "1 of 6 components are tested" in Attributions(family=1).measure(outcomes).remarks[0]


def test_components_are_in_the_order_of_the_model() -> None:
    names = ["MLP 10", "L10H0", "L2H11", "attention biases", "MLP 2", "embedding", "L2H2"]
    values = {f"induction {x}": np.zeros(1) for x in (*names, "activation", "pre-activation")}
    ordered = ["embedding", "attention biases", "L2H2", "L2H11", "L10H0", "MLP 2", "MLP 10"]
    assert component_names(values) == ordered


@pytest.mark.filterwarnings("error")
def test_error_bars_of_few_sequences_are_students() -> None:
    values = np.array([[[0.0] * 4, [1.0, 2.0, 4.0, 5.0]]])
    names = [f"{kind} {x}" for kind in ("induction", "corrupted") for x in ("L0H0", "activation")]
    outcomes = dict.fromkeys(names, values[0])
    data = _bars(["L0H0"], outcomes, 1, "1.2").data
    half = 3.182446305 * np.std([1, 2, 4, 5], ddof=1) / 2  # the normal's 1.96 covers 85% of the time with 4 sequences
    assert (data["induction_ci_low"][0], data["induction_ci_high"][0]) == pytest.approx((3 - half, 3 + half))
    alone = _bars(["L0H0"], {name: x[:, :1] for name, x in outcomes.items()}, 1, "1.2").data
    assert (
        alone["induction"][0] == 1.0 and np.isnan([alone["induction_ci_low"][0], alone["induction_ci_high"][0]]).all()
    )


def test_a_run(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    flags = ["--task", "dfa:length=10,sequences=12", "--selector", "neurons:neurons=[3.1,3.9]", "--controls", "5"]
    records = []
    for name in ("a", "b"):
        code, out, err = harness("eval", *flags, "--output_path", tmp_path / name, "--json", "--quiet")
        assert code == 0, err
        records.append(json.loads(out))
    folders = [next(path for path in (tmp_path / x).iterdir() if path.is_dir()) for x in ("a", "b")]
    for name in ("outcomes.safetensors", "result.json", "tables/dfa.csv", "figures/dfa-selection.svg"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    measures = {row["name"]: row for row in records[0]["measures"]}
    parts = [row["value"] for name, row in measures.items() if row["primary"]]
    assert len(parts) == 21
    # The biases of the norm and of the input weights cancel between induction and corrupted sequences.
    assert sum(parts) == pytest.approx(measures["dfa_pre_activation"]["value"], abs=1e-4)
    header = (folders[0] / "tables" / "dfa.csv").read_text().splitlines()[0]
    assert header.endswith("controls_mean,controls_sd,3.1,3.9")
