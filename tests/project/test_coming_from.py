"""The page for those who come from another library: its code, where that is installed, gives the number of ours."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from checkout import ROOT
from fences import fences

import harness

PAGE = ROOT / "docs" / "coming-from.md"

LIBRARIES = {"in_transformer_lens.py": "transformer_lens", "in_nnsight.py": "nnsight", "in_pyvene.py": "pyvene"}


@pytest.mark.filterwarnings("ignore")  # what these libraries call is theirs
@pytest.mark.parametrize("name", LIBRARIES)
def test_theirs_gives_our_number(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(LIBRARIES[name])
    text = PAGE.read_text(encoding="utf-8")
    ours = re.search(r"```text\n(-\d\.\d{5})\n```", text)
    [theirs] = [fence for fence in fences(PAGE) if fence.title == name]
    monkeypatch.chdir(tmp_path)
    model = harness.load_model("demo")
    model.hf.save_pretrained("demo-model")
    model.tokenizer.save_pretrained("demo-model")
    Path(name).write_text(theirs.text, encoding="utf-8")
    capsys.readouterr()
    runpy.run_path(name)
    assert ours is not None
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(float(ours[1]), abs=1.1e-5)
