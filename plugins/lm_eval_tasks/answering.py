"""A language model in lm-eval's sense that answers every request under all conditions at once.

Tokenisation, truncation and rolling windows are those of lm-eval's ``HFLM``; only the two places where it would call
the model are the engine's. An answer has one entry for each condition.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from harness.errors import HarnessError
from harness.tokens import stop_tokens

from .loading import quiet

if TYPE_CHECKING:
    from harness.conditions import Condition
    from harness.engine import Engine, Progress

GREEDY = {"do_sample", "temperature", "top_p", "top_k", "num_beams", "until"}
"""Generation arguments that say, or leave it at, that the most likely token is taken."""


class ConditionsLM(HFLM):
    """Answers ``loglikelihood``, ``loglikelihood_rolling`` and ``generate_until``; C conditions.

    ``loglikelihood`` returns for each request (log p [C], greedy [C]), the second whether the continuation is what the
    model would say; ``loglikelihood_rolling`` log p [C]; ``generate_until`` C texts.
    """

    def __init__(self, engine: Engine, conditions: Sequence[Condition], progress: Progress | None = None) -> None:
        with quiet():  # a copy: HFLM gives the tokeniser a padding token
            super().__init__(pretrained=engine.model.hf, tokenizer=copy.deepcopy(engine.model.tokenizer), batch_size=1)
        self.batch_size_per_gpu = 2**30  # the engine makes its own batches; rolling windows are cut by this one
        self.engine, self.conditions, self.progress = engine, conditions, progress

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        whole, first = [], []
        for _, context, continuation in requests:
            if len(continuation) > self.max_length:
                raise HarnessError(
                    f"task lm_eval: a continuation of {len(continuation)} tokens is longer than the {self.max_length} "
                    f"positions of {self.engine.model.name}."
                )
            tokens = (list(context) + list(continuation))[-(self.max_length + 1) :]
            whole.append(tokens)
            first.append(len(tokens) - len(continuation))
        scores = self.engine.score(whole, self.conditions, self.progress, first)
        answers = []
        for row in range(len(whole)):
            columns = scores.columns([row])
            answers.append((-scores.loss[:, columns].sum(axis=1), (scores.rank[:, columns] == 0).all(axis=1)))
        return answers

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
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
        options = normalize_gen_kwargs(arguments, self.max_gen_toks)
        n_new = options.pop("max_gen_toks")
        if options.get("do_sample") or options.get("num_beams", 1) != 1 or (odd := set(options) - GREEDY):
            said = "do_sample=true" if options.get("do_sample") else f"{', '.join(sorted(odd or {'num_beams'}))}"
            raise HarnessError(
                f"task lm_eval: a task generates with {said}, and all conditions are run greedily; "
                "override it with gen_kwargs, for example {do_sample: false, temperature: 0}."
            )
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(options.get("until"), eos=eos)
        room = self.max_length - n_new
        if room < 1:
            raise HarnessError(
                f"task lm_eval: {n_new} new tokens do not fit into the {self.max_length} positions of {model.name}; "
                "lower gen_kwargs={max_gen_toks: ...}."
            )
        prompts = [
            self.tok_batch_encode([text], left_truncate_len=room, truncation=self.truncation)[0][0].tolist()
            for text in contexts
        ]
        stop = stop_tokens(model, [text for text in until if text])
        made = self.engine.generate(prompts, self.conditions, n_new, stop, progress=self.progress).tokens
        # Most conditions say the same: what is decoded are the distinct rows.
        rows, place = np.unique(made.reshape(-1, made.shape[-1]), axis=0, return_inverse=True)
        said_rows = [self.tok_decode([int(token) for token in row if token >= 0]) for row in rows]
        texts = [postprocess_generated_text(text, stop=until, think_end_token=None) for text in said_rows]
        return [[texts[i] for i in column] for column in place.reshape(made.shape[:2]).T]
