"""Dose and response: slopes are those of a straight line, and their p is the place among the slopes of random sets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.results.beside import ControlSet
from harness.results.trend import slopes, trends

KEY = ("m", "x")


def measured(value: float | None) -> Any:
    return {KEY: SimpleNamespace(value=value, title="entropy", unit="nats")}


def sets(values: list[float | None], units: str = "a") -> list[ControlSet]:
    return [ControlSet.read({"control": i, "units": [f"{units}{i}"], "m.x": x}, "it") for i, x in enumerate(values)]


@given(arrays(float, (4, 3), elements=st.floats(-5, 5)))
def test_slopes_are_those_of_least_squares(responses: np.ndarray) -> None:
    doses = [0.0, 0.5, 1.0, 3.0]
    np.testing.assert_allclose(slopes(doses, responses), np.polyfit(doses, responses, 1)[0], atol=1e-9)


def test_a_trend_beyond_random_sets_is_found_and_a_common_one_is_not() -> None:
    doses, rng = [0.0, 1.0, 2.0], np.random.default_rng(0)
    others = rng.normal(0, 0.01, (3, 39))
    for own, p in (([0.0, 1.0, 2.0], 2 / 40), ([0.0, 0.0, 0.0], 1.0)):
        [found] = trends(doses, [measured(x) for x in own], [sets(list(row)) for row in others], [KEY]) or []
        assert found.slope == pytest.approx(own[1]) and found.n == 39
        assert (found.p_two_sided == p) if p < 1 else found.p_two_sided > 0.3  # type: ignore[operator]
        assert found.p_holm == found.p_two_sided
    shared = others + np.array(doses)[:, None]  # random sets rise as steeply
    [found] = trends(doses, [measured(x) for x in doses], [sets(list(row)) for row in shared], [KEY]) or []
    assert found.mean == pytest.approx(1.0, abs=0.01) and found.p_two_sided is not None and found.p_two_sided > 0.3


def test_runs_with_other_control_sets_have_no_trend() -> None:
    rows = [sets([0.0, 1.0]), sets([0.0, 1.0]), sets([0.0, 1.0], units="b")]
    assert trends([0, 1, 2], [measured(x) for x in (0.0, 1.0, 2.0)], rows, [KEY]) is None
    assert trends([0, 1, 2], [measured(x) for x in (0.0, None, 2.0)], [sets([0.0, 1.0])] * 3, [KEY]) == []
