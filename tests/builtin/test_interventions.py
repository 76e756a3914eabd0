"""Interventions: which constant, clipped and exchanged how; and that every engine makes the same of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engines import same_generations, same_scores, some_prompts
from families import tiny
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Selection, SetNeurons
from harness.conditions.head_edits import AttendFirst, SetHeads
from harness.conditions.neuron_edits import BINS, KNOTS, ClampNeurons, ExchangeNeurons, exchange
from harness.conditions.units import Head, Neuron
from harness.engine.activation_summaries import ActivationStatistics, HeadStatistics, activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError
from harness.plugin import ModelLoader
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention
from harness.plugin.specs import ComponentSpec

NEURONS = [Neuron(1, 2), Neuron(0, 1), Neuron(1, 0)]
X = {0: np.array([[0.0, 1, 2], [0, 3, 2], [0, 5, 9]]), 1: np.array([[-4.0, 1, 0], [-4, 1, 0], [8, 1, 90]])}


def statistics() -> ActivationStatistics:
    return ActivationStatistics(
        n=3,
        mean={layer: x.mean(0) for layer, x in X.items()},
        std={layer: x.std(0, ddof=1) for layer, x in X.items()},
        minimum={layer: x.min(0) for layer, x in X.items()},
        maximum={layer: x.max(0) for layer, x in X.items()},
        sample={layer: x.astype(np.float32) for layer, x in X.items()},
    )


def build(name: str, **params: object) -> Intervention:
    found = catalogue().build(Intervention, ComponentSpec(name, params), "--intervention")
    assert isinstance(found, Intervention)
    return found


def values(name: str, **params: object) -> dict[Neuron, float]:
    intervention = build(name, **params)
    edits = intervention.edits(NEURONS, statistics())
    assert all(isinstance(edit, SetNeurons) for edit in edits)
    assert [edit.layer for edit in edits] == [0, 1]
    return {Neuron(e.layer, i): v for e in edits for i, v in zip(e.indices, e.values, strict=True)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [30.0, 3.0, 0.0]),
        ("median", [0.0, 3.0, -4.0]),
        ("mode", [0.0, 3.0, -4.0]),
        ("zero", [0.0, 0.0, 0.0]),
    ],
)
def test_constants(name: str, expected: list[float]) -> None:
    found = values(name)
    assert [found[neuron] for neuron in NEURONS] == pytest.approx(expected)


def test_three_sigmas_stop_at_what_was_observed() -> None:
    low, high = values("mean_minus_sigma"), values("mean_plus_sigma")
    for neuron in NEURONS:
        column = X[neuron.layer][:, neuron.index]
        assert low[neuron] == column.min()  # three of three points are never three sigmas away
        assert high[neuron] == column.max()
    half = values("mean_plus_sigma", sigmas=0.5)
    assert half[Neuron(0, 1)] == pytest.approx(3 + 0.5 * 2)


def test_an_edit_replaces_values_and_keeps_shape_and_type() -> None:
    edit = SetNeurons(0, (4, 7), (1.5, -2.0))
    x = torch.zeros(2, 3, 2, dtype=torch.bfloat16)
    out = edit.apply(x)
    assert out.shape == x.shape and out.dtype == x.dtype
    assert out[..., 0].eq(1.5).all() and out[..., 1].eq(-2).all()


# -- clipping and scaling ----------------------------------------------------------------------------------------------


def applied(edit: Any, x: list[float]) -> list[float]:
    """An edit of one neuron, applied to its activations."""
    new = edit.apply(torch.tensor(x)[:, None])
    assert new.shape == (len(x), 1)
    return new[:, 0].tolist()


def test_clipping_touches_one_side_of_the_mean() -> None:
    neuron, x = [Neuron(0, 1)], [-9.0, 2.5, 3.0, 3.5, 100.0]  # its mean is 3
    [above], [below] = (build("clip_mean", side=side).edits(neuron, statistics()) for side in ("above", "below"))
    assert applied(above, x) == [-9.0, 2.5, 3.0, 3.0, 3.0]
    assert applied(below, x) == [3.0, 3.0, 3.0, 3.5, 100.0]
    assert build("clip_mean").edits(neuron, statistics()) == (above,)


def test_each_neuron_is_clipped_on_the_side_of_its_own_shift() -> None:
    """Also controls, which are not selected: the selector has measured all candidates."""
    candidates = tuple(Neuron(1, i) for i in range(3))
    selection = Selection(candidates[:1], "r", candidates, {"shift": np.array([0.5, -2.0, 0.0])})
    clip = build("clip_mean", side="shift").prepare(selection)
    [edit] = clip.edits([Neuron(1, 0), Neuron(1, 1)], statistics())
    assert edit == ClampNeurons(1, (0, 1), (-np.inf, 1.0), (0.0, np.inf))
    with pytest.raises(HarnessError, match=r"measured no shift of neuron 0\.1"):
        clip.edits([Neuron(0, 1)], statistics())
    with pytest.raises(HarnessError, match="side=shift needs a selector that measures shifts"):
        build("clip_mean", side="shift").prepare(Selection(candidates[:1], "r"))
    for side in ("above", "below"):
        plain = build("clip_mean", side=side)
        assert plain.prepare(Selection(candidates[:1], "r")) is plain


def test_the_run_tells_the_intervention_what_was_selected(harness: Any, tmp_path: Any, small_facts: Any) -> None:
    """A selector without shifts is refused with a sentence, before anything is measured."""
    task = f"knowledge_conflict:data={small_facts}"
    arguments = ["eval", "--task", task, "--selector", "random", "--output_path", tmp_path, "--limit", 20]
    code, _, err = harness(*arguments, "--intervention", "clip_mean:side=shift")
    assert code == 2 and "side=shift needs a selector that measures shifts" in err


def test_scaling() -> None:
    [edit] = build("scale", factor=-0.5).edits([Neuron(0, 1)], None)
    assert applied(edit, [2.0, -4.0, 0.0]) == [-1.0, 2.0, 0.0]
    for factor in ("nan", "inf"):
        with pytest.raises(HarnessError, match='parameter "factor" of scale'):
            build("scale", factor=factor)


# -- exchange ----------------------------------------------------------------------------------------------------------

SAMPLES = st.lists(st.integers(-1000, 1000), min_size=1, max_size=300).map(lambda x: np.array(x, np.float32) / 8)


def exchanged(sample: np.ndarray, x: np.ndarray, seed: int = 0) -> np.ndarray:
    edit = ExchangeNeurons.of(0, (0,), [exchange(sample, np.random.default_rng(seed))])
    return edit.apply(torch.from_numpy(x.astype(np.float32))[:, None])[:, 0].numpy()


@given(st.sets(st.integers(-10_000, 10_000), min_size=1, max_size=KNOTS), st.integers(0, 99))
def test_different_activations_change_places(values: set[int], seed: int) -> None:
    """The marginal distribution is kept exactly: the new values are a permutation of the old ones."""
    sample = np.array(sorted(values), np.float32) / 4
    np.testing.assert_allclose(np.sort(exchanged(sample, sample, seed)), sample, rtol=1e-6, atol=1e-5)


@given(SAMPLES, st.integers(0, 99))
def test_an_exchange_is_a_function_within_what_was_observed(sample: np.ndarray, seed: int) -> None:
    x = np.concatenate([sample, sample[::-1], [-1e6, 1e6, 0.03]])
    y = exchanged(sample, x, seed)
    np.testing.assert_array_equal(y[: len(sample)], y[len(sample) : 2 * len(sample)][::-1])
    for value, new in zip(x, y, strict=True):
        assert (y[x == value] == new).all()
    assert y.min() >= sample.min() and y.max() <= sample.max()
    heavy = [v for v in np.unique(sample) if (sample == v).sum() > max(1, len(sample) // BINS)]
    for value in heavy:  # no function can spread it, so it stays
        assert exchanged(sample, np.array([value]), seed)[0] == value


@given(st.integers(0, 20), st.sampled_from(["normal", "relu", "half"]))
def test_the_marginal_distribution_is_kept(seed: int, shape: str) -> None:
    """Of activations that were not in the sample, too; Kolmogorov distance of two samples of 4,000."""
    rng = np.random.default_rng(seed)
    sample, fresh = rng.normal(size=(2, 4000)).astype(np.float32)
    if shape == "relu":
        sample, fresh = np.maximum(sample, 0), np.maximum(fresh, 0)
    elif shape == "half":
        sample, fresh = sample.astype(np.float16).astype(np.float32), fresh.astype(np.float16).astype(np.float32)
    new = exchanged(sample, fresh, seed)
    grid = np.linspace(-3, 3, 200)
    distance = np.abs((fresh[:, None] <= grid).mean(0) - (new[:, None] <= grid).mean(0)).max()
    assert distance < 0.08  # two samples of one distribution: 0.03 in 95% of cases
    kept = fresh > 0 if shape == "relu" else np.ones(4000, bool)
    assert abs(np.corrcoef(fresh[kept], new[kept])[0, 1]) < 0.5  # 64 intervals in a random order
    assert shape != "relu" or (new[~kept] == 0).all()


def test_rounding_does_not_tip_an_exchange() -> None:
    """The function jumps half way between observed values, not at them."""
    sample = np.random.default_rng(0).normal(size=500).astype(np.float32)
    near = np.nextafter(sample, np.float32(9)), np.nextafter(sample, np.float32(-9))
    for moved in near:
        assert np.abs(exchanged(sample, moved) - exchanged(sample, sample)).max() < 1e-4


def test_an_exchange_is_a_matter_of_seed_and_neuron() -> None:
    x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    x[:, 1] = x[:, 0]
    seen = ActivationStatistics(200, {}, {}, {}, {}, {0: x, 1: x})
    activations = torch.from_numpy(x)

    def new(seed: int, layer: int = 0) -> torch.Tensor:
        [edit] = build("resample", seed=seed).edits([Neuron(layer, 0), Neuron(layer, 1)], seen)
        return edit.apply(activations)

    assert torch.equal(new(3), new(3))
    assert not torch.equal(new(3), new(4)) and not torch.equal(new(3), new(3, layer=1))
    assert not torch.equal(new(3)[:, 0], new(3)[:, 1])
    half = build("resample").edits([Neuron(0, 0), Neuron(0, 1)], seen)[0].apply(activations.bfloat16())
    assert half.dtype == torch.bfloat16 and half.shape == activations.shape
    broken = build("resample").edits([Neuron(0, 0)], seen)[0].apply(torch.tensor([[float("nan")]]))
    assert torch.isnan(broken).all()


# -- engines -----------------------------------------------------------------------------------------------------------

EVERY = [
    {"name": "mean"},
    {"name": "clip_mean", "side": "above"},
    {"name": "clip_mean", "side": "below"},
    {"name": "scale", "factor": -1.5},
    {"name": "resample", "seed": 5},
    {"name": "clip_mean", "frozen": "final_norm"},
    {"name": "resample", "frozen": "final_norm"},
]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2", "gpt_neox", "opt"])
def test_the_closed_form_equals_hooks(family: str) -> None:
    model, prompts = tiny(family), some_prompts(3)
    last = model.anatomy.n_layers - 1
    seen = activation_statistics(model, some_prompts(4, n=20), [last, 0], 8, 0)
    rng = np.random.default_rng(0)
    conditions = [BASELINE]
    for i, params in enumerate(EVERY):
        name = str(params["name"])
        intervention = build(name, **{key: value for key, value in params.items() if key != "name"})
        chosen = [Neuron(last, int(x)) for x in rng.choice(model.anatomy.d_mlp, size=3 + i % 3, replace=False)]
        edits = intervention.edits(chosen, seen)
        conditions.append(Condition(f"{i} {name}", edits, frozen=intervention.freeze(model)))
    fast, hooks = ClosedFormEngine(model, 4), HookEngine(model, 4)
    assert fast.path(conditions) == "closed_form"
    scores = hooks.score(prompts, conditions)
    same_scores(fast.score(prompts, conditions), scores)
    same_generations(fast.generate(prompts, conditions, 4), hooks.generate(prompts, conditions, 4))
    assert (np.abs(scores.loss[1:] - scores.loss[0]).max(axis=1) > 1e-4).all()  # every edit does something
    early = [Condition("early", build("resample").edits([Neuron(0, 1), Neuron(last, 2)], seen))]
    same_scores(fast.score(prompts, early), hooks.score(prompts, early))


# -- direct effects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "median", "mode", "zero", "clip_mean", "resample", "mean_plus_sigma"])
def test_every_neuron_intervention_can_be_frozen(name: str, tmp_path: Any) -> None:
    model = tiny("gpt2")
    assert build(name).freeze(model) is None
    norm = build(name, frozen="final_norm").freeze(model)
    assert norm is not None and norm.what == "final_norm" and norm.counts is None
    counts = np.random.default_rng(0).integers(0, 50, model.anatomy.d_vocab)
    np.save(tmp_path / "counts.npy", counts)
    unigram = build(name, frozen="unigram", unigram=str(tmp_path / "counts.npy")).freeze(model)
    assert unigram is not None and unigram.what == "unigram" and unigram.counts is not None
    np.testing.assert_allclose(unigram.counts, (counts + 1) / (counts + 1).sum())


def test_a_corpus_is_counted_where_no_file_is_given() -> None:
    model = catalogue().build(ModelLoader, ComponentSpec("demo", {}), "--model").load()  # type: ignore[attr-defined]
    found = build("mean", frozen="unigram", corpus={"name": "world", "size": 50}).freeze(model)
    assert found is not None and found.counts is not None
    assert found.counts.shape == (1280,) and found.counts.min() > 0 and found.counts.max() > 10 * found.counts.min()


def test_what_frequencies_are_counted_from_belongs_to_a_run(tmp_path: Any) -> None:
    np.save(tmp_path / "counts.npy", np.arange(5))
    frozen = build("mean", frozen="unigram", unigram=str(tmp_path / "counts.npy"))
    before = frozen.inputs()["unigram"]
    np.save(tmp_path / "counts.npy", np.arange(6))
    assert frozen.inputs()["unigram"] != before
    assert [key.split(".")[0] for key in build("mean", frozen="unigram", corpus="world").inputs()] == ["corpus"]
    assert build("mean").inputs() == {}


def test_what_freezing_needs_is_said() -> None:
    with pytest.raises(HarnessError, match='parameter "frozen" of mean: unigram needs token counts: give unigram=FILE'):
        build("mean", frozen="unigram")
    for frozen in ("final_norm", None):
        with pytest.raises(HarnessError, match="which only frozen=unigram uses"):
            build("mean", frozen=frozen, unigram="counts.npy")
    with pytest.raises(HarnessError, match="there is no such file"):
        build("mean", frozen="unigram", unigram="no.npy").freeze(tiny("gpt2"))


# -- heads -------------------------------------------------------------------------------------------------------------

HEADS = [Head(2, 1), Head(0, 3), Head(2, 0)]


def test_bos_attention_attends_to_the_first_token() -> None:
    intervention = build("bos_attention")
    assert intervention.site == "heads" and not intervention.needs_statistics
    assert intervention.edits(HEADS, None) == (AttendFirst(0, (3,)), AttendFirst(2, (1, 0)))


def test_mean_attention_output_sets_each_head_to_its_own_mean() -> None:
    means = {layer: np.arange(8.0).reshape(4, 2) + 100 * layer for layer in (0, 2)}
    edits = build("mean_attention_output").edits(HEADS, HeadStatistics(10, means))
    assert edits == (SetHeads(0, (3,), ((6.0, 7.0),)), SetHeads(2, (1, 0), ((202.0, 203.0), (200.0, 201.0))))
