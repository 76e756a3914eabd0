"""A static site: the same pages with relative links, the same bytes twice, and nothing of others replaced."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from checkout import ROOT
from commands import Harness, files

from harness.errors import HarnessError
from harness.view.bundle import WRITTEN, write
from harness.view.site import Site


@pytest.fixture(scope="module")
def bundled(reports: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of both runs, with the page that sets them side by side and the arena's."""
    folder = tmp_path_factory.mktemp("bundled") / "reports"
    shutil.copytree(reports, folder)
    (folder / "arena").mkdir()
    shutil.copy(ROOT / "reports" / "reference" / "arena" / "arena.jsonl", folder / "arena")
    (folder / names[0] / "notes.txt").write_text("theirs")
    (folder / names[1] / "report.html").unlink()  # is made
    assert write(Site(folder), folder.parent / "site", [names]) == []
    return folder.parent / "site"


def test_it_holds_the_pages_and_what_they_link_to(bundled: Path, names: list[str]) -> None:
    found = files(bundled)
    assert {"index.html", "arena.html", WRITTEN} <= found.keys()
    for name in names:
        assert {f"{name}/report.html", f"{name}/result.json"} <= found.keys()
        assert any(path.startswith(f"{name}/tables/") for path in found)
    assert not any(path.endswith((".safetensors", "notes.txt", "samples.jsonl", "provenance.json")) for path in found)
    text = found["index.html"].decode()
    for link in re.findall(r'href="([^"#][^"]*)"', text):
        assert link.startswith("data:") or (bundled / link).is_file(), link
    [compared] = [path for path in found if path.startswith("compare-")]
    assert compared in text and '"live":null' in text and "connect-src" not in text
    assert b"http://" not in found["index.html"] and b"https://" not in found["index.html"]


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(bundled: Path, names: list[str], tmp_path: Path) -> None:
    folder = bundled.parent / "reports"
    write(Site(folder), tmp_path / "again", [names])
    assert files(tmp_path / "again") == files(bundled)
    write(Site(folder), tmp_path / "again", [names])  # over itself
    assert files(tmp_path / "again") == files(bundled)


def test_only_what_is_ours_is_replaced_or_removed(bundled: Path, names: list[str], tmp_path: Path) -> None:
    folder, site = tmp_path / "reports", tmp_path / "site"
    shutil.copytree(bundled.parent / "reports", folder)
    write(Site(folder), site)
    (site / "CNAME").write_text("example.org")
    (site / names[1] / "result.json").write_text("changed")
    shutil.rmtree(folder / names[1])
    assert write(Site(folder), site) == [f"{names[1]}/result.json"]
    left = files(site)
    assert left["CNAME"] == b"example.org" and f"{names[1]}/report.html" not in left
    (site / "index.html").write_text("theirs")
    with pytest.raises(HarnessError, match=r"index\.html: the harness did not write this"):
        write(Site(folder), site)
    with pytest.raises(HarnessError, match="the folder of results itself"):
        write(Site(folder), folder)


def test_the_command(harness: Harness, bundled: Path, names: list[str], tmp_path: Path) -> None:
    folder = bundled.parent / "reports"
    code, _, err = harness("view", folder, "--bundle", tmp_path / "site", "--title", "What we found")
    assert (code, err) == (0, f"wrote 2 runs to {tmp_path}/site/index.html\n")
    assert "<h1>What we found</h1>" in (tmp_path / "site" / "index.html").read_text()
    several = ", ".join(sorted(names))
    for given, sentence in (
        (f"{names[0]}:nothing", "error: --compare: no finished run here is called nothing."),
        (
            "small:small",
            f"error: --compare: no finished run here is called small. There are: {several}.",
        ),
        (names[0], "error: compare: expected 2 to 6 different runs"),
    ):
        code, _, err = harness("view", folder, "--bundle", tmp_path / "other", "--compare", given)
        assert code == 2 and err.startswith(sentence) and not (tmp_path / "other").exists()
    assert harness("view", folder, "--compare", "a:b")[0] == 2
