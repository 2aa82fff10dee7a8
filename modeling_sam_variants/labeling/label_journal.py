"""Rows of a shard that isn't full yet: a file that grows batch by batch and may break off anywhere."""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sam_variants.labeling.whole_files import sync_folder, write_all

JOURNALS = "journals"
ENDING = ".journal"
MAGIC = b"SVLJ"
# magic, number of the batch's first row in its part, its rows, the payload's bytes; then a checksum over that and the
# payload. 64 bytes, so that what Arrow reads from the payload is aligned.
HEAD = struct.Struct("<4s4xQQQ")
DIGEST_BYTES = 32
HEADER_BYTES = HEAD.size + DIGEST_BYTES
# A machine that vanishes loses what its disk didn't have yet; a process that is killed loses nothing of it.
SYNC_SECONDS = 30.0
PIECE_BYTES = 1 << 20  # copied at once


class Record(NamedTuple):
    """One batch of a journal: its first row within the part, its number of rows, and its content."""

    first_row: int
    num_rows: int
    payload: bytes


class Journal:
    """A journal that is being written, by this object alone.

    Args:
        path: a new file.
        key: 64 bytes or less; records that were written with another one don't count.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self._key = path, key
        path.parent.mkdir(exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._end, self._synced = 0, time.monotonic()

    def append(self, first_row: int, num_rows: int, pieces: Sequence[Any]) -> None:
        """Add a batch: all of it, or nothing and an error.

        Raises:
            OSError: when there is no room.
        """
        head = HEAD.pack(MAGIC, first_row, num_rows, sum(memoryview(piece).nbytes for piece in pieces))
        digest = _digest(self._key, head, *pieces)
        end = os.lseek(self._descriptor, self._end, os.SEEK_SET)
        try:
            for piece in (head, digest, *pieces):
                end += write_all(self._descriptor, piece)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._descriptor)
                self._synced = time.monotonic()
        except BaseException:
            self._cut()
            raise
        self._end = end

    def copy_from(self, path: Path, num_bytes: int) -> None:
        """Begin with the first bytes of another journal.

        Raises:
            FileNotFoundError: the other one is gone.
            OSError: when there is no room.
        """
        try:
            with path.open("rb") as other, open(self._descriptor, "r+b", buffering=0, closefd=False) as own:
                _copy(other, own, num_bytes)
            os.fsync(self._descriptor)  # before anybody removes the other one
            sync_folder(self.path.parent)
        except BaseException:
            self._cut()
            raise
        self._end = num_bytes

    def _cut(self) -> None:
        """Take back what was written of a batch; where that fails too, a reader finds that its checksum is wrong."""
        with suppress(OSError):
            os.ftruncate(self._descriptor, self._end)

    def records(self, first_row: int) -> Iterator[Record]:
        """All batches from the first on.

        Raises:
            OSError: when the file doesn't hold what was written to it.
        """
        whole = 0
        # by descriptor: another process that believed this one dead may have removed the name
        with open(os.dup(self._descriptor), "rb", buffering=0) as file:
            file.seek(0)
            for record, end in read_records(file, self._key, first_row):
                whole = end
                yield record
        if whole != self._end:
            raise OSError(
                f"the journal {str(self.path)!r} is damaged behind byte {whole}: run the same command again, it goes "
                "on from what is whole"
            )

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """Close it for good."""
        self.close()
        self.path.unlink(missing_ok=True)


def read_records(file: Any, key: bytes, first_row: int) -> Iterator[tuple[Record, int]]:
    """The whole batches at the beginning of an open journal, each with where it ends in the file.

    Args:
        file: open for reading bytes.
        key: of its writer.
        first_row: that the first batch must have; each other one follows the one before.
    """
    size, end = os.fstat(file.fileno()).st_size, 0
    while True:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return
        magic, first, num_rows, num_bytes = HEAD.unpack_from(header)
        if magic != MAGIC or first != first_row or end + HEADER_BYTES + num_bytes > size:
            return
        payload = _read(file, num_bytes)
        if len(payload) < num_bytes or _digest(key, header[: HEAD.size], payload) != header[HEAD.size :]:
            return
        end += HEADER_BYTES + num_bytes
        first_row += num_rows
        yield Record(first, num_rows, payload), end


class Found(NamedTuple):
    """A journal on disk: its rows that are whole, and the bytes they take."""

    path: Path
    num_rows: int
    num_bytes: int


def journal_name(part: int, chunk: int) -> str:
    """A name that no other writer has."""
    return f"{part:06d}-{chunk:05d}.{secrets.token_hex(8)}{ENDING}"


def find_journals(folder: Path, part: int, chunk: int, key: bytes, first_row: int) -> list[Found]:
    """The journals of a shard, the one with most rows first."""
    found = []
    for path in _journals(folder, f"{part:06d}-{chunk:05d}."):
        num_rows = num_bytes = 0
        # another process may remove it at this moment
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            for record, end in read_records(file, key, first_row):
                num_rows, num_bytes = num_rows + record.num_rows, end
            found.append(Found(path, num_rows, num_bytes))
    return sorted(found, key=lambda journal: (-journal.num_rows, journal.path.name))


def remove_journals(folder: Path, part: int, before: int) -> None:
    """Remove the journals of a part's shards before this one: they are written."""
    for path in _journals(folder, f"{part:06d}-"):
        if int(path.name.split("-")[1].split(".")[0]) < before:
            path.unlink(missing_ok=True)


def _journals(folder: Path, beginning: str) -> list[Path]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if name.startswith(beginning) and name.endswith(ENDING)]


def _digest(key: bytes, *pieces: Any) -> bytes:
    checksum = hashlib.blake2b(key=key, digest_size=DIGEST_BYTES)
    for piece in pieces:
        checksum.update(piece)
    return checksum.digest()


def _read(file: Any, num_bytes: int) -> bytes:
    """As many bytes as there are up to `num_bytes`: an unbuffered file may give fewer at once."""
    pieces: list[bytes] = []
    while num_bytes and (piece := file.read(num_bytes)):
        pieces.append(piece)
        num_bytes -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _copy(source: Any, target: Any, num_bytes: int, piece_bytes: int = PIECE_BYTES) -> None:
    while num_bytes:
        piece = _read(source, min(piece_bytes, num_bytes))
        if not piece:
            raise OSError(f"the journal {source.name!r} became shorter while it was copied")
        write_all(target.fileno(), piece)
        num_bytes -= len(piece)
