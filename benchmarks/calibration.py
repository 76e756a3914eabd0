"""Every claim of the statistics put to the test by simulation: measured rates beside the promised ones.

    python benchmarks/calibration.py [--quick] [--row NAME] [--markdown]

Two sources: synthetic outcomes, and 5,000 random sets of neurons of the bundled model, which are made once (under a
minute) and kept in build/calibration. Seeded: the same command prints the same table, in however many processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from calibrating import boards, neurons, pools, prompts, verdicts
from calibrating.data import RealSets
from calibrating.rates import ERRORS, Rate, Simulation

from harness.statistics import generator

SEED = 0

ROWS: dict[str, tuple[Simulation, int]] = {
    "single": (neurons.single, 4000),
    "magnitude": (neurons.magnitude, 4000),
    "family": (neurons.family, 3000),
    "strong": (neurons.strong, 2000),
    "power": (neurons.power, 2000),
    "small_pools": (pools.small, 600),
    "matched": (pools.matched, 200),
    "hold_out": (pools.hold_out, 600),
    "detectable": (verdicts.detected, 200),
    "planned": (verdicts.planned, 1000),
    "equivalence": (verdicts.equivalence, 400),
    "board": (boards.board, 100),
    "shares": (prompts.shares, 600),
    "means": (prompts.means, 800),
    "differences": (prompts.differences, 600),
    "margins": (prompts.margins, 1000),
}
"""Simulations, in the order of the table, and how many runs each simulates; a twentieth of them with ``--quick``."""


def measured(name: str, quick: bool = False) -> tuple[list[Rate], float]:
    """The rates of one simulation, and the seconds that they took."""
    simulation, runs = ROWS[name]
    start = time.perf_counter()
    rates = simulation(max(20, runs // 20) if quick else runs, generator(SEED, "calibration", name), RealSets())
    return rates, time.perf_counter() - start


COLUMNS = ("claim", "setting", "measured", "runs", "promised", "ok?", "beside")


def cells(one: Rate) -> tuple[str, ...]:
    """What the table says of a rate."""
    promised = "" if one.bound == "shown" or one.nominal is None else f"{one.bound} {one.nominal:g}"
    ok = {True: "yes", False: "NO", None: ""}[one.ok]
    beside = "" if one.beside is None else f"{one.beside[0]}: {one.beside[1]:.3f}"
    return one.claim, one.setting, f"{one.rate:.3f} +- {one.error:.3f}", str(one.runs), promised, ok, beside


def escaped(text: str) -> str:
    """As it stands in a cell of a Markdown table."""
    return text.replace("|", "\\|")


def text_of(rates: list[Rate], markdown: bool) -> str:
    rows = [COLUMNS, *map(cells, rates)]
    if markdown:
        lines = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
        return "\n".join([lines[0], "|---" * len(COLUMNS) + "|", *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(x.ljust(width) for x, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the runs: minutes")
    parser.add_argument("--row", action="append", choices=ROWS, help="only this one; may be repeated")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    start, names = time.perf_counter(), args.row or list(ROWS)
    RealSets().make()  # before the processes, that all of them find it
    found: dict[str, list[Rate]] = {}
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {name: pool.submit(measured, name, args.quick) for name in names}
        for name, one in waiting.items():
            found[name], seconds = one.result()
            print(f"{name}: {seconds:.0f} s", file=sys.stderr)
    rates = [one for name in ROWS if name in found for one in found[name]]
    print(text_of(rates, args.markdown))
    promised = [one.ok for one in rates if one.ok is not None]
    broken = promised.count(False)
    print(
        f"{len(rates)} rates, {len(promised)} of them promised, {broken} off by more than {ERRORS} standard errors; "
        f"{time.perf_counter() - start:.0f} s.",
        file=sys.stderr,
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
