"""One run's prompts over several workers: what is divided, and what each worker does again.

    python benchmarks/shares.py                                       # the bundled model, 1 and 2 workers
    python benchmarks/shares.py --model smollm2-135m-instruct --limit 64 --part 16 --controls 99

Jobs are processes, one after another, so that other work on the machine matters little: processor seconds of one thread
of each. With as many cores as workers a run takes as long as its slowest share and the job that makes the record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from harness.running import Job, Message, from_bytes, to_bytes, work


class OneByOne:
    """Jobs as processes of their own.

    Attributes:
        seconds: of processor time, of each job.
    """

    def __init__(self, part: int) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._part, self._turn = part, asyncio.Semaphore(1)

    async def run(self, job: Job) -> AsyncGenerator[Message, None]:
        kept = {run: {name: str(path.absolute()) for name, path in files.items()} for run, files in job.kept.items()}
        async with self._turn:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            child = await asyncio.create_subprocess_exec(sys.executable, __file__, "--serve", stdin=-1, stdout=-1)
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps([job.order, kept, self._part]).encode())
            child.stdin.close()
            while size := await child.stdout.read(8):
                yield from_bytes(await child.stdout.readexactly(int.from_bytes(size, "big")))
            assert await child.wait() == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            share = json.loads(job.order)["share"]
            what = "all" if share is None else f"share {share[0] + 1} of {share[1]}"
            self.seconds.append((what, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def serve() -> None:
    """What a job does."""
    from harness.running import environment, execute

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order, kept, execute.PART = json.load(sys.stdin)
    environment.prepare()
    read = {run: {name: Path(path).read_bytes for name, path in files.items()} for run, files in kept.items()}
    for message in work(order, read, "a process"):
        found = to_bytes(message)
        out.write(len(found).to_bytes(8, "big") + found)
        out.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--limit", type=int, default=1024)
    parser.add_argument("--part", type=int, default=256)
    parser.add_argument("--controls", type=int, default=999)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    asked = parser.parse_args()
    if asked.serve:
        return serve()
    os.environ["OMP_NUM_THREADS"] = "1"

    from harness.plugin.catalogue import catalogue
    from harness.running import execute
    from harness.running.executors import Runs, finished_of
    from harness.running.request import Request
    from harness.running.telling import Telling, reporters

    execute.PART = asked.part
    request = Request(
        model=asked.model, task="knowledge_conflict", selector="entropy", intervention="mean", limit=asked.limit,
        controls=asked.controls, metrics=["entropy_change"],
    )  # fmt: skip
    spec, times, bytes_of = request.specification(catalogue()), {}, {}
    for n in asked.workers:
        with tempfile.TemporaryDirectory() as folder:
            jobs, told = OneByOne(asked.part), Telling(reporters(catalogue(), ["no:page", "no:live"]))
            os.environ["HARNESS_CACHE_DIR"] = folder  # no prompts of an earlier run
            runs = Runs([[execute.plan(spec, catalogue())]], Path(folder), "a benchmark", False, told)
            [[made]] = [finished_of(group) for group in runs.on(jobs, shares=n)]
            bytes_of[n] = {name: (made.path / name).read_bytes() for name in ("result.json", "outcomes.safetensors")}
        shares = [seconds for what, seconds in jobs.seconds if what != "all"]
        rest = [seconds for what, seconds in jobs.seconds if what == "all"]
        times[n] = max(shares, default=0.0) + sum(rest)
        print(f"{n} workers: {', '.join(f'{what} {seconds:.1f} s' for what, seconds in jobs.seconds)}", flush=True)
    first = asked.workers[0]
    assert all(found == bytes_of[first] for found in bytes_of.values())
    for n in asked.workers[1:]:
        print(f"{first} worker over {n}: {times[first] / times[n]:.2f}x, the same bytes", flush=True)


if __name__ == "__main__":
    main()
