"""Small labeled datasets to browse: pictures of discs whose masks are known, written as a labeling run writes them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_variants.labeling.items import FailedImage, Item, LabeledImage, Listed, Part
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.results import Masks

SETTINGS = {"model": "embedded", "mode": "everything"}
Disc = tuple[int, int, int]  # x, y, radius
# Of `disc_image(number)`: the number of masks, and height and width.
NUM_MASKS = (3, 0, 1, 5, 2)
SIZES = ((120, 160), (160, 120), (90, 200), (128, 128), (100, 150))


@dataclass(frozen=True)
class Listing:
    """A source of which nothing but its parts is asked."""

    num_rows: Sequence[int]

    def description(self) -> dict[str, Any]:
        return {"kind": "discs"}

    def listing(self) -> Iterable[Listed]:
        return [Listed(f"part-{index}", rows, "1") for index, rows in enumerate(self.num_rows)]

    @property
    def parts(self) -> Sequence[Part]:
        return [Part(index, f"part-{index}", rows) for index, rows in enumerate(self.num_rows)]

    def read(self, part: int, start: int) -> Iterator[Item]:
        raise NotImplementedError


def disc_image(number: int, **item: Any) -> LabeledImage:
    """A picture with discs, key "folder/0007.jpg"; mask j scores 0.5 + 0.1 j, each of the next size."""
    height, width = SIZES[number % len(SIZES)]
    count = NUM_MASKS[number % len(NUM_MASKS)]
    discs = [(20 + 25 * index, 30 + 12 * index, 6 + 3 * index) for index in range(count)]
    return labeled(
        f"folder/{number:04d}.jpg", (height, width), discs, [0.5 + 0.1 * index for index in range(count)], **item
    )


def labeled(
    key: str, size: tuple[int, int], discs: Sequence[Disc], scores: Sequence[float], **item: Any
) -> LabeledImage:
    """A picture of (height, width) with discs, and their masks."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([columns * 255 // size[1], rows * 255 // size[0], np.full(size, len(key) * 37 % 256)], axis=2)
    masks = np.zeros((len(discs), *size), dtype=bool)
    for mask, (x, y, radius) in zip(masks, discs, strict=True):
        mask[:] = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        pixels[mask] = 255 - pixels[mask]
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    found = Masks(masks, scores=list(scores), stability_scores=[0.9] * len(discs))
    annotations = [
        {name: value for name, value in annotation.items() if name not in ("id", "image_id")}
        for annotation in found.to_coco(0)
    ]
    return LabeledImage(Item(key, **{"encoded": file.getvalue(), **item}), size, annotations)


def write_dataset(
    out: Path, parts: Sequence[Sequence[LabeledImage | FailedImage]], *, done: int | None = None, images: str = "embed"
) -> Path:
    """Write a labeled dataset, one shard for each part.

    Args:
        out: the folder.
        parts: of the source.
        done: how many parts are labeled; all of them by default, and then the run is finished.
        images: "embed" or "reference".
    """
    most = max(map(len, parts))
    folder = LabelFolder.open(out, SETTINGS, Listing([len(part) for part in parts]), most, images)
    for index, part in enumerate(parts[:done]):
        if folder.is_done(index):
            continue
        with folder.writer(index) as writer:
            writer.add(part)
            writer.finish()
    if done is None:
        folder.finish(len(parts), coco=False)
    return out
