"""The attribution of one sentence: by definition, what adds up, targets and units by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from families import tiny
from harness_plugins.knowledge_attribution import Attribution, attribute
from harness_plugins.knowledge_attribution.analysis.head_outputs import head_writes
from harness_plugins.knowledge_attribution.analysis.last_position import mlp_writes
from harness_plugins.knowledge_attribution.analysis.log_probability_increase import (
    Lens,
    neuron_increases,
    neuron_inner_products,
)
from harness_plugins.knowledge_attribution.sentence.paths import through_head
from slow_attribution import Slow, read

from harness.conditions.units import Head
from harness.errors import HarnessError

TEXT = "Hello there"
PARALLEL = {"gptj", "gpt_neox"}
FAMILIES = ["gpt2", "gptj", "llama_gqa_tied", "gemma2", "granite", "olmo2"]


def made(family: str) -> tuple[Attribution, Slow]:
    found = attribute(tiny(family), TEXT, top=6, values=4)
    return found, Slow(found.sentence.model, read(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_as_defined(family: str) -> None:
    found, slow = made(family)
    seen = slow.run(list(found.sentence.tokens))
    assert seen.target == found.sentence.target
    by_neuron, by_attention = slow.neurons(seen), slow.attention_neurons(seen)
    np.testing.assert_allclose(found.neurons["increase"], np.sort(by_neuron, axis=None)[:-7:-1], rtol=2e-3, atol=3e-6)
    best = np.sort(np.concatenate([x.ravel() for x in by_attention]))[:-7:-1]
    np.testing.assert_allclose(found.attention_neurons["increase"], best, rtol=2e-3, atol=3e-6)
    np.testing.assert_allclose(found.sources, slow.by_source(seen), rtol=2e-3, atol=5e-6)
    log_p = [float(slow.log_p(seen.into[layer][-1], seen.denominator, seen.target)) for layer in found.lens["layer"]]
    np.testing.assert_allclose(found.lens["log_p"], log_p, rtol=1e-4)
    np.testing.assert_allclose(found.patterns.to_numpy()[0], _pattern(seen.patterns, found.heads["head"][0]), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_shares_of_what_a_value_neuron_reads_are_as_defined(family: str) -> None:
    found, slow = made(family)
    seen, last = slow.run(list(found.sentence.tokens)), found.sentence.layers[-1]
    expected = slow.neuron_shares(seen, last, 3, family in PARALLEL)
    agrees(found, f"{last}.3", expected)
    agrees(found, f"L{last}H1.2@1", slow.attention_shares(seen, last, 1, 2, 1))


def agrees(found: Attribution, name: str, expected: dict[str, list[float]]) -> None:
    query, n = found.query(name), len(found.sentence.layers)
    parts = query.parts.set_index("part")["share"]
    size = max(1.0, query.layers[["attention", "mlp"]].abs().to_numpy().max())
    for part in ("attention", "mlp"):
        padded = [*expected[part], *[0.0] * (n - len(expected[part]))]
        np.testing.assert_allclose(query.layers[part], padded, rtol=2e-3, atol=1e-3 * size)
    np.testing.assert_allclose(parts["embedding"], expected["embedding"], rtol=2e-3, atol=1e-3 * size)
    assert parts.sum() == pytest.approx(1.0, abs=1e-5 * size)
    single = query.shares  # the neurons' shares are those of the MLPs, without biases of the down projections
    assert single[-1].max() == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_through_a_head_is_as_defined(family: str) -> None:
    found, slow = made(family)
    seen, last = slow.run(list(found.sentence.tokens)), found.sentence.layers[-1]
    expected = slow.through_head(seen, (0, 5), last, 1)
    directions, activations, _ = found.sentence.neurons(0)
    arriving = through_head(found.sentence, Head(last, 1), activations[:, [5]] * directions[5])
    np.testing.assert_allclose(arriving, expected, rtol=2e-3, atol=1e-5 * float(expected.abs().max()) + 1e-9)
    path = found.path("0.5", f"L{last}H1")
    beside = seen.into[last][-1] + torch.cat([0 * expected[:1], expected])
    log_p = slow.log_p(beside, seen.denominator, seen.target).numpy()
    np.testing.assert_allclose(path["increase"], log_p[1:] - log_p[0], rtol=5e-3, atol=3e-6)
    assert list(path["token"]) == found.tokens


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "gemma2"])
def test_what_adds_up(family: str) -> None:
    found, _ = made(family)
    sentence, model = found.sentence, found.sentence.model
    chain = found.lens["log_p"][0] + found.layers[["attention", "mlp"]].to_numpy().sum()
    assert chain == pytest.approx(found.log_p, abs=1e-4)
    for of in ("attention", "neurons"):
        query = found.query(of)
        assert query.parts["share"].sum() == pytest.approx(1.0, abs=1e-4)
        assert query.parts["score"].sum() == pytest.approx(query.value_neurons["increase"].sum(), rel=1e-4)
        by_part = query.parts.set_index("part")["share"]
        assert query.layers["attention"].sum() == pytest.approx(by_part["attention"], abs=1e-6)
        assert query.layers["mlp"].sum() == pytest.approx(by_part["MLP"], abs=1e-6)
    # The neurons of a layer and the MLP's bias are the MLP: as writes, and in the target's logit.
    layer = sentence.layers[-1]
    writes = mlp_writes(model, sentence.states, layer)
    whole, bias = sentence.states.after[layer] - writes.residual, sentence.neurons(layer)
    rest = bias[2][-1] - bias[1][-1] @ bias[0]
    torch.testing.assert_close(writes.activations @ writes.directions + rest, whole, rtol=1e-4, atol=1e-5)
    if model.readout.cap is None:
        lens, target = Lens(model), sentence.states.target
        logit = float(lens.along(whole - rest, target)[0, 0] * lens.scale(sentence.states.denominator)[0])
        assert neuron_inner_products(model, sentence.states, layer).sum() == pytest.approx(logit, abs=1e-4)
    # All that a head reads, through the head, and its constant, are what it writes.
    head = Head(layer, 1)
    read = sentence.group.seen.inputs[sentence.keys.reads[layer]][0]
    norm, keys = sentence.keys.norms[layer], sentence.keys.rows[layer][head.index]
    constant = (norm.constant(keys) + sentence.keys.bias[layer][head.index]).float()
    patterns = sentence.group.patterns[layer][0, head.index].sum() * sentence.outputs[layer].share(
        model, sentence.states
    )
    through = (
        through_head(sentence, head, read).sum(0) + patterns * constant @ sentence.outputs[layer].directions[head.index]
    )
    torch.testing.assert_close(through, head_writes(model, sentence.states, layer)[0, 1], rtol=1e-3, atol=1e-5)


def test_kinds_and_single_value_neurons_agree() -> None:
    """The query scores of several value neurons are those of each, weighted by their increases."""
    found, _ = made("llama_gqa_tied")
    query = found.query("neurons")
    weighted = sum(
        found.query(name).shares * increase
        for name, increase in zip(query.value_neurons["neuron"], query.value_neurons["increase"], strict=True)
    )
    np.testing.assert_allclose(query.shares * query.increase, weighted, rtol=1e-4, atol=1e-7)
    single = found.query("1.4")
    assert single.increase == pytest.approx(
        neuron_increases(found.sentence.model, found.sentence.states, 1)[0, 4], abs=1e-6
    )
    assert single.title == "1.4"
    chosen = found.attention_neurons.iloc[0]
    placed = found.query(f"{chosen['neuron']}@{chosen['position']}")
    assert placed.increase == pytest.approx(chosen["increase"], abs=1e-6)
    assert found.query(chosen["neuron"]).value_neurons["position"][0] == chosen["position"]


def test_neurons_that_are_query_and_value_neurons_are_counted_by_layer() -> None:
    found, _ = made("llama_gqa_tied")
    query = attribute(found.sentence.model, TEXT, top=5, values=8).query("neurons")
    first = set(np.argsort(-query.shares, axis=None, kind="stable")[:8].tolist())
    d_mlp = query.shares.shape[1]
    value = {int(a) * d_mlp + int(b) for a, _, b in (x.partition(".") for x in query.value_neurons["neuron"])}
    assert query.roles["both"].sum() == len(first & value)
    assert query.roles["query_only"].sum() == len(first - value)
    assert query.roles["value_only"].sum() == len(value - first)


def test_another_target_is_attributed_from_the_same_pass() -> None:
    found, _ = made("llama_gqa_tied")
    model = found.sentence.model
    with torch.no_grad():
        first, second = model.forward(model.pad([list(found.sentence.tokens)])).logits[0, -1].topk(2).indices.tolist()
    other = found.aimed_at(second)
    assert (found.rank, other.rank) == (1, 2) and found.sentence.target == first
    assert list(found.predicted["token"][:2]) == [found.target, other.target]
    assert other.sentence.tokens == found.sentence.tokens and found.sentence.target != other.sentence.target
    assert other.log_p == pytest.approx(found.predicted["log_p"][1], abs=1e-5)
    chain = other.lens["log_p"][0] + other.layers[["attention", "mlp"]].to_numpy().sum()
    assert chain == pytest.approx(other.log_p, abs=1e-4)
    assert not np.allclose(other.head_map, found.head_map)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (lambda model: attribute(model, "  "), "the sentence is empty"),
        (lambda model: attribute(model, "x" * 4000), "positions"),
        (lambda model: attribute(model, TEXT, ""), "target: the text is empty"),
        (lambda model: attribute(model, TEXT, 10**6), "expected a token from 0 to"),
        (lambda model: attribute(model, TEXT, " quixotic"), 'give one token, for example the first: "'),
        (lambda model: attribute(model, TEXT, top=0), "top: expected 1 to"),
        (lambda model: attribute(model, TEXT, values=10**9), "values: expected 1 to"),
        (lambda model: attribute(model, TEXT).query("9.1"), r"9\.1 is not in .*layers, 0 to"),
        (lambda model: attribute(model, TEXT).query("0.999"), r"0\.999 is not in .*: neurons in a layer are 0 to"),
        (lambda model: attribute(model, TEXT).query("L0H99.1"), "heads in a layer are 0 to"),
        (lambda model: attribute(model, TEXT).query("L0H1.999"), "coordinates of a head are 0 to"),
        (lambda model: attribute(model, TEXT).query("L0H1.1@99"), "positions in this sentence are 0 to"),
        (lambda model: attribute(model, TEXT).query("heads"), '"heads" is no value neuron'),
        (lambda model: attribute(model, TEXT).path("1.0", "L1H0"), "expected a head of a later layer"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: object, says: str) -> None:
    with pytest.raises(HarnessError, match=says):
        asked(tiny("gpt2"))  # type: ignore[operator]


def test_a_model_without_a_sum_is_refused() -> None:
    with pytest.raises(HarnessError, match="no sum of what its layers write"):
        attribute(tiny("opt_350m"), TEXT)


def _pattern(patterns: list[torch.Tensor], name: str) -> np.ndarray:
    head = Head.parse(name)
    return patterns[head.layer][head.index].numpy()
