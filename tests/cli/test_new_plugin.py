"""``harness new-plugin``: packages of every kind are written, install, pass their own test, and are used in a run."""

from __future__ import annotations

import copy
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from harness.cli import new_plugin as scaffold
from harness.errors import HarnessError
from harness.plugin import catalogue as plugins
from harness.plugin.base import KINDS, Kind
from harness.plugin.catalogue import Catalogue, Origin, catalogue

Harness = Callable[..., tuple[int, str, str]]


@pytest.fixture
def package(
    request: pytest.FixtureRequest, harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Kind, Path, ModuleType]]:
    """A package of the kind that the test names, importable but not installed: (kind, folder, module)."""
    kind = request.param
    assert harness("new-plugin", f"harness-tried-{kind}", "--kind", kind, "--path", tmp_path)[0] == 0
    folder = tmp_path / f"harness-tried-{kind}"
    monkeypatch.syspath_prepend(folder)
    names = (f"harness_tried_{kind}", f"test_harness_tried_{kind}")
    yield kind, folder, importlib.import_module(names[0])
    for name in names:
        sys.modules.pop(name, None)


every_kind = pytest.mark.parametrize("package", KINDS, indirect=True)


@every_kind
def test_the_package_passes_its_own_test(package: tuple[Kind, Path, ModuleType]) -> None:
    _, _, module = package
    tests = importlib.import_module(f"test_{module.__name__}")
    functions = [value for name, value in vars(tests).items() if name.startswith("test_")]
    assert functions
    for function in functions:
        function()


@every_kind
def test_the_package_can_be_listed_and_used(
    package: tuple[Kind, Path, ModuleType], harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind, folder, module = package
    found = copy.deepcopy(catalogue())
    found.add(module, Origin(module.__name__, folder.name, "0.1.0"))
    monkeypatch.setattr(plugins, "catalogue", lambda: found)
    component = f"tried_{kind}"
    code, out, err = harness("list", component)
    assert (code, err) == (0, "") and f"harness-tried-{kind} 0.1.0" in out
    summary = found.components[kind][component].summary()
    assert summary.split()[0] in out
    # The command that the package's README shows is valid, and runs.
    [line] = [x for x in (folder / "README.md").read_text().splitlines() if x.startswith("harness eval")]
    arguments = [*shlex.split(line)[1:], "--controls", "19", "--resamples", "100", "--quiet", "-o", tmp_path / "out"]
    with monkeypatch.context() as undrawn:  # figures and pages take long, and are tested elsewhere
        undrawn.setattr("harness.running.execute.write_shown", lambda *arguments: None)
        undrawn.setattr("harness.report.page.write_page", lambda *arguments: None)
        code, out, err = harness(*arguments)
    assert (code, err) == (0, "")
    [result] = (tmp_path / "out").glob("*/result.json")
    record = json.loads(result.read_text())
    told = json.dumps(record["identity"]["components"])
    if kind == "reporter":
        assert (result.parent / f"{component}.txt").is_file()
    elif kind != "executor":  # where a run is made is no part of what it is
        assert f'"{component}"' in told
    assert record["measures"] and record["task"]["n_prompts"] > 0


@every_kind
def test_what_is_written(package: tuple[Kind, Path, ModuleType]) -> None:
    kind, folder, module = package
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        "pyproject.toml", "README.md", f"{module.__name__}.py", f"test_{module.__name__}.py",
    }  # fmt: skip
    about = tomllib.loads((folder / "pyproject.toml").read_text())
    assert about["project"]["name"] == f"harness-tried-{kind}"
    assert about["project"]["entry-points"]["harness"] == {f"tried_{kind}": module.__name__}
    assert "$" not in "".join(path.read_text() for path in folder.iterdir() if path.is_file())
    for command in (["check", "--select", "E,F,I,UP,B,SIM"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "--line-length", "120", "."],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_it_says_what_to_do_next(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "that is new"
    code, out, err = harness("new-plugin", "loudest-neurons", "--path", path)
    assert (code, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == (
        f"wrote {path / 'loudest-neurons'}: a package with the selector loudest_neurons, in loudest_neurons.py. Next:"
    )
    assert lines[2:] == [
        f"cd '{path / 'loudest-neurons'}'",
        'pip install -e ".[test]"',
        "harness list loudest_neurons",
        "harness eval --task knowledge_conflict --selector loudest_neurons --intervention mean --limit 80",
        "pytest",
    ]


def test_the_same_command_writes_the_same_bytes(harness: Harness, tmp_path: Path) -> None:
    def written(folder: Path) -> dict[str, bytes]:
        assert harness("new-plugin", "mine", "-k", "task", "--path", folder)[0] == 0
        return {path.name: path.read_bytes() for path in (folder / "mine").iterdir()}

    assert written(tmp_path / "a") == written(tmp_path / "b")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-mine"], "there is no option"),
        (["mine!"], 'NAME: "mine!" is no name for a package: expected letters, digits'),
        (["mine-"], 'NAME: "mine-" is no name for a package'),
        (["../mine"], 'NAME: "../mine" is no name for a package'),
        (["1st"], 'NAME: "1st" is no name for a package'),
        (["lambda"], 'NAME: "lambda" would make a module that Python cannot have; choose for example my-lambda.'),
        (["json"], "choose for example my-json"),
        (["numpy"], 'NAME: a package "numpy" is installed already'),
        (["neuron_harness"], 'NAME: a package "neuron_harness" is installed already'),
        (["harness"], "NAME: there is a module harness already"),
        (["entropy"], 'NAME: the selector "entropy" is already provided by neuron-harness 0.1.0'),
        (["harness-Entropy", "-k", "metric"], 'NAME: the selector "entropy" is already provided by neuron-harness'),
        (["mine", "--kind", "selektor"], '--kind: expected one of model, corpus, selector, intervention, task, metric, '
         'reporter, executor, got "selektor". Did you mean "selector"?'),
    ],
)  # fmt: skip
def test_refusals(arguments: list[str], says: str, harness: Harness, tmp_path: Path) -> None:
    code, out, err = harness("new-plugin", *arguments, "--path", tmp_path)
    assert (code, out) == (2, "")
    assert says in err
    assert not any(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, _, err = harness("new-plugin", "mine", "--path", tmp_path)
    assert code == 2 and not any((tmp_path / "mine").iterdir())
    assert err == f"error: {tmp_path / 'mine'} exists already; choose another NAME or --path, or remove it.\n"


def test_a_folder_that_cannot_be_made(harness: Harness, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = harness("new-plugin", "mine", "--path", tmp_path / "file")
    assert code == 2 and err.startswith(f"error: cannot write {tmp_path / 'file' / 'mine'}: ")


def test_the_metric_of_a_task_must_be_free_too() -> None:
    taken = Catalogue()

    class Loss:
        """Stands in for a metric."""

    taken.components["metric"]["mine_loss"] = Loss  # type: ignore[assignment]
    taken.origins[Loss] = Origin("x", "another", "1.0")  # type: ignore[index]
    scaffold.check_free(scaffold.names_of("mine", "selector"), taken)
    with pytest.raises(HarnessError, match=r'the metric "mine_loss" is already provided by another 1\.0'):
        scaffold.check_free(scaffold.names_of("mine", "task"), taken)


@pytest.mark.parametrize("kind", KINDS)
def test_no_class_hides_its_base(kind: Kind) -> None:
    """A component that is called like its kind is no class that the module imports."""
    for name in (kind, f"{kind}-loader", "component"):
        assert scaffold.names_of(name, kind).class_ not in (
            "Selector",
            "Intervention",
            "Task",
            "Metric",
            "Corpus",
            "Model",
        )
        assert scaffold.names_of(name, kind).class_ != "ModelLoader"


SEVERAL = """
import json, sys
from harness.cli.app import main
from harness.report import figure_files as figures
figures.render = lambda figure: (b"", b"<svg/>")  # drawing takes long
commands, tests = json.loads(sys.argv[1])
for command in commands:
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
if tests:
    import pytest
    raise SystemExit(pytest.main(["-q", "-p", "no:cacheprovider", *tests]))
"""


@pytest.mark.slow
def test_packages_of_all_kinds_install_pass_their_tests_and_run(harness: Harness, tmp_path: Path) -> None:
    site = tmp_path / "site"
    environment = {**os.environ, "COLUMNS": "300"}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])

    def python(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def several(*commands: list[object], tests: Sequence[Path] = ()) -> str:
        """What the commands print, and pytest, one after another in one process: importing PyTorch takes seconds."""
        given = json.dumps([[list(map(str, command)) for command in commands], list(map(str, tests))])
        return python("-c", SEVERAL, given)

    for kind in KINDS:
        assert harness("new-plugin", f"tried-{kind}", "--kind", kind, "--path", tmp_path)[0] == 0
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    python("-m", "pip", "install", *options, "--target", site, *[tmp_path / f"tried-{kind}" for kind in KINDS])
    examples = {kind: shlex.split(scaffold.names_of(f"tried-{kind}", kind).example)[1:] for kind in KINDS}
    more = ["--controls", 5, "--limit", 20, "--quiet", "-o"]
    told = several(
        ["list", "plugins"],
        *[["list", f"tried_{kind}"] for kind in KINDS],
        [*examples["selector"], *more, tmp_path / "out"],  # of the other kinds tests above have made runs
        tests=[tmp_path / "tried-selector" / "test_tried_selector.py"],  # so with their tests
    )
    for kind in KINDS:
        assert f"tried_{kind}" in told and f"tried-{kind} 0.1.0" in told
    [result] = (tmp_path / "out").glob("*/result.json")
    assert '"distribution": "tried-selector"' in result.read_text()
    assert re.search(r"^[1-9]\d* passed", told, re.M)
