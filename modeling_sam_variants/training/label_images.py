"""Pictures whose values say what a pixel belongs to, as arrays of whole numbers."""

from __future__ import annotations

import io
import os
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from sam_variants.processing.image_loading import open_image

WHITE = 255
SMALL_RANGE = 1 << 20  # counting is faster than sorting where values stay below


def is_label_image(value: Any) -> bool:
    """Whether a value is a picture or an array of two axes or more, not a list of coordinates."""
    if isinstance(value, dict):
        return {"bytes", "path"} <= set(value)
    return isinstance(value, Image.Image | Tensor) or (
        isinstance(value, np.ndarray) and value.ndim >= 2 and value.shape[-1] != 2
    )


def as_picture(value: Any) -> Any:
    """Open what stands for a picture: bytes, a path, {"bytes", "path"}, nested lists; others come back as they are.

    Raises:
        ValueError: what is no readable picture.
    """
    if isinstance(value, dict) and {"bytes", "path"} <= set(value):
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, bytes):
        try:
            return Image.open(io.BytesIO(value))
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{len(value)} bytes are no picture that can be read: {error}") from error
    if isinstance(value, list | tuple):
        return nested_array(value)
    return open_image(value) if isinstance(value, str | os.PathLike) else value


def nested_array(value: list | tuple) -> np.ndarray:
    """Nested lists of numbers as an array. Raises: ValueError where the lists are of different lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError("the rows of a picture are of different lengths") from error


def label_array(value: Any) -> np.ndarray:
    """Bring a label map to H×W whole numbers or bool, its values untouched.

    Palette pictures give their indices, 16 bits stay 16 bits, gray saved as RGB gives the gray, other colours give
    R + 256·G + 65536·B (COCO's panoptic code), transparent pixels are background. EXIF orientation is applied.

    Args:
        value: a PIL image, bytes, a path, {"bytes", "path"}, an array or nested lists H×W, H×W×1, 1×H×W, H×W×3 or
            H×W×4.

    Raises:
        ValueError: what can't be read, another shape, or values that are not whole.
    """
    value = as_picture(value)
    if isinstance(value, Image.Image):
        value = _pixels(value)
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[..., 0] if array.shape[-1] == 1 else array[0]
    if array.dtype.kind == "f":
        array = _whole(array)
    if array.dtype.kind not in "biu" or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"a label map is HxW numbers or a picture, got {array.dtype} of shape {array.shape}")
    return array if array.ndim == 2 else _color_codes(array)


def _pixels(image: Image.Image) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("CMYK", "YCbCr", "HSV", "LAB", "RGBX"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except Exception as error:  # decoders of broken files raise anything, from struct.error to ZeroDivisionError
        raise ValueError(f"the picture can't be decoded: {error}") from error
    if image.mode in ("LA", "PA", "La"):
        array = np.where(array[..., 1] > 0, array[..., 0], 0)
    return array


def _whole(array: np.ndarray) -> np.ndarray:
    rounded = np.rint(array)
    if not (rounded == array).all():
        raise ValueError(f"a label map has whole numbers, got {array.dtype} values such as {array.flat[0]:.4g}")
    return rounded.astype(np.int64)


def _color_codes(array: np.ndarray) -> np.ndarray:
    colors = array[..., :3]
    if array.shape[2] == 4:
        alpha = array[..., 3]
        if (colors == colors[0, 0]).all():
            return alpha  # one colour, cut out: the shape is in the transparency
        colors = np.where(alpha[..., None] > 0, colors, 0)
    if (colors == colors[..., :1]).all():
        return np.ascontiguousarray(colors[..., 0])
    red, green, blue = (colors[..., channel].astype(np.int64) for channel in range(3))
    return red + 256 * green + 65536 * blue


def value_counts(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of an array of whole numbers, ascending, and how often each occurs."""
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if labels.size and labels.min() >= 0 and labels.max() < SMALL_RANGE:
        counts = np.bincount(labels.ravel())
        values = np.flatnonzero(counts)
        return values, counts[values]
    return np.unique(labels, return_counts=True)


def foreground(labels: np.ndarray) -> np.ndarray:
    """H×W bool: what is not 0, or what is bright in an 8-bit mask with soft edges (JPEG, anti-aliased)."""
    if labels.dtype == np.uint8 and labels.max(initial=0) > WHITE // 2 and len(value_counts(labels)[0]) > 2:
        return labels > WHITE // 2
    return labels != 0


def is_black_and_white(labels: np.ndarray) -> bool:
    """Whether a map is a mask of one object rather than ids: bool, 0 and 255, or nearly so with soft edges."""
    if labels.dtype == bool:
        return True
    if labels.dtype != np.uint8 or labels.max(initial=0) < WHITE - 15:
        return False
    values, counts = value_counts(labels)
    if set(values.tolist()) <= {0, WHITE} or is_edge_of_white(labels):
        return True
    bright, dark = (counts[values >= WHITE - 15].sum(), counts[values <= 15].sum())
    return len(values) > 16 and bright + dark > 0.9 * labels.size and bright > 0.002 * labels.size


def is_edge_of_white(labels: np.ndarray) -> bool:
    """Whether the grays of an 8-bit map with white are but lines, nowhere three pixels wide: smoothed edges, no ids.

    They are not all nearly black, as the ids of thin objects with white for void would be.
    """
    gray = (labels > 0) & (labels < WHITE)
    if not (labels == WHITE).any() or labels[gray].max(initial=0) < WHITE // 4:
        return False
    return not cv2.erode(gray.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=(0,)).any()


def is_lossy(value: Any) -> bool:
    """Whether a picture comes from a JPEG file, which changes values: good enough for black and white, not for ids."""
    return getattr(as_picture(value), "format", None) in ("JPEG", "MPO")
