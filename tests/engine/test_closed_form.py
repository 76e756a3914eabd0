"""Both verbs under many conditions: the closed form equals hooks, hooks equal the plainest loop there is."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from engines import Scale, same_generations, same_scores, some_conditions, some_prompts
from families import FAMILIES, SHAPES, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine import choosing, columns, final_layer
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.generations import Generations
from harness.engine.hooks import HookEngine, under
from harness.engine.scores import Scores, TokenScores
from harness.errors import HarnessError
from harness.model.model import Model


def test_the_final_layer_of_every_family_but_one_has_a_closed_form() -> None:
    for family in FAMILIES:
        model = tiny(family)
        found = ClosedFormEngine(model).path(some_conditions(model, 2, n=1))
        assert found == ("batched" if family == "opt_350m" else "closed_form"), family


@pytest.mark.parametrize("family", SHAPES)
def test_the_engine_equals_hooks(family: str) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(1), some_conditions(model, 2)
    fast, hooks = ClosedFormEngine(model, batch_size=4), HookEngine(model, batch_size=4)
    choices = [[3, 4]] * len(prompts)
    stop = frozenset(range(0, 300, 9))
    same_generations(
        fast.generate(prompts, conditions, 6, stop, choices), hooks.generate(prompts, conditions, 6, stop, choices)
    )
    same_scores(fast.score(prompts, conditions), hooks.score(prompts, conditions))


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "gemma2"])
@pytest.mark.parametrize("layer", [0, None])
def test_scores_from_a_token_on_are_those_of_the_whole(family: str, layer: int | None) -> None:
    """``first`` leaves out columns and changes nothing else, whatever is edited and however the batch is padded."""
    model, prompts = tiny(family), some_prompts(1)
    conditions = some_conditions(model, 2) if layer is None else some_conditions(model, 2, layer=layer)
    first = [1 + (7 * i) % len(tokens) for i, tokens in enumerate(prompts)]  # of some prompts nothing is left
    assert any(start == len(tokens) for start, tokens in zip(first, prompts, strict=True))
    for engine in (ClosedFormEngine(model, 4), HookEngine(model, 4)):
        whole, part = engine.score(prompts, conditions), engine.score(prompts, conditions, first=first)
        kept = whole.position >= np.array(first)[whole.prompt]
        assert (part.prompt == whole.prompt[kept]).all() and (part.position == whole.position[kept]).all()
        np.testing.assert_allclose(part.loss, whole.loss[:, kept], atol=2e-5)
        np.testing.assert_allclose(part.entropy, whole.entropy[:, kept], atol=2e-5)


def test_the_last_token_of_a_prompt_takes_no_position() -> None:
    """It is predicted, and predicts nothing: a prompt may be one token longer than the model's positions."""
    model = tiny("gpt2")
    assert model.n_positions is not None
    prompt = [list(range(3, 4 + model.n_positions))]
    for engine in (ClosedFormEngine(model), HookEngine(model)):
        assert engine.score(prompt, some_conditions(model, 2)).loss.shape[1] == model.n_positions
        with pytest.raises(HarnessError, match="longer than the"):
            engine.score([[*prompt[0], 5]], [BASELINE])


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "gpt_neox", "opt", "gemma2", "cohere"])
def test_hooks_equal_one_prompt_at_a_time_without_a_cache(family: str) -> None:
    """The plainest meaning of generate and score: no batch, no padding, no cache."""
    model = tiny(family)
    prompts, stop = some_prompts(3), frozenset(range(0, 300, 9))
    conditions = [*some_conditions(model, 4, n=2), *some_conditions(model, 5, n=2, layer=0)[1:]]
    engine = HookEngine(model, batch_size=3)
    made = engine.generate(prompts, conditions, 5, stop, [[7]] * len(prompts))
    scored = engine.score(prompts, conditions)
    column = 0
    for i, prompt in enumerate(prompts):
        for c, condition in enumerate(conditions):
            tokens = list(prompt)
            with torch.no_grad(), under(model, condition):
                logits = model.hf(torch.tensor([tokens])).logits[0].double()
                for step in range(5):
                    token = int(model.hf(torch.tensor([tokens])).logits[0, -1].argmax())
                    assert made.tokens[c, i, step] == token
                    tokens.append(token)
                    if token in stop:
                        break
            assert (made.tokens[c, i, len(tokens) - len(prompt) :] == -1).all()
            log_probs = torch.log_softmax(logits, -1)
            assert made.choices[c, i, 0] == pytest.approx(float(log_probs[-1, 7]), abs=1e-4)
            assert made.top[c, i] == pytest.approx(float(log_probs[-1].max()), abs=1e-4)
            assert made.entropy[c, i] == pytest.approx(float(-(log_probs[-1].exp() * log_probs[-1]).sum()), abs=2e-5)
            for t in range(1, len(prompt)):
                found = -float(log_probs[t - 1, prompt[t]])
                assert scored.loss[c, column + t - 1] == pytest.approx(found, abs=1e-4)
                better = int((logits[t - 1] > logits[t - 1, prompt[t]]).sum())
                assert abs(int(scored.rank[c, column + t - 1]) - better) <= 1
                assert scored.top[c, column + t - 1] == pytest.approx(float(log_probs[t - 1].max()), abs=1e-4)
        column += len(prompt) - 1


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["gpt2", "llama", "gpt_neox", "phi", "opt", "falcon", "olmo", "gemma"]),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    st.integers(1, 5),
)
def test_any_model_any_edit_any_padding(family: str, seed: int, size: float, batch: int) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(seed, n=4), some_conditions(model, seed, n=5, size=size)
    fast, hooks = ClosedFormEngine(model, batch), HookEngine(model, batch)
    assert fast.path(conditions) == "closed_form"
    same_generations(fast.generate(prompts, conditions, 4), hooks.generate(prompts, conditions, 4))


def test_edits_may_depend_on_the_activations_and_may_be_mixed() -> None:
    model = tiny("gpt2")
    last = model.anatomy.n_layers - 1
    conditions = [
        BASELINE,
        Condition("scaled", (Scale(last, (3, 5), -4.0),)),
        Condition("both", (Scale(last, (1,), 8.0), SetNeurons(last, (9, 2), (2.0, -3.0)))),
        Condition("same neuron elsewhere", (SetNeurons(last, (3,), (5.0,)),)),
    ]
    fast, hooks = ClosedFormEngine(model, 4), HookEngine(model, 4)
    assert fast.path(conditions) == "closed_form"
    prompts = some_prompts(8)
    same_generations(fast.generate(prompts, conditions, 5), hooks.generate(prompts, conditions, 5))
    same_scores(fast.score(prompts, conditions), hooks.score(prompts, conditions))


def test_what_the_closed_form_does_not_cover_goes_through_batched_hooks() -> None:
    model = tiny("gpt2")
    last = model.anatomy.n_layers - 1
    fast = ClosedFormEngine(model)
    assert fast.path([Condition("early", (SetNeurons(0, (1,), (0.0,)),))]) == "batched"
    twice = (SetNeurons(last, (1,), (0.0,)), Scale(last, (1,), 2.0))
    assert fast.path([Condition("twice", twice)]) == "batched"
    conditions = some_conditions(model, 0, n=2, layer=0)
    prompts = some_prompts(2)
    same_generations(fast.generate(prompts, conditions, 3), HookEngine(model).generate(prompts, conditions, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_half_precision_is_no_further_from_the_truth_than_hooks(family: str, dtype: torch.dtype) -> None:
    """The closed form leaves half precision at the last residual; hooks round the logits, too. Truth: float32."""
    half, full = tiny(family, dtype=dtype), tiny(family)
    prompts, conditions = some_prompts(1), some_conditions(half, 2)
    assert ClosedFormEngine(half).path(conditions) == "closed_form"
    truth = HookEngine(full).score(prompts, conditions)
    fast, hooks = (engine(half).score(prompts, conditions) for engine in (ClosedFormEngine, HookEngine))

    def error(found: Scores) -> float:
        return float(np.sqrt(np.mean((found.loss - truth.loss) ** 2)))

    assert error(fast) <= 1.1 * error(hooks)
    assert abs(fast.loss - hooks.loss).max() < (0.3 if dtype == torch.bfloat16 else 0.05) * abs(truth.loss).max()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gemma3"])
@pytest.mark.parametrize("size", [1.0, 20.0])
def test_columns_that_do_not_fit_in_memory_are_made_a_stretch_at_a_time(
    family: str, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(family)
    prompts, conditions = some_prompts(9), some_conditions(model, 9, n=12, size=size)
    whole, scores = told(model, prompts, conditions)
    monkeypatch.setattr(columns, "COLUMN_BYTES", 4 * 16 * 40)
    monkeypatch.setattr(columns, "GRAIN", 16)
    [part] = final_layer.FinalLayer(model, conditions).parts
    assert not part.holds and len(list(part.made.tiles())) > 3
    torch.testing.assert_close(part.made.reach, columns.reach_of(part.made[:]))
    fresh = part.made.part(torch.arange(len(part.made)))
    assert (fresh.bound >= part.made.reach).all()
    found, again = told(model, prompts, conditions)
    same_generations(whole, found)
    same_scores(scores, again)


def told(model: Model, prompts: list[list[int]], conditions: list[Condition]) -> tuple[Generations, Scores]:
    engine = ClosedFormEngine(model)
    made = engine.generate(prompts, conditions, 5, choices=[[3]] * len(prompts))
    return made, engine.score(prompts, conditions)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere", "granite"])
def test_a_pass_without_logits_leaves_the_same(family: str) -> None:
    model = tiny(family)
    batch = model.pad(some_prompts(5))
    found = []
    with torch.no_grad():
        for context in (contextlib.nullcontext(), model.without_logits()):
            with context, model.capture_residual() as seen:
                logits = model.forward(batch).logits
            found.append(seen.residual)
    assert torch.equal(*found) and logits.numel() == 0
    with torch.no_grad():
        assert model.forward(batch).logits.numel()  # afterwards there are logits again


def test_a_token_that_no_candidate_beats_for_sure_is_found_in_the_whole_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Large edits, few candidates: all three stages decide."""
    model = tiny("gemma3")
    prompts, conditions = some_prompts(3), some_conditions(model, 4, n=12, size=50.0)
    whole = HookEngine(model).generate(prompts, conditions, 5)
    monkeypatch.setattr(choosing, "CANDIDATES", (2, 5))
    monkeypatch.setattr(choosing, "CANDIDATE_BYTES", 4 * 5 * 30)
    same_generations(whole, ClosedFormEngine(model).generate(prompts, conditions, 5))
    monkeypatch.setattr(columns, "COLUMN_BYTES", 4 * 16 * 40)
    same_generations(whole, ClosedFormEngine(model).generate(prompts, conditions, 5))


@pytest.mark.parametrize("engine", [ClosedFormEngine, BatchedEngine, HookEngine])
def test_confidence_is_that_of_the_most_likely_token(engine: type[HookEngine]) -> None:
    model = tiny("llama")
    prompts, conditions = some_prompts(6), some_conditions(model, 7, size=20.0)
    said = HookEngine(model).generate(prompts, conditions, 2).tokens
    prompts = [[*prompt, *said[i % 3, i].tolist()] for i, prompt in enumerate(prompts)]  # some tokens are right
    scores = engine(model, 4).score(prompts, conditions)
    right = scores.rank == 0
    assert right.any() and (scores.top <= 0).all()
    np.testing.assert_allclose(scores.top[right], -scores.loss[right], atol=1e-5)
    assert (scores.top[~right] >= -scores.loss[~right]).all()
    assert (np.exp(scores.top) >= np.exp(-scores.entropy) - 1e-6).all()  # the largest p is at least e^-H


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.1, 5.0, 200.0]))
def test_filled_in_confidence_is_the_largest_log_probability(seed: int, n_tokens: int, size: float) -> None:
    logits = torch.randn(5, n_tokens, generator=torch.Generator().manual_seed(seed)) * size
    log_probs = torch.log_softmax(logits, -1)
    scores = Scores.empty([[0] * 6], [BASELINE])
    scores.put([0], np.arange(5), TokenScores.of(log_probs[None], torch.zeros(5, dtype=torch.long)))
    np.testing.assert_array_equal(scores.top[0], log_probs.numpy().max(1).astype(float))


def test_identical_logits_choose_the_first_token() -> None:
    model = tiny("gpt2_untied")
    with torch.no_grad():
        model.hf.lm_head.weight.zero_()
    conditions = some_conditions(model, 1)
    for engine in (ClosedFormEngine(model), HookEngine(model)):
        made = engine.generate([[5], [6, 7]], conditions, 3)
        assert (made.tokens == 0).all()
        np.testing.assert_allclose(made.entropy, np.log(model.anatomy.d_vocab), rtol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_residual_of_zero_norm_and_dead_neurons(family: str) -> None:
    """The untouched residual vanishes, so that the norm's eps decides; some edited neurons write nothing."""
    model = tiny(family)
    last = model.anatomy.n_layers - 1
    with torch.no_grad():
        model.hf.get_input_embeddings().weight.zero_()
        model.anatomy.down_projections[last].weight[:, 4:8] = 0  # [d_model, d_mlp]
    shared = SetNeurons(last, (1, 4), (2.0, 9.0))
    conditions = [
        BASELINE,
        Condition("dead", (SetNeurons(last, (5, 6), (3.0, -3.0)),)),
        Condition("one", (shared,)),
        Condition("the same neuron in another set", (SetNeurons(last, (1, 7, 2), (2.0, 1.0, 1e-6)),)),
        *some_conditions(model, 3)[1:],
    ]
    prompts = some_prompts(4)
    fast, hooks = ClosedFormEngine(model, 3), HookEngine(model, 3)
    assert fast.path(conditions) == "closed_form"
    same_scores(fast.score(prompts, conditions), hooks.score(prompts, conditions))
    made, expected = (engine.generate(prompts, conditions, 4) for engine in (fast, hooks))
    np.testing.assert_array_equal(made.tokens, expected.tokens)


def test_prompts_may_end_at_once_and_others_go_on() -> None:
    model = tiny("llama")
    prompts, conditions = some_prompts(5), some_conditions(model, 6)
    free = HookEngine(model).generate(prompts, conditions, 4)
    stop = frozenset({int(free.tokens[0, 0, 0]), int(free.tokens[2, 1, 1])})
    fast = ClosedFormEngine(model, 3).generate(prompts, conditions, 4, stop)
    same_generations(fast, HookEngine(model, 3).generate(prompts, conditions, 4, stop))
    assert fast.tokens[0, 0, 0] in stop and (fast.tokens[0, 0, 1:] == -1).all()


@pytest.mark.parametrize("engine", [ClosedFormEngine, HookEngine])
def test_logits_that_are_not_finite_are_refused(engine: type[HookEngine]) -> None:
    model = tiny("gpt2")
    bad = Condition("bad", (SetNeurons(model.anatomy.n_layers - 1, (0,), (float("nan"),)),))
    with pytest.raises(HarnessError, match="logits are not finite"):
        engine(model).generate([[1, 2]], [BASELINE, bad], 2)
    with pytest.raises(HarnessError, match="logits are not finite"):
        engine(model).score([[1, 2]], [BASELINE, bad])


def test_progress_counts_every_prompt_under_every_condition() -> None:
    model = tiny("gpt2")
    prompts, conditions = some_prompts(0, n=5), some_conditions(model, 0, n=2)
    for engine in (ClosedFormEngine(model, 2), HookEngine(model, 2)):
        steps: list[int] = []
        engine.generate(prompts, conditions, 2, progress=steps.append)
        engine.score(prompts, conditions, progress=steps.append)
        assert sum(steps) == 2 * len(prompts) * len(conditions)
