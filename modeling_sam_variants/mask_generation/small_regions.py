"""Small holes and islands of finished masks, as segment-anything's mask generator removes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_utils

from sam_variants.mask_codecs import Rle, rle_runs
from sam_variants.mask_generation.nms import nms
from sam_variants.mask_runs import MaskRuns

FILL_HOLES, REMOVE_ISLANDS = MODES = ("holes", "islands")


def remove_small_regions(mask: np.ndarray, area_threshold: float, mode: str) -> tuple[np.ndarray, bool]:
    """Fill small holes of a mask, or remove its small islands (segment-anything's function); 8-connected.

    Args:
        mask: H×W bool.
        area_threshold: regions of fewer pixels are small. Where all islands are, the largest stays.
        mode: "holes" or "islands".

    Returns:
        The mask, and whether there was any small region.

    Raises:
        ValueError: another mode.
    """
    import cv2  # here, because it is large and who loads a model needs none of it

    if mode not in MODES:
        raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
    regions_of = ~mask if mode == FILL_HOLES else mask
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(regions_of.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    is_small = areas < area_threshold
    if not is_small.any():
        return mask, False
    if mode == FILL_HOLES:
        belongs = np.concatenate([[True], is_small])
    else:
        is_small[areas.argmax()] &= not is_small.all()
        belongs = np.concatenate([[False], ~is_small])
    return belongs[labels], True


def clean_small_regions(
    rles: Sequence[Rle], area_threshold: float, iou_threshold: float
) -> tuple[list[Rle], list[int]]:
    """Fill small holes, then remove small islands of all masks of an image, then drop what became a duplicate.

    Follows segment-anything's `postprocess_small_regions`: a mask that needed no change is preferred to one that did.
    Ours looks at the part of the image around each mask only.

    Args:
        rles: N compressed run-length codes of one size.
        area_threshold: regions of fewer pixels are small; above 0.
        iou_threshold: box IoU above which a mask goes.

    Returns:
        The codes that are kept, the unchanged masks first, and their positions in `rles`.
    """
    cleaned = [_clean(rle, area_threshold) for rle in rles]
    boxes = torch.tensor([mask.box for mask in cleaned], dtype=torch.int64).reshape(-1, 4)
    scores = torch.tensor([0.0 if mask.changed else 1.0 for mask in cleaned], dtype=torch.float32)
    kept = nms(boxes, scores, iou_threshold).tolist()
    return [cleaned[index].rle for index in kept], kept


class _Cleaned(NamedTuple):
    rle: Rle
    box: list[int]  # xyxy, inclusive, zeros for an empty mask
    changed: bool


def _clean(rle: Rle, area_threshold: float) -> _Cleaned:
    height, width = rle["size"]
    x, y, w, h = (int(value) for value in mask_utils.toBbox(rle))
    # Background that leaves this window on one side fills that side's whole margin: it is not small, here or outside.
    margin_x, margin_y = (math.ceil(area_threshold / max(side, 1)) for side in (h, w))
    # Of islands of one size OpenCV's first stays; it goes through blocks of 2×2 pixels: they must be the whole image's.
    left, top = max(0, x - margin_x) // 2 * 2, max(0, y - margin_y) // 2 * 2
    right, bottom = min(width, x + w + margin_x), min(height, y + h + margin_y)
    pixels = _columns(rle, left, right)[top:bottom]
    pixels, filled = remove_small_regions(pixels, area_threshold, FILL_HOLES)
    pixels, removed = remove_small_regions(pixels, area_threshold, REMOVE_ISLANDS)
    if not filled and not removed:
        return _Cleaned(rle, [x, y, max(x + w - 1, 0), max(y + h - 1, 0)], False)
    runs = _runs(pixels)
    x1, y1, x2, y2 = runs.box
    return _Cleaned(runs.rle((height, width), (left, top)), [x1 + left, y1 + top, x2 + left, y2 + top], True)


def _columns(rle: Rle, left: int, right: int) -> np.ndarray:
    """Decode the columns left..right of a mask, H×(right − left) bool."""
    height = rle["size"][0]
    runs = rle_runs(rle["counts"])
    edges = np.concatenate([[0], np.cumsum(runs)]).clip(left * height, right * height)
    is_mask = np.arange(len(runs)) % 2 == 1
    return is_mask.repeat(np.diff(edges)).reshape(right - left, height).T


def _runs(pixels: np.ndarray) -> MaskRuns:
    """The vertical runs of an H×W bool mask."""
    steps = np.diff(pixels.T.astype(np.int8), axis=1, prepend=0, append=0)
    columns, starts = (steps == 1).nonzero()
    return MaskRuns(columns, starts, (steps == -1).nonzero()[1])
