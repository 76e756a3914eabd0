"""Claims that published numbers answer by themselves, without a run."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.plugin.claims import Claims, CountRule, MarginsRule, MovesRule, QuantileRule, RecountRule
from harness.results.claims import Judged
from harness.results.recounting import recount

PAPER = {"name": "nobody2020", "title": "Loud Neurons", "by": "Nobody 2020", "url": "https://example.org"}


def told(rule: CountRule, table: list[list[int]]) -> Judged:
    claim = {"says": "It is so.", "source": "table 1", "rule": rule.model_dump()}
    claims = Claims.model_validate(
        {"paper": PAPER, "categories": ["A", "B"], "tables": {"m": table}, "claims": {"c": claim}}
    )
    return recount(rule, claims, "m", "claims.yaml")


def ratio(quantity: str, published: float) -> RecountRule:
    return RecountRule(kind="recount", quantity=quantity, published={"m": published})


def test_a_ratio_is_that_of_the_counts_or_another() -> None:
    table = [[3, 1], [2, 4]]  # of 6 that were not A, 2 became A; of 4 that were not B, 1; 3 of 10 changed
    assert told(ratio("ACR", 33.333), table).outcome == "confirmed"
    assert told(ratio("GTS", 30), table).value == pytest.approx(30)
    found = told(ratio("ACR", 25), table)
    assert found.outcome == "missed" and found.why.endswith("the published number is their BCR")
    assert told(ratio("ACR", 31), table).why == "the published 31% is not what the counts give"
    assert told(ratio("ACR", 0), [[3, 1], [0, 0]]).outcome == "cannot be tested"
    with pytest.raises(HarnessError, match=r'claims.yaml: unknown quantity "ACRR". Did you mean "ACR"'):
        told(ratio("ACRR", 1), table)


def test_more_move_in_than_out_or_too_few_move() -> None:
    rule = MovesRule(kind="moves", into="A", models=("m",))
    assert told(rule, [[50, 2], [20, 50]]).outcome == "confirmed"
    assert told(rule, [[50, 20], [2, 50]]).outcome == "missed"
    found = told(rule, [[50, 2], [4, 50]])
    assert found.outcome == "cannot be tested" and "underpowered: 4 prompts moved into A and 2 out of it" in found.why
    with pytest.raises(HarnessError, match='unknown category "C"'):
        told(rule.model_copy(update={"into": "C"}), [[1, 0], [0, 1]])


def test_margins_differ_or_are_not_shown_to() -> None:
    rule = MarginsRule(kind="margins", models=("m",))
    assert told(rule, [[50, 2], [20, 50]]).outcome == "confirmed"
    assert told(rule, [[50, 2], [3, 50]]).outcome == "cannot be tested"
    assert told(rule, [[50, 0], [0, 0]]).outcome == "cannot be tested"


def test_a_quantile_stands_beside_the_others_or_not() -> None:
    def rule(*quantiles: float, controls: int) -> QuantileRule:
        published = dict(zip(("m", "n", "o"), quantiles, strict=False))
        return QuantileRule(kind="quantile", controls=controls, published=published)

    table = [[1, 1], [1, 1]]
    assert told(rule(100, controls=100), table).outcome == "confirmed"  # 1 / 101
    assert told(rule(99, controls=100), table).why.startswith("p = 0.0198")
    assert told(rule(99, 60, 50, controls=100), table).outcome == "cannot be tested"  # 3 * 2 / 101
    assert told(rule(99.9, 60, 50, controls=999), table).outcome == "confirmed"
