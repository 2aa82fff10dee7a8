"""Rows of a dataset as batches of images with simulated prompts, the same in whatever process or worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler

from sam_variants.processing.image_fitting import height_width
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.embedding_shards import EmbeddingShards
from sam_variants.training.mask_datasets import MaskDataset
from sam_variants.training.masked_image import MaskedImage
from sam_variants.training.prompt_simulation import PromptSampler, example_key, simulate_prompts

# How often the previous mask comes along as a mask prompt, beside a corrective click.
MASK_PROMPT_SHARE = 0.67
# The smallest part of an image, by its sides, that is shown instead of all of it, and how often.
SMALLEST_CROP, CROP_SHARE = 0.75, 0.5
GAIN, CHANNEL_GAIN, SHIFT = (0.8, 1.2), (0.92, 1.08), (-12.0, 12.0)
# Rows of a stream that are held to be shuffled.
STREAM_BUFFER = 100


class EpochRow(NamedTuple):
    """Which row, and in which epoch: what the random numbers of an example belong to."""

    epoch: int
    row: int


@dataclass(frozen=True)
class PromptPlan:
    """What is asked about an image.

    Attributes:
        seed: of all random numbers.
        num_objects: objects of an image; one with fewer is asked about some of them again, with other prompts.
        num_rounds: predictions per object: the first prompt, then corrective clicks.
        min_area: smallest object asked for, as a share of the image.
        box_share: how often the first prompt is a box.
        augment: flips, crops and colours.
    """

    seed: int = 0
    num_objects: int = 8
    num_rounds: int = 3
    min_area: float = 0.0
    box_share: float = 0.5
    augment: bool = True


class EpochOrder(Sampler[EpochRow]):
    """All rows once, in an order that belongs to the seed and the epoch.

    Args:
        num_rows: of the dataset.
        seed: 0 or more.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """What the next iteration belongs to."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[EpochRow]:
        epoch = self.epoch
        for row in np.random.default_rng((self.seed, epoch)).permutation(self.num_rows):
            yield EpochRow(epoch, int(row))

    def __len__(self) -> int:
        return self.num_rows


class PromptedRows(Dataset):
    """Rows with prompts; the index is an `EpochRow`.

    Args:
        data: the rows.
        processor: the model's.
        plan: what is asked.
        embeddings: `EmbeddingShards` of the rows, which are given instead of pixels; or None.
    """

    def __init__(
        self,
        data: MaskDataset,
        processor: SamVariantsProcessor,
        plan: PromptPlan,
        embeddings: EmbeddingShards | None = None,
    ) -> None:
        self.data, self.processor, self.plan, self.embeddings = data, processor, plan, embeddings

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: EpochRow) -> dict[str, Any]:
        embeddings = None if self.embeddings is None else self.embeddings[place.row]
        return prompted_example(self.data[place.row], place, self.processor, self.plan, embeddings)


class PromptedStream(IterableDataset):
    """The rows of a stream with prompts, pass after pass without end, each pass shuffled anew.

    An image's random numbers belong to its pixels, because it has no row.

    Args:
        data: a streaming dataset.
        processor, plan: as for `PromptedRows`.
    """

    def __init__(self, data: MaskDataset, processor: SamVariantsProcessor, plan: PromptPlan) -> None:
        super().__init__()
        self.data, self.processor, self.plan = data.shuffle(plan.seed, STREAM_BUFFER), processor, plan

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch = 0
        while True:
            self.data.set_epoch(epoch)
            is_empty = True
            for example in self.data:
                is_empty = False
                place = EpochRow(epoch, example_key(example))
                yield prompted_example(example, place, self.processor, self.plan)
            if is_empty:
                raise ValueError(f"{self.data.name}: the stream has no rows")
            epoch += 1


def prompted_example(
    example: MaskedImage,
    place: EpochRow,
    processor: SamVariantsProcessor,
    plan: PromptPlan,
    embeddings: list[Tensor] | None = None,
) -> dict[str, Any]:
    """An image with the first prompts of P objects, their masks, and the random numbers of the later rounds.

    Args:
        example: the image.
        place: what the random numbers belong to.
        processor: of the model, whose input the coordinates and masks are for.
        plan: what is asked; P is its `num_objects`, or 0 where the image has no object that is large enough.
        embeddings: what the encoder made of the image, levels of C×h×w.

    Returns:
        `pixel_values` 3×H×W or `image_embeddings`; `points` P×2 and `boxes` P×4 in pixels of the model's input,
        `use_box` P; `targets` P×h×w, shares of the cells that logits are for; `draws` P×(rounds−1)×3 and `use_mask`
        P×(rounds−1) for the corrections; `row`.
    """
    sampler = PromptSampler(plan.seed)
    rng = sampler.rng(place.epoch, place.row)
    if plan.augment:
        example = augmented(example, rng)
    prompts = simulate_prompts(example, rng, plan.num_objects, plan.min_area, plan.box_share)
    num_objects, later = len(prompts.objects), plan.num_rounds - 1
    use_mask = rng.uniform(size=(num_objects, later)) < MASK_PROMPT_SHARE
    draws = sampler.correction_draws(place.epoch, place.row, later, num_objects)
    size = example.image.shape[:2]
    asked: dict[str, Any] = {"images": [example.image]} if embeddings is None else {"original_sizes": [size]}
    if num_objects:
        asked |= {"input_points": [prompts.points[:, None]], "input_boxes": [prompts.boxes]}
    inputs = processor(**asked, return_tensors="pt")
    reshaped = tuple(inputs["reshaped_input_sizes"][0].tolist())
    result = {
        "points": inputs["input_points"][0, :, 0] if num_objects else torch.zeros(0, 2),
        "boxes": inputs["input_boxes"][0] if num_objects else torch.zeros(0, 4),
        "use_box": torch.from_numpy(prompts.use_box),
        "targets": torch.from_numpy(covered_cells(example.masks[prompts.objects], reshaped, processor)),
        "draws": draws.transpose(0, 1),
        "use_mask": torch.from_numpy(use_mask),
        "row": torch.tensor(place.row),
    }
    source = {"pixel_values": inputs["pixel_values"][0]} if embeddings is None else {"image_embeddings": embeddings}
    return result | source


def augmented(example: MaskedImage, rng: np.random.Generator) -> MaskedImage:
    """A mirrored, cropped, recoloured copy; a crop that leaves no object is not made."""
    image, masks = example.image, example.masks
    if rng.uniform() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    height, width = image.shape[:2]
    side = rng.uniform(SMALLEST_CROP, 1.0) if rng.uniform() < CROP_SHARE else 1.0
    rows, columns = max(1, round(height * side)), max(1, round(width * side))
    top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
    part = masks[:, top : top + rows, left : left + columns]
    if (seen := part.any(axis=(1, 2))).any():
        image, masks = image[top : top + rows, left : left + columns], part[seen]
    gain = rng.uniform(*GAIN) * rng.uniform(*CHANNEL_GAIN, 3).astype(np.float32)
    recoloured = np.clip(image * gain.astype(np.float32) + np.float32(rng.uniform(*SHIFT)), 0, 255)
    return MaskedImage(recoloured.astype(np.uint8), np.ascontiguousarray(masks), example.name)


def covered_cells(masks: np.ndarray, reshaped: tuple[int, int], processor: SamVariantsProcessor) -> np.ndarray:
    """Masks of an image over the model's padded input, as shares of its cells.

    Args:
        masks: P×H×W bool.
        reshaped: (height, width) of the image in the model's input.
        processor: of the model.

    Returns:
        P×h×w float32 in 0..1, of the size that mask prompts and logits have.
    """
    geometry: Any = processor.image_processor
    padded, cells = height_width(geometry.pad_size), height_width(geometry.mask_size)
    shares = np.zeros((len(masks), *cells), np.float32)
    canvas = np.zeros(padded, np.float32)
    for share, mask in zip(shares, masks, strict=True):
        method = cv2.INTER_AREA if mask.shape[0] > reshaped[0] else cv2.INTER_LINEAR
        canvas[: reshaped[0], : reshaped[1]] = cv2.resize(mask.astype(np.float32), reshaped[::-1], interpolation=method)
        share[:] = cv2.resize(canvas, cells[::-1], interpolation=cv2.INTER_AREA)
    return shares


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Examples with different numbers of objects as one batch: tensors B×P×…, and `is_object` B×P bool.

    Padding objects hold zeros; P is 1 where no image has an object.
    """
    counts = [len(example["points"]) for example in examples]
    num_objects = max(1, *counts)
    batch: dict[str, Any] = {}
    for key, first in examples[0].items():
        values = [example[key] for example in examples]
        if key == "image_embeddings":
            batch[key] = [torch.stack(level) for level in zip(*values, strict=True)]
        elif key in ("pixel_values", "row"):
            batch[key] = torch.stack(values)
        else:
            batch[key] = first.new_zeros(len(values), num_objects, *first.shape[1:])
            for row, value in zip(batch[key], values, strict=True):
                row[: len(value)] = value
    batch["is_object"] = torch.arange(num_objects) < torch.tensor(counts)[:, None]
    return batch
