"""The same weights in TransformerLens: an implementation that is not ours must find the same numbers.

TransformerLens runs one unpadded prompt at a time through its own hooks; the harness runs padded batches. Its side is
``benchmarks/published.py``, which times the same thing. Where it is not installed, only the plain sweep is checked.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
import torch
from checkout import ROOT
from families import FAMILIES, tiny

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine, under
from harness.model.model import Model

TEXTS = ("Once upon a time, there was a little girl named Lily.", "Tom had a dog.", "The sun was warm and bright")

MODELS = ["gpt2", "llama_gqa_tied", "stories260k"]


NOT_COMPARED = {
    "opt_350m": "no final norm, so no denominator to freeze",
    "helium": "TransformerLens 4.3 does not know it",
    "biogpt": "TransformerLens 4.3 does not know it",
    "olmo": "TransformerLens 4.3 fails at an edited scale of a norm without weights",
    "falcon_new": "TransformerLens 4.3 fails to split its biases",
    # transformers 5 puts ALiBi into the mask, and TransformerLens adds it again; we equal transformers bit by bit.
    "falcon_alibi": "TransformerLens 4.3 adds ALiBi twice",
}


def load_published() -> Any:
    """``benchmarks/published.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("published", ROOT / "benchmarks" / "published.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


published = load_published()


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return request.getfixturevalue("stories") if request.param == "stories260k" else tiny(request.param)


@pytest.fixture(scope="module")
def prompts(model: Model) -> list[list[int]]:
    """Of different lengths, so that ours are padded."""
    if model.anatomy.d_vocab == 512:
        return model.encode(TEXTS)
    rng = np.random.default_rng(0)
    return [rng.integers(3, 250, size=n).tolist() for n in (9, 2, 14, 5)]


def lens(model: Model, processed: bool = False) -> Any:
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed: pip install -e '.[oracle]'")
    return published.bridge(model, processed)


@pytest.fixture(scope="module")
def bridged(model: Model) -> Any:
    """The model in TransformerLens, weights as they are."""
    return lens(model)


@pytest.fixture(scope="module")
def processed(model: Model) -> Any:
    """The model in TransformerLens, weights folded and centred; see the test of what that is."""
    return lens(model, processed=True)


def conditions_of(model: Model) -> list[Condition]:
    """The untouched model, one neuron and a set of them, in the last layer, the first, and both at once."""
    last, d_mlp = model.anatomy.n_layers - 1, model.anatomy.d_mlp
    one, some = SetNeurons(last, (3,), (2.5,)), SetNeurons(last, (d_mlp - 1, 0, 17, 8), (-1.5, 0.0, 3.0, 0.25))
    early = SetNeurons(0, (5,), (-2.0,)), SetNeurons(0, (30, 2, 11), (1.0, 0.0, 4.0))
    return [
        BASELINE,
        Condition("one", (one,)),
        Condition("set", (some,)),
        Condition("early one", early[:1]),
        Condition("early set", early[1:]),
        Condition("two layers", (early[1], some)),
    ]


def in_last_layer(model: Model, condition: Condition) -> bool:
    return all(edit.layer == model.anatomy.n_layers - 1 for edit in condition.edits)


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@torch.no_grad()
def forward(model: Model, prompts: list[list[int]], condition: Condition) -> tuple[torch.Tensor, ...]:
    """Of one padded batch: logits, final residual, activations [batch, pos, n_layers, d_mlp] as they were used."""
    layers = range(model.anatomy.n_layers)
    with under(model, condition), model.capture_residual() as seen, model.capture_neurons(layers) as at:
        logits = model.forward(model.pad(prompts), logits_to_keep=0).logits
    return logits, seen.residual, torch.stack([at[layer] for layer in layers], 2)


def test_activations_residual_denominator_and_logits(model: Model, prompts: list[list[int]], bridged: Any) -> None:
    n_layers = model.anatomy.n_layers
    resid_post = f"blocks.{n_layers - 1}.hook_resid_post"
    names = [*(published.post(layer) for layer in range(n_layers)), resid_post, published.FINAL_SCALE]
    logits, residual, activations = forward(model, prompts, BASELINE)
    for row, tokens in enumerate(prompts):
        their_logits, seen = published.observe(bridged, tokens, names)
        real = slice(-len(tokens), None)
        for layer in range(n_layers):
            close(activations[row, real, layer], seen[published.post(layer)])
        close(residual[row, real], seen[resid_post])
        close(model.readout.denominator(residual[row, real]), seen[published.FINAL_SCALE])
        close(logits[row, real], their_logits)
        close(model.readout.logits(seen[resid_post]), their_logits)


def test_write_directions_and_unembedding(model: Model, bridged: Any) -> None:
    """Unprocessed, and in TransformerLens' layout: they are the same numbers."""
    for layer in range(model.anatomy.n_layers):
        assert torch.equal(bridged.blocks[layer].mlp.W_out, model.w_out(layer))
    assert torch.equal(bridged.W_U.T, model.readout.W_U)


def test_ablated_logits(model: Model, prompts: list[list[int]], bridged: Any) -> None:
    """By hooks for every edit; for the last layer also by algebra, from the untouched residual."""
    last = model.anatomy.n_layers - 1
    _, residual, activations = forward(model, prompts, BASELINE)
    for condition in conditions_of(model)[1:]:
        logits, edited, _ = forward(model, prompts, condition)
        moved = residual.clone()
        for edit in condition.edits:
            assert isinstance(edit, SetNeurons)
            at = list(edit.indices)
            moved += (torch.tensor(edit.values) - activations[:, :, last, at]) @ model.w_out(last)[at]
        for row, tokens in enumerate(prompts):
            theirs, real = published.hooked_logits(bridged, tokens, condition.edits), slice(-len(tokens), None)
            untouched, _ = published.observe(bridged, tokens, [])
            assert abs(theirs - untouched).max() > 1e-2, "an edit without effect tests nothing"
            close(logits[row, real], theirs)
            close(model.readout.logits(edited[row, real]), theirs)
            if in_last_layer(model, condition):
                close(model.readout.logits(moved[row, real]), theirs)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - NOT_COMPARED.keys()))
@torch.no_grad()
def test_every_family(family: str) -> None:
    """Activations, denominator, ablated logits, and the same with the untouched denominator."""
    model = tiny(family)
    bridged, prompts, last = lens(model), [[9, 8, 7, 33, 120, 5, 77], [200, 11, 60]], model.anatomy.n_layers - 1
    names = [published.post(last), published.FINAL_SCALE]
    _, residual, activations = forward(model, prompts, BASELINE)
    denominator = model.readout.denominator(residual)
    for layer in (0, last):
        condition = Condition("set", (SetNeurons(layer, (3, 8), (2.5, -1.0)),))
        logits, edited, _ = forward(model, prompts, condition)
        direct = model.readout.logits(edited, denominator=denominator)
        for row, tokens in enumerate(prompts):
            real, (_, seen) = slice(-len(tokens), None), published.observe(bridged, tokens, names)
            close(activations[row, real, last], seen[published.post(last)])
            close(denominator[row, real], seen[published.FINAL_SCALE])
            close(logits[row, real], published.hooked_logits(bridged, tokens, condition.edits))
            frozen = published.hooked_logits(bridged, tokens, condition.edits, seen[published.FINAL_SCALE])
            close(direct[row, real], frozen)


@pytest.mark.parametrize("engine", [HookEngine, ClosedFormEngine])
def test_loss_entropy_and_rank(engine: type[HookEngine], model: Model, prompts: list[list[int]], bridged: Any) -> None:
    conditions = conditions_of(model)
    for chosen in ([c for c in conditions if in_last_layer(model, c)], conditions):
        made = engine(model, batch_size=3)
        by_form = engine is ClosedFormEngine and len(chosen) < len(conditions)
        assert (made.path(chosen) == "closed_form") == by_form
        scores = made.score(prompts, chosen)
        for c, condition in enumerate(chosen):
            for i, tokens in enumerate(prompts):
                logits = published.hooked_logits(bridged, tokens, condition.edits)
                found = scores.prompt == i
                loss = bridged.loss_fn(logits[None], torch.tensor([tokens]), per_token=True)[0]
                np.testing.assert_allclose(scores.loss[c, found], loss, atol=1e-4)
                spread = torch.distributions.Categorical(logits=logits[:-1]).entropy()
                np.testing.assert_allclose(scores.entropy[c, found], spread, atol=1e-4)
                right = logits[:-1].gather(-1, torch.tensor(tokens[1:])[:, None])
                np.testing.assert_array_equal(scores.rank[c, found], (logits[:-1] > right).sum(-1))


@pytest.mark.parametrize("engine", [HookEngine, ClosedFormEngine])
def test_greedy_tokens(engine: type[HookEngine], model: Model, prompts: list[list[int]], bridged: Any) -> None:
    """Ours with padding and a cache (or a tree of prefixes), theirs with neither."""
    conditions = [condition for condition in conditions_of(model) if in_last_layer(model, condition)]
    made = engine(model, batch_size=3).generate(prompts, conditions, 4)
    for c, condition in enumerate(conditions):
        for i, prompt in enumerate(prompts):
            tokens = list(prompt)
            for _ in range(4):
                tokens.append(int(published.hooked_logits(bridged, tokens, condition.edits)[-1].argmax()))
            assert made.tokens[c, i].tolist() == tokens[len(prompt) :]


def effects_in_transformer_lens(
    bridged: Any, prompts: list[list[int]], condition: Condition
) -> dict[str, dict[str, torch.Tensor]]:
    """``{"baseline" | "total" | "direct": {"loss", "entropy"}}``, each [n_tokens], of every token but the first.

    Direct: the final norm divides by the denominators of the untouched run.
    """
    found: dict[str, dict[str, list[torch.Tensor]]] = {}
    for tokens in prompts:
        logits, seen = published.observe(bridged, tokens, [published.FINAL_SCALE])
        runs = {
            "baseline": logits,
            "total": published.hooked_logits(bridged, tokens, condition.edits),
            "direct": published.hooked_logits(bridged, tokens, condition.edits, seen[published.FINAL_SCALE]),
        }
        for name, run in runs.items():
            kept = found.setdefault(name, {"loss": [], "entropy": []})
            kept["loss"].append(bridged.loss_fn(run[None], torch.tensor([tokens]), per_token=True)[0].detach())
            kept["entropy"].append(torch.distributions.Categorical(logits=run[:-1].detach()).entropy())
    return {name: {key: torch.cat(values) for key, values in kept.items()} for name, kept in found.items()}


def effects_by_algebra(model: Model, prompts: list[list[int]], condition: Condition) -> dict[str, dict[str, Any]]:
    """The same from the readout, for padded batches."""
    _, residual, _ = forward(model, prompts, BASELINE)
    _, edited, _ = forward(model, prompts, condition)
    real = model.pad(prompts).attention_mask[:, :-1].bool()
    before, after = residual[:, :-1][real], edited[:, :-1][real]
    target = torch.cat([torch.tensor(tokens[1:]) for tokens in prompts])
    runs = {
        "baseline": model.readout.logits(before),
        "total": model.readout.logits(after),
        "direct": model.readout.logits(after, denominator=model.readout.denominator(before)),
    }
    return {
        name: {
            "loss": torch.nn.functional.cross_entropy(logits, target, reduction="none"),
            "entropy": torch.distributions.Categorical(logits=logits).entropy(),
        }
        for name, logits in runs.items()
    }


def same_effects(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, measures in theirs.items():
        for key, values in measures.items():
            close(ours[name][key], values)
    for kind in ("total", "direct"):  # Stolfo et al. 2024, eq. 5 and 6: mean absolute change of the loss
        effect = [abs(run[kind]["loss"] - run["baseline"]["loss"]).mean() for run in (ours, theirs)]
        close(effect[0], effect[1])
    assert abs(theirs["total"]["loss"] - theirs["direct"]["loss"]).max() > 1e-3, "freezing must make a difference"


def test_total_and_direct_effects(model: Model, prompts: list[list[int]], bridged: Any) -> None:
    for condition in conditions_of(model)[1:]:
        theirs = effects_in_transformer_lens(bridged, prompts, condition)
        same_effects(effects_by_algebra(model, prompts, condition), theirs)


@torch.no_grad()
def test_processed_weights_are_ours_folded_and_centred(model: Model, prompts: list[list[int]], processed: Any) -> None:
    """What ``enable_compatibility_mode()`` folds, and that it changes no probability.

    * the final norm's gain into W_U, its bias into b_U; W_U and b_U centred over the vocabulary: logits move by a
      constant per position. Before a LayerNorm W_U is centred over d_model, too (that part of it nothing can reach);
    * for LayerNorm models, what writes into the residual centred over d_model: the residual loses its mean, the norm's
      denominator stays. RMSNorm models keep theirs;
    * gains of the inner norms into attention and MLP weights, value biases into the output bias: activations stay.
    """
    readout, last = model.readout, model.anatomy.n_layers - 1
    W_U, w_out, condition = readout.folded_unembedding(), model.w_out(last), conditions_of(model)[2]
    if readout.centre_writes:
        W_U = W_U - W_U.mean(-1, keepdim=True)
        w_out = w_out - w_out.mean(-1, keepdim=True)
    close(processed.W_U.T, W_U)
    close(processed.b_U, readout.folded_bias())
    close(processed.blocks[last].mlp.W_out, w_out)

    resid_post = f"blocks.{last}.hook_resid_post"
    logits, residual, activations = forward(model, prompts, BASELINE)
    ablated, _, _ = forward(model, prompts, condition)
    for row, tokens in enumerate(prompts):
        real = slice(-len(tokens), None)
        names = [published.post(last), resid_post, published.FINAL_SCALE]
        theirs, seen = published.observe(processed, tokens, names)
        x = residual[row, real]
        close(seen[published.post(last)], activations[row, real, last])
        close(seen[resid_post], x - x.mean(-1, keepdim=True) if readout.centre_writes else x)
        close(seen[published.FINAL_SCALE], readout.denominator(x))
        close(theirs.log_softmax(-1), logits[row, real].log_softmax(-1))
        assert abs(theirs - logits[row, real]).max() > 1e-3, "centring the unembedding moves logits"
        edited = published.hooked_logits(processed, tokens, condition.edits)
        close(edited.log_softmax(-1), ablated[row, real].log_softmax(-1))


def test_effects_do_not_depend_on_the_processing(model: Model, prompts: list[list[int]], processed: Any) -> None:
    for condition in conditions_of(model)[1:]:
        theirs = effects_in_transformer_lens(processed, prompts, condition)
        same_effects(effects_by_algebra(model, prompts, condition), theirs)


def sweep_of(model: Model) -> tuple[list[float], list[int]]:
    rng = np.random.default_rng(1)
    return rng.normal(size=5).tolist(), rng.choice(model.anatomy.d_mlp, 5, replace=False).tolist()


def test_the_published_sweep_measures_what_the_engines_do(model: Model, prompts: list[list[int]]) -> None:
    (values, neurons), last = sweep_of(model), model.anatomy.n_layers - 1
    conditions = [Condition(str(i), (SetNeurons(last, (i,), (v,)),)) for i, v in zip(neurons, values, strict=True)]
    found = published.published_sweep(model, prompts, values, neurons, block=7)
    scores = HookEngine(model, 2).score(prompts, [BASELINE, *conditions])
    for name, expected in (("loss", scores.loss), ("entropy", scores.entropy)):
        np.testing.assert_allclose(found[name], expected[0], atol=2e-5)
        np.testing.assert_allclose(found[f"total_{name}"], expected[1:], atol=2e-5)
    for i, condition in enumerate(conditions):
        direct = effects_by_algebra(model, prompts, condition)["direct"]
        np.testing.assert_allclose(found["direct_loss"][i], direct["loss"], atol=2e-5)
        np.testing.assert_allclose(found["direct_entropy"][i], direct["entropy"], atol=2e-5)


def test_the_published_sweep_is_that_of_transformer_lens(model: Model, prompts: list[list[int]], bridged: Any) -> None:
    values, neurons = sweep_of(model)
    ours = published.published_sweep(model, prompts, values, neurons)
    theirs = published.transformer_lens_sweep(model, prompts, values, neurons, bridged=bridged)
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        np.testing.assert_allclose(found, theirs[name], atol=1e-4, err_msg=name)


def test_the_published_sweep_refuses_what_it_does_not_describe() -> None:
    with pytest.raises(ValueError, match="pass a norm or a factor"):
        published.published_sweep(tiny("gemma2"), [[5, 6, 7]], [0.0], [1])
