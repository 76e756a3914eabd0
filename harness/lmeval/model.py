"""lm-eval's Hugging Face model under one of our interventions: ``--model harness``."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, cast

import torch
from lm_eval.models.huggingface import HFLM

from harness.conditions.conditions import BASELINE, Condition
from harness.engine.batch_sizes import reckoned
from harness.engine.hooks import passes, under
from harness.errors import HarnessError, suggest
from harness.lmeval.tasks import model_of
from harness.lmeval.tokens import PrefixedLM
from harness.model.model import Batch, Model
from harness.plugin import border
from harness.plugin.catalogue import catalogue
from harness.plugin.components import ModelLoader
from harness.plugin.specs import ComponentSpec
from harness.running.registry import models_for
from harness.running.treatment import Treatment, own_corpus

log = logging.getLogger(f"lm_eval.{__name__}")  # shown where lm-eval shows its own

OF_LOADED = frozenset(
    (
        *("batch_size", "max_batch_size", "max_length", "truncation", "logits_cache", "prefix_token_id"),
        *("softmax_dtype", "mixed_precision_dtype", "think_end_token", "enable_thinking", "chat_template_args"),
    )
)
"""Arguments of ``hf`` that mean something for a model that is loaded already."""


class HarnessLM(PrefixedLM):
    """A causal language model whose every forward pass runs with selected neurons, or heads, edited.

    Without a selector it is lm-eval's ``hf`` and nothing else, but for ``batch_size=auto`` on a CPU.

    Args:
        pretrained: as of ``hf``; also a model of the registry, or a loader without required parameters (``demo``).
            What the loader takes goes to it, everything else to ``hf``.
        selector, intervention: components as ``harness eval`` takes them.
        corpus: texts on which neurons are selected and their activations measured; default: those of a
            bundled model. Selectors that need texts read them, too.
        sequences, length: how many texts, and their tokens.
        seed: of all that is drawn.
        control: edit the control set of this number (from 0) instead of the selection.
        hf: whatever ``hf`` takes. Pickled weights are read only with ``use_safetensors=false``.

    Attributes:
        neurons: the model as the harness sees it; None without an intervention.
        condition: what it runs under. record: what was selected and how, for lm-eval's results.

    Raises:
        HarnessError: names the argument that is missing, unknown or wrong.
    """

    _answering = _editing = False

    def __init__(
        self,
        pretrained: str,
        selector: Any = None,
        intervention: Any = None,
        corpus: Any = None,
        sequences: int = 64,
        length: int = 128,
        seed: int = 0,
        control: int | None = None,
        device: str | None = None,
        **hf: Any,
    ) -> None:
        _refuse_misspelt(hf)
        treatment = None
        if any(x is not None for x in (selector, intervention, corpus, control)):
            own = _own_corpus(pretrained)
            texts = {"corpus": corpus or own, "sequences": sequences, "length": length}
            # A selector that needs texts reads those that were named for all.
            treatment = Treatment.of(selector, intervention, texts, seed, control, corpus or own)
            _refuse_split(hf, treatment)
            _refuse_positions(treatment)
        loader = _loader(pretrained, device, hf)
        if loader is None:
            place = {} if device is None else {"device": device}
            super().__init__(**{"use_safetensors": True, **place, **hf}, pretrained=pretrained)
        else:
            loaded = border.load(loader)
            super().__init__(pretrained=loaded.hf, tokenizer=loaded.tokenizer, **hf)
            self.prefix = loaded.prefix
        self.neurons: Model | None = None
        self.condition: Condition = BASELINE
        self.record: dict[str, Any] = {}
        if treatment is not None:
            self.neurons = model_of(self, pretrained)
            self.condition, self.record = treatment.apply(self.neurons)
            log.info("%s: %s", treatment.intervention.name, ", ".join(map(str, self.condition.units)))
            self.model.register_forward_pre_hook(self._refuse_untreated)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._flagged("_answering"):
            return super().loglikelihood(requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._flagged("_answering"):
            return super().loglikelihood_rolling(requests, disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
        with self._flagged("_answering"):
            return super().generate_until(requests, disable_tqdm)

    @contextlib.contextmanager
    def _flagged(self, flag: str) -> Iterator[None]:
        """Within the block, the attribute is true."""
        before = getattr(self, flag)
        setattr(self, flag, True)
        try:
            yield
        finally:
            setattr(self, flag, before)

    def _refuse_untreated(self, *_: Any) -> None:
        """Before every pass: those behind an answer go through the two methods below, which put the edits in.

        Raises:
            HarnessError: lm-eval has another way to run its model; its numbers would be those of no intervention.
        """
        if self._answering and not self._editing:
            raise HarnessError(
                f"lm-eval {version('lm-eval')} runs its model in a way that this was not written for, around the "
                "intervention; its answers would be those of the untouched model."
            )

    def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> torch.Tensor:
        """Logits [batch, pos, d_vocab]. lm-eval pads on the right and gives no mask: a causal model's real positions
        come first and see nothing of the padding, edited or not."""
        if self.neurons is None:
            return cast(torch.Tensor, super()._model_call(inps, attn_mask, labels))
        if self.condition.frozen is None:
            with self._flagged("_editing"), under(self.neurons, self.condition):
                return cast(torch.Tensor, super()._model_call(inps, attn_mask, labels))
        positions = torch.arange(inps.shape[1], device=inps.device).expand_as(inps)
        with self._flagged("_editing"), torch.no_grad(), passes(self.neurons, self.condition) as forward:
            batch = Batch(inps, torch.ones_like(inps), positions)
            return cast(torch.Tensor, forward(batch, logits_to_keep=0).logits)

    def _model_generate(self, context: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        """Token ids [batch, pos + new]; one block of edits for a whole generation, which heads' edits count on."""
        if self.neurons is None:
            return cast(torch.Tensor, super()._model_generate(context, *args, **options))
        if self.condition.frozen is not None:
            raise HarnessError(
                "intervention: what is frozen takes two passes for each token, which lm-eval's generation does not "
                "make; leave frozen out, or run tasks that compare log-likelihoods."
            )
        with self._flagged("_editing"), under(self.neurons, self.condition):
            return cast(torch.Tensor, super()._model_generate(context, *args, **options))

    def _detect_batch_size(self, requests: Any = None, pos: int = 0) -> int:
        """Rows of a pass where ``batch_size`` is ``auto``: on a CPU not tried, which would take all of its memory."""
        if self.device.type != "cpu":
            return cast(int, super()._detect_batch_size(requests, pos))
        width = self.max_length if not requests else len(requests[pos][1]) + len(requests[pos][2])
        found = reckoned(min(width, self.max_length), self.model.config.get_text_config().vocab_size)
        return min(found, int(self.max_batch_size))

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's cache of answers, which would give those of another intervention."""
        if self.neurons is not None and cache_hook.dbdict is not None:
            raise HarnessError("--use_cache: its answers are found by prompt, whatever the intervention; leave it out.")
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results' ``config``."""
        info: dict[str, Any] = super().get_model_info()
        return {**info, "harness": self.record} if self.record else info


def _own_corpus(pretrained: str) -> str | None:
    """The texts of a bundled model, which is called by its name or its folder; None for any other."""
    loaders = catalogue().of(ModelLoader)
    registered = models_for(pretrained, loaders).get(pretrained)
    loader = loaders.get(pretrained if registered is None else registered.name)
    return own_corpus(pretrained) if loader is None else loader.corpus


def _loader(pretrained: str, device: str | None, hf: dict[str, Any]) -> ModelLoader | None:
    """The loader of a model that has a name with us, with its parameters taken out of ``hf``; None: it has none.

    Raises:
        HarnessError: an argument means nothing to it.
    """
    found = catalogue()
    loaders = found.of(ModelLoader)
    models = models_for(pretrained, loaders)
    if pretrained not in loaders and pretrained not in models:
        return None
    spec = ComponentSpec(pretrained, {}) if pretrained in loaders else models[pretrained]
    fields = loaders[spec.name].model_fields if spec.name in loaders else {}
    given = {key: hf.pop(key) for key in list(hf) if key in fields}
    if device is not None and "device" in fields:  # lm-eval says cuda:0 where nobody has said anything
        given["device"] = "auto" if device.startswith("cuda") and not torch.cuda.is_available() else device
    for key in hf:
        if key not in OF_LOADED:
            raise HarnessError(
                f'--model_args: "{key}" means nothing to {pretrained}, which the loader {spec.name} loads; it takes '
                f"{', '.join(fields)}."
            )
    return found.build(ModelLoader, ComponentSpec(spec.name, {**spec.params, **given}), "--model_args")


def _refuse_misspelt(hf: dict[str, Any]) -> None:
    """Refuse arguments that are nearly one of ours: ``hf`` would hand them to the model's class."""
    known, own = (set(inspect.signature(cls.__init__).parameters) for cls in (HFLM, HarnessLM))
    for key in sorted(set(hf) - known):
        if near := suggest(key, own - {"self", "hf"}, cutoff=0.75):
            raise HarnessError(f'--model_args: there is no "{key}".{near}')


def _refuse_positions(treatment: Treatment) -> None:
    """Refuse edits that act at some tokens only."""
    if (positions := treatment.intervention.positions) != "all":
        raise HarnessError(
            f"intervention: positions={positions}: lm-eval does not say where a prompt ends; leave positions "
            "out, or run the task with harness eval --task lm_eval."
        )


def _refuse_split(hf: dict[str, Any], treatment: Treatment) -> None:
    """Refuse what lm-eval's parser has cut off a component at a comma."""
    for component in (treatment.selector, treatment.intervention):
        for key in hf:
            if key in type(component).model_fields and key not in inspect.signature(HFLM.__init__).parameters:
                raise HarnessError(
                    f'--model_args: "{key}" is a parameter of {component.name}, which lm-eval has cut at a comma; put '
                    f'the component in quotes, as in {component.kind}="{component.name}:{key}={hf[key]},...".'
                )
