"""The Space's video tab in a real browser: from the upload to the downloads, and what it refuses."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import pytest
from video_examples import cut, write_sound, write_video

from sam_variants import Masks
from sam_variants.hub_scripts.synthetic_clips import Clip, synthetic_clip
from sam_variants.processing.video_reader import read_frames
from sam_variants.spaces_demo import tab_video, video_jobs
from sam_variants.spaces_demo.models import EMBEDDED_VIDEO, store
from sam_variants.spaces_demo.shared import Shared
from sam_variants.spaces_demo.theme import LOOK
from sam_variants.spaces_demo.visits import Visit

if TYPE_CHECKING:
    from browser import Pages, Served
    from playwright.sync_api import Locator, Page

NUM_FRAMES, SIDE = 14, 128
FIRST, SECOND, OTHER = 3, 5, 4  # objects of the clip; the embedded checkpoint follows the first two well
STOPPED, CORRECTED = 8, 6
CANVAS = "#video-canvas .canvas"


@pytest.fixture(scope="module")
def clip() -> Clip:
    return synthetic_clip(3, NUM_FRAMES, SIDE, difficulty=0.3)


@pytest.fixture(scope="module")
def path(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", list(clip.frames), options={"crf": "5"})


@pytest.fixture(scope="module")
def url(serve: Served) -> str:
    store().get(EMBEDDED_VIDEO)
    with gr.Blocks(analytics_enabled=False) as page:
        unused: Any = None
        tab_video.add(Shared(gr.State(Visit()), unused, unused, unused, unused))
    return serve(page.queue(), **LOOK)


@dataclass
class Gate:
    """Holds tracking behind the frame `STOPPED`, which is `reached` then, until it is `opened`."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate, track = Gate(), video_jobs.track_frames

    def held(*arguments: Any) -> Iterator[Any]:
        for answer in track(*arguments):
            if answer.frame == STOPPED:
                gate.reached.set()
                gate.opened.wait(20)
            yield answer

    monkeypatch.setattr(video_jobs, "track_frames", held)
    yield gate
    gate.opened.set()


def place(clip: Clip, frame: int, number: int) -> tuple[int, int]:
    """The pixel of an object nearest to its centre."""
    ys, xs = np.nonzero(clip.masks[frame, number - 1])
    nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return int(xs[nearest]), int(ys[nearest])


def click(page: Page, at: tuple[int, int], *, exclude: bool = False) -> None:
    """Click on a pixel of the video, which lies in the middle of the canvas."""
    box = page.locator("#video-canvas canvas").bounding_box()
    assert box is not None
    scale = min(box["width"], box["height"]) / SIDE
    left, top = ((whole - SIDE * scale) / 2 for whole in (box["width"], box["height"]))
    position: Any = {"x": left + (at[0] + 0.5) * scale, "y": top + (at[1] + 0.5) * scale}
    page.locator("#video-canvas canvas").click(position=position, modifiers=["Shift"] if exclude else [])


def upload(page: Page, path: Path) -> None:
    page.set_input_files("#video-upload input[type=file]", str(path))


def go_to(page: Page, frame: int) -> None:
    page.fill("#video-frame input[type=number]", str(frame))
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{CANVAS}[data-photo*='/{frame}/']")


def download(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as found:
        page.click(button)
    target = folder / found.value.suggested_filename
    found.value.save_as(target)
    return target


def text(page: Page) -> Locator:
    return page.locator("#video-answer")


def wait_for_text(page: Page, words: str) -> None:
    text(page).get_by_text(words).first.wait_for()


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def test_from_upload_to_download(
    clip: Clip, path: Path, url: str, gate: Gate, open_page: Pages, tmp_path: Path
) -> None:
    page = open_page(url)
    upload(page, path)
    wait_for_text(page, "Click on a thing to follow it")
    assert page.locator("#video-track").is_disabled()
    click(page, place(clip, 0, FIRST))
    page.wait_for_selector(f"{CANVAS}[data-masks='1']")
    page.click("#video-canvas [data-key=add]")
    click(page, place(clip, 0, SECOND))
    page.wait_for_selector(f"{CANVAS}[data-masks='1 2']")
    wait_for_text(page, "Now track it")

    page.click("#video-track")
    page.wait_for_selector(f"{CANVAS}[data-photo]:not([data-photo*='/0/'])[data-masks='1 2']")  # masks while it runs
    assert gate.reached.wait(30)
    page.click("#video-stop")
    page.locator("#video-stop", has_text="Stopping").wait_for()
    gate.opened.set()
    wait_for_text(page, f"Tracked up to frame {STOPPED}.")
    assert page.locator("#video-track").inner_text() == f"Continue from frame {STOPPED + 1}"

    go_to(page, NUM_FRAMES - 1)
    wait_for_text(page, "is not tracked yet")
    click(page, place(clip, 0, FIRST))  # refused, and taken back
    page.get_by_text("Track up to it first").wait_for()
    page.locator("#video-canvas li small", has_text="click on it").wait_for(state="detached")

    go_to(page, CORRECTED)
    page.wait_for_selector(f"{CANVAS}[data-masks='1 2']")
    page.click("#video-canvas [data-key=name-2]")
    click(page, place(clip, CORRECTED, OTHER), exclude=True)
    page.locator("#video-track", has_text=f"Continue from frame {CORRECTED + 1}").wait_for()
    page.click("#video-track")
    wait_for_text(page, "All frames are tracked")
    assert page.locator("#video-timeline [role=img]").get_attribute("aria-label") == (
        f"Frame {NUM_FRAMES - 1} of {NUM_FRAMES - 1}; tracked: frames 0 to {NUM_FRAMES - 1}; "
        f"prompts on frames: 0, {CORRECTED}"
    )
    check_files(clip, path, download(page, "#video-json", tmp_path), download(page, "#video-overlay", tmp_path))


def check_files(clip: Clip, path: Path, masks_file: Path, overlay_file: Path) -> None:
    """The JSON has the objects; the mp4 is the video, tinted where the masks are and nowhere else."""
    annotations = json.loads(masks_file.read_text())["annotations"]
    drawn = list(read_frames(overlay_file))
    assert overlay_file.name == "clip_overlay.mp4"
    assert len(drawn) == NUM_FRAMES
    for frame, original in enumerate(read_frames(path)):
        found = Masks.from_coco([entry for entry in annotations if entry["image_id"] == frame])
        assert found.object_ids is not None
        assert found.object_ids.tolist() == [1, 2]
        for mask, number in zip(found.data.numpy(), (FIRST, SECOND), strict=True):
            assert overlap(mask, clip.masks[frame, number - 1]) > 0.7
        change = np.abs(drawn[frame].image.astype(int) - original.image.astype(int)).max(axis=2)
        union = found.data.numpy().any(axis=0)
        assert np.median(change[union]) > 25
        assert np.median(change[~union]) < 8


def test_clicks_on_a_frame_are_kept_when_it_is_left(clip: Clip, path: Path, url: str, open_page: Pages) -> None:
    page = open_page(url)
    upload(page, path)
    wait_for_text(page, "Click on a thing to follow it")
    click(page, place(clip, 0, FIRST))
    go_to(page, 2)  # without waiting for the mask
    go_to(page, 0)
    page.wait_for_selector(f"{CANVAS}[data-masks='1']")
    page.click("#video-track")
    wait_for_text(page, "All frames are tracked")


def test_a_new_video_takes_the_place_of_the_one_that_is_tracked(
    clip: Clip, path: Path, url: str, open_page: Pages, gate: Gate, tmp_path: Path
) -> None:
    page = open_page(url)
    upload(page, path)
    wait_for_text(page, "Click on a thing")
    click(page, place(clip, 0, FIRST))
    page.click("#video-track:enabled")
    wait_for_text(page, "frames per second")
    assert gate.reached.wait(20)
    upload(page, shutil.copy(path, tmp_path / "other.mp4"))
    wait_for_text(page, "other.mp4")
    gate.opened.set()
    wait_for_text(page, "Click on a thing")
    click(page, place(clip, 0, SECOND))
    page.click("#video-track:enabled")
    wait_for_text(page, "All frames are tracked")


def test_a_video_that_was_put_away_says_so() -> None:
    with pytest.raises(gr.Error, match="no longer here"):
        tab_video.answer({"photo": "of/0/1", "objects": []}, Visit())


def test_what_is_no_video(path: Path, url: str, open_page: Pages, tmp_path: Path) -> None:
    page = open_page(url)
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"garbage")
    refused = {
        garbage: "can't be read as a video",
        write_sound(tmp_path / "sound.mkv"): "There is no video in this file",
        cut(path, 0.5): "can't be read as a video",
    }
    for file, words in refused.items():
        upload(page, file)
        toast = page.locator(".toast-body", has_text=words)
        toast.wait_for()
        toast.locator("button").click()
        toast.wait_for(state="detached")
    upload(page, path)
    wait_for_text(page, "Click on a thing to follow it")


@pytest.mark.parametrize("dark", [False, True])
def test_accessibility(clip: Clip, path: Path, url: str, open_page: Pages, dark: bool) -> None:
    from browser import PHONE, axe

    page = open_page(url, viewport=PHONE, dark=dark)
    upload(page, path)
    wait_for_text(page, "Click on a thing to follow it")
    click(page, place(clip, 0, FIRST))
    wait_for_text(page, "Now track it")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert axe(page) == []
