"""Frames and a session that the tests of the video session share."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.results import Masks
from sam_variants.video_session import VideoSession

HEIGHT, WIDTH = 48, 64


def frames_of(count: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(count)]


def two_objects_on_two_frames(model: SamVariantsVideoModel) -> VideoSession:
    session = model.start_session()
    session.add_object(1, points=[[20, 20]])
    session.add_object(7, boxes=[3, 3, 30, 30])
    for frame in frames_of(2):
        session.step(frame)
    return session


def logits_of(masks: Masks) -> Tensor:
    store: Any = masks._store
    return store.logits
