"""Images and runs that the tests of distillation share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import TINY_VISION, tiny_model

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.training.distillation import Distillation, DistillationSettings
from sam_variants.training.image_rows import ImageRow
from sam_variants.training.masked_image import MaskedImage
from sam_variants.training.student_config import build_student

HALF = TINY_VISION["tiny_vit"] | {"embed_dims": [8, 12, 16, 20], "out_chans": 7}
FAST = DistillationSettings(
    epochs=6, batch_size=3, learning_rate=0.01, held_out=0.2, save_steps=1000, objects=3, seed=1, cache_dtype="float32"
)


class Squares:
    """Images of different sizes with a bright square each, whose place and brightness a row number tells."""

    fingerprint = "squares"

    def __init__(self, count: int = 10, with_masks: bool = False, fails_at: int | None = None) -> None:
        self.count, self.with_masks, self.fails_at, self.reads = count, with_masks, fails_at, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        if self.reads == self.fails_at:
            raise KeyboardInterrupt
        height, width = 64 - 2 * index, 40 + 2 * index
        mask = np.zeros((1, height, width), bool)
        mask[0, 4 + index : 20 + index, 3:25] = True
        image = np.where(mask[0, ..., None], 120 + 10 * index, 20 * index % 90).astype(np.uint8).repeat(3, axis=2)
        return MaskedImage(image, mask) if self.with_masks else ImageRow(image)


def learn(out: Path, student: Any = HALF, teacher: SamVariantsModel | None = None, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    teacher = tiny_model("tiny_vit_with_skips") if teacher is None else teacher
    images, resume = options.pop("images", Squares()), options.pop("resume", False)
    built = build_student(teacher, student, options.pop("image_size", None), options.pop("projection", False))
    return Distillation(teacher, built, images, out, replace(FAST, **options), cpu=True).run(resume)
