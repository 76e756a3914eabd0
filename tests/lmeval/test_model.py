"""``--model harness``: lm-eval's model under an intervention, batched as lm-eval batches, equals the engine alone."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness.conditions.conditions import BASELINE, Condition, Edit, SetNeurons
from harness.conditions.head_edits import AttendFirst
from harness.conditions.units import Neuron
from harness.controls.random import random_controls
from harness.engine import batch_sizes
from harness.engine.hooks import HookEngine, under
from harness.errors import HarnessError
from harness.lmeval.model import HarnessLM
from harness.statistics import derive_seed
from harness.testing.tiny_models import tiny_hf, tokenizer

WEIGHTS = str(files("harness_plugins.demo") / "weights")
FAMILIES = ("gpt2", "gpt_neox", "llama_gqa_tied", "opt", "gemma2", "bloom")
TEXTS = ("abcab", "the cat sat on the mat", "x", "one two three")

TREATMENTS: dict[str, tuple[dict[str, str], Edit]] = {
    "neurons": (
        {"selector": "neurons:neurons=[1.3,1.5,1.8]", "intervention": "zero"},
        SetNeurons(1, (3, 5, 8), (0.0, 0.0, 0.0)),
    ),
    "heads": ({"selector": "heads:heads=[L1H0,L1H2]", "intervention": "bos_attention"}, AttendFirst(1, (0, 2))),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny checkpoints, as files; the tokenizer of one begins every text with BOS."""
    made = {}
    for family in FAMILIES:
        path = tmp_path_factory.mktemp(family)
        tiny_hf(family).save_pretrained(path)
        tokenizer(bos=family == "llama_gqa_tied").save_pretrained(path)
        made[family] = str(path)
    return made


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]  # type: ignore[arg-type]


def answers(lm: HFLM) -> list[Any]:
    """What the model answers to requests of each kind, batched, in lm-eval's own way."""
    pairs: list[tuple[Any, ...]] = [(text, " and so") for text in TEXTS] + [("ab", "c"), ("ab", "d")]
    until = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    return [
        lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True),
        lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True),
        lm.generate_until(requests("generate_until", [(text, until) for text in TEXTS]), disable_tqdm=True),
    ]


@pytest.mark.parametrize("family", ["gpt2", "llama_gqa_tied"])
def test_without_an_intervention_it_is_the_model_of_lm_eval(folders: dict[str, str], family: str) -> None:
    ours, stock = (cls(pretrained=folders[family], device="cpu", batch_size=3) for cls in (HarnessLM, HFLM))
    assert answers(ours) == answers(stock)
    assert ours.get_model_info() == stock.get_model_info()


def test_a_model_of_the_registry_keeps_its_bos(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``add_bos`` of the loader reaches every request, batched or not, as if the tokeniser put it."""
    plain = tmp_path / "plain"
    tiny_hf("llama_gqa_tied").save_pretrained(plain)
    tokenizer().save_pretrained(plain)
    registry = f"models: {{with-bos: {{name: hf, pretrained: {plain}, device: cpu, add_bos: true}}}}\n"
    (tmp_path / "registry.yaml").write_text(registry)
    monkeypatch.chdir(tmp_path)
    ours = HarnessLM(pretrained="with-bos", device="cpu", batch_size=3)
    own = HarnessLM(pretrained=folders["llama_gqa_tied"], device="cpu", batch_size=3)
    for text in ("ab", "<s>ab"):
        assert ours.tok_encode(text) == own.tok_encode(text) == [257, *tokenizer()("ab")["input_ids"]]
    for left in (None, 4):
        ids, mask = ours.tok_batch_encode(["ab", "abcde", "x"], left_truncate_len=left)
        wanted, wanted_mask = own.tok_batch_encode(["ab", "abcde", "x"], left_truncate_len=left)
        assert torch.equal(ids, wanted) and torch.equal(mask, wanted_mask)
    assert answers(ours) == answers(own)
    treated = HarnessLM(pretrained="with-bos", device="cpu", **TREATMENTS["neurons"][0])
    assert treated.neurons is not None and treated.neurons.prefix == (257,) == treated.prefix


def test_as_many_as_fit_on_a_cpu_are_reckoned_and_give_the_same_answers(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval would try 64 sequences as long as the model takes; their logits may be larger than memory."""
    rows: list[int] = []
    monkeypatch.setattr(batch_sizes, "LOGIT_BYTES", 4 * 20 * 258 * 4)
    auto, number = (HarnessLM(pretrained=folders["gpt2"], device="cpu", batch_size=x) for x in ("auto", 3))

    def seen(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        rows.append(len(given[0] if given else named["input_ids"]))

    auto.model.register_forward_pre_hook(seen, with_kwargs=True)
    for ours, theirs in zip(answers(auto), answers(number), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert one == other or np.allclose(one, other, rtol=1e-5)
    assert 1 < max(rows) <= 4


@pytest.mark.parametrize("what", TREATMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_equal_the_engine_on_one_prompt_at_a_time(folders: dict[str, str], family: str, what: str) -> None:
    """Right-padded without a mask (log-likelihoods), left-padded with a cache (generation)."""
    params, edit = TREATMENTS[what]
    lm = HarnessLM(pretrained=folders[family], device="cpu", batch_size=len(TEXTS), **params)
    assert lm.neurons is not None and lm.neurons.adds_bos == (family == "llama_gqa_tied")
    engine, condition = HookEngine(lm.neurons, 1), Condition("by hand", (edit,))

    told = lm.loglikelihood(requests("loglikelihood", [(text, " and so") for text in TEXTS]), disable_tqdm=True)
    for text, (log_likelihood, _) in zip(TEXTS, told, strict=True):
        tokens = lm.neurons.encode([text + " and so"])
        before, after = (-engine.score(tokens, [x]).loss[0, -len(" and so") :].sum() for x in (BASELINE, condition))
        assert log_likelihood == pytest.approx(after, abs=1e-4)
        assert abs(before - after) > 1e-3, "the edit does something"

    context, mask = lm.tok_batch_encode(list(TEXTS))
    assert (mask[:, 0] == 0).any(), "rows are padded on the left"
    n = context.shape[1]
    made = lm._model_generate(context, attention_mask=mask, stop=["never"], max_length=n + 8)
    for row, first in zip(made.tolist(), mask.argmax(1).tolist(), strict=True):
        end = row.index(lm.eot_token_id, n) if lm.eot_token_id in row[n:] else len(row)
        assert end > n
        with torch.no_grad(), under(lm.neurons, condition):
            logits = lm.model(torch.tensor([row[first:end]])).logits[0, n - first - 1 : -1]  # no cache, no padding
        chosen = logits.gather(1, torch.tensor(row[n:end])[:, None])[:, 0]
        torch.testing.assert_close(chosen, logits.amax(1), atol=2e-5, rtol=0)  # greedy, up to ties


def test_edits_end_with_each_pass(folders: dict[str, str]) -> None:
    lm = HarnessLM(pretrained=folders["gpt2"], device="cpu", **TREATMENTS["neurons"][0])
    stock = HFLM(pretrained=folders["gpt2"], device="cpu")
    tokens = torch.tensor([[1, 2, 3]])
    assert not torch.equal(lm._model_call(tokens), stock._model_call(tokens))
    assert torch.equal(lm.model(tokens).logits, stock.model(tokens).logits)


# -- the bundled model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "method", "arguments"),
    [
        ("loglikelihood", "_model_call", ("a", " b")),
        ("loglikelihood_rolling", "_model_call", ("a b",)),
        ("generate_until", "_model_generate", ("a", {"until": ["\n"], "max_gen_toks": 2, "do_sample": False})),
    ],
)
def test_an_lm_eval_that_runs_its_model_in_another_way_is_refused(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, kind: str, method: str, arguments: tuple[Any, ...]
) -> None:
    """As a version would whose methods have other names: the answers were those of the untouched model."""
    lm = HarnessLM(folders["gpt2"], **TREATMENTS["neurons"][0], batch_size=2, device="cpu")
    assert getattr(lm, kind)(requests(kind, [arguments]))
    monkeypatch.setattr(HarnessLM, method, getattr(HFLM, method))
    with pytest.raises(HarnessError, match="runs its model in a way that this was not written for"):
        getattr(lm, kind)(requests(kind, [arguments]))
    assert lm.neurons is not None and lm.neurons.forward(lm.neurons.pad([[1, 2]])), "whoever asks the model itself may"


@pytest.fixture(scope="module")
def demo() -> HarnessLM:
    return HarnessLM(
        "demo", selector="entropy:top=4", intervention="mean", seed=3, sequences=16, device="cuda:0", batch_size=32
    )


def test_the_record_says_what_was_done(demo: HarnessLM) -> None:
    record = demo.get_model_info()["harness"]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["edited"] == record["selected"] and len(record["edited"]) == 4
    assert record["model"]["id"] == "demo" and len(record["model"]["weights_sha256"]) == 64
    assert record["texts"]["params"]["corpus"]["name"] == "world" and record["seed"] == 3
    assert [str(unit) for unit in demo.condition.units] == record["edited"]


def test_values_are_taken_from_texts_that_selectors_may_see(demo: HarnessLM) -> None:
    from harness.data.token_sequences import sequences
    from harness.engine.activation_summaries import activation_statistics
    from harness.plugin.catalogue import catalogue

    assert demo.neurons is not None
    corpus: Any = catalogue().components["corpus"]["world"]()
    spans = sequences(demo.neurons, corpus, 16, 128, derive_seed(3, "task"), "select", across_documents=True)
    found = activation_statistics(demo.neurons, [span.tokens for span in spans], [3], 16, 0)
    [edit] = demo.condition.edits
    assert isinstance(edit, SetNeurons)
    np.testing.assert_allclose(edit.values, found.mean[3][list(edit.indices)], atol=1e-5)


@pytest.mark.parametrize("control", [0, 2])
def test_a_control_is_the_set_of_that_number(demo: HarnessLM, control: int) -> None:
    """The sets that `harness eval` draws: as many neurons of the layer, none of them selected."""
    lm = HarnessLM("demo", selector="entropy:top=4", intervention="zero", seed=3, control=control, device="cpu")
    selected = tuple(map(Neuron.parse, lm.record["selected"]))
    assert lm.record["selected"] == demo.record["selected"]
    pool = {3: [i for i in range(512) if Neuron(3, i) not in selected]}
    drawn = random_controls(selected, 5, pool, derive_seed(3, "controls"))
    assert lm.condition.units == drawn[control]
    assert lm.record["control"] == control and lm.record["edited"] == [str(unit) for unit in drawn[control]]


def test_tasks_ask_the_untouched_model_and_observe_the_treated_one(demo: HarnessLM) -> None:
    """Before and after an intervention the prompts are the same, as in the harness; the entropy is not."""
    tasks = str(files("harness_tasks"))

    def run(lm: Any) -> Any:
        manager = TaskManager(include_path=tasks, include_defaults=False)
        return simple_evaluate(lm, tasks=["knowledge_conflict"], task_manager=manager, limit=60, bootstrap_iters=0)

    before, after = run(HFLM(pretrained=WEIGHTS, device="cpu", batch_size=32)), run(demo)
    texts = [[x["arguments"][0] for x in found["samples"]["knowledge_conflict"]] for found in (before, after)]
    assert texts[0] == texts[1] and len(texts[0]) > 30
    assert demo.neurons is not None
    tokens = demo.neurons.encode([text for text, _ in texts[0]])
    ours = HookEngine(demo.neurons).generate(tokens, [BASELINE, demo.condition], 1).entropy
    for row, found in zip(ours, (before, after), strict=True):
        entropy = [x["entropy"] for x in found["samples"]["knowledge_conflict"]]
        np.testing.assert_allclose(entropy, row, atol=1e-4)
    assert abs(ours[1] - ours[0]).mean() > 0.01
    assert after["config"]["harness"]["edited"] == demo.record["edited"]


def test_a_frozen_norm_is_frozen_in_log_likelihoods_and_refused_in_generation() -> None:
    lm = HarnessLM("demo", selector="entropy", intervention="zero:frozen=final_norm", device="cpu", batch_size=4)
    assert lm.neurons is not None and lm.condition.frozen is not None and lm.condition.frozen.what == "final_norm"
    told = lm.loglikelihood(requests("loglikelihood", [("The capital of", " France"), ("A", " b")]), disable_tqdm=True)
    [tokens] = lm.neurons.encode(["The capital of France"])
    n = len(tokens) - len(lm.neurons.encode(["The capital of"])[0])
    expected = -HookEngine(lm.neurons).score([tokens], [lm.condition]).loss[0, -n:].sum()
    assert told[0][0] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(HarnessError, match="frozen takes two passes"):
        lm.generate_until(requests("generate_until", [("a", {"until": ["b"], "max_gen_toks": 4})]), disable_tqdm=True)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selector": "entropy"}, "^intervention: a selector and an intervention go together"),
        ({"intervention": "mean"}, "^selector: a selector and an intervention go together"),
        ({"corpus": "world"}, "^selector: "),
        ({"control": 0}, "^selector: "),
        ({"selector": "entropi", "intervention": "mean"}, '^selector: .*Did you mean "entropy"'),
        ({"selektor": "entropy", "intervention": "mean"}, 'there is no "selektor". Did you mean "selector"'),
        ({"selector": "entropy:top=6", "null_dims": 12, "intervention": "mean"}, "put the component in quotes"),
        ({"selector": "entropy", "intervention": "mean", "control": -1}, "^control: expected .* got -1"),
        ({"selector": "entropy", "intervention": "mean", "seed": "x"}, "^seed: expected a number, .* got 'x'"),
        ({"selector": "entropy", "intervention": "mean", "length": 1}, '"length" of model harness'),
        ({"dtype": "bfloat16"}, '"dtype" means nothing to demo'),
        ({"selector": "heads:heads=[L0H0]", "intervention": "mean"}, "edits neurons, but .* chose heads"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        HarnessLM("demo", device="cpu", **arguments)


@pytest.mark.parametrize(("selector", "intervention"), [("neurons:neurons=[1.3]", "mean"), ("value_neurons", "zero")])
def test_texts_are_asked_for_where_they_are_needed(folders: dict[str, str], selector: str, intervention: str) -> None:
    with pytest.raises(HarnessError, match=r"^corpus: .*name a corpus"):
        HarnessLM(folders["gpt2"], selector=selector, intervention=intervention, device="cpu")


def test_a_corpus_of_ones_own(folders: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"text number {i} " * 9}) + "\n" for i in range(40)))
    params = {"selector": "neurons:neurons=[1.3]", "intervention": "mean", "corpus": f"text:path={path}"}
    lm = HarnessLM(folders["gpt2"], device="cpu", sequences=4, length=32, **params)
    assert lm.record["edited"] == ["1.3"] and lm.record["texts"]["params"]["sequences"] == 4


def test_the_cache_of_answers_is_refused(demo: HarnessLM, tmp_path: Path) -> None:
    from lm_eval.api.model import CachingLM

    with pytest.raises(HarnessError, match=r"^--use_cache: its answers are found by prompt"):
        CachingLM(demo, str(tmp_path / "answers.db"))


def test_pickled_weights_are_read_only_if_asked_for(folders: dict[str, str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folders["gpt2"], tmp_path / "pickled")
    torch.save(tiny_hf("gpt2").state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        HarnessLM(str(tmp_path / "pickled"), device="cpu")


# -- found by entry point ----------------------------------------------------------------------------------------------


def test_an_lm_eval_that_looks_for_entry_points_needs_no_path(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for lm-eval after 0.4.13, which is not released: what its main does (pull request 4013) before it
    looks a model up by name, done with the registry of the lm-eval that is installed."""
    from importlib.metadata import EntryPoint, entry_points

    from lm_eval.api import registry

    known = {name: x for name, x in registry.model_registry._objs.items() if name != "harness"}
    monkeypatch.setattr(registry.model_registry, "_objs", known)
    words = {"pretrained": folders["gpt2"], **TREATMENTS["neurons"][0]}
    with pytest.raises((KeyError, ValueError), match="harness"):
        registry.get_model("harness")

    for point in entry_points(group="lm_eval.models"):  # those of installed packages; what is there already wins
        if point.name not in registry.model_registry:
            # of the class that lm-eval looks for: once a test has imported the backport of importlib.metadata (MLflow
            # does), that one finds the entry points, and they are of its own class
            target = EntryPoint(point.name, point.value, point.group)
            registry.model_registry.register(point.name, target=target)
    made = registry.get_model("harness")
    assert made is HarnessLM
    lm = made.create_from_arg_obj(words, {"batch_size": 2, "device": "cpu"})
    assert [str(unit) for unit in lm.condition.units] == ["1.3", "1.5", "1.8"]
    from harness.lmeval import register

    register()  # by our own command, or a task's file, beside it: the same
    assert registry.get_model("harness") is HarnessLM
