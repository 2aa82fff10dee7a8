"""Pictures of masks: colours, label maps, overlays, cutouts. Pure functions on arrays and PIL images."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

# Index of a mask, its half-open xyxy box and its H×W bool pixels.
BoxedMask = tuple[int, tuple[int, int, int, int], np.ndarray]


# Eight hues that look well together over photographs; the rest of the table is computed.
FIRST_COLORS = np.array(
    [
        [30, 144, 255],
        [255, 176, 0],
        [255, 45, 140],
        [40, 205, 95],
        [165, 95, 255],
        [0, 215, 215],
        [255, 85, 30],
        [185, 235, 0],
    ]
)


# In Oklab; about the smallest step that is seen between neighbours.
SMALLEST_DISTANCE = 0.02

# Blended together: the floats of a whole large photo would take gigabytes.
ROWS_AT_ONCE = 256


@lru_cache(maxsize=1)
def _color_table() -> np.ndarray:
    """Order vivid colours so that each is as far as possible from all before it (C×3 uint8).

    Distances are Euclidean in Oklab (Björn Ottosson, "A perceptual color space for image processing", 2020). The
    order doesn't depend on how many colours are needed: a mask keeps its colour when others join.
    """
    steps = np.linspace(0, 255, 18)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = _oklab(candidates).T
    chroma = np.hypot(a, b)
    candidates = candidates[(lightness > 0.6) & (lightness < 0.9) & (chroma > 0.11) & (chroma < 0.25)]
    colors = np.concatenate([FIRST_COLORS, candidates])
    oklab = _oklab(colors)
    order = list(range(len(FIRST_COLORS)))
    distance = ((oklab[:, None] - oklab[order]) ** 2).sum(axis=2).min(axis=1)
    while distance.max() > SMALLEST_DISTANCE**2:
        order.append(int(np.argmax(distance)))
        distance = np.minimum(distance, ((oklab - oklab[order[-1]]) ** 2).sum(axis=1))
    return colors[order].round().astype(np.uint8)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB (…×3, 0..255) to Oklab lightness, a, b."""
    srgb = rgb / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ to_cones.T) @ to_lab.T


def distinct_colors(keys: Iterable[int]) -> np.ndarray:
    """Return one colour per key (N×3 uint8); the same key has the same colour in every picture.

    Keys 0, 1, 2, … get colours far apart; after some eight hundred they repeat.
    """
    table = _color_table()
    return table[np.array([key % len(table) for key in keys], dtype=np.int64)]


def image_to_rgba(image: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a picture as H×W×4 uint8.

    Args:
        image: A PIL image, or an array H×W, H×W×1, H×W×3 (RGB) or H×W×4 (RGBA) of bool, uint8 (0..255),
            uint16 (0..65535) or float (0..1).
        size: (height, width) it must have.

    Raises:
        ValueError: another size, shape or range.
        TypeError: another dtype or PIL mode.
    """
    if isinstance(image, Image.Image) and not image.mode.startswith("I;16"):
        if image.mode in ("I", "F"):
            raise TypeError(f"image has PIL mode {image.mode!r}, whose range is unknown: convert it to 'L' or 'RGB'")
        pixels = np.asarray(image.convert("RGBA"))
    else:
        pixels = _to_uint8(np.asarray(image))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(f"image must be HxW, HxWx1, HxWx3 or HxWx4, got shape {tuple(np.shape(image))}")
    if pixels.shape[:2] != size:
        raise ValueError(
            f"image is {pixels.shape[0]}x{pixels.shape[1]} (height x width), the masks are {size[0]}x{size[1]}: "
            "pass the image the masks were made from"
        )
    if pixels.shape[2] == 4:
        return pixels
    rgb = np.broadcast_to(pixels, (*size, 3))
    return np.dstack([rgb, np.full(size, 255, dtype=np.uint8)])


def _to_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return (pixels / 257).round().astype(np.uint8)
    if np.issubdtype(pixels.dtype, np.floating):
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"image of dtype {pixels.dtype} must lie in 0..1, got {pixels.min()}..{pixels.max()}")
        return (pixels * 255).round().astype(np.uint8)
    raise TypeError(f"image must be bool, uint8, uint16 or float, got dtype {pixels.dtype}")


def paint_label_map(boxed_masks: Iterable[BoxedMask], size: tuple[int, int]) -> np.ndarray:
    """Paint masks one over the other: H×W int32, mask i as i+1, background 0."""
    labels = np.zeros(size, dtype=np.int32)
    for index, (x1, y1, x2, y2), mask in boxed_masks:
        labels[y1:y2, x1:x2][mask[y1:y2, x1:x2]] = index + 1
    return labels


def paint_overlay(
    rgba: np.ndarray, boxed_masks: Iterable[BoxedMask], colors: np.ndarray, alpha: float, contour_width: int
) -> Image.Image:
    """Tint the masks over a picture and draw their inner outlines.

    Args:
        rgba: H×W×4 uint8; what is transparent shows white.
        boxed_masks: In the order they are painted; a later mask hides an earlier one, with its outline.
        colors: N×3 uint8, indexed by the masks' indices.
        alpha: Opacity of the tint, 0..1.
        contour_width: Pixels; 0 for none. Nothing is drawn where a mask ends with the picture.
    """
    height, width = rgba.shape[:2]
    fill, outline = np.zeros((height, width), dtype=np.int32), np.zeros((height, width), dtype=np.int32)
    for index, (x1, y1, x2, y2), mask in boxed_masks:
        # One pixel more on each side: erosion takes the world outside the crop for foreground.
        window = np.s_[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1]
        part = mask[window]
        fill[window][part] = index + 1
        outline[window][part] = 0
        outline[window][part & ~_erode(part, contour_width)] = index + 1
    picture = np.empty((height, width, 3), dtype=np.uint8)
    for top in range(0, height, ROWS_AT_ONCE):
        rows = np.s_[top : top + ROWS_AT_ONCE]
        picture[rows] = _blend(rgba[rows], fill[rows], outline[rows], colors, alpha)
    return Image.fromarray(picture)


def _blend(rgba: np.ndarray, fill: np.ndarray, outline: np.ndarray, colors: np.ndarray, alpha: float) -> np.ndarray:
    opacity = rgba[..., 3:].astype(np.float32) / 255
    picture = rgba[..., :3] * opacity + 255 * (1 - opacity)
    palette = np.concatenate([np.zeros((1, 3)), colors]).astype(np.float32)
    bright = palette * 0.7 + 255 * 0.3
    picture = np.where(fill[..., None] > 0, picture * (1 - alpha) + palette[fill] * alpha, picture)
    picture = np.where(outline[..., None] > 0, bright[outline], picture)
    return picture.round().astype(np.uint8)


def _erode(mask: np.ndarray, width: int) -> np.ndarray:
    if width == 0:
        return mask
    import cv2  # here, because it is large and who loads a model needs none of it

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    return cv2.erode(mask.astype(np.uint8), kernel).astype(bool)


def cut_out(rgba: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Keep the picture inside an H×W bool mask; outside it is transparent black. The picture's own alpha stays."""
    return Image.fromarray(rgba * mask[..., None])


def label_image(labels: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Turn a label map into a picture: palette (8 bits) for up to 255 masks, 16-bit grey for up to 65535.

    Args:
        labels: H×W int32.
        colors: N×3 uint8, the palette's entries 1..N.

    Raises:
        ValueError: more masks than a PNG can number.
    """
    if len(colors) > 65535:
        raise ValueError(f"a PNG label map numbers at most 65535 masks, got {len(colors)}")
    if len(colors) > 255:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(np.concatenate([np.zeros((1, 3), dtype=np.uint8), colors]).tobytes())
    return picture
