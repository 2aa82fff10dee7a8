"""Decoding video files: formats, colours, times, names and addresses; frames stand upright."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from video_examples import (
    HEIGHT,
    WIDTH,
    difference,
    level_index,
    leveled_frames,
    set_display_matrix,
    write_video,
)

from sam_variants.processing.video_reader import (
    read_frames,
    video_info,
)

LOSSY = 12
FORMATS = [
    ("a.mp4", "libx264", "yuv420p", {}),
    ("a.mov", "mpeg4", "yuv420p", {"qscale": "2"}),
    ("a.mkv", "ffv1", "yuv444p", {}),
    ("a.avi", "mjpeg", "yuvj420p", {}),
    ("a.webm", "libvpx-vp9", "yuv420p", {"cpu-used": "8", "deadline": "realtime"}),
    ("a.mkv", "libx264", "yuv420p10le", {}),
    ("a.mkv", "ffv1", "bgr0", {}),
]
MIRRORED_AND_TURNED = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MIRRORED_AND_TURNED += [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", leveled_frames(20))


@pytest.mark.parametrize(("name", "codec", "pixel_format", "options"), FORMATS)
def test_formats(tmp_path: Path, name: str, codec: str, pixel_format: str, options: dict[str, str]) -> None:
    images = leveled_frames(12)
    path = write_video(tmp_path / name, images, codec=codec, pixel_format=pixel_format, options=options)
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == pytest.approx([index / 10 for index in range(12)], abs=1e-3)
    assert all(difference(frame.image, image) <= LOSSY for frame, image in zip(frames, images, strict=True))
    assert all(frame.image.flags.c_contiguous and frame.image.flags.writeable for frame in frames)


@pytest.mark.parametrize(("height", "width"), [(49, 65), (1, 1), (7, 130)])
def test_odd_sizes(tmp_path: Path, height: int, width: int) -> None:
    images = [np.full((height, width, 3), 50 * index, np.uint8) for index in range(4)]
    path = write_video(tmp_path / "a.mkv", images, codec="ffv1", pixel_format="yuv444p")
    assert all(difference(frame.image, image) <= 2 for frame, image in zip(read_frames(path), images, strict=True))


def test_gray(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", leveled_frames(3), codec="ffv1", pixel_format="gray")
    images = [frame.image for frame in read_frames(path)]
    assert [level_index(image) for image in images] == [0, 1, 2]
    assert (images[0] == images[0][..., :1]).all()


def test_transparent_pixels_lie_over_white(tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 4), (200, 0, 0, 255), np.uint8)
    image[:, : WIDTH // 2, 3] = 0
    path = write_video(tmp_path / "a.mov", [image] * 2, codec="png", pixel_format="rgba")
    for frame in read_frames(path):
        assert (frame.image[:, : WIDTH // 2] == 255).all()
        assert (frame.image[:, WIDTH // 2 :] == (200, 0, 0)).all()


def test_gif(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    pages = [Image.fromarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8)) for level in (0, 100, 200)]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=[100, 300, 100])
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.4])
    assert [frame.image[5, 5].tolist() for frame in frames] == [[0] * 3, [100] * 3, [200] * 3]


def test_colours_follow_the_matrix_that_the_file_states(tmp_path: Path) -> None:
    image = np.full((HEIGHT, WIDTH, 3), (20, 200, 120), np.uint8)
    for name, bt709 in (("sd.mp4", False), ("hd.mp4", True)):
        path = write_video(tmp_path / name, [image], options={"crf": "4"}, bt709=bt709)
        assert np.abs(next(read_frames(path)).image.astype(int) - image).max() <= 4, name


def test_sound_before_the_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", leveled_frames(5), audio_first=True)
    with av.open(str(path)) as container:
        assert container.streams[0].type == "audio"
    assert [level_index(frame.image) for frame in read_frames(path)] == list(range(5))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_variable_frame_rate(tmp_path: Path, name: str) -> None:
    times = [0, 0.04, 0.05, 0.5, 0.51, 2.0, 2.1]
    path = write_video(tmp_path / name, leveled_frames(7), times=times)
    frames = list(read_frames(path))
    assert [level_index(frame.image) for frame in frames] == list(range(7))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize("matrix", MIRRORED_AND_TURNED)
def test_frames_stand_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    stored = leveled_frames(2)
    path = write_video(tmp_path / "turned.mp4", stored, options={"crf": "10"})
    set_display_matrix(path, *matrix)
    shown = [shown_as(image, matrix) for image in stored]
    frames = list(read_frames(path))
    assert all(difference(frame.image, image) <= LOSSY for frame, image in zip(frames, shown, strict=True))
    assert all(frame.image.flags.c_contiguous for frame in frames)
    info = video_info(path)
    assert (info.height, info.width) == shown[0].shape[:2]


def shown_as(image: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    """Every pixel put where the display matrix sends it."""
    a, b, c, d = matrix
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    shown = np.empty((row.max() + 1, column.max() + 1, 3), image.dtype)
    shown[row, column] = image
    return shown


@pytest.mark.parametrize(("matrix", "degrees"), [((0, 1, -1, 0), -90), ((-1, 0, 0, -1), 180), ((0, -1, 1, 0), 90)])
def test_turns_agree_with_ffmpeg(tmp_path: Path, matrix: tuple[int, int, int, int], degrees: int) -> None:
    """`av_display_rotation_get` gives the angle by which to turn counterclockwise, and so does numpy."""
    path = write_video(tmp_path / "turned.mp4", leveled_frames(1), options={"crf": "10"})
    upright = next(read_frames(path)).image
    set_display_matrix(path, *matrix)
    with av.open(str(path)) as container:
        rotation = next(container.decode(video=0)).rotation
    assert rotation % 360 == degrees % 360
    assert (next(read_frames(path)).image == np.rot90(upright, degrees // 90)).all()


def test_angles_between_quarter_turns_are_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "askew.mp4", leveled_frames(1))
    upright = next(read_frames(path)).image
    set_display_matrix(path, 1, 1, -1, 1)
    assert (next(read_frames(path)).image == upright).all()


def test_exif_orientation(tmp_path: Path) -> None:
    """PyAV 18 can't list the side data of such a frame, because EXIF is among it."""
    stored = leveled_frames(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = next(read_frames(tmp_path / "a.jpg")).image
    assert difference(image, np.rot90(stored, -1)) <= LOSSY


def test_titles_in_any_encoding(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.avi", leveled_frames(2), codec="mjpeg", pixel_format="yuvj420p", metadata={"title": "caf?"}
    )
    path.write_bytes(path.read_bytes().replace(b"caf?", b"caf\xe9"))
    assert len(list(read_frames(path))) == 2


def test_a_colon_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", leveled_frames(2)).rename(tmp_path / "clip:2.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames("clip:2.mp4"))) == 2


def test_url(clip: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(clip.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert len(list(read_frames(f"{address}/clip.mp4"))) == 20
        with pytest.raises(ValueError, match=r"none\.mp4' can't be read as a video"):
            next(read_frames(f"{address}/none.mp4"))
        server.shutdown()
