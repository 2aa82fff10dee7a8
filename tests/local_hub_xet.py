"""Xet storage for the local Hub: the folder that hf_xet's own `local://` store writes, and what lies in it."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORD = 48
END = b"\xff" * 32
HAS_VERIFICATION = 1 << 31
HAS_METADATA = 1 << 30


class XetStore:
    """A content-addressed store in a folder; clients are sent there by its `url`, no server is involved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"local://{folder}"

    def files(self) -> dict[str, tuple[str, int]]:
        """The sha256 of every file in the store → its Xet hash and size."""
        shards = (self.folder / "xet" / "xorbs" / "shards").glob("*.mdb")
        return {sha256: found for shard in shards for sha256, *found in shard_files(shard.read_bytes())}  # type: ignore[misc]

    def hash_of(self, sha256: str) -> str | None:
        found = self.files().get(sha256)
        return found[0] if found else None

    def content(self, sha256: str) -> bytes:
        """A file's bytes, put together again by hf_xet."""
        import hf_xet

        xet_hash, size = self.files()[sha256]
        session: Any = hf_xet.XetSession()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "content")
            with session.new_file_download_group(endpoint=self.url) as group:
                group.start_download_file(hf_xet.XetFileInfo(xet_hash, size), str(target))
            return target.read_bytes()


def shard_files(shard: bytes) -> Iterator[tuple[str, str, int]]:
    """The sha256, Xet hash and size of every file that an MDB shard tells of.

    A shard is a header and records of 48 bytes: per file its hash with flags and the number of its segments, the
    segments, as many verification records, and one record with the sha256, where the flags announce them.
    """
    offset = RECORD
    while shard[offset : offset + 32] != END:
        file_hash = shard[offset : offset + 32]
        flags, segments = struct.unpack("<II", shard[offset + 32 : offset + 40])
        first = offset + RECORD
        lengths = (struct.unpack("<I", shard[first + RECORD * i + 36 :][:4])[0] for i in range(segments))
        offset = first + RECORD * segments * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_METADATA:
            yield printed(shard[offset : offset + 32]), printed(file_hash), sum(lengths)
            offset += RECORD


def printed(value: bytes) -> str:
    """A hash as Xet prints it: four little-endian numbers of 64 bits."""
    return "".join(value[i : i + 8][::-1].hex() for i in range(0, 32, 8))
