"""An image with the objects that are known in it: what training learns from and evaluation is held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_LEVELS = 3
"""Whole, part, and part of a part: what the three masks of an ambiguous click stand for."""


@dataclass(frozen=True)
class MaskedImage:
    """An image with masks of its objects, which may overlap.

    Attributes:
        image: H×W×3 uint8 RGB.
        masks: N×H×W bool, the pixels of each object, one or more; N may be 0.
        name: what the source calls the image, "" where it says nothing.
        levels: of each object 0 (a whole), 1 (a part) or 2 (a part of a part), N ints; None where it isn't known.

    Raises:
        ValueError: another dtype or shape, an object without a pixel, or another level.
    """

    image: np.ndarray
    masks: np.ndarray
    name: str = ""
    levels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"image is {self.image.dtype} {self.image.shape}; allowed: uint8 (H, W, 3)")
        if self.masks.dtype != bool or self.masks.ndim != 3 or self.masks.shape[1:] != self.image.shape[:2]:
            height, width = self.image.shape[:2]
            raise ValueError(f"masks is {self.masks.dtype} {self.masks.shape}; allowed: bool (N, {height}, {width})")
        if not self.masks.any(axis=(1, 2)).all():
            raise ValueError("masks has an object without a pixel")
        if self.levels is not None and (
            self.levels.shape != (len(self.masks),) or not np.isin(self.levels, range(NUM_LEVELS)).all()
        ):
            raise ValueError(
                f"levels is {self.levels.tolist()}; allowed: a number of 0..{NUM_LEVELS - 1} for each of the "
                f"{len(self.masks)} objects"
            )

    @property
    def areas(self) -> np.ndarray:
        """N shares of the image, 0..1."""
        return self.masks.mean(axis=(1, 2))
