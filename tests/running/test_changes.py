"""``--set`` and ``--config``: a changed run is the run whose entry in the registry says so, and mistakes are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.running.changes import Change, changes_in, changes_of
from harness.running.named import named
from harness.running.plan import plan
from harness.running.registry import load_registry
from harness.running.request import Request
from harness.running.spec import RunSpec

REGISTRY = """\
models:
  small: {name: hf, pretrained: ./small}
runs:
  one:
    task: knowledge_conflict
    selector: {SELECTOR}
    intervention: mean{MORE}
  many: {extends: one, intervention: [mean, zero]}
  within: {extends: one, intervention: {name: within, of: "scale:factor=2", where: activation>q99}}
settings:
  small: {entropy: {top: 3, null_dims: 12}}
"""


def runs(
    folder: Path, name: str, changes: Sequence[Change] = (), selector: str = "entropy", more: str = ""
) -> list[RunSpec]:
    """The runs of this name, of a registry with a selector, and with more settings."""
    path = folder / "registry.yaml"
    path.write_text(REGISTRY.replace("{SELECTOR}", selector).replace("{MORE}", more), encoding="utf-8")
    return named([name], load_registry(path), catalogue(), changes=changes)


@pytest.mark.parametrize(
    ("words", "selector", "more"),
    [
        (["controls=199", "limit=60"], "entropy", "\n    controls: 199\n    limit: 60"),
        (["selector.top=8", "match=none"], "{name: entropy, top: 8}", ""),
        (["selector=random:top=3", "selector.top=4"], "{name: random, top: 4}", ""),
        (["model=small", "selector.top=8"], "{name: entropy, top: 8}", "\n    model: small"),
        (["margins.CKCR=2", "resources.cpus=2"], "entropy", "\n    margins: {CKCR: 2}\n    resources: {cpus: 2}"),
        (["metrics=[dfa, carry]", "hold_out=0"], "entropy", "\n    metrics: [dfa, carry]\n    hold_out: 0"),
    ],
)
def test_a_changed_run_is_the_run_of_a_registry_that_says_so(
    words: list[str], selector: str, more: str, tmp_path: Path
) -> None:
    assert runs(tmp_path, "one", changes_of(words)) == runs(tmp_path, "one", (), selector, more)
    assert runs(tmp_path, "one", changes_of(words)) != runs(tmp_path, "one")


def test_parameters_of_a_component_within_one(tmp_path: Path) -> None:
    [spec] = runs(tmp_path, "within", changes_of(["intervention.of.factor=0.5"]))
    assert spec.intervention is not None and spec.intervention.params["of"] == {"name": "scale", "factor": "0.5"}
    assert "factor=0.5" in repr(plan(spec, catalogue()).intervention)


def test_of_a_matrix_a_setting_is_changed_in_all_runs_and_a_list_is_an_axis(tmp_path: Path) -> None:
    assert [x.name for x in runs(tmp_path, "many", changes_of(["intervention=zero"]))] == ["many"]
    [one] = runs(tmp_path, "many.zero", changes_of(["seed=3"]))
    assert (one.name, one.seed) == ("many.zero", 3)
    assert [x.match for x in runs(tmp_path, "one", changes_of(["match=[none, norm]"]))] == ["none", "norm"]
    with pytest.raises(HarnessError, match=r"--set intervention: many.zero is the run of many that has its own"):
        runs(tmp_path, "many.zero", changes_of(["intervention=mean"]))


def test_a_file_says_the_same_and_words_have_the_last_one(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("controls: 199\nselector: {top: 8, null_dims: 9}\nmargins.CKCR: 2\n", encoding="utf-8")
    asked = changes_of(["controls=99", "selector.top=4"], config)
    assert {x.key: x.value for x in asked} == {
        ("selector", "null_dims"): "9",
        ("margins", "CKCR"): "2",
        ("controls",): "99",
        ("selector", "top"): "4",
    }
    assert [x.key for x in changes_of((), config, given=["selector", "margins"])] == [("controls",)]
    assert runs(tmp_path, "one", asked) == runs(
        tmp_path, "one", changes_in({"controls": 99, "selector.top": "4", "selector.null_dims": "9", "margins.CKCR": 2})
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["controls"], r'--set: expected KEY=VALUE, for example .*, got "controls"'),
        (["contrls=1"], r'--set contrls: a run has no setting "contrls"\. Did you mean "controls"\?'),
        (["name=x"], r'--set name: a run has no setting "name"'),
        (["seed.x=1"], r'--set seed.x: "seed" has no parts; write seed=VALUE'),
        (["seed=1", "seed=2"], r"--set seed: it is given twice"),
        (["seed=x"], r'--set seed: parameter "seed" of run one: input should be a valid integer'),
        (["selector.topp=1"], r'--set selector.topp: entropy has no parameter "topp"\. Did you mean "top"\?'),
        (["selector.corpus.size=1"], r"--set selector.corpus.size: entropy is given no corpus"),
        (["selector=entropi"], r'"entropi"'),
        (["resources.cpus=-1"], r"--set resources.cpus: parameter .* input should be greater than 0"),
        (["margins={a: b"], r"--set margins: .* is not a mapping"),
    ],
)
def test_mistakes_name_what_was_said(words: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=says):
        [spec] = runs(tmp_path, "one", changes_of(words))
        plan(spec, catalogue())


def test_mistakes_of_a_file_name_their_line(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    for text, says in (
        ("a: 1\n", r"mine.yaml, line 1 \(a\): a run has no setting"),
        ("seed: 1\ncontrols: x\n", r"mine.yaml, line 2 \(controls\): parameter .*controls"),
        ("selector:\n  topp: 8\n", r"mine.yaml, line 2 \(selector.topp\): entropy has no parameter"),
    ):
        config.write_text(text, encoding="utf-8")
        with pytest.raises(HarnessError, match=says):
            runs(tmp_path, "one", changes_of((), config))


def test_eval_takes_them_too_as_if_options_said_it() -> None:
    def spec(changes: Sequence[Change], **words: Any) -> RunSpec:
        return Request(
            **{"task": "knowledge_conflict", "selector": "entropy", "intervention": "mean"} | words
        ).specification(catalogue(), changes=changes)

    said = spec(changes_of(["selector.top=8", "controls=9", "metrics=[carry]", "margins.CKCR=2"]))
    assert said == spec((), selector="entropy:top=8", controls=9, metrics=["carry"], margins={"CKCR": 2})
    assert spec(changes_of(["task=target_probability"])) == spec((), task="target_probability")
    with pytest.raises(HarnessError, match=r"--set limit: parameter .limit. of harness eval"):
        spec(changes_of(["limit=0"]))


def test_a_file_may_hold_what_eval_must_be_given(harness: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("task: knowledge_conflict\nselector: entropy:top=4\nintervention: mean\ncontrols: 9\n", "utf-8")
    code, out, err = harness("eval", "--config", config, "--controls", 5, "--set", "selector.null_dims=7", "--dry_run")
    assert code == 0 and "with 5 controls" in err
    assert '"top": 4' in out and '"null_dims": 7' in out and '"controls": 5' in out
    code, _, err = harness("eval", "--config", config, "--set", "selector.topp=7", "--dry_run")
    assert (code, err.split(".")[0]) == (2, "error: --set selector")
