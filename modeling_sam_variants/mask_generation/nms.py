"""Greedy non-maximum suppression on boxes, equal to torchvision's without needing it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep boxes from the best score down and drop what overlaps a kept one too much (`torchvision.ops.nms`).

    As there: equal scores keep their order, areas and overlaps are float32, the overlap is compared with the threshold
    in float64, and a box without area, whose IoU with another such box is 0/0, suppresses nothing.

    Args:
        boxes: N×4 xyxy.
        scores: N.
        iou_threshold: a box goes when its IoU with a better one is above.

    Returns:
        Indices of the kept boxes, int64, best first, on the boxes' device.

    Raises:
        ValueError: shapes that don't fit.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"boxes must be Nx4 and scores N, got {tuple(boxes.shape)} and {tuple(scores.shape)}")
    order = scores.detach().sort(descending=True, stable=True).indices.cpu().numpy()
    corners = boxes.detach().float().cpu().numpy()[order]
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    rest, kept = np.arange(len(corners)), []
    while rest.size:
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[~_overlaps(corners, areas, best, rest, iou_threshold)]
    return torch.from_numpy(order[kept]).to(device=boxes.device, dtype=torch.int64)


def _overlaps(
    corners: np.ndarray, areas: np.ndarray, best: int, others: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Whether the IoU of `best` with each of `others` is above the threshold."""
    top_left = np.maximum(corners[others, :2], corners[best, :2])
    bottom_right = np.minimum(corners[others, 2:], corners[best, 2:])
    sides = np.maximum(bottom_right - top_left, np.float32(0))
    intersections = sides[:, 0] * sides[:, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        ious = intersections / (areas[best] + areas[others] - intersections)
    return ious.astype(np.float64) > iou_threshold
