"""Reading videos: every kind of source, one frame at a time, and clear errors for what is no video."""

from __future__ import annotations

import ast
import gc
import io
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from video_examples import (
    HEIGHT,
    WIDTH,
    level_index,
    leveled_frames,
    write_sound,
    write_video,
)

from sam_variants.processing.video_decoding import FrameConverter
from sam_variants.processing.video_reader import (
    VideoFrame,
    VideoInfo,
    check_same_size,
    read_frames,
    video_info,
)

PACKAGE = Path(__file__).resolve().parent.parent / "modeling_sam_variants"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", leveled_frames(20))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The containers that were opened."""
    containers = []
    real_open = av.open

    def spy(*args: Any, **kwargs: Any) -> Any:
        containers.append(real_open(*args, **kwargs))
        return containers[-1]

    monkeypatch.setattr(av, "open", spy)
    return containers


def test_frames_are_decoded_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's threads decode at most 16 frames ahead."""
    path = write_video(tmp_path / "long.mp4", leveled_frames(1) * 100)
    packets = 0
    real_open = av.open

    class Counting:
        def __init__(self, container: Any) -> None:
            self.container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self.container, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *error: object) -> None:
            self.container.close()

        def demux(self, stream: Any) -> Iterator[Any]:
            nonlocal packets
            for packet in self.container.demux(stream):
                packets += 1
                yield packet

    monkeypatch.setattr(av, "open", lambda *args, **kwargs: Counting(real_open(*args, **kwargs)))
    frames = read_frames(path)
    assert packets == 0
    next(frames)
    assert 1 <= packets <= 30
    assert len(list(frames)) == 99
    assert packets >= 100


def test_frames_are_not_kept(clip: Path) -> None:
    frames = read_frames(clip)
    first = next(frames)
    image = weakref.ref(first.image)
    del first
    next(frames)
    assert image() is None


def test_decoded_frames_do_not_wait_for_the_garbage_collector(clip: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        assert len(list(read_frames(clip))) == 20
        alive = sum(type(thing) is av.VideoFrame for thing in gc.get_objects())
    finally:
        gc.enable()
    assert alive <= 2


def test_an_iterator_is_drawn_from_one_by_one() -> None:
    drawn = []

    def images() -> Iterator[np.ndarray]:
        for index, image in enumerate(leveled_frames(10)):
            drawn.append(index)
            yield image

    frames = read_frames(images(), start=2, stop=5)
    assert drawn == []
    assert next(frames).index == 2
    assert drawn == [0, 1, 2]
    assert [frame.index for frame in frames] == [3, 4]
    assert drawn == [0, 1, 2, 3, 4]


def is_closed(container: Any) -> bool:
    try:
        container.seek(0)
    except (AssertionError, RuntimeError, ValueError):
        return True
    return False


def stop_early(frames: Iterator[VideoFrame]) -> None:
    next(frames)
    frames.close()  # type: ignore[attr-defined]


def drop(frames: Iterator[VideoFrame]) -> None:
    next(frames)


def read_all(frames: Iterator[VideoFrame]) -> None:
    list(frames)


@pytest.mark.parametrize("use", [stop_early, drop, read_all])
def test_the_file_is_closed(clip: Path, opened: list[Any], use: Callable[[Iterator[VideoFrame]], None]) -> None:
    frames = read_frames(clip)
    next(frames)
    assert not is_closed(opened[0])
    del frames
    use(read_frames(clip))
    assert len(opened) == 2
    assert is_closed(opened[1])
    assert is_closed(opened[0])


def test_the_file_is_closed_after_an_error(clip: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrameConverter, "image", lambda self, frame: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        list(read_frames(clip))
    assert raised.tb is not None  # it keeps the generators alive
    assert is_closed(opened[-1])
    with pytest.raises(ValueError, match="no video stream"):
        list(read_frames(write_sound(clip.with_name("a.wav"))))
    assert is_closed(opened[-1])


@given(start=st.integers(0, 12), length=st.none() | st.integers(0, 12))
@settings(deadline=None, max_examples=25)
def test_start_and_stop_cut_as_a_slice(start: int, length: int | None) -> None:
    stop = None if length is None else start + length
    images = leveled_frames(8)
    frames = list(read_frames(images, start=start, stop=stop))
    assert [frame.index for frame in frames] == list(range(8))[start:stop]
    assert [level_index(frame.image) for frame in frames] == list(range(8))[start:stop]


def test_start_and_stop_in_a_file(clip: Path) -> None:
    frames = list(read_frames(clip, start=13, stop=16))
    assert [frame.index for frame in frames] == [13, 14, 15]
    assert [level_index(frame.image) for frame in frames] == [13, 14, 15]
    assert frames[0].time == pytest.approx(1.3)
    assert list(read_frames(clip, start=40)) == []


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (0, -1), (3, 2)])
def test_start_and_stop_out_of_order(start: int, stop: int | None) -> None:
    with pytest.raises(ValueError, match=f"start={start}, stop={stop}"):
        read_frames(leveled_frames(2), start=start, stop=stop)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no video file or folder of images .*none\.mp4"):
        read_frames(tmp_path / "none.mp4")


def test_file_objects(clip: Path) -> None:
    content = io.BytesIO(clip.read_bytes())
    assert video_info(content).num_frames == 20
    assert [level_index(frame.image) for frame in read_frames(content)] == list(range(20))
    assert not content.closed


@given(numbers=st.lists(st.integers(0, 2000), min_size=1, max_size=8, unique=True))
@settings(deadline=None, max_examples=15)
def test_a_folder_is_read_in_natural_order(tmp_path_factory: pytest.TempPathFactory, numbers: list[int]) -> None:
    folder = tmp_path_factory.mktemp("frames")
    for position, number in enumerate(sorted(numbers)):
        Image.new("RGB", (4, 3), (position, 0, 0)).save(folder / f"frame{number}{['.png', '.BMP'][number % 2]}")
    frames = list(read_frames(folder))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == list(range(len(numbers)))
    assert all(frame.time is None for frame in frames)


def test_a_folder_ignores_what_is_no_image(tmp_path: Path) -> None:
    for name in ("1.png", "2.jpg", "3.webp"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / ".hidden.png").write_text("text")
    (tmp_path / "more").mkdir()
    assert len(list(read_frames(str(tmp_path)))) == 3
    assert video_info(tmp_path) == VideoInfo(8, 6, 3, None, None)


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no images: \.bmp, \.jpeg"):
        read_frames(tmp_path)


def test_a_corrupt_image_in_a_folder(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    frames = read_frames(tmp_path)
    next(frames)
    with pytest.raises(ValueError, match=r"frame 1: .*2\.png"):
        next(frames)


def as_array(images: list[np.ndarray]) -> Any:
    return np.stack(images)


def as_channels_first(images: list[np.ndarray]) -> Any:
    return np.stack(images).transpose(0, 3, 1, 2)


def as_tensor(images: list[np.ndarray]) -> Any:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def as_floats(images: list[np.ndarray]) -> Any:
    return np.stack(images).astype(np.float32) / 255


def as_pil_images(images: list[np.ndarray]) -> Any:
    return (Image.fromarray(image) for image in images)


def as_video_frames(images: list[np.ndarray]) -> Any:
    return iter([VideoFrame(7, 0.5 * index, image) for index, image in enumerate(images)])


class AsDataset:
    """What has items and a length, but no end that iteration would find."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index % len(self.images)]


@pytest.mark.parametrize(
    "form",
    [as_array, as_channels_first, as_tensor, as_floats, as_pil_images, as_video_frames, AsDataset, list, tuple, iter],
)
def test_frames_in_memory(form: Callable[[list[np.ndarray]], Any]) -> None:
    images = leveled_frames(4)
    frames = list(read_frames(form(images)))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert all((frame.image == image).all() for frame, image in zip(frames, images, strict=True))
    times = [0, 0.5, 1, 1.5] if form is as_video_frames else [None] * 4
    assert [frame.time for frame in frames] == times


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_a_dark_frame_of_a_clip_of_floats(form: Callable[[np.ndarray], Any]) -> None:
    """Alone, its values up to 1 would stand for white."""
    clip = np.stack([np.full((6, 5, 3), level, np.float32) for level in (255, 1, 0)])
    assert [int(frame.image.max()) for frame in read_frames(form(clip))] == [255, 1, 0]


def test_a_buffer_may_be_refilled() -> None:
    def grabber() -> Iterator[np.ndarray]:
        buffer = np.empty((4, 5, 3), np.uint8)
        for level in range(3):
            buffer[:] = level
            yield buffer

    assert [int(frame.image[0, 0, 0]) for frame in list(read_frames(grabber()))] == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((4, 5, 3), np.uint8), ValueError, r"shape \(4, 5, 3\) is no video"),
        (np.zeros((0, 4, 5, 3), np.uint8), ValueError, r"shape \(0, 4, 5, 3\) is no video"),
        (Image.new("RGB", (4, 5)), TypeError, "give a single image as"),
        ({"image": []}, TypeError, "of type dict is no video"),
        (b"content", TypeError, "of type bytes is no video"),
        (3, TypeError, "can't be of type int"),
        ([], ValueError, "has no frames"),
        (iter(()), ValueError, "has no frames"),
        ([{"image": 1}], TypeError, "frame 0: an image can't be of type dict"),
        ([np.zeros((6, 5, 7), np.uint8)], ValueError, r"frame 0: .*\(6, 5, 7\)"),
    ],
)
def test_what_is_no_video(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        next(read_frames(source))


def test_a_changed_size_in_an_iterator() -> None:
    frames = read_frames([np.zeros((4, 6, 3), np.uint8)] * 2 + [np.zeros((6, 4, 3), np.uint8)])
    assert [frame.index for frame in islice(frames, 2)] == [0, 1]
    with pytest.raises(ValueError, match=r"frame 2 is 4×6 pixels .* before it are 6×4"):
        next(frames)


def test_a_changed_size_in_a_file(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{size}.h264", leveled_frames(3, size, size)) for size in (32, 64)]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = read_frames(path)
    assert [next(frames).image.shape for _ in range(3)] == [(32, 32, 3)] * 3
    with pytest.raises(ValueError, match=r"frame 3 is 64×64 pixels .* before it are 32×32"):
        next(frames)


def test_check_same_size() -> None:
    check_same_size(3, (4, 5), (4, 5))
    with pytest.raises(ValueError, match="frame 3 is 4×5 pixels"):
        check_same_size(3, (5, 4), (4, 5))


def test_video_info(clip: Path, opened: list[Any]) -> None:
    assert video_info(clip) == VideoInfo(WIDTH, HEIGHT, 20, Fraction(10), pytest.approx(2))
    assert is_closed(opened[0])
    assert video_info(np.zeros((7, 4, 5, 3), np.uint8)) == VideoInfo(5, 4, 7, None, None)
    assert video_info(leveled_frames(3)) == VideoInfo(WIDTH, HEIGHT, 3, None, None)


def test_video_info_leaves_iterators_alone() -> None:
    images = iter(leveled_frames(2))
    with pytest.raises(TypeError, match="video_info would use up its first frame"):
        video_info(images)
    with suppress(TypeError):
        video_info(images)
    assert len(list(images)) == 2


def test_the_package_does_not_import_pyav() -> None:
    """Loading FFmpeg takes time: only functions that read or write videos do it."""
    importers = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            importers += [file.name for name in names if name.split(".")[0] == "av"]
    assert importers == []
