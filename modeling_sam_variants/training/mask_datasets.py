"""Any dataset of images and masks, row by row as `MaskedImage`."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from datasets import Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node
from datasets.fingerprint import Hasher

from sam_variants.processing.image_loading import rgb_array
from sam_variants.training.label_images import as_picture
from sam_variants.training.mask_adapters import READERS, SEVERAL_VALUES, VOID_ALONE, RowMasks, parsed_text
from sam_variants.training.mask_columns import KINDS, NO_VOID, MaskColumns, feature_text, find_columns
from sam_variants.training.mask_folders import open_source
from sam_variants.training.masked_image import MaskedImage

ROWS_TO_LOOK_AT = 32
EMPTY = "empty masks"


def open_masks(
    source: Any,
    *,
    split: str | None = None,
    streaming: bool = False,
    columns: MaskColumns | Mapping[str, Any] | None = None,
    min_pixels: int = 1,
    max_objects: int | None = None,
    config: str | None = None,
    images: str | Path | None = None,
) -> MaskDataset:
    """Open images with masks, whatever form the masks have.

    Args:
        source: a `datasets` object; the id of a dataset on the Hub; or a folder or file here: `images/` beside `masks/`
            (a label map of the same name, or a folder of pictures per image), a COCO file with its images, an image
            folder with `metadata.jsonl`, parquet, or what `save_to_disk` wrote.
        split: which, where there are several.
        streaming: read rows one after another, without length.
        columns: what isn't found by itself, such as {"image": "photo", "masks": "labels", "kind": "components"}; see
            `MaskColumns`.
        min_pixels: smaller objects are left out, and counted.
        max_objects: more objects of an image than that are left out, and counted; the ones that stay are spread evenly
            over the sizes. What is left out is not decoded.
        config: which configuration of a dataset on the Hub that has several.
        images: the folder of the images of a COCO file, where it isn't beside the file.

    Raises:
        ValueError: no such split or column, none or several that could be meant, or a number out of range.
        OSError: there is no such dataset.
        TypeError: `source` is none of these.
    """
    if min_pixels < 1 or (max_objects is not None and max_objects < 1):
        raise ValueError(f"min_pixels={min_pixels} and max_objects={max_objects} must be 1 or more")
    opened = open_source(source, split, streaming, config, images)
    return MaskDataset(opened.dataset, columns, min_pixels, max_objects, opened.name, opened.files)


class MaskDataset:
    """Rows of a dataset as `MaskedImage`, read when they are asked for.

    Rows without objects come with masks of 0×H×W. With a number of rows: `len`, indexing and iterating, in any number
    of processes (it can be pickled). Streaming: iterating only; a PyTorch worker gets its own share of the shards.

    Attributes:
        found: the columns, everything filled in.
        skipped: what was no object in the rows read so far in this process, by reason.
        streaming: whether there are no row numbers.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        columns: MaskColumns | Mapping[str, Any] | None = None,
        min_pixels: int = 1,
        max_objects: int | None = None,
        name: str = "dataset",
        files: str = "",
    ) -> None:
        wanted = MaskColumns.of(columns)
        self.streaming = isinstance(dataset, IterableDataset)
        self.min_pixels, self.max_objects, self.name = min_pixels, max_objects, name
        self.skipped: Counter[str] = Counter()
        self._files = files
        self._features = dataset.features
        self._void_is_assumed, self._kind_is_assumed = wanted.void is None, wanted.kind is None
        is_transformed = not self.streaming and dataset.format["type"] == "custom"
        plain = dataset if is_transformed else dataset.with_format(None)
        self._first: dict[str, Any] = {}
        self.found = find_columns(self._first_rows(plain), wanted, None if is_transformed else dataset.features)
        needed = [self._column(self.found.image), self._column(self.found.masks), self._column(self.found.name)]
        self._rows = plain if is_transformed else plain.select_columns(sorted({name for name in needed if name}))

    def __len__(self) -> int:
        if self.streaming:
            raise TypeError("a streamed dataset has no length: iterate over it, or open it with streaming=False")
        return len(self._rows)

    def __getitem__(self, index: int) -> MaskedImage:
        if self.streaming:
            raise TypeError("a streamed dataset has no row numbers: iterate over it, or open it with streaming=False")
        number = range(len(self))[operator.index(index)]
        return self._example(self._row(number), f"row {number}")

    def __iter__(self) -> Iterator[MaskedImage]:
        if not self.streaming:
            yield from (self[index] for index in range(len(self)))
            return
        rows = iter(self._rows)
        for number in range(2**63):
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise ValueError(f"{self.name}: row {number} of the stream can't be read: {error}") from error
            yield self._example(row, f"row {number} of the stream")

    def __repr__(self) -> str:
        rows = "streaming" if self.streaming else f"{len(self)} rows"
        return f"MaskDataset({self.name}, {rows}, {self.found})"

    def _first_rows(self, dataset: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
        """A few rows: the first of a stream, or rows from all over the dataset, the first one first."""
        if self.streaming:
            for row in islice(iter(dataset), ROWS_TO_LOOK_AT):
                # kept for the report: reading the stream again would move its state
                self._first = self._first or row
                yield row
            return
        for index in np.unique(np.linspace(0, len(dataset) - 1, ROWS_TO_LOOK_AT).astype(int)) if len(dataset) else ():
            yield dataset[int(index)]

    def _column(self, name: str | None) -> str:
        """The whole column behind a name that may be a part of one."""
        name = name or ""
        return name if self._features is None or name in self._features else name.partition(".")[0]

    def _row(self, index: int) -> dict[str, Any]:
        try:
            return self._rows[index]
        except Exception as error:  # a broken picture raises whatever its decoder does
            for column in self._rows.column_names:
                try:
                    self._rows.select_columns(column)[index]
                except Exception as broken:
                    raise self._broken(f"row {index}", column, broken) from broken
            raise ValueError(f"{self.name}: row {index} can't be read: {error}") from error

    def _broken(self, row: str, column: str | None, error: Exception) -> ValueError:
        return ValueError(f"{self.name}: {row}, column {column!r}: {error}")

    def _example(self, row: dict[str, Any], place: str) -> MaskedImage:
        found = self.found
        try:
            image = rgb_array(as_picture(value_in(row, found.image)))
        except (ValueError, TypeError, OSError) as error:
            raise self._broken(place, found.image, error) from error
        try:
            masks = self._masks(value_in(row, found.masks), image.shape[:2])
        except (ValueError, TypeError, OSError) as error:
            raise self._broken(place, found.masks, error) from error
        name = value_in(row, found.name) if found.name else ""
        return MaskedImage(image, masks, str(name))

    def _masks(self, value: Any, size: tuple[int, int]) -> np.ndarray:
        read, void = READERS[self.found.kind or ""], NO_VOID if self.found.void is None else self.found.void
        objects = RowMasks.nothing() if value is None else read(value, size, void)
        if objects.skipped[VOID_ALONE] and self._void_is_assumed:
            raise ValueError(
                "the label map has no value but 255, which is taken for void: if it is an object, say so: columns="
                '{"void": -1} or {"kind": "binary"}; if it is void, {"void": 255}'
            )
        if objects.skipped.pop(SEVERAL_VALUES, 0) and self._kind_is_assumed:
            raise ValueError(
                "the mask has several values, while the first one was black and white, so that masks are taken for one "
                'object each: if it is a label map, say so: columns={"kind": "label_map"}; if it is one object, '
                '{"kind": "binary"}'
            )
        self.skipped.update(objects.skipped)
        kept = np.flatnonzero(objects.areas >= self.min_pixels)
        self.skipped[EMPTY] += int((objects.areas == 0).sum())
        self.skipped[f"masks of less than {self.min_pixels} pixels"] += int(
            ((objects.areas > 0) & (objects.areas < self.min_pixels)).sum()
        )
        if self.max_objects is not None and len(kept) > self.max_objects:
            self.skipped[f"objects beyond {self.max_objects} per image"] += len(kept) - self.max_objects
            by_size = kept[np.argsort(-objects.areas[kept], kind="stable")]
            kept = np.sort(by_size[np.linspace(0, len(kept) - 1, self.max_objects).round().astype(int)])
        self.skipped = +self.skipped
        return objects.decode(kept) if len(kept) else np.zeros((0, *size), bool)

    def select(self, indices: Sequence[int]) -> Self:
        """Some of the rows, in this order; not for streams."""
        if self.streaming:
            raise TypeError("a streamed dataset has no row numbers: open it with streaming=False")
        return self._with(self._rows.select(list(indices), keep_in_memory=True))

    def shuffle(self, seed: int, buffer_size: int = 100) -> Self:
        """The rows in random order; of a stream, its shards, and rows among `buffer_size` that are held in memory."""
        if self.streaming:
            return self._with(self._rows.shuffle(seed=seed, buffer_size=buffer_size))
        return self._with(self._rows.shuffle(seed=seed, keep_in_memory=True))

    def set_epoch(self, epoch: int) -> None:
        """Shuffle a shuffled stream anew, by its seed and the epoch."""
        if self.streaming:
            self._rows.set_epoch(epoch)

    def shard(self, process: int, num_processes: int) -> Self:
        """The part of one of several processes: every row belongs to exactly one."""
        return self._with(split_dataset_by_node(self._rows, rank=process, world_size=num_processes))

    def state_dict(self) -> dict[str, Any]:
        """Where in a stream iterating stands, for `load_state_dict` in another run."""
        if not self.streaming:
            raise TypeError("only a stream has a state: rows with numbers are resumed by their numbers")
        return self._rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on iterating a stream behind the last row that was read when the state was taken."""
        if not self.streaming:
            raise TypeError("only a stream has a state: rows with numbers are resumed by their numbers")
        self._rows.load_state_dict(state)

    @property
    def fingerprint(self) -> str:
        """A checksum that is the same in every run while rows, columns and files are; not for streams."""
        if self.streaming:
            raise TypeError("a streamed dataset has no fingerprint: open it with streaming=False")
        facts = (self._rows._fingerprint, self._files, self.found, self.min_pixels, self.max_objects)
        return Hasher.hash(facts)

    def report(self) -> str:
        """A few lines on what was found, with the first row as an example, and what has been left out so far.

        Raises:
            ValueError: the first row is broken.
        """
        found, shown = self.found, copy(self)
        shown.skipped = Counter()
        example = shown._example(self._first, "row 0") if self.streaming else shown[0] if len(self) else None
        lines = [f"{self.name}: {'a stream of rows' if self.streaming else f'{len(self)} rows'}"]
        void = "" if found.void == NO_VOID else f"; {found.void} is void"
        ground = "; 0 is background" if found.kind in ("label_map", "components") else ""
        lines.append(f"images  {self._described(found.image)}")
        lines.append(f"masks   {self._described(found.masks)}: {KINDS[found.kind or '']}{ground}{void}")
        if example is not None:
            lines.append(f"example {_example_text(example)}")
            if shown.skipped:
                lines.append(f"        left out of it: {_skipped_text(shown.skipped)}")
        others = [name for name in self._features or () if name not in self._rows.column_names]
        if others:
            lines.append(f"unused  {', '.join(others)}")
        if self.skipped:
            lines.append(f"so far  left out: {_skipped_text(self.skipped)}")
        return "\n".join(lines)

    def _described(self, column: str | None) -> str:
        name = self._column(column)
        feature = f" ({feature_text(self._features[name])})" if self._features and name in self._features else ""
        return f"column {column!r}{feature}"

    def _with(self, rows: Dataset | IterableDataset) -> Self:
        other = copy(self)
        other._rows, other.skipped = rows, Counter()
        return other


def value_in(row: Mapping[str, Any], column: str | None) -> Any:
    """The value of a column, or of the part of one that "column.part" names."""
    if column is None or column in row:
        return row[column or ""]
    whole, _, part = column.partition(".")
    value = row[whole]
    return (parsed_text(value) if isinstance(value, str) else value)[part]


def _example_text(example: MaskedImage) -> str:
    height, width = example.image.shape[:2]
    areas = example.masks.sum(axis=(1, 2))
    name = f"{example.name}: " if example.name else ""
    sizes = f" of {areas.min()} to {areas.max()} pixels" if len(areas) else ""
    return f"{name}{width}x{height} pixels, {len(areas)} objects{sizes}"


def _skipped_text(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items())
