"""What mask generation asks of a model: candidates for points on an image (or crop) that is encoded already."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from sam_variants.mask_runs import MaskGeometry


class Candidates(NamedTuple):
    """Masks that a decoder proposes for some points, those with a sufficient score only.

    Attributes:
        prompts: J int64, which of the points each belongs to, ascending; the masks of one point in the decoder's order.
        scores: J float32, the predicted IoU.
        logits: J×h×w float32 at the decoder's resolution, on any device.
    """

    prompts: Tensor
    scores: Tensor
    logits: Tensor


class EncodedCrop(Protocol):
    """One encoded image or crop that can be asked about points."""

    @property
    def geometry(self) -> MaskGeometry:
        """How the decoder's logits become pixels of this crop."""
        ...

    def decode(self, points: np.ndarray, score_threshold: float | None, multimask_output: bool = True) -> Candidates:
        """Propose masks for each point alone.

        Args:
            points: K×2 (x, y) in pixels of the crop, each an object's one foreground point.
            score_threshold: only masks whose score is above; None for all.
            multimask_output: the masks for an ambiguous point instead of the single one.
        """
        ...

    def refine(self, points: np.ndarray, logits: Tensor, score_threshold: float | None) -> Candidates:
        """Give each point its mask back as a prompt and take the single mask (SAM 2's mask-to-mask refinement).

        Args:
            points: K×2 (x, y) in pixels of the crop.
            logits: K×h×w at the decoder's resolution; the prompt is cut to ±32.
            score_threshold: only masks whose score is above; None for all.
        """
        ...
