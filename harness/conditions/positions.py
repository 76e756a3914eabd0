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

_GENERATED = re.compile(r"generated\[(\d{1,6})?:(\d{1,6})?\]")
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
    """Tokens at which edits act: a word of ``WORDS``, a slice of the prompt as Python has it ("-2:", "0:5"), or of the
    generated tokens ("generated[2:]": from the third on), the name of a span that the task gives ("subject"), or
    several of them, joined by "+" ("last+generated").

    Raises:
        HarnessError: the text is none of these.
    """

    text: str = "all"

    def __post_init__(self) -> None:
        for part in self.parts:
            fine = _NAME.fullmatch(part) or (part != ":" and _SLICE.fullmatch(part)) or _steps(part)
            if not fine:
                raise HarnessError(
                    f'positions: "{part}" is none of {", ".join(WORDS)}, a slice of the prompt such as -2: or 0:5, '
                    "one of the generated tokens such as generated[2:], the name of a span that the task gives, or "
                    "several joined by +."
                )

        for part in self.parts:
            first, end = _steps(part) or (0, None)
            if end is not None and end <= first:
                raise HarnessError(f"positions: {part} holds no token: its end is not behind its beginning.")

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
        """Whether edits act at generated tokens, or some of them."""
        return not {"all", "generated"}.isdisjoint(self.parts) or any(map(_steps, self.parts))

    def generated_at(self, place: int) -> bool:
        """Whether edits act at a generated token, the first of which has place 0."""
        slices = [found for part in self.parts if (found := _steps(part))]
        among = any(first <= place and (last is None or place < last) for first, last in slices)
        return among or not {"all", "generated"}.isdisjoint(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The spans that a task has to give."""
        return tuple(part for part in self.parts if part not in WORDS and ":" not in part)

    def __str__(self) -> str:
        """In words: "the last token of the prompt"."""
        other = {part: f"tokens {part} of the prompt" if ":" in part else f"the {part}" for part in self.parts}
        other |= {x: f"tokens {x[10:-1]} of those generated" for x in self.parts if x.startswith("generated[")}
        return " and ".join((other | WORDS)[part] for part in self.parts)

    def mask(self, layout: Layout) -> Bool[np.ndarray, "n_prompts longest+steps+1"]:
        """Whether edits act at each token of the prompts, counted from the first, and at the ``steps`` tokens behind
        them that are told apart (0 without slices of the generated tokens); the last column stands for all that follow.

        Raises:
            HarnessError: a prompt has no span of a name.
        """
        ends = [end or first for first, end in filter(None, map(_steps, self.parts))]
        steps = max(ends, default=0)
        found = np.zeros((len(layout.lengths), max(layout.lengths, default=0) + steps + 1), bool)
        for row, n in enumerate(layout.lengths):
            for start, stop in self._ranges(n, layout.spans[row]):
                found[row, start:stop] = True
            found[row, n : n + steps] = [self.generated_at(place) for place in range(steps)]
            found[row, n + steps :] = self.generated_at(steps)
        return found

    def _ranges(self, n: int, spans: Mapping[str, Span]) -> Iterator[Span]:
        """Places among a prompt's n tokens."""
        whole = {"all": ":", "prompt": ":", "generated": "0:0", "first": ":1", "last": "-1:"}
        for part in self.parts:
            if _steps(part):
                continue
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


def _steps(part: str) -> tuple[int, int | None] | None:
    """First and last generated token of "generated[2:5]", the latter not among them; None of other parts."""
    found = _GENERATED.fullmatch(part)
    if found is None:
        return None
    return int(found[1] or 0), None if found[2] is None else int(found[2])


EVERYWHERE = Positions()
