"""Rows of labeled datasets and a source of them, made of nothing but numbers: for tests of what is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_variants.labeling.items import FailedImage, Item, LabeledImage, Listed, Part
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.mask_codecs import encode_mask

HEIGHT, WIDTH = 20, 24
SETTINGS = {"model": "tiny", "generation": {"points_per_side": 2}}
BATCH = 2
BROKEN = 5  # of every seven images this one fails


@dataclass
class Rows:
    """A source whose parts have these many rows; `names` are what its listing says."""

    counts: Sequence[int]
    names: dict[str, tuple[int | None, str]] = field(default_factory=dict)
    kind: str = "rows"

    def description(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": "numbers"}

    def listing(self) -> Iterator[Listed]:
        names = self.names or {f"{row}.png": (row, "then") for row in range(sum(self.counts))}
        return (Listed(name, size, stamp) for name, (size, stamp) in names.items())

    @property
    def parts(self) -> list[Part]:
        return [Part(index, f"part {index}", count) for index, count in enumerate(self.counts)]

    def read(self, part: int, start: int) -> Iterator[Item]:
        first = sum(self.counts[:part])
        return (Item(f"{row}.png", content(row)) for row in range(first + start, first + self.counts[part]))


@cache
def content(row: int) -> bytes:
    """The file of an image."""
    colors = np.random.default_rng(row).integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    pixels = colors.repeat(4, axis=0).repeat(4, axis=1)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rectangle(row: int, number: int) -> np.ndarray:
    """The mask of an image's object, H×W bool."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[1 + number : 8 + row % 5, 2 + row % 3 : 12 + number] = True
    return mask


def labeled(row: int, **extras: Any) -> LabeledImage:
    """An image with `row` modulo 4 masks."""
    annotations = [
        {
            "category_id": 1,
            "iscrowd": 0,
            "segmentation": encode_mask(mask := rectangle(row, number)),
            "bbox": [2.0 + row % 3, 1.0 + number, 10.0 + number - row % 3, 7.0 + row % 5 - number],
            "area": int(mask.sum()),
            "score": (row % 10) / 10 + number / 100,
            "point_coords": [[3.5, 4.25]],
            **extras,
        }
        for number in range(row % 4)
    ]
    return LabeledImage(Item(f"{row}.png", content(row), f"/photos/{row}.png"), (HEIGHT, WIDTH), annotations)


def result(row: int) -> LabeledImage | FailedImage:
    return FailedImage(f"{row}.png", f"row {row} is\nbroken") if row % 7 == BROKEN else labeled(row)


def open_folder(
    out: Path, source: Rows, rows_per_shard: int = 4, images: str = "embed", **settings: Any
) -> LabelFolder:
    return LabelFolder.open(out, SETTINGS | settings, source, rows_per_shard, images)


def label_all(out: Path, source: Rows, rows_per_shard: int = 4, finish: bool = True) -> None:
    """What a labeling run does, in the fewest steps."""
    folder = open_folder(out, source, rows_per_shard)
    for part in source.parts:
        if not folder.is_done(part.index):
            label_part(folder, source, part.index)
    if finish:
        folder.finish(len(source.parts))


def label_part(folder: LabelFolder, source: Rows, part: int, stop_at: int | None = None) -> None:
    """The rest of a part, or of its first rows, which leaves it unfinished."""
    first = sum(source.counts[:part])
    with folder.writer(part) as writer:
        stop = source.counts[part] if stop_at is None else stop_at
        for start in range(writer.start, stop, BATCH):
            writer.add([result(first + row) for row in range(start, min(start + BATCH, stop))])
        if stop_at is None:
            writer.finish()


def files_in(out: Path) -> dict[str, str]:
    """The sha256 of every file, the hidden ones too."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
