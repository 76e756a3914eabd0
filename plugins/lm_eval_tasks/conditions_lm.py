"""A language model in lm-eval's sense that answers every request under all conditions at once.

Tokenisation, truncation and rolling windows are those of lm-eval's ``HFLM``, and texts begin as the model's ``add_bos``
says; only the two places where it would call the model are the engine's. An answer has one entry for each condition.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from harness.lmeval.tokens import PrefixedLM
from harness.model import stop_tokens
from harness.model.greedy import NEUTRAL, changes, in_words, not_applied
from harness.plugin import HarnessError, counted

from .task_manager import quiet
from .tempering import sums_of

if TYPE_CHECKING:
    from harness.plugin import Condition, Engine, Progress

GREEDY = {"do_sample", "temperature", "top_p", "top_k", "until"}
"""Generation arguments that say, or leave it at, that the most likely token is taken."""


class ConditionsLM(PrefixedLM):
    """Answers ``loglikelihood``, ``loglikelihood_rolling`` and ``generate_until``; C conditions.

    ``loglikelihood`` returns for each request (sums [5, C], greedy [C]), the first those of :mod:`.tempering`, of which
    row 0 is log p, the second whether the continuation is what the model would say; ``loglikelihood_rolling`` sums
    [5, C]; ``generate_until`` C texts.
    """

    def __init__(self, engine: Engine, conditions: Sequence[Condition], progress: Progress | None = None) -> None:
        with quiet():  # a copy: HFLM gives the tokeniser a padding token
            super().__init__(pretrained=engine.model.hf, tokenizer=copy.deepcopy(engine.model.tokenizer), batch_size=1)
        self.batch_size_per_gpu = 2**30  # the engine makes its own batches; rolling windows are cut by this one
        self.engine, self.conditions, self.progress = engine, conditions, progress
        self.prefix = engine.model.prefix

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context.

        Raises:
            HarnessError: the tokenizer has none.
        """
        found: int | None = super().prefix_token_id
        if found is None:
            raise HarnessError(
                f"task lm_eval: the tokenizer of {self.engine.model.name} has neither a BOS nor an EOS token, one of "
                "which lm-eval puts before a text without a context."
            )
        return found

    def read(self, request: Any) -> tuple[list[int], list[int]]:
        """Tokens of a request: those that are only read, and those that are scored (of a text to go on from: none).

        Of a rolling request, where its windows begin, and all of its text.

        Raises:
            HarnessError: names task and document where no token is left to be scored, or to be read, and where the
                scored ones do not fit into the model.
        """
        if request.request_type == "generate_until":
            self._options(request.args[1])
            if not (before := self.tok_encode(request.args[0])):
                raise HarnessError(f"{_where(request)} is empty, and no BOS token is put before it (add_bos=true).")
            return before, []
        text = request.args[-1]
        alone = self.tok_encode(text, add_special_tokens=False)
        if request.request_type == "loglikelihood_rolling":
            if not alone:
                raise HarnessError(f"{_where(request)} is an empty text, of which there is no likelihood.")
            return [self.prefix_token_id], self.tok_encode(text)
        before, scored = self._pair(request.args[0], text, alone)
        if not scored:
            why = "the tokenizer joins it with the end of its context" if alone else "it is empty"
            raise HarnessError(
                f'{_where(request)} has a continuation "{text}" without a token of its own ({why}), which lm-eval does '
                "not score; see doc_to_text, doc_to_choice, doc_to_target and target_delimiter of the task."
            )
        if len(scored) > self.max_length:
            raise HarnessError(
                f"{_where(request)} has a continuation of {counted(len(scored), 'token')}, longer than the "
                f"{self.max_length} positions of {self.engine.model.name}."
            )
        return before, scored

    def _pair(self, context: str, continuation: str, alone: list[int]) -> tuple[list[int], list[int]]:
        """Context and continuation as :meth:`lm_eval.api.model.TemplateLM.loglikelihood` has them, whatever is left."""
        if context:
            found: tuple[list[int], list[int]] = self._encode_pair(context, continuation)
            return found
        if alone[:1] == [self.prefix_token_id]:
            return alone[:1], alone[1:]
        return [self.prefix_token_id], alone

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        whole, first = [], []
        for _, context, continuation in requests:
            tokens = (list(context) + list(continuation))[-(self.max_length + 1) :]
            whole.append(tokens)
            first.append(len(tokens) - len(continuation))
        scores = self.engine.score(whole, self.conditions, self.progress, first, tempered=True)
        before = next(row for row, condition in enumerate(self.conditions) if condition.untouched)
        answers = []
        for row in range(len(whole)):
            columns = scores.columns([row])
            answers.append((sums_of(scores, columns, before), (scores.rank[:, columns] == 0).all(axis=1)))
        return answers

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return self._loglikelihood_tokens([(request.args, *self.read(request)) for request in requests])

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        for request in requests:
            self.read(request)  # lm-eval sums over no window where there is no text
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[list[str]]:
        """Texts [n_requests][C].

        Raises:
            HarnessError: a task wants to sample, or anything but the most likely token at every step.
        """
        answers: list[list[str]] = [[] for _ in requests]
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        for members in groups.values():
            texts = [requests[i].args[0] for i in members]
            for i, found in zip(members, self._generate(texts, requests[members[0]].args[1]), strict=True):
                answers[i] = found
        return answers

    def _generate(self, contexts: Sequence[str], arguments: dict[str, Any]) -> list[list[str]]:
        """Texts [n_contexts][C] of requests with the same generation arguments."""
        model = self.engine.model
        options, n_new = self._options(arguments)
        end = self.eot_token_id
        eos = None if end is None else self.tok_decode(end, skip_special_tokens=False)
        until = handle_stop_sequences(options.get("until"), eos=eos)
        prompts = [self.tok_encode(text, left_truncate_len=self.max_length - n_new) for text in contexts]
        stop = stop_tokens(model, [text for text in until if text])
        made = self.engine.generate(prompts, self.conditions, n_new, stop, progress=self.progress).tokens
        # Most conditions say the same: what is decoded are the distinct rows.
        rows, place = np.unique(made.reshape(-1, made.shape[-1]), axis=0, return_inverse=True)
        said_rows = [self.tok_decode([int(token) for token in row if token >= 0]) for row in rows]
        texts = [postprocess_generated_text(text, stop=until, think_end_token=None) for text in said_rows]
        return [[texts[i] for i in column] for column in place.reshape(made.shape[:2]).T]

    def _options(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Generation arguments as lm-eval completes them, and how many new tokens they allow.

        Raises:
            HarnessError: they, or the model's generation configuration where they say nothing, ask for anything but the
                most likely token at every step; more new tokens than the model has positions.
        """
        name, options = self.engine.model.name, normalize_gen_kwargs(arguments, self.max_gen_toks)
        n_new = options.pop("max_gen_toks")
        odd = sorted(key for key, value in options.items() if key not in {*GREEDY, *NEUTRAL} or changes(key, value))
        if options.get("do_sample") or odd:
            said = "do_sample=true" if options.get("do_sample") else ", ".join(odd)
            raise HarnessError(
                f"task lm_eval: a task generates with {said}, and all conditions are run greedily; "
                "override it with gen_kwargs, for example {do_sample: false, temperature: 0}."
            )
        left = {key: value for key, value in not_applied(self.engine.model.hf).items() if options.get(key) is None}
        if left:
            raise HarnessError(
                f"task lm_eval: the generation_config of {name} asks for {in_words(left)}, which lm-eval's hf obeys, "
                "and all conditions are run greedily; switch it off with gen_kwargs, for example "
                "{repetition_penalty: 1.0}, or take it out of generation_config.json."
            )
        if n_new >= self.max_length:
            raise HarnessError(
                f"task lm_eval: {n_new} new tokens do not fit into the {self.max_length} positions of {name}; "
                "lower gen_kwargs={max_gen_toks: ...}."
            )
        return options, n_new


def _where(request: Any) -> str:
    """The task and document of a request, for error messages."""
    return f"task lm_eval: {request.task_name}: document {request.doc_id}"
