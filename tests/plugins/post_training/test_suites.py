"""Suites of model pairs: what they name is in the registry, and models of one pair may differ in added tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from checkout import ROOT
from harness_plugins.post_training.comparison.run import check_comparable
from harness_plugins.post_training.suites import pair_suites, pairs_of

from harness.errors import HarnessError
from harness.running.registry import load_registry
from harness.testing import tiny_model

Harness = Callable[..., tuple[int, str, str]]


def test_every_model_of_a_suite_is_in_the_registry_or_bundled() -> None:
    known = {*load_registry(ROOT / "registry.yaml").models, "demo", "demo-tuned"}
    suites = pair_suites()
    assert {name for suite in suites.values() for pair in suite.pairs for name in pair} <= known
    assert ("llama-3.1-8b", "llama-3.1-8b-instruct") in pairs_of("paper-post-training")
    assert all(base != tuned for suite in suites.values() for base, tuned in suite.pairs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "paper-post-trainig"], 'Did you mean "paper-post-training"?'),
        (["--suite", "demo-pair", "--base", "demo"], "a --suite names its models"),
        (["--base", "demo", "--tuned", "demo-tuned", "--asked", "nothing"], 'parameter "asked'),
        (["--base", "demo", "--tuned", "demo-tuned", "--factor", "-1"], 'parameter "factors'),
    ],
)
def test_a_mistake_is_one_sentence(harness: Harness, arguments: list[str], said: str) -> None:
    code, out, err = harness("compare", *arguments)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_a_tuned_model_may_have_more_tokens_and_not_fewer() -> None:
    base = tiny_model("llama")
    more = dataclasses.replace(base, anatomy=dataclasses.replace(base.anatomy, d_vocab=base.anatomy.d_vocab + 8))
    check_comparable([base, more])
    with pytest.raises(HarnessError, match="tokens in the vocabulary"):
        check_comparable([more, base])
