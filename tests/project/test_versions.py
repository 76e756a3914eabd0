"""The bounds of pyproject.toml and the versions that the tests are run with say the same."""

from __future__ import annotations

import tomllib

import pytest
import yaml
from checkout import ROOT
from jinja2 import Environment
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import harness

CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "huggingface-hub": "huggingface_hub"}
"""What conda-forge calls some packages."""


def bounds(*extras: str) -> dict[str, Version]:
    """Lower bound of what the package and these extras of it need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.name != project["name"]:
            [bound] = requirement.specifier
            assert bound.operator == ">=", requirement
            found[canonicalize_name(requirement.name)] = Version(bound.version)
    return found


def pins(name: str, python: str) -> dict[str, Version]:
    """Versions of a file of constraints under a version of Python."""
    found = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({**default_environment(), "python_version": python}):
                [version] = pin.specifier
                assert version.operator == "==", line
                found[canonicalize_name(pin.name)] = Version(version.version)
    return found


def test_the_oldest_versions_are_the_bounds() -> None:
    oldest, wanted = pins("constraints-min.txt", "3.11"), bounds("docs", "ray", "test")
    assert {name: oldest.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("python", ["3.11", "3.13"])
@pytest.mark.parametrize("name", ["constraints.txt", "constraints-latest.txt"])
def test_all_other_versions_are_within_the_bounds(name: str, python: str) -> None:
    found, wanted = pins(name, python), bounds("docs", "ray", "test")
    assert {name for name in wanted if name not in found} == set()
    assert {name for name, bound in wanted.items() if found[name] < bound} == set()


def test_the_conda_recipe_says_what_the_project_says() -> None:
    """Rendered as rattler-build does it: the values of its context stand in ``${{ }}``."""
    text = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    context = yaml.safe_load(text)["context"]
    rendering = Environment(variable_start_string="${{", variable_end_string="}}")
    recipe = yaml.safe_load(rendering.from_string(text).render(**context, PYTHON="python"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert recipe["package"] == {"name": project["name"], "version": harness.__version__}
    needs = [Requirement(line) for line in project["dependencies"]]
    python, *run = recipe["requirements"]["run"]
    assert python == f"python {project['requires-python']}"
    assert run == [f"{CONDA.get(x.name, x.name)} {x.specifier}" for x in needs]
    host = recipe["requirements"]["host"]
    assert host[0] == f"python {project['requires-python'].removeprefix('>=')}.*"
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert [x.replace(" ", "") for x in host[2:]] == build
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts
