"""How tracking is evaluated: trackers that start from one click per object, with J and F, the measures of DAVIS.

They follow Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (2016): the
mean over objects of the mean over frames, J of the IoU and F of the contour's accuracy, where two empty masks agree.
Unlike there the last frame counts, too; the first, in which the object is clicked, does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import cv2
import numpy as np

from sam_variants.hub_scripts.evaluation_defaults import HELD_OUT_SEEDS
from sam_variants.hub_scripts.evaluation_protocol import Segmenter, tight_box
from sam_variants.hub_scripts.synthetic_clips import Clip, synthetic_clip
from sam_variants.training.mask_metrics import region_and_boundary
from sam_variants.training.prompt_simulation import central_click

BOX_MARGIN = 0.05
"""Of the baseline that follows boxes, as a share of their sides: on clips of the training textures more is worse, and
from 0 to 0.05 hardly matters."""

ObjectClicks = Mapping[int, tuple[int, int]]


class Tracker(Protocol):
    """What an evaluation asks of a method."""

    def track(self, frames: np.ndarray, clicks: ObjectClicks) -> Iterator[np.ndarray]:
        """Follow objects through a clip.

        Args:
            frames: T×H×W×3 uint8 RGB.
            clicks: object id → the pixel (x, y) that is clicked in the first frame.

        Yields:
            For every frame, the first included, the masks of all objects in the order of `clicks`, N×H×W bool.
        """


class SessionTracker:
    """A video model with a memory, through its session; frames are pushed one by one.

    Args:
        model: has `start_session`.
        processor: for `start_session`; None lets the model find its own.
    """

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model, self.processor = model, processor

    def track(self, frames: np.ndarray, clicks: ObjectClicks) -> Iterator[np.ndarray]:
        session = self.model.start_session(processor=self.processor)
        try:
            for object_id, (x, y) in clicks.items():
                session.add_object(object_id, points=[[x, y]], labels=[1])
            for frame in frames:
                result = session.step(frame)
                rows = {int(object_id): row for row, object_id in enumerate(result.object_ids)}
                masks = np.asarray(result.data)
                yield np.stack([masks[rows[object_id]] for object_id in clicks])
        finally:
            session.close()


def first_masks(segmenter: Segmenter, frame: np.ndarray, clicks: ObjectClicks) -> np.ndarray:
    """The image model's preferred answers to one click each, N×H×W bool."""
    segmenter.look_at(frame)
    candidates, preferred = segmenter.first_click([[click] for click in clicks.values()])
    return candidates[np.arange(len(candidates)), preferred]


class BoxTracker:
    """An image model asked in every frame with the box around its answer in the frame before.

    An object whose answer is empty is asked for with its last box.

    Args:
        segmenter: the image model; it has to take boxes.
        margin: by how much of its width and height the box grows at each side.
    """

    def __init__(self, segmenter: Segmenter, margin: float = BOX_MARGIN) -> None:
        self.segmenter, self.margin = segmenter, margin

    def track(self, frames: np.ndarray, clicks: ObjectClicks) -> Iterator[np.ndarray]:
        masks = first_masks(self.segmenter, frames[0], clicks)
        yield masks
        boxes = [(x, y, x + 1, y + 1) for x, y in clicks.values()]
        for frame in frames[1:]:
            boxes = [self._grown(mask) if mask.any() else box for mask, box in zip(masks, boxes, strict=True)]
            self.segmenter.look_at(frame)
            answers = self.segmenter.boxes(boxes)
            if answers is None:
                raise ValueError(
                    f"segmenter is a {type(self.segmenter).__name__} that takes no boxes; give one that does"
                )
            masks = answers
            yield masks

    def _grown(self, mask: np.ndarray) -> tuple[int, int, int, int]:
        """The box around a mask, with its margin, inside the frame."""
        x1, y1, x2, y2 = tight_box(mask)
        height, width = mask.shape
        dx, dy = round(self.margin * (x2 - x1)), round(self.margin * (y2 - y1))
        return max(x1 - dx, 0), max(y1 - dy, 0), min(x2 + dx, width), min(y2 + dy, height)


class FrozenTracker:
    """The first frame's masks, whatever happens: the floor that every tracker has to be above."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def track(self, frames: np.ndarray, clicks: ObjectClicks) -> Iterator[np.ndarray]:
        masks = first_masks(self.segmenter, frames[0], clicks)
        for _ in frames:
            yield masks


class FlowTracker:
    """The first frame's masks carried along by dense optical flow (DIS; Kroeger et al., 2016)."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter

    def track(self, frames: np.ndarray, clicks: ObjectClicks) -> Iterator[np.ndarray]:
        masks = first_masks(self.segmenter, frames[0], clicks)
        yield masks
        height, width = frames.shape[1:3]
        here = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        carried = [mask.astype(np.float32) for mask in masks]
        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        nowhere: Any = None  # OpenCV's stubs do not know that the output and the second map may be left out
        for before, now in pairwise(grays):
            source = here + flow.calc(now, before, nowhere)
            carried = [np.asarray(cv2.remap(mask, source, nowhere, cv2.INTER_LINEAR)) for mask in carried]
            yield np.stack(carried) > 0.5


def first_clicks(clip: Clip, min_area: float) -> dict[int, tuple[int, int]]:
    """A click in the middle of every object that shows at least `min_area` (a share) of the first frame."""
    shown = clip.masks[0].mean(axis=(1, 2)) >= min_area
    return {
        object_id: central_click(mask)
        for object_id, mask, is_shown in zip(clip.object_ids, clip.masks[0], shown, strict=True)
        if is_shown
    }


def held_out_clips(
    count: int, num_frames: int, size: int, first_seed: int = HELD_OUT_SEEDS, difficulty: float = 1.0
) -> Iterator[Clip]:
    """Clips of the held-out textures, always the same for the same arguments.

    Raises:
        ValueError: an argument is out of range; seeds below HELD_OUT_SEEDS are kept for training.
        ImportError: scikit-image is missing.
    """
    if first_seed < HELD_OUT_SEEDS:
        raise ValueError(f"first_seed={first_seed} is a training clip's; evaluations use {HELD_OUT_SEEDS} and above")
    for seed in range(first_seed, first_seed + count):
        yield synthetic_clip(seed, num_frames, size, "held_out", difficulty)


@dataclass
class TrackScores:
    """IoU, and F, of tracked objects, a number per object in each list.

    Attributes:
        first: in the frame of the click.
        ious: mean over the frames after it.
        contours: the same of F.
        visible: mean over those of them in which the object can be seen.
        reappeared: mean over the visible frames after one in which nothing of the object could be seen.
        absent: share of the frames without the object whose answer is empty.
        seconds: of every frame.
        num_clips: how many were tracked.
    """

    first: list[float] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    contours: list[float] = field(default_factory=list)
    visible: list[float] = field(default_factory=list)
    reappeared: list[float] = field(default_factory=list)
    absent: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    num_clips: int = 0

    def add(self, answers: np.ndarray, truths: np.ndarray) -> None:
        """Score one object: T×H×W bool each, the first frame included."""
        ious, contours = region_and_boundary(answers, truths)
        seen = np.asarray(truths.any(axis=(1, 2)))
        back = seen & np.logical_or.accumulate(~seen)
        later = np.arange(len(truths)) > 0
        self.first.append(float(ious[0]))
        self.ious.append(float(ious[1:].mean()))
        self.contours.append(float(contours[1:].mean()))
        for values, chosen in ((self.visible, seen & later), (self.reappeared, back), (self.absent, ~seen)):
            if chosen.any():
                values.append(float(ious[chosen].mean()))

    def summary(self) -> dict[str, Any]:
        """Means over objects of every list that has any, and how many objects.

        Under "j" (of `ious`), "f" (of `contours`), "j_and_f" (the mean of the two) and "j_<list>".
        """
        result: dict[str, Any] = {"clips": self.num_clips, "objects": len(self.ious)}
        for name in ("first", "ious", "visible", "reappeared", "absent"):
            values = getattr(self, name)
            if values:
                result["j" if name == "ious" else f"j_{name}"] = round(float(np.mean(values)), 4)
        if self.ious:
            result["f"] = round(float(np.mean(self.contours)), 4)
            result["j_and_f"] = round(float(np.mean([self.ious, self.contours])), 4)
        result["reappearing_objects"] = len(self.reappeared)
        if self.seconds:
            result["milliseconds_per_frame"] = round(1000 * float(np.median(self.seconds)), 2)
        return result


def measure_tracker(
    tracker: Tracker, clip: Clip, scores: TrackScores, min_area: float = 0.002, known: np.ndarray | None = None
) -> None:
    """Track one clip and add every object that can be clicked in its first frame to the scores.

    Args:
        tracker: the method.
        clip: of two frames or more.
        scores: is added to.
        min_area: smaller objects (as a share of the first frame) are not asked for.
        known: T bool, the frames whose masks are known, the first and another among them; None for all.

    Raises:
        ValueError: the tracker's answers have a wrong shape or number.
    """
    clicks = first_clicks(clip, min_area)
    if not clicks:
        return
    rows = [clip.object_ids.index(object_id) for object_id in clicks]
    answers = []
    start = time.perf_counter()
    for masks in tracker.track(clip.frames, clicks):
        scores.seconds.append(time.perf_counter() - start)
        answers.append(masks)
        start = time.perf_counter()
    answered, truths = np.array(answers), clip.masks[:, rows]
    if answered.shape != truths.shape or answered.dtype != bool:
        raise ValueError(
            f"{type(tracker).__name__} answered {answered.dtype} {answered.shape}; expected bool {truths.shape} "
            "(frames, objects, height, width)"
        )
    if known is not None:
        answered, truths = answered[known], truths[known]
    scores.num_clips += 1
    for row in range(len(rows)):
        scores.add(answered[:, row], truths[:, row])


def measure_trackers(
    clips: Iterable[Clip], trackers: Mapping[str, Tracker], min_area: float = 0.002
) -> dict[str, dict[str, Any]]:
    """The summary of each tracker over all clips."""
    scores = {name: TrackScores() for name in trackers}
    for clip in clips:
        for name, tracker in trackers.items():
            measure_tracker(tracker, clip, scores[name], min_area)
    return {name: score.summary() for name, score in scores.items()}
