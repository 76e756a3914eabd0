"""The Ray cluster that runs are given to: one that is there already, or one of this process's own, closed to others."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from harness.plugin import HarnessError

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable for whether nodes are on several machines, from whatever system; if not, all listens on 127.0.0.1."""

TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Ray's variables for the token without which a cluster takes no work."""


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[str]:
    """Within the block, Ray is there, at the address that is given; a cluster that was started for it is stopped then.

    Args:
        address: of a running cluster; None: as RAY_ADDRESS says, else one is started that only this process can use.

    Raises:
        HarnessError: Ray is not installed, or no cluster answers.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where.startswith("ray://"):
        raise HarnessError(
            "--address: results are written where this command runs, so it must run on a node of the cluster: submit "
            "it with `ray job submit`, or give auto or HOST:6379 there."
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    with contextlib.ExitStack() as stack:
        if where == "local":
            stack.enter_context(_environment(_own()))
        _start(where)

        stack.callback(_shut_down)
        stack.enter_context(contextlib.redirect_stdout(cast("io.TextIOBase", _WithoutRay(sys.stdout))))
        if where == "local":
            _check_closed()
        yield where


class _WithoutRay:
    """A stream that is closed to Ray's threads: what they have to say of lost nodes does not come between results."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _shut_down() -> None:
    import ray

    with contextlib.redirect_stdout(io.StringIO()):
        ray.shutdown()


def _start(where: str) -> None:
    try:
        import ray
    except ImportError:
        raise HarnessError('--executor ray: Ray is not installed; pip install "neuron-harness[ray]".') from None
    try:
        host, _, port = where.rpartition(":")
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        with _handler_kept():
            ray.init(
                where, include_dashboard=False if where == "local" else None, log_to_driver=False, logging_level="ERROR"
            )
    except Exception as error:  # of many kinds: no cluster, another version of Ray or Python, no route
        if where == "local":
            said = f"--executor ray: no cluster could be started on this machine: {first_line(error)}"
            raise HarnessError(said) from error
        hint = "" if "RAY_AUTH_MODE" in os.environ else " (Does it want a token? Then set RAY_AUTH_MODE=token.)"
        raise HarnessError(f"--address: no Ray cluster can be used at {where}: {first_line(error)}{hint}") from error


def _own() -> dict[str, str]:
    """The environment of a cluster that is started here.

    Ray by itself listens on every interface, and leaves its token in a file that every user of the machine can read.
    """
    return {LOOPBACK: "0"} | ({} if any(name in os.environ for name in TOKENS) else {TOKENS[0]: _token()})


@cache
def _token() -> str:
    """A token for the clusters of this process: Ray remembers the first."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block, these variables are set: Ray reads them when it is imported or started, its processes, too.

    RAY_AUTH_MODE, which Ray sets itself where it is not set, is put back with them.
    """
    before = {name: os.environ.get(name) for name in (*variables, "RAY_AUTH_MODE")}
    os.environ.update(variables)
    try:
        from ray._private import ray_constants  # has read it already where something else imported Ray
    except ImportError:
        ray_constants = None
    known = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    if known is not None:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        if known is not None:
            ray_constants.ENABLE_RAY_CLUSTER = known
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _check_closed() -> None:
    """Make sure that the cluster that was started here is this machine's own.

    Raises:
        HarnessError: this version of Ray goes by something else.
    """
    import ray

    for address in {node["NodeManagerAddress"] for node in ray.nodes()}:
        if not ipaddress.ip_address(address).is_loopback:
            raise HarnessError(
                f"--executor ray: the cluster that Ray {ray.__version__} started here can be reached from elsewhere, "
                f"at {address}; start one yourself, with `ray start --head`, and give its --address."
            )


@contextlib.contextmanager
def _handler_kept() -> Iterator[None]:
    """What SIGTERM does is the same after the block as before: Ray would end the process without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def first_line(error: BaseException) -> str:
    """What an error says, without its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
