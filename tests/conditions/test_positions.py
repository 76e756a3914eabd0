"""Words for tokens: which tokens of which prompts they mean, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.conditions.positions import EVERYWHERE, Layout, Positions
from harness.errors import HarnessError

SPANS = {"subject": (1, 3), "object": (2, 4)}


def tokens(text: str, n: int, more: int = 3) -> list[int]:
    """Where edits act on one prompt of n tokens and on three that follow."""
    mask = Positions(text).mask(Layout.of([n], [SPANS]))
    return [t for t in range(n + more) if mask[0, min(t, n)]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("prompt", [0, 1, 2, 3, 4]),
        ("generated", [5, 6, 7]),
        ("prompt+generated", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("first", [0]),
        ("last", [4]),
        ("last+generated", [4, 5, 6, 7]),
        ("-2:", [3, 4]),
        ("-2:-1", [3]),
        ("1:3", [1, 2]),
        ("3:99", [3, 4]),
        ("-99:1", [0]),
        ("4:2", []),
        ("subject", [1, 2]),
        ("subject + object", [1, 2, 3]),
        ("first+-1:", [0, 4]),
    ],
)
def test_words_mean_tokens(text: str, wanted: list[int]) -> None:
    assert tokens(text, 5) == wanted


@given(st.integers(1, 9), st.none() | st.integers(-12, 12), st.none() | st.integers(-12, 12))
def test_slices_are_pythons(n: int, start: int | None, stop: int | None) -> None:
    text = f"{'' if start is None else start}:{'' if stop is None else stop}"
    if text != ":":
        assert tokens(text, n) == list(range(n))[start:stop]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.lists(st.sampled_from(["first", "-2:", "generated"])))
def test_what_is_joined_acts_at_the_tokens_of_each(lengths: list[int], parts: list[str]) -> None:
    layout, both = Layout.of(lengths), ["last", *parts]
    each = [Positions(part).mask(layout) for part in both]
    np.testing.assert_array_equal(Positions("+".join(both)).mask(layout), np.logical_or.reduce(each))


def test_shorter_prompts_are_followed_by_generated_tokens() -> None:
    mask = Positions("last+generated").mask(Layout.of([1, 3]))
    assert mask.tolist() == [[True, True, True, True], [False, False, True, True]]
    assert EVERYWHERE.everywhere and Positions("generated+prompt").everywhere and not Positions("prompt").everywhere


def test_what_reports_say() -> None:
    assert str(EVERYWHERE) == "all positions"
    assert str(Positions("last+generated")) == "the last token of the prompt and the generated tokens"
    assert str(Positions("-2:")) == "tokens -2: of the prompt" and str(Positions("subject")) == "the subject"


@pytest.mark.parametrize("text", ["", ":", "Last", "3", "-2:-1:2", "last+", "0;3", "1: 2", "9999999999:"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(HarnessError, match=r"^positions: .* is none of all, prompt, generated, first, last, a slice"):
        Positions(text)


def test_a_span_that_a_prompt_has_not_is_named() -> None:
    layout = Layout.of([4, 2], [SPANS, {"object": (0, 1)}])
    wanted = r'^positions: a prompt of 2 tokens has no span of the name "subject"; it has object\.$'
    with pytest.raises(HarnessError, match=wanted):
        Positions("subject").mask(layout)


@given(st.integers(0, 4), st.integers(0, 4), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_slices_of_the_generated_tokens(first: int, n: int, lengths: list[int]) -> None:
    layout = Layout.of(lengths)
    for text, last in ((f"generated[{first}:{first + n + 1}]", first + n + 1), (f"generated[{first}:]", 99)):
        positions = Positions(text)
        mask = positions.mask(layout)
        for row, length in enumerate(lengths):
            for place in range(8):
                column = min(length + place, mask.shape[1] - 1)
                assert mask[row, column] == positions.generated_at(place) == (first <= place < last)
            assert not mask[row, :length].any()


@pytest.mark.parametrize("text", ["generated[5:2]", "generated[:0]", "last+generated[3:3]"])
def test_slices_without_a_token_are_refused(text: str) -> None:
    with pytest.raises(HarnessError, match="holds no token"):
        Positions(text)
