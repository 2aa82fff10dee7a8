"""Files that appear under their name when they are complete, and stay after the power fails."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

DRAFT = re.compile(r"\..+\.[0-9a-f]{16}\.draft(\.part)?")
# A draft that nobody has written to for so long was left by a process that was killed.
STALE_SECONDS = 600
BUFFER_BYTES = 1 << 20
# What file systems say that can't synchronize a folder, or don't need to.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EBADF}


def draft_path(path: Path) -> Path:
    """A hidden name beside `path` that no other writer has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.draft")


def write_all(descriptor: int, data: Any) -> int:
    """Write all bytes of a buffer, which the system may do in several steps, and return their number.

    Raises:
        OSError: when there is no room; a part may have been written.
    """
    rest = memoryview(data).cast("B")
    total = rest.nbytes
    while rest.nbytes:
        rest = rest[os.write(descriptor, rest) :]
    return total


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last, as `fsync` does the content of a file."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in NO_FOLDER_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


class Draft(io.RawIOBase):
    """A file under a draft's name, with the sha256 of what was written to it.

    Attributes:
        path: where it lies.
        num_bytes: how much was written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.num_bytes, self._hash, self._waiting = path, 0, hashlib.sha256(), bytearray()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.closed:  # its descriptor may belong to another file by now
            raise ValueError(f"{str(self.path)!r} is closed")
        data = memoryview(data).cast("B")
        self._hash.update(data)
        self.num_bytes += data.nbytes
        if len(self._waiting) + data.nbytes < BUFFER_BYTES:
            self._waiting += data
        else:
            self._write_waiting()
            write_all(self._descriptor, data)
        return data.nbytes

    def _write_waiting(self) -> None:
        write_all(self._descriptor, self._waiting)
        self._waiting = bytearray()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Wait until the disk has it all, and close the file."""
        self._write_waiting()
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Draft]:
    """A draft that becomes `path` at the end of the block, in place of what was there; an error removes it.

    Raises:
        OSError: when it can't be written; `path` is as it was.
    """
    draft = Draft(draft_path(path))
    try:
        yield draft
        draft.finish()
        os.replace(draft.path, path)
    except BaseException:
        with suppress(OSError):
            draft.close()
        with suppress(OSError):
            os.unlink(draft.path)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """The same for writers that open files themselves: the name that they write to, `.part` behind it while they do."""
    draft = draft_path(path)
    try:
        yield draft
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, path)
    except BaseException:
        for leftover in (draft, draft.with_name(f"{draft.name}.part")):
            with suppress(OSError):
                os.unlink(leftover)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file at once."""
    with whole_file(path) as draft:
        draft.write(data)


def write_first(path: Path, data: bytes) -> bool:
    """Write a small file unless there is one of that name, and tell whether it was written.

    Of several processes that do this at once one succeeds, where the file system has hard links.
    """
    draft = Draft(draft_path(path))
    try:
        draft.write(data)
        draft.finish()
        try:
            os.link(draft.path, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            if path.exists():
                return False
            os.replace(draft.path, path)
    finally:
        with suppress(OSError):
            draft.close()
        with suppress(OSError):
            os.unlink(draft.path)
    sync_folder(path.parent)
    return True


def remove_drafts(folder: Path, stale_seconds: float = STALE_SECONDS) -> None:
    """Remove drafts that nobody has written to for a while: what killed processes left."""
    with suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            with suppress(OSError):
                if DRAFT.fullmatch(file.name) and time.time() - file.stat().st_mtime >= stale_seconds:
                    os.unlink(file.path)
