"""Tracking objects through a video, frame by frame, with a memory that stays the same size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from numbers import Integral
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from sam_variants.layers.sending import sent
from sam_variants.mask_storage import upsample_logits
from sam_variants.memory.memory_bank import MemoryBank
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.frame_processing import prepare_frame, prepare_mask, prepare_prompts
from sam_variants.processing.image_fitting import SQUARE
from sam_variants.processing.processor_for import processor_for
from sam_variants.processing.video_reader import read_frames
from sam_variants.results import Masks
from sam_variants.tracked_objects import TrackedObject, track_objects

PROMPT_NAMES = ("points", "labels", "boxes", "mask")
# What is answered for an object on a frame for which nothing is known of it.
UNKNOWN_LOGIT = -1024.0
UNKNOWN_SCORE = -10.0
# With `non_overlap_masks`, what a pixel that belongs to another object keeps at most.
OVERLAPPED_LOGIT = -10.0
# Frame index → object id → arguments of `add_object`.
FramePrompts = Mapping[int, Mapping[int, Mapping[str, Any]]]
EXAMPLE_CALL = "session.add_object(1, points=[[320, 240]])"


class Prompt(NamedTuple):
    """The prompts of one call of `add_object`, as they were given."""

    object_id: int
    points: Any = None
    labels: Any = None
    boxes: Any = None
    mask: Any = None
    replace: bool = False


class VideoSession(AbstractContextManager):
    """Tracks objects through one video whose frames are pushed one by one.

    It computes what SAM 2's video predictor computes for the same prompts, object by object or together. Only what
    frames to come can still look at is kept, so memory doesn't grow with the number of frames; it grows with the
    number of objects and of prompted frames. An error leaves the session as it was.

    Args:
        model: a `SamVariantsVideoModel`; `model.start_session(processor)` makes the session.
        processor: its `SamVariantsProcessor`; None makes the one that belongs to it.
        keep_frames: how many of the last frames can still be corrected and tracked again (`propagate`). Each costs its
            embedding: 16 MB for SAM 2 at 1024 pixels.
        num_frames: length of the video. The official predictor knows it and looks at fewer object pointers in videos
            shorter than 16 frames; without it, every video is taken for a long one.
        objects_per_pass: how many objects go through memory attention and decoder at once.

    Attributes:
        frame_index: index of the last frame, −1 before the first.
        frame_size: (height, width) of the frames in pixels, None before the first.

    Raises:
        ValueError: for options out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        keep_frames: int = 1,
        num_frames: int | None = None,
        objects_per_pass: int = 16,
    ) -> None:
        counts = {"keep_frames": keep_frames, "objects_per_pass": objects_per_pass, "num_frames": num_frames}
        for name, count in counts.items():
            if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 1):
                raise ValueError(f"{name}={count!r} must be a whole number, at least 1")
        self.model = model
        self.processor = processor_for(model) if processor is None else processor
        self.keep_frames = keep_frames
        self.num_frames = num_frames
        self.objects_per_pass = objects_per_pass
        self.frame_index = -1
        self.frame_size: tuple[int, int] | None = None
        self._objects: dict[int, TrackedObject] = {}
        self._frames: dict[int, Any] = {}
        self._waiting: dict[int, list[Prompt]] = {}
        self._is_closed = False

    @property
    def object_ids(self) -> list[int]:
        """The objects of the session, in the order in which they were added."""
        return list(self._objects)

    @property
    def kept_frames(self) -> list[int]:
        """Indices of the frames that can still be corrected."""
        return list(self._frames)

    def add_object(
        self,
        object_id: int,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        mask: Any = None,
        frame: int | None = None,
        replace: bool = False,
    ) -> Masks | None:
        """Say where an object is on one frame: a new object, or a correction of a known one.

        Args:
            object_id: your number for the object.
            points: (x, y) in pixels of the frame, or a list of them.
            labels: one per point: 1 on the object (the default), 0 off it.
            boxes: (x1, y1, x2, y2).
            mask: H×W bool, taken as it is; instead of points and boxes.
            frame: index of the frame; by default the last one (before the first step, the first one). A frame to come
                is waited for.
            replace: forget the points and the box given for this object on this frame before; by default, points are
                added to them.

        Returns:
            The masks of all objects on that frame, with this answer; None for a frame to come.

        Raises:
            ValueError: no prompts, ones that don't fit the frame, or a frame that is out of reach.
            TypeError: a prompt or number of a wrong kind.
        """
        self._check_open()
        index = self._checked_frame(frame)
        prompt = Prompt(_whole_number("object_id", object_id), points, labels, boxes, mask, replace)
        _check_prompt(prompt)
        if index > self.frame_index:
            if self.frame_size is not None:
                self._prepare(prompt)
            self._objects.setdefault(prompt.object_id, self._new_object())
            self._waiting.setdefault(index, []).append(prompt)
            return None
        with torch.no_grad(), evaluating(self.model):
            self._answer(prompt, self._prepare(prompt), index)
            return self._result(index)

    def remove_object(self, object_id: int) -> None:
        """Stop tracking an object and forget everything about it.

        Raises:
            ValueError: when there is no such object.
        """
        self._check_open()
        if object_id not in self._objects:
            raise ValueError(f"there is no object {object_id!r} to remove; the session has {self.object_ids}")
        del self._objects[object_id]
        self._waiting = {
            frame: kept
            for frame, prompts in self._waiting.items()
            if (kept := [prompt for prompt in prompts if prompt.object_id != object_id])
        }

    def step(self, frame: Any) -> Masks:
        """Take the next frame and find every object on it.

        Args:
            frame: an image of any kind that the processor takes; all frames must have one size.

        Returns:
            `Masks` with `object_ids`, `scores` (predicted IoU), `object_score_logits` (above 0 where the object is
            visible) and `frame_index`, in the order in which the objects were added. Objects of which no prompt has
            come yet have an empty mask.

        Raises:
            ValueError: for a frame that can't be read or has another size, or a waiting prompt that doesn't fit it;
                the frame is not taken then.
        """
        self._check_open()
        prepared = prepare_frame(self.processor, frame)
        index = self.frame_index + 1
        if self.frame_size not in (None, prepared.size):
            raise ValueError(
                f"frame {index} is {prepared.size[0]}×{prepared.size[1]} (height × width), the frames before are "
                f"{self.frame_size[0]}×{self.frame_size[1]}: all frames of a video must have one size"
            )
        waiting = [(prompt, self._prepare(prompt, prepared.size)) for prompt in self._waiting.get(index, [])]
        with torch.no_grad(), evaluating(self.model):
            self._remember_pending()
            pixel_values = sent(prepared.pixel_values, self.model.device, self.model.image_encoder.dtype)
            self._frames[index] = self.model.encode_frame(pixel_values)
            self.frame_index, self.frame_size = index, prepared.size
            self._waiting.pop(index, None)
            for prompt, tensors in waiting:
                self._answer(prompt, tensors, index)
            self._remember_pending()
            self._track(index, reverse=False)
            self._forget()
            return self._result(index)

    def track(
        self, video: Any, prompts: Mapping[int, Mapping[int, Mapping[str, Any]]] | None = None
    ) -> Iterator[Masks]:
        """Track through a whole video, one frame at a time.

        Args:
            video: a file, a folder of images, or an iterable or array of frames, see `read_frames`.
            prompts: frame index in this video → object id → the arguments of `add_object`.

        Returns:
            An iterator over the result of `step` for every frame.

        Raises:
            ValueError: without any object; for a video that can't be read to its end, behind the last frame that could
                be; for prompts on frames behind the end.
        """
        self._check_open()
        first = self.frame_index + 1
        for frame, by_object in (prompts or {}).items():
            for object_id, arguments in by_object.items():
                self.add_object(object_id, **arguments, frame=first + _whole_number("frame", frame))
        if not self._objects:
            raise ValueError(f"there is no object to track: give prompts, or call {EXAMPLE_CALL} first")
        return self._steps(read_frames(video))

    def _steps(self, frames: Iterator[Any]) -> Iterator[Masks]:
        for frame in frames:
            yield self.step(frame.image)
        if self._waiting:
            raise ValueError(
                f"the video ended after frame {self.frame_index}, but there are prompts for {sorted(self._waiting)}"
            )

    def propagate(
        self, start_frame: int | None = None, reverse: bool = False, max_frames: int | None = None
    ) -> Iterator[Masks]:
        """Track the kept frames again, after a correction or in reverse.

        Args:
            start_frame: where to begin; by default the first prompted frame.
            reverse: towards the first frame, as long as frames are kept.
            max_frames: how many frames to go beyond the first.

        Returns:
            An iterator over the results of these frames, in the order in which they are tracked.

        Raises:
            ValueError: without any prompted frame, or for a start that is not kept (`keep_frames` says how many are).
        """
        self._check_open()
        prompted = [
            frame for tracked in self._objects.values() for frame in (*tracked.bank.conditioning, *tracked.pending)
        ]
        if not prompted:
            raise ValueError(f"there is nothing to track: call {EXAMPLE_CALL} first")
        start = self._checked_frame(min(prompted) if start_frame is None else start_frame)
        if start > self.frame_index:
            raise ValueError(f"start_frame={start} was not stepped yet; the last frame is {self.frame_index}")
        count = len(self._frames) if max_frames is None else _whole_number("max_frames", max_frames)
        if reverse:
            order = range(start, max(start - count, min(self._frames)) - 1, -1) if start > 0 else range(0)
        else:
            order = range(start, min(start + count, self.frame_index) + 1)
        return self._propagate(order, reverse)

    def _propagate(self, order: range, reverse: bool) -> Iterator[Masks]:
        for index in order:
            with torch.no_grad(), evaluating(self.model):
                self._remember_pending()
                self._track(index, reverse)
                masks = self._result(index)
            yield masks

    def close(self) -> None:
        """Free everything; the session can't be used any more."""
        self._objects, self._frames, self._waiting = {}, {}, {}
        self._is_closed = True

    def __exit__(self, *error: object) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the session is closed; model.start_session() begins a new one")

    def _checked_frame(self, frame: int | None) -> int:
        index = max(self.frame_index, 0) if frame is None else _whole_number("frame", frame)
        if index <= self.frame_index and index not in self._frames:
            raise ValueError(
                f"frame {index} is out of reach: of the {self.frame_index + 1} frames so far the last "
                f"{len(self._frames)} are kept (start_session(keep_frames={self.keep_frames}))"
            )
        return index

    def _new_object(self) -> TrackedObject:
        return TrackedObject(MemoryBank(self.model.memory_rules()))

    def _prepare(self, prompt: Prompt, size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """The prompts as tensors in pixels of the model's input."""
        frame_size: Any = self.frame_size if size is None else size
        if prompt.mask is not None:
            tensors = {"mask": prepare_mask(self.processor, frame_size, prompt.mask)}
        else:
            tensors = prepare_prompts(self.processor, frame_size, prompt.points, prompt.labels, prompt.boxes)
        return {name: value.to(self.model.device) for name, value in tensors.items()}

    def _answer(self, prompt: Prompt, tensors: dict[str, Tensor], index: int) -> None:
        """Let the model answer prompts on a kept frame; the memory learns of it with the next step."""
        tracked = self._objects.setdefault(prompt.object_id, self._new_object())
        tracked.answer(self.model, self._frames[index], index, tensors, prompt.replace, self.num_frames)

    def _remember_pending(self) -> None:
        """Put the answers to prompts into the memory."""
        for tracked in self._objects.values():
            tracked.remember_pending(self.model, self._frames)

    def _track(self, index: int, reverse: bool) -> None:
        """Find every object on a frame on which it was not prompted."""
        for tracked in self._objects.values():
            tracked.reach(self.model, index, reverse)
        objects = [tracked for tracked in self._objects.values() if tracked.needs_tracking(index)]
        track_objects(self.model, self._frames[index], index, objects, reverse, self.num_frames, self.objects_per_pass)

    def _forget(self) -> None:
        for index in list(self._frames)[: -self.keep_frames]:
            del self._frames[index]
        first = min(self._frames)
        for tracked in self._objects.values():
            tracked.forget(first)

    def _result(self, index: int) -> Masks:
        """The masks of all objects on a kept frame."""
        height, width = (4 * side for side in self._frames[index].embedding.shape[-2:])
        records = [tracked.record(index) for tracked in self._objects.values()]
        logits = torch.full((len(records), height, width), UNKNOWN_LOGIT, device=self.model.device)
        scores = torch.tensor([0.0, UNKNOWN_SCORE]).repeat(len(records), 1)
        known = [(number, record) for number, record in enumerate(records) if record is not None]
        if known:
            for number, record in known:
                logits[number] = record.mask_logits.float()
            found = torch.stack([torch.stack([one.iou_score, one.object_score_logit]) for _, one in known])
            scores[[number for number, _ in known]] = found.float().cpu()
        fields = {"scores": scores[:, 0], "object_score_logits": scores[:, 1], "object_ids": self.object_ids}
        return self._masks(logits, index, **fields)

    def _masks(self, logits: Tensor, index: int, **fields: Any) -> Masks:
        image_processor = self.processor.image_processor
        size: Any = self.frame_size
        reshaped = padded = None
        if image_processor.resize_mode != SQUARE:
            side = image_processor.image_size
            reshaped, padded = image_processor.reshaped_size(*size), (side, side)
        if self.model.config.non_overlap_masks and len(logits) > 1:
            logits = without_overlap(upsample_logits(logits, size, reshaped, padded))
            reshaped = padded = None
        threshold = self.model.config.mask_threshold
        masks = Masks.from_logits(logits, size, reshaped, padded, threshold, **fields)
        masks.frame_index = index
        return masks


def without_overlap(logits: Tensor) -> Tensor:
    """Leave each pixel of N×H×W logits to the object with the highest one."""
    owner = logits.argmax(dim=0, keepdim=True)
    is_owner = owner == torch.arange(len(logits), device=logits.device)[:, None, None]
    return torch.where(is_owner, logits, logits.clamp(max=OVERLAPPED_LOGIT))


def _check_prompt(prompt: Prompt) -> None:
    if prompt.mask is None and prompt.points is None and prompt.boxes is None:
        raise ValueError(f"object {prompt.object_id} has no prompt: give points, boxes or a mask, as in {EXAMPLE_CALL}")
    if prompt.mask is not None and any(value is not None for value in (prompt.points, prompt.labels, prompt.boxes)):
        raise ValueError("mask is taken as it is and can't come with points or boxes: give them in a second call")


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} must be a whole number")
    if value < 0:
        raise ValueError(f"{name}={value} must not be negative")
    return int(value)
