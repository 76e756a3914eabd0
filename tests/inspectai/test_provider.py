"""``--model harness/NAME`` in inspect_ai's own ``eval()``, found by its entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from families import tiny_hf, tokenizer

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.hooks import HookEngine
from harness.errors import HarnessError

pytest.importorskip("inspect_ai", reason="inspect_ai is not installed: pip install -e '.[inspect]'")

import inspect_ai
from inspect_ai.dataset import Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import includes

from harness.inspectai.model import HarnessAPI

# inspect_ai's own calls, and those of what it imports.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CAPITALS = (("The capital of France is", "Paris"), ("The capital of Japan is", "Tokyo"))
EDIT = Condition("by hand", (SetNeurons(3, (359,), (0.0,)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny checkpoint that speaks in turns."""
    path = tmp_path_factory.mktemp("tiny")
    reads = tokenizer()
    reads.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" + (
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tiny_hf("gpt2").save_pretrained(path)
    reads.save_pretrained(path)
    return str(path)


def run(logs: Path, model: str = "harness/demo", **options: Any) -> Any:
    task = inspect_ai.Task(dataset=[Sample(input=x, target=y) for x, y in CAPITALS], scorer=includes())
    [log] = inspect_ai.eval(task, model=model, log_dir=str(logs), display="none", **options)
    assert log.status == "success", log.error
    return log


def test_a_task_of_inspect_under_a_condition_is_the_engine(tmp_path: Path) -> None:
    words = {"max_tokens": 3, "logprobs": True, "top_logprobs": 2}
    before = run(tmp_path, **words)
    after = run(tmp_path, model_args={"units": "3.359", "intervention": "zero"}, **words)
    assert before.results.scores[0].metrics["accuracy"].value == 1
    model = HarnessAPI("demo").model
    prompts = model.encode([x for x, _ in CAPITALS])
    wanted = HookEngine(model, 1).generate(prompts, [BASELINE, EDIT], 3)
    for c, log in enumerate((before, after)):
        for i, sample in enumerate(log.samples):
            [choice] = sample.output.choices
            told = choice.logprobs.content
            assert sample.output.completion == model.tokenizer.decode(wanted.tokens[c, i])
            assert told[0].logprob == pytest.approx(wanted.top[c, i], abs=2e-5)
            assert [x.token for x in told] == [model.token_texts[x] for x in wanted.tokens[c, i]]
            assert told[0].top_logprobs[0].logprob == told[0].logprob >= told[0].top_logprobs[1].logprob
            assert choice.stop_reason == "max_tokens" and sample.output.usage.output_tokens == 3
    assert wanted.top[0, 0] != pytest.approx(wanted.top[1, 0], abs=1e-2)
    record = after.samples[0].output.metadata["harness"]
    assert record["edited"] == ["3.359"] and record["rule"] == "the neuron named by the user"
    saved = inspect_ai.log.read_eval_log(after.location)
    assert saved.eval.model == "harness/demo" and saved.eval.model_args["units"] == "3.359"


def test_drawn_answers_depend_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    def answers(**words: Any) -> list[str]:
        log = run(tmp_path, temperature=2.0, max_tokens=6, epochs=2, **words)
        return sorted(f"{x.id} {x.output.completion}" for x in log.samples)

    assert answers(seed=1) == answers(seed=1, max_connections=4) != answers(seed=2)
    assert len(set(answers(seed=1))) == 4, "epochs differ"


def test_conversations_go_through_the_chat_template(folder: str) -> None:
    api = HarnessAPI(folder, device="cpu")
    turns = [ChatMessageSystem(content="be kind"), ChatMessageUser(content="hi")]
    said = api.model.tokenizer.decode(api._tokens(turns))
    assert said == "[system]be kind[user]hi[assistant]"
    assert api.model.tokenizer.decode(api._tokens([*turns, ChatMessageAssistant(content="So")])).endswith("]So")
    plain = HarnessAPI(folder, device="cpu", chat=False)
    assert plain.model.tokenizer.decode(plain._tokens(turns)) == "be kind\n\nhi"


def test_cached_answers_are_those_of_the_condition(folder: str) -> None:
    words = {"selector": "neurons:neurons=[1.3]", "intervention": "zero", "device": "cpu"}
    made = [HarnessAPI(folder, **x) for x in ({"device": "cpu"}, words, words, {**words, "control": 0})]
    places = [x.base_url for x in made]
    assert places[1] == places[2] and len(set(places)) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"selektor": "entropy"}, '-M selektor: there is no "selektor". Did you mean "selector"?'),
        ({"selector": "entropy"}, "intervention: a selector and an intervention go together"),
        ({"units": "1.3", "selector": "entropy", "intervention": "zero"}, "-M units: a selector chooses units already"),
        ({"units": "1.3", "intervention": "mean"}, "corpus: this selector or intervention looks at texts"),
        ({"units": 3.359, "intervention": "zero"}, "write selector=neurons:neurons="),
        ({"units": "7.3", "intervention": "zero"}, "the model has layers 0 to 2"),
    ],
)
def test_mistakes_are_sentences(folder: str, words: dict[str, Any], said: str) -> None:
    with pytest.raises(HarnessError, match=said.replace("?", r"\?")):
        HarnessAPI(folder, device="cpu", **words)


def test_a_mistake_ends_inspects_command_without_a_traceback(folder: str) -> None:
    from inspect_ai._util.error import PrerequisiteError

    with pytest.raises(PrerequisiteError, match="there is no"):
        inspect_ai.model.get_model(f"harness/{folder}", device="cpu", selektor="entropy")


def test_what_would_change_nothing_is_refused(folder: str) -> None:
    api = HarnessAPI(folder, device="cpu")
    with pytest.raises(HarnessError, match="frequency_penalty: a model of the harness does not obey it"):
        anyio.run(api.generate, [ChatMessageUser(content="hi")], [], "auto", GenerateConfig(frequency_penalty=0.5))
    with pytest.raises(HarnessError, match="leaves no room for an answer in the 64 positions"):
        anyio.run(api.generate, [ChatMessageUser(content="x" * 80)], [], "auto", GenerateConfig())
