"""Clips of a dataset as batches of windows with simulated prompts, the same in whatever process or worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sam_variants.processing.frame_processing import prepare_frame
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.training.clip_datasets import ClipDataset
from sam_variants.training.mask_batches import EpochRow, covered_cells
from sam_variants.training.masked_clip import MaskedClip
from sam_variants.training.prompt_simulation import PromptSampler, jittered_box, sample_click


@dataclass(frozen=True)
class ClipPlan:
    """What is asked about a clip.

    Attributes:
        seed: of all random numbers.
        num_objects: objects of a clip, at most.
        min_area: smallest object asked for, as a share of the first frame.
        reverse_share, mirror_share: how often clips run backwards, and how often they are mirrored.
        box_share, mask_share: how often boxes and masks are given on the first frame; else it is clicks.
        refine_share: how often clicks are followed by corrective ones there.
        correct_share: how often later frames are corrected.
        corrected_frames: of a clip with corrections, at most; from 1 on any number is as likely.
        correction_clicks: on a corrected frame, at most; likewise.
    """

    seed: int = 0
    num_objects: int = 3
    min_area: float = 0.0
    reverse_share: float = 0.5
    mirror_share: float = 0.5
    box_share: float = 0.2
    mask_share: float = 0.2
    refine_share: float = 0.4
    correct_share: float = 0.3
    corrected_frames: int = 1
    correction_clicks: int = 1


class PromptedClips(Dataset):
    """A window of every clip with prompts; the index is an `EpochRow`.

    Args:
        data: the clips.
        processor: the model's.
        plan: what is asked.
    """

    def __init__(self, data: ClipDataset, processor: SamVariantsProcessor, plan: ClipPlan) -> None:
        self.data, self.processor, self.plan = data, processor, plan

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: EpochRow) -> dict[str, Any]:
        plan = self.plan
        rng = PromptSampler(plan.seed).rng(place.epoch, place.row)
        options = (plan.num_objects, plan.min_area, plan.reverse_share, plan.mirror_share)
        return prompted_clip(self.data.draw(place.row, rng, *options), place, rng, self.processor, plan)


def prompted_clip(
    clip: MaskedClip, place: EpochRow, rng: np.random.Generator, processor: SamVariantsProcessor, plan: ClipPlan
) -> dict[str, Any]:
    """A window with prompts for its objects, which all show on its first frame.

    Args:
        clip: T frames of N objects.
        place: what the random numbers of corrections belong to.
        rng: all other random numbers.
        processor: of the model, whose input the coordinates are for.
        plan: what is asked.

    Returns:
        `pixel_values` T×3×H×W; `targets` T×N×h×w, shares of the cells that logits are for; `annotated`, T bools; the
        fields of `ClipPrompts`; `row`. N is 0 for a clip without objects.
    """
    pixel_values = torch.cat([prepare_frame(processor, frame).pixel_values for frame in clip.frames])
    reshaped = processor.image_processor.reshaped_size(*clip.frames.shape[1:3])
    coverage = np.stack([covered_cells(masks, reshaped, processor) for masks in clip.masks.swapaxes(0, 1)])
    cell = pixel_values.shape[-1] // coverage.shape[-1]
    annotated = clip.annotated.tolist()
    kind = _first_kind(rng, plan, has_later=any(annotated[1:]))
    corrections = _corrections(rng, plan, kind, annotated)
    # An object thinner than a cell still covers a part of one.
    clicks = [sample_click(shown, rng, cell) for shown in coverage[0]]
    boxes = [jittered_box(shown, rng, cell) for shown in coverage[0]]
    draws = PromptSampler(plan.seed).correction_draws(place.epoch, place.row, sum(corrections), len(clicks))
    return {
        "pixel_values": pixel_values,
        "targets": torch.from_numpy(coverage),
        "annotated": annotated,
        "kind": kind,
        "clicks": torch.tensor(clicks, dtype=torch.float32).reshape(-1, 2),
        "boxes": torch.from_numpy(np.array(boxes, np.float32).reshape(-1, 4)),
        "corrections": corrections,
        "draws": draws,
        "row": torch.tensor(place.row),
    }


def _first_kind(rng: np.random.Generator, plan: ClipPlan, has_later: bool) -> str:
    """A mask is the answer itself: without a later target there is nothing to learn from one."""
    draw = rng.uniform()
    if draw < plan.box_share:
        return "box"
    return "mask" if draw < plan.box_share + plan.mask_share and has_later else "click"


def _corrections(rng: np.random.Generator, plan: ClipPlan, kind: str, annotated: Sequence[bool]) -> list[int]:
    """How many corrective clicks every frame gets; only where it is known what is right."""
    corrections = [0] * len(annotated)
    if rng.uniform() < plan.refine_share and kind == "click" and plan.correction_clicks:
        corrections[0] = int(rng.integers(1, plan.correction_clicks + 1))
    later = np.flatnonzero(annotated)[1:]
    if rng.uniform() < plan.correct_share and len(later) and plan.corrected_frames and plan.correction_clicks:
        count = min(int(rng.integers(1, plan.corrected_frames + 1)), len(later))
        for index in rng.choice(later, count, replace=False):
            corrections[index] = int(rng.integers(1, plan.correction_clicks + 1))
    return corrections


def collate_clips(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Clips as they are, `is_object` B×P bool for what counts objects, and `row`."""
    counts = torch.tensor([example["targets"].shape[1] for example in examples])
    return {
        "clips": [{name: value for name, value in example.items() if name != "row"} for example in examples],
        "is_object": torch.arange(max(1, int(counts.max()))) < counts[:, None],
        "row": torch.stack([example["row"] for example in examples]),
    }
