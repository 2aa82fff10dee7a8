"""Which image files a folder, a pattern or a list of files means, held compactly: millions are usual."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sam_variants.processing.image_loading import is_image_name

ROWS_AT_ONCE = 1 << 16  # Python objects that exist at a time while a listing is made
NO_SIZE = -1
SCHEMA = pa.schema({"name": pa.large_binary(), "size": pa.int64(), "stamp": pa.int64()})


class FoundFile(NamedTuple):
    """A file: its absolute path, its size in bytes (-1: it can't be told), when it was written in ns."""

    path: bytes
    size: int
    stamp: int


@dataclass(frozen=True)
class FileTable:
    """Files below a folder, sorted by name.

    Attributes:
        root: the folder, absolute.
        rows: the columns name (relative to `root`, as the file system has it), size (bytes) and stamp (ns).
    """

    root: str
    rows: pa.Table

    def __len__(self) -> int:
        return self.rows.num_rows

    def name(self, index: int) -> bytes:
        """The name of a file relative to `root`."""
        return self.rows["name"][index].as_py()

    def path(self, index: int) -> bytes:
        """The absolute path of a file."""
        return os.path.join(os.fsencode(self.root), self.name(index))


def list_images(sources: Sequence[str], recursive: bool, out: Path) -> FileTable:
    """Every image file that is meant, once, sorted by name.

    Names that begin with a dot are left out, of folders too. Links are followed, but not into a folder that they lie
    in. A file named by itself may have any name.

    Args:
        sources: files, folders, and patterns such as `photos/**/*.jpg`.
        recursive: look into the folders below a folder too.
        out: where results go: what a folder or pattern finds there is not taken for images.

    Raises:
        ValueError: for a file that isn't there, a folder or pattern without images, and results among the images.
        OSError: a folder can't be read.
    """
    skip = os.path.realpath(out)
    found = [(source, *_files_of(source, recursive, skip)) for source in sources]
    root = os.path.commonpath([folder for _, folder, _ in found])
    tables = []
    for source, _, files in found:
        tables.append(table_of(files, len(os.fsencode(os.path.join(root, "")))))
        if not tables[-1].num_rows:
            raise ValueError(_nothing_found(source, recursive))
    rows = pa.concat_tables(tables).sort_by("name").combine_chunks()
    return FileTable(root, _without_doubles(rows) if len(sources) > 1 else rows)


def lies_in(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Whether a path is a folder or below it, wherever links lead."""
    real, above = os.path.realpath(path), os.path.realpath(folder)
    return real == above or real.startswith(os.path.join(above, ""))


def _files_of(source: str, recursive: bool, skip: str) -> tuple[str, Iterator[FoundFile]]:
    """The folder that names are relative to, and the files."""
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(path):
        if os.path.realpath(path) == skip:
            raise ValueError(f"--out is the folder of the images, {source!r}; results would be taken for images later")
        return path, _images_in(path, recursive, skip)
    if os.path.lexists(path):
        return os.path.dirname(path), iter([_found(os.fsencode(path))])
    if glob.has_magic(source):
        return _fixed_folder(path), _matches(path, skip)
    raise ValueError(f"there is no image file or folder {source!r}")


def _images_in(folder: str, recursive: bool, skip: str) -> Iterator[FoundFile]:
    """Without recursion of Python's: folders may be nested deeper than it allows."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        path, above = waiting.pop()
        status = os.stat(path)
        inside = above | {(status.st_dev, status.st_ino)}
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    if recursive and _identity(entry) not in inside and os.path.realpath(entry.path) != skip:
                        waiting.append((entry.path, inside))
                elif is_image_name(entry.name):
                    yield _found(os.fsencode(entry.path))


def _identity(entry: os.DirEntry[str]) -> tuple[int, int]:
    status = entry.stat()
    return status.st_dev, status.st_ino


def _found(path: bytes) -> FoundFile:
    try:
        status = os.stat(path)
    except OSError:
        return FoundFile(path, NO_SIZE, 0)
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def _fixed_folder(pattern: str) -> str:
    """The part of a pattern that is a folder whatever matches."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder


def _matches(pattern: str, skip: str) -> Iterator[FoundFile]:
    is_skipped = cache(lambda folder: lies_in(folder, skip))
    for path in glob.iglob(pattern, recursive=True):
        if not os.path.isdir(path) and not is_skipped(os.path.dirname(path)):
            yield _found(os.fsencode(path))


def table_of(files: Iterable[FoundFile], start: int) -> pa.Table:
    """Files, their names from byte `start` of their paths on."""
    batches, waiting = [], []
    for path, size, stamp in files:
        waiting.append((path[start:], size, stamp))
        if len(waiting) == ROWS_AT_ONCE:
            batches.append(_batch(waiting))
            waiting = []
    return pa.Table.from_batches([*batches, _batch(waiting)], SCHEMA)


def _batch(rows: Sequence[tuple[bytes, int, int]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [(), (), ()]
    return pa.record_batch(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA
    )


def _without_doubles(rows: pa.Table) -> pa.Table:
    """Of rows sorted by name the first of each."""
    names = rows["name"].combine_chunks()
    differs = pc.not_equal(names[1:], names[:-1])
    return rows.filter(pa.concat_arrays([pa.array([True]), *pa.chunked_array(differs).chunks]))


def _nothing_found(source: str, recursive: bool) -> str:
    if not os.path.isdir(os.path.expanduser(source)):
        return f"no file fits the pattern {source!r}"
    below = "" if recursive else "; --recursive looks into the folders below"
    return f"the folder {source!r} holds no images{below}"
