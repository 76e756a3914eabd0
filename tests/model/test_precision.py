"""Half precision: logits are float32 in every engine, near-ties are found, and what differs has a bound."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import some_conditions, some_prompts
from families import tiny, tiny_hf, tokenizer

from harness.conditions.conditions import BASELINE
from harness.engine.activation_summaries import activation_statistics
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.precision import described, near_ties, to_record
from harness.model.wrapping import wrap

HALF = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Largest relative error of a rounding."""

FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "olmo2", "cohere", "opt_350m")


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_agree_on_the_untouched_model_to_float32(family: str, dtype: torch.dtype) -> None:
    """Whoever computes logits does so in float32: the model's own are rounded, so that tokens tie that do not."""
    model, prompts = tiny(family, dtype=dtype), some_prompts(1)
    scores = [engine(model, 4).score(prompts, [BASELINE]) for engine in (HookEngine, BatchedEngine, ClosedFormEngine)]
    made = [
        engine(model, 4).generate(prompts, [BASELINE], 5) for engine in (HookEngine, BatchedEngine, ClosedFormEngine)
    ]
    for found, said in zip(scores[1:], made[1:], strict=True):
        np.testing.assert_allclose(found.loss, scores[0].loss, atol=2e-5, rtol=1e-5)
        np.testing.assert_allclose(found.entropy, scores[0].entropy, atol=1e-4, rtol=1e-5)
        np.testing.assert_array_equal(said.tokens, made[0].tokens)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_under_conditions_engines_differ_by_a_few_roundings(family: str, dtype: torch.dtype) -> None:
    """Hooks round what an edit writes, the closed form does not: 16 roundings of the largest logit are the bound."""
    model, prompts = tiny(family, dtype=dtype), some_prompts(1)
    conditions = some_conditions(model, 2)
    hooks, fast = (engine(model).score(prompts, conditions) for engine in (HookEngine, ClosedFormEngine))
    batch = model.pad(prompts)
    size = float(model.forward(batch, logits_to_keep=0).logits[batch.attention_mask.bool()].abs().max())
    assert np.abs(fast.loss - hooks.loss).max() < 16 * HALF[dtype] * size


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_statistics_are_those_of_the_passes_however_prompts_are_divided(dtype: torch.dtype) -> None:
    """Sums are float64; what is summed is rounded in the passes, a few times each."""
    model, prompts = tiny("llama", dtype=dtype), some_prompts(1)
    truth = activation_statistics(tiny("llama"), prompts, (2,), 64, 0)
    for batch_size in (1, 3, 64):
        found = activation_statistics(model, prompts, (2,), batch_size, 0)
        size = np.abs(truth.sample[2]).max()
        for name in ("mean", "minimum", "maximum"):
            assert np.abs(getattr(found, name)[2] - getattr(truth, name)[2]).max() < 16 * HALF[dtype] * size


def test_a_near_tie_is_found() -> None:
    """Two tokens of the same unembedding tie wherever one of them comes first; nothing else becomes a near-tie."""
    prompts = some_prompts(4, n=24)
    alone = near_ties(tiny("llama", dtype=torch.bfloat16), prompts, 5)
    hf = tiny_hf("llama", torch.bfloat16)
    first = HookEngine(wrap(hf, tokenizer(), "tiny")).generate(prompts, [BASELINE], 1).tokens[0, :, 0]
    common = int(np.bincount(first).argmax())
    twin = next(i for i in range(300) if i not in first)
    with torch.no_grad():
        hf.lm_head.weight[twin] = hf.lm_head.weight[common]
    found = near_ties(wrap(hf, tokenizer(), "tiny"), prompts, 5)
    tied = first == common
    assert tied.any() and found[tied].all()
    np.testing.assert_array_equal(found[~tied], alone[~tied])
    assert alone.mean() < 0.5
    ids = [f"p{i}" for i in range(24)]
    assert to_record(found, ids) == {"n": int(found.sum()), "prompts": [ids[i] for i in np.flatnonzero(found)]}
    assert to_record(None, ids) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_float32_says_differently_is_a_near_tie(family: str) -> None:
    """Wherever bfloat16 changes the next token, the bound of one rounding of the last residual has told."""
    prompts = some_prompts(8, n=64)
    half, full = tiny(family, dtype=torch.bfloat16), tiny(family)
    said = [HookEngine(model).generate(prompts, [BASELINE], 1).tokens[0, :, 0] for model in (half, full)]
    near = near_ties(half, prompts, 16)
    assert near[said[0] != said[1]].all()
    assert near.mean() < 0.5


def test_what_is_computed_in_which_precision_is_described() -> None:
    assert described(tiny("gpt2"))["logits"] == "float32, from the last residual vector on"
    half = described(tiny("gpt2", dtype=torch.bfloat16))
    assert half["weights"] == "bfloat16" and half["edits"] == "float32 in closed form, rounded to bfloat16 with hooks"


@pytest.mark.usefixtures("blank_figures")
def test_a_run_in_half_precision_says_so(
    small_facts: Path, harness: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    weights = files("harness_plugins.demo") / "weights"
    code, out, err = harness(
        "eval", "--model", weights, "--model_args", "dtype=bfloat16",
        "--task", f"knowledge_conflict:data={small_facts}", "--selector", "neurons:neurons=[3.1]",
        "--intervention", "zero", "--controls", "5", "--limit", "80", "--output_path", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    [path] = tmp_path.glob("*/result.json")
    record = json.loads(path.read_text())
    assert record["identity"]["model"]["precision"]["passes"] == "bfloat16, up to the last residual vector"
    near, n = record["task"]["near_ties"], record["task"]["n_prompts"]
    assert near["n"] == len(near["prompts"]) < n
    assert f"after {near['n']} of {n} prompts the two most likely tokens lie closer" in " ".join(out.split())
    assert f"near-ties after {near['n']} of {n} prompts" in (path.parent / "report.html").read_text()
