"""At which tokens edits act: all, those of the prompt, those that are generated, some of these, or what a task names.

Tokens are counted as the model reads them: token 0 is the BOS token where one is put first. A prompt ends where the
model goes on by itself; in scoring with ``first`` that is the first token that is scored, without it the text's end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.errors import HarnessError
from harness.files.wording import counted

if TYPE_CHECKING:
    from jaxtyping import Bool

Span: TypeAlias = tuple[int, int]
"""Tokens start to stop of a prompt; stop is not among them."""

WORDS = {
    "all": "all positions",
    "prompt": "the tokens of the prompt",
    "generated": "the generated tokens",
    "first": "the first token of the prompt",
    "last": "the last token of the prompt",
}
"""What can be said of any prompt, and how reports put it."""

_SLICE = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?")
_NAME = re.compile(r"[a-z][a-z_]*")


@dataclass(frozen=True)
class Layout:
    """Where the tokens of some prompts are.

    Attributes:
        lengths: tokens of each prompt; what follows counts as generated.
        spans: what the task names in each.
    """

    lengths: tuple[int, ...]
    spans: tuple[Mapping[str, Span], ...]

    @classmethod
    def of(cls, lengths: Sequence[int], spans: Sequence[Mapping[str, Span]] | None = None) -> Layout:
        """Of prompts of which the task names nothing, where it hands over no spans."""
        return cls(tuple(lengths), tuple({} for _ in lengths) if spans is None else tuple(spans))

    def only(self, rows: Sequence[int] | np.ndarray) -> Layout:
        """Some of the prompts."""
        return Layout(tuple(self.lengths[row] for row in rows), tuple(self.spans[row] for row in rows))


@dataclass(frozen=True)
class Positions:
    """Tokens at which edits act: a word of ``WORDS``, a slice of the prompt as Python has it ("-2:", "0:5"), the name
    of a span that the task gives ("subject"), or several of them, joined by "+" ("last+generated").

    Raises:
        HarnessError: the text is none of these.
    """

    text: str = "all"

    def __post_init__(self) -> None:
        for part in self.parts:
            if not (_NAME.fullmatch(part) or (part != ":" and _SLICE.fullmatch(part))):
                raise HarnessError(
                    f'positions: "{part}" is none of {", ".join(WORDS)}, a slice of the prompt such as -2: or 0:5, '
                    "the name of a span that the task gives, or several joined by +."
                )

    @property
    def parts(self) -> tuple[str, ...]:
        """What is joined."""
        return tuple(part.strip() for part in self.text.split("+"))

    @property
    def everywhere(self) -> bool:
        """Whether edits act at every token."""
        return "all" in self.parts or {"prompt", "generated"} <= set(self.parts)

    @property
    def generated(self) -> bool:
        """Whether edits act at generated tokens."""
        return not {"all", "generated"}.isdisjoint(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The spans that a task has to give."""
        return tuple(part for part in self.parts if part not in WORDS and ":" not in part)

    def __str__(self) -> str:
        """In words: "the last token of the prompt"."""
        other = {part: f"tokens {part} of the prompt" if ":" in part else f"the {part}" for part in self.parts}
        return " and ".join((other | WORDS)[part] for part in self.parts)

    def mask(self, layout: Layout) -> Bool[np.ndarray, "n_prompts longest+1"]:
        """Whether edits act at each token of the prompts, counted from the first; the last column, and what is behind a
        shorter prompt, stands for the tokens that follow.

        Raises:
            HarnessError: a prompt has no span of a name.
        """
        found = np.zeros((len(layout.lengths), max(layout.lengths, default=0) + 1), bool)
        for row, n in enumerate(layout.lengths):
            for start, stop in self._ranges(n, layout.spans[row]):
                found[row, start:stop] = True
            found[row, n:] = self.generated
        return found

    def _ranges(self, n: int, spans: Mapping[str, Span]) -> Iterator[Span]:
        """Places among a prompt's n tokens."""
        whole = {"all": ":", "prompt": ":", "generated": "0:0", "first": ":1", "last": "-1:"}
        for part in self.parts:
            if found := _SLICE.fullmatch(whole.get(part, part)):
                start, stop, _ = slice(*(None if x is None else int(x) for x in found.groups())).indices(n)
                yield start, max(start, stop)
            elif part in spans:
                yield spans[part]
            else:
                known = f"; it has {', '.join(sorted(spans))}" if spans else ""
                raise HarnessError(
                    f'positions: a prompt of {counted(n, "token")} has no span of the name "{part}"{known}.'
                )


EVERYWHERE = Positions()
