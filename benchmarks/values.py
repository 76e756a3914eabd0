"""What the five ablation values of Tighidet et al. cost together, with 100 controls each: one pass for all of them.

    python benchmarks/values.py [--prompts 2048]

The bundled model's own prompts, selected neurons, activation statistics and interventions; the ratio is over one
un-ablated generation of the same prompts, both the median of three times of this run.
"""

from __future__ import annotations

import argparse

import torch
from generation import demo, timed

from harness.conditions.conditions import BASELINE, Condition
from harness.controls.random import draw_controls
from harness.engine.activation_summaries import activation_statistics
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import HookEngine
from harness.plugin.catalogue import catalogue
from harness.plugin.components import SelectionContext

VALUES = ("mean", "median", "mode", "mean_minus_sigma", "mean_plus_sigma")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=2048)
    parser.add_argument("--controls", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=64, help="of both")
    args = parser.parse_args()
    model, prompts, stop = demo()
    prompts = prompts[: args.prompts]
    found, engine = catalogue(), ClosedFormEngine(model, args.batch_size)
    selection = found.components["selector"]["entropy"](rule="tighidet2025").select(
        SelectionContext(model, engine, prompts, 0)
    )
    statistics = activation_statistics(model, prompts, [selection.units[0].layer], 64, 0)
    controls = draw_controls(model, selection, args.controls, None, "none", prompts, 64, 0)
    conditions = [BASELINE]
    for name in VALUES:
        intervention = found.components["intervention"][name]()
        for i, units in enumerate((selection.units, *controls.sets)):
            conditions.append(Condition(f"{name}-{i}", intervention.edits(units, statistics)))
    plain = timed(lambda: HookEngine(model, args.batch_size).generate(prompts, [BASELINE], 10, stop))
    each = timed(lambda: engine.generate(prompts, conditions[: args.controls + 2], 10, stop))
    all_values = timed(lambda: engine.generate(prompts, conditions, 10, stop))
    print(f"{len(prompts)} prompts, {torch.get_num_threads()} threads, un-ablated pass {plain:.2f} s")
    print(f"one value, {args.controls} controls, over it        {each / plain:.2f}")
    print(
        f"five values, {args.controls} controls each, over it {all_values / plain:.2f} ({len(conditions)} conditions)"
    )


if __name__ == "__main__":
    main()
