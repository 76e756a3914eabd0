"""Checks of what gives texts, and of what loads models."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import torch

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.files.wording import counted
from harness.model.model import Model
from harness.plugin.components import Corpus, ModelLoader
from harness.testing.common import as_json, made, promise, running, same, twice
from harness.testing.selectors_and_interventions import TOLERANCE


def check_corpus(cls: type[Corpus], /, *, documents: int = 200, **params: Any) -> tuple[str, ...]:
    """Check what a corpus promises: texts, the same ones in the same order every time, and a stable digest of them.

    Args:
        documents: how many of its texts are read.
        params: the corpus's parameters.

    Returns:
        the texts that were read.

    Raises:
        AssertionError: names the promise that was broken.
    """
    corpus, owner = made(cls, "corpus", params), f"corpus {getattr(cls, 'name', '')}"
    first, second = twice(owner, "documents()", lambda: tuple(islice(corpus.documents(), documents)))
    promise(bool(first), owner, "documents() gave no text")
    strange = next((x for x in first if not isinstance(x, str)), "")
    promise(isinstance(strange, str), owner, f"documents() gave {type(strange).__name__}, expected texts")
    promise(any(x.strip() for x in first), owner, "documents() gave empty texts only")
    promise(first == second, owner, "documents() gave other texts the second time; draw with random.Random(seed)")
    check_digest(corpus, made(cls, "corpus", params), owner)
    return first


def check_digest(component: Any, again: Any, owner: str) -> None:
    """``data_digest()`` is a text that depends on nothing but parameters and data."""
    ours, twin = twice(owner, "data_digest()", component.data_digest)
    promise(isinstance(ours, str) and bool(ours), owner, "data_digest() returned no text; return a sha256 in hex")
    equal = ours == twin == running(owner, "data_digest()", again.data_digest)
    promise(equal, owner, "data_digest() changes from call to call; it must follow from the data alone")


def check_model_loader(cls: type[ModelLoader], /, **params: Any) -> Model:
    """Check what a model loader promises: a model in evaluation mode with a tokeniser that fits it, finite predictions,
    neurons that can be edited, engines that agree, and the same model every time.

    Args:
        params: the loader's parameters.

    Raises:
        AssertionError: names the promise that was broken.
    """
    loader, owner = made(cls, "model", params), f"model {getattr(cls, 'name', '')}"
    model, again = twice(owner, "load()", loader.load)
    promise(
        isinstance(model, Model),
        owner,
        "load() returned no Model; harness.model.wrapping.wrap makes one",
    )
    promise(not model.hf.training, owner, "the model is in training mode: dropout would act")
    promise(isinstance(model.name, str) and bool(model.name), owner, "the model has no name, which results call it by")
    tokens = running(owner, "the tokeniser", lambda: model.encode(["The capital of France is", "2, 3, 5, 7,"]))
    with torch.no_grad():
        logits = running(owner, "a forward pass", lambda: model.forward(model.pad(tokens), logits_to_keep=0).logits)
    width = logits.shape[-1]
    promise(
        width == model.anatomy.d_vocab,
        owner,
        f"{counted(width, 'logit')} do not fit {counted(model.anatomy.d_vocab, 'token')}",
    )
    promise(bool(torch.isfinite(logits).all()), owner, "its predictions are not finite")
    equal = model.weights_digest == again.weights_digest and model.tokenizer_digest == again.tokenizer_digest
    promise(equal, owner, "loaded twice, weights or tokeniser differ; give what is drawn at random a seed")
    as_json(running(owner, "provenance()", model.provenance), owner, "its provenance")
    _check_edits(model, tokens, owner)
    return model


def _check_edits(model: Model, tokens: list[list[int]], owner: str) -> None:
    """Neurons of the last layer can be set, with an effect, and all engines agree about it."""
    last, d_mlp = model.anatomy.n_layers - 1, model.anatomy.d_mlp
    some = tuple(sorted(random.Random(0).sample(range(d_mlp), min(d_mlp, 16))))
    conditions = [BASELINE, Condition("treated", (SetNeurons(last, some, (3.0,) * len(some)),))]
    fast = running(owner, "a run of an edit", lambda: ClosedFormEngine(model).score(tokens, conditions))
    slow = running(owner, "a run of an edit", lambda: HookEngine(model).score(tokens, conditions))
    promise(not same(slow.loss[0], slow.loss[1]), owner, "setting neurons of the last layer changes nothing")
    apart = float(abs(fast.loss - slow.loss).max())
    bound = TOLERANCE if model.dtype == torch.float32 else 0.1
    promise(apart < bound, owner, f"the engines differ by {apart:.2g} nats")
