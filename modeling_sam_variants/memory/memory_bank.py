"""Which frames of a video an object's memory holds and which of them a frame looks at; no network is involved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MemoryRules:
    """How far a frame looks; the names and meanings are those of `SamVariantsVideoConfig`."""

    num_maskmem: int = 7
    max_cond_frames_in_attn: int = -1
    memory_temporal_stride_for_eval: int = 1
    max_obj_ptrs_in_encoder: int = 16
    use_signed_tpos_enc_to_obj_ptrs: bool = True

    @property
    def memory_reach(self) -> int:
        """The largest distance from a frame to a tracked frame whose mask memory it looks at."""
        return 1 + (self.num_maskmem - 2) * self.memory_temporal_stride_for_eval if self.num_maskmem > 1 else 0

    @property
    def pointer_reach(self) -> int:
        """The same for object pointers."""
        return self.max_obj_ptrs_in_encoder - 1


@dataclass
class FrameRecord:
    """What is known of one object on one frame; the parts that nothing can look at any more become None.

    Attributes:
        pointer: the object pointer.
        object_score_logit, iou_score: its scores.
        mask_logits: the mask's logits, as long as the frame may be asked for.
        memory: the mask memory, as long as a frame may look at it; None too before it was made.
        is_prompted: whether prompts were given on the frame.
    """

    pointer: Any
    object_score_logit: Any
    iou_score: Any
    mask_logits: Any = None
    memory: Any = None
    is_prompted: bool = False


@dataclass(frozen=True)
class Selection:
    """What one frame looks at.

    Attributes:
        memories: mask memories, each with its age in steps (0 for conditioning frames, which have no age).
        pointers: records whose pointers are looked at, each with its distance in frames.
    """

    memories: list[tuple[int, FrameRecord]]
    pointers: list[tuple[int, FrameRecord]]

    @property
    def layout(self) -> tuple[int, int]:
        """Objects with the same layout can be computed together."""
        return len(self.memories), len(self.pointers)


@dataclass
class MemoryBank:
    """One object's memory, as in SAM 2 (Ravi et al., 2024): prompted ("conditioning") frames and the last tracked ones.

    Attributes:
        rules: how far frames look.
        conditioning, tracked: records by frame index.
    """

    rules: MemoryRules
    conditioning: dict[int, FrameRecord] = field(default_factory=dict)
    tracked: dict[int, FrameRecord] = field(default_factory=dict)

    def record(self, frame: int) -> FrameRecord | None:
        """What is known of a frame."""
        return self.conditioning.get(frame, self.tracked.get(frame))

    def add_prompted(self, frame: int, record: FrameRecord, is_conditioning: bool) -> None:
        """Put in the answer to prompts on a frame; a conditioning frame replaces what was tracked there."""
        if is_conditioning:
            self.conditioning[frame] = record
            self.tracked.pop(frame, None)
        elif frame not in self.conditioning:
            self.tracked[frame] = record

    def clear_around(self, frame: int) -> None:
        """Drop the tracked frames around a prompted one."""
        distance = self.rules.memory_temporal_stride_for_eval * self.rules.num_maskmem
        for index in [index for index in self.tracked if abs(index - frame) <= distance]:
            del self.tracked[index]

    def select(self, frame: int, reverse: bool = False, max_pointers: int | None = None) -> Selection:
        """What `frame` looks at while the video is tracked forwards or in reverse.

        Args:
            frame: index of the frame.
            reverse: whether time runs backwards.
            max_pointers: `max_obj_ptrs_in_encoder` of a clip that has fewer frames than that.
        """
        chosen = self._nearest_conditioning(frame)
        others = {index: record for index, record in self.conditioning.items() if index not in chosen}
        memories = [(0, record) for record in chosen.values()]
        for age in range(self.rules.num_maskmem - 1, 0, -1):
            index = self._remembered_frame(frame, age, reverse)
            record = self.tracked.get(index, others.get(index))
            if record is not None:
                memories.append((age, record))
        return Selection(memories, self._pointers(frame, reverse, chosen, others, max_pointers))

    def _nearest_conditioning(self, frame: int) -> dict[int, FrameRecord]:
        """All conditioning frames, or the nearest one before, the nearest one behind and then the nearest others."""
        limit = self.rules.max_cond_frames_in_attn
        if limit == -1 or len(self.conditioning) <= limit:
            return dict(self.conditioning)
        before = [index for index in self.conditioning if index < frame]
        behind = [index for index in self.conditioning if index >= frame]
        chosen = [*([max(before)] if before else []), *([min(behind)] if behind else [])]
        others = sorted((index for index in self.conditioning if index not in chosen), key=lambda i: abs(i - frame))
        return {index: self.conditioning[index] for index in [*chosen, *others][:limit]}

    def _remembered_frame(self, frame: int, age: int, reverse: bool) -> int:
        """The frame that is `age` steps old: the one before, and beyond it every so-many-th."""
        if age == 1:
            return frame + 1 if reverse else frame - 1
        stride = self.rules.memory_temporal_stride_for_eval
        if reverse:
            return -(-(frame + 2) // stride) * stride + (age - 2) * stride
        return (frame - 2) // stride * stride - (age - 2) * stride

    def _pointers(
        self,
        frame: int,
        reverse: bool,
        chosen: dict[int, FrameRecord],
        others: dict[int, FrameRecord],
        max_pointers: int | None,
    ) -> list[tuple[int, FrameRecord]]:
        """Pointers of the conditioning frames that lie in the past, and of the last frames."""
        direction = -1 if reverse else 1
        signed = self.rules.use_signed_tpos_enc_to_obj_ptrs
        pointers = [
            ((frame - index) * direction if signed else abs(frame - index), record)
            for index, record in chosen.items()
            if (frame - index) * direction >= 0
        ]
        for distance in range(1, max_pointers or self.rules.max_obj_ptrs_in_encoder):
            index = frame - direction * distance
            record = self.tracked.get(index, others.get(index))
            if record is not None:
                pointers.append((distance, record))
        return pointers

    def forget(self, first_frame: int) -> None:
        """Drop what no frame from `first_frame` on can look at; conditioning frames stay, without their masks.

        Args:
            first_frame: the oldest frame that may still be asked for.
        """
        for index, record in self.conditioning.items():
            if index < first_frame:
                record.mask_logits = None
        for index in list(self.tracked):
            age = first_frame - index
            if age > max(self.rules.memory_reach, self.rules.pointer_reach):
                del self.tracked[index]
                continue
            if age > 0:
                self.tracked[index].mask_logits = None
            if age > self.rules.memory_reach:
                self.tracked[index].memory = None
