"""Executors on clusters: Ray (``on_ray``, ``ray_cluster``) and SLURM (``on_slurm``, ``sacct``, ``spool``)."""

from harness.plugin import Executor, hookimpl

from .on_ray import OnRay
from .on_slurm import OnSlurm


@hookimpl
def harness_executors() -> list[type[Executor]]:
    return [OnRay, OnSlurm]
