"""What is asked of PyAV: a video file opened and closed, its packets decoded, its frames turned upright as RGB."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from sam_variants.processing.container_length import promised_bytes
from sam_variants.processing.image_loading import CHANNELS_LAST, URL_TIMEOUT_SECONDS, rgb_array

# PyAV loads FFmpeg: only those who read a video file wait for it, not everyone who imports the package.
if TYPE_CHECKING:
    import av
    from av.container import InputContainer

URL_MARK = "://"
TEXT_DEMUXER = "tty"  # FFmpeg draws text files as the screen of a terminal
QUARTER_TURN_TOLERANCE = 0.02
UPRIGHT = (1.0, 0.0, 0.0, 1.0)
SWS_CS_DEFAULT = 5  # libswscale's name for the colour space of who does not state one


@contextmanager
def opened_video(source: Any) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """A video file and its main video stream, ready to be decoded; closed on leaving.

    Args:
        source: a path, a URL, or a binary file object, which is read from its beginning where it can seek.

    Raises:
        ValueError: when FFmpeg can't read it or finds no video in it.
    """
    import av
    from av.stream import Disposition

    target, timeout = source, None
    if isinstance(source, str | os.PathLike):
        target = os.fsdecode(source)
        if URL_MARK in target:
            timeout = URL_TIMEOUT_SECONDS
        else:
            target = os.path.abspath(target)  # FFmpeg takes "a:b.mp4" for a file of the protocol "a"
    elif source.seekable():
        source.seek(0)
    try:
        container = _open_any_text(target, timeout)
    except av.FFmpegError as error:
        raise ValueError(
            f"{source_name(source)} can't be read as a video ({error.strerror}): give a whole video file, such as mp4, "
            "mov, mkv, webm, avi or gif"
        ) from error
    with container:
        stream = container.streams.best("video")
        drawn = container.format.name == TEXT_DEMUXER
        if not isinstance(stream, av.VideoStream) or drawn or Disposition.attached_pic in stream.disposition:
            others = sorted({other.type for other in container.streams if other is not stream})
            found = f"it holds {', '.join(others)}" if others else "it is none"
            raise ValueError(f"{source_name(source)} has no video stream ({found}): give a video file")
        if stream.codec_context is None:
            raise ValueError(f"{source_name(source)} is damaged, or this FFmpeg lacks its codec: convert it to H.264")
        stream.thread_type = "AUTO"
        yield container, stream


def _open_any_text(target: Any, timeout: float | None) -> InputContainer:
    """Titles and comments may be in any encoding; nobody reads them here."""
    import av

    try:
        return av.open(target, "r", timeout=timeout)
    except UnicodeDecodeError:
        return av.open(target, "r", timeout=timeout, metadata_encoding="latin-1")


def decoded_frames(container: InputContainer, stream: av.VideoStream, damage: list[str]) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded, one at a time.

    A recording of a broadcast is cut anywhere: what fails before its first key frame is no damage.

    Args:
        container: an open file.
        stream: its video stream.
        damage: takes a line for everything that could not be read.
    """
    import av

    num_packets, started = 0, False
    for packet in _packets(container, stream, damage):
        if packet is not None and packet.size:
            num_packets += 1
            started = started or packet.is_keyframe
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            if started:
                damage.append(f"packet {num_packets - 1}: {error.strerror}")
            continue
        yield from frames
    if not damage and os.path.isfile(container.name) and not 0 < stream.frames <= num_packets:
        promised, size = promised_bytes(container.name), os.path.getsize(container.name)
        if promised is not None and promised > size:
            damage.append(f"it ends after {size} of {promised} bytes")


def _packets(container: InputContainer, stream: av.VideoStream, damage: list[str]) -> Iterator[av.Packet | None]:
    """The packets of a stream; the last, an empty one or None, flushes the decoder, also where the file breaks off."""
    import av

    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                damage.append("a packet is incomplete")
            else:
                yield packet
    except av.FFmpegError as error:
        damage.append(error.strerror or "it breaks off")
        yield None


class FrameConverter:
    """Makes upright RGB of the decoded frames of one video."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._transparent: dict[str, bool] = {}  # by pixel format
        self._rotation: int | None = None
        self._matrix = UPRIGHT

    def image(self, frame: av.VideoFrame) -> np.ndarray:
        """The pixels of a frame as they are to be shown, H×W×3 uint8 RGB, in memory of their own."""
        if frame.format.name not in self._transparent:
            self._transparent[frame.format.name] = any(component.is_alpha for component in frame.format.components)
        transparent = self._transparent[frame.format.name]
        # Naming the target's colour space makes PyAV before 17 look at the source's: it took BT.709 for BT.601 else.
        converted = self._reformatter.reformat(
            frame, format="rgba" if transparent else "rgb24", dst_colorspace=SWS_CS_DEFAULT
        )
        pixels = converted.to_ndarray()
        if transparent:
            pixels = rgb_array(pixels, CHANNELS_LAST)
        if frame.rotation != self._rotation:
            # A frame whose side data was looked at is freed by the garbage collector only, many frames later.
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        upright = np.ascontiguousarray(_upright(pixels, *self._matrix))
        return upright.copy() if converted is frame else upright


def _display_matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    """(a, b, c, d) of libavutil/display.h: the pixel at (x, y) is shown at (a x + c y, b x + d y), y pointing down."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV before 19 refuses to list side data when it does not know one of them, EXIF for example
        angle = math.radians(frame.rotation)
        return math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    if matrix is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return a, b, c, d


def _upright(pixels: np.ndarray, a: float, b: float, c: float, d: float) -> np.ndarray:
    """Quarter turns and mirror images; other angles, which no camera writes, are left as they are."""
    straight, turned = abs(a) + abs(d), abs(b) + abs(c)
    if turned <= QUARTER_TURN_TOLERANCE * straight:
        flip_x, flip_y = a < 0, d < 0
    elif straight <= QUARTER_TURN_TOLERANCE * turned:
        pixels = pixels.transpose(1, 0, 2)
        flip_x, flip_y = c < 0, b < 0
    else:
        return pixels
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def source_name(source: Any) -> str:
    """What an error message calls a video."""
    return repr(os.fsdecode(source)) if isinstance(source, str | os.PathLike) else f"the {type(source).__name__}"
