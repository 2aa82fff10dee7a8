"""Shards: Parquet files that are written from a journal, row group by row group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam_variants.labeling.items import FailedImage, LabeledImage
from sam_variants.labeling.label_schema import (
    RAW_COLUMN,
    REFERENCE,
    SCHEMA,
    UNIQUE_COLUMNS,
    is_text,
    rows_to_batch,
    schema_with,
)
from sam_variants.labeling.whole_files import whole_file

DATA = "data"
# A row group is what a reader holds at least.
GROUP_ROWS = 100
GROUP_BYTES = 32 << 20
MAX_ERROR_CHARACTERS = 500
LENGTH_BYTES = 8


class ShardFacts(NamedTuple):
    """What is known of a shard that was written.

    Attributes:
        rows: images with masks.
        masks: of all of them.
        bytes: of the file.
        sha256: of the file.
        histogram: how many images have 0, 1, 2–3, 4–7, 8–15, … masks.
        failed: the images that couldn't be labeled: key, row within the part, error.
    """

    rows: int
    masks: int
    bytes: int
    sha256: str
    histogram: list[int]
    failed: list[dict[str, Any]]


def shard_name(part: int, chunk: int) -> str:
    """The file of a part's shard."""
    return f"{part:06d}-{chunk:05d}.parquet"


def pack(batch: Sequence[LabeledImage | FailedImage], first_row: int, mode: str) -> list[Any]:
    """A batch as the payload of a journal's record.

    Raises:
        ValueError: an image that can't be stored.
    """
    batch = [_storable(image, mode) for image in batch]
    labeled = [image for image in batch if isinstance(image, LabeledImage)]
    failed = [
        {"key": image.key, "row": first_row + place, "error": " ".join(image.error.split())[:MAX_ERROR_CHARACTERS]}
        for place, image in enumerate(batch)
        if isinstance(image, FailedImage)
    ]
    if len(labeled) + len(failed) != len(batch):
        raise TypeError(f"a batch holds LabeledImage and FailedImage, got {sorted({type(i).__name__ for i in batch})}")
    text = json.dumps(failed, ensure_ascii=False).encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % LENGTH_BYTES)  # Arrow reads faster what is aligned
    return [len(text).to_bytes(LENGTH_BYTES, "little"), text, rows_to_batch(labeled, mode).serialize()]


def _storable(image: LabeledImage | FailedImage, mode: str) -> LabeledImage | FailedImage:
    """A file whose name is no text can be labeled, but not referred to: that is no reason to end a run."""
    if mode == REFERENCE and isinstance(image, LabeledImage) and not is_text(image.item.path or ""):
        return FailedImage(image.item.key, "a file whose name is no UTF-8 can't be referred to: rename it")
    return image


def unpack(payload: bytes) -> tuple[pa.RecordBatch, list[dict[str, Any]]]:
    """What `pack` was given: the rows, and the images that failed."""
    length = int.from_bytes(payload[:LENGTH_BYTES], "little")
    failed = json.loads(payload[LENGTH_BYTES : LENGTH_BYTES + length])
    rows = pa.py_buffer(payload)[LENGTH_BYTES + length :]
    return pa.ipc.read_record_batch(rows, SCHEMA), failed


def write_shard(path: Path, payloads: Iterable[bytes], metadata: Mapping[str, Any]) -> ShardFacts:
    """Write one shard, whole or not at all; in memory are a row group and a batch.

    The same payloads give the same file, byte for byte, with the same version of Arrow.

    Raises:
        OSError: when it can't be written, or the payloads can't be read.
    """
    failed: list[dict[str, Any]] = []
    counts: list[np.ndarray] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for payload in payloads:
            batch, errors = unpack(payload)
            failed.extend(errors)
            counts.append(pc.list_value_length(batch["objects"]).to_numpy(zero_copy_only=False))
            yield batch

    with whole_file(path) as draft:
        writer = pq.ParquetWriter(draft, schema_with(metadata), **_writer_options())
        try:
            for group in _row_groups(batches()):
                writer.write_table(group, row_group_size=len(group))
            writer.close()
        finally:
            writer.is_open = False  # after an error nothing more may be written
    masks = np.concatenate([np.zeros(0, int), *counts]).astype(int)
    return ShardFacts(len(masks), int(masks.sum()), draft.num_bytes, draft.sha256, histogram(masks), failed)


def histogram(masks: np.ndarray) -> list[int]:
    """How many images have 0, 1, 2–3, 4–7, 8–15, … masks."""
    bins = np.ceil(np.log2(masks + 1)).astype(int)
    return np.bincount(bins).tolist()


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in groups that depend on nothing but the rows."""
    waiting: list[pa.RecordBatch] = []
    num_rows = num_bytes = 0
    for batch in batches:
        sizes = pc.binary_length(batch["image"].field("bytes")).fill_null(0).to_pylist()
        start = 0
        for row, size in enumerate(sizes):
            if num_rows and (num_rows == GROUP_ROWS or num_bytes + size > GROUP_BYTES):
                yield _table([*waiting, batch.slice(start, row - start)])
                waiting, start, num_rows, num_bytes = [], row, 0, 0
            num_rows, num_bytes = num_rows + 1, num_bytes + size
        waiting.append(batch.slice(start))
    if num_rows:
        yield _table(waiting)


def _table(batches: list[pa.RecordBatch]) -> pa.Table:
    # in one piece: where pieces meet, pages could end, and batches are none of the file's business
    return pa.Table.from_batches(batches, SCHEMA).combine_chunks()


@cache
def _writer_options() -> dict[str, Any]:
    """How columns are written: image files as they are, the rest compressed; made for deduplicating storage."""
    empty = BytesIO()
    with pq.ParquetWriter(empty, SCHEMA):
        pass
    columns = pq.ParquetFile(empty).schema
    paths = [columns.column(index).path for index in range(len(columns.names))]
    return {
        "compression": {path: "none" if path == RAW_COLUMN else "zstd" for path in paths},
        "use_dictionary": [path for path in paths if path not in UNIQUE_COLUMNS],
        "write_statistics": [path for path in paths if path != RAW_COLUMN],
        "write_page_index": True,
        "use_content_defined_chunking": True,
    }
