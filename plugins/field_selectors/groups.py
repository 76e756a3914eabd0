"""Groups of texts that selectors tell apart: labelled ones of a file, or the task's prompts beside other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from harness.plugin import AnyCorpus, HarnessError, InputFile, SelectionContext, Source, counted, suggest

from .base import FieldSelector, drawn

if TYPE_CHECKING:
    from harness.plugin import Model, Prompt

TASK, TEXT = "task", "text"
"""What the two groups are called where no file names any."""


def _own(value: Any, info: ValidationInfo) -> Any:
    """The model's own texts where nobody names any."""
    return (info.context or {}).get("corpus") if value is None else value


@dataclass(frozen=True)
class Group:
    """Texts of one kind: what they are called, and their tokens."""

    label: str
    tokens: tuple[tuple[int, ...], ...]


class GroupSelector(FieldSelector):
    """Base: neurons that behave differently in different groups of texts."""

    data: Annotated[Source, InputFile()] | None = Field(
        None,
        description="labelled texts (.jsonl, .csv, .tsv, .json) with columns text and label; default: the task's "
        "prompts (held-out ones) beside texts of the corpus",
    )
    corpus: Annotated[AnyCorpus | None, BeforeValidator(_own)] = Field(
        None,
        validate_default=True,
        description="without data: the other texts, of the half that tasks do not evaluate on; only the bundled models "
        "have a default",
    )
    texts: int = Field(64, ge=2, description="texts of each group, drawn by the seed if there are more")
    length: int = Field(32, ge=2, description="tokens of a text of the corpus, and the most of a labelled text")

    @model_validator(mode="after")
    def _has_texts(self) -> Self:
        if self.data is None and self.corpus is None:
            raise ValueError(
                "name labelled texts (data=FILE), or texts to compare the task's prompts with (corpus=prose)"
            )
        return self

    def reads_prompts(self) -> bool:
        return self.data is None

    def has_seen(self, prompt: Prompt) -> bool:
        return self.data is not None and prompt.text in self._read

    @cached_property
    def _rows(self) -> list[tuple[str, str]]:
        """Text and label of every row of the file."""
        from harness.files.rows import read_rows

        found = []
        for line, row in read_rows(str(self.data), None, "train", None):
            text, label = row.get("text"), row.get("label")
            if not isinstance(text, str) or not text.strip() or not isinstance(label, str | bool | int):
                raise HarnessError(f"{self.data}, line {line}: expected something in both columns, text and label.")
            found.append((text, str(label).lower() if isinstance(label, bool) else str(label)))
        return found

    @cached_property
    def _read(self) -> frozenset[str]:
        return frozenset(text for text, _ in self._rows)

    def check(self, model: Model) -> None:
        super().check(model)
        if model.n_positions is not None and self.length > model.n_positions:
            raise HarnessError(
                f"selector {self.name}: length={self.length} tokens do not fit the {model.n_positions} positions of "
                f"{model.name}."
            )

    def groups(self, context: SelectionContext) -> tuple[list[Group], str]:
        """The groups, of which there are two or more, and where they are from, in words.

        Raises:
            HarnessError: the file cannot be read, or holds fewer than two groups of two texts; the task has no prompts.
        """
        if self.data is None:
            from harness.data import sequences

            assert self.corpus is not None
            prompts, where = drawn(context, self.texts, self.name)
            read = sequences(
                context.model, self.corpus, self.texts, self.length, context.seed, "select", across_documents=True
            )
            others = tuple(x.tokens for x in read)
            said = f"{where} and {counted(len(others), 'sequence')} of the corpus {self.corpus.name}"
            return [Group(TASK, tuple(map(tuple, prompts))), Group(TEXT, others)], said
        rng, found = np.random.default_rng(context.seed), []
        for label in sorted({label for _, label in self._rows}):
            own = [text for text, said in self._rows if said == label]
            rows = np.sort(rng.permutation(len(own))[: self.texts]).tolist()
            tokens = context.model.encode([own[row] for row in rows])
            found.append(Group(label, tuple(tuple(x[: self.length]) for x in tokens)))
        if len(found) < 2 or min(len(group.tokens) for group in found) < 2:
            raise HarnessError(f"{self.data}: selector {self.name} needs two labels or more, with two texts each.")
        counts = ", ".join(f"{len(group.tokens)} {group.label}" for group in found)
        return found, f"labelled texts ({counts})"


class TwoGroups(GroupSelector):
    """Base: neurons that tell a positive group of texts from a negative one, at the last token."""

    positive: str | None = Field(
        None,
        description="the label of the positive group; default: true, or the task's prompts; all others are negative",
    )

    def classes(self, context: SelectionContext) -> tuple[np.ndarray, np.ndarray, str]:
        """Activations of the candidates at the last token, float32 [texts, n]; which texts are positive, bool [texts];
        and what was read, in words.

        Raises:
            HarnessError: as :meth:`groups`; there is no such label.
        """
        groups, said = self.groups(context)
        labels = [group.label for group in groups]
        positive = self.positive or (TASK if self.data is None else "true")
        if positive not in labels:
            raise HarnessError(
                f'selector {self.name}: there is no label "{positive}".{suggest(positive, labels)} '
                f"There are: {', '.join(labels)}; choose one with positive=..."
            )
        tokens = [x for group in groups for x in group.tokens]
        marks = np.array([group.label == positive for group in groups for _ in group.tokens])
        return last_activations(context, tokens, self.layers(context.model)), marks, said


def last_activations(context: SelectionContext, tokens: Sequence[Sequence[int]], layers: Sequence[int]) -> np.ndarray:
    """Activations of all neurons of some layers at the last token of each text, float32 [texts, layers * d_mlp]."""
    import torch

    from harness.engine import batches

    model = context.model
    found = np.zeros((len(tokens), len(layers), model.anatomy.d_mlp), np.float32)
    for rows in batches(tokens, context.engine.batch_size):
        with torch.no_grad(), model.capture_neurons(layers) as seen, model.without_logits():
            model.forward(model.pad([list(tokens[row]) for row in rows]))
        for i, layer in enumerate(layers):
            found[rows, i] = seen[layer][:, -1].float().cpu().numpy()
    return found.reshape(len(tokens), -1)
