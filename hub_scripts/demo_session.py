"""A visitor of the Space without a browser: uploads a photo and clicks, through the events that the page uses."""

from __future__ import annotations

import json
import mimetypes
import time
import uuid
from pathlib import Path
from typing import Any

import httpx

API = "gradio_api"
CANVAS, UPLOAD, PROMPT = "click-canvas", "upload", "prompt"
SECONDS = 120.0


class SessionError(RuntimeError):
    """The Space refused or failed; the text is what a visitor would read.

    Attributes:
        status: of HTTP, where that was the answer.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class DemoSession:
    """One visitor.

    Args:
        url: of the page, with a slash at the end.

    Attributes:
        photo: the canvas's property of that name, once one is open.
    """

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False)
        self._session = uuid.uuid4().hex[:12]
        self.config = self._checked(self._client.get("config")).json()
        self._canvas = next(item for item in self.config["components"] if item["props"].get("elem_id") == CANVAS)["id"]
        self._prompt = self._event(self._canvas, PROMPT)
        self._open = self._event(self._uploader(), UPLOAD)
        self.photo: dict[str, Any] | None = None
        self._value: dict[str, Any] = {}

    def __enter__(self) -> DemoSession:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def open(self, path: Path) -> None:
        """Upload a photo and let the Space encode it, as the page does, which goes on meanwhile."""
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        files = {"files": (path.name, path.read_bytes(), kind)}
        [stored] = self._checked(self._client.post(f"{API}/upload", files=files)).json()
        upload = {"path": stored, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
        updates = self.finished(self.join(self._open, {self._open["inputs"][0]: upload}))
        self.photo = self._update(self._open, updates, self._canvas)["photo"]
        self._value = {"photo": self.photo["id"], "version": 0, "selected": 1, "objects": []}
        for event in self.config["dependencies"]:
            if event.get("trigger_after") == self._open["id"]:
                self.join(event)

    def click(self, x: int, y: int, label: int = 1) -> dict[str, Any]:
        """One more point on the one object; returns the canvas's property `masks`."""
        if not self._value["objects"]:
            one = {"id": 1, "name": "Object 1", "points": [], "labels": [], "box": None, "candidate": None}
            self._value["objects"].append(one)
        self._value["objects"][0]["points"].append([x, y])
        self._value["objects"][0]["labels"].append(label)
        self._value["version"] += 1
        return self.ask(self._value)

    def ask(self, value: Any) -> dict[str, Any]:
        """Send any value of the canvas; returns its property `masks`."""
        updates = self.finished(self.join(self._prompt, {self._canvas: value}))
        return dict(self._update(self._prompt, updates, self._canvas).get("masks", {}))

    def join(self, event: dict[str, Any], values: dict[int, Any] | None = None) -> str:
        """Put an event into the queue, with the page's own values where no others are given; returns its id."""
        given = values or {}
        data = [given.get(number, self._default(number)) for number in event["inputs"]]
        body = json.dumps({"fn_index": event["id"], "data": data, "session_hash": self._session})
        response = self._client.post(f"{API}/queue/join", content=body, headers={"content-type": "application/json"})
        return str(self._checked(response).json()["event_id"])

    def finished(self, event_id: str) -> list[Any]:
        """Wait for an event; returns its outputs.

        Raises:
            SessionError: it failed.
        """
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with self._client.stream("GET", f"{API}/queue/data", params={"session_hash": self._session}) as stream:
                for line in stream.iter_lines():
                    message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                    if message.get("event_id") == event_id and message["msg"] == "process_completed":
                        if not message["success"]:
                            raise SessionError(str(message["output"].get("error")))
                        return list(message["output"]["data"])
        raise SessionError(f"no answer within {SECONDS:.0f} s")

    def _event(self, component: int, name: str) -> dict[str, Any]:
        return dict(next(item for item in self.config["dependencies"] if [component, name] in item["targets"]))

    def _uploader(self) -> int:
        """The button whose upload changes the canvas."""
        return int(
            next(
                target
                for item in self.config["dependencies"]
                for target, name in item["targets"]
                if name == UPLOAD and self._canvas in item["outputs"]
            )
        )

    def _default(self, component: int) -> Any:
        return next(item for item in self.config["components"] if item["id"] == component)["props"].get("value")

    def _update(self, event: dict[str, Any], outputs: list[Any], component: int) -> dict[str, Any]:
        found = outputs[event["outputs"].index(component)]
        return dict(found.get("props", {})) if isinstance(found, dict) else {}

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_error:
            raise SessionError(response.text[:300], response.status_code)
        return response
