"""What was planted is found, with the mediated fractions that algebra predicts; nothing is found where nothing was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import planted as garden
import pytest
import torch
from families import tokenizer
from planted import ENTROPY, FALLING, FREQUENCY, QUIET, RISING, SHIFT, Planted, planted, texts, token_counts
from slow_confidence import Slow, entropy, kept, log_softmax
from small_runs import all_finite, finish, measures, prompts, record, table

from harness.conditions.conditions import BASELINE, Condition, Selection, SetNeurons
from harness.conditions.units import Neuron
from harness.effects.sweep import effects
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.weight_scores import suggest_null_dims, unembedding_geometry
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Intervention, SelectionContext, Selector
from harness.plugin.specs import parse_spec

MODELS = [("gpt2", 1.0), ("gpt2", QUIET), ("llama", 1.0)]
LAYER = 1


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return garden.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module", params=MODELS, ids=lambda x: f"{x[0]}-{x[1]:g}")
def grown(request: pytest.FixtureRequest) -> Planted:
    return planted(*request.param)


def select(model: Any, spec: str) -> Selection:
    selector = catalogue().build(Selector, parse_spec(spec, "it"), "it")
    assert isinstance(selector, Selector)
    return selector.select(SelectionContext(model, ClosedFormEngine(model, 64), [], 0))


def chosen(selection: Selection) -> list[int]:
    return sorted(unit.index for unit in selection.units)


# -- selectors ---------------------------------------------------------------------------------------------------------


def test_the_construction_is_what_it_says(grown: Planted) -> None:
    """The weights of the model, in float32, are those of the algebra; every planted neuron is active."""
    slow = Slow(grown.hf)
    W = slow.W_U * slow.gain
    W = W - W.mean(0)
    assert np.abs(W - grown.folded).max() < 1e-5 * np.abs(grown.folded).max()
    outward = grown.writes @ W.T  # [D_MLP, V], what each neuron does to the logits but for the norm
    size, unit = np.abs(grown.folded).max(), grown.v / np.linalg.norm(grown.v)
    assert np.abs(outward[list(ENTROPY)]).max() < 1e-5 * size * np.abs(grown.writes).max()
    for i in FREQUENCY:
        np.testing.assert_allclose(outward[i], (outward[i] @ unit) * unit, atol=1e-5 * np.abs(outward[i]).max())
    rest = [i for i in range(garden.D_MLP) if i not in (*ENTROPY, *FREQUENCY)]
    assert np.abs(outward[rest] @ unit).max() < 1e-5 * size
    activations = np.concatenate([slow.run(tokenizer()(text)["input_ids"][:48]).neurons[LAYER] for text in texts()[:4]])
    assert activations[:, list(grown.roles)].std(0).min() > 0.03


@pytest.mark.parametrize("rule", ["stolfo2024", "tighidet2025", "du2025", "mediated"])
def test_entropy_neurons_are_found(grown: Planted, rule: str, corpus: str) -> None:
    measured = f",corpus={corpus},sequences=8,length=48,effect_quantile=0.5" if rule == "mediated" else ""
    selection = select(grown.model(), f"entropy:top=3,rule={rule}{measured}")
    assert chosen(selection) == list(ENTROPY)
    null = garden.NULL + grown.layernorm
    assert selection.details["null_dims"] == null
    assert f"null space: {null} of 64 directions (the spectrum of W_U drops" in selection.rule
    rho = selection.scores["rho"]
    np.testing.assert_allclose(rho[list(ENTROPY)], 1, atol=1e-6)
    assert np.delete(rho, ENTROPY).max() < 1e-4
    if rule == "mediated":
        np.testing.assert_allclose(selection.scores["norm_mediated"][list(ENTROPY)], 1, atol=1e-3)
        assert np.nanmax(np.delete(selection.scores["norm_mediated"], ENTROPY)) < 0.5


def test_token_frequency_neurons_are_found(grown: Planted, corpus: str) -> None:
    selection = select(
        grown.model(), f"token_frequency:top=3,corpus={corpus},sequences=8,length=48,effect_quantile=0.5"
    )
    assert chosen(selection) == list(FREQUENCY)
    mediated, cosine = selection.scores["frequency_mediated"], selection.scores["v_freq_cosine"]
    np.testing.assert_allclose(np.abs(cosine[list(FREQUENCY)]), 1, atol=1e-5)
    assert np.sign(cosine[list(FREQUENCY)]).tolist() == [1, -1, 1]
    assert mediated[list(FREQUENCY)].min() > 0.85 and np.nanmax(np.delete(mediated, FREQUENCY)) < 0.5


def test_neurons_that_follow_the_position_are_found(corpus: str) -> None:
    model = planted().model()
    selection = select(model, f"activation_shift:top=3,corpus={corpus},sequences=8,length=24")
    assert chosen(selection) == sorted(SHIFT)
    shift = selection.scores["shift"]
    assert (shift[list(RISING)] > 0).all() and (shift[list(FALLING)] < 0).all()


def test_an_induction_head_is_found() -> None:
    """A previous-token head and an induction head by hand, and a head that attends to the first token."""
    selection = select(garden.induction_circuit(), "induction_heads:top=1,sequences=4,length=15")
    assert [str(head) for head in selection.units] == ["L1H1"]
    assert [str(head) for head in selection.pool or ()] == ["L1H2"]
    scores = dict(zip(map(str, selection.candidates), selection.scores["prefix_matching"], strict=True))
    # The first token's own head reads it as its predecessor: one of 15 queries finds two keys.
    assert scores.pop("L1H1") == pytest.approx(14.5 / 15, abs=0.01)
    assert max(scores.values()) < 0.1


# -- mediated fractions ------------------------------------------------------------------------------------------------


def predicted(grown: Planted, sequences: list[list[int]]) -> dict[str, np.ndarray]:
    """What mean ablation of every neuron does, from the construction: z and the activations are all that is observed.

    With s = denominator before / after and l = W z / denominator + beta,

        total           s (l - beta) + beta + d / after       d = 0, (a C / ||v||) v or (mean - n) W w
        norm held       l + d / before
        frequency held  the same as total, but for d of a frequency neuron, less (s - 1) C (z . u_f) / before along v
    """
    slow = Slow(grown.hf)
    unit = grown.v / np.linalg.norm(grown.v)
    u_f = grown.folded.T @ unit / grown.scale
    beta = slow.W_U @ slow.bias
    p_freq = (token_counts(texts()) + 1) / (token_counts(texts()) + 1).sum()
    mean = slow.means(sequences, LAYER)
    passes = [(slow.run(tokens), kept(tokens, {257, 258, newline()}), tokens) for tokens in sequences]
    z = np.concatenate([x.residual[here] for x, here, _ in passes])
    z = z - z.mean(1, keepdims=True) if grown.layernorm else z
    n = np.concatenate([x.neurons[LAYER][here] for x, here, _ in passes])
    target = np.concatenate([np.array(tokens)[np.array(here) + 1] for _, here, tokens in passes])
    before = np.sqrt((z**2).mean(1) + grown.eps)
    spread = (z @ grown.folded.T) / before[:, None]  # l - beta
    log_p = log_softmax(spread + beta)
    names = ("total_effect", "direct_effect", "direct_effect_frequency", "entropy_change", "kl_unigram_change")
    found: dict[str, list[float]] = {name: [] for name in names}
    for i, w in enumerate(grown.writes):
        w = w - w.mean() if grown.layernorm else w
        delta = mean[i] - n[:, i]
        after = np.sqrt(before**2 + (2 * delta * (z @ w) + delta**2 * (w @ w)) / len(w))
        s = (before / after)[:, None]
        d = np.zeros_like(spread)
        if grown.roles.get(i) == "frequency":
            d = (delta * (w @ u_f) * grown.scale)[:, None] * unit
        elif grown.roles.get(i) != "entropy":
            d = delta[:, None] * (grown.folded @ w)
        along = (s - 1) * (grown.scale * (z @ u_f) / before)[:, None] * unit
        scaled = s * spread + beta
        total = log_softmax(scaled + d / after[:, None])
        norm_held = log_softmax(spread + beta + d / before[:, None])
        own = 0.0 if grown.roles.get(i) == "frequency" else d / after[:, None]
        held = log_softmax(scaled + own - along)
        rows = np.arange(len(target))
        for name, x in zip(names[:3], (total, norm_held, held), strict=True):
            found[name].append(np.abs(log_p[rows, target] - x[rows, target]).mean())
        found["entropy_change"].append((entropy(total) - entropy(log_p)).mean())
        found["kl_unigram_change"].append(((log_p - total) @ p_freq).mean())
    return {name: np.array(values) for name, values in found.items()}


def newline() -> int:
    return int(tokenizer()("\n")["input_ids"][0])


@pytest.fixture(scope="module")
def run_of(grown: Planted, corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mediation on every neuron of a planted model."""
    folder = tmp_path_factory.mktemp("planted")
    task = f"mediation:frequency=true,sequences=16,length=40,corpus={corpus}"
    return finish(folder, model=grown.save(folder / "model"), task=task, selector="entropy:top=3,rule=stolfo2024",
                  intervention="mean", controls=299)  # fmt: skip


def test_mediated_fractions_are_those_of_the_algebra(grown: Planted, run_of: Path) -> None:
    found, expected = table(run_of, "neurons"), predicted(grown, prompts(run_of))
    order = np.argsort([Neuron.parse(name).index for name in found["neuron"]])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][order], values, atol=2e-5, err_msg=name)
    strong = expected["total_effect"] > 0.01
    assert strong[list(grown.roles)].all() and strong.sum() > 50
    for name, direct in (("norm_mediated", "direct_effect"), ("frequency_mediated", "direct_effect_frequency")):
        fraction = 1 - expected[direct] / expected["total_effect"]
        np.testing.assert_allclose(found[name][order][strong], fraction[strong], atol=1e-3, err_msg=name)
    norm, frequency = (found[name][order] for name in ("norm_mediated", "frequency_mediated"))
    np.testing.assert_allclose(norm[list(ENTROPY)], 1, atol=1e-3)
    if grown.scale > 20:  # quiet: the norm does not hear the frequency neurons
        np.testing.assert_allclose(frequency[list(FREQUENCY)], 1, atol=1e-3)
        np.testing.assert_allclose(norm[list(FREQUENCY)], 0, atol=1e-3)


def test_the_run_says_that_they_act_through_the_norm(grown: Planted, run_of: Path) -> None:
    assert all_finite(record(run_of))
    found = measures(run_of)
    assert found["norm_mediated"]["value"] == pytest.approx(1, abs=1e-3)
    assert found["norm_mediated"]["verdict"] == "more than random"
    assert found["norm_mediated"]["p_greater"] == pytest.approx(1 / 300)
    assert found["frequency_mediated"]["verdict"] != "more than random" or grown.scale > 20


@pytest.mark.parametrize("engine", [ClosedFormEngine, HookEngine])
@pytest.mark.parametrize(
    "spec", ["mean", "zero", "median", "mean_plus_sigma", "scale:factor=-2", "resample", "clip_mean:side=below"]
)
def test_no_intervention_has_a_direct_effect_where_none_was_planted(spec: str, engine: Any, corpus: str) -> None:
    """Entropy neurons with the norm held, quiet frequency neurons with the frequencies held: nothing is left."""
    from harness.engine.activation_summaries import activation_statistics

    model = planted("gpt2", QUIET).model()
    tokens = [tokenizer()(text)["input_ids"][:40] for text in texts()[:3]]
    statistics = activation_statistics(model, tokens, [LAYER], 64, 0)
    join = "," if ":" in spec else ":"
    for role, frozen in ((ENTROPY, "frozen=final_norm"), (FREQUENCY, f"frozen=unigram,corpus={corpus}")):
        conditions = [BASELINE]
        for name in (spec, f"{spec}{join}{frozen}"):
            intervention = catalogue().build(Intervention, parse_spec(name, "it"), "it")
            assert isinstance(intervention, Intervention)
            edits = intervention.edits([Neuron(LAYER, i) for i in role], statistics)
            conditions.append(Condition(name, edits, frozen=intervention.freeze(model)))
        loss = engine(model, 64).score(tokens, conditions).loss
        assert np.abs(loss[1] - loss[0]).mean() > 0.02
        assert np.abs(loss[2] - loss[0]).max() < 2e-3 * np.abs(loss[1] - loss[0]).max()


# -- nothing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nothing_is_found_where_nothing_was_planted(family: str, corpus: str, tmp_path: Path) -> None:
    empty = planted(family, plant=False)
    geometry = unembedding_geometry(empty.model())
    k, why = suggest_null_dims(geometry.singular_values, geometry.trivial)
    assert k == 1 + geometry.trivial and why.startswith("1% of d_model")
    common: dict[str, Any] = {"model": empty.save(tmp_path / "model"), "intervention": "mean", "controls": 299}
    for selector in ("entropy:top=3,rule=stolfo2024", f"activation_shift:top=3,length=24,sequences=8,corpus={corpus}"):
        task = f"mediation:frequency=true,sequences=16,length=40,others=40,corpus={corpus}"
        folder = finish(tmp_path, task=task, selector=selector, **common)
        found = measures(folder)
        verdicts = {name: row["verdict"] for name, row in found.items() if row["primary"]}
        assert set(verdicts) == {
            "total_effect", "norm_mediated", "entropy_change", "frequency_mediated", "kl_unigram_change", "ece",
            "loss_beyond",
        }  # fmt: skip
        assert not {"more than random", "less than random", "opposite direction", "model broken"} & set(
            verdicts.values()
        ), verdicts
        rows = table(folder, "neurons")
        picked = rows["selected"]
        assert picked.sum() == 3
        low, high = np.quantile(rows["norm_mediated"][~picked], [0, 1])
        assert (rows["norm_mediated"][picked] > low - 0.1).all() and (rows["norm_mediated"][picked] < high + 0.1).all()
        if "rho" in rows:
            assert np.nanmax(rows["rho"]) < 0.5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_frequency_neurons_the_best_of_the_others_are_far_from_them(
    family: str, corpus: str, tmp_path: Path
) -> None:
    """A selector that ranks by the measured fraction finds the largest ones, on other texts, too: more than random
    neurons' but an order of magnitude below what is planted. Nothing else is more than random."""
    empty = planted(family, plant=False)
    selector = f"token_frequency:top=3,corpus={corpus},sequences=8,length=48,effect_quantile=0.5"
    selection = select(empty.model(), selector)
    assert np.abs(selection.scores["v_freq_cosine"]).max() < 0.4
    assert np.nanmax(selection.scores["frequency_mediated"]) < 0.3
    task = f"mediation:frequency=true,sequences=16,length=40,others=0,corpus={corpus}"
    found = measures(finish(tmp_path, model=empty.save(tmp_path / "model"), task=task, selector=selector,
                            intervention="mean", controls=299))  # fmt: skip
    assert found["frequency_mediated"]["value"] < 0.2
    assert {name for name, row in found.items() if row.get("verdict") == "more than random"} <= {"frequency_mediated"}


def test_the_hook_that_reads_the_planted_model_reads_its_logits(grown: Planted) -> None:
    """The slow reference itself: its logits are the model's."""
    ids = tokenizer()(texts()[0])["input_ids"][:40]
    with torch.no_grad():
        logits = grown.hf(torch.tensor([ids])).logits[0].numpy()
    mine = Slow(grown.hf).run(ids).logits
    np.testing.assert_allclose(log_softmax(mine), log_softmax(logits.astype(float)), atol=2e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_keep_their_digits_where_all_that_was_likely_becomes_unlikely(family: str) -> None:
    """A much larger denominator, and a push along v: sums relative to the untouched distribution must not cancel."""
    model = planted(family, QUIET).model()
    tokens = [tokenizer()(text)["input_ids"][:24] for text in texts()[:2]]
    conditions = [
        Condition(f"{i}", (SetNeurons(LAYER, (i,), (sign * size,)),))
        for i in (ENTROPY[0], FREQUENCY[0])
        for sign in (-1, 1)
        for size in (3.0, 20.0)
    ]
    found = effects(model, tokens, conditions, ("total",))
    scores = HookEngine(model).score(tokens, [BASELINE, *conditions])
    assert np.abs(found.loss_change["total"]).max() > 40
    np.testing.assert_allclose(found.loss_change["total"], scores.loss[1:] - scores.loss[:1], atol=5e-4)
    np.testing.assert_allclose(found.entropy_change["total"], scores.entropy[1:] - scores.entropy[:1], atol=2e-4)
