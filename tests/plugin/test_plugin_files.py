"""``--plugin FILE.py``: components of a file, for one command, known by what the file says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_runs import Silent

from harness.errors import HarnessError
from harness.plugin.catalogue import catalogue
from harness.plugin.plugin_files import add, read
from harness.running import orders
from harness.running.driver import Driver, Group
from harness.running.execute import plan
from harness.running.request import Request
from harness.running.spec import Resources

Harness = Callable[..., tuple[int, str, str]]

SOURCE = '''
from __future__ import annotations

from pydantic import Field

from harness.plugin import Neuron, Selection, SelectionContext, Selector, hookimpl


class Firsts(Selector):
    """The first neurons of the last layer."""

    name = "firsts"
    top: int = Field(3, ge=1, description="number of neurons")

    def reads_prompts(self) -> bool:
        return False

    def select(self, context: SelectionContext) -> Selection:
        layer = context.model.anatomy.n_layers - 1
        units = tuple(Neuron(layer, i) for i in range(context.model.anatomy.d_mlp))
        return Selection(units[: self.top], "the first", candidates=units)


@hookimpl
def harness_selectors() -> list[type[Selector]]:
    return [Firsts]
'''

WORDS = (
    "--task",
    "knowledge_conflict",
    "--selector",
    "firsts",
    "--intervention",
    "zero",
    "--limit",
    60,
    "--controls",
    5,
)


@pytest.fixture
def firsts(tmp_path: Path) -> Iterator[Path]:
    """A plugin's file; what this process knows of it is forgotten afterwards."""
    path = tmp_path / "firsts.py"
    path.write_text(SOURCE)
    yield path
    for file in list(catalogue().files.values()):
        catalogue().remove(file.origin)
        del catalogue().files[file.path]


def digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.mark.usefixtures("blank_figures")
def test_a_run_names_the_file_by_its_digest(harness: Harness, firsts: Path, tmp_path: Path) -> None:
    words = (*WORDS, "--plugin", firsts, "--quiet", "--json", "--resamples", 100, "-o", tmp_path / "reports")
    code, out, err = harness("eval", *words)
    assert code == 0, err
    record = json.loads(out)
    chosen = record["identity"]["components"]["selector"]
    assert (chosen["distribution"], chosen["distribution_version"]) == ("firsts.py", digest(firsts))
    firsts.write_text(SOURCE.replace("the first", "the first ones"))
    changed = json.loads(harness("eval", *words)[1])
    assert changed["run_id"] != record["run_id"] and changed["selection"]["rule"] == "the first ones"
    [command] = {json.loads(x.read_text())["command"] for x in (tmp_path / "reports").glob("*/provenance.json")}
    assert f"--plugin {firsts}" in command


def test_what_lists_and_plans_knows_it_too(harness: Harness, firsts: Path) -> None:
    assert harness("list", "firsts")[0] == 2
    code, out, _ = harness("list", "firsts", "--plugin", firsts)
    assert code == 0 and "number of neurons" in out and "firsts.py" in out
    code, out, _ = harness("list", "plugins", "--plugin", firsts, "--plugin", firsts)
    assert code == 0 and out.count("selector firsts") == 1
    assert re.search(r"compare-models +neuron-harness \S+ +command harness compare-models", out)
    for command in ("plan", "run", "unigrams", "compare", "compare-models"):
        assert "--plugin" in harness(command, "--help")[1]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "there is no such file."),
        (b"\xff", "this is not UTF-8 text (invalid start byte at byte 0)."),
        ("x = 1\n", "it offers nothing: it has no function with @hookimpl that is called harness_model_loaders"),
        ("\nx = y\n", "it cannot be imported: NameError: name 'y' is not defined (line 2)."),
        ("x = (\n", "it cannot be imported: SyntaxError: '(' was never closed (firsts.py, line 1)."),
        ("raise SystemExit(0)\n", "it cannot be imported: SystemExit: 0 (line 1)."),
        ("import nothing_like_it\n", "it cannot be imported: ModuleNotFoundError: No module named 'nothing_like_it'"),
        (SOURCE.replace('"firsts"', '"entropy"'), 'the selector "entropy" is already provided by neuron-harness'),
    ],
)
def test_mistakes_are_one_sentence(
    source: str | bytes | None, says: str, harness: Harness, firsts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts.unlink()
    if source is not None:
        firsts.write_bytes(source if isinstance(source, bytes) else source.encode())
    monkeypatch.chdir(firsts.parent)
    code, out, err = harness("list", "selectors", "--plugin", "firsts.py")
    assert (code, out) == (2, "") and err.startswith("error: --plugin firsts.py: ") and says in err
    assert not catalogue().files and "firsts" not in catalogue().components["selector"]
    assert "entropy" in catalogue().components["selector"]


def test_a_folder_is_no_file(harness: Harness, tmp_path: Path) -> None:
    code, _, err = harness("list", "--plugin", tmp_path)
    assert code == 2 and err == f"error: --plugin {tmp_path}: this is a folder, not a file.\n"


def test_nodes_of_a_cluster_are_sent_the_file(firsts: Path, tmp_path: Path) -> None:
    """A node runs the driver's source, wherever its file is, and its plan is the driver's."""
    add(read(firsts), catalogue())
    spec = Request(task="knowledge_conflict", selector="firsts", intervention="zero").specification(catalogue())
    driver = Driver(None, tmp_path, "", False, Silent(), 3, Resources(), False)  # type: ignore[arg-type]
    order = orders.Order.model_validate_json(Group(driver, [plan(spec, catalogue())]).order())
    file = catalogue().files.pop(str(firsts))
    catalogue().remove(file.origin)
    firsts.unlink()
    with pytest.raises(HarnessError, match='no selector is called "firsts"'):
        orders._plans(order.model_copy(update={"plugins": ()}))
    [planned] = orders._plans(order)
    assert planned.components()["selector"]["distribution_version"] == file.origin.version
