"""A video file written frame by frame, of which what was written survives an exception and a killed process."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from sam_variants.processing.image_loading import rgb_array
from sam_variants.processing.video_reader import check_same_size

# PyAV loads FFmpeg: only those who write a video wait for it, not everyone who imports the package.
if TYPE_CHECKING:
    import av

MAX_RATE_DENOMINATOR = 1001  # 30000/1001 frames per second and its relatives
TIME_UNITS_PER_SECOND = 60_000  # or nearly so many; MPEG-4 allows 65535
PIXEL_FORMAT = "yuv420p"  # the one that every browser and player shows
BT709 = 1  # the same number for matrix, primaries and transfer in FFmpeg's tables
LIMITED_RANGE = 1
DEFAULT_QUALITY = 75


@dataclass(frozen=True)
class QualityScale:
    """How an encoder is told its quality.

    Args:
        worst: its quantiser at quality 0.
        best: its quantiser at quality 100.
        options: FFmpeg's options that take the quantiser.
        constant: options that are always set.
    """

    worst: float
    best: float
    options: tuple[str, ...]
    constant: dict[str, str] = field(default_factory=dict)

    def encoder_options(self, quality: float) -> dict[str, str]:
        quantiser = self.worst + (self.best - self.worst) * quality / 100
        return {**self.constant, **dict.fromkeys(self.options, str(round(quantiser)))}


# No frames that look ahead (bf): with these, FFmpeg's mp4 has a wrong duration when frames have times of their own.
QUALITY_SCALES = {
    "libx264": QualityScale(50, 10, ("crf",), {"preset": "veryfast", "bf": "0"}),
    "libopenh264": QualityScale(50, 10, ("qmin", "qmax")),
    "mpeg4": QualityScale(15, 1, ("qmin", "qmax")),
    "libvpx-vp9": QualityScale(
        60, 12, ("crf",), {"b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "1", "lag-in-frames": "0"}
    ),
}
H264_ENCODERS = ("libx264", "libopenh264", "mpeg4")
# Fragments keep an mp4 playable whose writer was killed; closing turns them into an ordinary mp4 (since FFmpeg 7.1),
# which knows the number of its frames and is treated best by players. Not with delay_moov, which FFmpeg 7.1 to 8.0
# completes to a broken file; without it, times start at 0 in any case.
FRAGMENTED = {"movflags": "hybrid_fragmented+frag_keyframe"}
CLUSTERED = {"cluster_time_limit": "1000"}  # Matroska writes a cluster when it is complete: every 1000 ms


@dataclass(frozen=True)
class Container:
    """The encoders a file format is written with, the preferred first, and FFmpeg's options for it."""

    encoders: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


CONTAINERS = {
    ".mp4": Container(H264_ENCODERS, FRAGMENTED),
    ".m4v": Container(H264_ENCODERS, FRAGMENTED),
    ".mov": Container(H264_ENCODERS, FRAGMENTED),
    ".mkv": Container(H264_ENCODERS, CLUSTERED),
    ".webm": Container(("libvpx-vp9",), CLUSTERED),
}


class VideoWriter:
    """Encode frames one by one into an mp4, m4v, mov, mkv (H.264) or webm (VP9) file.

    Memory stays constant, whatever the length. Use it as a context manager: leaving the block, also by an exception,
    completes the file. When the process is killed, the file plays up to about the last second and what the encoder
    held back. An existing file is replaced with the first frame; without frames nothing is written.

    Colours are stored as 4:2:0 (BT.709), which has no odd sizes: the last column and row of such frames are doubled.

    Args:
        path: its suffix says the format.
        fps: frames per second of frames without a time of their own; rounded to a fraction over at most 1001.
        size: (width, height) that frames must have; None takes that of the first.
        codec: name of an FFmpeg encoder; None takes the first of the format's that this FFmpeg has: H.264 where it
            can, else MPEG-4, which browsers don't show. The attribute `codec` says which.
        quality: 0 (smallest file) to 100 (best); None for 75, or for the encoder's default where `codec` is not one
            of `QUALITY_SCALES`.

    Raises:
        OSError: when the folder does not exist or can't be written to.
        ValueError: for an unknown suffix or codec, or values outside the above.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float | Fraction,
        size: tuple[int, int] | None = None,
        codec: str | None = None,
        quality: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.fps = _checked_rate(fps)
        self.size = _checked_size(size)
        self.num_frames = 0
        self.closed = False
        self._last_pts = self._first_units = 0
        _check_writable(self.path)
        container = _container_for(self.path)
        encoder = _find_encoder(codec, container)
        self.codec: str = encoder.name
        self._stream = self._add_stream(container, _encoder_options(self.codec, quality))
        self._pixel_format = _pixel_format(encoder)
        # A whole number of these units is a frame, so that times at a constant rate are exact.
        units = max(1, TIME_UNITS_PER_SECOND // self.fps.numerator) * self.fps.numerator
        self._time_base = Fraction(1, units)
        self._step = int(units / self.fps)

    def write(self, image: np.ndarray | Image.Image, time: float | None = None) -> None:
        """Append a frame.

        Args:
            image: H×W×3 uint8 RGB, or a PIL image.
            time: in seconds, later than the frame before; None: one frame period after it. The file starts with the
                first frame, whose time is subtracted from all. Matroska and WebM keep milliseconds.

        Raises:
            ValueError: for a closed writer, another size than before, or a time that is not later.
            TypeError: for what is no such image.
            OSError: when the file can't be written.
        """
        import av

        if self.closed:
            raise ValueError(f"the writer of {str(self.path)!r} is closed: open another one")
        pixels = _checked_pixels(image)
        if self.size is None:
            self.size = (pixels.shape[1], pixels.shape[0])
        check_same_size(self.num_frames, pixels.shape[:2], (self.size[1], self.size[0]))
        pts = self._pts(time)
        try:
            if not self.num_frames:
                self._set_format(*pixels.shape[:2])
            self._encode(self._frame(pixels, pts))
        except av.FFmpegError as error:
            raise OSError(
                f"frame {self.num_frames} can't be written to {str(self.path)!r}: {error.strerror}"
            ) from error
        self._last_pts = pts
        self.num_frames += 1

    def close(self) -> None:
        """Write what the encoder holds back and complete the file. Closing twice does nothing.

        Raises:
            OSError: when the file can't be completed.
        """
        import av

        if self.closed:
            return
        self.closed = True
        try:
            try:
                if self.num_frames:
                    self._encode(None)
            finally:
                self._container.close()
        except av.FFmpegError as error:
            raise OSError(f"{str(self.path)!r} can't be completed: {error.strerror}") from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _add_stream(self, container: Container, encoder_options: dict[str, str]) -> av.VideoStream:
        """The file itself is opened with the first frame."""
        import av

        options = {"flush_packets": "1", **container.options}  # else a killed process takes a buffer with it
        self._container = av.open(os.path.abspath(self.path), "w", options=options)
        try:
            stream = self._container.add_stream(self.codec, rate=self.fps, options=encoder_options)
        except ValueError as error:
            raise ValueError(
                f"codec={self.codec!r} does not go into {self.path.suffix} files; usual: {container.encoders}"
            ) from error
        return cast("av.VideoStream", stream)

    def _set_format(self, height: int, width: int) -> None:
        stream, context = self._stream, self._stream.codec_context
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = self._pixel_format
        context.time_base = stream.time_base = self._time_base
        context.gop_size = max(1, round(self.fps))  # a fragment, thus what a killed process loses, is a second
        if self._pixel_format.startswith("yuv"):
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE

    def _pts(self, time: float | None) -> int:
        if time is None:
            return self._last_pts + self._step if self.num_frames else 0
        if not math.isfinite(time):
            raise ValueError(f"time={time} of frame {self.num_frames} must be in seconds")
        units = round(time / self._time_base)
        if not self.num_frames:
            self._first_units = units
        pts = units - self._first_units
        if self.num_frames and pts <= self._last_pts:
            last = float((self._last_pts + self._first_units) * self._time_base)
            raise ValueError(f"time={time} of frame {self.num_frames} must be later than the frame before ({last:g} s)")
        return pts

    def _frame(self, pixels: np.ndarray, pts: int) -> av.VideoFrame:
        import av

        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        # The matrix must differ from the source's for PyAV before 17 to look at it; RGB has none.
        frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
            format=self._pixel_format, src_colorspace="ITU601", dst_colorspace="ITU709"
        )
        frame.pts, frame.time_base = pts, self._time_base
        return frame

    def _encode(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def _checked_rate(fps: float | Fraction) -> Fraction:
    if isinstance(fps, bool) or not isinstance(fps, int | float | Fraction) or not 0 < fps < math.inf:
        raise ValueError(
            f"fps={fps!r} must be a number of frames per second above 0, such as 30 or Fraction(30000, 1001)"
        )
    rate = Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR)
    if not rate:
        raise ValueError(f"fps={fps!r} is below 1/{MAX_RATE_DENOMINATOR}: give every frame its time instead")
    return rate


def _checked_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is not None and (len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)):
        raise ValueError(f"size={size!r} must be (width, height) in whole pixels")
    return size


def _check_writable(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {str(path)!r} does not exist: create it first")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: give the path of a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{str(path)!r} can't be written: choose a folder that is yours")


def _container_for(path: Path) -> Container:
    if path.suffix.lower() not in CONTAINERS:
        raise ValueError(f"path={str(path)!r} has suffix {path.suffix!r}, must have one of {sorted(CONTAINERS)}")
    return CONTAINERS[path.suffix.lower()]


def _find_encoder(codec: str | None, container: Container) -> av.Codec:
    import av

    for name in (codec,) if codec else container.encoders:
        try:
            encoder = av.Codec(name, "w")
        except ValueError:
            continue
        if encoder.type == "video":
            return encoder
    raise ValueError(f"codec={codec!r}: this FFmpeg has no such video encoder; usual here: {container.encoders}")


def _encoder_options(codec: str, quality: float | None) -> dict[str, str]:
    if codec not in QUALITY_SCALES:
        if quality is not None:
            raise ValueError(f"quality={quality} has no meaning for codec={codec!r}, only for {list(QUALITY_SCALES)}")
        return {}
    quality = DEFAULT_QUALITY if quality is None else quality
    if not 0 <= quality <= 100:
        raise ValueError(f"quality={quality} must lie in 0..100")
    return QUALITY_SCALES[codec].encoder_options(quality)


def _pixel_format(encoder: av.Codec) -> str:
    formats = [pixel_format.name for pixel_format in encoder.video_formats or []]
    return PIXEL_FORMAT if not formats or PIXEL_FORMAT in formats else formats[0]


def _checked_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    if isinstance(image, Image.Image):
        return rgb_array(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"a frame must be a PIL image or a uint8 array, got {found}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a frame must be H×W×3 RGB, got shape {image.shape}")
    return image
