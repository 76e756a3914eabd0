"""Whatever is wrong with what a user gives, the command says so in one sentence and ends with 2."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from roles import conditions

from harness.errors import HarnessError
from harness.plugin.specs import parse_spec
from harness.report.console import show
from harness.report.page import _context as page_context
from harness.results.folder import RunFolder, read_provenance, read_record
from harness.results.leaderboard import rows_of
from harness.results.record import SCHEMA_VERSION

Harness = Callable[..., tuple[int, str, str]]

DEEP = "[" * 100_000
LONG = "x" * 5000
HUGE = "9" * 400
CONFLICT = ["eval", "--task", "knowledge_conflict", "--selector", "random", "--intervention", "zero"]
DFA = ["eval", "--task", "dfa:corpus=world", "--selector", "random", "--dry_run"]
LABELLED = ["eval", "--selector", "random", "--intervention", "zero", "--task"]
COMPARE = ["compare", "--base", "demo", "--tuned", "demo-tuned", "--quiet"]
RAY = ["run", "copying", "--dry_run", "--executor", "ray"]
FACT = '{"relation": "capital", "subject": "France", "object": "Paris"}\n'

OPTIONS: list[tuple[list[str], str]] = [
    ([*DFA, "--seed", "-1"], 'parameter "seed" of harness eval: input should be greater than or equal to 0'),
    ([*DFA, "--seed", HUGE], 'parameter "seed" of harness eval'),
    ([*DFA, "--batch_size", "0"], 'parameter "batch_size" of harness eval'),
    ([*DFA, "--batch_size", HUGE], 'parameter "batch_size" of harness eval'),
    ([*DFA, "--limit", "0"], 'parameter "limit" of harness eval'),
    ([*DFA, "--limit", HUGE], 'parameter "limit" of harness eval'),
    ([*DFA, "--resamples", "1"], 'parameter "resamples" of harness eval'),
    ([*DFA, "--resamples", HUGE], 'parameter "resamples" of harness eval'),
    ([*DFA, "--controls", "-1"], 'parameter "controls" of harness eval'),
    ([*DFA, "--controls", HUGE], 'parameter "controls" of harness eval'),
    ([*DFA, "--name", LONG], 'parameter "name" of harness eval: string should have at most 200 characters'),
    ([*DFA, "--model", LONG], "File name too long"),
    ([*DFA[:-1], "--model", f"./{LONG}"], "File name too long"),
    ([*DFA[:-1], "--model", "~nobody-here/model"], 'model folder "~nobody-here/model" does not exist'),
    ([*DFA, "--model_args", "device"], '--model_args: "device" is not key=value'),
    ([*COMPARE, "--seed", "-1"], 'parameter "seed" of harness compare'),
    ([*COMPARE, "--seed", HUGE], 'parameter "seed" of harness compare'),
    ([*COMPARE, "--batch_size", "0"], "--batch_size"),
    ([*COMPARE, "--resamples", "1"], "--resamples"),
    ([*COMPARE, "--top", "0"], 'parameter "top" of harness compare'),
    ([*COMPARE, "--null_dims", "9999", "--output_path", "out"], "--null_dims: expected fewer than d_model = "),
    ([*COMPARE, "--top", "99999", "--output_path", "out"], "--top: a layer of demo has 512 neurons, fewer than 99999"),
    ([*COMPARE, "--refusal", ""], 'parameter "refusal" of harness compare: expected the name of a file'),
    ([*RAY, "--gpus_per_run", "inf"], 'parameter "gpus" of ray: input should be a finite number'),
    ([*RAY, "--gpus_per_run", "nan"], 'parameter "gpus" of ray'),
    ([*RAY, "--cpus_per_run", "1e300"], 'parameter "cpus" of ray'),
    ([*RAY, "--cpus_per_run", "-1"], 'parameter "cpus" of ray'),
    (["run", "copying", "--dry_run", "--limit", "0"], "--limit"),
    (["run", "copying", "--dry_run", "--limit", HUGE], "--limit"),
    (["leaderboard", "-n", "0"], "-n"),
    ([*CONFLICT[:-1], "within:of=zeroo,where=activation>q9"], 'parameter "of" of within: no intervention is called'),
    ([*CONFLICT[:-1], "within:of=scale,where=activation>q9"], '"of" of within: scale needs the parameter "factor".'),
    ([*CONFLICT[:-1], "circuit:steps=[zero, scale:factr=2]"], '"steps.1" of circuit: scale has no parameter "factr".'),
    ([*CONFLICT, "--selector", "entropy:rule=confirmd"], "got 'confirmd'. Did you mean \"confirmed\"?"),
    ([*CONFLICT, "--selector", "units:units=[r3.4]"], 'list units has all forms). Did you mean "R3.4"?'),
    ([*CONFLICT, "--selector", "units:units=[R3.4,B3.4]", "-q"], "names both coordinates and coordinates before;"),
    ([*CONFLICT, "--match", "nrm"], 'routing, reach. Did you mean "norm"?'),
    (["report", LONG], "File name too long"),
    (["report", "nowhere"], "there is no finished run here"),
    (["new-plugin", f"harness-{LONG}"], "File name too long"),
    ([*CONFLICT[:-1], "scale:factor=nan"], 'parameter "factor" of scale: input should be a finite number'),
    (["eval", "--task", "dfa", "--selector", f"entropy:top={HUGE}"], "at most 64 bits in top"),
    (["eval", "--task", "dfa", "--selector", "entropy:top=99999999999999999999"], "at most 64 bits in top"),
    (["eval", "--task", "lm_eval:x,gen_kwargs={a: '[b'}", "--selector", "random", "-i", "zero"], "as YAML writes them"),
    ([*LABELLED, "labelled_response:data="], '"data=" has no value'),
    ([*LABELLED, 'labelled_response:data=""'], 'parameter "data" of labelled_response: expected the name of a file'),
    ([*LABELLED, 'labelled_response:data="a\\u0000b"'], 'parameter "data" of labelled_response: expected the name'),
    ([*LABELLED, 'labelled_response:data="a\\ud800b"'], "hold half a character"),
    ([*LABELLED, "labelled_response:data=a.jsonl,template={text} {x}"], 'there is no "x". There are: text'),
    ([*LABELLED, "labelled_response:data=a.jsonl,template={text} {"], '"{" is not closed'),
    ([*LABELLED, 'labelled_response:data=a.jsonl,template="{text} {"'], "a brace stands alone"),
    ([*LABELLED, "target_probability:template={query.__class__}"], 'there is no "query.__class__".'),
    ([*LABELLED, "target_probability:template={query:>999999999}"], 'there is no "query:>999999999".'),
    ([*LABELLED, 'knowledge_conflict:query="{subject} }"'], "a brace stands alone"),
    ([*LABELLED, 'knowledge_conflict:data=""'], 'parameter "data" of knowledge_conflict: expected the name of a file'),
    ([*LABELLED, "mediation:corpus='text:path=\"\"'"], 'parameter "path" of text: expected the name of a file'),
    (
        ["eval", "--model", "hf:pretrained=~nobody/x", "-t", "dfa:corpus=world", "-s", "random"],
        'model folder "~nobody/x"',
    ),
]


@pytest.mark.parametrize(("command", "says"), OPTIONS, ids=[f"{i}-{x[1][:30]}" for i, x in enumerate(OPTIONS)])
def test_a_wrong_option_is_a_sentence(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    _check(harness(*command), says)
    assert list(tmp_path.rglob("result.json")) == []


FILES: list[tuple[str, str | bytes, list[str], str]] = [
    ("r/result.json", DEEP, ["report", "r"], "result.json: this is not valid JSON (it is nested too deeply)"),
    ("r/result.json", "{", ["report", "r"], "result.json: this is not valid JSON"),
    ("r/result.json", b"\xff", ["report", "r"], "result.json: it is not UTF-8 text"),
    ("r/result.json", "[]", ["report", "r"], f"this is no record of schema {SCHEMA_VERSION}"),
    (
        "r/result.json",
        f'{{"schema_version": {SCHEMA_VERSION}}}',
        ["report", "r"],
        "r/result.json: run_id: it is missing",
    ),
    ("r/result.json/x", "", ["report", "r"], "there is no finished run here"),
    ("leaderboard.jsonl", DEEP + "\n", ["leaderboard", "-o", "."], "line 1: this is not a leaderboard row"),
    ("leaderboard.jsonl", '{"row_id": null}\n', ["leaderboard", "-o", "."], "line 1: this is not a leaderboard row"),
    ("leaderboard.jsonl", b"\xff\n", ["leaderboard", "-o", "."], "line 1: this is not a leaderboard row"),
    ("leaderboard.jsonl/x", "", ["leaderboard", "-o", "leaderboard.jsonl"], "cannot be read"),
    ("m/config.json", DEEP, [*DFA[:-1], "--model", "./m"], "config.json is damaged"),
    ("f.jsonl", DEEP, ["FACTS", "f.jsonl"], "f.jsonl, line 1: this is not valid JSON"),
    ("f.jsonl", FACT.replace("France", "\\ud800"), ["FACTS", "f.jsonl"], "line 1: it holds '\\ud800', which is half a"),
    ("f.jsonl", b"\xff", ["FACTS", "f.jsonl"], "f.jsonl: it is not UTF-8 text"),
    ("f.jsonl", "3\n", ["FACTS", "f.jsonl"], "f.jsonl, line 1: expected an object with named columns"),
    ("f.csv", 'relation,subject,object\ncapital,"France,Paris\n', ["FACTS", "f.csv"], "this is not valid CSV"),
    ("f.csv", f"relation,subject,object\ncapital,France,{'x' * 200_000}\n", ["FACTS", "f.csv"], "not valid CSV"),
    ("f.jsonl", FACT, ["FACTS", 'f.jsonl,query="{subject.foo} is"'], 'cannot be filled: there is no "subject.foo".'),
    ("f.jsonl", FACT, ["FACTS", "f.jsonl,query={subject:>999999999}"], 'there is no "subject:>999999999".'),
    ("f.jsonl/x", FACT, ["FACTS", "f.jsonl"], "f.jsonl: "),
]


@pytest.mark.parametrize(
    ("name", "content", "command", "says"), FILES, ids=[f"{i}-{x[0]}-{x[3][:30]}" for i, x in enumerate(FILES)]
)
def test_a_damaged_file_is_a_sentence(
    harness: Harness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str | bytes,
    command: list[str],
    says: str,
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    if command[0] == "FACTS":
        task = f"knowledge_conflict:data={command[1]}"
        command = ["eval", "--task", task, "--selector", "random", "-i", "zero", "--quiet", "-o", "out"]
    _check(harness(*command), says)
    assert list(tmp_path.glob("out/*/")) == []


def test_a_weight_map_of_another_type_is_a_sentence(
    harness: Harness, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.testing import tiny_model

    for wrong in ([], {"a": 3}, None, "x"):
        folder = tmp_path / "model"
        tiny_model("llama").hf.save_pretrained(folder)
        capsys.readouterr()  # its progress
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": wrong}))
        _check(harness(*DFA[:-1], "--model", folder, "--quiet"), "index.json is damaged: expected a weight_map")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unsearchable_folder_is_a_sentence(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "locked" / "run").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    try:
        for command in (["report"], [*DFA[:-1], "--model"], ["leaderboard", "-o"], ["compare", "x"]):
            _check(harness(*command, tmp_path / "locked" / "run"), "Permission denied")
    finally:
        (tmp_path / "locked").chmod(0o755)


def _check(done: tuple[int, str, str], says: str) -> None:
    code, out, err = done
    assert (code, out) == (2, ""), err
    assert says in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert len(err) < 2000


# -- a finished run, one of whose files is damaged ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run."""
    from small_runs import finish

    return finish(
        tmp_path_factory.mktemp("finished"),
        task=parse_spec("mediation:sequences=4,length=16,others=2", "task"),
        selector=parse_spec("entropy:top=2", "selector"),
        intervention=parse_spec("zero", "intervention"),
        controls=5,
    )


DAMAGES: list[Any] = [KeyError, None, [], "x", {"a": None}, int(HUGE)]
"""Put in place of a value; ``KeyError``: the key is taken away."""

WITHIN = 3
"""How deep a record is damaged, but for its measures and the selection: deeper is what no reader looks at by name."""


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value; of lists, the first."""
    yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in inside:
        yield from _places(item, (*above, key))


def _damaged(value: Any, place: tuple[Any, ...], damage: Any) -> Any:
    if not place:
        return damage
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1 and damage is KeyError:
        del copy[place[0]]
    else:
        copy[place[0]] = _damaged(value[place[0]], place[1:], damage)
    return copy


def _read_all(folder: Path) -> None:
    """Read everything of a run, as reports, comparisons and the leaderboard do."""
    record = read_record(folder)
    show(Console(file=io.StringIO()), record, folder)
    rows_of(record, read_provenance(folder))
    page_context(folder, record)
    RunFolder(folder).load_outcomes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["result.json", "provenance.json", "samples.jsonl", "neurons.jsonl", "controls.jsonl"])
def test_whatever_is_damaged_in_a_file_of_a_run_is_a_sentence(finished: Path, name: str, tmp_path: Path) -> None:
    folder = tmp_path / finished.name
    shutil.copytree(finished, folder)
    first, *rest = (folder / name).read_text().split("\n") if name.endswith("l") else [(folder / name).read_text()]
    found, refused = json.loads(first), 0
    _read_all(folder)
    for turn, place in enumerate(_places(found)):
        if len(place) > WITHIN and place[0] not in ("measures", "selection"):
            continue
        # All in turn, one at a place: reading takes a tenth of a second.
        for damage in DAMAGES[1:] if not place else DAMAGES[turn % len(DAMAGES) :][:1]:
            (folder / name).write_text("\n".join([json.dumps(_damaged(found, place, damage)), *rest]))
            try:
                _read_all(folder)
            except HarnessError as error:
                assert str(folder) in str(error) and len(str(error)) < 600
                refused += 1
    assert refused > 10


def test_a_number_that_is_none_is_none_on_the_leaderboard(harness: Harness, tmp_path: Path) -> None:
    row = {"row_id": "a", "measure": "m", "primary": True, "seed": int(HUGE)}
    values = (HUGE, "1e999", "NaN", "-Infinity", "0.5", '"x"', "[1]")
    lines = [json.dumps(row | {"run": str(i)})[:-1] + f', "value": {x}}}\n' for i, x in enumerate(values)]
    (tmp_path / "leaderboard.jsonl").write_text("".join(lines))
    for form in ("table", "csv", "markdown", "html", "json"):
        code, out, _ = harness("leaderboard", "-o", tmp_path, "--history", "--sort", "value", "--format", form)
        assert code == 0 and "Infinity" not in out
    shown = json.loads(out)
    assert [x["value"] for x in shown] == [0.5, *[None] * 6] and {x["seed"] for x in shown} == {None}


def test_prepared_prompts_and_parts_that_are_damaged_are_a_sentence(tmp_path: Path) -> None:
    from harness.plugin.records import Outcomes, Prepared, Prompt

    folder = RunFolder(tmp_path / "run")
    folder.open(fresh=False)
    prompt = Prompt("a", "text", (1, 2), "c")
    folder.save_prepared(Prepared((prompt,)))
    folder.save_part(0, Outcomes(conditions(), (prompt,), {"x": np.zeros((2, 1))}))
    for name, read in (
        ("prepared.json", folder.load_prepared),
        ("part-00000000.json", lambda: folder.load_part(0, (prompt,), conditions())),
    ):
        path = tmp_path / "run" / "unfinished" / name
        found = json.loads(path.read_text())
        assert read() is not None
        for place in _places(found):
            for damage in DAMAGES if place else DAMAGES[1:]:
                path.write_text(json.dumps(_damaged(found, place, damage)))
                with contextlib.suppress(HarnessError):
                    read()
        path.write_text(json.dumps(found))
