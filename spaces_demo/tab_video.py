"""The tab "Video": prompts on a frame, tracked through the whole, corrected on any frame and continued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr

from sam_variants import Masks
from sam_variants.spaces_demo.background import Result, in_steps
from sam_variants.spaces_demo.canvas import canvas, mask_props
from sam_variants.spaces_demo.downloads import download_button
from sam_variants.spaces_demo.example_strip import VIDEO_SUFFIXES, example_strip, examples, taken
from sam_variants.spaces_demo.models import EMBEDDED_VIDEO, store
from sam_variants.spaces_demo.page_parts import card, note, progress_bar
from sam_variants.spaces_demo.prompts import read_objects
from sam_variants.spaces_demo.python_code import video_code
from sam_variants.spaces_demo.python_panel import python_panel
from sam_variants.spaces_demo.shared import SOON, Shared, model_picker
from sam_variants.spaces_demo.video_files import read_header
from sam_variants.spaces_demo.video_jobs import VideoJob
from sam_variants.spaces_demo.video_output import json_file, overlay_file
from sam_variants.spaces_demo.video_panel import (
    NO_VIDEO,
    described,
    reading_line,
    timeline,
    track_label,
    tracking_line,
)
from sam_variants.spaces_demo.visits import Visit

UPLOAD_ID = "video-upload"
SECONDS_BETWEEN_VIEWS = 0.25
PUT_AWAY = "The video is no longer here: files are kept for an hour. Open it again."
TIMELINE_CSS = """
.timeline { position: relative; height: 10px; margin: 0 2px; border-radius: 5px; overflow: hidden;
  background: var(--border-color-primary); }
.timeline span { position: absolute; top: 0; bottom: 0; }
.timeline .done { background: var(--primary-500); }
.timeline .old { background: var(--primary-500); opacity: 0.3; }
.timeline .prompt { background: #f59e0b; border-radius: 2px; }
"""
# Reading and tracking take long; prompts and looking at frames come often and must not wait for them.
TRACKING: dict[str, Any] = {"concurrency_id": "video", "concurrency_limit": 1, "api_visibility": "private"}
READING: dict[str, Any] = {"concurrency_id": "video-reading", "concurrency_limit": 2, "api_visibility": "private"}
LOOKING: dict[str, Any] = {"concurrency_id": "video-frames", "concurrency_limit": 2, "api_visibility": "private"}
# At its end gradio sends a generator's last step once more, which may belong to a video that was left meanwhile.
NOTHING_MORE = [gr.skip()] * 6
NO_JOB = "There is no video yet. Open one, or take the example."


def add(shared: Shared) -> None:
    """Put the tab's parts on the page."""
    offered = examples(VIDEO_SUFFIXES)
    with gr.Row(elem_classes=["workspace"]):
        with gr.Column(scale=7, min_width=320, elem_classes=["stage"]):
            picture = canvas("Frame to click on", elem_id="video-canvas", upload_id=UPLOAD_ID, track=True)
            bar = gr.HTML("", elem_id="video-timeline", container=False, css_template=TIMELINE_CSS)
            slider = gr.Slider(
                0, 1, value=0, step=1, label="Frame", elem_id="video-frame", interactive=False, buttons=[]
            )
        with gr.Column(scale=3, min_width=280, elem_classes=["side"]):
            with gr.Row(elem_id=UPLOAD_ID):
                upload = gr.UploadButton("Open video", file_types=["video", ".gif"], variant="primary", size="md")
            strip = example_strip(offered, elem_id="video-examples")
            model = model_picker("Tracking model", EMBEDDED_VIDEO, elem_id="video-model")
            with gr.Row(elem_classes=["actions"]):
                start = gr.Button(
                    "Track", variant="primary", scale=3, min_width=140, interactive=False, elem_id="video-track"
                )
                stop = gr.Button("Stop", scale=1, min_width=80, interactive=False, elem_id="video-stop")
            panel = gr.HTML(NO_VIDEO, elem_id="video-answer")
            with gr.Row(elem_classes=["download-row"]):
                download_button("Overlay video", save_overlay, [picture, shared.visit], elem_id="video-overlay")
                download_button("Masks as JSON", save_json, [picture, shared.visit], elem_id="video-json")
            python_panel(script, [shared.visit])
    outputs = [picture, bar, slider, panel, start, stop]

    def open_example(event: gr.EventData, visit: Visit, choice: str) -> Iterator[list[Any]]:
        yield from open_video(str(taken(event, offered).path), visit, choice)

    upload.upload(open_video, [upload, shared.visit, model], outputs, show_progress="hidden", **READING)
    strip.take(open_example, [shared.visit, model], outputs, show_progress="hidden", **READING)
    picture.prompt(
        answer, [picture, shared.visit], outputs, trigger_mode="always_last", show_progress="hidden", **LOOKING
    )
    slider.input(
        look, [slider, picture, shared.visit], outputs, trigger_mode="always_last", show_progress="hidden", **LOOKING
    )
    model.input(
        choose,
        [model, slider, shared.visit],
        [model, *outputs],
        trigger_mode="always_last",
        show_progress="hidden",
        **TRACKING,
    )
    start.click(waiting, [picture, shared.visit], [panel, start, stop], show_progress="hidden", **LOOKING).success(
        track, [slider, shared.visit], outputs, show_progress="hidden", **TRACKING
    )
    stop.click(stopping, [shared.visit], [stop], **SOON)


def needed(visit: Visit) -> VideoJob:
    """The visitor's job.

    Raises:
        gr.Error: when there is none, or it was put away.
    """
    job = visit.video
    if not isinstance(job, VideoJob):
        raise gr.Error(NO_JOB, print_exception=False)
    job.check_open()
    return job


def open_video(path: str, visit: Visit, choice: str) -> Iterator[list[Any]]:
    """Show the first frame at once, then read the rest with progress."""
    expected = read_header(path).num_frames
    job = VideoJob(path, choice=choice)
    if isinstance(visit.video, VideoJob):
        visit.video.stop()
    visit.video = job
    yield [frame_view(job, 0), "", unused_slider(), reading_line(job, expected), *buttons(job)]
    told = monotonic()
    try:
        for _ in job.reading():
            if visit.video is not job:
                yield NOTHING_MORE
                return
            if monotonic() - told > SECONDS_BETWEEN_VIEWS:
                told = monotonic()
                yield [gr.skip(), gr.skip(), gr.skip(), reading_line(job, expected), *buttons(job)]
    except gr.Error:
        visit.video = None
        yield [gr.HTML(photo=None, masks={}), "", unused_slider(), NO_VIDEO, *buttons(None)]
        raise
    # The canvas stays as it is: there may be clicks on it already.
    yield [gr.skip(), *around(job, 0)]


def answer(value: Any, visit: Visit) -> list[Any]:
    """The masks for the prompts on the frame that the canvas shows; where none can be given, the canvas is set back."""
    job, kept = visit.video, [gr.skip()] * 6
    if job is None and isinstance(value, Mapping) and value.get("photo") is not None:
        raise gr.Error(PUT_AWAY, print_exception=False)
    frame = shown_frame(value, job)
    if frame is None or job.is_tracking:
        return kept
    try:
        keep_prompts(job, value)
        masks = job.answer(frame)
    except gr.Error as error:
        gr.Warning(str(error.message))
        return [frame_view(job, frame), *kept[1:]]
    bar, _, *others = around(job, frame)
    # Not the slider: it may have been moved on already.
    return [gr.HTML(masks=masks_shown(job, masks, value["photo"], value.get("version"))), bar, gr.skip(), *others]


def look(frame: float, value: Any, visit: Visit) -> list[Any]:
    """Another frame, with its prompts and what was tracked there."""
    job = needed(visit)
    if job.is_tracking:
        return [gr.skip()] * 6
    keep_prompts(job, value)
    index = min(max(int(frame), 0), job.video.num_frames - 1)
    if index in job.prompts and job.can_prompt(index):
        job.answer(index)  # unless it is known already
    return [frame_view(job, index), *around(job, index)]


def choose(choice: str, frame: float, visit: Visit) -> Iterator[list[Any]]:
    """Load a model with progress and go on with it; keep the one before where that fails."""
    job = visit.video if isinstance(visit.video, VideoJob) else None
    before = EMBEDDED_VIDEO if job is None else job.choice
    kept = [gr.skip()] * 6
    try:
        if job is not None and job.is_tracking:
            raise gr.Error("Tracking is running. Stop it first, then choose another model.")
        for step in in_steps(lambda report: store().get(choice, report)):
            if isinstance(step, Result):
                if not step.value.can_track:
                    raise gr.Error(f"{choice} is for photos and can't track. Choose a SAM 2 model.")
            else:
                yield [gr.skip(), *kept[:3], card("Model", progress_bar(step.fraction, step.text)), *kept[4:]]
    except gr.Error as error:
        gr.Warning(str(error.message), title="The model stays as it was", duration=20)
        yield [before, *(kept if job is None else [gr.skip(), *around(job, int(frame))])]
        return
    if job is None:
        yield [choice, *kept[:3], NO_VIDEO, *kept[4:]]
        return
    job.choice = choice
    index = int(frame)
    if index in job.prompts and job.can_prompt(index):
        job.answer(index)
    yield [choice, frame_view(job, index), *around(job, index)]


def waiting(value: Any, visit: Visit) -> list[Any]:
    """What is shown until tracking has its turn."""
    job = needed(visit)
    keep_prompts(job, value)
    job.allow()
    return [card("Tracking", note("Waiting for a free place…", "busy")), *buttons(job, is_running=True)]


def stopping(visit: Visit) -> Any:
    """End tracking behind the frame it is at."""
    if isinstance(visit.video, VideoJob):
        visit.video.stop()
    return gr.Button("Stopping…", interactive=False)


def track(frame: float, visit: Visit) -> Iterator[list[Any]]:
    """Track what is missing, and show every now and then how it looks."""
    job = needed(visit)
    kept = [gr.skip()] * 3  # the buttons are left to `waiting` and `stopping`
    last, told = int(frame), 0.0
    failure: Exception | None = None
    begun = card("Tracking", note("Starting…", "busy"))
    yield [gr.HTML(busy=True), gr.skip(), gr.Slider(interactive=False), begun, *kept[:2]]
    try:
        for load in in_steps(lambda report: store().get(job.choice, report)):
            if not isinstance(load, Result):
                yield [*kept, card("Model", progress_bar(load.fraction, load.text)), *kept[:2]]
        for step in job.track():
            if visit.video is not job:
                yield NOTHING_MORE
                return
            if step.is_new:
                last = step.frame
            if monotonic() - told < SECONDS_BETWEEN_VIEWS:
                continue
            told = monotonic()
            line = tracking_line(job, step)
            if step.is_new:
                seen = [frame_view(job, last, busy=True), timeline(job, last), gr.Slider(value=last)]
                yield [*seen, line, *kept[:2]]
            else:
                yield [*kept, line, *kept[:2]]
    except Exception as error:
        failure = error
    yield [frame_view(job, last), *around(job, last)] if visit.video is job else NOTHING_MORE
    if isinstance(failure, gr.Error):
        raise failure
    if failure is not None:
        raise gr.Error("Tracking broke off; what was done is kept. Continue, or reload the page.") from failure


def frame_view(job: VideoJob, frame: int, busy: bool = False) -> Any:
    """The canvas on one frame: its picture, its prompts, and the masks as far as it was tracked."""
    video = job.video
    prompts = job.prompts
    given = prompts.get(frame, {})
    prompted = {object_id for by_object in prompts.values() for object_id in by_object}
    objects = [
        {
            "id": object_id,
            "name": name,
            "points": [list(point) for point in given[object_id].points] if object_id in given else [],
            "labels": list(given[object_id].labels) if object_id in given else [],
            "box": list(box) if object_id in given and (box := given[object_id].box) else None,
            "candidate": None,
            "tracked": object_id in prompted,
        }
        for object_id, name in sorted(job.names.items())
    ]
    job.num_views += 1
    photo: dict[str, Any] = {
        "id": f"{job.id}/{frame}/{job.num_views}",  # a new one, so that the canvas takes the objects as they are here
        "url": video.picture_url(frame),
        "width": video.width,
        "height": video.height,
        "alt": f"Frame {frame} of {video.name}",
        "objects": objects,
    }
    return gr.HTML(photo=photo, masks=masks_shown(job, job.masks(frame), photo["id"], 0), busy=busy)


def masks_shown(job: VideoJob, masks: Masks | None, photo: str, version: Any) -> dict[str, Any]:
    """Masks of a frame as the canvas takes them."""
    if masks is None or masks.object_ids is None:
        return {"photo": photo, "version": version, "objects": []}
    ids = masks.object_ids.tolist()
    return mask_props(masks, ids, photo=photo, version=version, size=(job.video.height, job.video.width))


def around(job: VideoJob, frame: int) -> list[Any]:
    """What is shown around the canvas: timeline, slider, panel and buttons."""
    last = job.video.num_frames - 1
    slider = gr.Slider(maximum=max(last, 1), value=frame, interactive=last > 0)
    return [timeline(job, frame), slider, described(job, frame), *buttons(job)]


def unused_slider() -> Any:
    return gr.Slider(maximum=1, value=0, interactive=False)


def buttons(job: VideoJob | None, is_running: bool = False) -> list[Any]:
    """Track or continue, and stop."""
    label, has_work = track_label(job)
    return [
        gr.Button(label, interactive=has_work and not is_running),
        gr.Button("Stop", interactive=is_running),
    ]


def shown_frame(value: Any, job: Any) -> int | None:
    """Which frame of the visitor's video a canvas speaks of; None for another video's, or none."""
    if not isinstance(job, VideoJob) or not isinstance(value, Mapping):
        return None
    name, _, rest = str(value.get("photo")).partition("/")
    frame = rest.partition("/")[0]
    if name != job.id or not (frame.isascii() and frame.isdecimal()) or int(frame) >= job.video.num_frames:
        return None
    return int(frame)


def keep_prompts(job: VideoJob, value: Any) -> None:
    """Take over prompts and names from a canvas, whether or not its last event has come.

    Raises:
        gr.Error: for what no canvas sends, and for prompts that can't be given on this frame.
    """
    frame = shown_frame(value, job)
    if frame is None or job.is_tracking:
        return
    given = value.get("objects")
    objects = read_objects(given, (job.video.height, job.video.width))
    names = {int(item["id"]): " ".join(item.get("name", "").split()) or f"Object {item['id']}" for item in given}
    job.set_prompts(frame, objects, names)


def save_overlay(value: Any, visit: Visit) -> Path:
    """The video with its masks, up to the last tracked frame."""
    job = needed(visit)
    keep_prompts(job, value)
    gr.Info("Drawing the masks into the video…", duration=3)
    return overlay_file(job)


def save_json(value: Any, visit: Visit) -> Path:
    """The masks of all tracked frames."""
    job = needed(visit)
    keep_prompts(job, value)
    return json_file(job)


def script(visit: Visit) -> str:
    """The tracking as a Python script."""
    job = needed(visit)
    return video_code(store().get(job.choice), job.video.name, job.task().prompts)
