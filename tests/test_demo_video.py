"""The Space's video jobs: what is tracked, corrected and written, without a page."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from video_examples import write_video

import sam_variants
from sam_variants.hub_scripts.synthetic_clips import Clip, synthetic_clip
from sam_variants.processing.video_reader import read_frames
from sam_variants.spaces_demo import video_jobs, video_tracking
from sam_variants.spaces_demo.models import store
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.python_code import video_code
from sam_variants.spaces_demo.video_jobs import VideoJob, track_video
from sam_variants.spaces_demo.video_output import drawn, json_file, overlay_file, write_overlay

NUM_FRAMES = 14
FIRST, SECOND = 3, 5  # objects of the clip that the embedded checkpoint follows well
CORRECTED = 11


@pytest.fixture(scope="module")
def clip() -> Clip:
    return synthetic_clip(3, NUM_FRAMES, 128, difficulty=0.3)


@pytest.fixture(scope="module")
def path(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", list(clip.frames)))


@pytest.fixture
def job(path: str) -> Iterator[VideoJob]:
    job = VideoJob(path).read()
    yield job
    job.close()


def inside(clip: Clip, frame: int, number: int) -> tuple[int, int]:
    """The pixel of an object nearest to its centre."""
    ys, xs = np.nonzero(clip.masks[frame, number - 1])
    nearest = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return int(xs[nearest]), int(ys[nearest])


def clicked(number: int, *points: tuple[int, int], labels: tuple[int, ...] = (1,)) -> ObjectPrompts:
    return ObjectPrompts(number, f"Object {number}", points, labels)


def give(job: VideoJob, frame: int, *objects: ObjectPrompts) -> None:
    job.set_prompts(frame, objects, {**job.names, **{given.id: given.name for given in objects}})


def run(job: VideoJob) -> list[int]:
    """Track; the frames whose masks are new."""
    return [step.frame for step in job.track() if step.is_new]


def pixels(job: VideoJob) -> dict[int, torch.Tensor]:
    found = {frame: job.masks(frame) for frame in range(job.video.num_frames)}
    return {frame: masks.data for frame, masks in found.items() if masks is not None}


def by_session(path: str, prompts: dict[int, dict[int, ObjectPrompts]]) -> dict[int, torch.Tensor]:
    """What the package's own session gives when every frame's prompts come behind its step."""
    loaded = store().get("embedded-video")
    session = loaded.model.start_session(loaded.processor)
    answers = {}
    for frame in read_frames(path, start=min(prompts)):
        masks = session.step(frame.image)
        for given in prompts.get(frame.index, {}).values():
            arguments = {"points": given.points, "labels": given.labels} if given.points else {}
            masks = session.add_object(given.id, boxes=given.box, **arguments)
        answers[frame.index] = masks.data
    return answers


def assert_equal(found: dict[int, torch.Tensor], expected: dict[int, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for frame, masks in expected.items():
        assert torch.equal(found[frame], masks), f"frame {frame}"


def overlap(mask: torch.Tensor, truth: np.ndarray) -> float:
    return float((mask.numpy() & truth).sum() / max(1, (mask.numpy() | truth).sum()))


def test_objects_are_followed(clip: Clip, job: VideoJob) -> None:
    give(job, 0, clicked(1, inside(clip, 0, FIRST)), clicked(2, inside(clip, 0, SECOND)))
    assert len(job.answer(0)) == 2  # before anything is tracked
    assert run(job) == list(range(1, NUM_FRAMES))
    last = job.masks(NUM_FRAMES - 1)
    assert last is not None
    assert last.object_ids.tolist() == [1, 2]
    assert [overlap(mask, clip.masks[-1, n - 1]) > 0.8 for mask, n in zip(last.data, (FIRST, SECOND), strict=True)]
    assert run(job) == []


def test_a_correction_gives_what_a_session_gives(clip: Clip, path: str, job: VideoJob) -> None:
    begin, late = clicked(1, inside(clip, 0, SECOND)), clicked(2, inside(clip, 4, FIRST))
    correction = clicked(1, inside(clip, CORRECTED, SECOND), inside(clip, CORRECTED, FIRST), labels=(1, 0))
    give(job, 0, begin)
    run(job)
    give(job, 4, late)
    run(job)
    give(job, CORRECTED, correction)
    assert [frame for frame in range(NUM_FRAMES) if job.is_current(frame)] == list(range(CORRECTED))
    job.answer(CORRECTED)
    assert run(job) == list(range(CORRECTED + 1, NUM_FRAMES))
    assert_equal(pixels(job), by_session(path, {0: {1: begin}, 4: {2: late}, CORRECTED: {1: correction}}))


@pytest.mark.parametrize("kept", ["memory", "disk", "nothing"])
def test_from_whatever_is_kept(clip: Clip, path: str, job: VideoJob, kept: str) -> None:
    """Only how many frames are stepped again depends on it."""
    begin = {0: {1: clicked(1, inside(clip, 0, FIRST))}}
    correction = clicked(1, inside(clip, CORRECTED, FIRST), (2, 2), labels=(1, 0))
    give(job, 0, *begin[0].values())
    run(job)
    give(job, CORRECTED, correction)
    if kept != "memory":
        video_tracking.HELD.forget(job.folder)
    if kept == "nothing":
        for state in Path(job.folder).glob("state*"):
            state.unlink()
    stepped = [answer.frame for answer in video_tracking.track_frames(job.task(), CORRECTED)]
    assert stepped[0] == {"memory": CORRECTED, "disk": 9, "nothing": 0}[kept] or kept == "memory"
    run(job)
    assert_equal(pixels(job), by_session(path, {**begin, CORRECTED: {1: correction}}))


def test_stopped_and_continued(clip: Clip, path: str, job: VideoJob) -> None:
    prompts = {0: {1: clicked(1, inside(clip, 0, FIRST))}}
    give(job, 0, *prompts[0].values())
    for step in job.track():
        if step.frame == 6:
            job.stop()
    assert job.next_frame() == 7
    assert not job.is_tracking
    assert run(job) == list(range(7, NUM_FRAMES))
    assert_equal(pixels(job), by_session(path, prompts))


def test_an_iterator_dropped_keeps_what_is_done(clip: Clip, job: VideoJob) -> None:
    give(job, 0, clicked(1, inside(clip, 0, FIRST)))
    steps = job.track()
    next(steps)
    with pytest.raises(gr.Error, match="running"):
        next(job.track())
    with pytest.raises(gr.Error, match="running"):
        give(job, 0, clicked(1, (1, 1)))
    steps.close()
    assert not job.is_tracking
    assert job.next_frame() == 1


def test_undoing_a_correction_brings_the_masks_back(clip: Clip, job: VideoJob) -> None:
    give(job, 0, clicked(1, inside(clip, 0, FIRST)))
    run(job)
    give(job, 5, clicked(1, (3, 3), labels=(0,)))
    assert job.next_frame() == 5
    give(job, 5)
    assert job.next_frame() == NUM_FRAMES


def test_order_of_clicks_does_not_matter(clip: Clip, job: VideoJob) -> None:
    one, two = inside(clip, 0, FIRST), inside(clip, 0, SECOND)
    give(job, 0, clicked(1, one))
    job.answer(0)
    give(job, 0, clicked(1, one, two, labels=(1, 1)))
    after_one = job.answer(0).data
    video_tracking.HELD.forget(job.folder)
    job.results.clear()
    assert torch.equal(job.answer(0).data, after_one)


def test_an_object_deleted_leaves_the_others(clip: Clip, job: VideoJob) -> None:
    give(job, 0, clicked(1, inside(clip, 0, FIRST)), clicked(2, inside(clip, 0, SECOND)))
    run(job)
    second = {frame: masks[1] for frame, masks in pixels(job).items()}
    job.set_prompts(0, [clicked(2, inside(clip, 0, SECOND))], {2: "Kept"})
    assert job.next_frame() == NUM_FRAMES
    assert_equal({frame: masks[0] for frame, masks in pixels(job).items()}, second)
    job.set_prompts(0, [], {})
    assert job.masks(3) is None or len(job.masks(3)) == 0
    with pytest.raises(gr.Error, match="what to track first"):
        run(job)


def test_what_an_object_is_not_does_not_begin_it(job: VideoJob) -> None:
    give(job, 0, clicked(1, (4, 4), labels=(0,)))
    assert len(job.answer(0)) == 0
    with pytest.raises(gr.Error, match="what to track first"):
        run(job)


def test_frames_that_tracking_has_not_reached(clip: Clip, job: VideoJob) -> None:
    give(job, 3, clicked(1, inside(clip, 3, FIRST)))
    with pytest.raises(gr.Error, match="not tracked yet"):
        give(job, 9, clicked(1, (4, 4)))
    with pytest.raises(gr.Error, match="no frame 14"):
        give(job, NUM_FRAMES, clicked(1, (4, 4)))
    assert len(job.answer(1)) == 0
    give(job, 1, clicked(1, inside(clip, 1, FIRST)))
    assert job.task().first == 1


def test_a_model_for_photos_is_refused(path: str) -> None:
    with pytest.raises(gr.Error, match="can't track"):
        track_video(path, {0: {1: clicked(1, (5, 5))}}, "embedded")


def test_too_much(job: VideoJob) -> None:
    with pytest.raises(gr.Error, match="12 objects"):
        give(job, 0, *(clicked(number, (1, 1)) for number in range(1, 14)))
    give(job, 0, clicked(1, *[(1, 1)] * 600, labels=(1,) * 600))
    with pytest.raises(gr.Error, match="1000 points"):
        give(job, 1, clicked(1, *[(1, 1)] * 401, labels=(1,) * 401))


def test_too_many_prompted_frames(job: VideoJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one is remembered to the end of the video, for each object."""
    monkeypatch.setattr(video_jobs, "MAX_VIDEO_PROMPTS", 2)
    give(job, 0, clicked(1, (5, 5)), clicked(2, (9, 9)))
    give(job, 0, clicked(1, (6, 5)), clicked(2, (9, 9)))
    with pytest.raises(gr.Error, match="prompts are the most"):
        give(job, 0, clicked(1, (6, 5)), clicked(2, (9, 9)), clicked(3, (20, 20)))


def test_states_stay_within_their_bound(clip: Clip, job: VideoJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_tracking, "STATE_BYTES", 3_000_000)
    monkeypatch.setattr(video_tracking, "MIN_STATE_DISTANCE", 1)
    give(job, 0, clicked(1, inside(clip, 0, FIRST)))
    run(job)
    states = list(Path(job.folder).glob("state*"))
    assert 1 <= len(states) < NUM_FRAMES - 1
    assert sum(state.stat().st_size for state in states) <= 3_000_000


def test_old_jobs_are_put_away(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_jobs, "MAX_OPEN_VIDEOS", 2)
    monkeypatch.setattr(video_jobs, "OPEN_JOBS", video_jobs.OpenJobs())
    jobs = [VideoJob(path) for _ in range(2)]
    jobs[0].check_open()
    jobs.append(VideoJob(path))
    assert [Path(job.folder).exists() for job in jobs] == [True, False, True]
    with pytest.raises(gr.Error, match="Upload it again"):
        jobs[1].answer(0)
    folders = [job.folder for job in jobs]
    del jobs
    assert not any(Path(folder).exists() for folder in folders)


def test_jobs_that_nobody_used_for_long_are_put_away(clip: Clip, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio keeps the state of a visitor who only had a video for as long as there is room for others."""
    monkeypatch.setattr(video_jobs, "OPEN_JOBS", video_jobs.OpenJobs())
    job = VideoJob(path).read()
    give(job, 0, clicked(1, inside(clip, 0, FIRST)))
    steps = job.track()
    next(steps)
    monkeypatch.setattr(video_jobs, "SESSION_SECONDS", -1)
    video_jobs.OPEN_JOBS.put_old_away()
    assert Path(job.folder).exists()  # it is tracked
    steps.close()
    video_jobs.OPEN_JOBS.put_old_away()
    assert not Path(job.folder).exists()
    assert job.results == {}
    with pytest.raises(gr.Error, match="Upload it again"):
        job.check_open()


def test_files(clip: Clip, path: str) -> None:
    job = track_video(path, {2: {1: clicked(1, inside(clip, 2, FIRST))}}, name="Ünser clip.MOV")
    job.results.pop(NUM_FRAMES - 1)  # as if stopped before the last frame
    written = list(write_overlay(job))
    assert written[:-1] == list(range(1, NUM_FRAMES))
    drawn = list(read_frames(overlay_file(job)))
    originals = list(read_frames(path))
    assert len(drawn) == NUM_FRAMES - 1
    assert np.allclose([frame.time for frame in drawn], [frame.time for frame in originals[:-1]], atol=1e-3)
    for frame in (0, 2, 10):
        masks = job.masks(frame)
        expected = originals[frame].image if masks is None else masks.overlay(originals[frame].image)
        difference = np.abs(drawn[frame].image.astype(int) - np.asarray(expected).astype(int))
        assert np.median(difference) <= 4
        assert np.percentile(difference, 95) < 40
    content = json.loads(json_file(job).read_text())
    assert [image["frame_index"] for image in content["images"]] == list(range(2, NUM_FRAMES - 1))
    assert content["categories"] == [{"id": 1, "name": "Object 1"}]
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, NUM_FRAMES - 2))
    of_frame = [entry for entry in content["annotations"] if entry["image_id"] == 10]
    assert torch.equal(sam_variants.Masks.from_coco(of_frame).data, job.masks(10).data)
    assert json_file(job).name == "Ünser_clip_masks.json"


@pytest.mark.parametrize("box", [(0, 0, 90, 60), (20, 10, 30, 40), (85, 50, 90, 60), None])
def test_drawn_is_the_overlay(box: tuple[int, int, int, int] | None) -> None:
    rng = np.random.default_rng(0)
    image, pixels = rng.integers(0, 256, (60, 90, 3), np.uint8), np.zeros((3, 60, 90), bool)
    if box is not None:
        x1, y1, x2, y2 = box
        pixels[:2, y1:y2, x1:x2] = rng.random((2, y2 - y1, x2 - x1)) < 0.7
    masks = sam_variants.Masks(pixels, object_ids=[2, 5, 9])
    assert np.array_equal(drawn(image.copy(), masks), np.asarray(masks.overlay(image)))


def test_what_goes_to_another_process(clip: Clip, job: VideoJob) -> None:
    """On ZeroGPU, what is given and returned is pickled, and only files survive."""
    give(job, 0, clicked(1, inside(clip, 0, FIRST)))
    for function, arguments in ((video_tracking.answer_frame, (0,)), (video_tracking.track_frames, (0,))):
        task = pickle.loads(pickle.dumps(job.task()))
        answers = function(task, *arguments)
        for answer in [answers] if isinstance(answers, video_tracking.Answer) else answers:
            assert pickle.loads(pickle.dumps(answer)) == answer
        video_tracking.HELD.forget(job.folder)
    assert list(Path(job.folder).glob("state000008*"))


def test_the_script_gives_the_same(
    clip: Clip, path: str, job: VideoJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(job, 1, clicked(1, inside(clip, 1, FIRST)))
    run(job)
    give(job, 6, clicked(1, (3, 3), labels=(0,)), clicked(2, inside(clip, 6, SECOND)))
    run(job)
    (tmp_path / "clip.mp4").write_bytes(Path(path).read_bytes())
    monkeypatch.chdir(tmp_path)
    left: dict[str, Any] = {}
    exec(video_code(store().get(job.choice), job.video.name, job.task().prompts), left)
    for frame in range(1, NUM_FRAMES):
        masks = sam_variants.Masks.from_coco([entry for entry in left["annotations"] if entry["image_id"] == frame])
        assert torch.equal(masks.data, job.masks(frame).data), f"frame {frame}"


def test_without_masks_there_are_no_files(job: VideoJob) -> None:
    for write in (json_file, overlay_file):
        with pytest.raises(gr.Error, match="nothing tracked yet"):
            write(job)
