"""Pictures of a labeled dataset: small ones with their masks drawn, and large ones for the canvas."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from sam_variants.mask_codecs import rle_runs
from sam_variants.mask_drawing import BoxedMask, distinct_colors, paint_overlay
from sam_variants.processing.image_loading import open_image, rgb_array
from sam_variants.spaces_demo.canvas import as_png

# Pixels: what a tile of the gallery fills on a screen of two pixels per CSS pixel, and what the canvas gets.
TILE_SIZE = (560, 400)
LARGE_SIDE = 2048
TILE_ALPHA = 0.45
JPEG, SVG = "image/jpeg", "image/svg+xml"
UNREADABLE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 280 200" '
    'preserveAspectRatio="xMidYMid slice"><rect width="280" height="200" fill="#475569"/>'
    '<text x="140" y="104" fill="#fff" font-family="sans-serif" font-size="13" text-anchor="middle">{text}</text></svg>'
)


@dataclass(frozen=True)
class SmallMask:
    """The part of a mask inside its box, at a smaller size.

    Attributes:
        pixels: h×w bool.
        box: where they lie in the smaller picture, half-open xyxy.
    """

    pixels: np.ndarray
    box: tuple[int, int, int, int]

    def whole(self, size: tuple[int, int]) -> np.ndarray:
        """The mask in the whole smaller picture of (height, width)."""
        left, top, right, bottom = self.box
        pixels = np.zeros(size, dtype=bool)
        pixels[top:bottom, left:right] = self.pixels
        return pixels


def sampled(annotation: dict[str, Any], small: tuple[int, int]) -> SmallMask:
    """A mask at a smaller size, each pixel the one in its middle; the large mask is never made.

    Args:
        annotation: with `segmentation` as RLE, and `bbox`.
        small: (height, width), no larger than the mask's.
    """
    height, width = annotation["segmentation"]["size"]
    x, y, box_width, box_height = annotation["bbox"]
    columns, left = _middles(width, small[1], x, x + box_width)
    rows, top = _middles(height, small[0], y, y + box_height)
    places = (columns[:, None] * height + rows).reshape(-1)
    # Runs go down the columns, background first: what lies behind an odd number of ends is foreground.
    ends = np.searchsorted(places, np.cumsum(rle_runs(annotation["segmentation"]["counts"])))
    turns = np.zeros(len(places) + 1, dtype=np.uint8)
    np.add.at(turns, ends, 1)
    inside = np.cumsum(turns[:-1], dtype=np.uint8) & 1
    pixels = inside.astype(bool).reshape(len(columns), len(rows)).T
    return SmallMask(pixels, (left, top, left + len(columns), top + len(rows)))


def _middles(side: int, small: int, first: float, last: float) -> tuple[np.ndarray, int]:
    """Of a smaller side's pixels between two places of the larger side: where their middles lie, and the first one."""
    middles = ((np.arange(small) + 0.5) * side / small).astype(np.int64)
    begin, end = np.searchsorted(middles, (first, last))
    begin = min(int(begin), small - 1)
    return middles[begin : max(int(end), begin + 1)], begin


def fitted(size: tuple[int, int], most: tuple[int, int]) -> tuple[int, int]:
    """(height, width) made to fit into `most`, never enlarged, at least one pixel each."""
    scale = min(1.0, most[0] / size[0], most[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def open_stored(image: dict[str, Any]) -> Image.Image:
    """The value of a dataset's column of images, opened: the file's content, or where it lies.

    Raises:
        Exception: of any kind, as decoders of broken files do.
    """
    return open_image(image["path"]) if image["bytes"] is None else Image.open(io.BytesIO(image["bytes"]))


def read_pixels(opened: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image as an upright RGB picture of (height, width); errors as for `open_stored`."""
    with opened:
        # A JPEG is decoded at a half, a quarter or an eighth of its size where that is enough, for both orientations.
        opened.draft("RGB", (max(size), max(size)))
        upright = Image.fromarray(rgb_array(opened))
    return upright.resize(size[::-1], Image.Resampling.BILINEAR, reducing_gap=2)


def tile(opened: Image.Image, size: tuple[int, int], masks: Sequence[dict[str, Any]], ids: Sequence[int]) -> bytes:
    """The image with masks drawn, as a JPEG that fits into `TILE_SIZE`.

    Args:
        opened: the image.
        size: (height, width) of the upright image.
        masks: annotations with `segmentation` as RLE, and `bbox`.
        ids: their numbers, which give them their colors.

    Raises:
        Exception: as `open_stored`.
    """
    small = fitted(size, (TILE_SIZE[1], TILE_SIZE[0]))
    rgb = np.asarray(read_pixels(opened, small))
    rgba = np.dstack([rgb, np.full(small, 255, dtype=np.uint8)])
    found = [sampled(mask, small) for mask in masks]
    order = sorted(range(len(found)), key=lambda index: np.count_nonzero(found[index].pixels), reverse=True)
    boxed: Iterator[BoxedMask] = ((index, found[index].box, found[index].whole(small)) for index in order)
    return as_jpeg(paint_overlay(rgba, boxed, distinct_colors(ids), TILE_ALPHA, contour_width=1), quality=84)


def large(opened: Image.Image, size: tuple[int, int]) -> bytes:
    """The image without masks, as a JPEG whose sides are at most `LARGE_SIDE`; errors as for `tile`."""
    return as_jpeg(read_pixels(opened, fitted(size, (LARGE_SIDE, LARGE_SIDE))), quality=90)


def as_jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def unreadable(size: tuple[int, int], text: str) -> bytes:
    """What stands for an image that can't be read, as SVG of (height, width)."""
    return UNREADABLE.format(height=size[0], width=size[1], text=escape(text)).encode()


def canvas_objects(
    masks: Sequence[dict[str, Any]], ids: Sequence[int], size: tuple[int, int], side: int
) -> list[dict[str, Any]]:
    """Masks as the canvas takes them.

    Args:
        masks: annotations with `segmentation` as RLE, `bbox`, `area` and `score`.
        ids: their numbers.
        size: (height, width) of the upright image.
        side: pixels of the longer side of the whole picture that they are reduced to.
    """
    small = fitted(size, (side, side))
    across, down = size[1] / small[1], size[0] / small[0]
    objects = []
    for number, mask in zip(ids, masks, strict=True):
        found = sampled(mask, small)
        left, top, right, bottom = found.box
        place = {"x": left * across, "y": top * down, "width": (right - left) * across, "height": (bottom - top) * down}
        known = {"id": number, "area": int(mask["area"]), "score": mask["score"]}
        objects.append(known | place | {"png": as_png(found.pixels, 1)})
    return objects
