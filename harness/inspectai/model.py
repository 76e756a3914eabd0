"""inspect_ai's model under one of our interventions: ``inspect eval TASK --model harness/NAME -M selector=entropy``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ContentText,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from harness.conditions.conditions import BASELINE, Condition
from harness.errors import HarnessError, suggest
from harness.files.store import digest
from harness.files.wording import counted
from harness.inspectai.decoding import Continued, Drawing, continued
from harness.model.model import Model
from harness.plugin import border
from harness.plugin.catalogue import catalogue
from harness.plugin.components import ModelLoader
from harness.plugin.specs import ComponentSpec
from harness.running import environment
from harness.running.request import model_named
from harness.running.treatment import Treatment
from harness.statistics import derive_seed

OURS = ("selector", "intervention", "units", "corpus", "sequences", "length", "seed", "control", "chat")
"""What ``-M`` takes beside the loader's parameters."""

NOT_HERE = ("best_of", "frequency_penalty", "presence_penalty", "logit_bias", "response_schema", "reasoning_tokens")
"""Settings of generation that other providers obey; here they would change nothing."""

MAX_TOKENS = 256
"""Of an answer, where the task does not say."""


class HarnessAPI(ModelAPI):  # type: ignore[misc]  # an extra has no types here
    """A causal language model whose every forward pass runs with selected units edited.

    Without a selector, or units, it is the untouched model. Calls are made one after the other, so that an answer does
    not depend on which others are asked at the same time.

    Args:
        model_name: loader (``demo``), model of the registry, hub id or folder, as ``harness eval --model``.
        model_args: of :data:`OURS`, ``selector``, ``intervention`` and what they read, as of ``lm_eval --model
            harness``; ``units``: names of units, in the place of a selector; ``chat=false``: no chat template. All
            others are the loader's (``device``, ``dtype`` ...).

    Attributes:
        model, condition: what runs, and under what. record: what was selected and how, for the log.

    Raises:
        HarnessError: names the argument that is missing, unknown or wrong.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        environment.prepare()
        ours = {key: model_args.pop(key) for key in OURS if key in model_args}
        self.chat = bool(ours.pop("chat", True))
        loader = _loader(model_name, model_args)
        treatment = _treatment(ours, loader.corpus)
        self.model: Model = border.load(loader)
        self.condition: Condition = BASELINE
        self.record: dict[str, Any] = {"model": self.model.provenance()}
        if treatment is not None:
            self.condition, self.record = treatment.apply(self.model)
        # inspect finds cached answers by this, beside the messages: those of another condition are others.
        self.base_url = f"harness:{digest(self.record)[:16]}"
        self._lock = threading.Lock()
        self._asked: Counter[str] = Counter()

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answers to a conversation: greedy, or drawn where a temperature above 0 is set.

        Raises:
            HarnessError: tools, pictures, or a setting that is not obeyed here.
        """
        _refuse(tools, config)
        tokens = self._tokens(input)
        made: ModelOutput = await anyio.to_thread.run_sync(self._answer, tokens, config)
        return made

    def _tokens(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The prompt: through the tokenizer's chat template, or, of a model without one, the texts themselves."""
        turns = [{"role": message.role, "content": _text(message)} for message in messages]
        if self.chat and getattr(self.model.tokenizer, "chat_template", None):
            last = messages[-1].role == "assistant"  # to be gone on with
            how = {"continue_final_message": True} if last else {"add_generation_prompt": True}
            prompt = self.model.tokenizer.apply_chat_template(turns, tokenize=False, **how)
        else:
            prompt = "\n\n".join(turn["content"] for turn in turns)
        [tokens] = self.model.encode([prompt])
        if self.model.n_positions is not None and len(tokens) >= self.model.n_positions:
            raise HarnessError(
                f"a prompt of {counted(len(tokens), 'token')} leaves no room for an answer in the "
                f"{counted(self.model.n_positions, 'position')} of {self.model.name}."
            )
        return tokens

    def _answer(self, tokens: list[int], config: GenerateConfig) -> ModelOutput:
        started = time.monotonic()
        with self._lock:  # edits are hooks on the one model
            key = digest(tokens)
            made = []
            for _ in range(config.num_choices or 1):
                made.append(self._continued(tokens, config, f"{key}/{self._asked[key]}"))
                self._asked[key] += 1
        n_new = sum(len(x.tokens) for x in made)
        usage = ModelUsage(input_tokens=len(tokens), output_tokens=n_new, total_tokens=len(tokens) + n_new)
        choices = [self._choice(x, tokens, config) for x in made]
        took, told = time.monotonic() - started, {"harness": self.record}
        return ModelOutput(model=self.model_name, choices=choices, usage=usage, time=took, metadata=told)

    def _continued(self, tokens: list[int], config: GenerateConfig, which: str) -> Continued:
        """``which``: what is drawn depends on the prompt, and on how often it was asked before, in no order."""
        seed = derive_seed(config.seed or 0, which) % 2**63
        drawing = Drawing(config.temperature, config.top_k, config.top_p, seed)
        top = max(config.top_logprobs or 0, config.prompt_logprobs or 0)
        most, stop = config.max_tokens or MAX_TOKENS, config.stop_seqs or ()
        of_prompt = config.prompt_logprobs is not None
        return continued(self.model, self.condition, tokens, drawing, most, stop, top, of_prompt)

    def _choice(self, made: Continued, prompt: list[int], config: GenerateConfig) -> ChatCompletionChoice:
        message = ChatMessageAssistant(content=made.text, model=self.model_name, source="generate")
        told = self._logprobs(made.tokens, made.log_p, config.top_logprobs) if config.logprobs else None
        read = None
        if config.prompt_logprobs is not None:
            read = self._logprobs(prompt[1:], made.prompt_log_p, config.prompt_logprobs)
        return ChatCompletionChoice(message=message, stop_reason=made.reason, logprobs=told, prompt_logprobs=read)

    def _logprobs(self, tokens: Sequence[int], log_p: Sequence[Any], top: int | None) -> Logprobs:
        def said(cls: Any, token: int, value: float, **more: Any) -> Any:
            text = self.model.token_texts[token]
            return cls(token=text, logprob=value, bytes=list(text.encode()), **more)

        return Logprobs(
            content=[
                said(Logprob, token, own, top_logprobs=[said(TopLogprob, *x) for x in best[:top]] if top else None)
                for token, (own, best) in zip(tokens, log_p, strict=True)
            ]
        )

    def max_tokens(self) -> int | None:
        return MAX_TOKENS

    def max_connections(self) -> int:
        """One after the other; more would only wait."""
        return 1


def _loader(name: str, given: dict[str, Any]) -> ModelLoader:
    """The loader of a model by the name that ``harness eval --model`` takes.

    Raises:
        HarnessError: there is none, or an argument means nothing to it.
    """
    found = catalogue()
    spec = model_named(name, found, "", given.pop("device", None))
    fields = found.of(ModelLoader)[spec.name].model_fields
    for key in given:
        if key not in fields:
            known = [*OURS, *fields]
            raise HarnessError(f'-M {key}: there is no "{key}".{suggest(key, known)} There are: {", ".join(known)}.')
    return found.build(ModelLoader, ComponentSpec(spec.name, {**spec.params, **given}), "-M")


def _treatment(ours: dict[str, Any], own: str | None) -> Treatment | None:
    """What was asked for, if anything; ``own``: the model's corpus."""
    if not ours.keys() & {"selector", "intervention", "units", "corpus", "control"}:
        return None
    units = ours.pop("units", None)
    if units is not None:
        if "selector" in ours:
            raise HarnessError("-M units: a selector chooses units already; name one of the two.")
        if not isinstance(units, str | list):  # 3.30 is the number 3.3 by the time it is here
            raise HarnessError(f"-M units: {units} was read as a number; write selector=neurons:neurons=[{units}].")
        ours["selector"] = {"name": "units", "units": units.split(",") if isinstance(units, str) else units}
    corpus = ours.get("corpus") or own
    texts = {"corpus": corpus} | {key: ours[key] for key in ("sequences", "length") if key in ours}
    chosen, edits = ours.get("selector"), ours.get("intervention")
    return Treatment.of(chosen, edits, texts, ours.get("seed", 0), ours.get("control"), corpus, field="-M")


def _refuse(tools: Sequence[ToolInfo], config: GenerateConfig) -> None:
    """Refuse what would change nothing here.

    Raises:
        HarnessError: names it.
    """
    if tools:
        raise HarnessError("a model of the harness calls no tools: leave them out of the task.")
    for setting in NOT_HERE:
        if getattr(config, setting, None) is not None:
            raise HarnessError(f"{setting}: a model of the harness does not obey it; leave it out.")


def _text(message: ChatMessage) -> str:
    parts = [] if isinstance(message.content, str) else message.content
    if not all(isinstance(part, ContentText) for part in parts):
        raise HarnessError("a model of the harness reads text alone, no pictures and no sounds.")
    return str(message.text)
