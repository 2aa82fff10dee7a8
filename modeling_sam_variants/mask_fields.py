"""What may be known about each mask of a `Masks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

ArrayLike = Tensor | np.ndarray | Sequence[Any]


class MaskFields(TypedDict, total=False):
    """What may be known about each mask; every constructor of `Masks` takes these by name."""

    scores: ArrayLike | None
    stability_scores: ArrayLike | None
    points: ArrayLike | None
    crop_boxes: ArrayLike | None
    object_ids: ArrayLike | None
    object_score_logits: ArrayLike | None


FIELD_SHAPES: dict[str, tuple[tuple[int | None, ...], ...]] = {
    "scores": ((),),
    "stability_scores": ((),),
    "points": ((2,), (None, 2)),
    "crop_boxes": ((4,),),
    "object_ids": ((),),
    "object_score_logits": ((),),
}
"""Field → the shapes one mask's value may have; None is any length."""


def check_field(name: str, value: Any, count: int) -> Tensor | None:
    """Bring one field of `count` masks to its tensor form. Raises: ValueError."""
    if value is None:
        return None
    tensor = torch.as_tensor(value).detach().cpu()
    shapes = FIELD_SHAPES[name]
    if count == 0 and tensor.numel() == 0:
        tensor = tensor.reshape(0, *(length or 0 for length in shapes[0]))
    fits = any(
        tensor.ndim == 1 + len(shape) and all(n in (None, m) for n, m in zip(shape, tensor.shape[1:], strict=True))
        for shape in shapes
    )
    if not fits or len(tensor) != count:
        wanted = " or ".join("x".join([str(count), *("K" if n is None else str(n) for n in shape)]) for shape in shapes)
        raise ValueError(f"{name} must have shape {wanted} for {count} masks, got {tuple(tensor.shape)}")
    if name == "object_ids":
        if tensor.is_floating_point() and count:
            raise ValueError(f"object_ids must be whole numbers, got {tensor.tolist()}")
        return tensor.to(torch.int64)
    tensor = tensor.to(torch.float32)
    if not tensor.isfinite().all():
        raise ValueError(f"{name} must be finite, got {tensor.tolist()}")
    return tensor
