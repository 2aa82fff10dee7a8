"""Small real videos, written with PyAV alone, and ways to turn or cut them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

HEIGHT, WIDTH = 48, 64
LEVEL_STEP = 11
TIME_BASE = Fraction(1, 1000)
FIXED_POINT = 1 << 16
SILENCE_RATE = 8000


def leveled_frames(num_frames: int, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Frames whose gray level says their number (`level_index`), with a red, a green and a blue corner."""
    frames = []
    for index in range(num_frames):
        image = np.full((height, width, 3), 20 + LEVEL_STEP * index, np.uint8)
        image[: height // 4, : width // 4] = (220, 30, 30)
        image[: height // 4, -(width // 4) :] = (30, 220, 30)
        image[-(height // 4) :, : width // 4] = (30, 30, 220)
        frames.append(image)
    return frames


def level_index(image: np.ndarray) -> int:
    """The number of a frame of `leveled_frames`, however it was turned."""
    middle = image[image.shape[0] // 2 - 2 : image.shape[0] // 2 + 2, image.shape[1] // 2 - 2 : image.shape[1] // 2 + 2]
    return round((float(middle.mean()) - 20) / LEVEL_STEP)


def difference(image: np.ndarray, expected: np.ndarray) -> int:
    """The largest difference, apart from edges, which 4:2:0 smears."""
    assert image.shape == expected.shape
    assert image.dtype == np.uint8
    differences = np.abs(image.astype(int) - expected.astype(int))
    return int(np.percentile(differences, 90))


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    fps: int = 10,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    audio_first: bool = False,
    bt709: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode images H×W×3 or H×W×4 (with a transparent format) at a constant rate, or at `times` in seconds."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        sound = container.add_stream("pcm_s16le", rate=SILENCE_RATE) if audio_first else None
        fast = {"preset": "ultrafast"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=fps, options={**fast, **(options or {})})
        stream.thread_count = 1
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        if bt709:
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        if times is not None:
            stream.codec_context.time_base = TIME_BASE
        if sound is not None:
            _mux_silence(container, sound)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
            colours = {"src_colorspace": "ITU601", "dst_colorspace": "ITU709"} if bt709 else {}
            frame = frame.reformat(format=pixel_format, **colours)
            if times is not None:
                frame.pts, frame.time_base = round(times[index] / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A file with an audio stream only."""
    with av.open(str(path), "w") as container:
        _mux_silence(container, container.add_stream("pcm_s16le", rate=SILENCE_RATE))
    return path


def _mux_silence(container: Any, stream: Any) -> None:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, SILENCE_RATE // 10), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts = SILENCE_RATE, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write the matrix into the track header of an mp4 by hand (ISO/IEC 14496-12, 8.3.2).

    The stored pixel (x, y) is shown at (a x + c y, b x + d y), y pointing down, apart from a shift.
    """
    content = bytearray(path.read_bytes())
    # After the name: version and flags, four 4-byte fields and the duration, 8 reserved bytes, four 2-byte fields.
    start = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    numbers = [a * FIXED_POINT, b * FIXED_POINT, 0, c * FIXED_POINT, d * FIXED_POINT, 0, 0, 0, 1 << 30]
    content[start : start + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(content)


def cut(path: Path, fraction: float) -> Path:
    """A copy of a file that ends after a part of its bytes."""
    content = path.read_bytes()
    shorter = path.with_name(f"cut_{path.name}")
    shorter.write_bytes(content[: int(len(content) * fraction)])
    return shorter
