"""What masks are measured by: IoU, clicks until an IoU, COCO's average recall, and J and F of DAVIS. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

COCO_IOUS = np.linspace(0.5, 0.95, 10)
"""The IoUs from which a mask counts as found: 0.50, 0.55, … 0.95."""
COCO_AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 10**10)}
"""COCO's sizes of objects: pixels from and to, both inclusive."""
BOUNDARY_BOUND = 0.008
"""How far off a contour may be, as a share of the image's diagonal (DAVIS)."""


def mask_ious(predictions: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Intersection over union of …×H×W bool masks, broadcast; two empty masks agree (1.0)."""
    intersection = (predictions & truths).sum(axis=(-2, -1))
    union = (predictions | truths).sum(axis=(-2, -1))
    return np.where(union == 0, 1.0, intersection / np.maximum(union, 1))


def clicks_to_reach(ious: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of clicks (NoC) until a mask is good enough.

    Args:
        ious: N×K, of each object after its first, second, … K-th click.
        least: the IoU that is good enough.

    Returns:
        For each object the number of the first click with that IoU, N ints, K where there is none (as NoC is usually
        reported); and whether there is one, N bool.

    Raises:
        ValueError: `ious` has another shape, or no click.
    """
    values = np.asarray(ious)
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"ious has shape {values.shape}; expected N×K, the IoU of N objects after each of K clicks")
    good = np.asarray(values >= least)
    reached = np.asarray(good.any(axis=1))
    return np.where(reached, good.argmax(axis=1) + 1, values.shape[1]), reached


def recall_hits(ious: np.ndarray, thresholds: Sequence[float] | np.ndarray = COCO_IOUS) -> np.ndarray:
    """Which found masks count as found objects of one image, as COCO's evaluation decides it.

    From the best score down, each mask takes the object that it has the largest IoU with among those that are left, if
    that is large enough; of equal ones the last. Objects that do not count can be left out beforehand: a mask takes
    one only if no other fits.

    Args:
        ious: D×G, of masks in falling order of their scores with the objects.
        thresholds: T IoUs that are large enough.

    Returns:
        T×D bool. The first k columns are what the best k masks hit.
    """
    least = np.minimum(np.asarray(thresholds, dtype=np.float64), 1 - 1e-10)
    hits = np.zeros((len(least), len(ious)), bool)
    if not ious.size:
        return hits
    is_left = np.ones((len(least), ious.shape[1]), bool)
    rows = np.arange(len(least))
    for index in np.flatnonzero(ious.max(axis=1) >= least.min()):
        values = np.where(is_left, ious[index], -1.0)[:, ::-1]
        best = values.argmax(axis=1)
        hits[:, index] = values[rows, best] >= least
        taken = values.shape[1] - 1 - best
        is_left[rows[hits[:, index]], taken[hits[:, index]]] = False
    return hits


def average_recall(
    images: Iterable[np.ndarray], most: int, thresholds: Sequence[float] | np.ndarray = COCO_IOUS
) -> float | None:
    """COCO's AR without classes: the share of objects that the best masks of an image find, averaged over IoUs.

    The same as `COCOeval` with `useCats = 0` and the area of all objects.

    Args:
        images: of each image the IoUs D×G of masks, in falling order of their scores, with its objects.
        most: masks of an image that are looked at (AR@100: 100).
        thresholds: the IoUs.

    Returns:
        0..1, None without any object.
    """
    num_objects, found = 0, np.zeros(len(thresholds))
    for ious in images:
        num_objects += ious.shape[1]
        found += recall_hits(ious[:most], thresholds).sum(axis=1)
    return float(np.mean(found / num_objects)) if num_objects else None


def boundary(mask: np.ndarray) -> np.ndarray:
    """The contour of an H×W bool mask, as DAVIS draws it: pixels unlike their right, lower or lower right neighbour.

    Beyond the image nothing changes; the border of the image is no contour.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ diagonal)


def boundary_f(prediction: np.ndarray, truth: np.ndarray, bound: float = BOUNDARY_BOUND) -> float:
    """F, the contour accuracy of DAVIS (Perazzi et al., 2016): precision and recall of contour pixels, in one number.

    A contour pixel is right where the other contour, made thicker with a disk, covers it.

    Args:
        prediction, truth: H×W bool.
        bound: radius of the disk as a share of the diagonal; whole pixels, rounded up.

    Returns:
        0..1; two masks without a contour agree (1.0), one without agrees with none (0.0).

    Raises:
        ValueError: the masks differ in shape.
    """
    if prediction.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"prediction is {prediction.shape} and truth {truth.shape}; expected two masks H×W")
    ours, theirs = boundary(prediction), boundary(truth)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    radius = math.ceil(bound * math.hypot(*truth.shape))
    precision = (ours & thickened(theirs, radius)).sum() / ours.sum()
    recall = (theirs & thickened(ours, radius)).sum() / theirs.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def thickened(contour: np.ndarray, radius: int) -> np.ndarray:
    """An H×W bool mask dilated with a disk: whatever is at most `radius` pixels from one of its pixels.

    The mask has a pixel or more.
    """
    rows, columns = np.flatnonzero(contour.any(axis=1)), np.flatnonzero(contour.any(axis=0))
    top, left = max(rows[0] - radius, 0), max(columns[0] - radius, 0)
    window = np.s_[top : rows[-1] + radius + 1, left : columns[-1] + radius + 1]
    distance = cv2.distanceTransform((~contour[window]).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    result = np.zeros_like(contour)
    # Squared distances are whole numbers: half of one is more than what rounding can be wrong by.
    result[window] = distance**2 < radius**2 + 0.5
    return result


def region_and_boundary(answers: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """J (IoU) and F of one object in every frame.

    Args:
        answers, truths: T×H×W bool.

    Returns:
        T numbers each.
    """
    pairs = zip(answers, truths, strict=True)
    return mask_ious(answers, truths), np.array([boundary_f(answer, truth) for answer, truth in pairs])
