"""Files that are cut short, damaged, or no videos: what can be read is read, and the error says why."""

from __future__ import annotations

import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_examples import (
    HEIGHT,
    WIDTH,
    cut,
    leveled_frames,
    write_sound,
    write_video,
)

from sam_variants.processing.video_reader import (
    TruncatedVideoError,
    read_frames,
    video_info,
)

H264, MJPEG = ("libx264", "yuv420p"), ("mjpeg", "yuvj420p")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", leveled_frames(20))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_cut_files(tmp_path: Path, name: str, fraction: float) -> None:
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    noise = np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8)
    front = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = write_video(tmp_path / name, list(noise), codec=codec, container_options=front)
    assert len(list(read_frames(path))) == 20
    read, raised = read_until_error(cut(path, fraction))
    assert f"cut_{name}' is cut short or damaged" in str(raised)
    assert raised.num_frames == len(read) < 20
    assert pickle.loads(pickle.dumps(raised)).num_frames == len(read)


def read_until_error(path: Path | str) -> tuple[list[np.ndarray], TruncatedVideoError]:
    read = []
    try:
        for frame in read_frames(path):
            read.append(frame.image)
    except TruncatedVideoError as error:
        return read, error
    raise AssertionError(f"{path} was read to its end")


@pytest.mark.parametrize(("name", "codec", "pixel_format"), [("a.mp4", *H264), ("a.avi", *MJPEG), ("a.mov", *MJPEG)])
@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_cut_files_give_their_readable_frames(
    tmp_path: Path, name: str, codec: str, pixel_format: str, fraction: float
) -> None:
    """But not half of a picture."""
    noise = list(np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8))
    front = {} if name == "a.avi" else {"movflags": "faststart"}
    even = {"qmin": "6", "qmax": "6"}  # frames of one size
    path = write_video(
        tmp_path / name, noise, codec=codec, pixel_format=pixel_format, options=even, container_options=front
    )
    whole = [frame.image for frame in read_frames(path)]
    read, raised = read_until_error(cut(path, fraction))
    assert 20 * fraction - 3 <= len(read) < 20
    assert raised.num_frames == len(read)
    assert all((image == expected).all() for image, expected in zip(read, whole, strict=False))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_no_cut_is_silent(tmp_path: Path, name: str) -> None:
    front = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = write_video(tmp_path / name, leveled_frames(6), container_options=front)

    @given(fraction=st.floats(0, 0.995))
    @settings(deadline=None, max_examples=15)
    def check(fraction: float) -> None:
        try:
            assert len(list(read_frames(cut(path, fraction)))) == 6
        except ValueError as error:
            assert f"cut_{name}' " in str(error)  # noqa: PT017 - a file cut in its first bytes is no video at all

    check()


def test_an_mp4_without_its_index(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "a.mp4", leveled_frames(5)), 0.5)
    with pytest.raises(ValueError, match=r"cut_a\.mp4' can't be read as a video"):
        next(read_frames(path))


def test_a_damaged_middle_is_skipped(tmp_path: Path) -> None:
    images = list(np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8))
    path = write_video(tmp_path / "a.mov", images, codec="png", pixel_format="rgb24")
    content = bytearray(path.read_bytes())
    size = len(content)
    content[size // 2 : size // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    read, raised = read_until_error(path)
    assert "damaged" in str(raised)
    assert (read[0] == images[0]).all()
    assert 9 <= len(read) == raised.num_frames < 20


def test_bytes_after_the_end_do_no_harm(clip: Path) -> None:
    """Phones append data of their own."""
    for trailer in (b"SEFHdata of a phone", bytes(100), b"\xff" * 3):
        longer = clip.with_name("longer.mp4")
        longer.write_bytes(clip.read_bytes() + trailer)
        assert len(list(read_frames(longer))) == 20


def test_a_live_recording_announces_no_length(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", leveled_frames(5), container_options={"live": "1"})
    assert len(list(read_frames(path))) == 5
    assert video_info(path).num_frames is None


@pytest.mark.parametrize("name", ["a.txt", "a.mp4"])
def test_text_is_no_video(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no video\n" * 50)
    with pytest.raises(ValueError, match=rf"{name}' (can't be read as a video|has no video stream)"):
        next(read_frames(tmp_path / name))


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match=r"a\.mp4' can't be read as a video"):
        next(read_frames(str(tmp_path / "a.mp4")))


def test_sound_alone(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv")
    for read in (lambda: next(read_frames(path)), lambda: video_info(path)):
        with pytest.raises(ValueError, match=r"a\.mkv' has no video stream \(it holds audio\)"):
            read()


def test_video_stream_without_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mov", leveled_frames(1), codec="png", pixel_format="rgb24")
    path.write_bytes(path.read_bytes().replace(b"\x89PNG", b"....").replace(b"IHDR", b"...."))
    for read in (lambda: next(read_frames(path)), lambda: video_info(path)):
        with pytest.raises(ValueError, match=r"a\.mov' has no frame that can be decoded"):
            read()


def test_a_connection_that_breaks_off(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8))
    path = write_video(tmp_path / "a.mkv", noise)
    content = path.read_bytes()

    class HalfOfIt(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])

    with ThreadingHTTPServer(("127.0.0.1", 0), HalfOfIt) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        read, raised = read_until_error(f"http://127.0.0.1:{server.server_port}/a.mkv")
        server.shutdown()
    assert 8 <= len(read) == raised.num_frames < 20
