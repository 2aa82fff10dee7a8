"""What the requests of all visitors may bring together: bytes on the disk, and bytes in memory.

What counts has come: a request that only says how long it will be takes nothing from the others.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from gradio.utils import get_upload_folder
from starlette.types import Message, Receive

from sam_variants.spaces_demo import limits


class GuardError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Uploaded(NamedTuple):
    """An upload, or a part of one, when and how large."""

    time: float
    num_bytes: int


class UploadBudget:
    """How much all visitors may upload while files are kept, and that the disk does not run full.

    Args:
        max_bytes: in `seconds`.
        seconds: how long files are kept.
        free_bytes: of the disk that must stay.
    """

    def __init__(self, max_bytes: int, seconds: float, free_bytes: int) -> None:
        self.max_bytes, self.seconds, self.free_bytes = max_bytes, seconds, free_bytes
        self._uploads: deque[Uploaded] = deque()
        self._total = 0
        self._lock = Lock()

    def check(self, num_bytes: int) -> None:
        """Refuse an upload for which there is no room; counts nothing."""
        folder = Path(get_upload_folder())
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._forget_old()
            is_full = shutil.disk_usage(folder).free - num_bytes < self.free_bytes
            if is_full or self._total + num_bytes > self.max_bytes:
                raise no_room()

    def take(self, num_bytes: int) -> None:
        """Count in what has come; refuses more than there is room for."""
        with self._lock:
            self._forget_old()
            if self._total + num_bytes > self.max_bytes:
                raise no_room()
            if num_bytes:
                self._uploads.append(Uploaded(time.monotonic(), num_bytes))
                self._total += num_bytes

    def counted(self, receive: Receive) -> Receive:
        """The same messages, each counted in; refuses those that keep it waiting."""
        num_bytes = 0

        async def counting() -> Message:
            nonlocal num_bytes
            message = await in_time(receive)
            # In large pieces, so that there are few of them to remember.
            num_bytes += len(message.get("body", b""))
            if num_bytes > limits.MEBIBYTE or not message.get("more_body", False):
                self.take(num_bytes)
                num_bytes = 0
            return message

        return counting

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._uploads and self._uploads[0].time < now - self.seconds:
            self._total -= self._uploads.popleft().num_bytes


class HeldBodies:
    """Bodies that are read into memory.

    Args:
        max_bytes: of all at once. Short ones are taken all the same: they are what visitors at the page send.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0

    @contextmanager
    def body(self) -> Iterator[Callable[[bytes], bytearray]]:
        """A body to add what comes to; it is counted until the context ends."""
        held = bytearray()

        def add(more: bytes) -> bytearray:
            held.extend(more)
            self.num_bytes += len(more)
            if self.num_bytes > self.max_bytes and len(held) > limits.SHORT_BYTES:
                raise GuardError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "Too many large requests at once. Try again in a minute."
                )
            return held

        try:
            yield add
        finally:
            self.num_bytes -= len(held)


async def in_time(receive: Receive) -> Message:
    """The next part of a request.

    Raises:
        GuardError: when it does not come.
    """
    try:
        message = await asyncio.wait_for(receive(), limits.SILENT_SECONDS)
    except TimeoutError as error:
        raise GuardError(HTTPStatus.REQUEST_TIMEOUT, "The request did not come to its end in time.") from error
    if message["type"] == "http.disconnect":
        raise GuardError(HTTPStatus.BAD_REQUEST, "The request ended too early.")
    return message


def no_room() -> GuardError:
    """The refusal of an upload."""
    return GuardError(HTTPStatus.SERVICE_UNAVAILABLE, "There is no room for more uploads. Try again later.")
