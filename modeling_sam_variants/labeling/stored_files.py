"""Files of a dataset wherever they lie: this machine, the Hub, object storage, a web server."""

from __future__ import annotations

import glob
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec

from sam_variants.labeling.file_listing import lies_in
from sam_variants.labeling.items import Item, Listed
from sam_variants.labeling.web_content import is_remote

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
STAMPS = ("blob_id", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated")
NUM_ATTEMPTS = 4
WAIT_SECONDS = 1.0  # before the second attempt; twice as long before each further one


class StoredFile(NamedTuple):
    """A file of a dataset.

    Attributes:
        name: relative to the folder that all of them lie in.
        path: absolute, or a URL.
        size: in bytes, None where its server doesn't say.
        stamp: what changes when it is written again.
    """

    name: str
    path: str
    size: int | None
    stamp: str

    def open(self) -> IO[bytes]:
        """To be read at any place. Raises: OSError."""
        return fsspec.open(self.path, "rb").open() if is_remote(self.path) else open(self.path, "rb")

    def listed(self) -> Listed:
        """For a source's listing."""
        return Listed(self.name, self.size, self.stamp)


def stored_files(patterns: Sequence[str], out: Path | None = None) -> list[StoredFile]:
    """The files that paths, URLs and patterns mean, each once, sorted by name.

    Args:
        patterns: with * and **, and braces: `{000..099}` and `{train,test}`.
        out: a folder here whose files are left out.

    Raises:
        ValueError: there is no such file.
        OSError: a server doesn't answer.
    """
    found: dict[str, tuple[int | None, str]] = {}
    for pattern in patterns:
        expanded_patterns = [pattern] if os.path.isfile(pattern) else list(expand_braces(pattern))
        if not expanded_patterns:
            raise ValueError(f"there is nothing in the range of {pattern!r}: it goes up, as in {{000..099}}")
        for expanded in expanded_patterns:
            matches = dict(_remote_files(expanded) if is_remote(expanded) else _files_here(expanded, out))
            if not matches:
                raise ValueError(f"no file fits the pattern {expanded!r}")
            found |= matches
    root = common_folder(list(found))
    return sorted(StoredFile(path[len(root) :], path, *rest) for path, rest in found.items())


def expand_braces(pattern: str) -> Iterator[str]:
    """`{000..002}` and `{a,b}` written out; other braces stay."""
    pieces, end = [], 0
    for match in BRACES.finditer(pattern):
        bounds = RANGE.fullmatch(match[1])
        if bounds:
            first, last, width = int(bounds[1]), int(bounds[2]), len(bounds[1])
            choices = [f"{number:0{width}d}" for number in range(first, last + 1)]
        elif "," in match[1]:
            choices = match[1].split(",")
        else:
            continue
        pieces += [[pattern[end : match.start()]], choices]
        end = match.end()
    return map("".join, itertools.product(*pieces, [pattern[end:]]))


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all files lie in, with a slash at its end; `os.path.commonpath` would take one from a URL's."""
    levels = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    common = itertools.takewhile(lambda names: len(set(names)) == 1, levels)
    return "".join(f"{names[0]}/" for names in common)


def _files_here(pattern: str, out: Path | None) -> Iterator[tuple[str, tuple[int, str]]]:
    path = os.path.abspath(os.path.expanduser(pattern))
    if not os.path.exists(path) and not glob.has_magic(path):
        raise ValueError(f"there is no file {pattern!r}")
    for name in [path] if os.path.exists(path) else glob.iglob(path, recursive=True):
        if os.path.isfile(name) and not (out is not None and lies_in(os.path.dirname(name), out)):
            status = os.stat(name)
            yield name, (status.st_size, str(status.st_mtime_ns))


def _remote_files(pattern: str) -> Iterator[tuple[str, tuple[int | None, str]]]:
    try:
        storage, path = fsspec.core.url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{pattern!r} can't be opened: {error}") from error
    try:
        found = storage.glob(path, detail=True) if glob.has_magic(path) else {path: storage.info(path)}
    except FileNotFoundError:
        raise ValueError(f"there is no file {pattern!r}") from None
    for name, details in found.items():
        if details.get("type", "file") == "file":
            yield storage.unstrip_protocol(name), (details.get("size"), stamp_of(details))


def stamp_of(details: dict[str, Any]) -> str:
    """What a file system tells of a file that changes when it is written again."""
    return next((str(details[key]) for key in STAMPS if details.get(key)), "")


def patiently(read: Callable[[int], Iterator[Item]], start: int) -> Iterator[Item]:
    """What `read` gives from a row on; where a server fails it goes on at the row where that happened.

    Raises:
        OSError: it failed several times in a row.
    """
    row, num_failures = start, 0
    while True:
        try:
            for item in read(row):
                yield item
                row, num_failures = row + 1, 0
            return
        except OSError:
            num_failures += 1
            if num_failures == NUM_ATTEMPTS:
                raise
            time.sleep(WAIT_SECONDS * 2 ** (num_failures - 1))
