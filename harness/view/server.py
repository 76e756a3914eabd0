"""The site over HTTP, to browsers of this machine that know the address.

Whoever asks must know the token, the first part of every path, and must call this machine by a name that it goes by
here: another site's page that was led to this address (DNS rebinding) calls it by its own. Nothing can be changed:
there is GET and HEAD alone. The standard library's server does: a few addresses, no state, no upload, no session.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import shutil
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.files import harmless
from harness.view.policies import INERT
from harness.view.site import Content, NotThere, Site

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""What this machine calls itself."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
"""Of every answer."""

SECONDS = 30
"""Until a browser that has connected and says nothing is left alone."""


class Server(ThreadingHTTPServer):
    """Serves a site until it is interrupted.

    Args:
        host, port: where it listens; port 0: a free one.
        token: the first part of every path; None: a random one; "": none is needed.

    Raises:
        HarnessError: it cannot listen there, or would give the folder to a network without a token.
    """

    daemon_threads = True

    def __init__(self, site: Site, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> None:
        self.site = site
        self.token = secrets.token_urlsafe(16) if token is None else token
        self.name = f"[{host}]" if ":" in host else host
        if not self.token and self.name not in LOOPBACK:
            raise HarnessError(f"--no-token: {host} may be reached from other machines; expected {_or(LOOPBACK)}.")
        if host in ("", "0.0.0.0", "::"):
            raise HarnessError(f'--host: "{host}" is no name that a browser calls this machine by; name one address.')
        self.names = frozenset(name.lower() for name in (*LOOPBACK, self.name))
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise HarnessError(f"--host, --port: cannot listen at {self.name}:{port}: {why}.") from error

    def server_bind(self) -> None:
        """As it is, without the look-up of a name for the address, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.name, self.server_address[1]

    @property
    def url(self) -> str:
        """Where to look."""
        return f"http://{self.name}:{self.server_port}/{f'{self.token}/' if self.token else ''}"

    def answer(self, target: str, hosts: list[str]) -> tuple[HTTPStatus, Content]:
        """What a GET of a target gets, whose request has these Host headers."""
        called = hosts[0].lower() if len(hosts) == 1 else ""
        if called not in self.names and called.rpartition(":")[0] not in self.names:
            return _told(HTTPStatus.FORBIDDEN, f"This server answers to {_or(sorted(self.names))} alone.")
        path, _, query = target.partition("?")
        path = path.removeprefix("/")
        if self.token:
            given, slash, path = path.partition("/")
            if not slash or not hmac.compare_digest(given.encode(), self.token.encode()):
                return _told(HTTPStatus.FORBIDDEN, "The address needs the token that harness view printed.")
        try:
            return HTTPStatus.OK, self.site.at(path, query)
        except NotThere:
            return _told(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
        except HarnessError as error:
            return _told(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (OSError, UnicodeError):
            return _told(HTTPStatus.NOT_FOUND, "There is nothing at this address.")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves before it has its answer is no error of ours."""


def _told(status: HTTPStatus, sentence: str) -> tuple[HTTPStatus, Content]:
    return status, Content(f"{harmless.line(sentence)}\n".encode(), "text/plain; charset=utf-8", INERT)


def _or(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "harness", ""
    protocol_version = "HTTP/1.1"
    timeout = SECONDS

    def do_GET(self) -> None:
        if {"content-length", "transfer-encoding"} & {name.lower() for name in self.headers}:
            self.close_connection = True  # nobody reads what follows, and it shall not be read as the next request
        self._send(*self.server.answer(self.path, self.headers.get_all("Host", [])))

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Whatever else is asked: another method, what is no HTTP."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            status, content = _told(HTTPStatus.METHOD_NOT_ALLOWED, "This server has GET and HEAD alone.")
        else:
            status, content = _told(HTTPStatus(code), HTTPStatus(code).phrase)
        self._send(status, content)

    def _send(self, status: HTTPStatus, content: Content) -> None:
        body = content.body
        with body.open("rb") if isinstance(body, Path) else contextlib.nullcontext() as file:
            self.send_response(status)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Security-Policy", content.policy)
            self.send_header("Content-Type", content.kind)
            self.send_header("Content-Length", str(len(body) if isinstance(body, bytes) else body.stat().st_size))
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "HEAD":
                return
            if isinstance(body, bytes):
                self.wfile.write(body)
            elif file is not None:
                shutil.copyfileobj(file, self.wfile)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: an address holds the token."""
