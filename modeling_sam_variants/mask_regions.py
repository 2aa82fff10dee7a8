"""Small connected regions of masks: holes to fill and specks to remove."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# How sure the official image predictor is of what it fills and removes.
CERTAIN_LOGIT = 10.0


def region_areas(masks: Tensor) -> Tensor:
    """For every pixel of a mask, how many pixels its 8-connected region has.

    Args:
        masks: …×H×W bool, on any device.

    Returns:
        …×H×W int32 on the same device; 0 outside the masks.
    """
    import cv2  # here, because it is large and who loads a model needs none of it

    pixels = masks.reshape(-1, *masks.shape[-2:]).cpu().numpy().astype(np.uint8)
    areas = np.zeros(pixels.shape, dtype=np.int32)
    for mask, out in zip(pixels, areas, strict=True):
        _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        by_region = statistics[:, cv2.CC_STAT_AREA]
        by_region[0] = 0  # the pixels that are not in the mask
        out[:] = by_region[regions]
    return torch.from_numpy(areas).reshape(masks.shape).to(masks.device)


def fill_holes(logits: Tensor, max_area: int, value: float = 0.1) -> Tensor:
    """Give background regions of at most `max_area` pixels a logit inside the mask, as SAM 2's video predictor does.

    The official code does so with CUDA only; ours on every device.

    Args:
        logits: …×H×W; a pixel belongs to the mask when its logit is above 0.
        max_area: 0 for no change.
        value: the logit that holes get.

    Returns:
        …×H×W.
    """
    if max_area <= 0:
        return logits
    areas = region_areas(logits <= 0)
    return torch.where((areas > 0) & (areas <= max_area), value, logits)


def clean_masks(
    logits: Tensor, max_hole_area: float = 0, max_sprinkle_area: float = 0, mask_threshold: float = 0.0
) -> Tensor:
    """Fill small holes and remove small specks, both found in the masks as they come (SAM 2's `SAM2Transforms`).

    Args:
        logits: …×H×W.
        max_hole_area, max_sprinkle_area: largest area in pixels of the logits; 0 for no change.
        mask_threshold: a pixel belongs to the mask when its logit is above.

    Returns:
        …×H×W.
    """
    cleaned = logits
    for max_area, masks, value in (
        (max_hole_area, logits <= mask_threshold, mask_threshold + CERTAIN_LOGIT),
        (max_sprinkle_area, logits > mask_threshold, mask_threshold - CERTAIN_LOGIT),
    ):
        if max_area > 0:
            areas = region_areas(masks)
            cleaned = torch.where((areas > 0) & (areas <= max_area), value, cleaned)
    return cleaned
