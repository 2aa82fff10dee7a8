"""Two classical answers to the prompts of an evaluation: flood fill and GrabCut, on the pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Points = Sequence[Sequence[float]] | np.ndarray
Labels = Sequence[int] | np.ndarray

# These gave the best means on scenes of the training textures, among other tolerances, colour spaces and sizes.
FLOOD_TOLERANCE = 26
FLOOD_BLUR = 9
GRABCUT_RADIUS = 0.08
GRABCUT_MARGIN = 0.1

LEAST_TOLERANCE = 2
GRABCUT_COLORS = 5  # of each of the two mixtures; cv2.grabCut needs that many pixels of either kind


def flood_fill_mask(image: np.ndarray, points: Points, labels: Labels, tolerance: int = FLOOD_TOLERANCE) -> np.ndarray:
    """What a paint program's magic wand selects: a flood from every positive click, minus floods from negative ones.

    As its user would, a flood that runs over a negative click is repeated with less tolerance until it does not. The
    floods from negative clicks themselves take away only what hardly differs from the clicked pixel.

    Args:
        image: H×W×3 uint8 RGB.
        points: N×2, x and y in pixels.
        labels: N, 1 = object, 0 = not the object.
        tolerance: how far each channel of the smoothed CIELAB image (8 bits each) may be from the clicked pixel.

    Returns:
        H×W bool.

    Raises:
        ValueError: a wrong shape or dtype, or a click outside the image.
    """
    pixels, kinds = check_clicks(image, points, labels)
    smooth = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), FLOOD_BLUR)
    refused = [pixel for pixel, kind in zip(pixels, kinds, strict=True) if kind == 0]
    selected = np.zeros(image.shape[:2], bool)
    for pixel, kind in zip(pixels, kinds, strict=True):
        if kind == 1:
            reach = tolerance
            flood = _flood(smooth, pixel, reach)
            while reach > LEAST_TOLERANCE and any(flood[y, x] for x, y in refused):
                reach = 3 * reach // 4
                flood = _flood(smooth, pixel, reach)
            selected |= flood
    for pixel in refused:
        selected &= ~_flood(smooth, pixel, LEAST_TOLERANCE)
    return selected


def _flood(image: np.ndarray, pixel: tuple[int, int], tolerance: int) -> np.ndarray:
    """H×W bool: the connected pixels that differ from the given one (x, y) by at most `tolerance` in each channel."""
    flood = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    cv2.floodFill(image, flood, pixel, 0, (tolerance,) * 3, (tolerance,) * 3, flags)
    return flood[1:-1, 1:-1] == 1


def grabcut_mask(
    image: np.ndarray,
    points: Points | None = None,
    labels: Labels | None = None,
    box: Sequence[float] | np.ndarray | None = None,
    radius: float = GRABCUT_RADIUS,
    iterations: int = 5,
) -> np.ndarray:
    """GrabCut (Rother et al., 2004; `cv2.grabCut`) started from clicks, a box, or both.

    Without a box, a disc around every positive click starts as probable object and all else as probable background;
    with one, its inside starts as probable object and its outside is background for good, of which only a margin around
    the box is looked at: far away, the object's colours may return. The centre of each click is certain. Of a result
    from clicks alone only the connected regions with a positive click are kept.

    Args:
        image: H×W×3 uint8 RGB.
        points: N×2, x and y in pixels.
        labels: N, 1 = object, 0 = not the object.
        box: x1, y1, x2, y2 in pixels; x2 and y2 are the last column and row plus one.
        radius: of the disc, as a share of the image's shorter side.
        iterations: of fitting the colours and cutting.

    Returns:
        H×W bool.

    Raises:
        ValueError: neither clicks nor box, a wrong shape or dtype, a click outside the image, or an empty box.
    """
    pixels, kinds = check_clicks(image, [] if points is None else points, [] if labels is None else labels)
    if box is None and 1 not in kinds:
        raise ValueError("grabcut_mask needs a positive click or a box")
    seeds = _grabcut_seeds(image.shape[:2], pixels, kinds, box, radius)
    window = _window(image.shape[:2], pixels, box)
    part = np.ascontiguousarray(seeds[window])
    if min(_object(part).sum(), (~_object(part)).sum()) < GRABCUT_COLORS:
        return _object(seeds)  # too few pixels of a kind to fit its colours
    view = np.ascontiguousarray(image[window])
    rectangle: Any = None  # read only by GC_INIT_WITH_RECT; OpenCV's stubs do not know that
    cv2.setRNGSeed(0)
    cv2.grabCut(view, part, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), iterations, cv2.GC_INIT_WITH_MASK)
    mask = np.zeros(image.shape[:2], bool)
    mask[window] = _object(part)
    if box is not None:
        return mask
    _, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    clicked = {int(regions[y, x]) for (x, y), kind in zip(pixels, kinds, strict=True) if kind == 1}
    return np.isin(regions, list(clicked - {0}))


def _object(seeds: np.ndarray) -> np.ndarray:
    return (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)


def _window(
    size: tuple[int, int], pixels: list[tuple[int, int]], box: Sequence[float] | np.ndarray | None
) -> tuple[slice, slice]:
    """The part of the image that GrabCut is given: all of it, or a box with its margin and all clicks."""
    if box is None:
        return slice(0, size[0]), slice(0, size[1])
    left, top, right, bottom = (round(float(side)) for side in box)
    margin = max(8, round(GRABCUT_MARGIN * max(right - left, bottom - top)))
    columns = [left - margin, right + margin, *(x for x, _ in pixels)]
    rows = [top - margin, bottom + margin, *(y for _, y in pixels)]
    return slice(max(min(rows), 0), max(rows) + 1), slice(max(min(columns), 0), max(columns) + 1)


def _grabcut_seeds(
    size: tuple[int, int],
    pixels: list[tuple[int, int]],
    kinds: list[int],
    box: Sequence[float] | np.ndarray | None,
    radius: float,
) -> np.ndarray:
    """What GrabCut is told at the start: H×W uint8 of cv2's GC_ constants."""
    seeds = np.full(size, cv2.GC_PR_BGD if box is None else cv2.GC_BGD, np.uint8)
    disc = max(2, round(radius * min(size)))
    if box is not None:
        left, top, right, bottom = (round(float(side)) for side in box)
        inside = seeds[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        if not inside.size:
            raise ValueError(f"box={[left, top, right, bottom]} has no pixel of an image of {size[1]}x{size[0]}")
        inside[:] = cv2.GC_PR_FGD
    else:
        for pixel, kind in zip(pixels, kinds, strict=True):
            if kind == 1:
                cv2.circle(seeds, pixel, disc, cv2.GC_PR_FGD, cv2.FILLED)
    for pixel, kind in zip(pixels, kinds, strict=True):
        cv2.circle(seeds, pixel, max(1, disc // 4), cv2.GC_FGD if kind == 1 else cv2.GC_BGD, cv2.FILLED)
    return seeds


def check_clicks(image: np.ndarray, points: Points, labels: Labels) -> tuple[list[tuple[int, int]], list[int]]:
    """The clicked pixels (x, y) and their labels as plain ints.

    Raises:
        ValueError: a wrong shape, dtype or label, or a click outside the image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; allowed: uint8 (H, W, 3)")
    pixels = [(round(float(x)), round(float(y))) for x, y in points]
    kinds = [int(label) for label in labels]
    if len(pixels) != len(kinds) or not {*kinds} <= {0, 1}:
        raise ValueError(f"labels={kinds} must hold 0 or 1 for each of {len(pixels)} points")
    height, width = image.shape[:2]
    for x, y in pixels:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"points has ({x}, {y}), outside of an image of {width}x{height}")
    return pixels, kinds
