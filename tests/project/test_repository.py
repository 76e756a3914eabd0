"""What the repository says of itself is so: paths and modules that are named exist, what is imported is declared, each
room's docstring names its modules, and every way to check a change checks the same."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from checkout import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import harness

SOURCES = {"harness": "harness", "plugins": "harness_plugins", "tasks": "harness_tasks"}
HISTORY = "CHANGELOG.md"
"""It names what was there once."""


def tracked(*endings: str) -> list[str]:
    """Files of the repository that are written by hand."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [x for x in names if x.endswith(endings) and not x.startswith("reports/reference/") and x != HISTORY]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, object]:
    return tomllib.loads(text("pyproject.toml"))["project"]


# -- what is named exists ----------------------------------------------------------------------------------------------


PATH = re.compile(r"(?<![\w/.~-])((?:harness|plugins|tasks|tests|docs|benchmarks|\.ci|\.github)/[\w./-]*\w)")
IN_INSPECT = re.compile(r"harness/(demo|demo-model|NAME|gpt2|openai-community/gpt2|smollm2\S*)")
"""Models, as inspect_ai calls them: no paths."""

LINK = re.compile(r"\]\(([^)#:\s]+)[^):]*\)")


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md"])
def test_the_front_pages_name_paths(name: str) -> None:
    assert PATH.findall(text(name))


def test_paths_in_prose_exist() -> None:
    missing = [
        f"{name}: {path}"
        for name in tracked(".md", ".py", ".txt", ".toml", ".yaml", ".yml", ".cff", "Makefile")
        for path in PATH.findall(text(name))
        if not ((ROOT / path).exists() or IN_INSPECT.fullmatch(path))
    ]
    assert not missing


def test_links_between_documents_lead_somewhere() -> None:
    """Those of the site's pages to pages that are generated aside, which the site itself checks."""
    for name in tracked(".md"):
        for link in LINK.findall(text(name)):
            generated = name.startswith("docs/") and not (ROOT / name).parent.joinpath(link).exists()
            assert generated or (ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}"


def test_names_in_docstrings_exist() -> None:
    """Modules and what is in them, where a role of reStructuredText says that they are."""
    for name in tracked(".py"):
        for role in re.findall(r":(?:mod|class|func|meth|data|attr):`~?(harness[\w.]*)`", text(name)):
            resolved(role, name)


def test_modules_in_prose_exist() -> None:
    groups = set(project()["entry-points"])  # type: ignore[call-overload]  # they are written as modules are
    for name in tracked(".md"):
        for dotted in re.findall(r"\bharness(?:_plugins|_tasks)?(?:\.[A-Za-z_]\w*)+", text(name)):
            if dotted not in groups and dotted.rpartition(".")[2] not in ("py", "yaml"):
                resolved(dotted, name)


def resolved(dotted: str, where: str) -> object:
    """The module, or what is in one, of a dotted name."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            fields = getattr(found, "__annotations__", {})  # of a dataclass: no attribute of the class itself
            assert hasattr(found, attribute) or attribute in fields, f"{where}: there is no {dotted}"
            found = getattr(found, attribute, None)
        return found
    raise AssertionError(f"{where}: there is no {dotted}")


def test_no_reference_needs_a_paper_that_is_not_here() -> None:
    """Definitions are cited by author, year, section or equation."""
    assert [name for name in tracked("") if re.search(rb"\bPAPER[S]\b", (ROOT / name).read_bytes())] == []


# -- rooms -------------------------------------------------------------------------------------------------------------


WORDS = {
    "compare", "eval", "generate", "inspect", "leaderboard", "list", "report", "run", "schema", "score", "transformers",
    "unigrams",
}  # fmt: skip
"""What rooms' docstrings set as code, beside their modules."""

ROOMS = sorted(path.parent for path in (ROOT / "harness").glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_docstring_names_its_modules(room: Path) -> None:
    about = ast.get_docstring(ast.parse(text(str(room.relative_to(ROOT) / "__init__.py")))) or ""
    modules = {path.stem for path in room.glob("*.py")} - {"__init__"}
    named = set(re.findall(r"``([a-z_]+)``", about))
    assert modules - named == set()
    assert named - modules - WORDS == set()


def layers() -> list[str]:
    """Rooms from the top down, as the contract has them."""
    [contract] = [
        x for x in tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"] if x["name"] == "rooms"
    ]
    return [room.removeprefix("harness.") for layer in contract["layers"] for room in re.split(r" [|:] ", layer)]


def test_every_room_has_its_place_in_the_contract() -> None:
    assert {room.name for room in ROOMS} <= set(layers())


def test_contributing_has_the_map() -> None:
    """Every room has a row, in the order in which they import, from the floor up."""
    table = text("CONTRIBUTING.md").partition("| room |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)/` \|", table, re.M)
    assert sorted(rows) == sorted({room.name for room in ROOMS})
    order = layers()[::-1]
    assert rows == sorted(rows, key=order.index)


# -- dependencies ------------------------------------------------------------------------------------------------------


DISTRIBUTIONS = {"mlflow": "mlflow-skinny", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules whose distribution has another name."""

OPTIONAL = {"zstandard"}
"""Imported where a user's file needs it, with a sentence where it is not there."""


class NotForCheckers(ast.NodeTransformer):
    """Takes from ``if TYPE_CHECKING`` what only type checkers read."""

    def visit_If(self, node: ast.If) -> ast.If:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        self.generic_visit(node)
        return node


def imported(folder: str) -> Iterator[str]:
    """Top-level modules that the sources of a folder import, those for type checkers aside."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = NotForCheckers().visit(ast.parse(path.read_text(encoding="utf-8")))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield node.module.partition(".")[0]


def declared(*extras: str) -> set[str]:
    found = project()
    lines = [*found["dependencies"], *(x for extra in extras for x in found["optional-dependencies"][extra])]  # type: ignore[misc, index]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@cache
def third_party() -> set[str]:
    own = {*SOURCES.values(), *sys.stdlib_module_names}
    modules = {module for folder in SOURCES for module in imported(folder)} - own
    return {canonicalize_name(DISTRIBUTIONS.get(module, module)) for module in modules}


def test_what_is_imported_is_declared() -> None:
    assert third_party() - declared("gguf", "inspect", "mlflow", "peft", "ray", "slurm", "wandb") == OPTIONAL


def test_what_is_declared_is_imported() -> None:
    assert declared("gguf", "peft", "ray") - third_party() == set()


# -- one source --------------------------------------------------------------------------------------------------------


def test_the_version_is_written_once() -> None:
    assert "version" in project()["dynamic"]  # type: ignore[operator]
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == harness.__version__


def test_every_check_is_the_same() -> None:
    """`make lint`, pre-commit and the workflow run the same programs; the workflow runs what `.ci/run` runs."""
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", text("Makefile"), re.M)
    assert recipe is not None
    programs = {line.split("/")[1].split()[0] for line in recipe[1].splitlines()}
    assert programs == {"ruff", "mypy", "lint-imports"}
    hooks = [hook for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert {hook["entry"].split()[0].rpartition("/")[2] for hook in hooks} == programs
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert ".ci/run" in steps and any(".ci/versions" in step for step in steps)
