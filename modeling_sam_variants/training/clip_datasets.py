"""Any source of video clips with masks, as windows of a few frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np

from sam_variants.processing.video_reader import check_same_size
from sam_variants.training.clip_folders import OpenedClips, looks_like_clips, open_clip_folder
from sam_variants.training.clip_rows import ClipRows
from sam_variants.training.clip_sources import ClipSource, FrameMasks, HeldClip
from sam_variants.training.mask_folders import open_source
from sam_variants.training.masked_clip import MaskedClip
from sam_variants.training.prompt_simulation import PromptSampler

TABLES = (".parquet", ".arrow", ".tar")


def open_clips(
    source: Any,
    *,
    split: str | None = None,
    frames: int | None = 8,
    stride: int | range = 1,
    columns: Mapping[str, str] | None = None,
    void: int | None = None,
    videos: str | Path | None = None,
    seed: int = 0,
    config: str | None = None,
) -> ClipDataset:
    """Open clips with masks, whatever form they have.

    Args:
        source: a folder as DAVIS, YouTube-VOS and MOSE have it; a file or folder of what `sam-variants track` wrote; a
            `datasets` object or the id of a dataset on the Hub, whose rows hold a list of pictures or a video, and of
            every frame a label map or annotations (None where nothing is known); or a list of `MaskedClip`.
        split: which, where there are several; of DAVIS a list in `ImageSets`.
        frames: of a window; None for whole clips. Shorter clips give shorter windows.
        stride: from one frame of a window to the next; a range lets every window draw its own, as far as the clip is
            long enough.
        columns: the columns of a dataset that are called otherwise, such as {"frames": "pictures", "masks": "gt"}.
        void: value of label maps that is no object, −1 for none; by default 255, unless label maps are black and white.
        videos: the folder of the videos that tracked masks are of, where they are not beside the masks.
        seed: of what `dataset[row]` draws.
        config: which configuration of a dataset on the Hub that has several.

    Raises:
        ValueError: a number out of range, an unknown layout, split or column.
        OSError: there is no such source.
        TypeError: `source` is none of these, or a stream, which can't be read by number.
    """
    if frames is not None and frames < 2:
        raise ValueError(f"frames={frames} must be 2 or more, or None for whole clips")
    strides = tuple(stride) if isinstance(stride, range) else (stride,)
    if not strides or min(strides) < 1:
        raise ValueError(f"stride={stride} must be 1 or more, or a range such as range(1, 4)")
    opened, name = _open(source, split, columns, void, videos, config)
    return ClipDataset(opened, name, frames, strides, seed)


def _open(
    source: Any,
    split: str | None,
    columns: Mapping[str, str] | None,
    void: int | None,
    videos: str | Path | None,
    config: str | None,
) -> tuple[OpenedClips, str]:
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.exists() and (looks_like_clips(path) or not _holds_rows(path)):
        if columns is not None:
            raise ValueError(f"columns={dict(columns)} is for datasets with columns; {path} is a folder of clips")
        return open_clip_folder(path, split, void, None if videos is None else Path(videos)), path.name
    if isinstance(source, list | tuple) and source and all(isinstance(clip, MaskedClip) for clip in source):
        return OpenedClips([HeldClip(clip) for clip in source], "in memory", "in memory"), "clips"
    if videos is not None:
        raise ValueError(f"videos={str(videos)!r} is for tracked masks; these are a dataset's rows")
    opened = open_source(source, split, False, config)
    rows = ClipRows(opened.dataset, columns, void, opened.name)
    return OpenedClips(rows, rows.described("frames"), rows.described("masks")), opened.name


def _holds_rows(path: Path) -> bool:
    """Whether a path is a table or a folder of tables, or was written by `save_to_disk`."""
    if path.is_file():
        return path.suffix in TABLES
    written = any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json"))
    return written or any(file.suffix in TABLES for file in path.rglob("*"))


class ClipDataset:
    """Clips with masks, of which a few frames are read when they are asked for; it can be pickled.

    `dataset[row]` and iterating give one window of every clip, always the same ones; `draw` gives others.

    Attributes:
        name: of the source.
        num_frames: of a window, None for whole clips.
        strides: from one frame of a window to the next; each draws one of them.
    """

    def __init__(
        self,
        opened: OpenedClips,
        name: str = "clips",
        num_frames: int | None = 8,
        strides: Sequence[int] = (1,),
        seed: int = 0,
    ) -> None:
        self.name, self.num_frames, self.strides, self.seed = name, num_frames, tuple(strides), seed
        self._opened = opened
        self._rows: Sequence[int] = range(len(opened.clips))
        if not len(self):
            raise ValueError(f"{name}: there are no clips")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> MaskedClip:
        return self.draw(row, PromptSampler(self.seed).rng(0, range(len(self))[row]))

    def __iter__(self) -> Iterator[MaskedClip]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"ClipDataset({self.name}, {len(self)} clips, {self._window_text()})"

    def draw(
        self,
        row: int,
        rng: np.random.Generator,
        max_objects: int | None = None,
        min_area: float = 0.0,
        reverse: float = 0.0,
        mirror: float = 0.0,
    ) -> MaskedClip:
        """A random window that begins with an object or more, which are all that it tells about.

        Args:
            row: number of the clip.
            rng: random numbers.
            max_objects: of more that show on the first frame, so many are chosen.
            min_area: smallest object, as a share of the first frame.
            reverse, mirror: probabilities that the window runs backwards, and that it is mirrored.

        Returns:
            The window; one without objects where no annotated frame shows one that is large enough.

        Raises:
            ValueError: a clip with fewer than two frames or without annotations, or a frame that can't be read; it
                names clip and frame.
        """
        source = self._source(row)
        backwards, is_mirrored = rng.uniform(size=2) < (reverse, mirror)
        for indices in _windows(source, self.num_frames, self.strides, bool(backwards), rng):
            size = self._size(source, indices[0])
            areas = self._objects(source, indices[0], size).areas
            large = [key for key, area in areas.items() if area >= max(1, min_area * size[0] * size[1])]
            if large:
                break
        if max_objects is not None and len(large) > max_objects:
            large = rng.choice(large, max_objects, replace=False).tolist()
        return self._read(source, indices, sorted(large), bool(is_mirrored))

    def select(self, rows: Sequence[int]) -> Self:
        """Some of the clips, in this order."""
        other = copy(self)
        other._rows = [self._rows[row] for row in rows]
        return other

    def whole(self, row: int, max_frames: int | None = None) -> MaskedClip:
        """A clip from its first annotated frame on, with all objects; `max_frames` bounds its length.

        Raises:
            ValueError: as for `draw`.
        """
        source = self._source(row)
        indices = range(source.annotated[0], source.num_frames)[:max_frames]
        return self._read(source, indices, None, False)

    def report(self) -> str:
        """A few lines on what was found, with the first clip as an example, and what is left out.

        Raises:
            ValueError: the first clip is broken.
        """
        source = self._source(0)
        clips = self._opened.clips
        total = ""
        if not isinstance(clips, ClipRows):  # of rows nothing is known before they are read
            chosen = [clips[row] for row in self._rows]
            lengths = [clip.num_frames for clip in chosen]
            known = sum(len(clip.annotated) for clip in chosen)
            total = f" of {min(lengths)} to {max(lengths)} frames, {sum(lengths)} in all, {known} annotated"
        first = source.annotated[0]
        height, width = self._size(source, first)
        areas = self._objects(source, first, (height, width)).areas
        sizes = f" of {min(areas.values())} to {max(areas.values())} pixels" if areas else ""
        lines = [
            f"{self.name}: {len(self)} clips{total}",
            f"frames  {self._opened.frames}",
            f"masks   {self._opened.masks}",
            f"example {source.name}: {width}x{height} pixels, {source.num_frames} frames, {len(source.annotated)} "
            f"annotated, {len(areas)} objects{sizes} on frame {first}",
            f"windows {self._window_text()}",
        ]
        return "\n".join([*lines, *(f"left out {reason}" for reason in self._opened.left_out)])

    def _window_text(self) -> str:
        strides = self.strides
        steps = f"{strides[0]}" if len(strides) == 1 else f"{strides[0]} to {strides[-1]}"
        return "whole clips" if self.num_frames is None else f"{self.num_frames} frames, stride {steps}"

    def _source(self, row: int) -> ClipSource:
        number = range(len(self))[row]
        try:
            source = self._opened.clips[self._rows[number]]
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{self.name}: clip {number}: {error}") from error
        if source.num_frames < 2 or not source.annotated:
            problem = "no annotated frame" if source.num_frames > 1 else f"{source.num_frames} frame; a clip has two"
            raise ValueError(f"{self.name}: clip {source.name!r} has {problem}")
        return source

    def _size(self, source: ClipSource, index: int) -> tuple[int, int]:
        try:
            return source.size(index)
        except (ValueError, TypeError, OSError) as error:
            raise self._broken(source, index, error) from error

    def _images(self, source: ClipSource, indices: Sequence[int]) -> list[np.ndarray]:
        images: list[np.ndarray] = []
        index = indices[0]
        try:
            pictures = source.images(indices)
            for index in indices:
                images.append(next(pictures))
                check_same_size(index, images[-1].shape[:2], images[0].shape[:2])
        except (ValueError, TypeError, OSError) as error:
            raise self._broken(source, index, error) from error
        return images

    def _objects(self, source: ClipSource, index: int, size: tuple[int, int]) -> FrameMasks:
        try:
            return source.objects(index, size)
        except (ValueError, TypeError, OSError, KeyError) as error:
            raise self._broken(source, index, error) from error

    def _broken(self, source: ClipSource, index: int, error: Exception) -> ValueError:
        return ValueError(f"{self.name}: clip {source.name!r}, {source.place(index)}: {error}")

    def _read(
        self, source: ClipSource, indices: Sequence[int], objects: Sequence[int] | None, is_mirrored: bool
    ) -> MaskedClip:
        """Frames with the objects asked for, or with all there are."""
        frames = np.stack(self._images(source, indices))
        size = frames.shape[1:3]
        known = set(source.annotated)
        shown = {place: self._objects(source, index, size) for place, index in enumerate(indices) if index in known}
        if objects is None:
            objects = sorted({key for found in shown.values() for key in found.areas})
        masks = np.zeros((len(objects), *frames.shape[:3]), bool)
        for place, found in shown.items():
            for row, key in enumerate(objects):
                if key in found.areas:
                    masks[row, place] = found.mask(key)
        if is_mirrored:
            frames, masks = np.ascontiguousarray(frames[:, :, ::-1]), np.ascontiguousarray(masks[..., ::-1])
        annotated = np.array([index in known for index in indices])
        return MaskedClip(frames, masks, tuple(objects), source.name, annotated, tuple(indices))


def _windows(
    source: ClipSource, num_frames: int | None, strides: Sequence[int], backwards: bool, rng: np.random.Generator
) -> Iterator[Sequence[int]]:
    """Frames of windows that begin with an annotated frame, in random order; the longest that the clip allows."""
    count = source.num_frames if num_frames is None else min(num_frames, source.num_frames)
    fitting = [stride for stride in strides if (count - 1) * stride < source.num_frames] or [1]
    stride = int(rng.choice(fitting))
    step = -stride if backwards else stride

    def reachable(first: int, step: int) -> range:
        return range(first, source.num_frames if step > 0 else -1, step)[:count]

    for options in ([step], [-step], [-1, 1]):
        windows = [reachable(first, one) for first in source.annotated for one in options]
        longest = max(map(len, windows))
        if longest == count or options == [-1, 1]:
            break
    windows = [window for window in windows if len(window) == longest]
    return (windows[index] for index in rng.permutation(len(windows)))
