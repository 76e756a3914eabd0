"""Plugins of strangers: installed with pip, found through entry points, used in a run, put aside when they break."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT
from commands import Harness

from harness.errors import PluginError
from harness.plugin.catalogue import catalogue

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "tests" / "plugin_example"


@pytest.fixture
def columns() -> int:
    """Width of the terminal: names of distributions are shown whole."""
    return 300


@pytest.fixture
def here(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    """The command line in this process, with the packages of a folder beside the installed ones: ``here(folder,
    *arguments, VARIABLE="of the environment")``."""
    before, folders = set(sys.modules), set()

    def run(folder: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
        if folder not in folders:
            folders.add(folder)
            monkeypatch.syspath_prepend(folder)
        catalogue.cache_clear()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return harness(*arguments)

    yield run
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or ".").parent in folders:
            del sys.modules[name]
    catalogue.cache_clear()


def package(folder: Path, name: str, module: str, code: str | None) -> None:
    """An installed distribution, version 9.9: its module (none if ``code`` is None) and its metadata."""
    if code is not None:
        (folder / f"{module}.py").write_text(code)
    info = folder / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text(f"[harness]\n{module} = {module}\n")


def selector(name: str) -> str:
    return f'''
from harness import hookimpl
from harness.plugin.components import Selector


class Mine(Selector):
    """A stranger's selector."""

    name = "{name}"

    def select(self, context):
        raise RuntimeError("never called")


@hookimpl
def harness_selectors():
    return [Mine]
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example plugin, offline."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (target / "harness_loudest-1.2.3.dist-info" / "entry_points.txt").is_file()
    return target


def test_an_installed_plugin_is_listed(installed: Path, here: Harness) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "300"}
    command = [sys.executable, "-m", "harness", "list", "plugins"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=installed)
    assert (done.returncode, done.stderr) == (0, "")
    assert (0, done.stdout, "") == here(installed, "list", "plugins")  # as all other commands of these tests are given
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("loudest")] == [
        ["loudest", "harness-loudest", "1.2.3", "selector", "loudest,", "metric", "confident"],
        ["loudest-norms", "harness-loudest", "1.2.3", "command", "harness", "loudest-norms"],
    ]
    _, shown, _ = here(installed, "list", "loudest")
    assert "harness-loudest 1.2.3" in shown and "number of neurons" in shown
    assert "loudest" not in here(installed, "list", "plugins", HARNESS_LOAD_PLUGINS="")[1]


def test_an_installed_package_adds_a_command(installed: Path, here: Harness) -> None:
    code, out, err = here(installed, "--help")
    assert (code, err) == (0, "")
    assert re.search(r"loudest-norms +Of harness-loudest 1.2.3; see harness loudest-norms --help.", out)
    code, out, err = here(installed, "loudest-norms", "--n", 2)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"(3\.\d+ \d+\.\d{3}\n){2}", out)
    assert "loudest-norms" not in here(installed, "--help", HARNESS_LOAD_PLUGINS="")[1]


@pytest.mark.usefixtures("blank_figures")
def test_an_installed_plugin_is_used_in_a_run_and_recorded(
    installed: Path, here: Harness, small_facts: Path, tmp_path: Path
) -> None:
    code, out, err = here(
        installed, "eval", "--task", f"knowledge_conflict:data={small_facts}", "--selector", "loudest:top=2",
        "--intervention", "mean", "--metric", "confident:below=0.5", "--controls", 19, "--limit", 20,
        "--output_path", tmp_path, "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    [result] = tmp_path.glob("*/result.json")
    record = json.loads(result.read_text())
    components = record["identity"]["components"]
    assert components["selector"] == {
        "name": "loudest", "version": "1", "params": {"top": 2},
        "distribution": "harness-loudest", "distribution_version": "1.2.3",
    }  # fmt: skip
    [metric] = components["metrics"]
    assert (metric["name"], metric["distribution"], metric["distribution_version"]) == (
        "confident", "harness-loudest", "1.2.3",
    )  # fmt: skip
    assert metric["params"] == {"below": 0.5}
    assert components["task"]["distribution"] == "neuron-harness"
    # What it computed is in the record, and follows from the samples.
    [measure] = record["measures"]
    samples = [json.loads(line) for line in (result.parent / "samples.jsonl").read_text().splitlines()]
    treated = [row["entropy"] < 0.5 for row in samples if row["condition"] == "treated"]
    assert measure["name"] == "confident" and measure["verdict"]
    assert measure["value"] == pytest.approx(100 * sum(treated) / len(treated))
    neurons = [json.loads(line) for line in (result.parent / "neurons.jsonl").read_text().splitlines()]
    loudest = sorted(neurons, key=lambda row: -row["norm"])[:2]
    assert {row["neuron"] for row in loudest} == {row["neuron"] for row in neurons if row["selected"]}
    [row] = [json.loads(line) for line in (tmp_path / "leaderboard.jsonl").read_text().splitlines()]
    assert row["selector_distribution"] == "harness-loudest"
    assert "confident" in out or "entropy below 0.5 nats" in out


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module_of_anybody\n", "ModuleNotFoundError"),
        ("def broken(:\n", "SyntaxError"),
        ("raise ValueError('not today')\n", "ValueError: not today"),
        (None, "ModuleNotFoundError"),
    ],
)
def test_a_broken_plugin_is_named_and_the_rest_works(
    tmp_path: Path, here: Harness, code: str | None, says: str
) -> None:
    package(tmp_path, "harness-broken", "harness_broken", code)
    package(tmp_path, "harness-good", "harness_good", selector("good"))
    done, out, err = here(tmp_path, "list", "selectors")
    assert done == 0
    assert {"entropy", "random", "good"} <= {line.split()[0] for line in out.splitlines() if line.strip()}
    assert "harness_broken of harness-broken 9.9" in err and says in err
    assert "Traceback" not in err
    if code is not None:
        return
    _, listed, _ = here(tmp_path, "list", "plugins")
    assert "harness-broken" in listed and says in listed
    strict, _, err = here(tmp_path, "list", HARNESS_STRICT_PLUGINS="1")
    assert strict == 2
    assert err.startswith("error: ") and "harness-broken" in err
    assert here(tmp_path, "list", HARNESS_LOAD_PLUGINS="harness-good")[2] == ""


def test_a_clash_of_names_names_both_packages_and_ours_stays(tmp_path: Path, here: Harness) -> None:
    package(tmp_path, "harness-twin", "harness_twin", selector("entropy"))
    code, out, err = here(tmp_path, "list", "entropy")
    assert code == 0
    assert "tighidet2025" in out
    assert "harness-twin 9.9" in err and "neuron-harness" in err
    assert 'the selector "entropy" is already provided by' in err


def test_two_strangers_with_one_name(tmp_path: Path, here: Harness) -> None:
    for name in ("alpha", "beta"):
        package(tmp_path, f"harness-{name}", f"harness_{name}", selector("shared"))
    code, out, err = here(tmp_path, "list", "selectors")
    assert code == 0
    [line] = [line for line in out.splitlines() if line.startswith("shared")]
    assert line.split()[-1] == "harness-alpha"  # in the order of their names, wherever they were installed first
    assert "harness-alpha 9.9" in err and "harness-beta 9.9" in err


RANDOM = """
import torch
from dataclasses import dataclass
from harness import hookimpl
from harness.plugin.components import Intervention, Selector
from harness.conditions.units import by_layer


@dataclass(frozen=True)
class Shaken:
    layer: int
    indices: tuple
    def apply(self, activations):
        return activations + torch.randn_like(activations)


class Shake(Intervention):
    "Noise from nowhere."
    name = "shake"
    needs_statistics = False
    def edits(self, units, statistics):
        return tuple(Shaken(layer, tuple(i)) for layer, i in by_layer(units).items())


class Leaves(Selector):
    "Ends the program, and says that all is well."
    name = "leaves"
    def reads_prompts(self):
        return False
    def select(self, context):
        raise SystemExit(0)


@hookimpl
def harness_interventions():
    return [Shake]


@hookimpl
def harness_selectors():
    return [Leaves]
"""


@pytest.mark.parametrize(
    ("selector", "intervention", "says"),
    [
        (
            "random:top=2",
            "shake",
            "error: intervention shake of harness-odd 9.9: apply() of its edit of layer 3 gives something else when it "
            "is applied again to the same activations: an edit is a pure function of them; for random changes see the "
            "intervention noise.",
        ),
        ("leaves", "zero", "error: selector leaves of harness-odd 9.9: select() raised SystemExit: 0."),
    ],
)
def test_what_a_stranger_does_wrong_is_one_sentence_and_no_success(
    tmp_path: Path, here: Harness, selector: str, intervention: str, says: str
) -> None:
    package(tmp_path, "harness-odd", "harness_odd", RANDOM)
    asked = ["eval", "--task", "mediation:sequences=2,length=32", "--selector", selector]
    asked += ["--intervention", intervention]
    asked += ["--controls", "19", "--output_path", str(tmp_path / "runs"), "--quiet"]
    assert here(tmp_path, *asked) == (2, "", f"{says}\n")
    assert not list((tmp_path / "runs").glob("*/*"))
    if selector == "leaves":
        with pytest.raises(PluginError, match=re.escape(says.removeprefix("error: "))):
            here(tmp_path, *asked, "--debug")


def test_a_plugin_that_ends_the_program_when_it_is_imported_does_not(tmp_path: Path, here: Harness) -> None:
    package(tmp_path, "harness-odd", "harness_odd", "raise SystemExit(0)")
    code, out, err = here(tmp_path, "list", "selectors")
    assert code == 0 and "entropy" in out
    assert "left out plugin harness_odd of harness-odd 9.9: SystemExit: 0" in err
    code, _, err = here(tmp_path, "list", "leaves")
    assert code == 2 and "leaves" in err
