"""A second judge of refusals: a text classifier that reads an answer and calls it one or not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.files.store import digest
from harness.plugin import HarnessError, suggest

BATCH = 32
"""Answers in a pass. One size for all: padding may change the last digit of a probability."""

LONGEST = 512
"""Tokens of an answer that are read; those of a comparison are far shorter."""

_REFUSAL = re.compile(r"refus|reject", re.IGNORECASE)
_DENIED = re.compile(r"(no|non|not)[\W_]", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier, and which of its labels means a refusal.

    Attributes:
        name: a hub id, or the name of a folder.
        label: the label, by its name.
    """

    name: str
    label: str
    hf: Any
    tokenizer: Any

    @cached_property
    def digest(self) -> str:
        """sha256 of what decides its verdicts: the digests of weights and tokenizer, and the configuration's labels."""
        from harness.model.digests import tokenizer_digest, weights_digest

        return digest([weights_digest(self.hf), tokenizer_digest(self.tokenizer, ()), _labels(self.hf), self.label])

    def refusals(self, answers: Sequence[str]) -> np.ndarray:
        """Which answers have the label as their most likely one, bool [n]. An answer without text is none."""
        import torch

        wanted, found = _labels(self.hf).index(self.label), np.zeros(len(answers), bool)
        told = [i for i, x in enumerate(answers) if x.strip()]
        size = BATCH if self.tokenizer.pad_token is not None else 1
        longest = min(self.tokenizer.model_max_length, LONGEST, _positions(self.hf.config))
        for start in range(0, len(told), size):
            rows = told[start : start + size]
            batch = self.tokenizer(
                [answers[i] for i in rows], padding=size > 1, truncation=True, max_length=longest, return_tensors="pt"
            )
            with torch.no_grad():
                logits = self.hf(**batch.to(self.hf.device)).logits
            found[rows] = (logits.argmax(-1) == wanted).cpu().numpy()
        return found


def load_judge(source: str, label: str | None) -> Judge:
    """A classifier of a folder or of the hub, with safetensors weights; code that comes with it is never run.

    Args:
        label: the label that means a refusal; None: the one that is called so.

    Raises:
        HarnessError: it cannot be loaded, has no trained classifier, or no such label.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from harness.model.checkpoints import check_folder, check_loaded
    from harness.model.sources import find, hub_is_off
    from harness.model.transformers_calls import first_line, quietly

    offline = hub_is_off()
    try:
        found = find(source, None, offline)
        if isinstance(found.place, Path):
            check_folder(found.place, allow_pickle=False)
        shared = {"revision": found.commit or "main", "local_files_only": offline, "trust_remote_code": False}
        with quietly():
            hf, info = AutoModelForSequenceClassification.from_pretrained(
                str(found.place), use_safetensors=True, output_loading_info=True, dtype=torch.float32, **shared
            )
            tokenizer = AutoTokenizer.from_pretrained(str(found.place), **shared)
        check_loaded(source, info, allow_unused=True)  # a head that is missing would be one at random
    except HarnessError as error:
        raise HarnessError(f"--judge: {error}") from error
    except Exception as error:  # transformers raises many kinds; each means that there is no classifier to be had
        why = "it needs code of its own, which is not run" if "trust_remote_code" in str(error) else first_line(error)
        raise HarnessError(f"--judge: {source} is no classifier of texts that transformers loads ({why}).") from error
    name = Path(source).name if isinstance(found.place, Path) else source
    return Judge(name, _chosen(name, _labels(hf), label), hf.eval(), tokenizer)


def _labels(hf: Any) -> list[str]:
    named: Mapping[int, str] = hf.config.id2label
    return [str(named[i]) for i in range(hf.config.num_labels)]


def _positions(config: Any) -> int:
    """Tokens that the model has positions for; RoBERTa counts them from its padding token on."""
    found = getattr(config, "max_position_embeddings", None) or LONGEST
    return int(found) - (2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0)


def _chosen(name: str, labels: Sequence[str], label: str | None) -> str:
    """The label that means a refusal."""
    listed = ", ".join(labels)
    if len(labels) < 2:
        raise HarnessError(f"--judge: {name} has one label, {listed}: expected one that tells refusals from others.")
    if label is not None:
        chosen = [x for x in labels if x.lower() == label.lower()]
        if not chosen:
            raise HarnessError(
                f'--judge_label: {name} has no label "{label}".{suggest(label, labels)} It has: {listed}.'
            )
        return chosen[0]
    called = [x for x in labels if _REFUSAL.search(x) and not _DENIED.match(x)]
    if len(called) != 1:
        found = "no label" if not called else "more than one label"
        raise HarnessError(
            f'--judge: {name} has {found} with "refus" or "reject" in its name ({listed}); say with --judge_label '
            "which means a refusal."
        )
    return called[0]
