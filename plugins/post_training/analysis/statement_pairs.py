"""Pairs of a true and a false statement, and the prompts that are made of them (Du et al. 2025, section 3).

A pair is one template with two subjects: "The city of Toronto is in Canada." and "The city of Chicago is in Canada."
What is asked after them is the paper's: examples, each with its verdict, then the statement and "This statement is:",
which TRUE or FALSE answers. Without a question a prompt is the statement up to its last word, and the answer that word.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.files.json import parse
from harness.files.paths import expand
from harness.files.rows import read_rows
from harness.plugin import HarnessError, counted

from .labelled_texts import data_set_name, read_statements
from .pairs import OTHERS, Pair

if TYPE_CHECKING:
    from harness.plugin import Model

Asked = Literal["examples", "question", "none"]

QUESTION = " This statement is:"
VERDICTS = {True: " TRUE", False: " FALSE"}

SHARED = 0.5
"""Share of the shorter statement's words that two statements of one template have in common, at both ends."""

SHOTS = 2
"""Examples of either verdict."""

MARKS = ".,;:!?'\"()\u2018\u2019\u201c\u201d"
"""What may stand around a word that is asked for."""

LISTS = ("true_prompts", "false_prompts")
"""How the lists of a paired file are called, after the name of a family of models."""

ROLES = (
    "first differing token", "middle differing tokens", "last differing token", "rest of the statement",
    "end of the statement", "question", "last token",
)  # fmt: skip
"""What tokens are, from the first one on in which the prompts of a pair differ."""


@dataclass(frozen=True)
class Statements:
    """A data set of statement pairs.

    Attributes:
        name: of its file.
        pairs: true and false statement, in the file's order.
        labelled: all statements with their labels, of which examples are drawn.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    labelled: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class StatementPair(Pair):
    """Two prompts that end in a true and in a false statement, or in what comes before its last word.

    Attributes:
        end: number of tokens up to the end of the statement.
    """

    end: int = 0

    @property
    def roles(self) -> np.ndarray:
        """Number of each token's role in :data:`ROLES`, -1 before the tokens that differ, int [n_tokens]."""
        (start, stop), n = self.subject, len(self.clean)
        roles = np.full(n, 5)
        roles[:start] = -1
        roles[start : self.end] = 3
        if self.end < n:
            roles[self.end - 1] = 4
        roles[start:stop] = 1
        roles[start], roles[stop - 1], roles[n - 1] = 0, 2, 6
        return roles


# -- files -------------------------------------------------------------------------------------------------------------


def load_statements(path: str | Path) -> Statements:
    """A table of statements and labels, whose pairs are found (:func:`paired`), or a file of pairs.

    Pairs are a JSON object with lists ``..._true_prompts`` and ``..._false_prompts`` of equal length, as the paper's
    code writes them, or rows with the columns ``true`` and ``false``.

    Raises:
        HarnessError: the file cannot be read, has neither form, or holds no pair.
    """
    name = data_set_name(path)
    if Path(path).suffix.lower() == ".json" and (lists := _lists(path)) is not None:
        pairs = list(dict.fromkeys(lists))
        return Statements(name, tuple(pairs), _both(pairs))
    rows = list(read_rows(str(path), None, "train", None))
    if rows and {"true", "false"} <= rows[0][1].keys():
        pairs = [(_text(row, "true", path, line), _text(row, "false", path, line)) for line, row in rows]
        return Statements(name, tuple(pairs), _both(pairs))
    labelled = read_statements(path)
    return Statements(name, tuple(paired(labelled, path)), tuple(labelled))


def _lists(path: str | Path) -> list[tuple[str, str]] | None:
    """The pairs of the paper's form of file; None where a JSON file has another."""
    try:
        found: Any = parse(expand(path).read_text("utf-8"), f"{path}")
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}).") from error
    if not isinstance(found, dict):
        return None
    pairs: list[tuple[str, str]] = []
    families = [key.removesuffix(LISTS[0]) for key in found if key.endswith(LISTS[0])]
    for family in families:
        true, false = (found.get(family + which) for which in LISTS)
        if not isinstance(true, list) or not isinstance(false, list) or len(true) != len(false):
            raise HarnessError(f"{path}: expected lists of equal length, {family}{LISTS[0]} and {family}{LISTS[1]}.")
        pairs += zip(map(str, true), map(str, false), strict=True)
    if not pairs:
        raise HarnessError(f"{path}: expected lists of equal length, NAME_{LISTS[0]} and NAME_{LISTS[1]}.")
    return pairs


def _text(row: dict[str, Any], column: str, path: str | Path, line: int) -> str:
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise HarnessError(f'{path}, line {line}: expected a statement in the column "{column}".')
    return text.strip()


def _both(pairs: Sequence[tuple[str, str]]) -> tuple[tuple[str, bool], ...]:
    return tuple((text, label) for pair in pairs for text, label in zip(pair, (True, False), strict=True))


def paired(labelled: Sequence[tuple[str, bool]], path: str | Path = "") -> list[tuple[str, str]]:
    """Pairs of one template: words are the same before and after the subject, the last word among them.

    Every true statement gets the first false one that is left (the paper: any of the same last word; every false one
    but the last of a word once). In a table without such pairs, neighbours are pairs, a true statement and the false
    one after it (the paper's rule for what it extracted from Tulu's texts).

    Raises:
        HarnessError: there are no pairs.
    """
    left: dict[str, list[str]] = defaultdict(list)
    for text, label in labelled:
        if not label:
            left[text.split()[-1]].append(text)
    found = []
    for text, label in labelled:
        candidates = left[text.split()[-1]] if label else []
        other = next((x for x in candidates if one_template(text, x)), None)
        if other is not None:
            candidates.remove(other)
            found.append((text, other))
    if not found:
        found = [
            (a, b)
            for (a, label), (b, other_label) in itertools.pairwise(labelled)
            if label and not other_label and one_template(a, b)
        ]
    if not found:
        raise HarnessError(f"{path}: no true and false statement have one template (the same words but for one place).")
    return found


def one_template(first: str, second: str) -> bool:
    """Whether two statements differ in one stretch of words, and share at least half of the shorter one's."""
    a, b = first.split(), second.split()
    least = min(len(a), len(b))
    before = next((i for i in range(least) if a[i] != b[i]), least)
    after = next((i for i in range(least - before) if a[-1 - i] != b[-1 - i]), least - before)
    return a != b and before + after >= SHARED * least


def load_examples(path: str | Path) -> dict[str, tuple[str, ...]]:
    """The paper's file of examples: for every data set, statements with their verdicts after them.

    Raises:
        HarnessError: an item lacks ``dataset_name`` or ``few_shot_examples``.
    """
    found = {}
    for number, row in read_rows(str(path), None, "train", None):
        name, texts = row.get("dataset_name"), row.get("few_shot_examples")
        if not isinstance(name, str) or not isinstance(texts, list) or not all(isinstance(x, str) for x in texts):
            raise HarnessError(f"{path}, item {number}: expected dataset_name, a text, and few_shot_examples, a list.")
        found[name] = tuple(texts)
    return found


# -- prompts -----------------------------------------------------------------------------------------------------------


def drawn_examples(data: Statements, seed: int) -> tuple[str, ...]:
    """Two statements of either label with their verdicts, which then are in no pair that is asked."""
    rng = np.random.default_rng(seed)
    found: list[str] = []
    for label in (False, True):
        texts = list(dict.fromkeys(text for text, x in data.labelled if x == label))
        found += [f"{texts[i]}{QUESTION}{VERDICTS[label]}" for i in rng.permutation(len(texts))[:SHOTS].tolist()]
    return tuple(found)


def prompts(
    models: Sequence[Model], data: Statements, asked: Asked, examples: Sequence[str], n: int, seed: int
) -> list[StatementPair]:
    """Pairs of prompts of equally many tokens, ``n`` of them at the most, drawn at random.

    The order of the examples is drawn anew for every pair, as in the paper's code. A pair's group is its last word:
    what is said of one object is not independent.

    Raises:
        HarnessError: the models' tokenisers differ, or no pair fits.
    """
    rng = np.random.default_rng(seed)
    shots = examples if asked == "examples" else ()
    found: list[StatementPair] = []
    same_end = 0
    for i in rng.permutation(len(data.pairs)).tolist():
        true, false = data.pairs[i]
        if any(shot.startswith(text + QUESTION) for shot in shots for text in (true, false)):
            continue
        before = "".join(f"{shots[j]}\n" for j in rng.permutation(len(shots)))
        if asked == "none":
            if true.split()[-1] != false.split()[-1]:
                continue
            same_end += 1
        pair = _pair(models, before, true, false, asked)
        if pair is not None:
            found.append(pair)
        if len(found) == n:
            break
    if not found:
        why = " with one last word" if asked == "none" and not same_end else ""
        raise HarnessError(
            f"statements: of {counted(len(data.pairs), 'pair')} of {data.name} none{why} has equally many tokens in "
            "both prompts."
        )
    return found


def _pair(models: Sequence[Model], before: str, true: str, false: str, asked: Asked) -> StatementPair | None:
    """The prompts of one pair; None where they have not equally many tokens."""
    from harness.model import first_token

    model = models[0]
    if asked == "none":
        last = true.split()[-1].rstrip(MARKS)
        word = last.lstrip(MARKS)
        texts = said = [text[: text.rindex(last) + len(last) - len(word)].rstrip() for text in (true, false)]
        answers = (first_token(model, texts[0], word, "" if word != last else " "), OTHERS)
    else:
        texts = [before + text + QUESTION for text in (true, false)]
        said = [before + text for text in (true, false)]
        answers = (first_token(model, texts[0], "TRUE"), first_token(model, texts[0], "FALSE"))
    clean, corrupted = model.encode(texts)
    for other in models[1:]:
        if other.encode(texts) != [clean, corrupted]:
            raise HarnessError(f"{other.name} and {model.name} have different tokenisers: no statements fit both.")
    if len(clean) != len(corrupted) or clean == corrupted or len(set(answers)) < 2:
        return None
    [statement] = model.encode(said[:1])
    end = next((i for i, (a, b) in enumerate(zip(statement, clean, strict=False)) if a != b), len(statement))
    pair = StatementPair(tuple(clean), tuple(corrupted), answers, true.split()[-1], end)
    return pair if pair.subject[1] <= end else None
