"""The inner loops by themselves: compiled by numba, by torch.compile, and plain PyTorch, one thread.

python benchmarks/loops.py [--compile]      # --compile needs a C++ compiler
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.engine import kernels
from harness.engine import numba_loops as compiled
from harness.engine.kernels import System, summarise


def seconds(work: Callable[[], Any]) -> float:
    """The fastest of five calls, after one that compiles."""
    work()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def summaries() -> None:
    """Best token, normaliser and entropy of 300 x 16 distributions over 1,280 tokens, six edited neurons each."""
    n, rows, n_tokens, width, m = 300, 16, 1280, 6, 400
    system = System(
        base=5 * torch.randn(rows, n_tokens),
        second=None,
        columns=torch.randn(m, n_tokens),
        constant=torch.randn(n_tokens),
        indices=torch.randint(m, (n, width)),
        delta=torch.randn(n, rows, width),
        scale=torch.ones(n, rows),
        share=None,
        at=torch.arange(rows).expand(n, -1),
    )
    fast = seconds(lambda: summarise(system))
    kernels.compiled = lambda system: False
    plain = seconds(lambda: summarise(system))
    print(f"summaries: plain PyTorch over the compiled loop = {plain / fast:.1f}")


def sums(base: Any, column: Any, kappa: Any, delta: Any, log_p: Any, p: Any) -> tuple[torch.Tensor, ...]:
    """The sums of harness.effects.logit_changes, as PyTorch would have them."""
    x = kappa[..., None] * base[None] + delta[..., None] * column[:, None]
    grown = p[None] * torch.expm1(x)
    return grown.sum(-1), (grown * (log_p[None] + x) + p[None] * x).sum(-1), (p[None] * x).sum(-1)


def changes(with_compiler: bool) -> None:
    """Nanoseconds a logit and effect at V = 50,257."""
    rows, n_tokens, n = 16, 50257, 64
    base, column = 3 * torch.randn(rows, n_tokens), 0.1 * torch.randn(n, n_tokens)
    delta, kappa = 0.2 * torch.randn(n, rows), 1e-3 * torch.randn(n, rows)
    log_p = base.log_softmax(-1)
    p, indices = log_p.exp(), np.arange(n)[:, None]
    none, zero = np.zeros((0, n_tokens), np.float32), np.zeros((n, rows, 1), np.float32)
    wanted, out = np.ones((n, rows), bool), np.zeros((n, rows, 1, 3))

    def ours() -> None:
        compiled.changes(
            base.numpy(), none, column.numpy(), np.zeros(0, np.float32), log_p.numpy(), indices,
            delta.numpy()[..., None], kappa.numpy()[..., None], zero + 1, zero, zero, zero, p.numpy(),
            column.abs().amax(1).numpy(), wanted, out,
        )  # fmt: skip

    each = 1e9 / (rows * n_tokens * n)
    given = (base, column, kappa, delta, log_p, p)
    print(f"changes: compiled loop {seconds(ours) * each:.2f} ns a logit", flush=True)
    if with_compiler:
        fused = torch.compile(sums, dynamic=False)
        print(f"changes: torch.compile {seconds(lambda: fused(*given)) * each:.2f} ns", flush=True)
    print(f"changes: plain PyTorch {seconds(lambda: sums(*given)) * each:.2f} ns")
    few = -torch.rand(2048)
    print(f"torch.exp by itself {seconds(lambda: [torch.exp(few) for _ in range(1000)]) * 1e9 / 2048 / 1000:.2f} ns")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="time torch.compile, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    summaries()
    changes(args.compile)


if __name__ == "__main__":
    main()
