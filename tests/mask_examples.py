"""Masks that several test files use."""

import numpy as np
import torch

from sam_variants.results import Masks

SIZE = (24, 32)


def make_stack(count: int = 4, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """Rectangles with noise, each of another area, overlapping."""
    rng = np.random.default_rng(seed)
    stack = np.zeros((count, *size), dtype=bool)
    for index, mask in enumerate(stack):
        mask[2 + index : 16, 3 : 20 - index] = rng.random((14 - index, 17 - index)) > 0.2
    return stack


def make_fields(count: int = 4) -> dict:
    rng = np.random.default_rng(1)
    return {
        "scores": rng.random(count),
        "stability_scores": rng.random(count),
        "points": rng.random((count, 2)) * 20 + 1,
        "crop_boxes": np.tile([1.0, 2.0, 30.0, 20.0], (count, 1)),
        "object_ids": np.arange(count) + 7,
    }


def in_every_form(stack: np.ndarray, **fields) -> list[Masks]:
    size = stack.shape[1:]
    rles = Masks(stack).to_coco(1)
    logits = torch.where(torch.from_numpy(stack), 3.0, -2.0)
    return [
        Masks(stack, **fields),
        Masks.from_rle([annotation["segmentation"] for annotation in rles], size=size, **fields),
        Masks.from_logits(logits, size, **fields),
    ]
