"""Writing videos: what is read back, what survives an error or a killed process, and clear errors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_examples import HEIGHT, WIDTH, difference, level_index, leveled_frames

from sam_variants.processing.video_reader import read_frames, video_info
from sam_variants.processing.video_writer import CONTAINERS, QUALITY_SCALES, VideoWriter

LOSSY = 8


def write_each(writer: VideoWriter, images: Iterable[np.ndarray]) -> None:
    for image in images:
        writer.write(image)


def write_all(path: Path, images: list[np.ndarray], fps: float | Fraction = 10, **options: Any) -> VideoWriter:
    with VideoWriter(path, fps, **options) as writer:
        write_each(writer, images)
    return writer


@pytest.mark.parametrize("suffix", sorted(CONTAINERS))
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    images = leveled_frames(12)
    path = tmp_path / f"a{suffix.upper()}"
    writer = write_all(path, images)
    assert (writer.num_frames, writer.size, writer.closed) == (12, (WIDTH, HEIGHT), True)
    frames = list(read_frames(path))
    assert all(difference(frame.image, image) <= LOSSY for frame, image in zip(frames, images, strict=True))
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(12)], abs=1e-3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == ("vp9" if suffix == ".webm" else "h264")
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)


@given(height=st.integers(1, 40), width=st.integers(1, 40), num_frames=st.integers(1, 6), level=st.integers(0, 255))
@settings(deadline=None, max_examples=12)
def test_any_size(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, num_frames: int, level: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.mp4"
    ramp = np.linspace(level, 255 - level, width).round().astype(np.uint8)
    images = [np.broadcast_to(ramp[:, None], (height, width, 3)) // (1 + index) for index in range(num_frames)]
    write_all(path, images, quality=100)
    frames = list(read_frames(path))
    assert len(frames) == num_frames
    for frame, image in zip(frames, images, strict=True):
        assert frame.image.shape == (height + height % 2, width + width % 2, 3)
        assert difference(frame.image[:height, :width], image) <= LOSSY


def test_odd_sides_are_doubled(tmp_path: Path) -> None:
    image = np.full((7, 9, 3), 60, np.uint8)
    image[:, -1] = 200
    write_all(tmp_path / "a.mp4", [image] * 2, quality=100)
    for frame in read_frames(tmp_path / "a.mp4"):
        assert frame.image.shape == (8, 10, 3)
        assert np.abs(frame.image[:, 9].astype(int) - 200).max() <= LOSSY
        assert np.abs(frame.image[7].astype(int) - frame.image[6]).max() <= LOSSY


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (20, 200, 120), (255, 255, 255)])
def test_colours(tmp_path: Path, color: tuple[int, int, int]) -> None:
    image = np.full((16, 16, 3), color, np.uint8)
    write_all(tmp_path / "a.mp4", [image], quality=100)
    assert np.abs(next(read_frames(tmp_path / "a.mp4")).image.astype(int) - image).max() <= 4
    with av.open(str(tmp_path / "a.mp4")) as container:
        luma = next(container.decode(video=0)).to_ndarray()[4, 4]
    assert int(luma) == pytest.approx(16 + 219 / 255 * np.dot((0.2126, 0.7152, 0.0722), color), abs=2)


@pytest.mark.parametrize("fps", [1, 12.5, 25, 30000 / 1001, Fraction(24000, 1001), 60, 0.5])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_constant_rates_do_not_drift(tmp_path: Path, fps: float | Fraction, codec: str) -> None:
    writer = write_all(tmp_path / "a.mp4", leveled_frames(10), fps, codec=codec)
    times = [frame.time for frame in read_frames(tmp_path / "a.mp4")]
    assert times == pytest.approx([index / fps for index in range(10)], abs=1e-9, rel=1e-7)
    info = video_info(tmp_path / "a.mp4")
    assert info.fps == writer.fps == pytest.approx(fps)
    assert info.duration == pytest.approx(10 / fps, abs=1e-4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_frames_with_times(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, 20) as writer:
        for image, time in zip(leveled_frames(6), [7.5, 7.54, 9, 9.01, 9.5, None], strict=True):
            writer.write(image, time=time)
    frames = list(read_frames(tmp_path / name))
    assert [level_index(frame.image) for frame in frames] == list(range(6))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 1.5, 1.51, 2, 2.05], abs=1e-3)
    assert video_info(tmp_path / name).duration == pytest.approx(2.1, abs=0.06)


def test_a_finished_mp4_is_no_row_of_fragments(tmp_path: Path) -> None:
    write_all(tmp_path / "a.mp4", leveled_frames(20), 5)
    content = (tmp_path / "a.mp4").read_bytes()
    assert video_info(tmp_path / "a.mp4").num_frames == 20
    assert content[content.rindex(b"moov") - 4 :].startswith(
        (len(content) - content.rindex(b"moov") + 4).to_bytes(4, "big")
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_a_killed_process_leaves_a_readable_file(tmp_path: Path, name: str) -> None:
    """What lies on the disk while the writer is at work is what a killed process leaves, even of tiny frames."""
    images = [np.full((HEIGHT, WIDTH, 3), 5 * index, np.uint8) for index in range(45)]
    with VideoWriter(tmp_path / name, 10) as writer:
        write_each(writer, images)
        shutil.copy(tmp_path / name, tmp_path / f"left_{name}")
    frames = list(read_frames(tmp_path / f"left_{name}"))
    assert 10 <= len(frames) < 45
    assert all(difference(frame.image, image) <= LOSSY for frame, image in zip(frames, images, strict=False))
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(len(frames))], abs=1e-3)
    assert video_info(tmp_path / f"left_{name}").num_frames is None
    assert len(list(read_frames(tmp_path / name))) == 45


def test_an_exception_completes_the_file(tmp_path: Path) -> None:
    def work() -> None:
        with VideoWriter(tmp_path / "a.mp4", 10) as writer:
            write_each(writer, leveled_frames(7))
            raise RuntimeError("the work failed")

    with pytest.raises(RuntimeError, match="the work failed"):
        work()
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 7


def test_closing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 10)
    writer.write(leveled_frames(1)[0])
    assert not writer.closed
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match=r"writer of '.*a\.mp4' is closed"):
        writer.write(leveled_frames(1)[0])
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 1


def test_without_frames_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "old.mp4").write_text("old")
    for name in ("a.mp4", "old.mp4"):
        with VideoWriter(tmp_path / name, 10) as writer:
            pass
        assert writer.num_frames == 0
    assert os.listdir(tmp_path) == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_text() == "old"


def test_pil_images(tmp_path: Path) -> None:
    image = leveled_frames(1)[0]
    with VideoWriter(str(tmp_path / "a.mp4"), 10) as writer:
        writer.write(Image.fromarray(image))
        writer.write(Image.fromarray(image).convert("RGBA"))
    assert all(difference(frame.image, image) <= LOSSY for frame in read_frames(tmp_path / "a.mp4"))


def test_views_of_larger_arrays(tmp_path: Path) -> None:
    image = leveled_frames(1)[0]
    views = [image[::2, ::2], np.asfortranarray(image)[::2, ::2], image[..., ::-1][::2, ::2, ::-1]]
    write_all(tmp_path / "a.mp4", views)
    assert all(difference(frame.image, image[::2, ::2]) <= 3 * LOSSY for frame in read_frames(tmp_path / "a.mp4"))


def test_quality_is_worth_bytes(tmp_path: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, 3), np.uint8))
    for suffix, codec in ((".mp4", "libx264"), (".mp4", "mpeg4"), (".webm", "libvpx-vp9")):
        sizes = []
        for quality in (0, 50, 100):
            path = tmp_path / f"{quality}{suffix}"
            write_all(path, images, codec=codec, quality=quality)
            sizes.append(path.stat().st_size)
        assert sizes[0] < sizes[1] < sizes[2], codec


def test_every_encoder_of_the_tables_has_a_quality() -> None:
    assert {name for container in CONTAINERS.values() for name in container.encoders} == set(QUALITY_SCALES)


def test_encoders_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_codec = av.Codec
    missing = {"libx264"}

    def codec(name: str, mode: str) -> Any:
        if name in missing:
            raise ValueError(name)
        return real_codec(name, mode)

    assert VideoWriter(tmp_path / "a.mp4", 10).codec == "libx264"
    monkeypatch.setattr(av, "Codec", codec)
    missing.add("libopenh264")
    writer = write_all(tmp_path / "a.mp4", leveled_frames(3))
    assert writer.codec == "mpeg4"
    assert [level_index(frame.image) for frame in read_frames(tmp_path / "a.mp4")] == [0, 1, 2]
    missing.add("mpeg4")
    with pytest.raises(ValueError, match="has no such video encoder"):
        VideoWriter(tmp_path / "a.mp4", 10)


def test_an_encoder_of_the_callers_choice(tmp_path: Path) -> None:
    writer = write_all(tmp_path / "a.mkv", leveled_frames(3), codec="ffv1")
    assert writer.codec == "ffv1"
    assert [level_index(frame.image) for frame in read_frames(tmp_path / "a.mkv")] == [0, 1, 2]
    with pytest.raises(ValueError, match="quality=5 has no meaning for codec='ffv1'"):
        VideoWriter(tmp_path / "a.mkv", 10, codec="ffv1", quality=5)
    with pytest.raises(ValueError, match=r"codec='libx264' does not go into \.webm"):
        VideoWriter(tmp_path / "a.webm", 10, codec="libx264")
    for codec in ("nonsense", "aac"):
        with pytest.raises(ValueError, match=f"codec='{codec}': this FFmpeg has no such video encoder"):
            VideoWriter(tmp_path / "a.mp4", 10, codec=codec)


def test_sizes(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(np.zeros((8, 6, 3), np.uint8))
        with pytest.raises(ValueError, match=r"frame 1 is 8×6 pixels .* before it are 6×8"):
            writer.write(np.zeros((6, 8, 3), np.uint8))
        writer.write(np.zeros((8, 6, 3), np.uint8))
    assert len(list(read_frames(tmp_path / "a.mp4"))) == 2
    with (
        VideoWriter(tmp_path / "b.mp4", 10, size=(6, 8)) as writer,
        pytest.raises(ValueError, match="frame 0 is 8×6 pixels"),
    ):
        writer.write(np.zeros((6, 8, 3), np.uint8))
    for size in ((6,), (6, 0), (6.0, 8), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"size=.* must be \(width, height\)"):
            VideoWriter(tmp_path / "c.mp4", 10, size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("time", [0.5, 0.4, -1, float("nan"), float("inf")])
def test_times_must_increase(tmp_path: Path, time: float) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(np.zeros((8, 6, 3), np.uint8), time=0.5)
        with pytest.raises(ValueError, match=f"time={time} of frame 1"):
            writer.write(np.zeros((8, 6, 3), np.uint8), time=time)
        writer.write(np.zeros((8, 6, 3), np.uint8))
    assert [frame.time for frame in read_frames(tmp_path / "a.mp4")] == pytest.approx([0, 0.1])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((8, 6, 3)), TypeError, "got float64"),
        ([[1, 2], [3, 4]], TypeError, "got list"),
        (np.zeros((8, 6), np.uint8), ValueError, r"got shape \(8, 6\)"),
        (np.zeros((8, 6, 4), np.uint8), ValueError, r"got shape \(8, 6, 4\)"),
        (np.zeros((0, 6, 3), np.uint8), ValueError, r"got shape \(0, 6, 3\)"),
    ],
)
def test_what_is_no_frame(tmp_path: Path, image: Any, error: type[Exception], message: str) -> None:
    with VideoWriter(tmp_path / "a.mp4", 10) as writer, pytest.raises(error, match=message):
        writer.write(image)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "30", True, None, 1e-5])
def test_rates_that_make_no_sense(tmp_path: Path, fps: Any) -> None:
    with pytest.raises(ValueError, match="fps="):
        VideoWriter(tmp_path / "a.mp4", fps)


@pytest.mark.parametrize("quality", [-1, 101, float("nan")])
def test_qualities_out_of_range(tmp_path: Path, quality: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.100"):
        VideoWriter(tmp_path / "a.mp4", 10, quality=quality)


def test_paths_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"has suffix '\.gif', must have one of"):
        VideoWriter(tmp_path / "a.gif", 10)
    with pytest.raises(FileNotFoundError, match=r"folder of '.*a\.mp4' does not exist"):
        VideoWriter(tmp_path / "none" / "a.mp4", 10)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.mp4' is a folder"):
        VideoWriter(tmp_path / "folder.mp4", 10)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"a\.mp4' can't be written"):
        VideoWriter(tmp_path / "a.mp4", 10)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").symlink_to("/dev/full")
    writer = VideoWriter(tmp_path / "a.mkv", 10)
    images = np.random.default_rng(0).integers(0, 256, (40, HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(OSError, match=r"frame \d+ can't be written to '.*a\.mkv'"):
        write_each(writer, images)
    with pytest.raises(OSError, match=r"a\.mkv' can't be completed"):
        writer.close()
    assert writer.closed
