"""Pure geometry between an image and the resized copy of it that a model sees.

Sizes are (height, width) in pixels, points are (x, y), boxes are (x1, y1, x2, y2), all in continuous pixel coordinates:
0 is the outer edge of the first pixel, width or height that of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

Coordinates = TypeVar("Coordinates", np.ndarray, Tensor)
Size = Sequence[int] | Tensor | np.ndarray


def longest_side_shape(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    """The size of an image whose longer side was resized to `longest_edge`, aspect kept.

    Follows `ResizeLongestSide.get_preprocess_shape` of segment-anything (both sides rounded half up). Ours differs
    where the shorter side would vanish: it keeps one pixel.

    Args:
        height, width: size of the image, positive.
        longest_edge: wanted length of the longer side, positive.

    Returns:
        (height, width) of the resized image.

    Raises:
        ValueError: for a size that is not positive.
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"an image of height {height} and width {width} has no pixels")
    if longest_edge <= 0:
        raise ValueError(f"longest_edge={longest_edge} must be positive")
    scale = longest_edge * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def apply_coords(coords: Coordinates, original_size: Size, resized_size: Size) -> Coordinates:
    """Points of the original image, …×2, as points of the resized one (segment-anything's `apply_coords`).

    Each axis has its own factor, because the resized sides are rounded to whole pixels. The input is left as it is.

    Args:
        coords: …×2, x then y.
        original_size: (height, width) that `coords` refer to.
        resized_size: (height, width) that the result refers to.

    Returns:
        …×2; an integer array becomes float64, an integer tensor float32.

    Raises:
        ValueError: for another last dimension or a size that is not positive.
    """
    if coords.ndim == 0 or coords.shape[-1] != 2:
        raise ValueError(f"points need x and y in the last dimension, got shape {tuple(coords.shape)}")
    return _scaled(coords, _factors(original_size, resized_size))


def apply_boxes(boxes: Coordinates, original_size: Size, resized_size: Size) -> Coordinates:
    """Boxes of the original image, …×4, as boxes of the resized one (segment-anything's `apply_boxes`).

    Args:
        boxes: …×4, x1, y1, x2, y2.
        original_size: (height, width) that `boxes` refer to.
        resized_size: (height, width) that the result refers to.

    Returns:
        …×4; an integer array becomes float64, an integer tensor float32.

    Raises:
        ValueError: for another last dimension or a size that is not positive.
    """
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes need x1, y1, x2, y2 in the last dimension, got shape {tuple(boxes.shape)}")
    return _scaled(boxes, _factors(original_size, resized_size) * 2)


def invert_coords(coords: Coordinates, original_size: Size, resized_size: Size) -> Coordinates:
    """Points of the resized image, …×2, back in the original one: the inverse of `apply_coords`."""
    return apply_coords(coords, resized_size, original_size)


def invert_boxes(boxes: Coordinates, original_size: Size, resized_size: Size) -> Coordinates:
    """Boxes of the resized image, …×4, back in the original one: the inverse of `apply_boxes`."""
    return apply_boxes(boxes, resized_size, original_size)


def _factors(from_size: Size, to_size: Size) -> list[float]:
    """[x factor, y factor]."""
    (from_height, from_width), (to_height, to_width) = map(_height_width, (from_size, to_size))
    return [to_width / from_width, to_height / from_height]


def _height_width(size: Size) -> tuple[int, int]:
    values = [int(value) for value in size]
    if len(values) != 2 or min(values) <= 0:
        raise ValueError(f"a size must be (height, width), both positive, got {tuple(values)}")
    return values[0], values[1]


def _scaled(values: Coordinates, factors: list[float]) -> Coordinates:
    if isinstance(values, Tensor):
        floating = values if values.is_floating_point() else values.float()
        return floating * floating.new_tensor(factors)
    floating = values if np.issubdtype(values.dtype, np.floating) else values.astype(np.float64)
    return floating * np.asarray(factors, dtype=floating.dtype)
