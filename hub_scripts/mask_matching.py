"""How far two sets of masks of one image agree, from their run-length codes, without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from sam_variants.mask_codecs import Rle


@dataclass(frozen=True)
class Agreement:
    """Two sets of masks side by side.

    Attributes:
        ours, theirs: how many masks there are.
        matched: how many of theirs have one of ours that is the same (at the IoU asked for).
        extra: how many of ours are the same as none of theirs.
        least_iou: the smallest IoU that one of theirs has with the best of ours; None without theirs.
    """

    ours: int
    theirs: int
    matched: int
    extra: int
    least_iou: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def code_ious(ours: Sequence[Rle], theirs: Sequence[Rle]) -> np.ndarray:
    """Intersection over union of N and M compressed run-length codes of one size, N×M float64."""
    if not ours or not theirs:
        return np.zeros((len(ours), len(theirs)))
    return np.asarray(mask_utils.iou(list(ours), list(theirs), [0] * len(theirs)))


def agreement(ours: Sequence[Rle], theirs: Sequence[Rle], least: float = 0.99) -> Agreement:
    """Compare two sets of masks.

    Args:
        ours, theirs: compressed run-length codes.
        least: the IoU from which on two masks are the same.
    """
    ious = code_ious(ours, theirs)
    same = ious >= least
    return Agreement(
        ours=len(ours),
        theirs=len(theirs),
        matched=int(same.any(axis=0).sum()),
        extra=len(ours) - int(same.any(axis=1).sum()),
        least_iou=float(ious.max(axis=0, initial=0.0).min()) if len(theirs) else None,
    )


def recall(found: Sequence[Rle], wanted: Sequence[Rle], least: float) -> np.ndarray:
    """Say of each wanted mask whether a found one has at least that IoU with it, bool."""
    return code_ious(found, wanted).max(axis=0, initial=0.0) >= least
