"""The data of `sam-variants train`: rows to learn from, and rows to measure on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam_variants.training.clip_datasets import ClipDataset, open_clips
from sam_variants.training.clip_folders import looks_like_clips
from sam_variants.training.mask_datasets import MaskDataset, open_masks


@dataclass(frozen=True)
class DataOptions:
    """Which data a run learns from, and which it is measured on; the fields are the command's options."""

    data: str
    split: str | None
    eval_data: str | None
    eval_split: str | None
    eval_share: float
    columns: dict[str, str] | None
    streaming: bool
    max_objects: int | None
    seed: int

    def open(self) -> tuple[MaskDataset, MaskDataset | None]:
        """The rows to learn from and those to measure on, if any."""
        if looks_like_clips(self.data):
            raise ValueError(f"{self.data} holds clips, not images with masks: train tracking on them with --video")
        options: dict[str, Any] = {"columns": self.columns, "max_objects": self.max_objects}
        rows = open_masks(self.data, split=self.split, streaming=self.streaming, **options)
        if self.eval_share:
            self._refuse_two_sources()
            learnt, measured = held_back(len(rows), self.eval_share, self.seed)
            return rows.select(learnt), rows.select(measured)
        if self.eval_data is None and self.eval_split is None:
            return rows, None
        return rows, open_masks(self.eval_data or self.data, split=self.eval_split, **options)

    def open_as_clips(self, frames: int) -> tuple[ClipDataset, ClipDataset | None]:
        """The same of clips; what they learn from are windows of so many frames.

        Raises:
            ValueError: options that are for images, or data that has no clips.
        """
        for_images = {"--streaming": self.streaming, "--max-objects": self.max_objects}
        if given := [name for name, value in for_images.items() if value]:
            raise ValueError(f"{', '.join(given)}: for images only, leave it out with --video")
        options: dict[str, Any] = {"columns": self.columns, "seed": self.seed}
        clips = open_clips(self.data, split=self.split, frames=frames, **options)
        if self.eval_share:
            self._refuse_two_sources()
            learnt, measured = held_back(len(clips), self.eval_share, self.seed)
            whole = open_clips(self.data, split=self.split, frames=None, **options)
            return clips.select(learnt), whole.select(measured)
        if self.eval_data is None and self.eval_split is None:
            return clips, None
        return clips, open_clips(self.eval_data or self.data, split=self.eval_split, frames=None, **options)

    def _refuse_two_sources(self) -> None:
        if self.streaming or self.eval_data or self.eval_split:
            raise ValueError("--eval-share holds back rows of DATA: leave out --eval-data, --eval-split, --streaming")


def held_back(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Which of so many rows are learnt from, and which are held back to measure on; it follows from the seed.

    Raises:
        ValueError: when one of the two would be empty.
    """
    num_held = round(count * share)
    if not 0 < num_held < count:
        example = f", for example --eval-share {max(0.1, math.ceil(100 / count) / 100):g}" if count > 1 else ""
        raise ValueError(
            f"--eval-share {share} of {count} rows leaves nothing to learn from or to measure on: choose another share"
            f"{example}"
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    return sorted(order[num_held:]), sorted(order[:num_held])
