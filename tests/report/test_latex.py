"""Tables for papers: their layout, what LaTeX would say of them, and the numbers beside them."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_runs
from harness_plugins.context_copying.metrics.transition_cells import LAYOUT
from harness_plugins.context_copying.metrics.transitions import Transitions
from small_runs import other

from harness.errors import HarnessError
from harness.report.latex import escape, export

ENGINE = next((name for name in ("tectonic", "pdflatex", "xelatex", "lualatex") if shutil.which(name)), None)


def check(text: str) -> list[list[str]]:
    """What can be seen without LaTeX: braces and environments are balanced, rows have as many cells as there are
    columns, nothing special is bare. Returns the cells."""
    plain = re.sub(r"\\[\\&%$#_{}~^]", "", text.replace("\\\\", ""))
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0 and "#" not in plain and "~" not in plain
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1]
    [columns] = re.findall(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    assert [rule for rule in re.findall(r"\\(\w+rule)", text)] == ["toprule", "midrule", "bottomrule"]
    lines = [line.removesuffix(" \\\\") for line in text.splitlines() if line.endswith(" \\\\")]
    cells = [re.split(r"(?<!\\)&", line) for line in lines]
    assert all(len(row) == len(columns) for row in cells)
    outside = "".join(re.sub(r"\$[^$]*\$", "", cell) for row in cells for cell in row)
    assert not re.search(r"(?<!\\)[_%<>^]", outside)
    return [[cell.strip() for cell in row] for row in cells]


def columns(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_escaping() -> None:
    assert (
        escape("log(P_CK/P_PK) 5% & #1 {x} a~b^c $")
        == r"log(P\_CK/P\_PK) 5\% \& \#1 \{x\} a\textasciitilde{}b\textasciicircum{}c \$"
    )
    assert escape("CK -> PK, rho >= 0.4 \\x") == r"CK $\to$ PK, rho \textgreater{}= 0.4 \textbackslash{}x"


def test_the_transition_table_has_the_controls_beneath_each_cell(conflict_run: Path, tmp_path: Path) -> None:
    written = export([conflict_run], tmp_path)
    assert [path.name for path in written] == ["small-transitions.tex", "small-measures.tex"]
    header, *rows = check(written[0].read_text(encoding="utf-8"))
    assert header == ["", "To CK", "To PK", "To ND"]
    assert [row[0] for row in rows] == ["From CK", "", "From PK", "", "From ND", ""]
    record = small_runs.record(conflict_run)
    [table] = record["tables"]
    for i in range(3):
        total = sum(table["treated"][i])
        for j in range(3):
            count = table["treated"][i][j]
            assert rows[2 * i][1 + j] == f"{100 * count / total:.2f} ({count:,})"
            below = rf"\{{\\scriptsize {100 * table['control_mean'][i][j] / total:.2f} \$\\pm\$ \d+\.\d\d\}}"
            assert re.fullmatch(below, rows[2 * i + 1][1 + j])
    data = columns(written[0].with_suffix(".csv"))
    assert len(data) == 9 and [int(row["count"]) for row in data] == [x for row in table["treated"] for x in row]


def test_frames_are_set_as_metrics_declare_and_only_those(
    conflict_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transitions, "layouts", {"relation_groups": LAYOUT})
    with pytest.raises(HarnessError, match="layout transitions wants the column before of the table relation_groups"):
        export([conflict_run], tmp_path)
    monkeypatch.setattr(Transitions, "layouts", {})
    assert [path.name for path in export([conflict_run], tmp_path)] == ["small-measures.tex"]


def test_measures_with_intervals_controls_and_p(conflict_run: Path, tmp_path: Path) -> None:
    path = export([conflict_run], tmp_path)[1]
    header, *rows = check(path.read_text(encoding="utf-8"))
    assert header[0] == "Measure" and len(header) == 7
    primary = [x for x in small_runs.record(conflict_run)["measures"] if x["primary"]]
    assert len(rows) == len(primary) == 7
    assert rows[0][1] == f"{primary[0]['value']:.2f} ({primary[0]['count']}/{primary[0]['denominator']:,.0f})"
    data = columns(path.with_suffix(".csv"))
    assert [float(row["value"]) for row in data] == [x["value"] for x in primary]
    assert [float(row["control_mean"]) for row in data] == [x["controls"]["mean"] for x in primary]
    assert {"p_holm", "quantile", "ci_low", "verdict"} <= set(data[0])


def test_runs_stand_side_by_side_by_model_and_below_each_other_by_intervention(
    conflict_run: Path, tmp_path: Path
) -> None:
    def change(model: str, intervention: str) -> Callable[[dict[str, Any]], None]:
        def apply(record: dict[str, Any]) -> None:
            record["name"] = f"{model}-{intervention}"
            record["identity"]["model"]["id"] = model
            record["identity"]["components"]["intervention"]["name"] = intervention

        return apply

    runs = [
        other(conflict_run, tmp_path / f"{model}-{value}", change(model, value))
        for model, value in (("gpt_2", "mean"), ("phi", "mean"), ("phi", "median"))
    ]
    written = export(runs, tmp_path / "tables")
    assert {path.name for path in written if "across" in path.name} >= {"across-GTS.tex", "across-CKCR.tex"}
    text = (tmp_path / "tables" / "across-GTS.tex").read_text(encoding="utf-8")
    header, *rows = check(text)
    gts = small_runs.measures(conflict_run)["GTS"]
    cell = f"{gts['value']:.2f} ({gts['quantile']:.1f})"
    assert header == ["", r"gpt\_2", "phi"]
    assert rows == [["mean", cell, cell], ["median", "--", cell]]
    assert [row["run"] for row in columns(tmp_path / "tables" / "across-GTS.csv")] == [
        "gpt_2-mean",
        "phi-mean",
        "phi-median",
    ]


def test_parameters_that_differ_are_the_rows(conflict_run: Path, tmp_path: Path) -> None:
    def top(n: int) -> Callable[[dict[str, Any]], None]:
        return lambda record: record["identity"]["components"]["selector"]["params"].update(top=n)

    runs = [other(conflict_run, tmp_path / f"top{n}", top(n)) for n in (2, 4)]
    written = export(runs, tmp_path / "tables")  # of one name: files are called after the folders
    assert written[0].name == "top2-transitions.tex"
    _, *rows = check((tmp_path / "tables" / "across-GTS.tex").read_text(encoding="utf-8"))
    assert [row[0] for row in rows] == ["entropy (top=2)", "entropy (top=4)"]


def test_what_is_not_defined_is_a_dash(conflict_run: Path, tmp_path: Path) -> None:
    def without_controls(record: dict[str, Any]) -> None:
        for measure in record["measures"]:
            measure |= dict.fromkeys(("value", "ci_low", "ci_high", "controls", "quantile", "p_two_sided", "p_holm"))
        for frame in record["frames"]:
            for row in frame["rows"] if frame["name"] == "transition_cells" else ():
                row |= dict.fromkeys(("control_mean", "control_se", "share"))

    for path in export([other(conflict_run, tmp_path / "bare", without_controls)], tmp_path / "tables"):
        text = path.read_text(encoding="utf-8")
        assert "--" in text and not re.search(r"\b(None|nan)\b", text)
        check(text)


def test_the_same_runs_give_the_same_bytes(conflict_run: Path, tmp_path: Path) -> None:
    first, second = (export([conflict_run, conflict_run], tmp_path / name) for name in "ab")
    assert [x.read_bytes() for x in first] == [x.read_bytes() for x in second]


def test_from_the_command_line(
    conflict_run: Path, tmp_path: Path, harness: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = harness("report", conflict_run, "--latex", tmp_path / "tables")
    assert code == 0 and out.count("wrote ") == 2 and (tmp_path / "tables" / "small-measures.csv").is_file()
    code, _, err = harness("report", tmp_path, "--latex", tmp_path / "tables")
    assert code == 2 and "there is no finished run here" in err


@pytest.mark.skipif(ENGINE is None, reason="there is no LaTeX here")
def test_the_tables_compile(conflict_run: Path, tmp_path: Path) -> None:
    inputs = "".join(f"\\input{{{path.name}}}\n" for path in export([conflict_run], tmp_path))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{inputs}\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(document, encoding="utf-8")
    options = ["--only-cached"] if ENGINE == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    subprocess.run([str(ENGINE), *options, "all.tex"], cwd=tmp_path, check=True, capture_output=True)
