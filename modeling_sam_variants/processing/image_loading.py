"""Any image a user may hold, as one H×W×3 uint8 RGB array."""

from __future__ import annotations

import base64
import binascii
import io
import os
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

URL_PREFIXES = ("http://", "https://")
URL_TIMEOUT_SECONDS = 60
CHANNEL_COUNTS = (1, 3, 4)
CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"
MAX_BYTE = 255
MAX_UINT16 = 65535
# What a folder's files must be called to count as images; a file named by itself may have any name.
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".webp", ".avif", ".gif", ".tif", ".tiff"),
    *(".bmp", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
}


def is_image_name(name: str | os.PathLike) -> bool:
    """Whether a file's name says that it is an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def flatten_images(images: Any) -> list[Any]:
    """One flat list of single images out of an image, a batched array, or (nested) lists of them.

    Args:
        images: PIL images, paths, URLs, arrays or tensors (2 or 3 axes: one image; 4 axes: a batch), or lists of these.

    Returns:
        The images in order, none of them read or converted yet.

    Raises:
        ValueError: for an empty list or a batch without images.
        TypeError: for what is no image.
    """
    flat = list(_single_images(images, "images"))
    if not flat:
        raise ValueError("images is empty: give at least one image")
    return flat


def _single_images(images: Any, name: str, levels: int = 0) -> Iterable[Any]:
    if isinstance(images, list | tuple):
        if levels == 3:
            raise TypeError(f"{name} is nested too deep: images are given alone, in a list, or in a list of lists")
        for index, item in enumerate(images):
            yield from _single_images(item, f"{name}[{index}]", levels + 1)
    elif isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        yield from images
    elif isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Tensor):
        yield images
    else:
        raise TypeError(
            f"{name} is of type {type(images).__name__}; give a PIL image, a NumPy array, a torch tensor, a path, "
            "a URL, or a list of these"
        )


def rgb_array(image: Any, channel_order: str | None = None, timeout: float | None = URL_TIMEOUT_SECONDS) -> np.ndarray:
    """Read one image and bring it to 8-bit RGB.

    The EXIF orientation is applied, 16 bits are scaled to 8, gray is repeated, palettes are looked up, CMYK is
    converted, transparent pixels are composited over white.

    Args:
        image: a PIL image, a path, an http(s) URL, a data URL or base64 text, or an array or tensor H×W, H×W×C or
            C×H×W with 1, 3 or 4 channels; bool, uint8 (or other integers within 0..255), uint16 (0..65535), or
            floating point (0..1, or 0..255 when a value lies above 1).
        channel_order: "channels_first" or "channels_last" for arrays; None finds it from the shape and, where both
            fit, takes channels last for NumPy and channels first for torch.
        timeout: seconds that a server may be silent when an image is fetched; None waits for ever.

    Returns:
        H×W×3 uint8.

    Raises:
        ValueError: for an unreadable or empty image, or values or shapes outside the above.
        TypeError: for what is no image.
    """
    if isinstance(image, str | os.PathLike):
        image = open_image(image, timeout)
    if isinstance(image, Image.Image):
        pixels = _pil_to_rgb(image)
    elif isinstance(image, Tensor):
        tensor = image.detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        pixels = _array_to_rgb(array, channel_order, prefers_first=True)
    elif isinstance(image, np.ndarray):
        pixels = _array_to_rgb(image, channel_order, prefers_first=False)
    else:
        raise TypeError(f"an image can't be of type {type(image).__name__}")
    return pixels


def open_image(source: str | os.PathLike, timeout: float | None = URL_TIMEOUT_SECONDS) -> Image.Image:
    """Open a path, an http(s) URL, a data URL or base64 text, without converting anything.

    Args:
        source: what to open.
        timeout: seconds that a server may be silent; None waits for ever.

    Raises:
        ValueError: when there is no such file, it can't be fetched, or it is no image.
    """
    text = os.fsdecode(source)
    try:
        if text.startswith(URL_PREFIXES):
            return Image.open(io.BytesIO(_fetch(text, timeout)))
        if text.startswith("data:"):
            return Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2], validate=True)))
        if Path(text).is_file():
            return Image.open(text)
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    except binascii.Error as error:
        raise ValueError(f"{_shortened(text)} is no file that exists, no URL and no base64 text") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{_shortened(text)} can't be opened as an image: {error}") from error


def _fetch(url: str, timeout: float | None) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "sam-variants"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return response.read()


def _shortened(text: str, length: int = 120) -> str:
    return repr(text if len(text) <= length else text[:length] + "…")


def _pil_to_rgb(image: Image.Image) -> np.ndarray:
    if min(image.size) == 0:
        raise ValueError(f"the image has width {image.width} and height {image.height}: no pixels")
    try:
        image.load()
        # Pillow would copy an upright image too, which for a large photo is most of the memory that reading takes.
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders of broken files raise anything, from struct.error to ZeroDivisionError
        raise ValueError(f"the image can't be decoded: {error}") from error
    if image.mode == "F":
        return _array_to_rgb(np.asarray(image), CHANNELS_LAST, prefers_first=False)
    if image.mode.startswith("I"):
        return _array_to_rgb(_as_uint16(np.asarray(image)), CHANNELS_LAST, prefers_first=False)
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _as_uint16(array: np.ndarray) -> np.ndarray:
    """Pillow's modes I and I;16 both stand for 16-bit gray."""
    if array.min() < 0 or array.max() > MAX_UINT16:
        raise ValueError(f"32-bit values {array.min()}..{array.max()} are outside the 16-bit range 0..{MAX_UINT16}")
    return array.astype(np.uint16)


def _over_white(image: Image.Image) -> np.ndarray:
    white = Image.new("RGBA", image.size, (MAX_BYTE,) * 4)
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def _array_to_rgb(array: np.ndarray, channel_order: str | None, prefers_first: bool) -> np.ndarray:
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"an image needs 2 or 3 axes and at least one pixel, got shape {array.shape}")
    if array.ndim == 2:
        array = array[..., None]
    elif _channels_first(array.shape, channel_order, prefers_first):
        array = np.moveaxis(array, 0, -1)
    pixels = _to_uint8(array)
    if pixels.shape[-1] == 4:
        return _over_white(Image.fromarray(np.ascontiguousarray(pixels)))
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _channels_first(shape: tuple[int, ...], channel_order: str | None, prefers_first: bool) -> bool:
    fits = {CHANNELS_FIRST: shape[0] in CHANNEL_COUNTS, CHANNELS_LAST: shape[-1] in CHANNEL_COUNTS}
    if channel_order is not None and channel_order not in fits:
        raise ValueError(f"input_data_format={channel_order!r} must be one of {sorted(fits)}")
    if not (fits[channel_order] if channel_order else any(fits.values())):
        raise ValueError(f"shape {shape} has no axis of 1, 3 or 4 channels where input_data_format={channel_order!r}")
    if channel_order:
        return channel_order == CHANNELS_FIRST
    return prefers_first if all(fits.values()) else fits[CHANNELS_FIRST]


def _to_uint8(array: np.ndarray) -> np.ndarray:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(MAX_BYTE)
    if kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) * MAX_BYTE + MAX_UINT16 // 2) // MAX_UINT16).astype(np.uint8)
    if kind not in "iuf":
        raise TypeError(f"an image can't have dtype {array.dtype}; use uint8, uint16, bool or floating point")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= MAX_BYTE):  # the negation also catches NaN
        hint = "0..1 or 0..255" if kind == "f" else "0..255 (16-bit images must be uint16)"
        raise ValueError(f"{array.dtype} values {low}..{high} are outside {hint}")
    if kind == "f":
        array = np.rint(array.astype(np.float64) * MAX_BYTE if high <= 1 else array)
    return array.astype(np.uint8)
