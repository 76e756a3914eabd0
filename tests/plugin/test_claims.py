"""Registers of claims: how they are read, and what is said of their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.plugin.claims import CountRule
from harness.plugin.registers import Register

GOOD = """\
paper: {name: nobody2020, title: Loud Neurons, by: Nobody 2020, url: "https://example.org"}
categories: [A, B]
tables: {tiny: [[3, 1], [2, 4]]}
claims:
  louder:
    says: Loud neurons are louder.
    source: figure 1
    runs: [copying]
    rule: {kind: verdict, measure: conversion_ratios.CKCR, side: above}
  counted:
    says: The counts are right.
    source: table 1
    rule: {kind: recount, quantity: ACR, published: {tiny: 33.333}}
"""


def written(folder: Path, text: str) -> Register:
    path = folder / "claims.yaml"
    path.write_text(text, encoding="utf-8")
    return Register(path)


def test_a_register_is_read_with_numbers_as_numbers(tmp_path: Path) -> None:
    claims = written(tmp_path, GOOD).read()
    assert claims.paper.name == "nobody2020" and list(claims.claims) == ["louder", "counted"]
    assert claims.tables == {"tiny": ((3, 1), (2, 4))}
    rule = claims.claims["counted"].rule
    assert isinstance(rule, CountRule) and rule.model_dump()["published"] == {"tiny": 33.333}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("side: above", "sied: above", r'line 9 \(claims.louder.rule.sied\): unknown key "sied". Did you mean "side"'),
        ("    source: figure 1\n", "", r"line 5 \(claims.louder.source\): it is missing"),
        ("kind: verdict", "kind: verdit", r'unknown kind "verdit". Did you mean "verdict"\? Expected: verdict'),
        ("CKCR, side: above", "CKCR, word: more then random", '.more then random.; did you mean "more than random"'),
        ("kind: verdict, measure: conversion_ratios.CKCR, side: above", "kind: interval, measure: a.b",
         "expected one of above and below"),
        ("measure: conversion_ratios.CKCR", "measure: CKCR", "string should match pattern"),
        ("    runs: [copying]\n", "", "expected runs, or evidence and its command with a rule of the kind verdict"),
        ("[[3, 1], [2, 4]]", "[[3, 1, 0], [2, 4, 0]]", "expected a square table of 2 categories, of tiny"),
        ("published: {tiny: 33.333}", "published: {tinny: 1}", 'there is no table of "tinny". Did you mean "tiny"'),
        ("paper: {name", "papers: {name", r'line 1 \(papers\): unknown key "papers". Did you mean "paper"|missing'),
        ("published: {tiny: 33.333}", "published: {tiny: nan}", "finite number"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences_that_name_the_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(HarnessError, match=says) as found:
        written(tmp_path, GOOD.replace(old, new)).read()
    assert str(tmp_path / "claims.yaml") in str(found.value) and "\n" not in str(found.value)
