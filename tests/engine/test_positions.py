"""Edits at some tokens only: every engine does what a mask in one hook does, one prompt at a time, without a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from engines import same_generations, same_scores, some_conditions, some_mixtures, some_prompts
from families import tiny, tiny_hf, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conditions.conditions import BASELINE, Condition, Edit, Frozen, SetNeurons
from harness.conditions.head_edits import AttendFirst
from harness.conditions.positions import Positions, Span
from harness.conditions.residual_edits import AddVector
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.engine import Engine
from harness.engine.hooks import HookEngine
from harness.model.model import Model
from harness.model.wrapping import wrap

TEXTS = ["all", "prompt", "generated", "first", "last", "-2:", "1:3", "last+generated", "subject", "subject+-1:"]
TEXTS += ["generated[1:]", "last+generated[:2]"]
ENGINES = (HookEngine, BatchedEngine, ClosedFormEngine)
NEW = 4


def spans_of(prompts: Sequence[Sequence[int]]) -> list[Mapping[str, Span]]:
    return [{"subject": (len(tokens) // 3, len(tokens) // 3 + 1)} for tokens in prompts]


def by_hand(text: str, n: int, total: int, span: Span) -> torch.Tensor:
    """Whether edits act at each of ``total`` tokens, the first n of which are the prompt; said once more, plainly."""
    acts = [False] * total
    for part in text.split("+"):
        chosen = {
            "all": range(total),
            "prompt": range(n),
            "generated": range(n, total),
            "generated[1:]": range(n + 1, total),
            "generated[:2]": range(n, n + 2),
            "first": range(1),
            "last": range(n - 1, n),
            "-2:": range(max(n - 2, 0), n),
            "-1:": range(n - 1, n),
            "1:3": range(1, min(3, n)),
            "subject": range(*span),
        }[part]
        for t in chosen:
            acts[t] = True
    return torch.tensor(acts)


def logits_by_hand(model: Model, tokens: Sequence[int], acts: torch.Tensor, edits: Sequence[Edit]) -> torch.Tensor:
    """Logits [n, d_vocab] of one sequence; where ``acts`` is false each hook gives back what it was given."""

    def changed(edit: Edit) -> Callable[[torch.Tensor], torch.Tensor]:
        def change(x: torch.Tensor) -> torch.Tensor:
            new, there = x.clone(), acts.view(1, -1, *[1] * (x.dim() - 2))
            if isinstance(edit, AttendFirst):
                new[:, :, list(edit.indices)] = x[:, :1, list(edit.indices)]
            elif isinstance(edit, AddVector):
                new = x + torch.tensor(edit.vector, dtype=x.dtype)
            else:
                assert isinstance(edit, SetNeurons)
                new[..., list(edit.indices)] = torch.tensor(edit.values)
            return torch.where(there, new, x)

        return change

    import contextlib

    with torch.no_grad(), contextlib.ExitStack() as stack:
        for edit in edits:
            sites = {SetNeurons: model.edit_neurons, AttendFirst: model.edit_heads, AddVector: model.edit_residual}
            stack.enter_context(sites[type(edit)](edit.layer, changed(edit)))  # type: ignore[index]
        found: torch.Tensor = model.hf(torch.tensor([list(tokens)])).logits[0].double()
    return found


def edits_of(model: Model) -> list[tuple[Edit, ...]]:
    """Of the last layer's neurons, an earlier layer's, heads, the residual stream after a layer, and several."""
    last = model.anatomy.n_layers - 1
    late, early = SetNeurons(last, (2, 3), (14.0, -16.0)), SetNeurons(0, (1, 5), (9.0, -8.0))
    vector = np.random.default_rng(0).normal(size=model.anatomy.d_model)
    heads, residual = AttendFirst(1, (1,)), AddVector(1, (0,), tuple(vector.tolist()))
    return [(late,), (early,), (heads,), (residual,), (early, heads, late)]


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied", "opt", "gemma2"])
def test_every_engine_does_what_a_mask_does(family: str) -> None:
    """Left-padded prompts of different lengths, cached generation, and scoring, with every word and site."""
    model = tiny(family)
    prompts = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17, 18]]
    spans = spans_of(prompts)
    conditions = [BASELINE]
    some = edits_of(model)
    conditions += [Condition(text, some[i % len(some)], Positions(text)) for i, text in enumerate(TEXTS)]
    conditions += [Condition(f"of site {i}", edits, Positions("-2:+generated")) for i, edits in enumerate(some)]
    made = [engine(model, 2).generate(prompts, conditions, NEW, choices=[[3]] * 3, spans=spans) for engine in ENGINES]
    scored = [engine(model, 2).score(prompts, conditions, spans=spans) for engine in ENGINES]
    for other, score in zip(made[1:], scored[1:], strict=True):
        same_generations(made[0], other)
        same_scores(scored[0], score)
    for c, condition in enumerate(conditions):
        for i, prompt in enumerate(prompts):
            whole, n = [*prompt, *made[0].tokens[c, i].tolist()], len(prompt)
            acts = by_hand(condition.positions.text, n, len(whole), spans[i]["subject"])
            logits = logits_by_hand(model, whole, acts, condition.edits)
            for t in range(n, len(whole)):
                assert float(logits[t - 1].max() - logits[t - 1, whole[t]]) < 1e-4
            log_probs = logits.log_softmax(-1)
            assert made[0].choices[c, i, 0] == pytest.approx(float(log_probs[n - 1, 3]), abs=1e-4)
            wanted = -log_probs[: n - 1].gather(-1, torch.tensor(prompt[1:])[:, None])[:, 0]
            np.testing.assert_allclose(scored[0].loss[c, scored[0].columns([i])], wanted, atol=2e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_scored_from_a_token_on_stands_where_generated_tokens_would(engine: type[Engine]) -> None:
    """The prompt and its continuation, scored, give the probabilities with which it was generated."""
    model = tiny("llama_gqa_tied")
    prompts = [[5, 6, 7, 8, 9], [12, 13]]
    for text in ("prompt", "generated", "last", "-2:"):
        conditions = [BASELINE, Condition("c", (SetNeurons(2, (2, 3), (14.0, -16.0)),), Positions(text))]
        made = engine(model).generate(prompts, conditions, 3)
        for c in range(2):
            whole = [[*prompt, *made.tokens[c, i].tolist()] for i, prompt in enumerate(prompts)]
            scores = engine(model).score(whole, conditions, first=[len(prompt) for prompt in prompts])
            np.testing.assert_allclose(-scores.loss[c][scores.position == [5, 2][0]][:1], made.top[c, 0], atol=1e-4)
            assert (scores.rank[c] == 0).all()


@settings(max_examples=5, deadline=None)
@given(
    st.sampled_from(["gpt2", "llama", "gpt_neox", "gemma2", "opt"]),
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3),
)
def test_the_closed_form_equals_hooks_wherever_conditions_act(
    family: str, seed: int, batch: int, texts: list[str]
) -> None:
    """Conditions that act in one place, or in several."""
    model = tiny(family)
    prompts, some = some_prompts(seed, n=4), some_conditions(model, seed, n=5)
    conditions = [replace(x, positions=Positions(texts[i % len(texts)])) for i, x in enumerate(some)]
    conditions.append(replace(conditions[1], name="held", frozen=Frozen("final_norm")))
    fast, hooks, spans = ClosedFormEngine(model, batch), HookEngine(model, batch), spans_of(prompts)
    assert fast.path(conditions) == "closed_form"
    asked = [[7]] * len(prompts)
    same_scores(fast.score(prompts, conditions, spans=spans), hooks.score(prompts, conditions, spans=spans))
    made = [x.generate(prompts, conditions, NEW, choices=asked, spans=spans) for x in (fast, hooks)]
    if family != "gemma2":  # under edits as large as these its soft cap makes ties
        same_generations(*made)


@settings(max_examples=3, deadline=None)
@given(st.sampled_from(["gpt2", "llama", "opt"]), st.integers(0, 10_000), st.sampled_from(TEXTS[1:]))
def test_any_edits_in_one_pass_equal_hooks(family: str, seed: int, text: str) -> None:
    model = tiny(family)
    prompts, spans = some_prompts(seed, n=4), spans_of(some_prompts(seed, n=4))
    conditions = [replace(x, positions=Positions(text)) for x in some_mixtures(model, seed, n=3)]
    for verb in ("score", "generate"):
        more = (NEW,) if verb == "generate" else ()
        fast, slow = (
            getattr(engine(model, 3), verb)(prompts, conditions, *more, spans=spans)
            for engine in (BatchedEngine, HookEngine)
        )
        (same_scores if verb == "score" else same_generations)(fast, slow)


def test_the_untouched_model_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In scoring one place a prompt is evaluated under all conditions, in generation one step."""
    from harness.engine import closed_form

    model, seen = tiny("gpt2"), []
    made = closed_form.systems

    def counting(final, places, at=None):  # type: ignore[no-untyped-def]
        seen.append(len(places.residual))
        return made(final, places, at)

    monkeypatch.setattr(closed_form, "systems", counting)
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    conditions = [replace(x, positions=Positions("-2:-1")) for x in some_conditions(model, 0)]
    ClosedFormEngine(model).score(prompts, conditions)
    assert seen == [2]
    seen.clear()
    conditions = [replace(x, positions=Positions("last")) for x in conditions]
    ClosedFormEngine(model).generate(prompts, conditions, 5)
    assert seen == [2]


def test_the_same_words_give_the_same_bytes_as_no_words() -> None:
    model, prompts = tiny("gpt2"), some_prompts(3)
    plain = some_conditions(model, 1)
    said = [replace(x, positions=Positions("prompt+generated")) for x in plain]
    for engine in ENGINES:
        one, other = (engine(model, 4).generate(prompts, x, 4, choices=[[3]] * 6) for x in (plain, said))
        assert one.tokens.tobytes() == other.tokens.tobytes() and one.choices.tobytes() == other.choices.tobytes()
        first, second = (engine(model, 4).score(prompts, x) for x in (plain, said))
        assert first.loss.tobytes() == second.loss.tobytes()


def test_an_effect_that_sits_at_one_token_is_found_there_and_nowhere_else() -> None:
    """A model whose attention writes nothing: what follows a prompt depends on its last token alone."""
    model = wrap(tiny_hf("gpt2"), tokenizer(), "no attention")
    for layer in model.hf.transformer.h:
        layer.attn.c_proj.weight.data.zero_()
    prompts = some_prompts(5)
    edit = (SetNeurons(0, (1, 5, 7), (9.0, -8.0, 4.0)),)
    conditions = [BASELINE, *(Condition(x, edit, Positions(x)) for x in ("prompt", "last", "-3:-1", "first"))]
    for engine in ENGINES:
        made = engine(model).generate(prompts, conditions, 1)
        untouched, whole, last, before, first = made.entropy
        np.testing.assert_allclose(last, whole, atol=1e-6)
        np.testing.assert_allclose(before, untouched, atol=1e-6)
        alone = np.array([len(tokens) == 1 for tokens in prompts])
        assert (abs(whole - untouched) > 1e-3).all()
        np.testing.assert_allclose(first, np.where(alone, whole, untouched), atol=1e-6)
