"""``harness attribute``: what it prints, its JSON, its page in a browser, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, chromium

Command = Callable[..., tuple[int, str, str]]
ASKED = ("attribute", "demo", "The capital of Hungary is", "--quiet", "--top", "3", "--values", "4")

COLUMNS = {
    "predicted": {"token": str, "log_p": float, "probability": float},
    "layers": {"layer": int, "attention": float, "mlp": float},
    "lens": {"layer": int, "log_p": float, "says": list, "attention": list, "mlp": list},
    "heads": {"head": str, "increase": float, "attends": int, "token": str, "weight": float, "promoted": list,
              "suppressed": list},
    "neurons": {"neuron": str, "increase": float, "activation": float, "promoted": list, "suppressed": list,
                "reads": list},
    "attention_neurons": {"neuron": str, "position": int, "token": str, "increase": float, "coefficient": float,
                          "promoted": list, "suppressed": list, "reads": list},
}  # fmt: skip
QUERY = {
    "value_neurons": {"neuron": str, "position": int, "increase": float},
    "parts": {"part": str, "share": float, "score": float},
    "layers": {"layer": int, "attention": float, "mlp": float},
    "neurons": {"neuron": str, "share": float, "score": float, "promoted": list, "suppressed": list},
    "roles": {"layer": int, "query_only": int, "both": int, "value_only": int},
}


def fits(rows: list[dict[str, Any]], columns: dict[str, type]) -> bool:
    """Whether every row has these columns, with values of these types, numbers finite."""
    return bool(rows) and all(
        list(row) == list(columns)
        and all(type(row[name]) is kind for name, kind in columns.items())
        and all(math.isfinite(x) for x in row.values() if isinstance(x, float))
        for row in rows
    )


def test_the_json_has_everything_in_its_place(harness: Command) -> None:
    asked = [*ASKED, "--of", "neurons", "--of", "3.7", "--path", "1.203:L2H1", "--target", " B", "--target", " V"]
    code, out, err = harness(*asked, "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    for found in (first, second):
        assert set(found) == {
            "model", "sentence", "tokens", "target", *COLUMNS, "head_map", "sources", "patterns", "queries", "paths"
        }  # fmt: skip
        assert all(fits(found[name], columns) for name, columns in COLUMNS.items())
        n_layers, n_tokens = len(found["layers"]), len(found["tokens"])
        assert [len(found[name]) for name in ("heads", "neurons", "attention_neurons")] == [3, 3, 3]
        assert [(len(x), len(x[0])) for x in (found["sources"], found["patterns"])] == [
            (n_layers, n_tokens),
            (3, n_tokens),
        ]
        assert [query["of"] for query in found["queries"]] == ["neurons", "3.7"]
        assert all(fits(query[name], columns) for query in found["queries"] for name, columns in QUERY.items())
        [path] = found["paths"]
        assert (path["neuron"], path["head"], len(path["positions"])) == ("1.203", "L2H1", n_tokens)
    assert [found["target"]["text"] for found in (first, second)] == [" B", " V"]
    assert first["target"]["rank"] == 1 and second["target"]["rank"] > 1
    assert "".join(first["tokens"]).endswith(first["sentence"])


def test_the_page_opens_without_errors_or_network_and_fits(harness: Command, tmp_path: Path) -> None:
    page = tmp_path / "sentence.html"
    code, out, err = harness(*ASKED, "--page", page)
    assert code == 0 and f"wrote {page}" in err
    for words in (
        "the model's own prediction",
        "FFN value neurons",
        "Attention neurons",
        "Query neurons",
        "query only",
    ):
        assert words in out
    with chromium() as browser:
        for width, scheme in ((390, "light"), (1280, "dark")):
            opened = Opened(browser, page, width, scheme)
            assert opened.page.locator("table.heat").count() == 9
            assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
            assert opened.trouble == []
            opened.page.close()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("attribute", "demo", " "), "the sentence is empty"),
        (("attribute", "dmeo", "Hello"), "dmeo"),
        ((*ASKED, "--target", " Constantinople"), 'give one token, for example the first: "'),
        ((*ASKED, "--of", "17.3"), "17.3 is not in demo: it has 4 layers, 0 to 3."),
        ((*ASKED, "--path", "1.2"), "expected a neuron, a colon and a head"),
        ((*ASKED, "--path", "3.2:L1H0"), "expected a head of a later layer"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(harness: Command, tmp_path: Path, asked: Any, says: str) -> None:
    page = tmp_path / "sentence.html"
    code, out, err = harness(*asked, "--page", page)
    assert (code, out) == (2, "") and says in err and "Traceback" not in err
    assert not page.exists()
