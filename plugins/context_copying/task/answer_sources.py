"""What an answer is, and where it comes from: the paper's rule, and two looser ones beside it."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from harness_tasks.knowledge_conflict import scoring

SOURCES = ("CK", "PK", "ND")
"""Knowledge sources: context, parametric memory, not defined. Their places are the codes of the outcome ``source``."""

CK, PK, ND = range(3)

MATCHINGS = {"exact": "source", "normalised": "source_normalised", "alias": "source_alias"}
"""Ways to recognise an object in an answer, strictest first, and the outcome that each decides."""

ARTICLES = frozenset({"a", "an", "the"})


def cut(text: str, until: Sequence[str]) -> str:
    """An answer: the text before the first of the stop strings, stripped."""
    ends = [place for place in map(text.find, until) if place >= 0]
    return text[: min(ends, default=len(text))].strip()


def overlap(subject: str, answer: str, similarity: float) -> bool:
    """Whether subject and object are too alike but for their case: one contains the other, or their Jaro-Winkler
    similarity is high."""
    from rapidfuzz.distance import JaroWinkler

    a, b = subject.lower(), answer.lower()
    return a in b or b in a or JaroWinkler.normalized_similarity(a, b) >= similarity


@functools.lru_cache(maxsize=65536)
def normalise(text: str) -> str:
    """The words of a text in NFKC, without case, punctuation and English articles.

    Apostrophes vanish, other punctuation parts words. Articles stay where nothing else would (``"The The"``).
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = ("" if c in "'’‘`´" else " " if unicodedata.category(c).startswith("P") else c for c in folded)
    words = "".join(plain).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


def knowledge_source(answer: str, context_object: str, parametric_object: str) -> int:
    """Code of the answer's source, as in the paper: its leading words are those of the object, but for their case.

    Of two objects that both fit the longer one was said; where the context agrees with memory, the object is parametric
    (PK). What lm-eval scores answers by is the same function.
    """
    return SOURCES.index(scoring.knowledge_source(answer, context_object, parametric_object))


def name_said(answer: str, names: Iterable[str]) -> str | None:
    """The words with which an answer begins and that are, normalised, one of the names: the longest; None: it begins
    with none. "Nigeria" does not say Niger, and "Guinea-Bissau" does not say Guinea."""
    wanted, words = {normalise(name) for name in names} - {""}, answer.split()
    beginnings = (" ".join(words[:n]) for n in range(len(words), 0, -1))
    return next((said.rstrip(";:") for said in beginnings if normalise(said) in wanted), None)


def nested(context_object: str, parametric_object: str) -> bool:
    """Whether one of two different objects begins with the other: an answer may be how both begin."""
    if _agree(context_object, parametric_object):
        return False
    first, second = (normalise(text).split() for text in (context_object, parametric_object))
    found: bool = scoring.begins(first, second) or scoring.begins(second, first)
    return found


def sources(
    answer: str,
    context_object: str,
    parametric_object: str,
    context_aliases: Iterable[str] = (),
    parametric_aliases: Iterable[str] = (),
) -> tuple[int, int, int]:
    """Codes of the answer's source by each of :data:`MATCHINGS`.

    A looser matching only decides what the stricter ones left undefined, so none takes an answer from one source to
    the other.
    """
    exact = knowledge_source(answer, context_object, parametric_object)
    if exact != ND:
        return exact, exact, exact
    agree, words = _agree(context_object, parametric_object), normalise(answer).split()

    def match(context: Iterable[str], memory: Iterable[str]) -> int:
        ours, theirs = ([normalise(name).split() for name in names] for names in (() if agree else context, memory))
        return SOURCES.index(scoring.longest_match(words, ours, theirs))

    normalised = match([context_object], [parametric_object])
    if normalised != ND:
        return exact, normalised, normalised
    return exact, normalised, match(context_aliases, parametric_aliases)


def _agree(context_object: str, parametric_object: str) -> bool:
    return context_object.lower().split() == parametric_object.lower().split()


def other_names(groups: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Mapping[str, tuple[str, ...]]]:
    """Other names of objects, by relation and normalised name, from (relation, names of one object) pairs.

    A name that stands for several objects has the names of all of them.
    """
    found: dict[str, dict[str, dict[str, None]]] = {}
    for relation, names in groups:
        if len(names) < 2:
            continue
        for name in names:
            others = found.setdefault(relation, {}).setdefault(normalise(name), {})
            others |= dict.fromkeys(other for other in names if normalise(other) != normalise(name))
    return {relation: {name: tuple(x) for name, x in known.items()} for relation, known in found.items()}
