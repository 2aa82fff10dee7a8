"""The overlapping crops that mask generation looks at beside the whole image, and the way back from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sam_variants.mask_codecs import check_size


def generate_crop_boxes(
    image_size: Sequence[int], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Return the whole image and, for each layer i, (2**i)² overlapping crops (segment-anything's function).

    Ours leaves out crops without a pixel, which images of a few pixels have.

    Args:
        image_size: (height, width) in pixels.
        n_layers: layers of crops; 0 for the whole image alone.
        overlap_ratio: overlap of the first layer's crops as a share of the shorter side; halved with each layer.

    Returns:
        Boxes xyxy, half-open, and the layer of each.

    Raises:
        ValueError: a size that is not (height, width).
    """
    height, width = check_size("image_size", image_size)
    boxes, layers = [[0, 0, width, height]], [0]
    for layer in range(1, n_layers + 1):
        n_per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n_per_side))
        spans_x, spans_y = (_spans(length, n_per_side, overlap) for length in (width, height))
        crops = [[x1, y1, x2, y2] for x1, x2 in spans_x for y1, y2 in spans_y]
        boxes += crops
        layers += [layer] * len(crops)
    return boxes, layers


def _spans(length: int, n_spans: int, overlap: int) -> list[tuple[int, int]]:
    """Cover a side with spans of one length that overlap; the last may end early."""
    span = math.ceil((overlap * (n_spans - 1) + length) / n_spans)
    starts = [(span - overlap) * index for index in range(n_spans)]
    return [(start, min(start + span, length)) for start in starts if start < length]


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: Sequence[float], orig_box: Sequence[float], atol: float = 20.0
) -> Tensor:
    """Say which boxes end at a cut through the image, so that the object behind may go on (segment-anything).

    Args:
        boxes: N×4 xyxy in the crop's frame.
        crop_box: the crop, xyxy in the image.
        orig_box: the image, [0, 0, width, height].
        atol: pixels that still count as near.

    Returns:
        N bool: near an edge of the crop that is not also near the same edge of the image.
    """
    uncropped = uncrop_boxes(boxes, crop_box).float()
    near_crop_edge, near_image_edge = (
        (uncropped - uncropped.new_tensor(edges)).abs() <= atol for edges in (crop_box, orig_box)
    )
    return (near_crop_edge & ~near_image_edge).any(dim=1)


def uncrop_boxes(boxes: Tensor, crop_box: Sequence[float]) -> Tensor:
    """Move N×4 xyxy boxes from a crop's frame into the image's."""
    x, y = crop_box[:2]
    return boxes + torch.tensor([x, y, x, y], device=boxes.device)


def uncrop_points(points: np.ndarray, crop_box: Sequence[float]) -> np.ndarray:
    """Move N×2 (x, y) points from a crop's frame into the image's."""
    return points + np.asarray(crop_box[:2])
