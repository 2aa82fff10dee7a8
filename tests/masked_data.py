"""Small datasets of images with masks, made in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image
from PIL import Image as Picture

from sam_variants.training.mask_datasets import MaskDataset, open_masks

HEIGHT, WIDTH = 48, 60


def rectangles(row: int, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of bright rectangles on a dark ground, H×W×3 uint8, and its label map H×W uint8."""
    rng = np.random.default_rng(row)
    image = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(num_objects):
        top, left = rng.integers(0, HEIGHT - 14), rng.integers(0, WIDTH - 16)
        place = (slice(top, top + 13), slice(left, left + 15))
        labels[place] = number + 1
        image[place] = rng.integers(120, 255, 3)
    return image, labels


def rectangle_rows(counts: list[int]) -> Dataset:
    """One row per count, with so many objects."""
    pictures = [rectangles(row, count) for row, count in enumerate(counts)]
    columns = {
        "image": [Picture.fromarray(i) for i, _ in pictures],
        "label": [Picture.fromarray(m) for _, m in pictures],
    }
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": Image()}))


def rectangle_data(counts: list[int], **options: Any) -> MaskDataset:
    """The same, opened."""
    return open_masks(rectangle_rows(counts), columns={"masks": "label", "kind": "label_map"}, **options)


def save_rectangles(folder: Path, counts: list[int]) -> Path:
    """The same as a folder with `images/` and `masks/`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for row, count in enumerate(counts):
        image, labels = rectangles(row, count)
        Picture.fromarray(image).save(folder / "images" / f"{row}.png")
        Picture.fromarray(labels).save(folder / "masks" / f"{row}.png")
    return folder
