"""Image files in folders as a source."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from sam_variants.labeling.file_listing import NO_SIZE, FileTable
from sam_variants.labeling.image_content import with_content
from sam_variants.labeling.items import Item, Listed, Part
from sam_variants.labeling.source_parts import numbered_parts, part_rows


class FileSource:
    """Image files; keys are their paths relative to the folder given.

    Args:
        files: which.
        rows_per_shard: images of a part.

    Raises:
        ValueError: names that can't be told apart as text.
    """

    def __init__(self, files: FileTable, rows_per_shard: int) -> None:
        _check_names(files)
        self.files, self.rows_per_shard = files, rows_per_shard

    def description(self) -> dict[str, Any]:
        """Kind, the folder's name and the number of files; not where it lies, which differs from machine to machine."""
        return {"kind": "files", "name": os.path.basename(self.files.root), "num_images": len(self.files)}

    def listing(self) -> Iterator[Listed]:
        """The files with their sizes and times."""
        for batch in self.files.rows.to_batches(max_chunksize=1 << 14):
            for name, size, stamp in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Listed(printable(name), None if size == NO_SIZE else size, str(stamp))

    @cached_property
    def parts(self) -> Sequence[Part]:
        """Runs of `rows_per_shard` files."""
        return numbered_parts(len(self.files), self.rows_per_shard)

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The files of a part with their content.

        Raises:
            OSError: the folder isn't there any more.
        """
        rows = part_rows(self.parts, self.rows_per_shard, part, start)
        return (_with_text(item) for item in with_content(self._item(row) for row in rows))

    def _item(self, row: int) -> Item:
        return Item(printable(self.files.name(row)), path=os.fsdecode(self.files.path(row)))


def printable(name: bytes) -> str:
    """A file's name as text: bytes that are no UTF-8 are written as \\xff."""
    return name.decode("utf-8", "backslashreplace")


def _with_text(item: Item) -> Item:
    """With a path that can be written to tables."""
    path = printable(os.fsencode(item.path or ""))
    return item if path == item.path else replace(item, path=path)


def _check_names(files: FileTable) -> None:
    """Raises: ValueError, where names that are no UTF-8 would be written as another file's."""
    try:
        files.rows["name"].cast(pa.large_string())
    except pa.ArrowInvalid:
        names = [printable(name) for name in files.rows["name"].to_pylist()]
        double = next((name for name, count in Counter(names).items() if count > 1), None)
        if double is not None:
            raise ValueError(f"two files in {files.root!r} would be called {double!r}: rename one") from None
