"""The command line, from the outside: what it lists, and what it says of mistakes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from checkout import ROOT
from commands import Harness, arguments
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


def test_what_a_person_names_in_the_place_of_a_run_or_a_folder(tmp_path: Path, harness: Harness) -> None:
    """The folder that runs lie in, and a file where a folder should be."""
    (tmp_path / "reports" / "a-1").mkdir(parents=True)
    (tmp_path / "reports" / "a-1" / "result.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    runs, file = tmp_path / "reports", tmp_path / "file"
    for command in (["report", runs], ["push", runs, "--to", "me/x", "--dry_run"], ["compare", runs, runs / "a-1"]):
        code, _, err = harness(*command)
        assert code == 2 and f"{runs}: runs lie in this folder; name one of them, such as {runs}/a-1." in err, command
    for place in (file, file / "below"):
        for kind in ("markdown", "latex"):
            code, _, err = harness("run", "copying", "-o", tmp_path / "out", "--report", f"{kind}:{place}")
            assert code == 2 and f"{file}: this is a file; expected a folder, which may be a new one." in err
        code, _, err = harness("view", runs, "--bundle", place)
        assert code == 2 and f"{file}: this is a file; expected a folder, which may be a new one." in err
    assert f"{file}: this is a file; expected a folder of results" in harness("view", file)[2]
    assert file.read_text() == "mine" and not list((tmp_path).glob("out/copying*"))


def test_lists_for_a_terminal_hold_no_markup_and_each_name_once(harness: Harness) -> None:
    assert "``" not in harness("list")[1]
    said = harness("list", "circuitt")[2].partition("There are: ")[2].partition(";")[0].split(", ")
    assert "circuit" in said and len(said) == len(set(said))


def test_run_needs_names_or_all(harness: Harness) -> None:
    assert "name one or more runs, or pass --all" in harness("run")[2]
    assert 'Did you mean "copying"?' in harness("run", "copyin")[2]
    assert "--all: it is in place of names; leave it or copying out." in harness("run", "copying", "--all")[2]
