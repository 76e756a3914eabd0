"""Requests of two tables: where they stand, how many are taken, and what they are told apart by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from harness_plugins.post_training.analysis.request_tables import load_requests
from harness_plugins.post_training.comparison.refusal import Refusal
from harness_plugins.post_training.comparison.settings import Settings

from harness.data.token_sequences import half
from harness.errors import HarnessError
from harness.testing import demo_model

ADVBENCH = [{"prompt": f"harm {i}", "target": "Sure"} for i in range(12)]
ALPACA = [{"instruction": f"help {i}", "input": "", "output": "o", "text": f"Below {i}"} for i in range(60)]


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_two_tables_are_one_with_as_many_of_either_class_in_either_split(tmp_path: Path) -> None:
    """Beside a slow rule of its own: the least hashes of the texts of each half."""
    more = {"instruction": "Translate this.", "input": "Good morning.", "output": "o", "text": "t"}
    harmful = table(tmp_path / "a.jsonl", [*ADVBENCH, ADVBENCH[0]])
    harmless = table(tmp_path / "b.jsonl", [more, *ALPACA])
    found = load_requests(harmful, harmless)
    assert [(x.kind, x.column, len(x.requests)) for x in found.tables] == [
        ("harmful", "prompt", 12),
        ("harmless", "instruction", 60),  # without the one that asks about its input
    ]
    n = {}
    for split, part in (("train", "select"), ("test", "evaluate")):
        bad = [x["prompt"] for x in ADVBENCH if half(x["prompt"]) == part]
        good = [x["instruction"] for x in ALPACA if half(x["instruction"]) == part]
        n[split] = len(bad)
        assert 0 < len(bad) < len(good)
        least = sorted(good, key=lambda x: hashlib.sha256(x.encode()).hexdigest())[: len(bad)]
        assert {(x.text, x.label) for x in found.texts if x.split == split} == {
            *((x, True) for x in bad),
            *((x, False) for x in least),
        }
    assert all(x.group == x.text for x in found.texts)
    assert found.sentence.startswith(
        "Of 12 harmful requests (column prompt) and 60 harmless requests (column instruction), "
        f"{n['train']} of each are for training and {n['test']} of each held out"
    )
    turned = load_requests(table(tmp_path / "c.jsonl", ADVBENCH[::-1]), table(tmp_path / "d.jsonl", ALPACA[::-1]))
    assert set(turned.texts) == set(found.texts)  # no order, and no seed, has a say


def test_datasets_of_the_hub_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = {"walledai/AdvBench": ADVBENCH, "tatsu-lab/alpaca": ALPACA}
    monkeypatch.setattr("datasets.load_dataset", lambda name, *_, split, revision: hub[name])
    found = load_requests(*hub)
    files = load_requests(table(tmp_path / "a.jsonl", ADVBENCH), table(tmp_path / "b.jsonl", ALPACA))
    assert found.texts == files.texts
    assert {x.digest for x in found.tables}.isdisjoint(x.digest for x in files.tables)  # of texts, and of bytes


@pytest.mark.parametrize(
    ("harmful", "harmless", "said"),
    [
        ([{"question": "a", "id": 1}], ALPACA, "--harmful: .* expected one of instruction, .* it has question, id"),
        ([], ALPACA, r"--harmful: .*a\.jsonl has no rows"),
        (ADVBENCH, [{"prompt": ["a"]}], r'--harmless: .*row 1: expected a request in the column "prompt"'),
        (ADVBENCH, [{"text": "harm 3"}], 'the request "harm 3" is in the table of harmful ones, too'),
        (ADVBENCH, [{"text": "help 1"}], "--harmless: there are no requests in the split (train|test)"),
        (ADVBENCH, [{"instruction": "a", "input": "b"}], 'has an "input" that it is about'),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, harmful: Any, harmless: Any, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        load_requests(table(tmp_path / "a.jsonl", harmful), table(tmp_path / "b.jsonl", harmless))


def test_two_tables_are_in_the_record_where_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_plugins.demo import DemoTuned
    from harness_plugins.post_training.comparison import directions

    from harness.engine.closed_form import ClosedFormEngine
    from harness.plugin.components import SelectionContext

    files = table(tmp_path / "a.jsonl", ADVBENCH), table(tmp_path / "b.jsonl", ALPACA)
    settings = Settings(harmful=files[0], harmless=files[1]).completed(DemoTuned(device="cpu"))
    assert settings.refusal is None  # the bundled model's own requests do not come in beside
    assert not {"harmful", "harmless"} & set(settings.recorded)
    found = Refusal.of(settings)
    assert found is not None and set(found.digests) == {"harmful", "harmless"}
    monkeypatch.setattr(directions, "LABELLINGS", 9)
    context = SelectionContext(demo_model(), ClosedFormEngine(demo_model()), [], 0)
    made = {name: make for name, _, make in found.sections(settings, [context, context])}
    assert list(made) == ["refusal", "steering"]
    section = made["refusal"]()
    assert section.numbers["n_texts"] == 24 and section.sentences[-1].startswith("Of 12 harmful requests")
    assert section.numbers["tables"][1] == {"kind": "harmless", "column": "instruction", "requests": 60}
    assert Refusal.of(Settings()) is None
