"""How good a model's masks are at the moment: what training stops early on and chooses its best checkpoint by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_variants.pretrained_part import evaluating
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.mask_datasets import MaskDataset
from sam_variants.training.mask_metrics import mask_ious
from sam_variants.training.masked_image import MaskedImage
from sam_variants.training.prompt_simulation import central_click
from sam_variants.training.prompted_loss import inner_model

# Objects that are decoded and brought to the image's size together.
CHUNK = 16


def quality_sums(
    model: Any,
    processor: SamVariantsProcessor,
    data: MaskDataset,
    min_area: float = 0.0,
    process: int = 0,
    num_processes: int = 1,
) -> Tensor:
    """IoUs with the ground truth at the size of the images, summed over the objects of one process's rows.

    Args:
        model: a promptable model, or one with adapters; in whatever mode it is.
        processor: its processor.
        data: rows; each process takes every `num_processes`-th.
        min_area: smaller objects, as a share of the image, are not asked for.
        process, num_processes: which part.

    Returns:
        Three float64: the sum of IoUs after one click, the sum of IoUs with a box, the number of objects.
    """
    total = torch.zeros(3, dtype=torch.float64)
    rows = range(process, len(data), num_processes)
    with evaluating(model), torch.no_grad():
        for example in (data[row] for row in rows):
            usable = np.flatnonzero(example.areas >= min_area)
            if len(usable):
                total += _image_sums(inner_model(model), processor, example, usable)
    return total


def quality(sums: Tensor) -> dict[str, float]:
    """Means of `quality_sums` of all processes together: `miou` is that of clicks and boxes.

    Raises:
        ValueError: when there was no object.
    """
    click, box, count = sums.tolist()
    if not count:
        raise ValueError("the evaluation data has no object that is large enough: there is nothing to measure")
    return {"miou": (click + box) / (2 * count), "iou_click": click / count, "iou_box": box / count}


def _image_sums(model: Any, processor: SamVariantsProcessor, example: MaskedImage, usable: np.ndarray) -> Tensor:
    """The three sums for some objects of one image, which is encoded once."""
    inputs = processor(images=[example.image], return_tensors="pt").to(model.device)
    embeddings = model.get_image_embeddings(inputs["pixel_values"])
    parts = (example.masks[usable[start : start + CHUNK]] for start in range(0, len(usable), CHUNK))
    return torch.stack([_part_sums(model, processor, masks, embeddings) for masks in parts]).sum(dim=0)


def _part_sums(model: Any, processor: SamVariantsProcessor, masks: np.ndarray, embeddings: Any) -> Tensor:
    """The same for the objects N×H×W of one image that are decoded together."""
    clicks = np.array([central_click(mask) for mask in masks], np.float32)
    prompts = processor(
        original_sizes=[masks.shape[1:]],
        input_points=[clicks[:, None]],
        input_boxes=[np.stack([_box(mask) for mask in masks])],
        return_tensors="pt",
    ).to(model.device)
    by_click = model(
        image_embeddings=embeddings, input_points=prompts["input_points"], input_labels=prompts["input_labels"]
    )
    by_box = model(image_embeddings=embeddings, input_boxes=prompts["input_boxes"], multimask_output=False)
    best = by_click.iou_scores.argmax(dim=-1)[..., None, None, None]
    answers = torch.cat([by_click.pred_masks.take_along_dim(best, dim=2), by_box.pred_masks], dim=2)
    full = processor.post_process_masks(answers.cpu(), prompts["original_sizes"], prompts["reshaped_input_sizes"])[0]
    reached = mask_ious(full.numpy(), masks[:, None]).sum(axis=0)
    return torch.tensor([*reached, len(masks)], dtype=torch.float64)


def _box(mask: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 around an H×W mask, in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
