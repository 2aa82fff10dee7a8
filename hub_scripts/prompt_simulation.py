"""Simulated users: clicks, corrections and boxes for ground-truth masks."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def sample_click(coverage: np.ndarray, rng: np.random.Generator, cell: int) -> tuple[float, float]:
    """A click on an object, anywhere in it but more often away from its border.

    Args:
        coverage: h×w, the object's share of every cell, 0..1; at least one cell is above 0.
        rng: random numbers.
        cell: side of a cell in pixels.

    Returns:
        x and y in pixels.
    """
    inside = (coverage >= min(0.75, float(coverage.max()))).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 3)
    depth = depth[1:-1, 1:-1].ravel()
    weight = (depth ** rng.choice([0.3, 1.0, 4.0]) * (depth > 0)).cumsum()
    index = int(np.searchsorted(weight, rng.uniform(0, weight[-1]), side="right"))
    y, x = divmod(min(index, depth.size - 1), coverage.shape[1])
    jitter = rng.uniform(0.25, 0.75, 2) * cell - 0.5
    return float(x * cell + jitter[0]), float(y * cell + jitter[1])


def central_click(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) farthest from the border of an H×W bool mask: the click that evaluations are made with."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def correction_click(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int, int] | None:
    """The next click (x, y, label) of an evaluation: the middle of the largest wrong region, None where all is right.

    Args:
        prediction, truth: H×W bool.
    """
    wrong = (prediction != truth).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(wrong, connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y = central_click(regions == largest)
    return x, y, int(truth[y, x])


def jittered_box(coverage: np.ndarray, rng: np.random.Generator, cell: int, jitter: float = 0.08) -> np.ndarray:
    """A hand-drawn box around an object: x1, y1, x2, y2 in pixels, each side off by up to `jitter` of the extent."""
    rows, columns = np.flatnonzero(coverage.max(axis=1) > 0.25), np.flatnonzero(coverage.max(axis=0) > 0.25)
    if not len(rows) or not len(columns):
        rows, columns = np.flatnonzero(coverage.max(axis=1) > 0), np.flatnonzero(coverage.max(axis=0) > 0)
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32) * cell
    extent = np.tile(box[2:] - box[:2], 2)
    box += rng.uniform(-jitter, jitter, 4).astype(np.float32) * extent
    limit = np.tile(np.array(coverage.shape[::-1], np.float32) * cell, 2)
    return np.clip(box, 0, limit)


def sample_corrections(logits: Tensor, targets: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """One corrective click per object, drawn from the wrong region (from the object where nothing is wrong).

    Args:
        logits: predicted mask logits N×h×w.
        targets: coverage N×h×w in [0, 1].
        cell: side of a cell in pixels.

    Returns:
        Positions N×2 (x, y in pixels) and labels N (1 for missing, 0 for too much).
    """
    truth = targets > 0.5
    wrong = ((logits > 0) != truth).float()
    # a wrong cell counts the more the more of its neighbours are wrong: clicks go into regions, not onto outlines
    weight = wrong * F.avg_pool2d(wrong[:, None], 5, 1, 2)[:, 0] ** 2
    weight = weight.flatten(1) + 1e-6 * targets.flatten(1) + 1e-9
    index = torch.multinomial(weight, 1)[:, 0]
    width = targets.shape[-1]
    labels = truth.flatten(1).gather(1, index[:, None])[:, 0].long()
    position = torch.stack([index % width, index // width], dim=-1).float()
    return (position + 0.25 + 0.5 * torch.rand_like(position)) * cell - 0.5, labels
