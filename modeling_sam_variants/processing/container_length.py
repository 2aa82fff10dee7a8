"""How many bytes a video file says it has, to tell a file that was cut short from one that simply ends."""

from __future__ import annotations

import os
from typing import BinaryIO

# The top-level boxes of ISO/IEC 14496-12 and QuickTime. What follows an unknown name is not ours to measure: phones
# append data of their own after the last box.
MP4_BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx mfra meta emsg prft pnot udta".split())
MP4_HEADER_BYTES = 8
EBML_MARK = b"\x1aE\xdf\xa3"
MATROSKA_SEGMENT = b"\x18S\x80g"
RIFF_MARK = b"RIFF"
HEAD_BYTES = 12


def promised_bytes(path: str | os.PathLike) -> int | None:
    """The length that the container of a video file announces.

    mp4 and mov announce the length of every box, Matroska and WebM that of their one segment, AVI that of its RIFF
    chunks. A file that is still being written, or whose writer was killed, announces nothing and is no cut file.

    Args:
        path: a local file.

    Returns:
        The offset in bytes at which the announced content ends, larger than the file where the file was cut; None
        where the container announces no length.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        if head[4:8] in MP4_BOXES:
            return _end_of_boxes(file, size)
        if head.startswith(EBML_MARK):
            return _end_of_segment(file)
        if head.startswith(RIFF_MARK):
            return _end_of_chunks(file, size)
    return None


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """Each box starts with its length in 4 bytes and its name; length 1 stands for 8 bytes after the name, 0 for "to
    the end of the file"."""
    end = 0
    while end + MP4_HEADER_BYTES <= size:
        file.seek(end)
        header = file.read(2 * MP4_HEADER_BYTES)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if header[4:8] not in MP4_BOXES or length < MP4_HEADER_BYTES:
            return None
        end += length
    return end


def _end_of_segment(file: BinaryIO) -> int | None:
    """EBML (RFC 8794): an id, then a length whose leading zero bits say of how many bytes it is; all ones: unknown."""
    file.seek(len(EBML_MARK))
    header_length = _read_length(file)
    if header_length is None:
        return None
    file.seek(header_length, os.SEEK_CUR)
    if file.read(len(MATROSKA_SEGMENT)) != MATROSKA_SEGMENT:
        return None
    length = _read_length(file)
    return None if length is None else file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_bytes = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(num_bytes - 1), "big")
    unknown = (1 << 7 * num_bytes) - 1
    length = value & unknown
    return None if length == unknown else length


def _end_of_chunks(file: BinaryIO, size: int) -> int | None:
    """RIFF: a mark, the length that follows in 4 little-endian bytes; large AVI files are a row of such chunks."""
    end = 0
    while end + len(RIFF_MARK) + 4 <= size:
        file.seek(end)
        header = file.read(len(RIFF_MARK) + 4)
        length = int.from_bytes(header[4:], "little")
        if not header.startswith(RIFF_MARK) or length == 0:
            return None
        end += len(header) + length + length % 2
    return end
