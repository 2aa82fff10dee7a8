"""What is finished: one small file per shard, and the sums over them."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from sam_variants.labeling.shard_files import DATA, ShardFacts, shard_name
from sam_variants.labeling.whole_files import write_whole

PROGRESS = "progress"
ENTRY_NAME = re.compile(r"(\d{6,})-(\d{5,})\.json")
CHUNK_BITS = 32
READERS, READ_AT_ONCE = 16, 256


class Totals(NamedTuple):
    """How far a run is: parts that are finished, images with masks, masks, and images that failed."""

    parts_done: int
    rows: int
    masks: int
    errors: int


@dataclass(frozen=True)
class ShardEntry:
    """A finished shard.

    Attributes:
        file: below the output folder.
        part: of the source.
        chunk: the shards of a part count from 0.
        rows: images with masks.
        masks: of all of them.
        errors: images that couldn't be labeled.
        bytes: of the file.
        sha256: of the file.
        is_last: whether the part ends with it.
        histogram: how many images have 0, 1, 2–3, 4–7, 8–15, … masks.
        failed: key, row within the part and error of each image that couldn't be labeled.
    """

    file: str
    part: int
    chunk: int
    rows: int
    masks: int
    errors: int
    bytes: int
    sha256: str
    is_last: bool
    histogram: list[int]
    failed: list[dict[str, Any]]

    @classmethod
    def of(cls, part: int, chunk: int, facts: ShardFacts, is_last: bool) -> ShardEntry:
        """The entry of a shard that was just written."""
        return cls(
            f"{DATA}/{shard_name(part, chunk)}",
            part,
            chunk,
            facts.rows,
            facts.masks,
            len(facts.failed),
            facts.bytes,
            facts.sha256,
            is_last,
            facts.histogram,
            facts.failed,
        )

    def summary(self) -> dict[str, Any]:
        """All but the list of failed images, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "failed"}


class ProgressEntries:
    """The entries of a run; other processes may add to them at any time.

    A name is looked at once: what is done stays done.

    Args:
        folder: of the entries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[int] = set()
        self._count: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._rows = self._masks = self._errors = self._parts_done = 0
        self._lock = threading.Lock()

    def path(self, part: int, chunk: int) -> Path:
        return self.folder / f"{part:06d}-{chunk:05d}.json"

    def write(self, entry: ShardEntry) -> None:
        """Write an entry, whole or not at all."""
        text = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        write_whole(self.path(entry.part, entry.chunk), text.encode("utf-8", "backslashreplace"))

    def exists(self, part: int, chunk: int) -> bool:
        return self.path(part, chunk).exists()

    def read(self, part: int, chunk: int) -> ShardEntry:
        """One entry.

        Raises:
            FileNotFoundError: it isn't there.
            OSError: it is damaged.
        """
        path = self.path(part, chunk)
        try:
            values = json.loads(path.read_bytes())
            entry = ShardEntry(**{each.name: values[each.name] for each in fields(ShardEntry)})
            if (entry.part, entry.chunk) != (part, chunk):
                raise ValueError(f"it is of part {entry.part}, chunk {entry.chunk}")
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(
                f"{str(path)!r} is damaged ({error!r}): delete it and run the same command again, which labels its "
                "images anew"
            ) from error
        return entry

    def next_chunk(self, part: int) -> int:
        """The first shard of a part that isn't finished, counted from 0."""
        chunk = 0
        while self.exists(part, chunk):
            chunk += 1
        return chunk

    def is_done(self, part: int) -> bool:
        """Whether a part is finished to its end; one look at the disk where it isn't known yet."""
        chunk = self._count.get(part, 0)
        while not self._is_done(part):
            if not self.exists(part, chunk):
                return False
            self._note(part, chunk)
            chunk += 1
        return True

    def _is_done(self, part: int) -> bool:
        return self._count.get(part, 0) == self._last.get(part, -2) + 1

    def _note(self, part: int, chunk: int) -> None:
        """Add an entry to the sums, unless it is there already."""
        if (part, chunk) not in self:
            self._add(self.read(part, chunk))

    def __contains__(self, name: tuple[int, int]) -> bool:
        part, chunk = name
        return part << CHUNK_BITS | chunk in self._seen

    def _add(self, entry: ShardEntry) -> None:
        with self._lock:
            if (entry.part, entry.chunk) in self:
                return
            part = entry.part
            self._seen.add(part << CHUNK_BITS | entry.chunk)
            self._count[part] = self._count.get(part, 0) + 1
            if entry.is_last:
                self._last[part] = entry.chunk
            self._rows += entry.rows
            self._masks += entry.masks
            self._errors += entry.errors
            self._parts_done += self._is_done(part)

    def totals(self) -> Totals:
        """The sums over all entries; those that were counted before are not read again."""
        for entry in self.read_all([name for name in self._names() if name not in self]):
            self._add(entry)
        with self._lock:
            return Totals(self._parts_done, self._rows, self._masks, self._errors)

    def _names(self) -> Iterator[tuple[int, int]]:
        with os.scandir(self.folder) as files:
            for file in files:
                if name := ENTRY_NAME.fullmatch(file.name):
                    yield int(name[1]), int(name[2])

    def read_all(self, names: Sequence[tuple[int, int]]) -> Iterator[ShardEntry]:
        """Entries in the order of their names, many at once: on a network's file system each one takes a while."""
        if len(names) < READ_AT_ONCE:
            yield from (self.read(*name) for name in names)
            return
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(names), READ_AT_ONCE):
                yield from pool.map(lambda name: self.read(*name), names[start : start + READ_AT_ONCE])

    def in_order(self) -> list[tuple[int, int]]:
        """Part and chunk of all entries, in the order of the source."""
        return sorted(self._names())
