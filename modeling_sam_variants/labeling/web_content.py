"""Files from the web and object storage: fetched in bounded time, and whose fault it is when one can't be."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from urllib.parse import quote, urlsplit, urlunsplit

import fsspec

from sam_variants.processing.image_loading import URL_PREFIXES

SILENT_SECONDS = 15.0  # how long a server may say nothing
TOTAL_SECONDS = 60.0  # how long one file may take, further attempts included
PROBE_SECONDS = 5.0
WAIT_SECONDS = 1.0  # before the second attempt; four times as long before each further one
NUM_ATTEMPTS = 3
NUM_PROBES = 4
MAX_FILE_BYTES = 1 << 28
PIECE_BYTES = 1 << 16
BUSY = {408, 425, 429, 500, 502, 503, 504}  # statuses that may be another in a moment
PRINTED = "%/:=&?~#+!$,;'@()*[]"  # left as they are in addresses, percent signs because they may be quoted already


class FileMissingError(Exception):
    """A file that there is no use in asking for again."""


class UnreachableError(Exception):
    """Nobody answered: the server's fault, or that of the network here."""


def is_remote(path: str) -> bool:
    """Whether a path is a URL of any kind, not a file here."""
    return "://" in path


class Network:
    """Whether anybody can be reached, so that images aren't blamed for a cable that was pulled.

    Args:
        probes: gives paths and URLs; the URLs are tried when there is doubt.
    """

    def __init__(self, probes: Callable[[], Iterable[str]] = tuple) -> None:
        self._probes = probes
        self._answered = ("", float("-inf"))

    def note_answer(self, url: str) -> None:
        """Somebody answered, whatever it was."""
        self._answered = (url, time.monotonic())

    def is_up(self, since: float) -> bool:
        """Whether anybody answered since a moment (`time.monotonic`), or does now."""
        url, moment = self._answered
        if moment >= since or (url and self._answers(url)):
            return True
        return any(self._answers(probe) for probe in self._probes() if probe.startswith(URL_PREFIXES))

    def _answers(self, url: str) -> bool:
        try:
            urllib.request.urlopen(_request(url, "HEAD"), timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, http.client.HTTPException, ValueError):
            return False
        self.note_answer(url)
        return True


class Download(threading.Thread):
    """Fetches one file. The thread is a daemon: a server that is silent doesn't keep the process from ending.

    Args:
        url: of a web server, or what `fsspec` opens.
        network: is told of answers.
    """

    def __init__(self, url: str, network: Network) -> None:
        super().__init__(name="download", daemon=True)
        self.url, self._network, self.started = url, network, time.monotonic()
        self.is_stopped = False
        self._content: bytes | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        """Try until there is an answer that won't change, or the time is over."""
        wait = WAIT_SECONDS
        for attempt in range(NUM_ATTEMPTS):
            try:
                self._content = self._fetch()
                return
            except (FileMissingError, UnreachableError) as error:
                self._error = error
            except Exception as error:  # a library's own; `content` tells it
                self._error = UnreachableError(f"{type(error).__name__}: {error}")
            is_late = time.monotonic() + wait > self.started + TOTAL_SECONDS
            if isinstance(self._error, FileMissingError) or attempt == NUM_ATTEMPTS - 1 or is_late or self.is_stopped:
                return
            time.sleep(wait)
            wait *= 4

    def content(self) -> bytes:
        """Wait for the file.

        Raises:
            FileMissingError: there is none that can be read.
            UnreachableError: nobody answered.
        """
        self.join(TOTAL_SECONDS + SILENT_SECONDS)
        if self._content is not None:
            return self._content
        raise self._error or UnreachableError(f"it took more than {TOTAL_SECONDS:.0f} seconds")

    def _fetch(self) -> bytes:
        return self._from_web() if self.url.startswith(URL_PREFIXES) else self._from_storage()

    def _from_web(self) -> bytes:
        try:
            with urllib.request.urlopen(_request(self.url), timeout=SILENT_SECONDS) as response:
                self._network.note_answer(self.url)
                announced, content = response.length, self._read(response)
        except urllib.error.HTTPError as error:
            self._network.note_answer(self.url)
            kind = UnreachableError if error.code in BUSY else FileMissingError
            raise kind(f"HTTP {error.code} {error.reason}") from None
        except (socket.gaierror, TimeoutError, OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UnreachableError(str(reason) or type(error).__name__) from None
        except ValueError as error:
            raise FileMissingError(f"it is no URL: {error}") from None
        # `read1` takes a connection that broke for the end.
        if announced is not None and len(content) < announced:
            raise UnreachableError(f"only {len(content)} of {announced} bytes came")
        return content

    def _from_storage(self) -> bytes:
        try:
            with fsspec.open(self.url, "rb") as file:
                content = self._read(file)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            self._network.note_answer(self.url)
            raise FileMissingError(str(error)) from None
        self._network.note_answer(self.url)
        return content

    def _read(self, response: object) -> bytes:
        pieces, num_bytes = [], 0
        # `read` would wait for all of a piece, however slowly it comes.
        read = getattr(response, "read1", None) or response.read  # type: ignore[attr-defined]
        while piece := read(PIECE_BYTES):
            pieces.append(piece)
            num_bytes += len(piece)
            if num_bytes > MAX_FILE_BYTES:
                raise FileMissingError(f"the file has more than {MAX_FILE_BYTES >> 20} MiB")
            if self.is_stopped or time.monotonic() > self.started + TOTAL_SECONDS:
                raise FileMissingError(f"it took more than {TOTAL_SECONDS:.0f} seconds")
        return b"".join(pieces)


def _request(url: str, method: str = "GET") -> urllib.request.Request:
    parts = urlsplit(url)
    quoted = parts._replace(path=quote(parts.path, safe=PRINTED), query=quote(parts.query, safe=PRINTED), fragment="")
    return urllib.request.Request(urlunsplit(quoted), headers={"User-Agent": "sam-variants"}, method=method)
