"""lm-eval's tasks under many conditions: one pass of ours beside lm-eval's evaluator, once for each condition.

    python benchmarks/lm_eval_tasks.py [--controls 100] [--stock 5]

Both in one process, on the bundled model and the tasks of tests/support/lm_eval_tasks, two examples shown;
``--stock`` says for how many of the conditions lm-eval itself is run, under hooks. Everything is timed from the loaded
model and tasks to every metric under every condition.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import harness_plugins.demo
import numpy as np
from harness_plugins.lm_eval_tasks.metric import LmEvalMetric
from harness_plugins.lm_eval_tasks.task import LmEval
from harness_plugins.lm_eval_tasks.task_manager import quiet
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from harness.conditions.conditions import BASELINE, Condition, SetNeurons
from harness.engine.closed_form import ClosedFormEngine
from harness.engine.hooks import under
from harness.model.loading import load_hf

TASKS = str(Path(__file__).resolve().parents[1] / "tests" / "support" / "lm_eval_tasks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--controls", type=int, default=100)
    parser.add_argument("--stock", type=int, default=5)
    given = parser.parse_args()
    model = load_hf(str(Path(harness_plugins.demo.__file__).parent / "weights"))
    rng = np.random.default_rng(0)
    sets = [tuple(sorted(rng.choice(512, 6, replace=False).tolist())) for _ in range(given.controls + 1)]
    conditions = [BASELINE, *[Condition(f"c{i}", (SetNeurons(3, units, (0.0,) * 6),)) for i, units in enumerate(sets)]]
    for name in ("facts_choice", "facts_word", "facts_rolling", "facts_written"):
        task, engine = LmEval(tasks=[name], include_path=TASKS, num_fewshot=2), ClosedFormEngine(model)
        task.loaded()
        start = time.perf_counter()
        prompts = task.prepare(engine, None, 0).prompts
        found = LmEvalMetric().measure(task.observe(engine, prompts, conditions)).measures
        ours = time.perf_counter() - start
        stock, loaded = [], task.loaded()
        for c in range(given.stock):
            loaded.tasks[name].set_fewshot_seed(1234)
            with quiet(), under(model, conditions[c]):
                lm = HFLM(pretrained=model.hf, tokenizer=copy.deepcopy(model.tokenizer), batch_size=64)
                start = time.perf_counter()
                rows = evaluate(lm, {"tasks": loaded.tasks, "groups": {}}, bootstrap_iters=0)
                stock.append(time.perf_counter() - start)
            for metric, value in rows["results"][name].items():
                same = [x for x in found if f"{x.name},none" == f"{name}.{metric}"]
                assert all(np.isclose(x.values[c], value, rtol=1e-4, atol=1e-6) for x in same), (name, metric)
        each, n = float(np.median(stock)), len(conditions)
        print(
            f"{name}: {n} conditions in {ours:.2f} s ({1000 * ours / n:.1f} ms each), "
            f"lm-eval {1000 * each:.0f} ms for one: "
            f"all cost {ours / each:.1f}x one, the loop {each * n / ours:.0f}x as long"
        )


if __name__ == "__main__":
    main()
