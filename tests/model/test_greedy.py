"""Settings of a model's generation configuration that are not applied are told wherever something is generated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from commands import arguments
from families import tiny
from transformers import GenerationConfig

from harness.conditions.conditions import BASELINE
from harness.engine.batched import BatchedEngine
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.model.greedy import NEUTRAL, changes, in_words, not_applied

HARMLESS = {
    # what is sampled or searched for, where something is; how long; what is returned; how it is computed
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("early_stopping", "length_penalty", "num_beam_groups", "diversity_penalty", "renormalize_logits"),
    *("remove_invalid_values", "max_length", "max_new_tokens", "num_return_sequences", "output_attentions"),
    *("output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate", "use_cache", "use_mtp"),
    *("cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "compile_config"),
    *("disable_compile", "continuous_batching_config", "low_memory", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("decoder_start_token_id", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size"),
    *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    *("speculation_type", "transformers_version", "trust_remote_code", "return_legacy_cache"),
}


def test_every_setting_of_transformers_is_known() -> None:
    """A setting that a new version brings belongs to one of the two sets."""
    given = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert given <= {*NEUTRAL, *HARMLESS}
    assert not {*NEUTRAL} & HARMLESS


def test_defaults_and_sampling_are_nothing_to_tell() -> None:
    model = tiny("gpt2")
    model.hf.generation_config = GenerationConfig(do_sample=True, temperature=0.2, top_p=0.9, top_k=20)
    assert not_applied(model.hf) == {}
    neutral = {name: value for name, values in NEUTRAL.items() for value in values}
    assert not any(changes(name, value) for name, value in neutral.items())
    model.hf.generation_config = GenerationConfig(repetition_penalty=1.1, suppress_tokens=[1, 2], min_new_tokens=0)
    assert not_applied(model.hf) == {"repetition_penalty": 1.1, "suppress_tokens": [1, 2]}
    assert in_words({"a": 1.5, "b": [1] * 99}) == "a=1.5, b=" + str([1] * 99)[:37] + "..."


@pytest.mark.parametrize("engine", [HookEngine, BatchedEngine, ClosedFormEngine])
def test_no_engine_applies_them(engine: type[HookEngine]) -> None:
    model = tiny("gpt2")
    prompts = model.encode(["ababab", "xx"])
    before = engine(model).generate(prompts, [BASELINE], 6).tokens
    model.hf.generation_config = GenerationConfig(repetition_penalty=5.0, suppress_tokens=[int(before[0, 0, 0])])
    assert (engine(model).generate(prompts, [BASELINE], 6).tokens == before).all()


@pytest.mark.usefixtures("blank_figures")
def test_a_run_says_so(small_facts: Path, harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    model = Path(shutil.copytree(str(files("harness_plugins.demo") / "weights"), tmp_path / "model"))
    (model / "generation_config.json").write_text(json.dumps({"no_repeat_ngram_size": 2, "temperature": 0.5}))
    changes = {"selector": "neurons:neurons=[3.1]", "intervention": "zero", "controls": "5", "limit": "20"}
    code, out, err = harness(*arguments(small_facts, tmp_path / "reports", "--model", model, **changes))
    assert code == 0, err
    assert "no_repeat_ngram_size=2 is not applied" in " ".join(out.split())
    [path] = tmp_path.glob("reports/*/result.json")
    record = json.loads(path.read_text())
    assert record["identity"]["model"]["generation_not_applied"] == {"no_repeat_ngram_size": 2}
    assert "no_repeat_ngram_size=2 is not applied" in record["remarks"][0]
    assert "no_repeat_ngram_size=2 is not applied" in (path.parent / "report.html").read_text()
