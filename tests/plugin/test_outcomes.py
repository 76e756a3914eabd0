"""Outcomes that were observed in parts are joined."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from roles import conditions

from harness.plugin.records import Outcomes, Prompt


def _part(words: list[str], codes: np.ndarray, start: int, other: bool) -> Outcomes:
    prompts = tuple(Prompt(str(start + i), "", (1,), str(start + i)) for i in range(codes.shape[1]))
    values = {"said": codes} | ({"more": np.ones(codes.shape)} if other else {})
    return Outcomes(conditions(), prompts, values, categories={"said": tuple(words)}, found=("said",))


@given(st.data())
def test_joined_parts_have_the_categories_that_occur(data: st.DataObject) -> None:
    """Whatever order they were met in, and in whatever parts."""
    texts = st.lists(st.sampled_from(["", "a", "b", "c", None]), min_size=2, max_size=8)
    rows = [data.draw(texts) for _ in range(3)]
    parts, start = [], 0
    for i, row in enumerate(rows):
        words = data.draw(st.permutations(["", "a", "b", "c"]))
        codes = np.array([[-1 if word is None else words.index(word) for word in row]] * 2, np.int32)
        parts.append(_part(words, codes, start, other=i == 1))
        start += len(row)
    joined = Outcomes.join(parts)
    said = [None if code < 0 else joined.categories["said"][code] for code in joined["said"][0]]
    assert said == [word for row in rows for word in row]
    assert list(joined.categories["said"]) == sorted({word for word in said if word is not None})
    assert np.isnan(joined["more"][:, : len(rows[0])]).all() and (joined["more"] == 1).sum() == 2 * len(rows[1])
