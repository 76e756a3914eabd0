"""Any task of lm-evaluation-harness under any intervention: ``--task lm_eval:lambada_openai``."""

from __future__ import annotations

from harness.plugin import Metric, Task, hookimpl

from .metric import LmEvalMetric
from .task import LmEval


@hookimpl
def harness_tasks() -> list[type[Task]]:
    return [LmEval]


@hookimpl
def harness_metrics() -> list[type[Metric]]:
    return [LmEvalMetric]
