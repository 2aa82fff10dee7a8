"""`sam-variants track`, interrupted in any way and resumed, gives what it gives otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import save_tiny_video
from track_runs import FPS, NUM_FRAMES, OPTIONS, assert_one_line, lines_of, moving, report_of, run
from video_examples import cut, write_video

from sam_variants.hub_scripts import track, tracking_run
from sam_variants.processing.video_reader import read_frames
from sam_variants.results import Masks
from sam_variants.video_session import VideoSession


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_video(tmp_path_factory.mktemp("track_model") / "model", seed=3)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("track_video") / "clip.mp4", moving(NUM_FRAMES), fps=FPS)


@pytest.fixture(scope="module")
def whole(model: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    report_of(video, *OPTIONS, "--model", model, "--out", out)
    return out


def assert_same_results(out: Path, whole: Path) -> None:
    """The lines byte by byte, the overlay pixel by pixel, and nothing else is left."""
    assert {path.name for path in out.iterdir()} == {"clip_masks.jsonl", "clip_overlay.mp4"}
    assert (out / "clip_masks.jsonl").read_bytes() == (whole / "clip_masks.jsonl").read_bytes()
    pictures, expected = (list(read_frames(folder / "clip_overlay.mp4")) for folder in (out, whole))
    assert len(pictures) == len(expected) == NUM_FRAMES
    for one, other in zip(pictures, expected, strict=True):
        assert one.time == other.time
        assert np.array_equal(one.image, other.image)


class Interruption:
    """Stands for `VideoSession.step`: counts, and raises on one frame."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, frame: int | None, error: type[BaseException]) -> None:
        self.frames: list[int] = []
        step = VideoSession.step

        def counted(session: VideoSession, image: Any) -> Masks:
            if session.frame_index + 1 == frame:
                raise error
            self.frames.append(session.frame_index + 1)
            return step(session, image)

        monkeypatch.setattr(VideoSession, "step", counted)


@pytest.mark.parametrize(
    ("frame", "seconds_between_states"), [(1, 1e9), (4, 0.0), (6, 0.0), (6, 1e9)], ids=["1 old", "4", "6", "6 old"]
)
def test_ctrl_c_and_resume_give_what_a_whole_run_gives(
    model: Path,
    video: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frame: int,
    seconds_between_states: float,
) -> None:
    monkeypatch.setattr(tracking_run, "SECONDS_BETWEEN_STATES", seconds_between_states)
    options = (video, *OPTIONS, "--model", model, "--out", tmp_path)
    with monkeypatch.context() as patch:
        Interruption(patch, frame, KeyboardInterrupt)
        result = run(*options)
    assert_one_line(result, 130, "interrupted", f"{frame} frames are done", "--resume")
    assert len(lines_of(tmp_path)) == 1 + frame
    assert len(list(read_frames(tmp_path / "clip_overlay.mp4"))) == frame
    # Killed in the middle of a line.
    with (tmp_path / "clip_masks.jsonl").open("ab") as file:
        file.write((whole / "clip_masks.jsonl").read_bytes().splitlines()[1 + frame][:100])
    with monkeypatch.context() as patch:
        steps = Interruption(patch, None, KeyboardInterrupt)
        report = report_of(*options, "--resume")
    assert (report["frames"], report["frames_resumed"]) == (NUM_FRAMES, frame)
    assert steps.frames == list(range(frame if seconds_between_states == 0 else 0, NUM_FRAMES))
    assert_same_results(tmp_path, whole)


def test_without_overlay_a_resumed_run_reads_only_what_is_left(
    model: Path, video: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_run, "SECONDS_BETWEEN_STATES", 0.0)
    options = (video, *OPTIONS, "--model", model, "--out", tmp_path, "--no-overlay")
    with monkeypatch.context() as patch:
        Interruption(patch, 5, KeyboardInterrupt)
        assert run(*options).exit_code == 130
    read = []

    def recorded(source: Any, **span: Any) -> Any:
        for frame in read_frames(source, **span):
            read.append(frame.index)
            yield frame

    monkeypatch.setattr(tracking_run, "read_frames", recorded)
    report_of(*options, "--resume")
    assert read == [5, 6, 7]
    assert (tmp_path / "clip_masks.jsonl").read_bytes() == (whole / "clip_masks.jsonl").read_bytes()


def test_a_killed_process_can_be_resumed(model: Path, video: Path, whole: Path, tmp_path: Path) -> None:
    """kill -9 as soon as a few lines are there, with states written all the time."""
    code = (
        "import sys, time; from sam_variants.hub_scripts import cli, tracking_run\n"
        "from sam_variants.video_session import VideoSession\n"
        "step = VideoSession.step\n"
        "VideoSession.step = lambda *given: (time.sleep(0.1), step(*given))[1]\n"
        "tracking_run.SECONDS_BETWEEN_STATES = 0.0\n"
        "cli.app(sys.argv[1:])"
    )
    options = [str(option) for option in (video, *OPTIONS, "--model", model, "--out", tmp_path)]
    log = tmp_path / "clip_masks.jsonl"
    command = [sys.executable, "-c", code, "track", *options]
    # As many threads as this process has, or rounding differs.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_bytes().count(b"\n") >= 4:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait(timeout=10) == -signal.SIGKILL, process.stderr.read() if process.stderr else ""
    assert 3 <= len(lines_of(tmp_path)) - 1 < NUM_FRAMES
    assert (tmp_path / "clip_state.safetensors").is_file()
    report = report_of(*options, "--resume")
    assert report["frames_resumed"] >= 3
    assert_same_results(tmp_path, whole)


def test_a_truncated_video_keeps_what_was_done(model: Path, tmp_path: Path) -> None:
    file = write_video(tmp_path / "long.mkv", moving(30), options={"g": "5"})
    short = cut(file, 0.6)
    out = tmp_path / "out"
    options = ("--point", "0,1,20,20", "--model", model, "--out", out)
    result = run(short, *options)
    num_frames = len(lines_of(out, "cut_long")) - 1
    assert 5 < num_frames < 30
    assert_one_line(result, 1, "cut short or damaged", f"{num_frames} frames are done and kept", "--resume")
    assert len(list(read_frames(out / "cut_long_overlay.mp4"))) == num_frames
    # With the whole file the run goes on.
    os.replace(file, short)
    report = report_of(short, *options, "--resume")
    assert (report["frames"], report["frames_resumed"]) == (30, num_frames)


def test_an_error_on_a_frame_keeps_what_was_done(
    model: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Interruption(monkeypatch, 3, RuntimeError)
    result = run(video, *OPTIONS, "--model", model, "--out", tmp_path)
    assert_one_line(result, 1, "3 frames are done and kept")
    assert len(lines_of(tmp_path)) == 4


def test_what_is_there_is_kept_unless_asked(
    model: Path, video: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in whole.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    options = (video, *OPTIONS, "--model", model, "--out", tmp_path)
    assert_one_line(run(*options), 1, "clip_masks.jsonl", "--resume", "--overwrite")
    with monkeypatch.context() as patch:
        patch.setattr(track, "load_tracker", lambda *given: pytest.fail("the model was loaded"))
        report = report_of(*options, "--resume")
    assert (report["frames"], report["frames_resumed"]) == (NUM_FRAMES, NUM_FRAMES)
    other = (video, "--point", "0,1,30,20", "--model", model, "--out", tmp_path)
    assert_one_line(run(*other, "--resume"), 1, "can't be resumed", "prompts", "--overwrite")
    assert_one_line(run(*options, "--resume", "--image-size", 128), 1, "image_size is null, now it is 128")
    assert_same_results(tmp_path, whole)
    assert report_of(*options, "--overwrite")["frames_resumed"] == 0
    assert_same_results(tmp_path, whole)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no json\n", ["line 1", "no JSON"]),
        (b'{"frame": 0}\n', ["line 1", "not the header"]),
        ("drop", ["line 4", "not that of frame 2"]),
        ("spoil", ["line 4", "no JSON"]),
    ],
    ids=["text", "no header", "a frame missing", "a broken line"],
)
def test_spoiled_lines_are_refused(
    model: Path, video: Path, whole: Path, tmp_path: Path, content: Any, words: list[str]
) -> None:
    lines = (whole / "clip_masks.jsonl").read_bytes().splitlines(keepends=True)
    if content == "drop":
        content = b"".join([*lines[:3], *lines[4:]])
    elif content == "spoil":
        content = b"".join([*lines[:3], lines[3][:50] + b"\n", *lines[4:]])
    (tmp_path / "clip_masks.jsonl").write_bytes(content)
    result = run(video, *OPTIONS, "--model", model, "--out", tmp_path, "--resume")
    assert_one_line(result, 1, *words, "--overwrite")
    assert (tmp_path / "clip_masks.jsonl").read_bytes() == content
