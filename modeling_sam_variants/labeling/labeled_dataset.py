"""A labeled dataset by row number, finished or not: records, masks and columns, without loading it."""

from __future__ import annotations

import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from sam_variants.labeling.label_schema import FEATURES, to_annotation
from sam_variants.labeling.progress_entries import PROGRESS, ProgressEntries
from sam_variants.labeling.run_identity import read_identity
from sam_variants.labeling.shard_files import DATA, shard_name
from sam_variants.processing.image_loading import rgb_array
from sam_variants.results import Masks

MANIFEST_FILE = "manifest.json"
NO_IMAGE = [name for name in FEATURES if name != "image"]
# What is kept of what was read: row groups without images, with images, and open files.
KEPT_GROUPS, KEPT_IMAGES, KEPT_FILES = 32, 4, 16
BATCH_ROWS = 128

Kept = TypeVar("Kept")


def _masks_of(batch: pa.RecordBatch) -> np.ndarray:
    return pc.list_value_length(batch["objects"]).to_numpy(zero_copy_only=False).astype(np.int32)


def _reduced(field: str, reduce: np.ufunc, nothing: float) -> Callable[[pa.RecordBatch], np.ndarray]:
    """One number for each image out of those of its masks."""

    def values_of(batch: pa.RecordBatch) -> np.ndarray:
        counts = _masks_of(batch)
        values = pc.struct_field(pc.list_flatten(batch["objects"]), field)
        numbers = values.cast(pa.float64()).fill_null(nothing).to_numpy(zero_copy_only=False)
        found = np.full(len(counts), nothing, np.float64)
        starts = (np.cumsum(counts) - counts)[counts > 0]
        if len(starts):
            found[counts > 0] = reduce.reduceat(numbers, starts)
        return found.astype(np.float32)

    return values_of


def _plain(name: str) -> Callable[[pa.RecordBatch], np.ndarray]:
    return lambda batch: batch[name].to_numpy(zero_copy_only=False)


SCORE, AREA = "objects.list.element.score", "objects.list.element.area"
COLUMNS: dict[str, tuple[str, Callable[[pa.RecordBatch], np.ndarray]]] = {
    "num_masks": (AREA, _masks_of),
    "max_score": (SCORE, _reduced("score", np.fmax, np.nan)),
    "min_score": (SCORE, _reduced("score", np.fmin, np.nan)),
    "total_area": (AREA, _reduced("area", np.add, 0)),
    "max_area": (AREA, _reduced("area", np.fmax, 0)),
    "min_area": (AREA, _reduced("area", np.fmin, np.nan)),
    "width": ("width", _plain("width")),
    "height": ("height", _plain("height")),
}
"""Numbers for each image: the column of the file that they are made from, and how. Areas in pixels; NaN for none."""


class LabeledDataset:
    """The images of an output folder by number, in the order of the source; those that failed have no number.

    Safe to use from several threads. Of a run that goes on, the shards that were finished when it was opened.

    Args:
        folder: the output of `sam-variants label`.

    Attributes:
        folder: of the dataset.
        identity: settings and source.
        is_finished: whether the run was finished.

    Raises:
        FileNotFoundError: no such folder, or no output of a labeling run.
        ValueError: it is of another version.
        OSError: it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.identity = read_identity(self.folder)
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Look again which shards there are, after a run went on."""
        manifest = self.folder / MANIFEST_FILE
        try:
            parts, chunks, rows = _arrays(_shards_of_manifest(manifest))
            is_finished = True
        except FileNotFoundError:
            parts, chunks, rows = _arrays(_shards_of_entries(self.folder / PROGRESS))
            is_finished = False
        with self._lock:
            self.is_finished, self._parts, self._chunks = is_finished, parts, chunks
            self._ends = np.cumsum(np.frombuffer(rows, np.int64)) if len(rows) else np.zeros(0, np.int64)
            self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()
            self._groups: dict[bool, OrderedDict[tuple[int, int], pa.Table]] = {
                False: OrderedDict(),
                True: OrderedDict(),
            }

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def num_shards(self) -> int:
        """How many files with rows there are."""
        return len(self._ends)

    def shard_path(self, shard: int) -> Path:
        """The file of a shard, by its number in the order of the rows."""
        return self.folder / DATA / shard_name(self._parts[shard], self._chunks[shard])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row with its image: `image` ({"bytes", "path"}), and what `record` gives."""
        return self._row(index, with_image=True)

    def record(self, index: int) -> dict[str, Any]:
        """A row without its image: `key`, `width`, `height`, and `objects` as they are stored, null where unknown.

        Raises:
            IndexError: there is no such row.
            OSError: its file is missing or damaged.
        """
        return self._row(index, with_image=False)

    def masks(self, index: int) -> Masks:
        """The masks of a row; what only some of them have (such as points, where others have boxes) is left out."""
        return row_masks(self.record(index))

    def picture(self, index: int) -> Image.Image:
        """The image of a row, RGB, turned as EXIF says: what its masks fit.

        Raises:
            ValueError: it can't be read, such as a file that the dataset refers to and that is gone.
        """
        image = self[index]["image"]
        if image["bytes"] is None:
            return Image.fromarray(rgb_array(image["path"]))
        try:
            opened = Image.open(BytesIO(image["bytes"]))
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"the image of row {index} can't be read: {error}") from error
        return Image.fromarray(rgb_array(opened))

    def keys(self) -> pa.ChunkedArray:
        """The keys of all rows."""
        pieces = [batch["key"] for batch in self.batches(["key"])]
        return pa.chunked_array(pieces, pa.string())

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Numbers of all rows, for sorting and filtering, read without the images.

        Args:
            names: of `COLUMNS`; all of them by default.

        Raises:
            KeyError: an unknown name.
            OSError: a file is missing or damaged.
        """
        wanted = {name: COLUMNS[name][1] for name in names or COLUMNS}
        needed = sorted({COLUMNS[name][0] for name in wanted})
        pieces: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
        for batch in self.batches(needed):
            for name, made in wanted.items():
                pieces[name].append(made(batch))
        return {name: np.concatenate(found) if found else np.zeros(0) for name, found in pieces.items()}

    def batches(self, columns: Sequence[str] = NO_IMAGE) -> Iterator[pa.RecordBatch]:
        """All rows in order, some at a time, with these columns of the files."""
        for shard in range(self.num_shards):
            path = self.shard_path(shard)
            try:
                with pq.ParquetFile(path) as file:
                    yield from file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(path, error) from error

    def _row(self, index: int, with_image: bool) -> dict[str, Any]:
        number = range(len(self))[index]
        shard = int(np.searchsorted(self._ends, number, side="right"))
        row = number - (int(self._ends[shard - 1]) if shard else 0)
        try:
            with self._lock:
                group, row = self._group_of(shard, row)
                table = self._group(shard, group, with_image)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.shard_path(shard), error) from error
        return table.slice(row, 1).to_pylist()[0]

    def _group_of(self, shard: int, row: int) -> tuple[int, int]:
        """The row group that a row of a shard lies in, and its place there."""
        metadata = self._file(shard).metadata
        for group in range(metadata.num_row_groups):
            if row < (num_rows := metadata.row_group(group).num_rows):
                return group, row
            row -= num_rows
        raise OSError(f"it has {metadata.num_rows} rows, fewer than it was written with")

    def _file(self, shard: int) -> pq.ParquetFile:
        def opened() -> pq.ParquetFile:
            return pq.ParquetFile(self.shard_path(shard))

        return _kept(self._files, shard, opened, KEPT_FILES)

    def _group(self, shard: int, group: int, with_image: bool) -> pa.Table:
        def read() -> pa.Table:
            columns = None if with_image else NO_IMAGE
            return self._file(shard).read_row_group(group, columns=columns, use_threads=False)

        return _kept(self._groups[with_image], (shard, group), read, KEPT_IMAGES if with_image else KEPT_GROUPS)


def row_masks(record: dict[str, Any]) -> Masks:
    """The masks of a row, with what is known of all of them."""
    annotations = [to_annotation(stored) for stored in record["objects"]]
    shared = set.intersection(*map(set, annotations)) if annotations else set()
    return Masks.from_coco(
        [{name: annotation[name] for name in shared} for annotation in annotations],
        (record["height"], record["width"]),
    )


def _kept(kept: OrderedDict[Any, Kept], key: Any, make: Callable[[], Kept], most: int) -> Kept:
    """A value that is made once and dropped when others were used later."""
    if key not in kept:
        kept[key] = make()
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]


def _unreadable(path: Path, error: Exception) -> OSError:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"the shard {str(path)!r} is missing")
    return OSError(f"the shard {str(path)!r} can't be read: {' '.join(str(error).split())}")


def _arrays(shards: Iterable[tuple[int, int, int]]) -> tuple[array, array, array]:
    """Part, chunk and rows of the shards that have rows."""
    parts, chunks, rows = array("q"), array("q"), array("q")
    for part, chunk, num_rows in shards:
        if num_rows:
            parts.append(part)
            chunks.append(chunk)
            rows.append(num_rows)
    return parts, chunks, rows


def _shards_of_manifest(path: Path) -> Iterator[tuple[int, int, int]]:
    """Part, chunk and rows of every shard: a shard is a line of the manifest."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith('{"file"'):
                try:
                    entry = json.loads(line.rstrip().rstrip(","))
                    yield entry["part"], entry["chunk"], entry["rows"]
                except (ValueError, KeyError) as error:
                    raise OSError(f"{str(path)!r} is damaged: {error!r} in {line[:80]!r}") from error


def _shards_of_entries(folder: Path) -> Iterator[tuple[int, int, int]]:
    entries = ProgressEntries(folder)
    for entry in entries.read_all(entries.in_order()):
        yield entry.part, entry.chunk, entry.rows
