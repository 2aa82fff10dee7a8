"""The steps that fit 8-bit images into a model's input, and the sizes that steer them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.image_utils import PILImageResampling, SizeDict

from sam_variants.processing.coordinates import longest_side_shape

LONGEST_SIDE = "longest_side"
SQUARE = "square"
RESIZE_MODES = (LONGEST_SIDE, SQUARE)
TENSOR_RESAMPLING = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


def resize_longest_side(image: np.ndarray, longest_edge: int, resample: int) -> np.ndarray:
    """Resize 8-bit pixels with Pillow, as segment-anything's `ResizeLongestSide.apply_image`.

    Args:
        image: 3×H×W uint8.
        longest_edge: the longer side of the result in pixels.
        resample: Pillow's filter.

    Returns:
        3×h×w uint8.
    """
    height, width = longest_side_shape(image.shape[1], image.shape[2], longest_edge)
    channels_last = np.ascontiguousarray(np.moveaxis(image, 0, -1))
    resized = Image.fromarray(channels_last).resize((width, height), Image.Resampling(resample))
    return np.moveaxis(np.asarray(resized), -1, 0)


def resize_square(pixels: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """Resize float pixels with antialiasing, the aspect not kept: the tensor resize of SAM 2's `SAM2Transforms`.

    Args:
        pixels: C×H×W float32.
        size: (height, width) of the result.
        resample: Pillow's number of the bilinear or bicubic filter.

    Returns:
        C×height×width float32.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    mode = TENSOR_RESAMPLING[PILImageResampling(resample)]
    return F.interpolate(tensor, size, mode=mode, align_corners=False, antialias=True)[0].numpy()


def to_float(image: np.ndarray, rescale_factor: float | None) -> np.ndarray:
    """float32 pixels, times the factor; dividing by 255 rounds as the official code does, times 1/255 does not."""
    pixels = image.astype(np.float32)
    return pixels if rescale_factor is None else pixels / np.float32(1 / rescale_factor)


def pad_right_and_bottom(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """3×h×w → 3×height×width float32 with zeros right of and below the image.

    Raises:
        ValueError: for an image larger than `size`.
    """
    _, height, width = pixels.shape
    if height > size[0] or width > size[1]:
        raise ValueError(f"pad_size={size} (height, width) is smaller than the resized image, {(height, width)}")
    padded = np.zeros((3, *size), dtype=np.float32)
    padded[:, :height, :width] = pixels
    return padded


def shared_input_size(
    shapes: Sequence[tuple[int, int]], pad_size: tuple[int, int], multiple: int | None
) -> tuple[int, int]:
    """(height, width) that resized images of these shapes are padded to: `pad_size`, or to a multiple, no further."""
    if multiple is None:
        return pad_size
    longest = (max(sides) for sides in zip(*shapes, strict=True))
    height, width = (min(-(-side // multiple) * multiple, limit) for side, limit in zip(longest, pad_size, strict=True))
    return height, width


def height_width(size: SizeDict) -> tuple[int, int]:
    """(height, width) of a size in that form.

    Raises:
        ValueError: for a size in another form.
    """
    if size.height is None or size.width is None:
        raise ValueError(f"a size with height and width is needed, got {dict(size)}")
    return size.height, size.width


def standard_size(name: str, value: Any, mode: str) -> SizeDict:
    """A size in the one form that its mode uses: the longest edge, or height and width.

    Args:
        name: the argument's name, for the error.
        value: a number, `{"longest_edge": number}` or `{"height": number, "width": number}`.
        mode: "longest_side" or "square".

    Raises:
        ValueError: for another value, or two different sides where there is one longest edge.
    """
    sides = dict(value) if isinstance(value, dict | SizeDict) else {"longest_edge": value}
    numbers = list(sides.values())
    whole = all(isinstance(number, int | np.integer) and not isinstance(number, bool) for number in numbers)
    if set(sides) not in ({"longest_edge"}, {"height", "width"}) or not whole or min(numbers) <= 0:
        raise ValueError(
            f"{name}={value!r} must be a positive number of pixels, "
            '{"longest_edge": number} or {"height": number, "width": number}'
        )
    if mode == SQUARE:
        return SizeDict(height=int(sides.get("height", numbers[0])), width=int(sides.get("width", numbers[0])))
    if len(set(numbers)) != 1:
        raise ValueError(f'{name}={value!r} must be {{"longest_edge": number}} where the longest side is resized')
    return SizeDict(longest_edge=int(numbers[0]))


def size_list(name: str, sizes: Any, expected: int | None = None) -> list[tuple[int, int]]:
    """B×2 sizes (list, array or tensor) as a list of (height, width).

    Raises:
        ValueError: unless there is one positive (height, width) for each image (of which there are `expected`).
    """
    values = np.asarray(sizes.cpu() if isinstance(sizes, Tensor) else sizes)
    shape = (len(values) if expected is None and values.ndim else expected, 2)
    if values.shape != shape or values.dtype.kind not in "iu" or (values <= 0).any():
        raise ValueError(f"{name} must hold one (height, width) for each image, of shape {shape}, got {sizes}")
    return [(int(height), int(width)) for height, width in values]
