"""Runs on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.plugin import Executor, HarnessError, RunGroups
from harness.running import Cpus, Gpus, Job, Lost, Message, Refused, work

from .ray_cluster import connected, first_line

if TYPE_CHECKING:
    from harness.running.executors import Made

AHEAD = 4
"""Messages of a worker that wait to be fetched; then it waits."""


class OnRay(Executor):
    """On the nodes of a Ray cluster, each group of runs on whichever has room for it (extra ``ray``).

    Without an address, and where RAY_ADDRESS is not set, a cluster is started on this machine, closed to others.
    """

    name = "ray"
    positional = "address"
    address: str | None = Field(
        None, description="of a running cluster: auto or HOST:PORT; default: RAY_ADDRESS, else one is started here"
    )
    cpus: Cpus = None
    gpus: Gpus = None
    workers: int = Field(1, ge=1, le=10_000, description="among how many workers the prompts of each run are divided")
    max_retries: int = Field(3, ge=0, description="tries in vain after a worker was lost")

    def ready(self) -> None:
        if find_spec("ray") is None:
            raise HarnessError('--executor ray: Ray is not installed; pip install "neuron-harness[ray]".')

    def execute(self, work: RunGroups) -> Iterator[list[Made]]:
        with connected(self.address) as where:
            for cpus, gpus in sorted(work.needs(self.cpus, self.gpus)):
                _find_room(cpus, gpus, where, work)
            yield from work.on(Nodes(), self.max_retries, self.cpus, self.gpus, self.workers)


def _find_room(cpus: float, gpus: float, where: str, work: RunGroups) -> None:
    """Say what would be waited for: a node that is large enough.

    Raises:
        HarnessError: the cluster is this machine alone, and cannot grow.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return
    needs = f"a node with {cpus:g} CPUs and {gpus:g} GPUs for one run"
    if where == "local":
        raise HarnessError(f"--executor ray: this machine is not {needs}; see --cpus-per-run and --gpus-per-run.")
    work.tell(f"waiting for {needs}: the cluster has none now")


class Nodes:
    """Workers that are Ray tasks."""

    async def run(self, job: Job) -> AsyncGenerator[Message, None]:
        """See :class:`harness.running.Workers`."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        task = ray.remote(on_node).options(
            num_returns="streaming",
            max_retries=0,  # ours know what is finished
            num_cpus=job.cpus,
            num_gpus=job.gpus,
            _generator_backpressure_num_objects=AHEAD,
        )
        kept = {
            run: {name: ray.put(path.read_bytes()) for name, path in files.items()} for run, files in job.kept.items()
        }
        stream = task.remote(job.order, kept)
        try:
            async for reference in stream:
                yield await reference
        except RayTaskError as error:
            yield Refused(first_line(error.cause), f"{error}\n")
        except RayError as error:
            raise Lost(type(error).__name__) from error
        finally:
            ray.cancel(stream, force=True)  # of a task that has ended, nothing


def on_node(order: str, kept: Mapping[str, Mapping[str, Any]]) -> Iterator[Message]:
    """The body of a Ray task; ``kept`` holds references."""
    import ray

    read = {run: {name: partial(ray.get, file) for name, file in files.items()} for run, files in kept.items()}
    yield from work(order, read, ray.util.get_node_ip_address())
