"""What is said of confidence beside a verdict."""

from __future__ import annotations

import pytest

from harness.statistics import VERDICTS, conclusion


@pytest.mark.parametrize(
    ("rest", "entropy", "said"),
    [
        ("more than random", "more than random", "Beyond confidence"),
        ("opposite direction", None, "Beyond confidence"),
        ("no more than d apart", "more than random", "Confidence only"),
        ("less than random", "opposite direction", "Confidence only"),
        ("no more than d apart", "inconclusive", "Nothing is said"),
        ("no more than d apart", None, "Nothing is said"),
        ("inconclusive", "more than random", "cannot be told"),
    ],
)
def test_what_is_said(rest: str, entropy: str | None, said: str) -> None:
    assert said in conclusion(rest, entropy)  # type: ignore[arg-type]


@pytest.mark.parametrize("entropy", [*VERDICTS, None])
@pytest.mark.parametrize("rest", ["cannot tell", "model broken"])
def test_nothing_where_nothing_can_be_told(rest: str, entropy: str | None) -> None:
    assert conclusion(rest, entropy) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize("entropy", ["no more than d apart", "less than random", "inconclusive", "cannot tell", None])
def test_confidence_only_takes_a_change_of_entropy_that_random_sets_do_not_make(entropy: str | None) -> None:
    assert not any("Confidence only" in conclusion(rest, entropy) for rest in VERDICTS)  # type: ignore[arg-type]
