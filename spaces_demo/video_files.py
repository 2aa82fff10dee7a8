"""A visitor's video: refused before it costs anything, then read once, with a small picture of every frame kept."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from sam_variants.processing.container_length import promised_bytes
from sam_variants.processing.video_reader import TruncatedVideoError, read_frames
from sam_variants.spaces_demo.limits import MAX_VIDEO_FRAMES, MAX_VIDEO_PIXELS, MAX_VIDEO_SECONDS

# PyAV loads FFmpeg: only those who open a video wait for it.
if TYPE_CHECKING:
    import av

# Playlists (hls, concat, dash) are left out: they name other files, which FFmpeg would read from the server's disk.
OPEN_OPTIONS = {
    "format_whitelist": "mov,matroska,webm,avi,gif,mpegts,mpeg,flv,ogg,asf,wav,mp3,flac",
    "protocol_whitelist": "file",
}
PICTURE_SIDE = 1280
PICTURE_QUALITY = 75
AV_TIME_BASE = 1_000_000  # FFmpeg counts the duration of a file in microseconds
USUAL_RATE = Fraction(30)
KINDS = "an mp4, mov, mkv, webm, avi or gif"
UNREADABLE = f"This can't be read as a video. Upload {KINDS} file."
NO_FRAMES = f"This video has no frame that can be shown. Upload {KINDS} file with at least one frame."
CUT_SHORT = "This video file is cut short or damaged{where}. Upload the whole file."


class Header(NamedTuple):
    """What a container says of its video: pixels per frame, and rate and number of the frames where it knows them."""

    width: int
    height: int
    fps: Fraction
    num_frames: int | None


@dataclass(frozen=True)
class VideoFile:
    """A video of which every frame was read.

    Attributes:
        path: the upload.
        name: the visitor's name for it.
        width, height: of the upright frames, in pixels.
        num_frames: how many there are.
        fps: frames per second.
        folder: where the pictures of the frames lie.
    """

    path: str
    name: str
    width: int
    height: int
    num_frames: int
    fps: Fraction
    folder: str

    def picture_url(self, index: int) -> str:
        """The picture of a frame, as a data address that needs no file to be served."""
        return f"data:image/jpeg;base64,{base64.b64encode(_picture_path(self.folder, index).read_bytes()).decode()}"


def read_header(path: str) -> Header:
    """Look at the container alone: no frame is decoded.

    Args:
        path: the upload.

    Raises:
        gr.Error: for what is no video, has none in it, or is too long, too large or cut short.
    """
    import av

    try:
        with av.open(path, "r", options=OPEN_OPTIONS, metadata_errors="ignore") as container:
            header = _checked_header(container)
    except gr.Error:
        raise
    except (av.FFmpegError, ValueError, OSError) as error:
        raise gr.Error(UNREADABLE) from error
    promised = promised_bytes(path)
    if promised is not None and promised > Path(path).stat().st_size:
        raise gr.Error(CUT_SHORT.format(where=""))
    return header


def _checked_header(container: av.container.InputContainer) -> Header:
    import av
    from av.stream import Disposition

    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or Disposition.attached_pic in stream.disposition:
        others = sorted({other.type for other in container.streams if other is not stream})
        found = f"only {' and '.join(others)}" if others else "nothing"
        raise gr.Error(f"There is no video in this file, {found}. Upload {KINDS} file.")
    if stream.codec_context is None:
        raise gr.Error("The codec of this video is not known here. Convert it to H.264 first.")
    seconds = [container.duration / AV_TIME_BASE] if container.duration else []
    if stream.duration and stream.time_base:
        seconds.append(float(stream.duration * stream.time_base))
    if seconds and max(seconds) > MAX_VIDEO_SECONDS:
        raise gr.Error(
            f"This video lasts {spoken_time(max(seconds))}; at most {spoken_time(MAX_VIDEO_SECONDS)} are taken. "
            "Cut out the part that matters first."
        )
    check_count(stream.frames)
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_VIDEO_PIXELS:
        raise gr.Error(
            f"The frames of this video have {width}×{height} pixels; at most {MAX_VIDEO_PIXELS / 1e6:.1f} million are "
            "taken. Scale it down first."
        )
    rate = stream.average_rate
    return Header(width, height, Fraction(rate) if rate else USUAL_RATE, stream.frames or None)


def check_count(num_frames: int) -> None:
    """Refuse a video with too many frames; raises gr.Error."""
    if num_frames > MAX_VIDEO_FRAMES:
        raise gr.Error(
            f"This video has more than {MAX_VIDEO_FRAMES} frames, the most that are taken. Cut out the part that "
            "matters, or lower its frame rate, first."
        )


def spoken_time(seconds: float) -> str:
    """A duration for people: 2 h 5 min, 3 min 20 s, 12 s."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def scan(path: str, name: str, header: Header, folder: str) -> Iterator[VideoFile]:
    """Read every frame once and keep its picture, so that the slider is at once anywhere.

    Args:
        path: the upload.
        name: the visitor's name for it.
        header: from `read_header`.
        folder: an empty one, for the pictures.

    Returns:
        An iterator over the video as far as it was read, after every frame; its last item is the whole.

    Raises:
        gr.Error: for a video that can't be read to its end, changes its size, or has too many frames.
    """
    count = 0
    try:
        for frame in read_frames(path, stop=MAX_VIDEO_FRAMES + 1):
            count += 1
            if count > MAX_VIDEO_FRAMES:
                break
            _write_picture(_picture_path(folder, frame.index), frame.image)
            height, width = frame.image.shape[:2]
            yield VideoFile(path, name, width, height, count, header.fps, folder)
    except TruncatedVideoError as error:
        where = f" after {error.num_frames} frames"
        raise gr.Error(CUT_SHORT.format(where=where)) from error
    except (ValueError, OSError) as error:
        if count:
            raise gr.Error(
                f"Frame {count + 1} of this video has another size than the frames before it. Convert the video to one "
                "size first."
            ) from error
        raise gr.Error(NO_FRAMES) from error
    check_count(count)


def _write_picture(path: Path, image: np.ndarray) -> None:
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    picture.save(path, quality=PICTURE_QUALITY)


def _picture_path(folder: str, index: int) -> Path:
    return Path(folder) / f"frame{index:06d}.jpg"
