"""Which tokens lm-eval's requests read and score, and what cannot be done with a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from families import BOS, tiny_hf, tokenizer
from stock_lm_eval import lm_eval_task, stock, values

from harness.conditions.conditions import BASELINE
from harness.engine.closed_form import ClosedFormEngine
from harness.errors import HarnessError
from harness.model.model import Model
from harness.model.wrapping import wrap

# -- which tokens are read and scored ----------------------------------------------------------------------------------


def joining() -> Any:
    """The byte-level tokeniser of the tests that also knows the word "world": "wor" and "ld" join to it."""
    import json as text

    import transformers
    from tokenizers import Tokenizer

    state = text.loads(tokenizer().backend_tokenizer.to_str())
    merges = [["w", "o"], ["l", "d"], ["wo", "r"], ["wor", "ld"]]
    state["model"]["vocab"] |= {"wo": 260, "ld": 261, "wor": 262, "world": 263}
    state["model"]["merges"] = merges
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text.dumps(state)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def written_task(folder: Path, docs: Sequence[dict[str, Any]], kind: str, *lines: str) -> Any:
    """An lm-eval task ``mine`` over these documents."""
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    text = [
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/docs.jsonl}}}}",
        f"output_type: {kind}\ntest_split: test",
        *lines,
    ]
    (folder / "mine.yaml").write_text("\n".join(text) + "\n")
    return lm_eval_task(str(folder / "mine.yaml"))


def kept(task: Any, model: Model, limit: int | None = None) -> list[list[int]]:
    """The token ids of the prompts."""
    return [list(prompt.tokens) for prompt in task.prepare(ClosedFormEngine(model, 16), limit, 0).prompts]


CHOICE = ('doc_to_text: "{{a}}"', 'doc_to_choice: "{{b}}"', "doc_to_target: 0", 'target_delimiter: ""')
PAIR = ('doc_to_text: "{{a}}"', 'doc_to_target: "{{b}}"', 'target_delimiter: ""', "metric_list: [{metric: acc}]")
ROLLING = ('doc_to_text: ""', 'doc_to_target: "{{b}}"', "metric_list: [{metric: word_perplexity}]")
WRITTEN = (*PAIR[:2], "generation_kwargs: {max_gen_toks: 2, until: [x]}")


@pytest.mark.parametrize(
    ("kind", "doc", "lines", "said"),
    [
        ("multiple_choice", {"a": "hello wor", "b": ["ld", "xy"]}, CHOICE,
         'continuation "ld" without a token of its own (the tokenizer joins it with the end of its context)'),
        ("multiple_choice", {"a": "hello", "b": ["xy", ""]}, CHOICE,
         'continuation "" without a token of its own (it is empty)'),
        ("loglikelihood", {"a": "", "b": ""}, PAIR, 'continuation "" without a token'),
        ("loglikelihood", {"a": "", "b": "<s>"}, PAIR, 'continuation "<s>" without a token'),
        ("loglikelihood", {"a": "a", "b": "x" * 500}, PAIR, "continuation of 500 tokens, longer than the"),
        ("loglikelihood_rolling", {"a": "", "b": ""}, ROLLING, "is an empty text"),
        ("generate_until", {"a": "", "b": "x"}, WRITTEN, "is empty, and no BOS token is put before it"),
    ],
)  # fmt: skip
def test_nothing_is_scored_that_has_no_tokens(
    tmp_path: Path, kind: str, doc: dict[str, Any], lines: Sequence[str], said: str
) -> None:
    """Stock lm-eval refuses (or sums over nothing); a continuation without tokens would have log p 0 and win."""
    model = wrap(tiny_hf("gpt2"), joining(), "tiny")
    good = {"a": "hello wor", "b": ["xy", "zz"] if kind == "multiple_choice" else "xy"}
    task = written_task(tmp_path, [good, good, doc], kind, *lines)
    assert len(kept(task, model, limit=2)) == 2
    with pytest.raises(HarnessError) as error:
        kept(task, model)
    assert str(error.value).startswith("task lm_eval: mine: document 2 ") and said in str(error.value)
    if kind in ("multiple_choice", "loglikelihood"):
        with pytest.raises((AssertionError, IndexError)):
            stock(model, [str(tmp_path / "mine.yaml")])


@pytest.mark.parametrize("kind", ["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"])
def test_the_models_bos_is_put_first_as_by_a_tokeniser_that_does(tmp_path: Path, kind: str) -> None:
    """``add_bos`` is one setting: a tokeniser that puts no BOS equals one that does, and the other way round."""
    lines = {"multiple_choice": CHOICE, "loglikelihood": PAIR, "loglikelihood_rolling": ROLLING}.get(kind, WRITTEN)
    b: Any = ["xy", "zab"] if kind == "multiple_choice" else "xy"
    task = written_task(tmp_path, [{"a": "hello", "b": b}, {"a": "<s>hello", "b": b}], kind, *lines)
    for wanted in (True, False):
        own, told = (
            wrap(tiny_hf("gpt2"), tokenizer(bos=bos), "tiny", add_bos=asked)
            for bos, asked in ((wanted, None), (not wanted, wanted))
        )
        first = kept(task, told)
        assert first == kept(task, own)
        # A rolling request's first window begins with BOS, too, as lm-eval's do.
        assert [row[:2].count(BOS) for row in first] == (
            [1 + wanted] * 2 if kind == "loglikelihood_rolling" else [int(wanted), 1]
        )
        ours = values(task, told, [BASELINE, BASELINE])[0]
        for name, value in stock(own, [str(tmp_path / "mine.yaml")]).items():
            assert ours[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def test_a_generation_config_that_is_not_greedy_is_refused_or_switched_off(tmp_path: Path) -> None:
    """lm-eval's hf obeys the model's repetition_penalty; sampling settings change nothing of a greedy choice."""
    model = wrap(tiny_hf("gpt2"), tokenizer(), "tiny")
    docs = [{"a": text, "b": "x"} for text in ("abcabc", "hello hello", "1 2 3 1 2")]
    lines = (
        *WRITTEN[:2],
        "generation_kwargs: {max_gen_toks: 12, until: ['#']}",
        "metric_list: [{metric: exact_match}]",
    )
    task = written_task(tmp_path, docs, "generate_until", *lines)
    engine = ClosedFormEngine(model, 16)

    def answers(task: Any) -> Any:
        return task.observe(engine, task.prepare(engine, None, 0).prompts, [BASELINE, BASELINE]).answers[0]

    model.hf.generation_config.update(temperature=0.3, top_p=0.5, top_k=3)
    plain = answers(task)
    model.hf.generation_config.update(repetition_penalty=1.9)
    with pytest.raises(HarnessError, match=r"the generation_config of tiny asks for repetition_penalty=1\.9, which"):
        task.prepare(engine, None, 0)
    off = lm_eval_task(str(tmp_path / "mine.yaml"), gen_kwargs={"repetition_penalty": 1.0})
    assert answers(off) == plain
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    hf, until = HFLM(pretrained=model.hf, tokenizer=tokenizer(), batch_size=1), {"max_gen_toks": 12, "until": ["#"]}

    def stock_answers(**options: Any) -> tuple[str, ...]:
        requests = [Instance("generate_until", doc, (doc["a"], until | options), 0) for doc in docs]
        return tuple(hf.generate_until(requests, disable_tqdm=True))

    assert stock_answers(repetition_penalty=1.0) == plain != stock_answers()


def test_a_tokenizer_without_special_tokens_generates_and_is_named_where_one_is_needed() -> None:
    from types import SimpleNamespace

    from harness_plugins.lm_eval_tasks.conditions_lm import ConditionsLM

    from harness.testing import tiny_model

    model = tiny_model("llama")
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    lm = ConditionsLM(ClosedFormEngine(model), [BASELINE])
    about = {"task_name": "t", "doc_id": 0, "idx": 0}
    options = {"until": ["x"], "max_gen_toks": 3}
    [[text]] = lm.generate_until([SimpleNamespace(request_type="generate_until", args=("a b", options), **about)])
    assert text
    with pytest.raises(HarnessError, match="the tokenizer of llama has neither a BOS nor an EOS token"):
        lm.loglikelihood_rolling([SimpleNamespace(request_type="loglikelihood_rolling", args=("a b",), **about)])
