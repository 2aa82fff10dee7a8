"""A video and the prompts on it under the names of transformers' `Sam2VideoProcessor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_variants.processing.image_fitting import size_list
from sam_variants.processing.video_reader import read_frames


class ObjectInput(NamedTuple):
    """The prompts of one object on one frame; `arguments` are those of `VideoSession.add_object`."""

    frame: int
    object_id: int
    arguments: dict[str, Any]


class InferenceSession:
    """What `processor.init_video_session` gives, with the names of transformers' `Sam2VideoInferenceSession`.

    It holds the clip and the prompts; the first call of the model ties it to the model and begins to track.

    Args:
        processor: the processor that made it.
        video: anything that `read_frames` reads, or None when frames will be streamed.
        max_vision_features_cache_size: how many encoded frames are kept.

    Attributes:
        frames: the clip, H×W×3 uint8 each; None when streaming.
        video_height, video_width: size of the frames in pixels; None before it is known.
        inputs: prompts that the model has not seen yet, in the order given.
        tracker: the `VideoSession` of the model that tracks; None before the first call.
    """

    def __init__(self, processor: Any, video: Any = None, max_vision_features_cache_size: int = 1) -> None:
        if max_vision_features_cache_size < 1:
            raise ValueError(f"max_vision_features_cache_size={max_vision_features_cache_size} must be at least 1")
        self.processor = processor
        self.max_vision_features_cache_size = max_vision_features_cache_size
        self.frames: list[np.ndarray] | None = None
        self.video_height: int | None = None
        self.video_width: int | None = None
        if video is not None:
            self.frames = [frame.image for frame in read_frames(video)]
            self.video_height, self.video_width = self.frames[0].shape[:2]
        self.inputs: list[ObjectInput] = []
        self.tracker: Any = None

    @property
    def num_frames(self) -> int | None:
        """Length of the clip; when streaming, the number of frames so far (None before the first)."""
        if self.frames is not None:
            return len(self.frames)
        return None if self.tracker is None else self.tracker.frame_index + 1

    @property
    def obj_ids(self) -> list[int]:
        """The objects, in the order in which they were added."""
        known = [] if self.tracker is None else self.tracker.object_ids
        return list(dict.fromkeys([*known, *(given.object_id for given in self.inputs)]))

    def get_obj_num(self) -> int:
        """The number of objects."""
        return len(self.obj_ids)

    def obj_id_to_idx(self, obj_id: int) -> int:
        """Position of an object in the outputs.

        Raises:
            ValueError: when there is no such object.
        """
        if obj_id not in self.obj_ids:
            raise ValueError(f"there is no object {obj_id!r}; the session has {self.obj_ids}")
        return self.obj_ids.index(obj_id)

    def obj_idx_to_id(self, obj_idx: int) -> int:
        """The object at a position in the outputs."""
        return self.obj_ids[obj_idx]

    def reset_tracking_data(self) -> None:
        """Forget all objects; the clip and encoded frames stay."""
        self.inputs = []
        if self.tracker is not None:
            for object_id in self.tracker.object_ids:
                self.tracker.remove_object(object_id)

    def reset_inference_session(self) -> None:
        """Forget all objects, and the encoded frames of a clip."""
        self.reset_tracking_data()
        if self.frames is not None:
            self.tracker = None


class VideoSessionNames:
    """The methods of transformers' `Sam2VideoProcessor` for video, for `SamVariantsProcessor`."""

    def init_video_session(
        self,
        video: Any = None,
        inference_device: Any = "cpu",
        inference_state_device: Any = None,
        processing_device: Any = None,
        video_storage_device: Any = None,
        max_vision_features_cache_size: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> InferenceSession:
        """Begin a session, as with transformers' `Sam2VideoProcessor`.

        The clip is held as 8-bit frames and encoded frame by frame while it is tracked; transformers holds it as
        floating-point tensors at the model's input size, 16 times as much for 480p. Frames that are streamed are not
        held at all. For long videos use `model.start_session`, whose memory stays constant.

        Args:
            video: a list of images, an array T×H×W×3, a file or a folder of images; None to stream frames.
            inference_device, inference_state_device, processing_device, video_storage_device, dtype: taken so that
                scripts run unchanged; everything is computed where the model is and in its dtype.
            max_vision_features_cache_size: how many encoded frames are kept.
        """
        return InferenceSession(self, video, max_vision_features_cache_size)

    def add_inputs_to_inference_session(
        self,
        inference_session: InferenceSession,
        frame_idx: int,
        obj_ids: list[int] | int,
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        original_size: Any = None,
        clear_old_inputs: bool = True,
    ) -> InferenceSession:
        """Add prompts for one or several objects on a frame, as with transformers' `Sam2VideoProcessor`.

        Args:
            inference_session: what `init_video_session` gave.
            frame_idx: index of the frame.
            obj_ids: one object's number, or a list of them.
            input_points: (x, y) in pixels of the frame, nested [image [object [point]]].
            input_labels: 1 on the object, 0 off it, nested [image [object]].
            input_boxes: (x1, y1, x2, y2), nested [image [object]].
            input_masks: one mask at the frame's size, or a list with one per object; instead of points and boxes.
            original_size: (height, width) of streamed frames; needed once, before the first of them.
            clear_old_inputs: forget the points and boxes given for these objects on this frame before.

        Raises:
            ValueError: no prompts, numbers that don't agree, or a size that is missing.
        """
        objects = [obj_ids] if isinstance(obj_ids, int) else list(obj_ids)
        if (input_points is None) != (input_labels is None):
            raise ValueError("input_points and input_labels go together: give both or neither")
        if input_masks is not None and not (input_points is None and input_boxes is None):
            raise ValueError("input_masks are taken as they are and can't come with input_points or input_boxes")
        prompts: dict[str, list[Any] | None] = {
            "points": _per_object("input_points", input_points, len(objects)),
            "labels": _per_object("input_labels", input_labels, len(objects)),
            "boxes": _per_object("input_boxes", input_boxes, len(objects)),
            "mask": _masks_per_object(input_masks, len(objects)),
        }
        given = {name: values for name, values in prompts.items() if values is not None}
        if not given:
            raise ValueError("there are no prompts: give input_points with input_labels, input_boxes or input_masks")
        _set_size(inference_session, original_size, given.get("mask"))
        for number, object_id in enumerate(objects):
            arguments = {name: values[number] for name, values in given.items()}
            arguments |= {"replace": clear_old_inputs}
            inference_session.inputs.append(ObjectInput(frame_idx, object_id, arguments))
        return inference_session


def _per_object(name: str, values: Any, num_objects: int) -> list[Any] | None:
    """The entries of the only image, one per object."""
    if values is None:
        return None
    if len(values) != 1:
        raise ValueError(f"{name} has {len(values)} entries at its first level, which is the frame: expected 1")
    if len(values[0]) != num_objects:
        raise ValueError(f"{name} are for {len(values[0])} objects, but obj_ids names {num_objects}")
    return list(values[0])


def _masks_per_object(masks: Any, num_objects: int) -> list[Any] | None:
    """H×W bool masks of any of the forms that transformers takes."""
    if masks is None:
        return None
    items = masks if isinstance(masks, list | tuple) else [masks]
    if len(items) != num_objects:
        raise ValueError(f"input_masks are {len(items)}, but obj_ids names {num_objects} objects")
    arrays = [item.detach().cpu().numpy() if isinstance(item, Tensor) else np.asarray(item) for item in items]
    for array in arrays:
        if array.ndim < 2 or any(length != 1 for length in array.shape[:-2]):
            raise ValueError(f"a mask must be height×width, got shape {array.shape}")
    return [array.reshape(array.shape[-2:]) != 0 for array in arrays]


def _set_size(session: InferenceSession, original_size: Any, masks: Sequence[np.ndarray] | None) -> None:
    if original_size is not None:
        ((session.video_height, session.video_width),) = size_list(
            "original_size", [[int(side) for side in original_size]]
        )
    elif session.video_height is None and masks is not None:
        session.video_height, session.video_width = masks[0].shape
    elif session.video_height is None:
        raise ValueError("original_size=(height, width) is needed with the first prompts on streamed frames")
