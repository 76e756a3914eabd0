"""Words in sentences: numbers with their nouns, so that one is one and several are several, and what is cut short."""

from __future__ import annotations

_IRREGULAR = {"corpus": "corpora", "analysis": "analyses", "entropy": "entropies", "body": "bodies", "index": "indices"}


def plural(noun: str) -> str:
    """``"random controls"`` of ``"random control"``; of a phrase, the last word changes."""
    rest, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        return f"{rest}{space}{_IRREGULAR[last]}"
    return f"{noun}es" if last.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def noun_for(n: float, noun: str) -> str:
    """The noun as it stands after the number n: ``noun_for(1, "neuron")`` is ``"neuron"``, of 0 ``"neurons"``."""
    return noun if n == 1 else plural(noun)


def counted(n: float, noun: str, form: str = "") -> str:
    """``"1 neuron"``, ``"3 neurons"``; with ``form=","`` ``"3,072 neurons"``."""
    return f"{n:{form}} {noun_for(n, noun)}"


def the(n: int, noun: str) -> str:
    """``"the neuron"``, ``"the 3 neurons"``."""
    return f"the {noun}" if n == 1 else f"the {counted(n, noun)}"


def last(n: int, noun: str) -> str:
    """``"last direction"``, ``"last 3 directions"``."""
    return f"last {noun}" if n == 1 else f"last {counted(n, noun)}"


def only(n: int, noun: str) -> str:
    """``"no prompt"``, ``"only 1 prompt"``, ``"only 9 prompts"``."""
    return f"only {counted(n, noun)}" if n else f"no {noun}"


def apart(unit: str) -> str:
    """What a difference of two values in this unit is told in, after its number: " points" of "%", " nats", ""."""
    return {"%": " points", "share": "", "": ""}.get(unit, f" {unit}")


def shortened(text: str, length: int = 60) -> str:
    """The text, cut where it is longer, with dots in place of what is missing."""
    return text if len(text) <= length else text[: length - 3] + "..."


def agree(n: float, one: str, several: str) -> str:
    """A verb or pronoun for n of something: ``agree(n, "is", "are")``."""
    return one if n == 1 else several
