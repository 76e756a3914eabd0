"""A stand-in of the hub's HTTP interface for dataset repositories, on the loopback interface.

What the real client needs to look at, make and write a repository, and nothing else: another request is a 404 that is
remembered.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


@dataclass
class Repository:
    """What lies in one."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    def card(self) -> dict[str, Any] | None:
        text = self.files.get("README.md", b"").decode()
        found = re.match(r"---\n(.*?)\n---\n", text, re.S)
        return None if found is None else yaml.safe_load(found[1])


@dataclass
class Hub:
    """The stand-in: ``asked`` are the requests, method and path."""

    token: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def answer(self, method: str, path: str, body: bytes, authorised: bool) -> tuple[int, Any]:
        """Status and JSON."""
        path = path.partition("?")[0]
        self.asked.append((method, path))
        if stored := re.fullmatch(r"/large/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == stored[1]
            self.large[stored[1]] = body
            return 200, {}
        if not authorised:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            private = given.get("private") or given.get("visibility") == "private"  # clients spell it so or so
            self.repositories[name] = Repository(bool(private), {".gitattributes": b""})
            return 200, {"url": f"{self.address}/datasets/{name}"}
        if found := re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+?)(/.*|\.git/.*)?", path):
            return self._of(found[1], found[2] or "", body)
        self.unknown.append(path)
        return 404, {"error": "not here"}

    def _of(self, name: str, rest: str, body: bytes) -> tuple[int, Any]:
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"error": "Repository not found"}
        if not rest:
            siblings = [{"rfilename": file} for file in repository.files]
            return 200, {"id": name, "private": repository.private, "siblings": siblings, "cardData": repository.card()}
        if rest == "/preupload/main":
            files = json.loads(body)["files"]
            modes = {True: "lfs", False: "regular"}
            large = (".parquet", ".png")
            return 200, {
                "files": [
                    {"path": x["path"], "uploadMode": modes[x["path"].endswith(large)], "shouldIgnore": False}
                    for x in files
                ]
            }
        if rest == ".git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            actions = [{**x, "actions": {"upload": {"href": f"{self.address}/large/{x['oid']}"}}} for x in objects]
            return 200, {"transfer": "basic", "objects": actions}
        if rest == "/commit/main":
            for line in map(json.loads, body.splitlines()):
                self._change(repository, line["key"], line["value"])
            return 200, {
                "commitUrl": f"{self.address}/datasets/{name}/commit/1",
                "commitOid": "1" * 40,
                "success": True,
            }
        self.unknown.append(rest)
        return 404, {"error": "not here"}

    def _change(self, repository: Repository, kind: str, given: dict[str, Any]) -> None:
        if kind == "header":
            repository.commits.append(given["summary"])
        elif kind == "file":
            repository.files[given["path"]] = base64.b64decode(given["content"])
        elif kind == "lfsFile":
            repository.files[given["path"]] = self.large[given["oid"]]
        elif kind == "deletedFile":
            del repository.files[given["path"]]
        else:
            self.unknown.append(kind)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The stand-in answers within the block, at its ``address``."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            authorised = self.headers.get("Authorization") == f"Bearer {hub.token}"
            status, content = hub.answer(self.command, self.path, body, authorised)
            data = json.dumps(content).encode()
            self.send_response(status)
            if status == 404 and "Repository" in content["error"]:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield hub
        finally:
            server.shutdown()
