"""Parquet files as a source, read without preparing a copy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Features

from sam_variants.labeling.image_content import with_content
from sam_variants.labeling.items import Item, Listed, Part
from sam_variants.labeling.label_rows import ChosenColumns, RowReader, with_image_column
from sam_variants.labeling.stored_files import StoredFile, patiently
from sam_variants.labeling.web_content import is_remote

ROWS_AT_ONCE = 32  # decoded from Parquet at a time
MAX_REMOTE_FOOTERS = 256  # more files than that aren't asked for their row groups when a source is opened
NUM_REQUESTS = 16  # at a time
BUFFER_BYTES = 1 << 20
NUM_PROBES = 8


class Piece(NamedTuple):
    """Row groups of a file that make a part.

    Attributes:
        file: its number.
        groups: the first and the last, plus one; None for all, unknown yet.
        first_row: the number in the file of the first row.
        num_rows: None where it is unknown yet.
        error: why the file can't be read.
    """

    file: int
    groups: tuple[int, int] | None
    first_row: int
    num_rows: int | None
    error: str | None = None


class ParquetSource:
    """Rows of Parquet files; a part is as few whole row groups of a file as have `rows_per_shard` rows.

    A row group that can't be read gives an error for each of its rows, a file whose footer can't be read a single one.

    Args:
        files: at least one.
        columns: those that were named.
        rows_per_shard: the least rows of a part, where the file has as many.
        name: for the description.

    Raises:
        ValueError: no file can be read, columns that aren't there or can't be told, or keys that come twice.
        OSError: a file can't be read now.
    """

    def __init__(self, files: Sequence[StoredFile], columns: ChosenColumns, rows_per_shard: int, name: str) -> None:
        self.files, self.rows_per_shard, self.name = files, rows_per_shard, name
        self.columns = with_image_column(columns, _features(files))
        self._pieces = list(self._all_pieces())
        if not self._pieces:
            raise ValueError(f"{name} has no row")
        if self.columns.key and all(piece.groups for piece in self._pieces) and not is_remote(files[0].path):
            check_keys(self._keys(), self.columns.key)

    def description(self) -> dict[str, Any]:
        """Kind, name and columns."""
        return {"kind": "parquet", "name": self.name, **self.columns.described()}

    def listing(self) -> Iterator[Listed]:
        """The files."""
        return (file.listed() for file in self.files)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """Row groups of one file each."""
        return [
            Part(index, f"{self.files[piece.file].name} from row {piece.first_row}", piece.num_rows)
            for index, piece in enumerate(self._pieces)
        ]

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The rows of a part; row groups before `start` aren't read.

        Raises:
            OSError: the file can't be read now.
        """
        piece = self._pieces[part]
        return with_content(patiently(lambda row: self._rows(piece, row), start), self._probes)

    def _probes(self) -> Iterator[str]:
        for piece in self._pieces[:: max(1, len(self._pieces) // NUM_PROBES)]:
            for item in islice(self._rows(piece, 0), NUM_PROBES):
                yield item.path or ""

    def _rows(self, piece: Piece, start: int) -> Iterator[Item]:
        file = self.files[piece.file]
        if piece.error is not None:
            yield from [Item(f"{file.name}#rest", error=piece.error)][start:]
            return
        with file.open() as opened, _parquet(opened) as parquet:
            row = piece.first_row
            wanted = row + start
            for group in range(*(piece.groups or (0, parquet.num_row_groups))):
                end = row + parquet.metadata.row_group(group).num_rows
                if end > wanted:
                    yield from self._group(parquet, file, group, range(row, end), wanted)
                row = end

    def _group(self, parquet: pq.ParquetFile, file: StoredFile, group: int, rows: range, wanted: int) -> Iterator[Item]:
        """The rows of a group from row `wanted` of the file on."""
        row, reader = rows.start, RowReader(self.columns, os.path.dirname(file.path))
        names = sorted({name for name in parquet.schema_arrow.names if self._is_used(name)})
        try:
            for batch in parquet.iter_batches(ROWS_AT_ONCE, [group], names, use_threads=False):
                skipped = min(max(0, wanted - row), batch.num_rows)
                row += skipped
                for values in batch.slice(skipped).to_pylist():
                    yield reader.item(values, f"{file.name}#{row}")
                    row += 1
        except Exception as error:
            if not _is_broken(error):
                raise
            for number in range(max(row, wanted), rows.stop):
                yield Item(f"{file.name}#{number}", error=f"row group {group} of the file is broken: {error}")

    def _is_used(self, name: str) -> bool:
        return any(used == name or used.startswith(f"{name}.") for used in self.columns.names)

    def _all_pieces(self) -> Iterator[Piece]:
        is_far = is_remote(self.files[0].path)
        if is_far and len(self.files) > MAX_REMOTE_FOOTERS:
            yield from (Piece(index, None, 0, None) for index in range(len(self.files)))
            return
        with ThreadPoolExecutor(NUM_REQUESTS if is_far else 1) as pool:
            for index, counts in enumerate(pool.map(_row_counts, self.files)):
                if isinstance(counts, str):
                    yield Piece(index, (0, 0), 0, 1, counts)
                else:
                    yield from _pieces_of(index, counts, self.rows_per_shard)

    def _keys(self) -> pa.ChunkedArray:
        name = (self.columns.key or "").partition(".")[0]
        readable = sorted({piece.file for piece in self._pieces if piece.error is None})
        tables = [pq.read_table(self.files[index].path, columns=[name]) for index in readable]
        nested = (self.columns.key or "").split(".")[1:]
        column = pa.concat_tables(tables, promote_options="permissive")[name]
        return pc.struct_field(column, nested) if nested else column


def check_keys(keys: pa.ChunkedArray, column: str) -> None:
    """Raises: ValueError, where keys come twice, which names one, or are lists or structs."""
    if pa.types.is_nested(keys.type):
        raise ValueError(f"column {column!r} holds {keys.type}, no keys: these are texts or numbers")
    counts = keys.drop_null().value_counts()
    doubles = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(doubles):
        first = doubles[0].as_py()
        raise ValueError(
            f"{len(doubles)} keys of column {column!r} come more than once ({first['values']!r} {first['counts']} "
            "times); a key names one image: choose another --key-column, or leave it out"
        )


def _parquet(opened: Any) -> pq.ParquetFile:
    """Columns come through a buffer: a row group of pictures may be larger than the memory."""
    return pq.ParquetFile(opened, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _row_counts(file: StoredFile) -> list[int] | str:
    """The rows of each row group, or why the file can't be read."""
    try:
        with file.open() as opened, _parquet(opened) as parquet:
            metadata = parquet.metadata
            return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except Exception as error:
        if not _is_broken(error):
            raise
        return f"the file can't be read as Parquet: {error}"


def _pieces_of(index: int, counts: Sequence[int], rows_per_shard: int) -> Iterator[Piece]:
    first_group = first_row = num_rows = 0
    for group, count in enumerate(counts):
        num_rows += count
        if num_rows >= rows_per_shard or (group == len(counts) - 1 and num_rows):
            yield Piece(index, (first_group, group + 1), first_row, num_rows)
            first_group, first_row, num_rows = group + 1, first_row + num_rows, 0


def _features(files: Sequence[StoredFile]) -> Features:
    """The columns of the first file that can be read."""
    problem = ""
    for file in files:
        try:
            with file.open() as opened, _parquet(opened) as parquet:
                return Features.from_arrow_schema(parquet.schema_arrow)
        except Exception as error:
            if not _is_broken(error):
                raise
            problem = problem or f"{os.fspath(file.path)} can't be read as Parquet: {error}"
    raise ValueError(problem)


def _is_broken(error: Exception) -> bool:
    """Whether what was read is no Parquet, rather than that it couldn't be read: Arrow has OSError for both."""
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
