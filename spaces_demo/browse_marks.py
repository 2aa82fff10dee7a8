"""What people found bad in a labeled dataset: a file that only grows, one line for each time they say so."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

FILE_NAME = "marks.jsonl"


@dataclass(frozen=True)
class Mark:
    """One line of the file.

    Attributes:
        key: of the image.
        mask: its number, from 1 in the order of the image's `objects`; None for the image itself.
        bad: what it is from now on.
    """

    key: str
    mask: int | None
    bad: bool

    def line(self) -> bytes:
        """The mark as JSON, with the end of its line."""
        values: dict[str, Any] = {"key": self.key}
        if self.mask is not None:
            values["mask"] = self.mask
        return json.dumps(values | {"bad": self.bad}, ensure_ascii=False).encode() + b"\n"


class Marks:
    """The marks of a dataset, as its file `marks.jsonl` has them; the last line about an image or mask counts.

    What other processes append is read along. All methods may be called from any thread.

    Args:
        folder: of the dataset.

    Attributes:
        path: the file.
        broken: the numbers of lines that are no marks: a process that was killed leaves half of one.

    Raises:
        OSError: for a file that can't be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._lock = Lock()
        self._begin()
        self.read()

    def _begin(self) -> None:
        self.broken: list[int] = []
        self._offset = 0  # bytes that were read
        self._num_lines = 0
        self._images: set[str] = set()
        self._masks: dict[str, set[int]] = {}

    def read(self) -> None:
        """Take in what was appended since the last time; all of it, where the file is shorter than it was."""
        with self._lock:
            self._read()

    def is_bad(self, key: str) -> bool:
        """Whether an image is marked."""
        return key in self._images

    def bad_masks(self, key: str) -> list[int]:
        """The numbers of the marked masks of an image, in order."""
        return sorted(self._masks.get(key, ()))

    @property
    def num_images(self) -> int:
        """How many images are marked."""
        return len(self._images)

    @property
    def num_masks(self) -> int:
        """How many masks are marked."""
        with self._lock:
            return sum(map(len, self._masks.values()))

    def images(self) -> frozenset[str]:
        """The keys of all marked images."""
        with self._lock:
            return frozenset(self._images)

    def put(self, mark: Mark) -> None:
        """Write a mark; when this returns it is on the disk.

        Raises:
            OSError: when it can't be written; then it does not count.
        """
        with self._lock:
            is_new = not self.path.exists()
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(file).st_size
                os.lseek(file, max(size - 1, 0), os.SEEK_SET)
                # In one piece, so that lines of two processes do not mix; what a killed one left ends here.
                os.write(file, (b"" if os.read(file, 1) in (b"", b"\n") else b"\n") + mark.line())
                os.fsync(file)
            finally:
                os.close(file)
            if is_new:
                _sync_folder(self.path.parent)
                self._begin()
            self._read()

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:
                    self._begin()
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            self._begin()
            return
        *lines, _ = added.split(b"\n")  # the end of the last is still to come, or never will
        for line in lines:
            self._offset += len(line) + 1
            self._num_lines += 1
            try:
                self._take(_parsed(line))
            except ValueError:
                self.broken.append(self._num_lines)

    def _take(self, mark: Mark) -> None:
        if mark.mask is None:
            (self._images.add if mark.bad else self._images.discard)(mark.key)
            return
        masks = self._masks.setdefault(mark.key, set())
        (masks.add if mark.bad else masks.discard)(mark.mask)
        if not masks:
            del self._masks[mark.key]


def _parsed(line: bytes) -> Mark:
    """The mark of a line.

    Raises:
        ValueError: when it is none.
    """
    values = json.loads(line)
    if not isinstance(values, dict) or values.keys() - {"mask"} != {"key", "bad"}:
        raise ValueError("these are not the fields of a mark")
    key, mask, bad = values["key"], values.get("mask"), values["bad"]
    is_number = isinstance(mask, int) and not isinstance(mask, bool) and mask >= 1
    if not isinstance(key, str) or not isinstance(bad, bool) or not (mask is None or is_number):
        raise ValueError("a field has a value of another kind")
    return Mark(key, mask, bad)


def _sync_folder(folder: Path) -> None:
    """Have the folder itself remember a new file, also when the power fails; not every system opens folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
