"""Low-resolution mask logits, brought back to the size of the original image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Full-size logits that are held at once while masks are thresholded: 64 MiB of float32.
MAX_LOGITS_AT_ONCE = 1 << 24


def upscale_logits(
    logits: Tensor,
    original_size: tuple[int, int],
    reshaped_size: tuple[int, int],
    padded_size: tuple[int, int] | None,
) -> Tensor:
    """Undo the model's geometry on mask logits: `Sam.postprocess_masks` of segment-anything, in float32.

    Args:
        logits: P×M×h×w at the mask decoder's resolution.
        original_size: (height, width) of the original image.
        reshaped_size: (height, width) of the image inside the padded input.
        padded_size: (height, width) of the padded input; None when the image was resized without padding, as SAM 2
            does: then the logits are resized once, straight to the original size.

    Returns:
        P×M×height×width logits.
    """
    logits = logits.float()
    if padded_size is not None:
        logits = F.interpolate(logits, padded_size, mode="bilinear", align_corners=False)
        logits = logits[..., : reshaped_size[0], : reshaped_size[1]]
    return F.interpolate(logits, original_size, mode="bilinear", align_corners=False)


def upscale_to_masks(
    logits: Tensor,
    original_size: tuple[int, int],
    reshaped_size: tuple[int, int],
    padded_size: tuple[int, int] | None,
    mask_threshold: float,
) -> Tensor:
    """`upscale_logits` above the threshold, a few prompts at a time, so that memory stays bounded.

    Returns:
        P×M×height×width bool.
    """
    masks = torch.empty((*logits.shape[:2], *original_size), dtype=torch.bool, device=logits.device)
    pixels = max(_area(original_size), _area(padded_size or original_size)) * logits.shape[1]
    prompts_at_once = max(1, MAX_LOGITS_AT_ONCE // max(1, pixels))
    for start in range(0, logits.shape[0], prompts_at_once):
        chunk = slice(start, start + prompts_at_once)
        masks[chunk] = upscale_logits(logits[chunk], original_size, reshaped_size, padded_size) > mask_threshold
    return masks


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]
