"""Suites of model pairs: what they name is in the registry, and models of one pair may differ in added tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkout import ROOT
from harness_plugins.post_training import command
from harness_plugins.post_training.comparison import run
from harness_plugins.post_training.comparison.run import check_comparable
from harness_plugins.post_training.suites import pair_suites, pairs_of

from harness.errors import HarnessError
from harness.running.registry import load_registry
from harness.testing import tiny_model

Harness = Callable[..., tuple[int, str, str]]

PAIR = ("--base", "demo", "--tuned", "demo-tuned")


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
        ([*PAIR, "--harmful", "a.csv"], "--harmless is missing"),
        ([*PAIR, "--harmless", "a.csv"], "--harmful is missing"),
        ([*PAIR, "--harmful", "a.csv", "--harmless", "b.csv", "--refusal", "c.csv"], "either --refusal, one table"),
        ([*PAIR, "--judge_label", "refusal"], "and there is none"),
        (["--base", "demo", "--tuned", "demo-tuned", "--asked", "nothing"], 'parameter "asked'),
        (["--base", "demo", "--tuned", "demo-tuned", "--factor", "-1"], 'parameter "factors'),
    ],
)
def test_a_mistake_is_one_sentence(harness: Harness, arguments: list[str], said: str) -> None:
    code, out, err = harness("compare", *arguments)
    assert code == 2 and out == "" and said in err and err.count("\n") == 1


def test_a_pair_that_fails_does_not_stop_the_others(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare_models(loaders: object, names: list[str], *_: object) -> SimpleNamespace:
        if names[0] == names[1]:
            raise OSError(28, "No space left on device")
        compared.append(tuple(names))
        return SimpleNamespace(record=SimpleNamespace(to_dict=lambda: {"name": names}))

    pairs = (("demo", "nowhere-at-all"), ("demo", "demo"), ("demo", "demo-tuned"))
    monkeypatch.setattr(command, "pairs_of", lambda suite: pairs)
    monkeypatch.setattr(run, "compare_models", compare_models)
    code, out, err = harness("compare", "--suite", "three", "--json", "-o", tmp_path, "--quiet")
    assert code == 2 and compared == [("demo", "demo-tuned")] and out.count('"name"') == 1
    assert "2 of 3 pairs not compared. demo and nowhere-at-all: " in err
    assert err.endswith("demo and demo: No space left on device.\n") and err.count("\n") == 1


def test_a_tuned_model_may_have_more_tokens_and_not_fewer() -> None:
    base = tiny_model("llama")
    more = dataclasses.replace(base, anatomy=dataclasses.replace(base.anatomy, d_vocab=base.anatomy.d_vocab + 8))
    check_comparable([base, more])
    with pytest.raises(HarnessError, match="tokens in the vocabulary"):
        check_comparable([more, base])
