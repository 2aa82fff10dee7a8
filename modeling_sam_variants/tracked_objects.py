"""The objects of a video session: prompts answered, memories made, objects found together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sam_variants.mask_regions import fill_holes
from sam_variants.memory.memory_bank import FrameRecord, MemoryBank, Selection

# Earlier answers are shown to the decoder within these bounds, as in the official code.
LARGEST_LOGIT = 32.0


@dataclass
class TrackedObject:
    """One object of a session.

    Attributes:
        bank: what is remembered of it.
        prompts: points, labels and boxes given on each frame so far.
        pending: answers to prompts that are not in the memory yet, and whether their frames condition.
        directions: frames that were tracked, and whether in reverse.
    """

    bank: MemoryBank
    prompts: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    pending: dict[int, tuple[FrameRecord, bool]] = field(default_factory=dict)
    directions: dict[int, bool] = field(default_factory=dict)

    def record(self, frame: int) -> FrameRecord | None:
        """What is known of a frame, answers to prompts first."""
        return self.pending[frame][0] if frame in self.pending else self.bank.record(frame)

    def forget(self, first_frame: int) -> None:
        """Drop what belongs to frames before `first_frame` and is not looked at any more."""
        self.bank.forget(first_frame)
        for by_frame in (self.prompts, self.directions):
            for frame in [frame for frame in by_frame if frame < first_frame]:
                del by_frame[frame]

    def answer(
        self, model: Any, features: Any, frame: int, prompts: dict[str, Tensor], replace: bool, num_frames: int | None
    ) -> None:
        """Let the model answer prompts on a frame; the answer is pending until `remember_pending`.

        Args:
            model: the `SamVariantsVideoModel`.
            features: the encoded frame.
            frame: its index.
            prompts: `mask` 1×H×W, or `points`, `labels`, `boxes`, in pixels of the model's input.
            replace: forget the points and the box given on the frame before.
            num_frames: length of the video, if it is known.
        """
        is_first = frame not in self.directions
        if "mask" in prompts:
            self.prompts.pop(frame, None)
            answer = model.accept_masks(features, prompts["mask"])
        else:
            self.prompts[frame] = _joined({} if replace else self.prompts.get(frame, {}), prompts)
            answer = self._decode_prompts(model, features, frame, is_first, num_frames)
        record = FrameRecord(
            pointer=answer.pointers[0],
            object_score_logit=answer.object_score_logits[0],
            iou_score=answer.iou_scores[0],
            mask_logits=fill_holes(answer.mask_logits[0], model.config.fill_hole_area),
            is_prompted=True,
        )
        self.pending[frame] = (record, is_first or model.config.add_all_frames_to_correct_as_cond)

    def _decode_prompts(self, model: Any, features: Any, frame: int, is_first: bool, num_frames: int | None) -> Any:
        """Decode all prompts of a frame, with its memory and its earlier answer where there are any."""
        prompts = dict(self.prompts[frame])
        earlier = self.record(frame)
        if earlier is not None and earlier.mask_logits is not None:
            prompts["mask_logits"] = earlier.mask_logits[None, None].clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        embeddings = model.without_memory(features)
        if not is_first:
            selection = self.bank.select(frame, self.directions[frame], model.max_pointers(num_frames))
            if selection.memories:
                embeddings = model.with_memory(features, [selection], num_frames)
        return model.answer_prompts(features, embeddings, is_first=is_first, **prompts)

    def remember_pending(self, model: Any, frames: Mapping[int, Any]) -> None:
        """Put pending answers into the memory.

        Args:
            model: the `SamVariantsVideoModel`.
            frames: encoded frames by index.
        """
        for frame, (record, is_conditioning) in self.pending.items():
            record.memory = model.remember(
                frames[frame], record.mask_logits[None], record.object_score_logit[None], is_prompted=True
            )[0]
            self.bank.add_prompted(frame, record, is_conditioning)
            if model.config.clear_non_cond_mem_around_input:
                self.bank.clear_around(frame)
        self.pending.clear()

    def needs_tracking(self, frame: int) -> bool:
        """Whether the object must be looked for on a frame: it is known, and was not prompted there."""
        return bool(self.bank.conditioning) and frame not in self.bank.conditioning

    def reach(self, model: Any, frame: int, reverse: bool) -> None:
        """Note that tracking has come to a frame, in which direction; what is known of the object decides the rest."""
        if not self.bank.conditioning:
            return
        self.directions[frame] = reverse
        if frame in self.bank.conditioning and model.config.clear_non_cond_mem_around_input:
            self.bank.clear_around(frame)


def track_objects(
    model: Any,
    features: Any,
    frame: int,
    objects: Sequence[TrackedObject],
    reverse: bool,
    num_frames: int | None,
    objects_per_pass: int,
) -> None:
    """Find objects on a frame, those with memories of one layout together, and remember what was found.

    Args:
        model: the `SamVariantsVideoModel`.
        features: the encoded frame.
        frame: its index.
        objects: what to find.
        reverse: whether the video is tracked in reverse.
        num_frames: length of the video, if it is known.
        objects_per_pass: how many go together at most.
    """
    groups: dict[tuple[int, int], list[tuple[TrackedObject, Selection]]] = {}
    for tracked in objects:
        selection = tracked.bank.select(frame, reverse, model.max_pointers(num_frames))
        groups.setdefault(selection.layout, []).append((tracked, selection))
    for group in groups.values():
        for start in range(0, len(group), objects_per_pass):
            _track_group(model, features, frame, group[start : start + objects_per_pass], num_frames)


def _track_group(
    model: Any, features: Any, frame: int, group: list[tuple[TrackedObject, Selection]], num_frames: int | None
) -> None:
    embeddings = model.with_memory(features, [selection for _, selection in group], num_frames)
    answer = model.answer_prompts(features, embeddings)
    memories = model.remember(features, answer.mask_logits, answer.object_score_logits, is_prompted=False)
    logits = fill_holes(answer.mask_logits, model.config.fill_hole_area)
    for number, (tracked, _) in enumerate(group):
        # Copies, because a view would keep the tensors of the whole group for as long as one object is there.
        tracked.bank.tracked[frame] = FrameRecord(
            pointer=answer.pointers[number].clone(),
            object_score_logit=answer.object_score_logits[number].clone(),
            iou_score=answer.iou_scores[number].clone(),
            mask_logits=logits[number].clone(),
            memory=memories[number].clone(),
        )


def _joined(earlier: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
    """Points added to those given before; a box given again replaces the one before."""
    joined = earlier | new
    for name in ("points", "labels"):
        if name in earlier and name in new:
            joined[name] = torch.cat([earlier[name], new[name]], dim=1)
    return joined
