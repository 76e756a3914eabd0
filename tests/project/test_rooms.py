"""Who may import whom: the contracts of ``pyproject.toml``, and no private name of another module; tests stand in the
rooms that they are about."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

from checkout import ROOT

SOURCES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for at in ("harness", "plugins")
    for path in (ROOT / at).rglob("*.py")
}


def test_imports_go_one_way_and_plugins_know_nothing_of_each_other() -> None:
    command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree: ast.Module) -> set[str]:
    """Private names that a module gives to something: functions, classes, variables, attributes, parameters."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
    return {name for name in names if private(name)}


def used(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of private names that are imported, or read of something else than the object itself."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=names):
                yield from ((node.lineno, x.name) for x in names if private(x.name))
            case ast.Attribute(attr=name) if private(name):
                yield node.lineno, name


def test_no_private_name_is_used_across_modules() -> None:
    """What other people's libraries keep private is another matter: they are read where there is no other way."""
    own = {path: defined(tree) for path, tree in SOURCES.items()}
    ours = set[str]().union(*own.values())
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in SOURCES.items()
        for line, name in used(tree)
        if name in ours - own[path]
    ]
    assert not found, "\n".join(found)


def test_tests_stand_in_rooms() -> None:
    rooms = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    papers = {f"plugins/{path.parent.name}" for path in (ROOT / "plugins").glob("*/__init__.py")}
    tests = ROOT / "tests"
    found = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}
    assert found - rooms - papers == {"project", "real", "tasks"}
    assert rooms - found <= {"plotting"}  # shapes of figures are drawn by the reports' tests
