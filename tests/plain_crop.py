"""Crops that mask generation can ask, in the plainest way: the model called as anybody would, and one without weights.

They are the oracles of the tests of mask generation and of what decodes faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_variants.mask_generation.encoded_crop import Candidates
from sam_variants.mask_runs import MaskGeometry
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.coordinates import apply_coords, longest_side_shape
from sam_variants.processing.processor_for import processor_for

LARGEST_PROMPT_LOGIT = 32.0


def select(scores: Tensor, logits: Tensor, score_threshold: float | None) -> Candidates:
    """The candidates with a sufficient score: `scores` K×M and `logits` K×M×h×w, point by point."""
    num_points, num_masks = scores.shape
    prompts = torch.arange(num_points).repeat_interleave(num_masks)
    scores, logits = scores.flatten().float(), logits.flatten(0, 1).float()
    chosen = torch.ones_like(scores, dtype=torch.bool) if score_threshold is None else scores > score_threshold
    return Candidates(prompts[chosen], scores[chosen], logits[chosen])


class PlainCrop:
    """An image encoded by a model, asked with `model(image_embeddings=…, input_points=…)`."""

    def __init__(self, model: SamVariantsModel, image: np.ndarray) -> None:
        self.model = model
        processor = processor_for(model).image_processor
        batch = processor(image, return_tensors="pt")
        self.original_size, self.reshaped_size = (
            tuple(batch[name][0].tolist()) for name in ("original_sizes", "reshaped_input_sizes")
        )
        is_padded = processor.resize_mode == "longest_side"
        input_size = tuple(batch["pixel_values"].shape[-2:])
        self.geometry = MaskGeometry(
            self.original_size, *((self.reshaped_size, input_size) if is_padded else (None, None))
        )
        with torch.no_grad():
            self.embeddings = model.get_image_embeddings(batch["pixel_values"])

    def decode(self, points: np.ndarray, score_threshold: float | None, multimask_output: bool = True) -> Candidates:
        return self._call(points, score_threshold, multimask_output=multimask_output)

    def refine(self, points: np.ndarray, logits: Tensor, score_threshold: float | None) -> Candidates:
        masks = logits.clamp(-LARGEST_PROMPT_LOGIT, LARGEST_PROMPT_LOGIT)
        return self._call(points, score_threshold, multimask_output=False, input_masks=masks[None])

    def _call(self, points: np.ndarray, score_threshold: float | None, **arguments: Any) -> Candidates:
        coordinates = torch.from_numpy(apply_coords(points, self.original_size, self.reshaped_size)).float()
        with torch.no_grad():
            output = self.model(
                image_embeddings=self.embeddings,
                input_points=coordinates[None, :, None],
                input_labels=torch.ones(1, len(points), 1, dtype=torch.int64),
                **arguments,
            )
        return select(output.iou_scores[0], output.pred_masks[0], score_threshold)


class AnalyticCrop:
    """A model in closed form: around each point three discs whose radii and scores depend on where it lies.

    It sees images as SAM does, their longer side resized to 64 pixels and padded, and its masks are 64×64.
    """

    SIDE = 64

    def __init__(self, image: np.ndarray) -> None:
        self.original_size = (image.shape[0], image.shape[1])
        self.reshaped_size = longest_side_shape(*self.original_size, self.SIDE)
        self.geometry = MaskGeometry(self.original_size, self.reshaped_size, (self.SIDE, self.SIDE))

    def decode(self, points: np.ndarray, score_threshold: float | None, multimask_output: bool = True) -> Candidates:
        assert multimask_output
        coordinates = torch.from_numpy(apply_coords(points, self.original_size, self.reshaped_size)).float()
        x, y = coordinates[:, 0, None], coordinates[:, 1, None]
        radii = self.SIDE * torch.tensor([0.05, 0.12, 0.3]) * (1 + 0.4 * torch.sin(x / 11) + 0.3 * torch.cos(y / 7))
        centres = torch.arange(self.SIDE) + 0.5
        distances = torch.hypot(centres - x[..., None], centres[:, None] - y[..., None])
        logits = (radii[..., None, None] - distances[:, None]) * 2
        scores = 0.5 + 0.5 * torch.sin(x / 13 + y / 17 + torch.arange(3))
        return select(scores, logits, score_threshold)

    def refine(self, points: np.ndarray, logits: Tensor, score_threshold: float | None) -> Candidates:
        raise AssertionError("the closed form takes no masks as prompts")


def encode_with(make: Any) -> Any:
    """What `generate_masks` calls to encode: `make` on each image."""

    def encode(images: Sequence[np.ndarray]) -> list[Any]:
        return [make(image) for image in images]

    return encode
