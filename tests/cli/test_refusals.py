"""Refusals: one sentence in our words whoever refuses, exit code 2, and with ``--json`` one object for programs."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from harness.cli.refusals import json_wanted, told
from harness.errors import HarnessError, PluginError, RunsNotMade, mendable

Harness = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evl", 'harness: there is no command "evl". Did you mean "eval"? There are: eval, '),
        ("eval --contrls 3", 'harness eval: there is no option --contrls. Did you mean "--controls"?'),
        ("eval --task", "--task: it needs a value."),
        ("eval --task x", "--selector: it must be given (selector, for example "),
        ("eval --task x --selector y --seed z", "--seed: "),
        ("arena --seeds=0", "--seeds: "),
        ("leaderboard -n 0", "-n: "),
        ("list a b", "harness list: got unexpected extra argument(s) (b)."),
        ("inspect", "harness inspect MODEL: it must be given (loader, model of the registry, "),
        ("attribute --devise x", 'harness attribute: there is no option --devise. Did you mean "--device"?'),
    ],
)  # fmt: skip
def test_a_command_line_of_another_form_is_a_sentence(words: str, says: str, harness: Harness) -> None:
    code, out, err = harness(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {says}") and err.count("\n") == 1
    if says.endswith(": "):  # what was expected is in the words of typer, of any version; what was given is ours
        assert err.endswith((", got '0'.\n", ", got 'z'.\n"))


def test_a_command_without_words_shows_its_help(harness: Harness) -> None:
    code, out, err = harness()
    assert code == 2 and "Usage: " in out + err and "error: " not in err


def test_with_json_a_refusal_is_one_object_and_a_sentence(harness: Harness) -> None:
    words = ("eval", "-t", "knowledge_conflict", "-s", "entropy:topp=6", "-i", "mean")
    code, out, err = harness(*words, "--json")
    error = json.loads(out)["error"]
    assert err == f"error: {error['message']}\n" and code == error["exit_code"] == 2
    assert (error["kind"], error["field"], error["nearest"]) == ("mistake", "--selector", "top")
    assert harness(*words)[:2] == (2, "")
    code, out, _ = harness("eval", "--jso", "--format", "json")
    assert code == 2 and json.loads(out)["error"]["kind"] == "usage"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            HarnessError('--selector: parameter "by" of x: expected a or b, got "c". Did you mean "a"?'),
            {"kind": "mistake", "field": "--selector", "parameter": "by", "nearest": "a", "file": None},
        ),
        (
            HarnessError("a/registry.yaml, line 12 (runs.one): expected a mapping."),
            {"field": "runs.one", "file": "a/registry.yaml", "line": 12, "nearest": None},
        ),
        (HarnessError("m/config.json: it is damaged."), {"file": "m/config.json", "line": None, "field": None}),
        (
            HarnessError("C:\\my data\\registry.yaml, line 3 (runs.a): no."),
            {"file": "C:\\my data\\registry.yaml", "line": 3, "field": "runs.a"},
        ),
        (HarnessError("/my data/facts.csv: there is no such file."), {"file": "/my data/facts.csv", "field": None}),
        (HarnessError("C:\\my data\\a.csv: it is damaged."), {"file": "C:\\my data\\a.csv"}),
        (HarnessError('../a b has no run called "c".'), {"file": "../a b"}),
        (HarnessError('--set selector.topp: entropy has no parameter "topp".'), {"field": "--set selector.topp"}),
        (HarnessError("the model is too small: it has 3 layers."), {"field": None, "file": None}),
        (PluginError("selector loudest of x 1.2: select() raised KeyError."), {"kind": "plugin", "field": None}),
    ],
)
def test_what_a_sentence_is_about(error: HarnessError, found: dict[str, object]) -> None:
    said = told(error)
    assert said["message"] == str(error)
    assert {key: said[key] for key in found} == found


def test_what_the_system_refuses_is_of_a_kind_of_its_own() -> None:
    with pytest.raises(HarnessError) as caught, mendable():
        raise PermissionError(13, "Permission denied", "a/b")
    assert (told(caught.value)["kind"], told(caught.value)["file"]) == ("system", "a/b")
    both = RunsNotMade("1 of 2 runs was not made. one: no.", {"one": HarnessError("no.")})
    assert told(both)["runs"]["one"]["message"] == "no."


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("--json", True), ("--format json", True), ("--format=json", True), ("-f csv", False), ("--out json", False)],
)
def test_when_json_is_asked_for(words: str, wanted: bool) -> None:
    assert json_wanted(words.split()) is wanted
