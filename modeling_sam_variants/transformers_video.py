"""Video under the names of transformers' `Sam2VideoModel`, for scripts that were written for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import ModelOutput, logging

from sam_variants.outputs import SamVariantsOutput
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.frame_processing import PreparedFrame, prepare_frame
from sam_variants.processing.inference_session import InferenceSession
from sam_variants.tracked_objects import TrackedObject
from sam_variants.video_session import VideoSession, without_overlap

NO_OBJECT = "there is no object to track: call processor.add_inputs_to_inference_session first"


@dataclass
class VideoFrameOutput(ModelOutput):
    """What the model says of one frame, as transformers' `Sam2VideoSegmentationOutput`.

    Attributes:
        object_ids: the objects, in the order in which they were added.
        pred_masks: mask logits N×1×h×w at a quarter of the model's input size.
        object_score_logits: N×1, above 0 where the object is visible.
        frame_idx: index of the frame.
        iou_scores: predicted IoU of every mask, N×1.
    """

    object_ids: list[int] | None = None
    pred_masks: Tensor | None = None
    object_score_logits: Tensor | None = None
    frame_idx: int | None = None
    iou_scores: Tensor | None = None


class NamedTracker(VideoSession):
    """A `VideoSession` that answers with small logits, and shows a kept frame again when it is asked for."""

    def show(self, index: int, reverse: bool = False) -> VideoFrameOutput:
        """Track a kept frame again; objects that were prompted there keep their answer.

        Raises:
            ValueError: for a frame that is out of reach.
        """
        self._check_open()
        objects = self._objects.values()
        if not objects:
            raise ValueError(NO_OBJECT)
        if self._checked_frame(index) > self.frame_index:
            raise ValueError(f"frame_idx={index} is behind the last frame, {self.frame_index}")
        with torch.no_grad(), evaluating(self.model):
            if any(not _is_prompted(tracked, index) for tracked in objects):
                new = [tracked for tracked in objects if index not in tracked.directions]
                self._remember_pending()
                self._track(index, reverse)
                for tracked in new:
                    if _is_prompted(tracked, index):
                        # Further clicks here still belong to the first ones, which look at no memory.
                        tracked.directions.pop(index, None)
            output: Any = self._result(index)
            return output

    def _masks(self, logits: Tensor, index: int, **fields: Any) -> Any:
        if self.model.config.non_overlap_masks and len(logits) > 1:
            logits = without_overlap(logits)
        return VideoFrameOutput(
            object_ids=fields["object_ids"],
            pred_masks=logits[:, None],
            object_score_logits=fields["object_score_logits"].to(logits)[:, None],
            frame_idx=index,
            iou_scores=fields["scores"].to(logits)[:, None],
        )


class ClipTracker(NamedTracker):
    """Tracks through a clip that is there from the start: every frame can be prompted at any time.

    What is remembered of the objects stays for every frame (at 1024 pixels 0.8 MB per object and frame, as in
    transformers); of the frames' embeddings only the last few are held.

    Args:
        model, processor: as for `VideoSession`.
        frames: H×W×3 uint8 each.
        num_features: how many encoded frames are held.
    """

    def __init__(self, model: Any, processor: Any, frames: list[np.ndarray], num_features: int) -> None:
        super().__init__(model, processor, keep_frames=len(frames), num_frames=len(frames))
        self._frames: Any = ClipFeatures(model, self.processor, frames, num_features)
        self.frame_index = len(frames) - 1
        self.frame_size = (frames[0].shape[0], frames[0].shape[1])


class ClipFeatures(Mapping[int, Any]):
    """The encoded frames of a clip: made when asked for, the ones used last are held."""

    def __init__(self, model: Any, processor: Any, frames: list[np.ndarray], num_features: int) -> None:
        self.model = model
        self.processor = processor
        self.frames = frames
        self.num_features = num_features
        self.held: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.frames)))

    def __contains__(self, index: object) -> bool:
        return index in range(len(self.frames))

    def __getitem__(self, index: int) -> Any:
        if index not in self.held:
            if len(self.held) == self.num_features:
                self.held.popitem(last=False)
            prepared = prepare_frame(self.processor, self.frames[index])
            pixel_values = prepared.pixel_values.to(self.model.device, self.model.image_encoder.dtype)
            self.held[index] = self.model.encode_frame(pixel_values)
        self.held.move_to_end(index)
        return self.held[index]


class VideoModelNames:
    """The methods of transformers' `Sam2VideoModel` for video, for `SamVariantsVideoModel`.

    Results are those of `VideoSession`, so they follow the official predictor where transformers differs: holes are
    filled as the configuration says, a correction sees the earlier mask, and it stays when the clip is tracked again.
    """

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Tensor | Sequence[Tensor] | None = None,
        multimask_output: bool = True,
        labels: Tensor | None = None,
        inference_session: InferenceSession | None = None,
        frame_idx: int | None = None,
        frame: Tensor | None = None,
        reverse: bool = False,
        **kwargs: Any,
    ) -> SamVariantsOutput | VideoFrameOutput:
        """On images as `SamVariantsModel`; with a session, one frame of a video.

        Args:
            pixel_values, input_points, input_labels, input_boxes, input_masks, image_embeddings, multimask_output,
                labels: as for `SamVariantsModel`.
            inference_session: what `processor.init_video_session` gave; may come first.
            frame_idx: the frame of a clip to look at; or the index of a streamed frame, which must be the next one.
            frame: the next frame of a stream, 3×H×W or 1×3×H×W from the processor.
            reverse: whether time runs backwards.

        Raises:
            ValueError: a frame that isn't there, or a stream without prompts.
        """
        if hasattr(pixel_values, "tracker"):  # the class may be that of another checkpoint's code
            pixel_values, inference_session = None, pixel_values
        if inference_session is not None:
            return video_frame(self, inference_session, frame_idx, frame, reverse)
        return super().forward(  # type: ignore[misc]
            pixel_values=pixel_values,
            input_points=input_points,
            input_labels=input_labels,
            input_boxes=input_boxes,
            input_masks=input_masks,
            image_embeddings=image_embeddings,
            multimask_output=multimask_output,
            labels=labels,
            **kwargs,
        )

    def propagate_in_video_iterator(
        self,
        inference_session: InferenceSession,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        show_progress_bar: bool = False,
    ) -> Iterator[VideoFrameOutput]:
        """Track the objects through the clip.

        Args:
            inference_session: what `processor.init_video_session` gave.
            start_frame_idx: where to begin; by default the first prompted frame.
            max_frame_num_to_track: how many frames to go beyond the first; by default all.
            reverse: towards the first frame.
            show_progress_bar: whether to show one.

        Returns:
            An iterator over the frames' `VideoFrameOutput`.

        Raises:
            ValueError: without any prompt, or for a start that isn't there.
        """
        tracker = tracker_of(self, inference_session)
        outputs: Any = tracker.propagate(start_frame_idx, reverse, max_frame_num_to_track)
        return iter(logging.tqdm(outputs, desc="propagate in video", disable=not show_progress_bar))


def tracker_of(model: Any, session: InferenceSession) -> NamedTracker:
    """The session's tracker, with the prompts given so far.

    Raises:
        ValueError: for another model than before, or prompts that don't fit.
    """
    if session.tracker is None:
        count = session.max_vision_features_cache_size
        if session.frames is None:
            session.tracker = NamedTracker(model, session.processor, keep_frames=count)
        else:
            session.tracker = ClipTracker(model, session.processor, session.frames, count)
    if session.tracker.model is not model:
        raise ValueError("inference_session belongs to another model; processor.init_video_session() begins a new one")
    while session.inputs:
        given = session.inputs.pop(0)
        session.tracker.add_object(given.object_id, frame=given.frame, **given.arguments)
    return session.tracker


def video_frame(
    model: Any, session: InferenceSession, frame_idx: int | None, frame: Tensor | None, reverse: bool
) -> VideoFrameOutput:
    """One frame of a clip or a stream, see `VideoModelNames.forward`."""
    tracker = tracker_of(model, session)
    if frame is None:
        if frame_idx is None:
            raise ValueError("give frame_idx, or frame for a stream")
        return tracker.show(frame_idx, reverse)
    if session.frames is not None:
        raise ValueError("frame is for streams, but this session has a clip: give frame_idx")
    if frame_idx not in (None, tracker.frame_index + 1):
        raise ValueError(f"frame_idx={frame_idx}: the next frame of the stream is {tracker.frame_index + 1}")
    if not tracker.object_ids:
        raise ValueError(NO_OBJECT)
    size: Any = (session.video_height, session.video_width)
    output: Any = tracker.step(PreparedFrame(frame.reshape(1, *frame.shape[-3:]), size))
    return output


def _is_prompted(tracked: TrackedObject, index: int) -> bool:
    return index in tracked.pending or index in tracked.bank.conditioning
