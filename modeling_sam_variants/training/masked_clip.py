"""A video clip with the objects that are known in it: what tracking learns from and is held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MaskedClip:
    """Frames of a clip with the objects that are known in them, which may overlap.

    Attributes:
        frames: T×H×W×3 uint8 RGB.
        masks: O×T×H×W bool; empty on frames where an object is hidden, and on those that are not annotated.
        object_ids: O numbers, ascending; the same ones in all windows of a clip.
        name: what the source calls the clip.
        annotated: T bool, the frames whose objects are known; None for all of them.
        indices: which frames of the clip these are, T numbers; None for the first T.

    Raises:
        ValueError: another dtype, or shapes that disagree.
    """

    frames: np.ndarray
    masks: np.ndarray
    object_ids: tuple[int, ...]
    name: str = ""
    annotated: np.ndarray = None  # type: ignore[assignment]
    indices: tuple[int, ...] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"frames is {self.frames.dtype} {self.frames.shape}; allowed: uint8 (T, H, W, 3)")
        expected = (len(self.object_ids), *self.frames.shape[:3])
        if self.masks.dtype != bool or self.masks.shape != expected:
            raise ValueError(f"masks is {self.masks.dtype} {self.masks.shape}; allowed: bool {expected} (O, T, H, W)")
        num_frames = len(self.frames)
        if self.annotated is None:
            object.__setattr__(self, "annotated", np.ones(num_frames, bool))
        if self.indices is None:
            object.__setattr__(self, "indices", tuple(range(num_frames)))
        if self.annotated.shape != (num_frames,) or len(self.indices) != num_frames:
            raise ValueError(f"annotated and indices must tell of {num_frames} frames each")

    def __len__(self) -> int:
        return len(self.frames)
