"""The Space in this process, as it is launched, for tests that talk to it over HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

SECONDS = 60.0
JSON = {"content-type": "application/json"}
FILE_META = {"_type": "gradio.FileData"}


@contextmanager
def running_space(cache: Path) -> Iterator[str]:
    """The whole page on a free port with its own cache; gives its address, with a slash at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        patch.setattr("gradio.mcp.DEFAULT_TEMP_DIR", str(cache))
        from sam_variants.spaces_demo.guard import launch_options
        from sam_variants.spaces_demo.page import build

        page = build()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        _, url, _ = page.launch(
            prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", server_port=port, **launch_options()
        )
        try:
            yield url
        finally:
            page.close(verbose=False)


def upload(client: httpx.Client, name: str, content: bytes) -> dict[str, Any]:
    """Upload a file as gradio's clients do; returns what stands for it in a call."""
    response = client.post("gradio_api/upload", files={"files": (name, content)})
    response.raise_for_status()
    return {"path": response.json()[0], "orig_name": name, "meta": FILE_META}


def call(client: httpx.Client, name: str, **data: Any) -> tuple[str, Any]:
    """Call an endpoint as curl would; returns "complete" with its outputs, or "error" with what is told."""
    begun = client.post(f"gradio_api/call/v2/{name}", content=json.dumps(data), headers=JSON)
    if begun.is_error:
        return "error", {"status": begun.status_code, "error": begun.text}
    with client.stream("GET", f"gradio_api/call/{name}/{begun.json()['event_id']}") as stream:
        event = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                return event, json.loads(line.removeprefix("data: "))
    raise AssertionError(f"{name} ended without an answer")


def refused(answer: tuple[str, Any]) -> str:
    """The text of a refusal; fails for an answer, and for a text that names a file or code of this machine."""
    event, told = answer
    assert event == "error", told
    text = str(told["error"])
    assert len(text) > 10, told
    assert not any(sign in text for sign in ("Traceback", ".py", "site-packages", "0x")), text
    return text


class Listener:
    """A server on this machine that nobody should talk to; counts who does.

    Attributes:
        url: its address.
        requests: paths that were asked for.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"secret")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret.png"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
