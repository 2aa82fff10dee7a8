"""The content of images that a source only points to: files here, URLs, files in object storage."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from sam_variants.labeling.items import Item
from sam_variants.labeling.web_content import Download, FileMissingError, Network, UnreachableError, is_remote

NUM_DOWNLOADS = 32  # at a time
# What is no fault of the one file: others would fail in the same way, and later perhaps none.
PASSING_ERRORS = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
}
# Of a folder; others, such as a name that is too long, tell that there never was one.
GONE_ERRORS = {errno.ENOENT, errno.EIO, *PASSING_ERRORS}


def with_content(items: Iterable[Item], probes: Callable[[], Iterable[str]] = tuple) -> Iterator[Item]:
    """The items in order, with the content of those that only have a path; what can't be read becomes an error.

    Files here are read in turn, others several at a time.

    Args:
        items: with `encoded`, `path` or `error`.
        probes: gives paths and URLs of other images, which tell whether their disk and the network are there when one
            of this folder or server can't be reached.

    Raises:
        OSError: images can't be read now, but perhaps later: no network, a folder that isn't there any more.
    """
    network = Network(probes)
    window: deque[tuple[Item, Download | None]] = deque()
    try:
        for item in items:
            is_fetched = item.encoded is None and item.error is None and is_remote(item.path or "")
            if not is_fetched and not window:
                yield _read_here(item, probes)
                continue
            window.append((item, Download(item.path or "", network) if is_fetched else None))
            if len(window) == NUM_DOWNLOADS:
                yield _next_of(window, network, probes)
        while window:
            yield _next_of(window, network, probes)
    finally:
        for _, download in window:
            if download is not None:
                download.is_stopped = True


def _next_of(
    window: deque[tuple[Item, Download | None]], network: Network, probes: Callable[[], Iterable[str]]
) -> Item:
    item, download = window.popleft()
    if download is None:
        return _read_here(item, probes)
    try:
        return _filled(item, download.content())
    except FileMissingError as error:
        return _failed(item, f"it can't be fetched: {error}")
    except UnreachableError as error:
        if not network.is_up(download.started) and not _any_arrives(window):
            raise OSError(f"{item.path} can't be reached, and nothing else can: {error}") from None
        return _failed(item, f"it can't be fetched: {error}")


def _any_arrives(window: Iterable[tuple[Item, Download | None]]) -> bool:
    for _, download in window:
        try:
            if download is not None:
                download.content()
                return True
        except FileMissingError:
            return True
        except UnreachableError:
            pass
    return False


def _read_here(item: Item, probes: Callable[[], Iterable[str]]) -> Item:
    if item.encoded is not None or item.error is not None:
        return item
    if item.path is None:
        return _failed(item, "there is neither an image nor a path to one")
    try:
        return _filled(item, read_file(item.path))
    except ValueError as error:  # a zero byte in the path
        return _failed(item, f"the path can't be read: {error}")
    except OSError as error:
        is_gone = _is_gone(os.path.dirname(item.path)) and not any(map(_is_here, probes()))
        if error.errno in PASSING_ERRORS or is_gone:
            raise
        return _failed(item, f"the file can't be read: {error.strerror or error}")


def read_file(path: str) -> bytes:
    """The content of a file. Raises: OSError, also for what is no file."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would be to wait for ever
        raise OSError(errno.EINVAL, "it is no regular file", path)
    with open(path, "rb") as file:
        return file.read()


def _is_gone(folder: str) -> bool:
    """Whether a folder has nothing in it, as where a disk isn't mounted any more."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError as error:
        return error.errno in GONE_ERRORS


def _is_here(path: str) -> bool:
    return not is_remote(path) and os.path.isfile(path)


def _filled(item: Item, content: bytes) -> Item:
    return replace(item, encoded=content) if content else _failed(item, "the file is empty")


def _failed(item: Item, error: str) -> Item:
    return Item(item.key, path=item.path, error=error)
