"""What the Space refuses of videos, each with one clear error, before it costs anything."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import av
import gradio as gr
import numpy as np
import pytest
from video_examples import cut, leveled_frames, write_sound, write_video

from sam_variants.spaces_demo import video_files
from sam_variants.spaces_demo.video_files import spoken_time
from sam_variants.spaces_demo.video_jobs import VideoJob

TWO_HOURS = 7200


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", leveled_frames(12))


def claim_seconds(path: Path, seconds: int) -> Path:
    """Write a duration into the headers of an mp4 by hand (ISO/IEC 14496-12: mvhd, tkhd, mdhd, elst, stts)."""
    content = bytearray(path.read_bytes())
    scales = {}
    for name in (b"mvhd", b"mdhd"):
        start = content.index(name) + 4 + 4 + 8
        scales[name] = struct.unpack(">I", content[start : start + 4])[0]
        content[start + 4 : start + 8] = struct.pack(">I", seconds * scales[name])
    for name, offset in ((b"tkhd", 4 + 4 + 8 + 8), (b"elst", 4 + 4 + 4)):
        start = content.index(name) + offset
        content[start : start + 4] = struct.pack(">I", seconds * scales[b"mvhd"])
    start = content.index(b"stts") + 4 + 4 + 4
    num_frames = struct.unpack(">I", content[start : start + 4])[0]
    content[start + 4 : start + 8] = struct.pack(">I", seconds * scales[b"mdhd"] // num_frames)
    path.write_bytes(content)
    return path


def refusal(path: Path | str) -> str:
    """The one error, and no folder of a job left behind."""
    with pytest.raises(gr.Error) as raised:
        VideoJob(str(path)).read()
    message = str(raised.value.message)
    assert str(path) not in message
    assert os.sep not in message
    assert message.endswith(".")
    return message


def test_two_hours_are_refused_by_the_header(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoding(*arguments: object) -> None:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr(video_files, "read_frames", no_decoding)
    begin = time.monotonic()
    assert "lasts 2 h 0 min; at most 1 min 0 s are taken" in refusal(claim_seconds(clip, TWO_HOURS))
    assert time.monotonic() - begin < 2


def test_a_file_cut_short(clip: Path, tmp_path: Path) -> None:
    """Without its index it is no video any more; with it, the missing part is seen."""
    assert "can't be read as a video" in refusal(cut(clip, 0.4))
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    front = write_video(tmp_path / "front.mp4", list(noise), container_options={"movflags": "faststart"})
    assert "cut short or damaged. Upload the whole" in refusal(cut(front, 0.6))


def test_damage_inside(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "noise.mp4", list(noise), options={"g": "3"})
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + len(content) // 2
    content[middle : middle + len(content) // 4] = bytes(len(content) // 4)
    path.write_bytes(content)
    assert "cut short or damaged after" in refusal(path)


def test_sound_alone(tmp_path: Path) -> None:
    assert "no video in this file, only audio" in refusal(write_sound(tmp_path / "sound.wav"))
    assert "no video in this file, only audio" in refusal(write_sound(tmp_path / "sound.mkv"))


@pytest.mark.parametrize("content", [b"", b"no video", os.urandom(5000), b"\x00\x00\x00\x18ftypmp42" + bytes(500)])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert "can't be read as a video" in refusal(path)


def test_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "empty.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    message = refusal(path)
    assert "no frame" in message or "can't be read" in message


def test_frames_too_large(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", [np.zeros((2200, 3840, 3), np.uint8)])
    assert "have 3840×2200 pixels; at most 2.1 million are taken" in refusal(path)


def test_a_size_that_changes(tmp_path: Path) -> None:
    """Two H.264 streams one behind the other, as some cameras write them."""
    parts = [
        write_video(tmp_path / f"{height}.h264", leveled_frames(4, height, 64), container_options={}).read_bytes()
        for height in (48, 96)
    ]
    raw, path = tmp_path / "both.h264", tmp_path / "both.mkv"
    raw.write_bytes(b"".join(parts))
    with av.open(str(raw)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream, packet.pts, packet.dts = stream, number * 100, number * 100
                container.mux(packet)
    assert "Frame 5 of this video has another size" in refusal(path)


def test_more_frames_than_are_taken(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_files, "MAX_VIDEO_FRAMES", 8)
    assert "more than 8 frames" in refusal(clip)  # by the header
    silent = write_video(tmp_path / "clip.mkv", leveled_frames(12))  # which doesn't count them
    assert "more than 8 frames" in refusal(silent)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8", "clip.ffconcat", "clip.txt"])
def test_playlists_open_nothing_else(tmp_path: Path, name: str) -> None:
    clip = write_video(tmp_path / "clip.ts", leveled_frames(2))
    playlists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{clip}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXTINF:10,\n{clip.name}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {clip.name}\n",
        f"<MPD><Period><BaseURL>file://{clip}</BaseURL></Period></MPD>",
        "#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/secret.ts\n#EXT-X-ENDLIST\n",
    ]
    for number, text in enumerate(playlists):
        path = tmp_path / f"{number}_{name}"
        path.write_text(text)
        assert "can't be read as a video" in refusal(path)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("mov", "libx264")])
def test_what_is_taken(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_video(tmp_path / f"clip.{suffix}", leveled_frames(6), codec=codec)
    job = VideoJob(str(path))
    assert list(job.reading()) == [2, 3, 4, 5, 6]
    assert (job.video.width, job.video.height, job.video.num_frames, job.video.fps) == (64, 48, 6, 10)
    assert job.video.name == path.name
    assert job.video.picture_url(5).startswith("data:image/jpeg;base64,/9j/")


def test_spoken_times() -> None:
    assert [spoken_time(seconds) for seconds in (12.4, 75, 7500)] == ["12 s", "1 min 15 s", "2 h 5 min"]
