"""What `datasets` opens as a source: with row numbers, or as a stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError

from sam_variants.labeling.image_content import with_content
from sam_variants.labeling.items import Item, Listed, Part
from sam_variants.labeling.label_rows import ChosenColumns, RowReader, with_image_column
from sam_variants.labeling.parquet_source import check_keys
from sam_variants.labeling.source_parts import numbered_parts, part_rows
from sam_variants.labeling.stored_files import StoredFile, patiently
from sam_variants.training.mask_folders import pick_split

NUM_TOLD_BY = 8  # rows that tell the columns of a stream that doesn't
NUM_PROBES = 8


@dataclass(frozen=True)
class Opening:
    """How a dataset is opened, in every process that reads it.

    Attributes:
        path: a folder of `save_to_disk`, a dataset's name or folder, or the name of a form such as "json".
        options: further arguments of `load_dataset`; None for `load_from_disk`.
        split: which.
        name: for descriptions and keys.
        files: what it is made of.
        folder: what relative paths in rows are relative to.
    """

    path: str
    options: Mapping[str, Any] | None
    split: str | None
    name: str
    files: tuple[StoredFile, ...]
    folder: str = ""

    def rows(self) -> Dataset:
        """All rows, by number.

        Raises:
            ValueError: there is no row, what is no table, no such split.
            OSError: it can't be read now.
        """
        if self.options is not None:
            return self._prepared(self.options)
        loaded = load_from_disk(self.path)
        if isinstance(loaded, Mapping):
            return pick_split(loaded, self.split)
        if self.split is not None:
            raise ValueError(f"{self.name} is one split already: leave out split={self.split!r}")
        return loaded

    def _prepared(self, options: Mapping[str, Any]) -> Dataset:
        cache = {}
        if os.path.isdir(self.path):
            # `datasets` would take what it prepared of a folder with a README, whatever became of the files since.
            digest = hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]
            cache = {"cache_dir": os.path.join(datasets.config.HF_DATASETS_CACHE, f"files-{digest}")}
        try:
            return load_dataset(self.path, split=self.split, **options, **cache)
        except StopIteration:
            raise ValueError(f"{self.name} has no row") from None
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        except DatasetGenerationError as error:
            kind = OSError if isinstance(error.__cause__, OSError) else ValueError
            raise kind(f"{self.name} can't be read: {error.__cause__ or error}") from error

    def stream(self) -> IterableDataset:
        """All rows, in order. Raises: ValueError and OSError of `datasets`."""
        return load_dataset(self.path, split=self.split, streaming=True, **(self.options or {}))

    def description(self, kind: str, columns: ChosenColumns) -> dict[str, Any]:
        """For a source's description."""
        split = {"split": self.split} if self.split else {}
        return {"kind": kind, "name": self.name, **split, **columns.described()}


class DatasetSource:
    """Rows of a `datasets.Dataset`, by number. A pickled one opens the dataset again where it arrives.

    Args:
        opening: where it comes from.
        columns: those that were named.
        rows_per_shard: rows of a part.

    Raises:
        ValueError: columns that aren't there or can't be told, or keys that come twice.
        OSError: it can't be opened.
    """

    def __init__(self, opening: Opening, columns: ChosenColumns, rows_per_shard: int) -> None:
        self.opening, self.rows_per_shard = opening, rows_per_shard
        rows = opening.rows()
        self.columns = with_image_column(columns, rows.features)
        self.num_rows = len(rows)
        if not self.num_rows:
            raise ValueError(f"{opening.name} has no row")
        self._rows = undecoded(rows, self.columns, rows.features)
        if self.columns.key is not None and self.columns.key in rows.column_names:
            check_keys(pa.chunked_array(rows.with_format("arrow")[:][self.columns.key].chunks), self.columns.key)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_rows", "parts")}

    def description(self) -> dict[str, Any]:
        """Kind, name, split, columns and number of rows."""
        return {**self.opening.description("dataset", self.columns), "num_rows": self.num_rows}

    def listing(self) -> Iterator[Listed]:
        """The files that it was made of."""
        return (file.listed() for file in self.opening.files)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """Runs of `rows_per_shard` rows."""
        return numbered_parts(self.num_rows, self.rows_per_shard)

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The rows of a part.

        Raises:
            OSError: the dataset can't be opened, or images that it points to can't be read now.
        """
        if not hasattr(self, "_rows"):
            rows = self.opening.rows()
            self._rows = undecoded(rows, self.columns, rows.features)
        reader = RowReader(self.columns, self.opening.folder, has_cached_files=True)
        label = self.opening.split or self.opening.name
        numbers = part_rows(self.parts, self.rows_per_shard, part, start)
        probed = range(0, self.num_rows, max(1, self.num_rows // NUM_PROBES))
        return with_content(
            (self._item(reader, row, f"{label}#{row}") for row in numbers),
            lambda: (self._item(reader, row, "").path or "" for row in probed),
        )

    def _item(self, reader: RowReader, row: int, key: str) -> Item:
        try:
            return reader.item(self._rows[row], key)
        except (ValueError, TypeError, pa.ArrowException) as error:
            return Item(key, error=f"the row can't be read: {error}")


class StreamSource:
    """Rows of a `datasets.IterableDataset`; a part is a shard of it. A shard that breaks off ends with its error.

    Args:
        opening: where it comes from.
        columns: those that were named.

    Raises:
        ValueError: columns that aren't there or can't be told.
        OSError: it can't be opened.
    """

    def __init__(self, opening: Opening, columns: ChosenColumns) -> None:
        self.opening = opening
        stream = opening.stream()
        self.num_parts = stream.num_shards
        self.features = stream.features or Dataset.from_list(list(stream.take(NUM_TOLD_BY))).features
        self.columns = with_image_column(columns, self.features)
        self._stream = undecoded(stream, self.columns, self.features)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_stream", "parts")}

    def description(self) -> dict[str, Any]:
        """Kind, name, split and columns."""
        return self.opening.description("stream", self.columns)

    def listing(self) -> Iterator[Listed]:
        """The files that are streamed."""
        return (file.listed() for file in self.opening.files)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The shards, whose lengths are unknown."""
        return [Part(index, f"shard {index}", None) for index in range(self.num_parts)]

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The rows of a shard.

        Raises:
            OSError: it can't be read now.
        """
        if not hasattr(self, "_stream"):
            self._stream = undecoded(self.opening.stream(), self.columns, self.features)
        if not 0 <= part < self.num_parts:
            raise IndexError(f"there is no part {part}: the source has {self.num_parts}")
        return with_content(patiently(lambda row: self._items(part, row), start))

    def _items(self, part: int, start: int) -> Iterator[Item]:
        reader = RowReader(self.columns, self.opening.folder)
        label = f"{self.opening.split or self.opening.name}-{part}"
        shard = self._stream.shard(self.num_parts, part)
        row = start
        try:
            for values in shard.skip(start) if start else shard:
                yield reader.item(values, f"{label}#{row}")
                row += 1
        except OSError:
            raise
        except Exception as error:
            # Where passing over rows failed already, whether the error is among them only counting tells.
            if row > start or not start or _num_readable(shard) >= start:
                yield Item(f"{label}#rest", error=f"the shard is broken after {row} rows: {error}")


def _num_readable(shard: IterableDataset) -> int:
    count = 0
    try:
        for _ in shard:
            count += 1
    except Exception:
        return count
    return count


def undecoded(rows: Any, columns: ChosenColumns, features: Features) -> Any:
    """Only the columns that are used, pictures as their bytes and paths."""
    used = [name for name in features if any(name == n or n.startswith(f"{name}.") for n in columns.names)]
    if isinstance(rows, IterableDataset) and rows.features:
        return rows.decode(False).select_columns(used)  # images of the Hub are fetched and decoded in threads else
    rows = rows.select_columns(used).with_format(None)
    for name in used:
        if isinstance(features[name], ImageFeature) and isinstance(rows, Dataset):
            rows = rows.cast_column(name, ImageFeature(decode=False))
    return rows
