"""The wheel: what is in it, and that an installation without the checkout does the same to the byte."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import blank
import pytest
from checkout import ROOT
from commands import Harness

pytestmark = pytest.mark.slow

INSTALLED_AS = {"harness": "harness", "plugins": "harness_plugins", "tasks": "harness_tasks"}
JOB = ["eval", "--task", "knowledge_conflict", "--selector", "entropy:rule=tighidet2025", "--intervention", "mean"]
JOB += ["--limit", "20", "--controls", "5", "--resamples", "100", "--quiet"]
JOB += ["--engine", "hooks"]  # a new folder has no compiled loops yet, and compiling them takes longer than all else


def tree() -> list[str]:
    """Files of the checkout that git tracks or would track; what it ignores is not there on another machine."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def run(command: list[object], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env={**given, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the tree: nothing that lies around in the checkout can get into it."""
    copy = tmp_path_factory.mktemp("copy")
    for name in tree():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist"], copy)
    [built] = (copy / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and this one's packages after it; its ``.pth`` files (our checkout) do not act."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder)
    python = folder / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "--python", python, "install", *options, wheel], folder)
    [site] = folder.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "others.pth").write_text("".join(f"{path}\n" for path in packages))
    return folder


def test_the_wheel_holds_every_module_and_every_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{INSTALLED_AS[head]}/{rest}"
        for head, _, rest in (name.partition("/") for name in tree())
        if head in INSTALLED_AS
    }
    assert expected - names == set()
    assert {
        "harness/py.typed",
        "harness/registry.yaml",
        "harness_tasks/knowledge_conflict/facts.jsonl",
        "harness_tasks/knowledge_conflict/knowledge_conflict.yaml",
        "harness_tasks/knowledge_conflict/definition.yml",
        "harness_plugins/demo/weights/model.safetensors",
        "harness_plugins/demo/weights/tokenizer.json",
    } <= names
    extra = {name for name in names - expected if ".dist-info/" not in name}
    assert extra == set()  # no tests, no benchmarks, no reports
    assert wheel.stat().st_size < 12e6


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    assert archive.read(f"{info}/licenses/LICENSE").decode() == (ROOT / "LICENSE").read_text()
    metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert (metadata["Name"], metadata["License-Expression"]) == ("neuron-harness", "MIT")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    entry_points = archive.read(f"{info}/entry_points.txt").decode()
    for line in ("harness = harness.cli.main:main", "[harness]", "context_copying = harness_plugins.context_copying"):
        assert line in entry_points
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.usefixtures("blank_figures")
def test_an_installation_does_what_the_checkout_does(environment: Path, tmp_path: Path, harness: Harness) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = "import harness, harness_plugins, harness_tasks, json; "
    asked += "print(json.dumps([m.__file__ for m in (harness, harness_plugins, harness_tasks)]))"
    found = json.loads(run([environment / "bin" / "python", "-c", asked], empty).stdout)
    assert all(Path(path).is_relative_to(environment) for path in found), found

    script = environment / "bin" / "harness"
    listed = run([script, "list"], empty, COLUMNS="200")
    assert listed.stderr == ""
    for name in ("demo", "hf", "entropy", "mean", "knowledge_conflict", "conversion_ratios"):
        assert name in listed.stdout
    assert "copying" in run([script, "list", "runs"], empty).stdout

    run([environment / "bin" / "python", "-c", blank.HARNESS, *JOB, "--output_path", tmp_path / "installed"], empty)
    assert not any(empty.iterdir())
    assert harness(*JOB, "--output_path", tmp_path / "checkout")[0] == 0
    [installed] = (tmp_path / "installed").glob("*/result.json")
    [checkout] = (tmp_path / "checkout").glob("*/result.json")
    assert installed.parent.name == checkout.parent.name
    for name in ("result.json", "samples.jsonl", "neurons.jsonl", "outcomes.safetensors"):
        assert (installed.parent / name).read_bytes() == (checkout.parent / name).read_bytes(), name
    assert json.loads(installed.read_text())["task"]["n_prompts"] > 0
