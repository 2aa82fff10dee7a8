"""Where frames and masks of a clip come from: pictures in folders, a video with tracked masks, a dataset's row."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sam_variants.mask_codecs import Rle, segmentation_to_rle
from sam_variants.processing.image_loading import rgb_array
from sam_variants.processing.video_reader import read_frames
from sam_variants.results import Masks
from sam_variants.training.label_images import (
    WHITE,
    as_picture,
    is_black_and_white,
    is_label_image,
    label_array,
    value_counts,
)
from sam_variants.training.mask_adapters import SEGMENTATION_KEYS, parsed_text
from sam_variants.training.masked_clip import MaskedClip

Size = tuple[int, int]
ID_KEYS = ("object_id", "track_id", "instance_id", "id")
NO_VOID = -1


@dataclass(frozen=True)
class FrameMasks:
    """The objects on one frame before any of them is decoded.

    Attributes:
        areas: pixel counts by object id; what has no pixel is not there.
        mask: object id → H×W bool.
    """

    areas: dict[int, int]
    mask: Callable[[int], np.ndarray]


class ClipSource(Protocol):
    """One clip, whose frames count from 0; nothing is read before it is asked for.

    Attributes:
        name: what the source calls it.
        num_frames: how many frames it has.
        annotated: indices of the frames whose objects are known, ascending.
    """

    @property
    def name(self) -> str: ...

    @property
    def num_frames(self) -> int: ...

    @property
    def annotated(self) -> Sequence[int]: ...

    def images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames H×W×3 uint8 RGB, in the order of the indices."""

    def size(self, index: int) -> Size:
        """(height, width) of a frame."""

    def objects(self, index: int, size: Size) -> FrameMasks:
        """The objects on an annotated frame of that size (height, width)."""

    def place(self, index: int) -> str:
        """Which frame that is, for an error."""


@dataclass(frozen=True)
class FolderClip:
    """Pictures of frames and label maps in two folders.

    Attributes:
        name: of the folders.
        frames: the pictures, in order.
        labels: label maps by index of their frame.
        void: a value that is no object; −1 for none.
    """

    name: str
    frames: tuple[Path, ...]
    labels: Mapping[int, Path]
    void: int

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def annotated(self) -> Sequence[int]:
        return sorted(self.labels)

    def images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        return (rgb_array(self.frames[index]) for index in indices)

    def size(self, index: int) -> Size:
        return _size_of(self, index)

    def objects(self, index: int, size: Size) -> FrameMasks:
        return frame_masks(str(self.labels[index]), size, self.void)

    def place(self, index: int) -> str:
        labels = f" and {self.labels[index].parent.name}/{self.labels[index].name}" if index in self.labels else ""
        return f"frame {index} ({self.frames[index].name}{labels})"


@dataclass(frozen=True)
class TrackedClip:
    """A video and the masks that `sam-variants track` wrote of it.

    Attributes:
        name: of the video.
        video: a file or a folder of pictures.
        masks: the file of JSON lines.
        video_size: (height, width).
        first: index in the video of the frame that the first line is about.
        offsets: where in the file the line of each frame begins.
    """

    name: str
    video: Path
    masks: Path
    video_size: Size
    first: int
    offsets: tuple[int, ...]

    @property
    def num_frames(self) -> int:
        return len(self.offsets)

    @property
    def annotated(self) -> Sequence[int]:
        return range(len(self.offsets))

    def images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        return video_images(str(self.video), [self.first + index for index in indices])

    def size(self, index: int) -> Size:
        return self.video_size

    def objects(self, index: int, size: Size) -> FrameMasks:
        with self.masks.open("rb") as file:
            file.seek(self.offsets[index])
            line = json.loads(file.readline())
        return frame_masks(line["objects"], size, NO_VOID)

    def place(self, index: int) -> str:
        return f"frame {index} (frame {self.first + index} of {self.video.name}, line {index + 2} of {self.masks.name})"


@dataclass(frozen=True)
class RowClip:
    """One row of a dataset.

    Attributes:
        name: of the clip.
        frames: pictures in order, or a video: a path or bytes.
        masks: of every frame what `frame_masks` reads; None where the objects are not known.
        void: a value of label maps that is no object; −1 for none.
    """

    name: str
    frames: Any
    masks: Sequence[Any]
    void: int

    @property
    def num_frames(self) -> int:
        return len(self.masks)

    @property
    def annotated(self) -> Sequence[int]:
        return [index for index, value in enumerate(self.masks) if value is not None]

    def images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if isinstance(self.frames, str | bytes):
            return video_images(self.frames, indices)
        return (rgb_array(as_picture(self.frames[index])) for index in indices)

    def size(self, index: int) -> Size:
        return _size_of(self, index)

    def objects(self, index: int, size: Size) -> FrameMasks:
        return frame_masks(self.masks[index], size, self.void)

    def place(self, index: int) -> str:
        return f"frame {index}"


class HeldClip:
    """A `MaskedClip` in memory."""

    def __init__(self, clip: MaskedClip) -> None:
        self.clip, self.name, self.num_frames = clip, clip.name, len(clip)
        self.annotated = np.flatnonzero(clip.annotated).tolist()

    def images(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        return (self.clip.frames[index] for index in indices)

    def size(self, index: int) -> Size:
        return self.clip.frames.shape[1:3]

    def objects(self, index: int, size: Size) -> FrameMasks:
        rows = dict(zip(self.clip.object_ids, self.clip.masks[:, index], strict=True))
        return FrameMasks({key: int(mask.sum()) for key, mask in rows.items() if mask.any()}, rows.__getitem__)

    def place(self, index: int) -> str:
        return f"frame {index}"


def _size_of(source: ClipSource, index: int) -> Size:
    height, width = next(source.images([index])).shape[:2]
    return height, width


def video_images(video: str | bytes, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of a video in any order; what lies before the last of them is decoded, what lies between is not kept."""
    wanted, kept = set(indices), {}
    source = io.BytesIO(video) if isinstance(video, bytes) else video
    for frame in read_frames(source, start=min(wanted), stop=max(wanted) + 1):
        if frame.index in wanted:
            kept[frame.index] = frame.image
    missing = sorted(wanted - set(kept))
    if missing:
        raise ValueError(f"the video ends before frame {missing[0]}, of which there are masks")
    return (kept[index] for index in indices)


def frame_masks(value: Any, size: Size, void: int) -> FrameMasks:
    """The objects on one frame, in any of the forms that datasets have.

    Args:
        value: a label map (a picture, its path or bytes, an array), whose values are object ids; a list of annotations
            with an id and a segmentation (run-length code or polygons); a dict of ids and segmentations; or a list of
            segmentations, which are of the objects 1, 2, … (None for one that is not there). JSON of the last three.
        size: (height, width) of the frame.
        void: a value of label maps that is no object; −1 for none.

    Raises:
        ValueError: another size, a segmentation that is none, two masks of one object.
        TypeError: none of these.
    """
    value = parsed_text(value) if isinstance(value, str) else value
    if isinstance(value, list) and value and isinstance(value[0], list) and not isinstance(value[0][0], list | dict):
        value = np.asarray(value)
    if isinstance(value, str | bytes) or is_label_image(value):
        return _labelled(label_array(value), size, void)
    if isinstance(value, Mapping):
        pairs = [(int(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [_identified(part, number) for number, part in enumerate(value, 1)]
    else:
        raise TypeError(f"a frame's masks are a label map or a list of annotations, got {type(value).__name__}")
    return _coded([(key, part) for key, part in pairs if part is not None], size)


def _labelled(labels: np.ndarray, size: Size, void: int) -> FrameMasks:
    if labels.shape != size:
        found = f"{labels.shape[1]}x{labels.shape[0]}"
        raise ValueError(f"the label map is {found} pixels (width x height), the frame {size[1]}x{size[0]}")
    values, counts = value_counts(labels)
    areas = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value not in (0, void)}
    return FrameMasks({key: area for key, area in areas.items() if key > 0}, lambda key: labels == key)


def _identified(part: Any, number: int) -> tuple[int, Any]:
    """The id and the segmentation of an annotation, or those of a bare segmentation."""
    part = parsed_text(part) if isinstance(part, str) else part
    if not isinstance(part, Mapping) or "counts" in part:
        return number, part
    segmentation = next((part[key] for key in SEGMENTATION_KEYS if part.get(key) is not None), None)
    identifier = next((part[key] for key in ID_KEYS if part.get(key) is not None), None)
    if identifier is None:
        raise ValueError(f"annotation {number} has none of {ID_KEYS}: which object is it? It has {sorted(part)}")
    return int(identifier), segmentation


def _coded(pairs: Iterable[tuple[int, Any]], size: Size) -> FrameMasks:
    codes: dict[int, Rle] = {}
    for key, segmentation in pairs:
        if key in codes:
            raise ValueError(f"object {key} has two masks")
        codes[key] = segmentation_to_rle(segmentation, size, f"the mask of object {key}")
    areas = Masks.from_rle(list(codes.values()), size).areas.tolist() if codes else []
    shown = {key: int(area) for key, area in zip(codes, areas, strict=True) if area}
    return FrameMasks(shown, lambda key: Masks.from_rle([codes[key]], size).data[0].numpy())


def void_of(values: Iterable[Any]) -> int:
    """The value of label maps that is no object: 255, unless they are masks of one object, which is white.

    Args:
        values: label maps; the first one with an object decides. What is none is passed over.
    """
    for value in values:
        try:
            labels = label_array(value)
        except (ValueError, TypeError):
            continue  # whoever reads that frame is told
        if labels.any():
            return NO_VOID if is_black_and_white(labels) else WHITE
    return WHITE
