"""The cluster that is started for a command: nobody else can reach it, or read what opens it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError

pytest.importorskip("ray", reason="Ray has no wheel for every Python")
pytest.importorskip("psutil")

CLUSTER = """
import ipaddress, json, os, signal, subprocess, sys
import psutil
from harness_plugins.clusters.ray_cluster import connected

def listening():
    found = set()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add(connection.laddr.ip)
    return sorted(found)

def strangers(address, *tokens):
    '''Which other processes can use the cluster by the time that the last of them can: Ray tries for many minutes.'''
    code = f"import ray; ray.init({address!r}, log_to_driver=False); print('in', flush=True); input()"
    others = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=others | token, stdin=-1, stdout=-1, stderr=-3, text=True)
        for token in tokens
    ]
    said = [processes[-1].stdout.readline()]
    for process in processes:
        process.kill()
    return [*(process.communicate()[0] for process in processes[:-1]), *said]

signal.signal(signal.SIGTERM, handler := lambda *_: None)
out, found = sys.stdout, []
for _ in range(2):  # a second one works, too
    with connected(None):
        import ray

        work = ray.remote(lambda: 6 * 7)
        address = ray.get_runtime_context().gcs_address
        found.append({
            "answer": ray.get(work.remote()),
            "listening": listening(),
            "kept": signal.getsignal(signal.SIGTERM) is handler,
        })
        if len(found) == 1:
            tokens = [None, "0" * 64, os.environ["RAY_AUTH_TOKEN"]]
            found[0]["strangers"] = strangers(address, *(
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
                for token in tokens
            ))
print(json.dumps({"found": found, "left": sorted(k for k in os.environ if k.startswith("RAY_AUTH"))}))
"""


@pytest.mark.slow
def test_a_cluster_of_our_own_is_closed_to_others(tmp_path: Path) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER], capture_output=True, text=True, env=own | {"HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for found in said["found"]:
        assert found["answer"] == 42
        assert found["listening"] and {x.removeprefix("::ffff:") for x in found["listening"]} == {"127.0.0.1"}
        assert found["kept"]
    assert said["found"][0]["strangers"] == ["", "", "in\n"]
    assert said["left"] == []
    assert not list(tmp_path.rglob("auth_token*"))  # the token is written nowhere


def test_a_cluster_that_others_can_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from harness_plugins.clusters import ray_cluster

    monkeypatch.setattr(ray, "init", lambda *given, **more: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "192.0.2.1"}])
    stopped: list[bool] = []
    monkeypatch.setattr(ray, "shutdown", lambda: stopped.append(True))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        pytest.raises(HarnessError, match=r"can be reached from elsewhere, at 192\.0\.2\.1"),
        ray_cluster.connected(None),
    ):
        pytest.fail("it was used")
    assert stopped == [True]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_cluster_that_does_not_start_is_not_called_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from harness_plugins.clusters import ray_cluster

    def fail(*given: object, **more: object) -> None:
        raise TimeoutError("the node did not answer")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sentence = "^--executor ray: no cluster could be started on this machine: the node did not answer$"
    with pytest.raises(HarnessError, match=sentence), ray_cluster.connected(None):
        pass


def test_a_token_of_the_users_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_plugins.clusters.ray_cluster import LOOPBACK, TOKENS, _own

    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    assert _own().keys() == {LOOPBACK, "RAY_AUTH_TOKEN"} and len(_own()["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    assert _own() == {LOOPBACK: "0"}
