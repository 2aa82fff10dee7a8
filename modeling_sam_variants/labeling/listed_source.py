"""Images listed in a text file, URLs given one by one, and files in object storage, as a source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sam_variants.labeling.image_content import with_content
from sam_variants.labeling.items import Item, Listed, Part
from sam_variants.labeling.label_rows import joined
from sam_variants.labeling.source_parts import numbered_parts, part_rows
from sam_variants.labeling.stored_files import StoredFile
from sam_variants.labeling.web_content import is_remote

LINES_AT_ONCE = 1 << 16
NUM_PROBES = 8


class ListedSource:
    """URLs and paths in the order given, each once; they are the keys.

    Args:
        lines: URLs, and paths relative to `folder`.
        folder: of the file that lists them.
        rows_per_shard: images of a part.
        name: for the description.
        files: instead of lines, files below `folder`, with sizes and times for the listing.

    Raises:
        ValueError: there is none.
    """

    def __init__(
        self, lines: Iterable[str], folder: str, rows_per_shard: int, name: str, files: Sequence[StoredFile] = ()
    ) -> None:
        self.folder, self.rows_per_shard, self.name, self._files = folder, rows_per_shard, name, files
        self._lines = _unique((file.name for file in files) if files else lines)
        if not len(self._lines):
            raise ValueError(f"{name} lists no image: a line is a URL or a path")

    def description(self) -> dict[str, Any]:
        """Kind, name and number of images."""
        return {"kind": "list", "name": self.name, "num_images": len(self._lines)}

    def listing(self) -> Iterator[Listed]:
        """The files, or the lines, whose sizes are known when they are read."""
        if self._files:
            return (file.listed() for file in self._files)
        return (Listed(line.as_py(), None, "") for line in self._lines)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """Runs of `rows_per_shard` lines."""
        return numbered_parts(len(self._lines), self.rows_per_shard)

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The images of a part, fetched several at a time.

        Raises:
            OSError: there is no network, or a folder that isn't there any more.
        """
        rows = part_rows(self.parts, self.rows_per_shard, part, start)
        step = max(1, len(self._lines) // NUM_PROBES)
        probed = range(0, len(self._lines), step)
        return with_content(self._items(rows), lambda: (item.path or "" for item in self._items(probed)))

    def _items(self, rows: range) -> Iterator[Item]:
        return (self._item(self._lines[row].as_py()) for row in rows)

    def _item(self, line: str) -> Item:
        is_whole = is_remote(line) or os.path.isabs(line)
        return Item(line, path=line if is_whole else joined(self.folder, line))


def _unique(lines: Iterable[str]) -> pa.LargeStringArray:
    chunks, waiting = [], []
    for line in lines:
        if text := line.strip():
            waiting.append(text)
        if len(waiting) == LINES_AT_ONCE:
            chunks.append(pa.array(waiting, pa.large_string()))
            waiting = []
    chunks.append(pa.array(waiting, pa.large_string()))
    return pc.unique(pa.chunked_array(chunks))
