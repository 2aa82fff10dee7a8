"""Frames of a video file, a folder of images, an array or any iterator of images, one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sam_variants.processing.image_loading import MAX_BYTE, rgb_array
from sam_variants.processing.video_decoding import URL_MARK, FrameConverter, decoded_frames, opened_video, source_name

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
COUNT_TOLERANCE = 0.02  # of the number of frames, in what rate and duration make of it
AV_TIME_BASE = 1_000_000  # FFmpeg counts the duration of a file in microseconds

Picture = tuple[float | None, Callable[[], np.ndarray]]
"""The time of a frame in seconds, and what gives its pixels: frames that nobody asked for are not converted."""


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One frame: `index` counts from 0, `time` is in seconds (None where unknown), `image` is H×W×3 uint8 RGB."""

    index: int
    time: float | None
    image: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is read.

    Args:
        width: of the upright frames, in pixels.
        height: of the upright frames, in pixels.
        num_frames: as the container states it; None where it does not.
        fps: frames per second on average; None where unknown.
        duration: in seconds; None where unknown.
    """

    width: int
    height: int
    num_frames: int | None
    fps: Fraction | None
    duration: float | None


class TruncatedVideoError(ValueError):
    """A video file is cut short or damaged; raised after all its readable frames. `num_frames` counts these."""

    def __init__(self, message: str, num_frames: int) -> None:
        super().__init__(message)
        self.num_frames = num_frames

    def __reduce__(self) -> tuple[type[TruncatedVideoError], tuple[str, int]]:
        return type(self), (str(self), self.num_frames)


def read_frames(source: Any, *, start: int = 0, stop: int | None = None) -> Iterator[VideoFrame]:
    """The frames of a video, decoded one at a time while they are asked for.

    Frames of a file are turned upright by the display matrix of the container (mirrored ones too) and come each
    exactly once, at the times that the file states, whatever its frame rate. Pixels that are not square are left as
    stored. Transparent pixels are composited over white. A damaged part in the middle of a file is skipped.

    Args:
        source: a video file or URL that FFmpeg reads, a binary file object, a folder of images (jpg, png, webp, bmp;
            in natural order: frame2 before frame10), an array or tensor T×H×W×C or T×C×H×W, or an iterable of
            anything that `image_loading.rgb_array` reads, or of `VideoFrame`s, whose times are kept.
        start: the first frame to give. Those before it are decoded (files) or drawn from the iterator all the same.
        stop: the frame before which to stop; None for all.

    Returns:
        An iterator of `VideoFrame`. The file is closed at the end, on an error, and when the iterator is closed or
        dropped.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        ValueError: for a file without readable video, a folder or iterable without images, an unreadable image,
            frames of different sizes, or `start` and `stop` that are not 0 <= start <= stop.
        TruncatedVideoError: after the last readable frame of a file that is cut short or damaged.
        TypeError: for what is no video.
    """
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"start={start}, stop={stop}: give 0 <= start <= stop, or stop=None to read to the end")
    return _numbered(_pictures(source), start, stop)


def video_info(source: Any) -> VideoInfo:
    """The size, number and rate of the frames, from the header and the first frame.

    Args:
        source: as for `read_frames`, except for iterators: looking at these would consume them.

    Raises:
        FileNotFoundError, ValueError, TypeError: as `read_frames`, and TypeError for an iterator.
    """
    if _is_file(source):
        return _file_info(source)
    if isinstance(source, Iterator):
        raise TypeError("source is an iterator, video_info would use up its first frame: give a file or a sequence")
    height, width = next(read_frames(source, stop=1)).image.shape[:2]
    items = _images_in(Path(source)) if isinstance(source, str | os.PathLike) else source
    return VideoInfo(width, height, len(items) if hasattr(items, "__len__") else None, None, None)


def check_same_size(index: int, size: tuple[int, int], first_size: tuple[int, int]) -> None:
    """Refuse a video whose frames change their size.

    Args:
        index: of the frame that is looked at.
        size: its (height, width).
        first_size: (height, width) of the frames before it.

    Raises:
        ValueError: when they differ.
    """
    if tuple(size) != tuple(first_size):
        raise ValueError(
            f"frame {index} is {size[1]}×{size[0]} pixels (width×height), the frames before it are "
            f"{first_size[1]}×{first_size[0]}: a video has one size; resize the frames or split the video there"
        )


def _numbered(pictures: Generator[Picture], start: int, stop: int | None) -> Iterator[VideoFrame]:
    first_size = None
    with closing(pictures):
        for index, (time, load) in enumerate(islice(pictures, start, stop), start):
            try:
                image = load()
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"frame {index}: {error}") from error
            first_size = first_size or image.shape[:2]
            check_same_size(index, image.shape[:2], first_size)
            yield VideoFrame(index, time, image)


def _pictures(source: Any) -> Generator[Picture]:
    """What can be said without opening anything is said now, the rest when the first frame is asked for."""
    if _is_file(source):
        return _file_pictures(source)
    if isinstance(source, str | os.PathLike):
        return _item_pictures(_images_in(Path(source)), f"folder {os.fspath(source)!r}")
    if isinstance(source, np.ndarray | Tensor):
        return _item_pictures(_clip_frames(source), f"array of shape {tuple(source.shape)}")
    if isinstance(source, Image.Image | Mapping | bytes | bytearray):
        raise TypeError(
            f"source of type {type(source).__name__} is no video: give a single image as [image], a dataset's column "
            "as dataset['image'], a file's content as io.BytesIO(content)"
        )
    if hasattr(source, "__iter__"):
        return _item_pictures(source, type(source).__name__)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return _item_pictures((source[index] for index in range(len(source))), type(source).__name__)
    raise TypeError(
        f"source can't be of type {type(source).__name__}: give a video file, a folder of images, a 4-D array, or an "
        "iterable of images"
    )


def _is_file(source: Any) -> bool:
    """Whether FFmpeg is to open it. A local path that does not exist is refused here."""
    if not isinstance(source, str | os.PathLike):
        return hasattr(source, "read")
    if URL_MARK in os.fsdecode(source):
        return True
    if not os.path.exists(source):
        raise FileNotFoundError(f"there is no video file or folder of images {os.fspath(source)!r}")
    return not os.path.isdir(source)


def _images_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    if not files:
        raise ValueError(f"folder {str(folder)!r} has no images: {', '.join(sorted(IMAGE_SUFFIXES))} files are frames")
    return sorted(files, key=natural_order)


def natural_order(file: Path) -> tuple[list[str | int], str]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", file.stem.lower())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], file.name


def _clip_frames(clip: np.ndarray | Tensor) -> Iterator[np.ndarray | Tensor]:
    if clip.ndim != 4 or 0 in clip.shape:
        raise ValueError(
            f"source of shape {tuple(clip.shape)} is no video: give T×H×W×C or T×C×H×W with at least one pixel, or "
            "[image] for a single image"
        )
    floating = clip.is_floating_point() if isinstance(clip, Tensor) else clip.dtype.kind == "f"
    return _same_range(clip) if floating and clip.max() > 1 else (clip[index] for index in range(len(clip)))


def _same_range(clip: np.ndarray | Tensor) -> Iterator[np.ndarray | Tensor]:
    """A dark frame of a clip with values 0..255 would pass for a bright one with values 0..1."""
    for index in range(len(clip)):
        frame = clip[index]
        yield frame if frame.max() > 1 else frame / MAX_BYTE


def _item_pictures(items: Iterable[Any], name: str) -> Generator[Picture]:
    empty = True
    for item in items:
        empty = False
        yield item.time if isinstance(item, VideoFrame) else None, partial(_item_image, item)
    if empty:
        raise ValueError(f"source ({name}) has no frames: give at least one image")


def _item_image(item: Any) -> np.ndarray:
    if isinstance(item, VideoFrame):
        return item.image
    try:
        image = rgb_array(item)
    except ValueError as error:
        raise ValueError(f"{item}: {error}" if isinstance(item, str | os.PathLike) else error) from error
    # An array of the caller may be refilled with the next frame, as grabbers of cameras do.
    return image if image.flags.owndata and image.flags.writeable else image.copy()


def _file_pictures(source: Any) -> Generator[Picture]:
    converter = FrameConverter()
    damage: list[str] = []
    num_frames = 0
    with opened_video(source) as (container, stream):
        for frame in decoded_frames(container, stream, damage):
            num_frames += 1
            # Not frame.time: PyAV before 18 forgets the unit of the frames that were held back at the end.
            time = float(frame.pts * stream.time_base) if frame.pts is not None and stream.time_base else None
            yield time, partial(converter.image, frame)
    if not num_frames:
        raise _no_frames(source, damage)
    if damage:
        raise TruncatedVideoError(
            f"{source_name(source)} is cut short or damaged ({damage[0]}): {num_frames} frames could be read. Get the "
            "whole file, or catch TruncatedVideoError and go on with these frames",
            num_frames,
        )


def _file_info(source: Any) -> VideoInfo:
    with opened_video(source) as (container, stream):
        damage: list[str] = []
        frame = next(decoded_frames(container, stream, damage), None)
        if frame is None:
            raise _no_frames(source, damage)
        height, width = FrameConverter().image(frame).shape[:2]
        rate = stream.average_rate
        fps = Fraction(rate.numerator, rate.denominator) if rate else None
        if stream.duration and stream.time_base:
            duration: float | None = float(stream.duration * stream.time_base)
        else:
            duration = container.duration / AV_TIME_BASE if container.duration else None
        num_frames = stream.frames if _counts_all(stream.frames, fps, duration) else None
        return VideoInfo(width, height, num_frames, fps, duration)


def _counts_all(num_frames: int, fps: Fraction | None, duration: float | None) -> bool:
    """The header of a fragmented mp4 counts the first fragment only, that of an edited one what was cut out too."""
    if not num_frames or not fps or not duration:
        return num_frames > 0
    return abs(float(fps) * duration - num_frames) <= max(1, COUNT_TOLERANCE * num_frames)


def _no_frames(source: Any, damage: list[str]) -> ValueError:
    reason = damage[0] if damage else "its video stream is empty"
    return ValueError(f"{source_name(source)} has no frame that can be decoded ({reason}): give a whole video file")
