"""Models to try components on, and prompts for them."""

from __future__ import annotations

import numpy as np

from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.plugin.catalogue import catalogue
from harness.plugin.components import ModelLoader
from harness.plugin.specs import ComponentSpec
from harness.testing.tiny_models import tiny_hf, tokenizer


def tiny_model(family: str = "gpt2", seed: int = 0) -> Model:
    """A random model of 2 or 3 layers on the CPU, with a tokeniser of bytes; the same every time.

    Args:
        family: "gpt2", "llama", "gemma2", "gpt_neox" ...: a name in :data:`harness.testing.tiny_models.FAMILIES`, or
            in ``MIXTURES``: "olmoe", "mixtral", "deepseek_v3" ...
        seed: of its weights.

    Raises:
        HarnessError: there is no such family; names the nearest.
    """
    return wrap(tiny_hf(family, seed=seed), tokenizer(), family)


def demo_model() -> Model:
    """The bundled model on the CPU: small, but trained, so that selectors and tasks find something in it."""
    return catalogue().build(ModelLoader, ComponentSpec("demo", {"device": "cpu"}), "demo_model()").load()


def prompts_of(model: Model, n: int = 8, length: int = 12, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Token ids of ``n`` prompts of 4 to ``length`` random tokens each, after the model's prefix."""
    rng = np.random.default_rng(seed)
    most = min(len(model.tokenizer), model.anatomy.d_vocab, model.hf.get_input_embeddings().weight.shape[0])
    lengths = rng.integers(4, length + 1, n)
    return tuple((*model.prefix, *rng.integers(0, most, size).tolist()) for size in lengths)
