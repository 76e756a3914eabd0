"""The command line, from the outside: what it prints, what it writes, what it says of mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import blank
import pytest
from checkout import ROOT
from commands import VOLATILE, Harness, arguments, files, only
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("blank_figures")


HEAVY = ("torch", "transformers", "datasets", "lm_eval", "scipy", "statsmodels", "pandas", "matplotlib", "tokenizers")


# -- listing ---------------------------------------------------------------------------------------------------------


def test_help_and_lists_import_nothing_heavy() -> None:
    """One after the other in a process of their own: what the first one imports stays for the others."""
    commands = [["--help"], ["list"], ["list", "entropy"], ["list", "runs"], ["eval", "--help"]]
    code = (
        "import sys\nfrom harness.cli.app import main\n"
        f"for command in {commands!r}:\n"
        "    sys.argv = ['harness', *command]\n    try:\n        main()\n    except SystemExit:\n        pass\n"
        f"    print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    printed = re.split(r"^HEAVY (.*)$", done.stdout, flags=re.MULTILINE)
    assert printed[1::2] == ["[]"] * len(commands)
    assert all(len(text) > 200 for text in printed[:-1:2])


def test_list_shows_every_kind_and_one_component_with_bounds(harness: Harness) -> None:
    code, out, _ = harness("list")
    assert code == 0
    for name in ("demo", "hf", "entropy", "random", "mean_plus_sigma", "knowledge_conflict", "conversion_ratios"):
        assert name in out
    code, out, _ = harness("list", "entropy")
    assert code == 0
    assert re.search(r"top +integer >= 1 +6 +number of neurons", out)
    assert "confirmed | tighidet2025 | stolfo2024" in out
    assert harness("list", "selectors")[0] == harness("list", "runs")[0] == harness("list", "plugins")[0] == 0


def test_python_m_harness_is_harness() -> None:
    done = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True)
    own, others = done.stdout.splitlines()
    assert (done.returncode, own) == (0, "0.1.0")
    assert re.match(r"Python 3\.\d+\.\d+, torch \d", others) and f"transformers {version('transformers')}" in others


def test_another_name_of_the_command() -> None:
    """`harness` is what others call theirs, too."""
    found = {point.name: point.value for point in entry_points(group="console_scripts")}
    assert found["neuron-harness"] == found["harness"]


# -- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(small_facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports folder of one small run, made by another process. Its figures are blank, as those of this one are:
    that figures have the same bytes again is tested where they are drawn, and of whole runs by the packaging tests."""
    output = tmp_path_factory.mktemp("reports")
    command = [sys.executable, "-c", blank.HARNESS, *map(str, arguments(small_facts, output))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode == 0, done.stderr
    (output / "stdout.txt").write_text(done.stdout)
    return output


def test_a_run_leaves_its_record_samples_neurons_and_rows(finished: Path) -> None:
    run = only(finished)
    assert {x.name for x in run.iterdir()} >= {
        "result.json", "samples.jsonl", "neurons.jsonl", "outcomes.safetensors", "provenance.json", "figures",
    }  # fmt: skip
    assert not (run / "unfinished").exists()
    record = json.loads((run / "result.json").read_text())
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (finished / "leaderboard.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * record["task"]["n_prompts"] > 0
    assert len(rows) == len(record["measures"])
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert all(row["weights_sha256"] and row["data_sha256"] and row["command"] for row in rows)
    assert record["controls"]["n"] == 19 == len(record["controls"]["sets"])
    assert len(json.loads((run / "neurons.jsonl").read_text().splitlines()[0])) >= 4


def test_the_numbers_of_the_record_follow_from_the_samples(finished: Path) -> None:
    run = only(finished)
    record = json.loads((run / "result.json").read_text())
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    before, after = samples[::2], samples[1::2]
    measures = {measure["name"]: measure for measure in record["measures"]}
    moved = [(x["source"], y["source"]) for x, y in zip(before, after, strict=True)]
    not_ck = [pair for pair in moved if pair[0] != "CK"]
    assert measures["CKCR"]["value"] == pytest.approx(100 * sum(b == "CK" for _, b in not_ck) / len(not_ck))
    assert measures["GTS"]["value"] == pytest.approx(100 * sum(a != b for a, b in moved) / len(moved))
    change = sum(y["entropy"] - x["entropy"] for x, y in zip(before, after, strict=True)) / len(moved)
    assert measures["entropy_change"]["value"] == pytest.approx(change, abs=1e-9)
    for name in ("CKCR", "PKCR", "NDCR", "GTS"):
        p = measures[name]["p_two_sided"]
        assert p * 20 == pytest.approx(round(p * 20))  # multiples of 1 / (m + 1)
    assert [sum(row) for row in record["tables"][0]["treated"]] == [
        sum(a == name for a, _ in moved) for name in ("CK", "PK", "ND")
    ]


def test_the_report_says_what_was_asked_chosen_and_found(finished: Path) -> None:
    text = (finished / "stdout.txt").read_text()
    for part in ("question", "Prompts", "Selected neurons", "Before and after", "random controls", "Verdicts", "Files"):
        assert part in text
    assert "\x1b" not in text  # no colour codes in a pipe


@pytest.mark.parametrize("columns", [40, 60, 99, 100, 160])
def test_the_report_fits_the_window(finished: Path, harness: Harness, columns: int) -> None:
    code, out, err = harness("report", only(finished))
    assert code == 0, err
    assert max(len(line.rstrip()) for line in out.splitlines()) <= columns


def test_the_same_command_gives_the_same_bytes(
    finished: Path, small_facts: Path, tmp_path: Path, harness: Harness
) -> None:
    assert harness(*arguments(small_facts, tmp_path))[0] == 0
    first, second = files(only(finished)), files(only(tmp_path))
    assert only(finished).name == only(tmp_path).name
    assert first.keys() == second.keys()
    for name in first:
        if not name.endswith(VOLATILE):
            assert first[name] == second[name], name


def test_a_finished_run_is_shown_and_not_made_again(
    finished: Path, small_facts: Path, tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "reports")
    before = files(tmp_path / "reports")
    given = [x for x in arguments(small_facts, tmp_path / "reports") if x != "--quiet"]
    code, out, err = harness(*given)
    assert code == 0
    assert "this run was finished before" in err
    assert "Verdicts" in out
    assert {k: v for k, v in files(tmp_path / "reports").items() if not k.endswith(".lock")} == {
        k: v for k, v in before.items() if not k.endswith(".lock")
    }


def test_json_prints_the_record(finished: Path, harness: Harness) -> None:
    code, out, _ = harness("report", only(finished), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((only(finished) / "result.json").read_text())


def test_another_seed_model_or_parameter_is_another_run(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    small = {"controls": "2", "limit": "10"}
    for changes in ({}, {"seed": "1"}, {"selector": "entropy:rule=tighidet2025,top=3"}, {"limit": "12"}):
        assert harness(*arguments(small_facts, tmp_path, **{**small, **changes}))[0] == 0
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(
    finished: Path, small_facts: Path, tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.results.folder import RunFolder
    from harness.running import execute as run

    monkeypatch.setattr(run, "PART", 20)
    saved: list[int] = []
    real = RunFolder.save_part

    def interrupted(self: RunFolder, start: int, part: object) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(start)
        real(self, start, part)

    monkeypatch.setattr(RunFolder, "save_part", interrupted)
    code, _, err = harness(*arguments(small_facts, tmp_path))
    assert (code, saved) == (130, [0, 20])
    assert "continues" in err
    assert not (only(tmp_path) / "result.json").exists()
    assert not (tmp_path / "leaderboard.jsonl").exists()

    made: list[int] = []

    def watched(self: RunFolder, start: int, part: object) -> None:
        made.append(start)
        real(self, start, part)

    monkeypatch.setattr(RunFolder, "save_part", watched)
    assert harness(*arguments(small_facts, tmp_path))[0] == 0
    assert made[0] == 40
    monkeypatch.setattr(run, "PART", 256)
    whole, resumed = files(only(finished)), files(only(tmp_path))
    # Parts are batched on their own, so the last digits may move; what is counted may not.
    for name in ("neurons.jsonl",):
        assert whole[name] == resumed[name]
    a, b = json.loads(whole["result.json"]), json.loads(resumed["result.json"])
    assert a["tables"] == b["tables"]


def test_a_killed_process_is_continued(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    """SIGKILL in the middle, as a full cluster or a closed laptop does it."""
    script = (
        "import os, signal, sys\nfrom harness.running import execute as run\n"
        "from harness.results.folder import RunFolder\nrun.PART = 20\n"
        "real, seen = RunFolder.save_part, []\n"
        "def save(self, start, part):\n    real(self, start, part)\n    seen.append(start)\n"
        "    if len(seen) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "RunFolder.save_part = save\n"
        "sys.argv = ['harness', *sys.argv[1:]]\nfrom harness.cli.app import main\nmain()\n"
    )
    given = [str(x) for x in arguments(small_facts, tmp_path / "killed", limit="60", controls="5")]
    done = subprocess.run([sys.executable, "-c", script, *given], capture_output=True)
    assert done.returncode == -9
    assert len(list(only(tmp_path / "killed").glob("unfinished/part-*.safetensors"))) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.running.execute.PART", 20)
        assert harness(*given)[0] == 0
        assert harness(*arguments(small_facts, tmp_path / "whole", limit="60", controls="5"))[0] == 0
    killed, whole = files(only(tmp_path / "killed")), files(only(tmp_path / "whole"))
    assert killed.keys() == whole.keys()
    assert all(killed[name] == whole[name] for name in whole if not name.endswith(VOLATILE))


def test_the_hook_engine_finds_the_same(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    records = {}
    for engine in ("auto", "hooks"):
        given = arguments(small_facts, tmp_path / engine, "--json", engine=engine, controls="3", limit="30")
        code, out, err = harness(*given)
        assert code == 0, err
        records[engine] = json.loads(out)
    assert (records["auto"]["engine"], records["hooks"]["engine"]) == ("closed_form", "hooks")
    assert records["auto"]["tables"] == records["hooks"]["tables"]
    for one, other in zip(records["auto"]["measures"], records["hooks"]["measures"], strict=True):
        assert one["value"] == pytest.approx(other["value"], abs=1e-4)
        assert one["p_two_sided"] == other["p_two_sided"]


def test_a_registry_run(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    registry = tmp_path / "registry.yaml"
    registry.write_text(
        "runs:\n  pair:\n"
        f"    task: {{name: knowledge_conflict, data: {small_facts}}}\n"
        "    selector: [entropy, {name: neurons, neurons: [3.5, 3.10]}]\n"
        "    intervention: zero\n    controls: 5\n"
    )
    code, out, err = harness("run", "pair", "--registry", registry, "-o", tmp_path / "out", "-q", "--json")
    assert code == 0, err
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert [name.rsplit("-", 1)[0] for name in runs] == ["pair.entropy", "pair.neurons-neurons=-3.5-3.10"]
    assert '"3.10"' in out


def test_a_dry_run_writes_nothing(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    code, out, _ = harness(*arguments(small_facts, tmp_path / "out", "--dry_run"))
    assert code == 0
    assert json.loads(out)["selector"]["params"]["top"] == 6
    assert not (tmp_path / "out").exists()


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "knowlege_conflict"}, 'no task is called "knowlege_conflict". Did you mean "knowledge_conflict"?'),
        ({"selector": "entropi"}, 'no selector is called "entropi". Did you mean "entropy"?'),
        ({"selector": "mean"}, 'no selector is called "mean". (mean is an intervention.)'),
        ({"intervention": "meen"}, 'no intervention is called "meen". Did you mean "mean"?'),
        ({"model": "dmo"}, '"dmo" is no loader, no model of the registry and no folder. Did you mean "demo"?'),
        ({"metric": "conversion"}, 'no metric is called "conversion"'),
        ({"selector": "entropy:topp=3"}, 'entropy has no parameter "topp". Did you mean "top"?'),
        ({"selector": "entropy:top=0"}, 'parameter "top" of entropy: input should be greater than or equal to 1'),
        ({"selector": "entropy:min_rho=2"}, 'parameter "min_rho" of entropy'),
        ({"selector": "entropy:top=100000"}, "top=100000 neurons were asked for, but only"),
        ({"selector": "entropy:rule=tighidet2025,min_rho=0.9,top=30"}, "neurons pass the rule tighidet2025"),
        ({"selector": "entropy:layer=9"}, "layer 9 does not exist"),
        ({"selector": "entropy:null_dims=4000"}, "null_dims=4000 must be below d_model"),
        ({"selector": "neurons:neurons=[99.1]"}, "names neuron 99.1, but the model has layers 0 to"),
        ({"selector": "neurons:neurons=[3.1,3.1]"}, "names neuron 3.1 twice"),
        ({"selector": "neurons:neurons=[]"}, 'parameter "neurons" of neurons'),
        ({"controls": "-1"}, 'parameter "controls" of harness eval'),
        ({"limit": "0"}, 'parameter "limit" of harness eval'),
        ({"batch_size": "0"}, 'parameter "batch_size" of harness eval'),
        ({"name": "a/b"}, 'parameter "name" of harness eval'),
        ({"name": "../x"}, "got '../x'."),
        ({"task": f"knowledge_conflict:data={ROOT}/tests"}, "tests: this is a folder, not a file."),
        ({"model": "./no/such/folder"}, "no/such/folder"),
        ({"model": "hf", "model_args": "pretrained"}, '"pretrained" is not key=value'),
        ({"model": "hf"}, "hf: expected pretrained, a folder, file or hub id, or package"),
        ({"model": "hf:pretrained=x,dtype=float31"}, 'parameter "dtype" of hf'),
        ({"device": "cuda:77"}, "cuda"),
        ({"registry": "/no/registry.yaml"}, "/no/registry.yaml"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    changes: dict[str, str], says: str, small_facts: Path, tmp_path: Path, harness: Harness
) -> None:
    code, out, err = harness(*arguments(small_facts, tmp_path / "out", **changes))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert says in err
    assert not [path for path in (tmp_path / "out").rglob("*") if not path.name.endswith(".lock")]


def damaged(folder: Path, kind: str) -> None:
    """Damage a copy of the bundled model."""
    weights = folder / "model.safetensors"
    if kind == "no config":
        (folder / "config.json").unlink()
    elif kind == "config is no JSON":
        (folder / "config.json").write_text("{")
    elif kind == "no weights":
        weights.unlink()
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "no tokeniser":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    else:
        tensors = load_file(weights)
        name = next(name for name in tensors if "embed_out" in name or "lm_head" in name)
        if kind == "NaN in weights":
            tensors[name][3, 5] = float("nan")
        elif kind == "infinite logits":
            tensors[name] *= 1e38
        elif kind == "a tensor is missing":
            del tensors[name]
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("no config", "has no config.json"),
        ("config is no JSON", "config.json is damaged"),
        ("no weights", "has no weights: expected model.safetensors"),
        ("truncated", "model.safetensors is damaged or truncated"),
        ("no tokeniser", "tokeniser"),
        ("NaN in weights", "holds 1 value that is NaN or infinite"),
        ("infinite logits", "not finite"),
        ("a tensor is missing", "1 tensor of the architecture is missing"),
    ],
)
def test_damaged_models_are_refused(kind: str, says: str, small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    from importlib.resources import files as resources

    shutil.copytree(str(resources("harness_plugins.demo") / "weights"), tmp_path / "model")
    damaged(tmp_path / "model", kind)
    code, out, err = harness(*arguments(small_facts, tmp_path / "out", model=str(tmp_path / "model")))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert says in err
    assert not [path for path in (tmp_path / "out").rglob("*") if not path.name.endswith(".lock")]


def test_a_task_left_without_prompts_says_which_filter_took_them(tmp_path: Path, harness: Harness) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"relation": "capital", "subject": "France", "object": "Paris"}\n')
    code, _, err = harness(*arguments(facts, tmp_path / "out"))
    assert code == 2
    assert "no prompt is left after the filters" in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "there are no facts in it"),
        ('{"relation": "capital", "subject": "France"}\n', 'line 1: expected text in the column "object"'),
        ('{"relation": "capital", "subject": "France", "object": "Paris"}\n' * 2, "line 2: the question"),
    ],
)
def test_bad_facts_name_the_line(content: str, says: str, tmp_path: Path, harness: Harness) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text(content)
    code, _, err = harness(*arguments(facts, tmp_path / "out"))
    assert code == 2
    assert says in err and str(facts) in err


def test_reports_that_cannot_be_written_are_refused_before_any_work(
    small_facts: Path, tmp_path: Path, harness: Harness
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = harness(*arguments(small_facts, tmp_path / "file" / "reports"))
    assert code == 2
    assert "cannot write" in err


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc").is_dir(), reason="needs a place where nobody may write")
def test_a_folder_without_permission(small_facts: Path, harness: Harness) -> None:
    code, _, err = harness(*arguments(small_facts, Path("/proc/harness-reports")))
    assert code == 2
    assert "cannot write /proc/harness-reports" in err


def test_a_full_disk_ends_with_a_sentence_and_nothing_half_written(
    small_facts: Path, tmp_path: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = harness(*arguments(small_facts, tmp_path / "out"))
    assert code == 2
    assert "No space left on device" in err and "--output_path" in err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and ".lock" not in path.name]


def test_debug_shows_the_traceback(small_facts: Path, tmp_path: Path, harness: Harness) -> None:
    from harness.errors import HarnessError

    with pytest.raises(HarnessError):
        harness(*arguments(small_facts, tmp_path, "--debug", selector="entropi"))


def test_list_of_something_unknown(harness: Harness) -> None:
    code, _, err = harness("list", "entropie")
    assert code == 2
    assert 'Did you mean "entropy"?' in err


def test_report_of_a_folder_without_a_run(tmp_path: Path, harness: Harness) -> None:
    code, _, err = harness("report", tmp_path)
    assert code == 2
    assert "there is no finished run here" in err


def test_run_needs_names_or_all(harness: Harness) -> None:
    assert "name one or more runs, or pass --all" in harness("run")[2]
    assert 'Did you mean "copying"?' in harness("run", "copyin")[2]
