"""registry.yaml: matrices, inheritance, and errors that know their line."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.plugin import Task
from harness.plugin.catalogue import catalogue
from harness.plugin.specs import parse_spec
from harness.running.execute import plan
from harness.running.registry import default_path, load_registry

GOOD = """\
models:
  small: {name: hf, pretrained: ./small}
runs:
  one:
    description: the first
    task: knowledge_conflict
    selector: entropy:top=6
    intervention: mean
    controls: 10
  many:
    extends: one
    selector: [entropy, {name: random, top: 3}]
    intervention: [mean, zero]
    seed: 5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "registry.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_is_an_axis_of_a_matrix(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, GOOD))
    assert [spec.name for spec in registry.runs["many"]] == [
        "many.entropy.mean",
        "many.entropy.zero",
        "many.random-top=3.mean",
        "many.random-top=3.zero",
    ]
    assert {spec.controls for spec in registry.runs["many"]} == {10}
    assert {spec.seed for spec in registry.runs["many"]} == {5}
    assert registry.find("many.entropy.zero")[0].intervention.name == "zero"
    assert registry.runs["many"][0].description == ""


def test_matching_is_an_axis_too(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, GOOD + "  both: {extends: one, match: [none, norm]}\n"))
    assert [(spec.name, spec.match) for spec in registry.runs["both"]] == [("both.none", "none"), ("both.norm", "norm")]


SUITE = (
    GOOD
    + """\
suites:
  paper:
    description: all of it
    runs: [one, many]
settings:
  small: {entropy: {top: 3, null_dims: 12}, mean: {}}
"""
)


def test_a_suite_is_all_its_runs(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, SUITE))
    assert [spec.name for spec in registry.find("paper")] == ["one", *(x.name for x in registry.runs["many"])]
    assert registry.suites["paper"].description == "all of it"


def test_settings_fill_in_what_a_run_of_the_model_leaves_open(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, SUITE))
    [own], [other] = registry.find("one"), registry.find("one", model="small")
    assert (own.model.name, dict(own.selector.params)) == ("demo", {"top": "6"})
    assert (other.model.name, dict(other.selector.params)) == ("small", {"top": "6", "null_dims": "12"})
    assert [x.selector.params.get("top") for x in registry.find("many", "small")] == ["3", "3", "3", "3"]
    assert [x.name for x in registry.find("many.entropy.zero", "small")] == ["many.entropy.zero"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("runs: [", 1, "not valid YAML"),
        ("runs:\n  a: 1\n  a: 2\n", 3, 'the key "a" stands here twice'),
        ("runz: {}\n", 1, 'unknown key "runz". Did you mean "runs"?'),
        (GOOD + "  bad:\n    extends: onne\n", 16, 'no run called "onne" to extend. Did you mean "one"?'),
        ("runs:\n  a: {extends: b}\n  b: {extends: a}\n", 3, "a cycle of extends: a -> b -> a"),
        (
            GOOD + "  bad:\n    extends: one\n    controlls: 3\n",
            17,
            'no parameter "controlls". Did you mean "controls"?',
        ),
        (GOOD + "  bad:\n    extends: one\n    seed: -3\n", 17, "greater than or equal to 0"),
        (GOOD + "  bad:\n    extends: one\n    seed: []\n", 17, "the list is empty"),
        ("runs:\n  a:\n    selector: entropy\n    intervention: mean\n", 2, 'needs the parameter "task"'),
        (SUITE.replace("runs: [one, many]", "runs: [one, mny]"), 16, 'no run called "mny". Did you mean "many"?'),
        (SUITE.replace("  paper:", "  one:"), 16, "there is a run of this name"),
        (SUITE.replace("runs: [one, many]", "run: [one]"), 16, "expected runs (a list of names)"),
        (SUITE.replace("{entropy: {top: 3, null_dims: 12}, mean: {}}", "{entropy: 3}"), 20, "expected parameters by"),
        ("runs: &x\n  a: *x\n", 1, "a cycle"),
        ("runs:\n  a: &x\n    <<: *x\n", 2, "a cycle"),
        ("runs:\n  a:\n    <<: 3\n", 3, "<< merges a mapping, or a list of mappings"),
        ("runs:\n  a: {<<: {seed: 1}, <<: {seed: 2}}\n", 2, 'the key "<<" stands here twice'),
        ("runs:\n  [a, b]: 1\n", 2, "a key must be text"),
        ('runs:\n  a: "\\ud800"\n', 2, "holds half a character"),
        ("version: 99\n", 1, "reads registries of version 1, not 99"),
        ("version: [1]\n", 1, "reads registries of version 1"),
        (GOOD + "  bad:\n    extends: [one]\n", 16, "expected the name of one run, got ['one']"),
        (GOOD + "  bad:\n    extends: one\n    name: other\n", 17, 'a run has no parameter "name"'),
        (SUITE.replace("runs: [one, many]", "runs: [[one]]"), 16, "there is no run called \"['one']\""),
        ("runs: " + "[" * 100_000, 1, "more than 50 levels lie within each other"),
        (
            GOOD + "  bad:\n    extends: one\n    seed: [1, 2]\n    controls: [" + "1, " * 600 + "]\n",
            15,
            "the lists of run bad make 1,200 runs (600 at controls x 2 at seed); at most 1,000",
        ),
        (
            "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefgh")),
            1,
            "the file holds more than 200000 values",
        ),
        ("runs:\n  a: 3\n", 2, "expected a mapping"),
        ("- a\n", 1, "expected a mapping"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(HarnessError) as caught:
        load_registry(path)
    assert f"{path}, line {line}" in str(caught.value)
    assert says in str(caught.value)


def test_merge_keys_take_what_a_mapping_does_not_set_itself(tmp_path: Path) -> None:
    text = """\
settings:
  small: &defaults {entropy: {top: 3}, mean: {}}
models:
  small: {name: hf, pretrained: ./small}
runs:
  one: &one
    task: knowledge_conflict
    selector: entropy
    intervention: mean
    seed: 3
  two: {<<: *one, seed: 4}
  three:
    <<: [{seed: 7, controls: 5}, *one]
    selector: random
"""
    runs = load_registry(write(tmp_path, text)).runs
    assert [(runs[x][0].seed, runs[x][0].controls, runs[x][0].selector.name) for x in ("two", "three")] == [
        (4, None, "entropy"),
        (7, 5, "random"),
    ]
    with pytest.raises(HarnessError, match=r"line 10 \(runs\.one\.seed\): .* greater than or equal to 0"):
        load_registry(write(tmp_path, text.replace("seed: 3", "seed: -3")))
    with pytest.raises(HarnessError, match=r"line 13 \(runs\.three\.controls\): .* greater than or equal to 0"):
        load_registry(write(tmp_path, text.replace("controls: 5", "controls: -5")))


def test_a_registry_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="larger than 8 MiB"):
        load_registry(write(tmp_path, "#" * (2**23 + 1)))


def test_many_runs_in_all_are_refused(tmp_path: Path) -> None:
    many = "".join(f"  r{i}: {{extends: many, seed: [{', '.join(map(str, range(240)))}]}}\n" for i in range(12))
    with pytest.raises(HarnessError, match=r"line 25 \(runs\.r10\): the file makes more than 10000 runs"):
        load_registry(write(tmp_path, GOOD + many))


def test_a_long_chain_of_extends_is_refused(tmp_path: Path) -> None:
    chain = (
        "".join(f"  r{i}: {{extends: r{i + 1}}}\n" for i in range(2000)) + "  r2000: {task: dfa, selector: random}\n"
    )
    with pytest.raises(HarnessError, match="more than 50 runs extend one another"):
        load_registry(write(tmp_path, "runs:\n" + chain))


BROKEN = "runs: {a: {task: [1, 2], seed: *nothing}}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["list", "entropy"],
        ["leaderboard", "--output_path", "nowhere"],
        ["eval", "--task", "dfa", "--selector", "random", "--dry_run"],
        [
            "eval",
            "--model",
            "./here",
            "--task",
            "knowledge_conflict",
            "--selector",
            "random",
            "-i",
            "zero",
            "--dry_run",
        ],
    ],
)
def test_commands_that_need_no_registry_do_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harness: Callable[..., tuple[int, str, str]], command: list[str]
) -> None:
    write(tmp_path, BROKEN)
    monkeypatch.chdir(tmp_path)
    assert "registry" not in harness(*command)[2]
    code, _, err = harness("eval", "--model", "gpt2", "--task", "dfa", "--selector", "random")
    assert code == 2 and "registry.yaml, line 1: this is not valid YAML" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "resources:\n  smal: {cpus: 2}\n",
            'line 16 (resources.smal): there is no model "smal". Did you mean "small"?',
        ),
        ("settings:\n  smal: {entropy: {top: 2}}\n", 'line 16 (settings.smal): there is no model "smal".'),
    ],
)
def test_settings_of_no_model_are_refused(
    tmp_path: Path, harness: Callable[..., tuple[int, str, str]], text: str, says: str
) -> None:
    code, _, err = harness("run", "one", "--registry", write(tmp_path, GOOD + text), "--dry_run")
    assert code == 2 and says in err


def test_a_misspelt_run_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r'has no run called "onee"\. Did you mean "one"'):
        load_registry(write(tmp_path, GOOD)).find("onee")


def test_an_unreadable_registry_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="cannot be read"):
        load_registry(tmp_path / "absent.yaml")


def test_every_run_of_the_shipped_registry_can_be_planned() -> None:
    registry = load_registry(default_path())
    specs = [spec for specs in registry.runs.values() for spec in specs]
    specs += [spec for suite in registry.suites for model in registry.settings for spec in registry.find(suite, model)]
    for spec in specs:
        loader = registry.models.get(spec.model.name, spec.model)
        assert plan(spec.model_copy(update={"model": loader}), catalogue()).metrics


def test_settings_of_the_shipped_registry_are_of_models_and_components_that_there_are() -> None:
    registry, found = load_registry(default_path()), catalogue()
    assert set(registry.settings) <= {*registry.models, *found.components["model"]}
    names = {name for components in found.components.values() for name in components}
    assert {name for components in registry.settings.values() for name in components} <= names


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("{query}", "{query}"),
        ('"{query}"', "{query}"),
        ("'{query}'", "{query}"),
        ('"Q, {query} A:"', "Q, {query} A:"),
        ("{subject: x}", None),
    ],
)
def test_a_template_is_a_text_wherever_it_is_written(written: str, text: str | None, tmp_path: Path) -> None:
    """In a registry and on the command line, in quotes or not; YAML takes {query} for a mapping."""
    path = tmp_path / "registry.yaml"
    path.write_text(
        "runs:\n  a:\n    selector: entropy\n    intervention: zero\n    task:\n      name: target_probability\n"
        f"      template: {written}\n",
        encoding="utf-8",
    )
    specs = [load_registry(path).runs["a"][0].task, parse_spec(f"target_probability:template={written}", "--task")]
    for spec in specs:
        if text is None:
            with pytest.raises(HarnessError, match='parameter "template" of target_probability'):
                catalogue().build(Task, spec, "--task")
        else:
            assert catalogue().build(Task, spec, "--task").template == text  # type: ignore[attr-defined]
