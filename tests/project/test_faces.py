"""The public names of rooms: each is there, is told to type checkers, and loads nothing heavy before its use."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest
from checkout import ROOT

ROOMS = ("conditions", "controls", "data", "effects", "engine", "model", "plugin", "running")


def stub(room: str) -> ast.Module:
    return ast.parse((ROOT / "harness" / room / "__init__.pyi").read_text(encoding="utf-8"))


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there(room: str) -> None:
    package = importlib.import_module(f"harness.{room}")
    named = [alias for node in stub(room).body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(package.__all__) == sorted(alias.asname or "" for alias in named)
    for node in stub(room).body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(f"{'.' * node.level}{node.module}", package.__name__)
            for alias in node.names:
                assert getattr(package, alias.name) is getattr(module, alias.name)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        package.nothing_of_the_kind  # noqa: B018


def test_a_room_loads_nothing_heavy_by_itself() -> None:
    rooms = "; ".join(f"import harness.{room}" for room in ROOMS)
    contract = "from harness.plugin import Selector, Selection, Neuron, Prompt, HarnessError, hookimpl"
    heavy = "print([x for x in ('torch', 'transformers', 'scipy.stats', 'datasets') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"import sys; {rooms}; {contract}; {heavy}"], capture_output=True)
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()


def test_plugins_ask_rooms_for_what_rooms_offer() -> None:
    """What a room offers is not imported from the module that happens to define it."""
    offered = {}
    for room in ROOMS:
        for node in stub(room).body:
            if isinstance(node, ast.ImportFrom):
                where = f"harness.{room}.{node.module}" if node.level else node.module
                offered |= {(where, alias.name): f"harness.{room}" for alias in node.names}
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("harness."):
                for alias in node.names:
                    better = offered.get((node.module, alias.name), node.module)
                    assert better == node.module, f"{path.relative_to(ROOT)}: import {alias.name} from {better}"
