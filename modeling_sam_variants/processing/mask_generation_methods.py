"""What `transformers.MaskGenerationPipeline` asks of an image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from torch import Tensor
from transformers.image_utils import SizeDict

from sam_variants.mask_codecs import PADDING_COORDINATE, Rle, canonical_rle
from sam_variants.mask_generation.crops import generate_crop_boxes, is_box_near_crop_edge, uncrop_boxes
from sam_variants.mask_generation.nms import nms
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_runs import MaskGeometry, MaskRuns, MaskSurface
from sam_variants.processing.coordinates import apply_coords
from sam_variants.processing.image_loading import rgb_array
from sam_variants.processing.mask_post_processing import upscale_logits
from sam_variants.processing.upscaled_masks import UpscaledMasks

PADDING_LABEL = -10


class MaskGenerationMethods:
    """Crops, filters and non-maximum suppression under transformers' names and in its formats, without torchvision."""

    size: SizeDict

    def reshaped_size(self, height: int, width: int) -> tuple[int, int]:
        raise NotImplementedError

    def generate_crop_boxes(
        self,
        image: Any,
        target_size: int | None = None,
        crop_n_layers: int = 0,
        overlap_ratio: float = 512 / 1500,
        points_per_crop: int = 32,
        crop_n_points_downscale_factor: int = 1,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor, list[Image.Image], Tensor]:
        """Cut an image into overlapping crops and lay a grid of points over each.

        Ours differs from transformers' where that fails: grids of different sizes are filled up with padding, and the
        points follow the stretching of an image that is made square.

        Args:
            image: one image of any kind the processor takes.
            target_size: the longer side of the model's input; None or this processor's own.
            crop_n_layers: layers of crops beside the whole image; layer i has (2**i)² of them.
            overlap_ratio: overlap of the first layer's crops as a share of the shorter side.
            points_per_crop: points along each side of the whole image.
            crop_n_points_downscale_factor: layer i has points_per_crop // factor**i points along each side.
            device: where the tensors go.

        Returns:
            C×4 float32 crop boxes xyxy in pixels of the image; 1×N×C×2 float32 points (x, y) in pixels of the model's
            input, filled up with −10; the C crops; 1×N×C int64 labels, 1 for a point and −10 for padding.

        Raises:
            ValueError: several images, another `target_size`, or an option out of range.
        """
        if isinstance(image, list | tuple):
            raise ValueError(f"image must be one image, got a {type(image).__name__} of {len(image)}")
        own_size = self.size.longest_edge or self.size.height
        if target_size not in (None, own_size):
            raise ValueError(
                f"target_size={target_size} is not this processor's {own_size}: retarget it with "
                f"processor.updated(image_size={target_size})"
            )
        grids = _point_grids(points_per_crop, crop_n_layers, overlap_ratio, crop_n_points_downscale_factor)
        pixels = rgb_array(image)
        boxes, layers = generate_crop_boxes(pixels.shape[:2], crop_n_layers, overlap_ratio)
        points = np.full((1, max(map(len, grids)), len(boxes), 2), PADDING_COORDINATE, dtype=np.float32)
        labels = np.full(points.shape[:3], PADDING_LABEL, dtype=np.int64)
        for index, ((x1, y1, x2, y2), layer) in enumerate(zip(boxes, layers, strict=True)):
            width, height = x2 - x1, y2 - y1
            grid = grids[layer] * (width, height)
            points[0, : len(grid), index] = apply_coords(grid, (height, width), self.reshaped_size(height, width))
            labels[0, : len(grid), index] = 1
        # Pillow images leave no doubt about which axis has the channels.
        crops = [Image.fromarray(pixels[y1:y2, x1:x2]) for x1, y1, x2, y2 in boxes]
        tensors = (torch.tensor(boxes, dtype=torch.float32), torch.from_numpy(points), torch.from_numpy(labels))
        crop_boxes, input_points, input_labels = (tensor.to(device or "cpu") for tensor in tensors)
        return crop_boxes, input_points, crops, input_labels

    def filter_masks(
        self,
        masks: Tensor,
        iou_scores: Tensor,
        original_size: Sequence[int],
        cropped_box_image: Tensor | Sequence[float],
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        mask_threshold: float = 0.0,
        stability_score_offset: float = 1.0,
    ) -> tuple[list[Rle], Tensor, Tensor]:
        """Keep the masks of one crop that score well, are stable and are not cut off by the crop.

        Masks that `post_process_masks(binarize=False)` gave are never upscaled. What the model answers to padding,
        no pixel with score 0, is always dropped.

        Args:
            masks: P×M×height×width logits at the size of the crop.
            iou_scores: P×M.
            original_size: (height, width) of the whole image.
            cropped_box_image: the crop, xyxy in pixels of the whole image.
            pred_iou_thresh: a score must be above; 0 or less keeps all.
            stability_score_thresh: the stability score must be above; 0 or less keeps all.
            mask_threshold: a pixel belongs to the mask when its logit is above.
            stability_score_offset: how far the threshold is moved up and down to measure stability.

        Returns:
            K masks of the whole image as RLE with the run lengths as a list, K scores, and K×4 int64 boxes xyxy in
            pixels of the whole image, all inclusive.

        Raises:
            ValueError: scores that are not one for each mask, or masks of another size than the crop's.
        """
        if masks.ndim != 4 or masks.shape[:2] != iou_scores.shape:
            raise ValueError(
                "masks must be PxMxHxW and iou_scores PxM, "
                f"got shapes {tuple(masks.shape)} and {tuple(iou_scores.shape)}"
            )
        full_size = (int(original_size[0]), int(original_size[1]))
        crop_box = [int(side) for side in cropped_box_image]
        scores = iou_scores.flatten().to(masks.device)
        kept = (
            scores > pred_iou_thresh if pred_iou_thresh > 0 else torch.ones_like(scores, dtype=torch.bool)
        ).nonzero()
        source = _source_logits(masks, kept[:, 0])
        if source.geometry.size != (crop_box[3] - crop_box[1], crop_box[2] - crop_box[0]):
            raise ValueError(f"masks have size {source.geometry.size}, but cropped_box_image is {crop_box}")
        chosen, found = [], []
        cuts = (mask_threshold - stability_score_offset, mask_threshold + stability_score_offset)
        for index, logits in zip(kept[:, 0].tolist(), source.logits, strict=True):
            surface = MaskSurface(logits, source.geometry, min(*cuts, mask_threshold))
            if stability_score_thresh > 0 and not _is_stable(surface, cuts, stability_score_thresh):
                continue
            runs = surface.runs(mask_threshold)
            if runs.area or scores[index] != 0:
                chosen.append(index)
                found.append(runs)
        boxes = torch.tensor([runs.box for runs in found], dtype=torch.int64).reshape(-1, 4)
        inside = ~is_box_near_crop_edge(boxes, crop_box, [0, 0, full_size[1], full_size[0]])
        rles = [_plain_rle(found[index], full_size, crop_box) for index in inside.nonzero()[:, 0].tolist()]
        final = torch.tensor(chosen, dtype=torch.int64)[inside].to(scores.device)
        return rles, scores[final], uncrop_boxes(boxes[inside], crop_box).to(scores.device)

    def post_process_for_mask_generation(
        self, all_masks: Sequence[Rle], all_scores: Tensor, all_boxes: Tensor, crops_nms_thresh: float
    ) -> tuple[list[np.ndarray], Tensor, list[Rle], Tensor]:
        """Of the masks of all crops with nearly the same box keep the one with the best score.

        Args:
            all_masks: N masks as `filter_masks` returns them.
            all_scores: N.
            all_boxes: N×4 xyxy.
            crops_nms_thresh: box IoU above which the worse of two masks goes.

        Returns:
            The kept masks, best first: H×W bool arrays, scores, RLE, boxes.
        """
        kept = nms(all_boxes, all_scores, crops_nms_thresh)
        rles = [all_masks[index] for index in kept.tolist()]
        masks = [mask_utils.decode(canonical_rle(rle)).view(bool) for rle in rles]
        return masks, all_scores[kept.to(all_scores.device)], rles, all_boxes[kept]


class _Source(NamedTuple):
    """Finite logits, K×h×w float32 on the CPU, and how they become pixels."""

    logits: np.ndarray
    geometry: MaskGeometry


def _source_logits(masks: Tensor, kept: Tensor) -> _Source:
    """The smallest logits that the chosen of P×M masks can be had from."""
    geometry = MaskGeometry((masks.shape[-2], masks.shape[-1]))
    if isinstance(masks, UpscaledMasks) and not masks.is_upscaled:
        chosen = masks.logits.flatten(0, 1)[kept].float()
        if torch.isfinite(chosen).all():
            return _Source(chosen.cpu().numpy(), masks.geometry)
        inner_size = masks.geometry.reshaped_input_size or masks.geometry.size
        chosen = upscale_logits(chosen[:, None], masks.geometry.size, inner_size, masks.geometry.input_size)[:, 0]
    else:
        chosen = masks.flatten(0, 1)[kept].float()
    # Whole pixels are not interpolated any more: infinity may become a large number, and NaN is in no mask.
    finite = chosen.nan_to_num(nan=torch.finfo(chosen.dtype).min)
    return _Source(finite.cpu().numpy(), geometry)


def _is_stable(surface: MaskSurface, cuts: tuple[float, float], threshold: float) -> bool:
    """Whether the IoU of the mask's cuts is above the threshold, in float32 as transformers compares; never for 0/0."""
    union = np.float32(surface.area(cuts[0]))
    return bool(union) and bool(np.float32(surface.area(cuts[1])) / union > np.float32(threshold))


def _plain_rle(runs: MaskRuns, full_size: tuple[int, int], crop_box: list[int]) -> Rle:
    return {"size": list(full_size), "counts": runs.run_lengths(full_size, (crop_box[0], crop_box[1])).tolist()}


def _point_grids(points_per_crop: Any, n_layers: Any, overlap_ratio: Any, downscale_factor: Any) -> list[np.ndarray]:
    """One grid per layer, the arguments checked under the names that the pipeline gives them."""
    try:
        return MaskGenerationOptions(
            points_per_side=points_per_crop,
            crop_n_layers=n_layers,
            crop_overlap_ratio=overlap_ratio,
            crop_n_points_downscale_factor=downscale_factor,
        ).layer_point_grids()
    except ValueError as error:
        raise ValueError(str(error).replace("points_per_side", "points_per_crop")) from None
