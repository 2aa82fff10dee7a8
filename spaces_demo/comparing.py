"""Two models on the same prompts: both answers, their time, and how well they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from sam_variants import Masks
from sam_variants.spaces_demo.models import Loaded
from sam_variants.spaces_demo.photos import Photo
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.segmenting import embeddings, segment_objects


@dataclass(frozen=True)
class Answer:
    """What one model says.

    Attributes:
        masks: one for each object.
        encode_seconds: for the photo; close to 0 when it was encoded before.
        decode_seconds: for the prompts.
    """

    masks: Masks
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Comparison:
    """Two answers.

    Attributes:
        first, second: one for each model.
        agreement: IoU of both masks of each object, 0..1; 1 when both are empty.
    """

    first: Answer
    second: Answer
    agreement: list[float]


def timed_answer(
    loaded: Loaded, photo: Photo, objects: Sequence[ObjectPrompts], size: tuple[int, int] | None = None
) -> Answer:
    """One model's answer; arguments as for `segment_objects`."""
    start = perf_counter()
    embeddings(loaded, photo)
    encoded = perf_counter()
    masks = segment_objects(loaded, photo, list(objects), size=size)
    return Answer(masks, encoded - start, perf_counter() - encoded)


def compare(
    first: Loaded,
    second: Loaded,
    photo: Photo,
    objects: Sequence[ObjectPrompts],
    size: tuple[int, int] | None = None,
) -> Comparison:
    """Both models' answers to the same prompts.

    Args:
        first, second: the models; they may be the same.
        photo: the visitor's.
        objects: with at least one prompt that includes, each.
        size: (height, width) of the masks; the photo's by default.
    """
    answers = [timed_answer(loaded, photo, objects, size) for loaded in (first, second)]
    agreement = [iou(one.data[0], other.data[0]) for one, other in zip(answers[0].masks, answers[1].masks, strict=True)]
    return Comparison(answers[0], answers[1], agreement)


def iou(one: Any, other: Any) -> float:
    """Intersection over union of two H×W bool masks."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0
