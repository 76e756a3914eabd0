"""What a run takes as it grows: bytes on the disk, memory, time, by what there is more of.

    python benchmarks/scale.py                     # everything (a quarter of an hour of one quiet core)
    python benchmarks/scale.py statistics engines  # some of: runs, statistics, engines, leaderboard
    python benchmarks/scale.py --small             # a taste of each

Slopes are differences between two sizes, so that what is there whatever the size (the libraries, the model) drops out.
Times are processor time of one thread; memory is what the process has for itself (Linux: RssAnon), without pages of
files that the system may take back; where that is not known, of everything. What the rows are used for: docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2**20


def own_memory() -> int:
    """Bytes that this process holds for itself now; where that is not known, the most that it ever held."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most memory that is held while the block runs, looked at every few milliseconds."""

    def __enter__(self) -> Peak:
        self.most, self._over = own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.004):
            self.most = max(self.most, own_memory())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


# -- runs: disk and memory by prompts and conditions -------------------------------------------------------------------


def one_run(facts: int, controls: int) -> dict[str, float]:
    """A run of the bundled model, in a process of its own: its answers, bytes and peak of memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", str(facts), str(controls), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _one(facts: int, controls: int, folder: str) -> None:
    import harness
    from harness.running import execute

    stages: dict[str, float] = {}

    def timed(name: str) -> None:
        real = getattr(execute, name)

        def call(*given: Any) -> Any:
            start = time.process_time()
            try:
                return real(*given)
            finally:
                stages[name] = time.process_time() - start

        setattr(execute, name, call)

    for name in ("_observe", "record_of"):
        timed(name)
    given: dict[str, Any] = {"task": "knowledge_conflict", "selector": "entropy", "intervention": "mean"}
    with Peak() as peak:
        run = harness.evaluate(**given, limit=facts, controls=controls, output_path=folder, progress=False)
    prompts = run.record.task.n_prompts
    size = (run.path / "outcomes.safetensors").stat().st_size
    print(
        json.dumps(
            {"prompts": prompts, "answers": prompts * (controls + 2), "bytes": size, "peak": peak.most, **stages}
        )
    )


def runs(small: bool) -> Iterator[str]:
    base = (60, 19) if small else (300, 999)
    sizes = {"prompts": (base, (120, 19) if small else (1000, 999)), "conditions": ((base[0], base[1] // 10), base)}
    for what, (few, many) in sizes.items():
        a, b = one_run(*few), one_run(*many)
        answers = b["answers"] - a["answers"]
        yield (
            f"{what:>10}  {a['answers']:,.0f} -> {b['answers']:,.0f} answers: "
            f"{(b['bytes'] - a['bytes']) / answers:.1f} bytes on the disk an answer, "
            f"{(b['peak'] - a['peak']) / answers:.1f} held ({a['peak'] / MIB:.0f} -> {b['peak'] / MIB:.0f} MiB), "
            f"model {1e6 * (b['_observe'] - a['_observe']) / answers:.1f} s and statistics "
            f"{1e6 * (b['record_of'] - a['record_of']) / answers:.1f} s a million answers"
        )


# -- statistics: memory and time of one measure ------------------------------------------------------------------------


def statistics(small: bool) -> Iterator[str]:
    """One mean of outcomes on the disk, as in a run."""
    from harness.results.arrays import Mapped, write_arrays
    from harness.statistics import Each, Measure, bootstrap, summarise

    conditions, sizes = (50, (500, 1000)) if small else (1001, (12_000, 48_000))
    rng = np.random.default_rng(0)
    warm = rng.random((3, 90))  # imports what is imported then
    summarise(Measure("x", "x", "nats", warm, np.ones(warm.shape)), np.arange(90) // 3, 0, 20)
    with tempfile.TemporaryDirectory() as folder:
        found: list[tuple[int, float]] = []
        for n in sizes:
            path = Path(folder) / f"{n}.safetensors"
            write_arrays(path, {"x": rng.random((conditions, n), np.float32)})
            x = Mapped(path).whole()["x"]
            change = Each(conditions, lambda s, x=x: x[s] - x[0])  # type: ignore[misc]
            measure, clusters = Measure("x", "x", "nats", change, np.broadcast_to(True, x.shape)), np.arange(n) // 3
            bootstrap._kept.cache_clear()
            bootstrap._stored.cache_clear()
            before, start = own_memory(), time.process_time()
            with Peak() as peak:
                summarise(measure, clusters, 0)
            found.append((peak.most - before, time.process_time() - start))
    (held, took), (more, longer) = found
    answers = conditions * (sizes[1] - sizes[0])
    yield (
        f"{conditions:,} conditions, {sizes[0]:,} -> {sizes[1]:,} prompts: a measure holds {held / MIB:.0f} -> "
        f"{more / MIB:.0f} MiB, {(more - held) / answers:.1f} bytes an answer, and takes "
        f"{1e6 * (longer - took) / answers:.2f} s a million answers"
    )


# -- engines: time by prompts x conditions, width and vocabulary -------------------------------------------------------


def engines(small: bool) -> Iterator[str]:
    """Greedy generation of five tokens of GPT-2's shape with random weights, by the three ways to run a condition."""
    import torch
    from sweep import shaped

    from harness.conditions.conditions import BASELINE, Condition, SetNeurons
    from harness.engine.closed_form import ClosedFormEngine
    from harness.engine.hooks import HookEngine

    torch.set_num_threads(1)
    usual = {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 8192}
    shapes: dict[str, dict[str, int]] = {
        "d 128, 4 layers, V 8,192": {},
        "d 256": {"n_embd": 256},
        "V 32,768": {"vocab_size": 32768},
        "8 layers": {"n_layer": 8},
    }
    ways: dict[str, tuple[Callable[..., Any], float, int]] = {
        "closed form": (ClosedFormEngine, 1.0, 10),
        "batched": (ClosedFormEngine, 0.5, 2),
        "hooked": (HookEngine, 0.5, 1),
    }
    prompts, tokens, conditions = (4, 10, 4) if small else (16, 20, 20)
    for title, changes in list(shapes.items())[: 1 if small else None]:
        model, rng, told = shaped(**usual | changes), np.random.default_rng(0), []
        given = rng.integers(0, model.anatomy.d_vocab, (prompts, tokens)).tolist()
        for way, (kind, depth, times) in ways.items():
            layer = max(0, int(model.anatomy.n_layers * depth) - 1)
            made = [BASELINE]
            for i in range(conditions * times):
                chosen = tuple(map(int, rng.choice(model.anatomy.d_mlp, 6, replace=False)))
                made.append(Condition(f"{i}", (SetNeurons(layer, chosen, (0.0,) * 6),)))
            engine, took = kind(model, 32), []
            for some in (made[: len(made) // 2], made):
                engine.generate(given, some, 5)  # compiles, fills caches
                start = time.process_time()
                engine.generate(given, some, 5)
                took.append(time.process_time() - start)
            pairs = prompts * (len(made) - len(made) // 2)
            told.append(f"{way} {1000 * max(took[1] - took[0], 0) / pairs:.3f} ms")
        yield f"{title:>26}  a prompt and condition: {', '.join(told)}"


# -- the leaderboard: where one file ends ------------------------------------------------------------------------------

APPENDING = """
import sys, time
from pathlib import Path
from harness.results import leaderboard
start, n, row = time.time(), 0, {"text": "x" * 3000}
while time.time() - start < float(sys.argv[3]):
    leaderboard.append(Path(sys.argv[1]), [{"row_id": f"{sys.argv[2]}-{n}-{i}", **row} for i in range(30)])
    n += 1
print(n)
"""


def board(small: bool) -> Iterator[str]:
    """Reading and adding to a file of rows of 3 KB, thirty a run."""
    from harness.results import leaderboard

    with tempfile.TemporaryDirectory() as folder:
        path, there = Path(folder) / "leaderboard.jsonl", 0
        for n in (1000,) if small else (10_000, 100_000):
            with path.open("a") as file:
                for i in range(there, n):
                    file.write(json.dumps({"row_id": f"{i:016d}", "text": "x" * 3000, "value": i, "p": 0.5}) + "\n")
            there = n
            start = time.process_time()
            leaderboard.append(path, [{"row_id": f"new-{n}", "value": 1}])
            added, start = time.process_time() - start, time.process_time()
            rows = leaderboard.read(path)
            took = time.process_time() - start
            yield f"{len(rows):>9,} rows: read in {took:.2f} s, added to in {1000 * added:.0f} ms"
            del rows
        seconds = 1 if small else 10
        for writers in (1, 2 if small else 8):
            shared = Path(folder) / f"{writers}.jsonl"
            command = [sys.executable, "-c", APPENDING, str(shared)]
            started = [
                subprocess.Popen([*command, str(i), str(seconds)], stdout=subprocess.PIPE, text=True)
                for i in range(writers)
            ]
            n = sum(int(one.communicate()[0]) for one in started)
            yield f"{writers:>9} processes add {n / seconds:.0f} runs a second together, {30 * n:,} rows at the end"


PARTS: dict[str, Callable[[bool], Iterator[str]]] = {
    "runs": runs,
    "statistics": statistics,
    "engines": engines,
    "leaderboard": board,
}


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        _one(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--small", action="store_true", help="sizes of seconds")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in given.parts or PARTS:
        print(name, flush=True)
        for line in PARTS[name](given.small):
            print(line, flush=True)


if __name__ == "__main__":
    main()
