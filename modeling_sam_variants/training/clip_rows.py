"""Rows of a dataset as clips: a list of pictures or a video, and the masks of every frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from datasets import Dataset, IterableDataset

from sam_variants.training.clip_sources import NO_VOID, RowClip, void_of
from sam_variants.training.mask_adapters import parsed_text
from sam_variants.training.mask_columns import feature_text

# What columns are called; the first that is there is taken.
COLUMNS = {
    "frames": ("frames", "video", "images", "clip"),
    "masks": ("masks", "annotations", "labels", "label_maps", "segmentations", "rles", "objects"),
    "name": ("name", "file_name", "video_id", "clip_id", "id", "__key__"),
}

# Rows that are looked at to tell whether 255 is an object or void.
ROWS_TO_LOOK_AT = 8


class ClipRows(Sequence[RowClip]):
    """Clips that are read when they are asked for; pictures and videos stay encoded.

    Args:
        dataset: one row per clip.
        columns: the columns of "frames", "masks" and "name" that are called otherwise than `COLUMNS`.
        void: value of label maps that is no object, −1 for none; None finds out whether 255 is one.
        name: of the dataset.

    Attributes:
        columns: the columns by role.

    Raises:
        ValueError: a column that isn't there.
        TypeError: a stream.
    """

    def __init__(
        self, dataset: Dataset | IterableDataset, columns: Mapping[str, str] | None, void: int | None, name: str
    ) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError(f"{name} is a stream, but clips are read by number: open it with streaming=False")
        self.columns = _columns_of(dataset.column_names, columns, name)
        self._features = dataset.features
        # In Arrow's format nothing is decoded; a transform of the owner's has its way.
        self._is_transformed = dataset.format["type"] == "custom"
        chosen = sorted(set(self.columns.values()))
        self._dataset = dataset if self._is_transformed else dataset.select_columns(chosen).with_format("arrow")
        self.void = NO_VOID if void is None else void
        if void is None:
            self.void = void_of(self._first_masks())

    def _first_masks(self) -> Iterator[Any]:
        """Masks of the first annotated frame of some rows; a broken row is told of by whoever reads it."""
        for index in range(min(len(self), ROWS_TO_LOOK_AT)):
            with suppress(ValueError):
                row = self[index]
                yield from (row.masks[frame] for frame in row.annotated[:1])

    def described(self, role: str) -> str:
        """The column of a role and what is in it."""
        column = self.columns[role]
        return f"column {column!r} ({feature_text(self._features[column])})"

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        row = self._dataset[index] if self._is_transformed else self._dataset[index].to_pylist()[0]
        frames, masks = row[self.columns["frames"]], row[self.columns["masks"]]
        masks = parsed_text(masks) if isinstance(masks, str) else masks
        if isinstance(frames, dict):
            frames = frames["path"] if frames["bytes"] is None else frames["bytes"]
        count = len(frames) if isinstance(frames, list) else None
        if not isinstance(masks, list) or count not in (None, len(masks)):
            found = f"{len(masks)} entries" if isinstance(masks, list) else type(masks).__name__
            raise ValueError(
                f"column {self.columns['masks']!r} must have an entry for every frame (None where nothing is known), "
                f"got {found} for {'a video' if count is None else f'{count} frames'}"
            )
        name = row[self.columns["name"]] if "name" in self.columns else f"row {index}"
        return RowClip(str(name), frames, masks, self.void)


def _columns_of(present: Sequence[str], wanted: Mapping[str, str] | None, name: str) -> dict[str, str]:
    """The columns by role, from what the caller says and the usual names."""
    wanted = wanted or {}
    unknown = sorted(set(wanted) - set(COLUMNS))
    if unknown:
        raise ValueError(f"columns has unknown {unknown}; it takes {sorted(COLUMNS)}")
    found = {}
    for role, usual in COLUMNS.items():
        names = (wanted[role],) if role in wanted else usual
        column = next((column for column in names if column in present), None)
        if column is not None:
            found[role] = column
        elif role != "name" or role in wanted:
            raise ValueError(
                f"{name} has no column {' or '.join(map(repr, names))} for {role}; it has {list(present)}. Name it: "
                f'columns={{"{role}": …}}'
            )
    return found
