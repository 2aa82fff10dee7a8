"""Mask prompts: from what a user gives to logits at the size that the prompt encoder reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_variants.processing.prompt_nesting import Entry

# The logit of a pixel that certainly belongs to the mask; its negative stands for the background.
CERTAIN_LOGIT = 10.0


@dataclass(frozen=True)
class ImageGeometry:
    """How one image was fitted into the model's input.

    Args:
        index: its place in the call.
        original_size, reshaped_size: (height, width) of the image before and after resizing.
        padded_size: (height, width) of the model's input, padding included.
        mask_size: (height, width) of a mask prompt, which covers the whole input.
    """

    index: int
    original_size: tuple[int, int]
    reshaped_size: tuple[int, int]
    padded_size: tuple[int, int]
    mask_size: tuple[int, int]


def mask_logits(entry: Entry, image: ImageGeometry) -> np.ndarray | None:
    """One mask prompt as logits.

    A bool or integer mask of the original image's size (any value but 0 is inside) is resized and padded as the
    image was and becomes logits between -10 and 10; cells that the mask's border crosses lie between, by the share of
    them that is inside. A floating-point mask holds logits already, such as an earlier prediction; NaN everywhere
    stands for no mask.

    Args:
        entry: the mask, height×width.
        image: the geometry of its image.

    Returns:
        float32 of `image.mask_size`, or None where there is no mask.

    Raises:
        ValueError: for an empty mask, another size, several labels in one mask, or logits that aren't finite.
    """
    mask = np.asarray(entry.value)
    if mask.ndim != 2:
        raise ValueError(f"{entry.path} must be a mask (height x width), got shape {mask.shape}")
    if mask.dtype.kind == "f":
        return _checked_logits(entry.path, mask, image)
    return _logits_of_binary(entry.path, mask, image)


def _checked_logits(path: str, mask: np.ndarray, image: ImageGeometry) -> np.ndarray | None:
    if mask.shape != image.mask_size:
        raise ValueError(
            f"{path} is floating point, so it must hold logits of the mask prompt size {image.mask_size}, got shape "
            f"{mask.shape}; a mask at the size {image.original_size} of image {image.index} must be bool or uint8"
        )
    if np.isnan(mask).all():
        return None
    if not np.isfinite(mask).all():
        raise ValueError(f"{path} holds NaN or infinite logits")
    return mask.astype(np.float32)


def _logits_of_binary(path: str, mask: np.ndarray, image: ImageGeometry) -> np.ndarray:
    if mask.shape != image.original_size:
        raise ValueError(
            f"{path} has shape {mask.shape}, but a {mask.dtype} mask must have the size {image.original_size} "
            f"(height, width) of image {image.index}; logits of the size {image.mask_size} must be floating point"
        )
    inside = mask != 0
    if not inside.any():
        raise ValueError(f"{path} is empty: no pixel is set; give None for an object without a mask")
    values = np.unique(mask[inside])
    if len(values) > 1:
        raise ValueError(f"{path} holds {len(values)} different labels; give one bool mask for each object")
    share = _fit(torch.from_numpy(inside).float(), image)
    return (share * (2 * CERTAIN_LOGIT) - CERTAIN_LOGIT).numpy()


def mask_on_input(mask: Tensor, image: ImageGeometry) -> Tensor:
    """A mask of the original image, H×W bool, over the model's input: `image.padded_size` bool."""
    return _padded(mask.float(), image) >= 0.5


def _fit(mask: Tensor, image: ImageGeometry) -> Tensor:
    """Share of every cell that lies inside: the image's own geometry, then the step down to the mask size."""
    return _resized(_padded(mask, image), image.mask_size).clamp(0, 1)


def _padded(mask: Tensor, image: ImageGeometry) -> Tensor:
    """Resized and padded as the image was."""
    resized = _resized(mask, image.reshaped_size)
    bottom, right = (padded - side for padded, side in zip(image.padded_size, image.reshaped_size, strict=True))
    return F.pad(resized, (0, right, 0, bottom))


def _resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    if mask.shape == size:
        return mask
    return F.interpolate(mask[None, None], size, mode="bilinear", align_corners=False, antialias=True)[0, 0]
