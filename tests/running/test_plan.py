"""What the model's shape and the parameters tell to be wrong is refused before a prompt is made, or a model loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import Silent, record
from strangers import Average, Loud, PlainTask, TinyLoader, make, misbehaving

from harness.conditions.conditions import Selection
from harness.conditions.units import Neuron
from harness.errors import HarnessError, PluginError
from harness.plugin.catalogue import catalogue
from harness.plugin.components import Metric, Task
from harness.running.execute import plan
from harness.running.registry import load_registry

Harness = Callable[..., tuple[int, str, str]]


def never(self: Any, *arguments: Any) -> Any:
    raise AssertionError("too late")


LATE = misbehaving(PlainTask, prepare=never)


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        (
            "neurons:neurons=[99.1]",
            "selector neurons names neuron 99.1, but the model has layers 0 to 2 with neurons 0",
        ),
        ("neurons:neurons=[2.9999]", "selector neurons names neuron 2.9999"),
        ("neurons:neurons=[2.1,2.1]", "selector neurons names neuron 2.1 twice"),
        ("neurons:published=gpt2-small", "selector neurons names neuron 11."),
        ("random:top=9999", "selector random: top=9999 neurons were asked for"),
        ("random:layer=7", "selector random: layer 7 does not exist; the model has 3 layers"),
        ("random:layer=-9", "selector random: layer -9 does not exist"),
        ("entropy:null_dims=9999", "selector entropy: null_dims=9999 must be below d_model = 32"),
        ("entropy:top=9999", "selector entropy: top=9999 neurons were asked for"),
        ("entropy:layer=5", "selector entropy: layer 5 does not exist"),
        ("entropy:rule=mediated,corpus=world,layer=0", "selector entropy: effects through the final norm"),
        ("entropy:rule=mediated,corpus=world,length=99", "selector entropy: length=99 tokens do not fit the 64"),
        ("token_frequency:corpus=world,layer=1", "selector token_frequency: effects through the final norm"),
        (
            "token_frequency:corpus=world,length=99",
            "selector token_frequency: length=99 tokens do not fit the 64 positions",
        ),
        ("activation_shift:corpus=world,length=40", "length=40 tokens, duplicated, do not fit the 64 positions"),
        ("value_neurons:top=9999", "selector value_neurons: top=9999 neurons were asked for, but there are only"),
        ("value_neurons:layer=9", "selector value_neurons: layer 9 does not exist"),
        ("query_neurons:layer=2", "selector query_neurons: no value neuron comes after layer 2"),
        ("norm_matched_random:like={name: neurons, neurons: [9.9]}", "selector neurons names neuron 9.9"),
        ("activation_matched_random:like={name: random, top: 9999}", "selector random: top=9999"),
    ],
)
def test_selectors(selector: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, LATE, selector=selector)
    assert says in str(caught.value)
    assert not list(tmp_path.glob("small-*/*"))


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        (
            "heads:heads=[L9H0]",
            "selector heads names head L9H0, but the model has layers 0 to 2 with heads 0 to 3",
        ),
        ("heads:heads=[L0H4]", "selector heads names head L0H4"),
        ("value_heads:top=99", "selector value_heads: top=99 heads were asked for, but there are only 12"),
        ("induction_heads:top=99", "selector induction_heads: top=99 heads were asked for; the model has 12"),
        ("induction_heads:length=99", "length=99 tokens, duplicated, do not fit the 64 positions"),
    ],
)
def test_selectors_of_heads(selector: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, LATE, selector=selector, intervention="bos_attention")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"selector": "random:top=1", "controls": 999}, "999 random sets of 1 neuron were asked for, but beside"),
        ({"selector": "heads:heads=[L0H1]", "intervention": "bos_attention", "controls": 9}, "only 3 distinct sets"),
        (
            {"selector": "heads:heads=[L0H1]", "intervention": "bos_attention", "match": "norm", "controls": 2},
            "match=norm is not for heads",
        ),
    ],
)
def test_controls(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, LATE, **fields)
    assert says in str(caught.value)


def test_files_and_sets_of_units(tmp_path: Path) -> None:
    counts = tmp_path / "counts.npy"
    counts.write_bytes(b"nothing")
    with pytest.raises(HarnessError, match=r"counts\.npy"):
        make(tmp_path / "a", LATE, intervention=f"mean:frozen=unigram,unigram={counts}")
    alone = misbehaving(PlainTask, prepare=never, alone=lambda self, selection, model: [(Neuron(7, 7),)])
    with pytest.raises(PluginError, match=r"alone\(\) names neuron 7\.7"):
        make(tmp_path / "b", alone, selector="random")


# -- before a model is loaded ------------------------------------------------------------------------------------------

UNLOADED = misbehaving(TinyLoader, load=never)


@pytest.mark.parametrize(
    ("task", "metric", "says"),
    [
        ("knowledge_conflict", "dfa", '--metric: dfa needs "corrupted activation", which the task knowledge_conflict'),
        ("knowledge_conflict", "mediation", "--metric: mediation needs"),
        ("knowledge_conflict", "by_position", 'needs "series entropy"'),
        (
            "mediation:corpus=world",
            "transitions",
            '--metric: transitions needs "source", which the task mediation does not',
        ),
        ("mediation:corpus=world", "log_odds", "Metrics that fit: by_position, calibration, carry, mediation"),
        ("induction_synthetic:corpus=world", "calibration", "--metric: calibration needs"),
        ("target_probability", "lm_eval", "--metric: lm_eval needs"),
    ],
)
def test_a_metric_that_does_not_fit_the_task(task: str, metric: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, UNLOADED, task=task, metrics=(metric,), intervention="mean")
    assert says in str(caught.value)


def test_our_metrics_fit_the_tasks_whose_metrics_they_are() -> None:
    found = catalogue().components
    params: dict[str, dict[str, Any]] = {
        "lm_eval": {"tasks": ["x"]},
        "labelled_response": {"data": "x", "answers": ("true", "false")},
    }
    for name, cls in found["task"].items():
        own = {"corpus": "world"} if "corpus" in cls.model_fields else {}
        task: Task = cls(**own, **params.get(name, {}))  # type: ignore[assignment]
        given = task.gives()
        assert given is not None, name
        for metric in task.default_metrics:
            needs: type[Metric] = found["metric"][metric]  # type: ignore[assignment]
            assert needs.needs <= given, (name, metric)


def test_a_metric_of_a_stranger_that_says_nothing_is_named_when_it_fails(tmp_path: Path) -> None:
    def measure(self: Any, outcomes: Any) -> Any:
        return outcomes.prompts[0].fields["first_tokens"]

    with pytest.raises(PluginError, match=r"metric average of harness-evil 9\.9: measure\(\) raised KeyError: 'first_"):
        make(tmp_path, misbehaving(Average, measure=measure))


@pytest.mark.parametrize(
    ("task", "selector", "intervention", "says"),
    [
        (
            "mediation:corpus=world",
            "random:layer=0",
            "mean",
            "the task mediation is about neurons of the last layer (2); 0.",
        ),
        (
            "unigram_entropy:corpus=world",
            "neurons:neurons=[1.1]",
            "mean",
            "the task unigram_entropy is about neurons of the last",
        ),
        (
            "induction_synthetic:corpus=world",
            "random",
            "clip_mean:side=shift",
            "side=shift needs a selector that measures shifts",
        ),
        (
            "dfa:corpus=world",
            "heads:heads=[L0H0]",
            None,
            "the task dfa attributes the input of neurons, but heads were selected",
        ),
        ("head_neuron_interaction:corpus=world", "random", "mean", "the task head_neuron_interaction ablates heads"),
        (
            "head_neuron_interaction:corpus=world,neurons={name: random, top: 9999}",
            "heads:heads=[L0H0]",
            "bos_attention",
            "top=9999",
        ),
    ],
)
def test_a_selection_that_does_not_fit_the_task(
    task: str, selector: str, intervention: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue().components["task"][task.partition(":")[0]], "prepare", never)
    with pytest.raises(HarnessError) as caught:
        make(tmp_path, task=task, selector=selector, intervention=intervention)
    assert says in str(caught.value)


def test_units_and_edits_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="bos_attention edits heads, but the selector random chooses neurons"):
        make(tmp_path, UNLOADED, selector="random", intervention="bos_attention")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which nobody may write")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (Path("/proc/self"), tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HarnessError, match=f"cannot write {folder}"):
            make(folder, UNLOADED)


def test_a_selector_that_reads_no_prompts_chooses_once_and_first(tmp_path: Path, blank_figures: None) -> None:
    seen: list[int] = []

    def select(self: Any, context: Any) -> Selection:
        seen.append(len(context.prompts))
        return Loud.select(self, context)

    folder = make(tmp_path, misbehaving(Loud, select=select, reads_prompts=lambda self: False))
    assert seen == [0] and len(record(folder)["selection"]["neurons"]) == 2


def test_a_metric_that_is_named_twice(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--metric: average is named twice"):
        make(tmp_path, UNLOADED, metrics=("average", "average"))
    with pytest.raises(HarnessError, match="--metric: relation_groups is named twice"):  # whatever their parameters
        make(
            tmp_path,
            UNLOADED,
            task="knowledge_conflict",
            intervention="mean",
            metrics=("relation_groups:by=group", "relation_groups:by=relation"),
        )


def test_a_metric_that_a_registry_names_twice(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(
        "runs:\n  one: {task: knowledge_conflict, selector: entropy, intervention: mean,\n"
        "        metrics: [{name: relation_groups, by: group}, entropy_change, relation_groups]}\n",
        encoding="utf-8",
    )
    [spec] = load_registry(path).runs["one"]
    with pytest.raises(HarnessError, match="--metric: relation_groups is named twice; a run records a metric once"):
        plan(spec, catalogue())


# -- what a number of controls can never show --------------------------------------------------------------------------

EVAL = ("eval", "--task", "knowledge_conflict", "--selector", "entropy", "--intervention", "mean", "--dry-run")


@pytest.mark.parametrize(("m", "smallest"), [(1, "0.5"), (9, "0.1"), (18, "0.053")])
def test_too_few_controls_are_said_before_the_run(m: int, smallest: str, harness: Harness) -> None:
    code, out, err = harness(*EVAL, "--controls", m)
    assert code == 0 and out.startswith("{") and err.count("\n") == 1
    assert f"with {m} control{'s' * (m > 1)} no p can be below {smallest}, so that nothing can be found" in err
    assert "whatever it does: it takes 19 or more." in err


@pytest.mark.parametrize("more", [("--controls", 0), ("--controls", 19), ()])
def test_enough_controls_need_no_word(more: tuple[Any, ...], harness: Harness) -> None:
    """None at all are asked for by who wants no p."""
    assert harness(*EVAL, *more)[2] == ""


def test_runs_of_a_registry_that_have_too_few_are_said_at_once(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(
        "runs:\n  one: {task: knowledge_conflict, selector: entropy, intervention: [mean, zero], controls: [5, 99]}\n",
        encoding="utf-8",
    )
    code, _, err = harness("run", "one", "--dry-run", "--registry", path)
    assert code == 0 and err.count("\n") == 1 and err.startswith("note: one.mean.5 and 1 more: with 5 controls")


@pytest.mark.parametrize(("pool", "n"), [((0, 1, 2, 3), "only 5 distinct sets"), ((), "no distinct set")])
def test_a_pool_with_too_few_sets_is_said_before_the_conditions_run(
    pool: tuple[int, ...], n: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, sentence: notes.append(sentence))

    def select(self: Any, context: Any) -> Selection:
        return replace(Loud.select(self, context), pool=tuple(Neuron(2, i) for i in pool))

    with pytest.raises(PluginError, match="too late"):
        make(tmp_path, misbehaving(Loud, select=select), misbehaving(PlainTask, observe=never), controls=None)
    [note] = notes
    assert note.startswith(f"small: the pool of the selection holds {n} to compare with; with")
    assert note.endswith("it takes 19 or more.")


def test_a_node_of_a_cluster_sends_what_should_be_known() -> None:
    from harness.running.messages import Note
    from harness.running.orders import _Notes
    from harness.running.working import Steps

    sent: list[Any] = []
    _Notes(sent.append, Steps("here")).note("too few")
    assert sent == [Note("too few")]
