"""Masks for the boxes and points that come with an image, with all that the dataset tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_variants.labeling.items import ItemPrompts
from sam_variants.labeling.stage_times import StageTimes
from sam_variants.mask_generation.found_masks import stability_score
from sam_variants.mask_generation.time_split import DECODE, ENCODE, POST_PROCESSING
from sam_variants.mask_runs import MaskGeometry, MaskSurface
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.processing.image_fitting import SQUARE
from sam_variants.results import Masks

# As mask generation does by default, in logits.
STABILITY_OFFSET = 1.0


class PromptedMasks(PromptableSegmentationPipeline):
    """The promptable-segmentation pipeline whose masks have stability scores, as those of mask generation do.

    Attributes:
        times: where encoding, decoding and post-processing are added.
    """

    times: StageTimes | None = None

    def _forward(self, input_tensors: Mapping[str, Any], multimask: bool = False) -> dict[str, Any]:  # type: ignore[override]
        with self._stage(ENCODE):
            return super()._forward(input_tensors, multimask)

    def _answer(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # It is called inside of the stage above, of which it is no part.
        with self._stage(DECODE, not_in=ENCODE):
            return super()._answer(*args, **kwargs)

    @contextmanager
    def _stage(self, name: str, not_in: str | None = None) -> Iterator[None]:
        start = perf_counter()
        yield
        seconds = perf_counter() - start
        if self.times is not None:
            self.times.add({name: seconds} | ({} if not_in is None else {not_in: -seconds}))

    def postprocess(self, model_outputs: Mapping[str, Any], **postprocess_parameters: Any) -> list[Masks]:
        with self._stage(POST_PROCESSING):
            return self._with_stability(model_outputs, **postprocess_parameters)

    def _with_stability(self, model_outputs: Mapping[str, Any], **postprocess_parameters: Any) -> list[Masks]:
        found = super().postprocess(model_outputs, **postprocess_parameters)
        image_processor, threshold = self.processor.image_processor, self.model.config.mask_threshold
        is_padded = image_processor.resize_mode != SQUARE
        input_size = image_processor.covered_size(model_outputs["logits"].shape)
        for index, masks in enumerate(found):
            reshaped = tuple(model_outputs["reshaped_input_sizes"][index].tolist())
            geometry = MaskGeometry(masks.size, *((reshaped, input_size) if is_padded else ()))
            logits = model_outputs["logits"][index, : len(masks)].flatten(0, 1).float().numpy()
            surfaces = [MaskSurface(each, geometry, threshold - STABILITY_OFFSET) for each in logits]
            scores = [float(stability_score(surface, threshold, STABILITY_OFFSET)) for surface in surfaces]
            masks.stability_scores = torch.tensor(scores, dtype=torch.float32)
        return found


def request_of(prompts: ItemPrompts | None, pixels: np.ndarray) -> dict[str, Any]:
    """What the pipeline is asked about one image that has prompts."""
    request: dict[str, Any] = {"image": pixels}
    if prompts is None:
        return request
    if prompts.boxes is not None:
        request["boxes"] = _within(prompts.boxes, *pixels.shape[:2])
    if prompts.points is not None:
        # None stands for an object without points, which has a box.
        request["points"] = [np.asarray(points).tolist() or None for points in prompts.points]
        request["labels"] = [labels or None for labels in labels_of(prompts)]
    return request


def _within(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes cut at the border of the image, over which detectors' reach; those beyond it stay as they are."""
    cut = boxes.clip(0, (width, height, width, height))
    return np.where((cut[:, 2:] > cut[:, :2]).all(axis=1, keepdims=True), cut, boxes)


def labels_of(prompts: ItemPrompts) -> list[list[int]]:
    """The label of each point of each object, which is on it unless something else is said."""
    if prompts.labels is None:
        return [[1] * len(points) for points in prompts.points or ()]
    return [np.asarray(labels).astype(int).tolist() for labels in prompts.labels]


def with_prompts(annotations: Sequence[dict[str, Any]], prompts: ItemPrompts | None) -> list[dict[str, Any]]:
    """Annotations in the order of the prompts, each with the box that was asked about and its category."""
    told: list[dict[str, Any]] = [{} for _ in annotations]
    if prompts is not None and prompts.boxes is not None:
        for extra, (x1, y1, x2, y2) in zip(told, prompts.boxes.tolist(), strict=True):
            extra["prompt_box"] = [x1, y1, x2 - x1, y2 - y1]
    if prompts is not None and prompts.points is not None:
        for extra, labels in zip(told, labels_of(prompts), strict=True):
            extra["point_labels"] = labels
    if prompts is not None and prompts.categories is not None:
        for extra, category in zip(told, prompts.categories, strict=True):
            extra["category"] = category
    return [annotation | extra for annotation, extra in zip(annotations, told, strict=True)]
