"""What a model's generation configuration asks for beyond the most likely token at every step.

All engines generate greedily from the model's own distribution, which is what conditions are compared by. Settings such
as ``repetition_penalty`` change that distribution by what was said before. They are not applied; records name them, and
lm-eval's tasks, which promise lm-eval's numbers, refuse them. Settings of sampling (temperature, top_p ...) change
nothing of a greedy choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "watermarking_config": (),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "constraints": ([],),
    "force_words_ids": ([],),
    "token_healing": (False,),
    "stop_strings": ([],),
    "max_time": (),
}
"""Settings that change what is generated greedily, and the values, beside None, at which they do not."""


def changes(name: str, value: Any) -> bool:
    """Whether a setting of generation changes what is generated greedily."""
    return name in NEUTRAL and value is not None and value not in NEUTRAL[name]


def not_applied(hf: Any) -> dict[str, Any]:
    """The settings of a ``transformers`` model's generation configuration that change what is generated greedily."""
    config = getattr(hf, "generation_config", None)
    given = {} if config is None else config.to_dict()
    return {name: given[name] for name in NEUTRAL if changes(name, given.get(name))}


def in_words(settings: Mapping[str, Any]) -> str:
    """``repetition_penalty=1.1, min_new_tokens=5``; long values are cut."""

    def short(value: Any) -> str:
        text = str(value)
        return text if len(text) <= 40 else f"{text[:37]}..."

    return ", ".join(f"{name}={short(value)}" for name, value in settings.items())
