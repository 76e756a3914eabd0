"""The container image, as far as that can be told without building it: what it is made of is there, and nobody is root.

That the program works as its user, where only its volume can be written: ``tests/files/test_cache_folders.py``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from checkout import ROOT
from image import environment, instructions

LAST_STAGE = [i for i, (name, _) in enumerate(instructions()) if name == "FROM"][-1]


def test_the_image_runs_the_command_as_nobody_in_particular() -> None:
    stage = instructions()[LAST_STAGE:]
    [user] = [rest for name, rest in stage if name == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [entry] = [rest for name, rest in stage if name == "ENTRYPOINT"]
    assert entry == '["harness"]' and "harness" in project["scripts"]
    after = [name for name, _ in stage[[name for name, _ in stage].index("USER") :]]
    assert "RUN" not in after and "COPY" not in after  # nothing is made that only this user could use


def test_whatever_it_writes_goes_to_its_volume() -> None:
    stage = dict(instructions()[LAST_STAGE:])
    assert stage["VOLUME"] == '["/reports"]' and stage["WORKDIR"] == "/reports"
    written = {name: value for name, value in environment().items() if value.startswith("/")}
    assert set(written) == {"HARNESS_REPORTS_DIR", "HF_HOME"}
    assert all(value.startswith("/reports") for value in written.values())
    assert any(name == "RUN" and "mkdir -m 1777 /reports" in rest for name, rest in instructions())


def test_what_it_is_made_of_is_there_and_is_sent() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in kept)
    copied = [rest.split()[0] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    assert set(copied) == {".", "constraints.txt"} and "constraints.txt" in kept
    # Whatever the wheel is built from: what pyproject.toml and setup.py name, and what links in it lead to.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folders = re.findall(r'": "(\w+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    links = [path.resolve() for folder in folders for path in (ROOT / folder).rglob("*") if path.is_symlink()]
    needed = {"pyproject.toml", "setup.py", project["readme"], *project["license-files"], *folders}
    needed |= {path.relative_to(ROOT.resolve()).parts[0] for path in links}
    assert needed <= kept, needed - kept


def test_its_python_and_arguments_are_those_that_are_tested_and_documented() -> None:
    given = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    assert given["PYTHON"] in (Path(ROOT / ".ci" / "versions").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert all(f"--build-arg {name}" in page for name in ("TORCH_INDEX", "EXTRAS"))
