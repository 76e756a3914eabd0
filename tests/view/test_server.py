"""Who is given what: tokens, hosts, methods, paths, links, policies."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.view.server import HEADERS, Server
from harness.view.site import Site

HOST = ["127.0.0.1:1234"]


@pytest.fixture(scope="module")
def folder(reports: Path, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs, among files that are none of ours."""
    found = tmp_path_factory.mktemp("served") / "reports"
    shutil.copytree(reports, found)
    (found.parent / "secret.txt").write_text("secret")
    run = found / names[0]
    (run / "notes.txt").write_text("secret")
    (run / "samples.jsonl").unlink()
    (run / "samples.jsonl").symlink_to(found.parent / "secret.txt")
    (found / f"linked-{run.name}").symlink_to(run)
    (found / "leaderboard.html").write_text("secret")
    return found


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(Site(folder)) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield found
        found.shutdown()


def status(server: Server, path: str, hosts: list[str] = HOST) -> HTTPStatus:
    return server.answer(path, hosts)[0]


def test_nothing_is_given_without_the_token(server: Server, folder: Path) -> None:
    inside = f"/{server.token}"
    assert len(server.token) >= 16
    assert status(server, f"{inside}/") == status(server, f"{inside}/index.html") == HTTPStatus.OK
    for path in ("/", "", inside, "/index.html", f"/{server.token}x/", f"/{server.token[:-1]}/", f"//{inside}/"):
        assert status(server, path) == HTTPStatus.FORBIDDEN, path
    with Server(Site(folder), token="") as open_to_all:
        assert status(open_to_all, "/index.html") == HTTPStatus.OK
    with Server(Site(folder)) as other:
        assert other.token != server.token


@pytest.mark.parametrize("hosts", [["evil.example"], ["evil.example:1234"], [], ["localhost", "evil.example"], [""]])
def test_a_foreign_name_is_refused(server: Server, hosts: list[str]) -> None:
    assert status(server, f"/{server.token}/", hosts) == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:99"])
def test_the_names_of_this_machine_are_answered(server: Server, host: str) -> None:
    """Whatever the port: it may be forwarded from another machine."""
    assert status(server, f"/{server.token}/", [host]) == HTTPStatus.OK


def test_only_files_of_finished_runs_are_given(server: Server, folder: Path, names: list[str]) -> None:
    whole = next(name for name in names if not (folder / name / "samples.jsonl").is_symlink())
    for path in ("report.html", "result.json", "samples.jsonl", "neurons.jsonl"):
        assert status(server, f"/{server.token}/{whole}/{path}") == HTTPStatus.OK, path
    linked = next(name for name in names if name != whole)
    refused = [
        "leaderboard.jsonl",
        "leaderboard.html",
        f".{whole}.lock",
        f"{linked}/notes.txt",
        f"{linked}/samples.jsonl",  # a link
        f"linked-{linked}/result.json",  # below a link
        f"{whole}/",
        f"{whole}/figures",
        f"{whole}/../{whole}/result.json",
        f"{whole}/%2e%2e/leaderboard.jsonl",
        f"{whole}/..%2fleaderboard.jsonl",
        f"{whole}//result.json",
        f"{whole}/./result.json",
        f"{whole}/result.json%00",
        f"{whole}/%ff",
        f"{whole}\\result.json",
        "../secret.txt",
        "%2e%2e/secret.txt",
        "..%5csecret.txt",
        str(folder.parent / "secret.txt"),
        "tables/../index.html",
    ]
    for path in refused:
        found, content = server.answer(f"/{server.token}/{path}", HOST)
        assert found == HTTPStatus.NOT_FOUND, path
        assert isinstance(content.body, bytes) and b"secret" not in content.body


def asked(server: Server, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_over_http_every_answer_has_its_headers(server: Server, names: list[str]) -> None:
    at = f"/{server.token}"
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        answer, body = asked(server, method, f"{at}/index.html")
        allowed = method in ("GET", "HEAD")
        assert answer.status == (HTTPStatus.OK if allowed else HTTPStatus.METHOD_NOT_ALLOWED), method
        assert bool(body) == (method != "HEAD")
        assert int(str(answer.getheader("Content-Length"))) > 0
        for name, value in HEADERS.items():
            assert answer.getheader(name) == value
        policy = str(answer.getheader("Content-Security-Policy"))
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    answer, _ = asked(server, "GET", f"{at}/", Host="evil.example")
    assert answer.status == HTTPStatus.FORBIDDEN
    answer, body = asked(server, "GET", f"{at}/{names[1]}/result.json")
    assert (answer.status, answer.getheader("Content-Type")) == (HTTPStatus.OK, "application/json")
    assert "sandbox" in str(answer.getheader("Content-Security-Policy"))
    assert body.startswith(b"{")
    answer, _ = asked(server, "GET", f"{at}/", **{"Content-Length": "5"})  # what follows is no request of its own
    assert answer.getheader("Connection") == "close"


def test_a_page_runs_its_own_scripts_alone(server: Server, folder: Path, names: list[str]) -> None:
    """A page that names scripts that are not ours is sandboxed; one without a policy runs none."""
    page = folder / names[1] / "report.html"
    ours = page.read_bytes()
    at = f"/{server.token}/{names[1]}/report.html"
    policy = server.answer(at, HOST)[1].policy
    assert "'sha256-" in policy and "sandbox" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert server.answer(at, HOST)[1].body == ours  # as it is
    try:
        page.write_bytes(b"<meta content=\"script-src 'sha256-" + b"A" * 43 + b"='\"><script>1</script>")
        assert "sandbox allow-scripts" in server.answer(at, HOST)[1].policy
        page.unlink()  # a run may be made without its page
        made = server.answer(at, HOST)[1]
        assert isinstance(made.body, bytes) and set(made.policy.split()) == set(policy.split())
        page.write_bytes(b"<script>alert(1)</script>")
        assert "script-src 'none'" in server.answer(at, HOST)[1].policy
    finally:
        page.write_bytes(ours)


def test_a_network_is_given_nothing_without_a_token(folder: Path) -> None:
    with pytest.raises(HarnessError, match=r"--no-token: example\.org may be reached"):
        Server(Site(folder), host="example.org", token="")
    with pytest.raises(HarnessError, match="no name that a browser"):
        Server(Site(folder), host="0.0.0.0")
    with Server(Site(folder)) as first, pytest.raises(HarnessError, match=r"cannot listen at 127\.0\.0\.1"):
        Server(Site(folder), port=first.server_port)
