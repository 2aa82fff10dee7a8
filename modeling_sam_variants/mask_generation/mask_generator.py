"""Segment everything: ask a model about a grid of points and keep the good masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from sam_variants.mask_generation.crops import generate_crop_boxes
from sam_variants.mask_generation.encoded_crop import Candidates, EncodedCrop
from sam_variants.mask_generation.found_masks import (
    FoundMask,
    drop_duplicates,
    drop_duplicates_across_crops,
    filter_candidates,
)
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.point_schedule import point_levels, worth_asking
from sam_variants.mask_generation.small_regions import clean_small_regions
from sam_variants.mask_generation.time_split import DECODE, ENCODE, POST_PROCESSING, TimeSplit
from sam_variants.results import Masks

Encode = Callable[[Sequence[np.ndarray]], Sequence[EncodedCrop]]
Progress = Callable[[int, int], None]


def generate_masks(
    image: np.ndarray,
    encode: Encode,
    options: MaskGenerationOptions | None = None,
    *,
    whole_image: EncodedCrop | None = None,
    crops_at_once: int = 1,
    times: TimeSplit | None = None,
    progress: Progress | None = None,
) -> Masks:
    """Find all masks of an image (`SamAutomaticMaskGenerator.generate` of segment-anything and SAM 2).

    The decisions are the official ones in the official order. Full-size pixels are never made: areas and boxes come
    from the decoder's logits. The stability score of an empty mask is 0 instead of NaN.

    Args:
        image: H×W×3 uint8, RGB.
        encode: encodes images of any sizes; called with crops, views of `image`.
        options: what to ask and what to keep; the official defaults without.
        whole_image: the encoded image, where it is there already.
        crops_at_once: how many crops `encode` gets in one call.
        times: where the seconds per stage are added.
        progress: called with (points done, points in all) behind every batch of points.

    Returns:
        `Masks` held as RLE with `scores`, `stability_scores`, `points` and `crop_boxes`. One crop's masks come best
        score first; smaller crops come before larger ones.

    Raises:
        TypeError: `image` is not uint8.
        ValueError: `image` is not H×W×3, `crops_at_once` is below 1, or `encode` gives another number of encodings.
    """
    size = _check_image(image)
    if crops_at_once < 1:
        raise ValueError(f"crops_at_once must be 1 or more, got {crops_at_once}")
    options, times = options or MaskGenerationOptions(), times or TimeSplit()
    crop_boxes, layers = generate_crop_boxes(size, options.crop_n_layers, options.crop_overlap_ratio)
    grids = options.layer_point_grids()
    count = _Count(sum(len(grids[layer]) for layer in layers), progress)
    encoded = _encode_crops(image, crop_boxes, encode, whole_image, crops_at_once, times)
    found: list[FoundMask] = []
    for crop_box, layer, crop in zip(crop_boxes, layers, encoded, strict=True):
        found += _search_crop(crop, crop_box, grids[layer], size, options, times, count)
    with times.stage(POST_PROCESSING):
        if len(crop_boxes) > 1:
            found = drop_duplicates_across_crops(found, options.crop_nms_thresh)
        rles = [mask.runs.rle(size, (mask.crop_box[0], mask.crop_box[1])) for mask in found]
        if options.min_mask_region_area > 0:
            nms_threshold = max(options.box_nms_thresh, options.crop_nms_thresh)
            rles, kept = clean_small_regions(rles, options.min_mask_region_area, nms_threshold)
            found = [found[index] for index in kept]
        return Masks.from_rle(
            rles,
            size,
            scores=[mask.score for mask in found],
            stability_scores=[mask.stability_score for mask in found],
            points=np.array([mask.point for mask in found], dtype=np.float64).reshape(-1, 2),
            crop_boxes=[mask.crop_box for mask in found],
        )


class _Count:
    """Counts the points that are done with, and tells whoever listens."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, number: int) -> None:
        self.done += number
        if self.progress is not None and number:
            self.progress(self.done, self.total)


def _check_image(image: np.ndarray) -> tuple[int, int]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image must be an array HxWx3 of uint8, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image must be HxWx3 with a pixel at least, got shape {image.shape}")
    return image.shape[0], image.shape[1]


def _encode_crops(
    image: np.ndarray,
    crop_boxes: list[list[int]],
    encode: Encode,
    whole_image: EncodedCrop | None,
    crops_at_once: int,
    times: TimeSplit,
) -> Iterator[EncodedCrop]:
    """The encoded crops in order, some at a time, so that memory does not grow with their number."""
    if whole_image is not None:
        yield whole_image
        crop_boxes = crop_boxes[1:]
    for start in range(0, len(crop_boxes), crops_at_once):
        crops = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in crop_boxes[start : start + crops_at_once]]
        with times.stage(ENCODE):
            encoded = encode(crops)
        if len(encoded) != len(crops):
            raise ValueError(f"encode must give one encoding per image, got {len(encoded)} for {len(crops)}")
        yield from encoded


def _search_crop(
    crop: EncodedCrop,
    crop_box: list[int],
    grid: np.ndarray,
    image_size: tuple[int, int],
    options: MaskGenerationOptions,
    times: TimeSplit,
    count: _Count,
) -> list[FoundMask]:
    """The masks of one crop: points level by level and batch by batch, filters, duplicates."""
    width, height = crop_box[2] - crop_box[0], crop_box[3] - crop_box[1]
    points = grid * [width, height]
    found: list[FoundMask] = []
    for level in point_levels(grid, options.preset):
        with times.stage(POST_PROCESSING):
            prompts = np.array([mask.point for mask in found]).reshape(-1, 2) - crop_box[:2]
            runs = [mask.runs for mask in found]
            asked = level.indices[worth_asking(points, level, runs, prompts, (height, width))]
        count.add(len(level.indices) - len(asked))
        for start in range(0, len(asked), options.points_per_batch):
            batch = points[asked[start : start + options.points_per_batch]]
            with times.stage(DECODE):
                candidates, prompted = _ask(crop, batch, options)
            with times.stage(POST_PROCESSING):
                found += filter_candidates(candidates, prompted, crop.geometry, crop_box, image_size, options)
            count.add(len(batch))
    with times.stage(POST_PROCESSING):
        return drop_duplicates(found, options.box_nms_thresh)


def _ask(crop: EncodedCrop, points: np.ndarray, options: MaskGenerationOptions) -> tuple[Candidates, np.ndarray]:
    """Candidates on the CPU, and the points that their `prompts` count."""
    if not options.use_m2m:
        candidates = crop.decode(points, options.score_threshold, options.multimask_output)
        return _on_cpu([candidates]), points
    first = crop.decode(points, None, options.multimask_output)
    points = points[first.prompts.cpu().numpy()]
    refined = []
    for start in range(0, len(points), options.points_per_batch):
        chunk = slice(start, start + options.points_per_batch)
        candidates = crop.refine(points[chunk], first.logits[chunk], options.score_threshold)
        refined.append(candidates._replace(prompts=candidates.prompts + start))
    return _on_cpu(refined), points


def _on_cpu(parts: list[Candidates]) -> Candidates:
    return Candidates(*(torch.cat(tensors).cpu() for tensors in zip(*parts, strict=True)))
