"""The masks found on one crop: measured, filtered, freed of duplicates, all without a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_variants.mask_generation.crops import is_box_near_crop_edge, uncrop_boxes, uncrop_points
from sam_variants.mask_generation.encoded_crop import Candidates
from sam_variants.mask_generation.nms import nms
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_runs import MaskGeometry, MaskRuns, MaskSurface


class FoundMask(NamedTuple):
    """One mask that passed the filters.

    Attributes:
        runs: its pixels in the crop's frame.
        score: predicted IoU.
        stability_score: 0..1.
        point: (x, y) in pixels of the whole image.
        crop_box: where it was found, xyxy in the whole image.
    """

    runs: MaskRuns
    score: float
    stability_score: float
    point: np.ndarray
    crop_box: list[int]


def stability_score(surface: MaskSurface, threshold: float, offset: float) -> np.float32:
    """Compare a mask with itself cut higher and lower (segment-anything's `calculate_stability_score`).

    Ours gives 0 instead of NaN where even the lower cut leaves no pixel.

    Args:
        surface: the mask's logits.
        threshold: the mask's own cut.
        offset: how far the cut is moved, in logits.

    Returns:
        IoU of the two masks, 0..1.
    """
    union = surface.area(threshold - offset)
    return np.float32(surface.area(threshold + offset)) / np.float32(max(union, 1))


def filter_candidates(
    candidates: Candidates,
    points: np.ndarray,
    geometry: MaskGeometry,
    crop_box: list[int],
    image_size: tuple[int, int],
    options: MaskGenerationOptions,
) -> list[FoundMask]:
    """Drop the candidates that are not stable, then those that the crop cuts off.

    Args:
        candidates: masks whose score sufficed.
        points: K×2 (x, y) in pixels of the crop, which `candidates.prompts` counts.
        geometry: how logits become pixels of the crop.
        crop_box: the crop, xyxy in the image.
        image_size: (height, width) of the whole image.
        options: thresholds.
    """
    found = []
    threshold, offset = options.mask_threshold, options.stability_score_offset
    uncropped = uncrop_points(points, crop_box)
    for prompt, score, logits in zip(
        candidates.prompts.tolist(), candidates.scores.tolist(), candidates.logits.numpy(), strict=True
    ):
        surface = MaskSurface(logits, geometry, threshold - offset)
        stability = stability_score(surface, threshold, offset)
        # Compared in float32, as the official code does.
        if options.stability_score_thresh <= 0 or stability >= np.float32(options.stability_score_thresh):
            runs = surface.runs(threshold)
            found.append(FoundMask(runs, score, float(stability), uncropped[prompt], crop_box))
    if not found:
        return []
    is_cut = is_box_near_crop_edge(_boxes(found), crop_box, [0, 0, image_size[1], image_size[0]])
    return [mask for mask, cut in zip(found, is_cut.tolist(), strict=True) if not cut]


def drop_duplicates(found: Sequence[FoundMask], iou_threshold: float) -> list[FoundMask]:
    """Of the masks of one crop with nearly the same box keep the one with the best score; best first."""
    kept = nms(_boxes(found), torch.tensor([mask.score for mask in found], dtype=torch.float32), iou_threshold)
    return [found[index] for index in kept.tolist()]


def drop_duplicates_across_crops(found: Sequence[FoundMask], iou_threshold: float) -> list[FoundMask]:
    """Of the masks of all crops with nearly the same box keep the one from the smallest crop; smallest first."""
    crop_boxes = torch.tensor([mask.crop_box for mask in found]).reshape(-1, 4)
    sides = crop_boxes[:, 2:] - crop_boxes[:, :2]
    kept = nms(image_boxes(found), 1 / sides.prod(dim=1), iou_threshold)
    return [found[index] for index in kept.tolist()]


def image_boxes(found: Sequence[FoundMask]) -> Tensor:
    """N×4 int64 xyxy boxes in the whole image, all inclusive."""
    moved = [uncrop_boxes(box, mask.crop_box) for box, mask in zip(_boxes(found), found, strict=True)]
    return torch.stack(moved) if moved else _boxes(found)


def _boxes(found: Sequence[FoundMask]) -> Tensor:
    """N×4 int64 xyxy boxes in the crop's frame, all inclusive."""
    return torch.tensor([mask.runs.box for mask in found], dtype=torch.int64).reshape(-1, 4)
