"""Conditions in a person's own loops, on models of ``transformers`` and of the libraries that wrap them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from harness.api.loaded import LoadedModel, Texts
from harness.conditions.conditions import Condition
from harness.conditions.units import Unit
from harness.engine.live import check_live, during
from harness.errors import HarnessError, mendable
from harness.model.foreign import Inside, inside, moved
from harness.model.model import Model
from harness.model.wrapping import wrap
from harness.running import environment
from harness.running.treatment import Treatment, own_corpus

if TYPE_CHECKING:
    from harness.running.request import Written

PROBE = tuple(range(3, 11))
"""Tokens on which a bridge must give what the modules inside it give."""

TOLERANCE = 1e-3
"""Largest difference of log-probabilities there, in float32 arithmetic that differs in order only."""


@contextlib.contextmanager
def condition(
    model: Any,
    condition: Condition | None = None,
    *,
    units: str | Unit | Sequence[str | Unit] | None = None,
    selector: Written | None = None,
    intervention: Written | None = None,
    texts: Texts | None = None,
    corpus: Written | None = None,
    sequences: int = 64,
    length: int = 128,
    seed: int = 0,
    control: int | None = None,
    tokenizer: Any = None,
    add_bos: bool | None = None,
) -> Iterator[Condition]:
    """Within the block, whoever runs the model runs it under one condition: in loops of one's own.

    ::

        with harness.condition(hf_model, units=["11.2378"], intervention="mean", texts=texts) as treated:
            logits = hf_model(**inputs).logits
            answer = hf_model.generate(**inputs)

    The edits are hooks on the model's modules, found and verified as for every run; they are gone after the block,
    whatever ended it. Blocks nest: edits of the inner one see what those of the outer one have made. Generation with
    and without a cache, padding on either side, batches and gradients work. Selectors look at, and statistics are of,
    the model as blocks around this one have made it.

    Args:
        model: a causal language model of ``transformers``; one that nnsight has wrapped, a ``TransformerBridge`` of
            TransformerLens (without compatibility mode); or what :func:`harness.load_model` gives, which is verified
            once for many blocks.
        condition: what is edited, and how: of :func:`harness.zero`, :func:`harness.mean`, :func:`harness.hold`, or of
            an earlier block. Instead of what follows.
        units: what is edited, by name: ``"11.2378"``, ``"L5H1"``, whatever ``harness list units`` shows.
        selector: or what chooses it, as for :func:`harness.evaluate`.
        intervention: what is done to it, as for :func:`harness.evaluate`; its ``positions`` are those of the prompts
            that the block's passes begin with ("last", "-2:", "generated[2:]" ...).
        texts: texts on which units are selected and their activations measured.
        corpus: or a corpus, of which ``sequences`` sequences of ``length`` tokens are read; default: that of a bundled
            model.
        seed: of whatever is drawn.
        control: edit the random control set of this number, from 0, instead of the units.
        tokenizer: the model's; default: the wrapper's, or what lies beside the weights.
        add_bos: whether texts begin with BOS; default: as the tokenizer does.

    Raises:
        HarnessError: something does not fit, and no pass was run within the block.
    """
    environment.prepare()
    with mendable():
        found, runs = _taken(model, tokenizer, add_bos)
        words = {"units": units, "selector": selector, "intervention": intervention, "texts": texts, "corpus": corpus}
        given = [name for name, value in words.items() if value is not None]
        if condition is not None:
            if given:
                raise HarnessError(f"{given[0]}: a condition that is given says already what is edited; leave it out.")
            made = condition
        else:
            treatment = _asked(found, units, selector, intervention, texts, corpus, sequences, length, seed, control)
            with _at_rest(found.hf):
                made, _ = treatment.apply(found)
        check_live(made)
        if runs is not found:
            _check_bridge(found, runs, made)
    with during(runs, made):
        yield made


def opened(model: Any, tokenizer: Any = None, add_bos: bool | None = None) -> LoadedModel:
    """A model of ``transformers``, or one in a wrapper, its parts found and verified; it runs as before.

    Raises:
        HarnessError: it is none, its tokenizer is not found, or it cannot be verified.
    """
    return _verified(inside(model), tokenizer, add_bos)


def _taken(model: Any, tokenizer: Any, add_bos: bool | None) -> tuple[Model, Model]:
    """The model to look at, and the one that runs: the same but for a bridge."""
    if isinstance(model, Model):
        return model, model
    within = inside(model)
    found = _verified(within, tokenizer, add_bos)
    if not within.ran:
        return found, found
    return found, replace(found, hf=within.runs, anatomy=moved(found.anatomy, within.ran))


def _verified(within: Inside, tokenizer: Any, add_bos: bool | None) -> LoadedModel:
    name = str(getattr(within.hf, "name_or_path", "") or type(within.hf).__name__)
    reads = tokenizer or within.tokenizer or _beside(name)
    with _at_rest(within.hf):
        return LoadedModel.of(wrap(within.hf, reads, name, add_bos=add_bos))


def _beside(name: str) -> Any:
    """The tokenizer that lies beside a model's weights; nothing is downloaded.

    Raises:
        HarnessError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise HarnessError(f"tokenizer: there is none beside {name}; hand over the model's.") from error


@contextlib.contextmanager
def _at_rest(hf: Any) -> Iterator[None]:
    """Within the block the model does not train; afterwards as before, module by module."""
    training = [module for module in hf.modules() if module.training]
    hf.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _asked(
    model: Model,
    units: str | Unit | Sequence[str | Unit] | None,
    selector: Any,
    intervention: Any,
    texts: Texts | None,
    corpus: Any,
    sequences: int,
    length: int,
    seed: int,
    control: int | None,
) -> Treatment:
    """What was asked for, found and validated."""
    if (units is None) == (selector is None):
        raise HarnessError('units: say what is edited, by names (units=["11.2378"]) or by a selector, one of the two.')
    if texts is not None and corpus is not None:
        raise HarnessError("corpus: texts are given already; name one of the two.")
    own = own_corpus(model.name)
    read: dict[str, Any] = {"sequences": sequences, "length": length}
    if texts is None:
        read["corpus"] = corpus or own
    else:
        read["given"] = [texts] if isinstance(texts, str) else list(texts)
    named = [units] if isinstance(units, str | Unit) else units
    chosen = selector if named is None else {"name": "units", "units": [str(unit) for unit in named]}
    return Treatment.of(chosen, intervention, read, seed, control, corpus or own, field="texts")


def _check_bridge(inside: Model, runs: Model, condition: Condition) -> None:
    """Make sure that edits of a bridge's modules do what they do to the modules that were found.

    Raises:
        HarnessError: they do not.
    """
    ids = torch.tensor([PROBE], device=inside.device) % inside.anatomy.d_vocab
    with torch.no_grad(), _at_rest(runs.hf):
        with during(inside, condition):
            wanted = inside.hf(ids).logits.log_softmax(-1)
        with during(runs, condition):
            given = runs.hf(ids).logits.log_softmax(-1)
    if not torch.allclose(given, wanted, atol=TOLERANCE, rtol=0):
        raise HarnessError(
            f"the TransformerBridge gives log-probabilities that are {float((given - wanted).abs().max()):.2g} away "
            "from those of the modules in it: hand over the model that it was made from."
        )
