"""A small picture with two known objects, and the forms in which datasets may hold their masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from sam_variants.mask_codecs import encode_mask, rle_runs

HEIGHT, WIDTH = 24, 40
LEFT = [[3, 4], [15, 4], [15, 20], [3, 20]]
RIGHT = [[20, 6], [36, 6], [36, 14], [20, 14]]


def label_map() -> np.ndarray:
    """1 and 2 for the objects, of 192 and 128 pixels."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[4:20, 3:15] = 1
    labels[6:14, 20:36] = 2
    return labels


def truths() -> np.ndarray:
    return label_map() == np.array([1, 2])[:, None, None]


def photo(number: int = 0) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Image.fromarray(pixels)


def flat(ring: list[list[int]]) -> list[int]:
    return [number for point in ring for number in point]


def plain_rle(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": rle_runs(encode_mask(mask)["counts"]).tolist()}


def pictures() -> list[Image.Image]:
    return [Image.fromarray(mask.astype(np.uint8) * 255) for mask in truths()]
