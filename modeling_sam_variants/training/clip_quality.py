"""How well a model follows objects at the moment: J and F on clips, each object prompted once, where it first shows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sam_variants.training.mask_metrics import region_and_boundary
from sam_variants.training.masked_clip import MaskedClip
from sam_variants.training.prompt_simulation import central_click

PROMPTS = ("click", "box", "mask")


class TrackedObjectQuality(NamedTuple):
    """J and F of one object, means over the annotated frames behind the prompted one."""

    j: float
    f: float


def track_clip(model: Any, processor: Any, clip: MaskedClip, prompt: str = "click") -> dict[int, np.ndarray]:
    """Follow every object through a clip, with one prompt on the first annotated frame that shows it.

    Args:
        model: has `start_session`.
        processor: its processor.
        clip: the frames, and where the objects are.
        prompt: "click" (in the middle), "box" or "mask".

    Returns:
        Object id → its masks from the prompted frame on, T'×H×W bool.

    Raises:
        ValueError: an unknown prompt.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"prompt={prompt!r} is none of {PROMPTS}")
    shown = zip(clip.object_ids, np.asarray(clip.masks.any(axis=(2, 3))), strict=True)
    begins = {key: int(frames.argmax()) for key, frames in shown if frames.any()}
    answers: dict[int, list[np.ndarray]] = {key: [] for key in begins}
    if not begins:
        return {}
    start = min(begins.values())
    session = model.start_session(processor)
    try:
        for key, begin in begins.items():
            truth = clip.masks[clip.object_ids.index(key), begin]
            session.add_object(key, **prompt_arguments(truth, prompt), frame=begin - start)
        for index in range(start, len(clip)):
            result = session.step(clip.frames[index])
            rows = {int(key): row for row, key in enumerate(result.object_ids)}
            masks = np.asarray(result.data)
            for key, begin in begins.items():
                if index >= begin:
                    answers[key].append(masks[rows[key]])
    finally:
        session.close()
    return {key: np.stack(found) for key, found in answers.items()}


def prompt_arguments(truth: np.ndarray, prompt: str) -> dict[str, Any]:
    """What `add_object` takes for an H×W bool mask."""
    if prompt == "mask":
        return {"mask": truth}
    if prompt == "click":
        return {"points": [central_click(truth)], "labels": [1]}
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    return {"boxes": [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]}


def clip_quality(model: Any, processor: Any, clip: MaskedClip, prompt: str = "click") -> list[TrackedObjectQuality]:
    """J and F of every object that can be followed: prompted on a frame with an annotated one behind it."""
    qualities = []
    for key, answers in track_clip(model, processor, clip, prompt).items():
        begin = len(clip) - len(answers)
        known = np.flatnonzero(clip.annotated[begin:])[1:]
        if len(known):
            truths = clip.masks[clip.object_ids.index(key), begin:]
            j, f = region_and_boundary(answers[known], truths[known])
            qualities.append(TrackedObjectQuality(float(j.mean()), float(f.mean())))
    return qualities


def mean_quality(qualities: Iterable[TrackedObjectQuality]) -> dict[str, float]:
    """Means over objects: `j`, `f` and the mean of both, `j_and_f`.

    Raises:
        ValueError: when there was no object.
    """
    values = np.array(list(qualities))
    if not len(values):
        raise ValueError("the clips have no object with an annotated frame behind its first one: nothing to measure")
    j, f = values.mean(axis=0).tolist()
    return {"j": j, "f": f, "j_and_f": (j + f) / 2}
