"""Prompts that are kept for the next run on the same model and data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness_plugins.context_copying.task.knowledge_conflict import KnowledgeConflict
from small_runs import Silent, finish, spec

from harness.engine.engine import Engine
from harness.engine.hooks import HookEngine
from harness.plugin import Prepared, border
from harness.plugin.catalogue import catalogue
from harness.running import execute as run
from harness.running import kept_prompts

Ask = Callable[..., Prepared]


@pytest.fixture(scope="module")
def demo() -> Engine:
    return HookEngine(border.load(run.plan(spec("demo", Path("facts.jsonl")), catalogue()).model), 64)


@pytest.fixture
def asked(
    tmp_path: Path, small_facts: Path, demo: Engine, monkeypatch: pytest.MonkeyPatch
) -> tuple[Ask, list[int | None]]:
    """Give the prompts of a run; the limits that they were prepared for."""
    limits: list[int | None] = []
    prepare = KnowledgeConflict.prepare

    def counted(self: KnowledgeConflict, engine: Engine, limit: int | None, seed: int) -> Prepared:
        limits.append(limit)
        return prepare(self, engine, limit, seed)

    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(KnowledgeConflict, "prepare", counted)

    def ask(fresh: bool = False, facts: Path = small_facts, **changes: object) -> Prepared:
        return run.prompts_of(run.plan(spec("one", facts, **changes), catalogue()), demo, Silent(), fresh)

    return ask, limits


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "prompts").iterdir())


def test_a_run_on_the_same_prompts_does_not_ask_again(tmp_path: Path, asked: tuple[Ask, list[int | None]]) -> None:
    ask, limits = asked
    first = ask()
    assert ask() == first == ask(intervention="zero", controls=7) and limits == [20] and len(kept(tmp_path)) == 1
    assert ask(fresh=True) == first and limits == [20, 20] and len(kept(tmp_path)) == 1


def test_the_run_is_the_same_whether_or_not_its_prompts_were_kept(
    tmp_path: Path, small_facts: Path, asked: tuple[Ask, list[int | None]]
) -> None:
    _, limits = asked
    task = f"knowledge_conflict:data={small_facts}"
    runs = [
        finish(tmp_path / name, task=task, selector="random", intervention="zero", controls=3, limit=15)
        for name in ("new", "kept")
    ]
    assert limits == [15]
    found = [{path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()} for one in runs]
    for files in found:
        del files[Path("provenance.json")]  # it says when
    assert found[0] == found[1]


def test_what_prompts_depend_on_makes_others(
    tmp_path: Path, small_facts: Path, asked: tuple[Ask, list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, limits = asked
    ask()
    other = tmp_path / "facts.jsonl"
    other.write_text("".join(small_facts.read_text("utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    changes = [
        {"limit": 21},
        {"seed": 1},
        {"batch_size": 8},
        {"task": f"knowledge_conflict:data={small_facts},known=any"},
        {"facts": other},
    ]
    for n, change in enumerate(changes, 2):
        ask(**change)
        assert len(limits) == len(kept(tmp_path)) == n, change
    monkeypatch.setattr(kept_prompts, "_code", lambda task: "another version of the code")
    ask()
    assert len(limits) == len(kept(tmp_path)) == len(changes) + 2


def test_prompts_that_cost_nothing_are_not_kept(tmp_path: Path, asked: tuple[Ask, list[int | None]]) -> None:
    ask, _ = asked
    ask(task="induction_synthetic:sequences=2")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": "0", "prepared": {}}', None])
def test_a_damaged_file_is_made_again(tmp_path: Path, asked: tuple[Ask, list[int | None]], text: str | None) -> None:
    ask, limits = asked
    first = ask()
    [path] = kept(tmp_path)
    whole = path.read_bytes()
    if text is None:  # valid, but for one word of a prompt
        changed = json.loads(whole)
        changed["prepared"]["prompts"][0]["text"] += "!"
        text = json.dumps(changed)
    path.write_text(text, encoding="utf-8")
    assert ask() == first and limits == [20, 20]
    assert path.read_bytes() == whole


def test_nothing_is_lost_where_nothing_can_be_kept(
    tmp_path: Path, asked: tuple[Ask, list[int | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, limits = asked
    first = ask()
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file"))
    assert ask() == first and limits == [20, 20]


def test_the_oldest_go_first_and_what_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_prompts, "MOST", 3)
    (tmp_path / "notes.json").write_text("{}", encoding="utf-8")
    names = [f"{i:064x}.json" for i in range(5)]
    for i, name in enumerate(names):
        kept_prompts.save(tmp_path / name, Prepared(()))
        os.utime(tmp_path / name, (i, i))
    assert kept_prompts.load(tmp_path / names[2]) == Prepared(())  # used: it is not the oldest any more
    kept_prompts.save(tmp_path / f"{9:064x}.json", Prepared(()))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"notes.json", names[2], names[4], f"{9:064x}.json"}
