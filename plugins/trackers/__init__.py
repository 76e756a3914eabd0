"""Runs in the trackers where people already look: Weights & Biases and MLflow, each an extra.

``content``: what of a run either of them is told. ``weights_and_biases``, ``mlflow_store``: how.
"""

from __future__ import annotations

from harness.plugin import Reporter, hookimpl

from .mlflow_store import Mlflow
from .weights_and_biases import Wandb


@hookimpl
def harness_reporters() -> list[type[Reporter]]:
    return [Wandb, Mlflow]
