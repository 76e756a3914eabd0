"""Confidence only, or beyond it: what the verdict on a change means when temperature's part is taken away."""

from __future__ import annotations

from harness.statistics.verdicts import Word

FOUND: tuple[Word, ...] = ("more than random", "opposite direction")
"""Verdicts that say that the treated units do something that random ones do not."""

ALIKE: tuple[Word, ...] = ("no more than d apart", "less than random")
"""Verdicts that say that they do no more than random ones."""


def conclusion(rest: Word, entropy: Word | None) -> str:
    """What is said of confidence beside the verdict; nothing where nothing can be told.

    Args:
        rest: the verdict on what is left of a change beyond the temperature of equal entropy.
        entropy: the verdict on the change of entropy, None where it has none. Only of units that change the confidence
            can it be said that they change nothing else.
    """
    if rest in FOUND:
        return "Beyond confidence: a temperature that gives the untouched model the same entropy does not do this."
    if rest in ALIKE and entropy in FOUND:
        return (
            "Confidence only: the entropy changes more than under random sets, and what a temperature of the same "
            "entropy leaves unexplained is no more than under them."
        )
    if rest in ALIKE:
        return "Nothing is said of confidence alone: the entropy is not found to change more than under random sets."
    if rest == "inconclusive":
        return "Whether confidence alone changes cannot be told."
    return ""
