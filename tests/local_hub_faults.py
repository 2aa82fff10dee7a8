"""Faults of the local Hub: which requests they meet, and what then happens instead of the truth."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

# What the real Hub means by a bare 401 or 404 about a repository.
CODES = {401: "RepoNotFound", 404: "RepoNotFound"}


@dataclass
class Fault:
    """One way to fail, for the requests of a method and a path pattern; see `LocalHub.fail`."""

    method: str
    path: str
    status: int | None = None
    error_code: str = ""
    message: str = "told by a fault of the local Hub"
    headers: dict[str, Any] = field(default_factory=dict)
    cut: int | None = None
    truncate: int | None = None
    garbage: bool = False
    lose_answer: bool = False
    slow: float = 0.0
    times: int | None = None
    hits: int = 0

    def meets(self, method: str, path: str) -> bool:
        healthy_again = self.times is not None and self.hits >= self.times
        return not healthy_again and fnmatchcase(method, self.method) and fnmatchcase(path, self.path)

    def cuts_upload(self, headers: Any) -> bool:
        has_body = "Transfer-Encoding" in headers or int(headers.get("Content-Length") or 0) > 0
        return self.cut is not None and has_body

    def damaged(self, content: bytes) -> bytes:
        if self.garbage:
            content = bytes(byte ^ 0x5A for byte in content)
        return content if self.truncate is None else content[: self.truncate]

    def stop(self) -> None:
        """Be healthy from now on."""
        self.times = self.hits


class Faults:
    """All faults of a Hub; of several that meet a request the first one acts."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    def next_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.meets(method, path):
                    fault.hits += 1
                    return fault
        return None
