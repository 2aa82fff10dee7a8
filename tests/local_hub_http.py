"""The local Hub's way over HTTP: a table of routes, the server around it, and the faults put in its way."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from local_hub_faults import Faults
from local_hub_repos import HubError, HubState


@dataclass
class Request:
    """What a route is called with; `arguments` are the parts of the path that its pattern names, decoded."""

    state: HubState
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes
    base_url: str
    arguments: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    @property
    def token(self) -> str | None:
        value = self.headers.get("Authorization", "")
        return value.removeprefix("Bearer ") or None


@dataclass
class Response:
    """An answer: JSON, unless `body` is bytes."""

    body: Any = b""
    status: int = 200
    headers: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Route = Callable[[Request], Response]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    """Register a function for methods ("GET HEAD") and a path; `{name}` is one part of it, `{name*}` any number."""
    regex = re.sub(r"\{(\w+)\*\}", r"(?P<\1>.+)", pattern)
    regex = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", regex)

    def register(function: Route) -> Route:
        ROUTES.extend((method, re.compile(regex), function) for method in methods.split())
        return function

    return register


def answer(request: Request, raw_path: str) -> Response:
    """Call the first route that fits; paths are matched before decoding, because a revision may hold %2F."""
    try:
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(raw_path)
            if method == request.method and match:
                request.arguments = {name: unquote(value) for name, value in match.groupdict().items()}
                with request.state.lock:
                    return function(request)
        raise HubError(404, message=f"there is no route {request.method} {request.path}")
    except HubError as error:
        return error_response(error)


def error_response(error: HubError, headers: dict[str, Any] | None = None) -> Response:
    named = {"X-Error-Code": error.code} if error.code else {}
    message = " ".join(error.message.split())
    return Response({"error": error.message}, error.status, {**named, "X-Error-Message": message, **(headers or {})})


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.server.state.log.append((self.command, path))
        fault = self.server.faults.next_for(self.command, path)
        if fault and self.server.stopping.wait(fault.slow):
            return self.hang_up()
        if fault and fault.cuts_upload(self.headers):
            self.rfile.read(fault.cut or 0)
            return self.hang_up()
        body = self.read_body()
        state, url = self.server.state, self.server.url
        request = Request(state, self.command, path, dict(parse_qsl(parts.query)), self.headers, body, url)
        if fault and fault.status:
            response = error_response(HubError(fault.status, fault.error_code, fault.message), fault.headers)
        else:
            response = answer(request, parts.path)
        if fault and fault.lose_answer:
            return self.hang_up()
        content = response.content
        if fault:
            content = fault.damaged(content)
        self.send(response, content, fault.cut if fault else None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while length := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, response: Response, content: bytes, cut: int | None) -> None:
        """Write the answer; with `cut`, only so many bytes of its body, and hang up."""
        is_json = not isinstance(response.body, bytes)
        headers = {"Content-Type": "application/json" if is_json else "application/octet-stream", **response.headers}
        headers.setdefault("Content-Length", len(content))
        self.send_response(response.status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.hang_up()

    def hang_up(self) -> None:
        self.close_connection = True
        hang_up(self.connection)


class HubServer(ThreadingHTTPServer):
    """The listening socket with a thread per connection; `close` leaves none of them behind."""

    daemon_threads = False

    def __init__(self, state: HubState, faults: Faults, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state, self.faults = state, faults
        self.port = int(self.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else is told as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop listening, hang up on everyone, and wait for the threads."""
        self.stopping.set()
        self.shutdown()
        for connection in list(self.connections):
            hang_up(connection)
        self.server_close()
        self.thread.join()


def hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # the client may have been faster
        connection.shutdown(socket.SHUT_RDWR)
