"""What the video tab says beside the canvas, as HTML: the video, what was tracked, what to do next."""

from __future__ import annotations

from html import escape

import numpy as np

from sam_variants.mask_drawing import distinct_colors
from sam_variants.spaces_demo.page_parts import card, empty, facts, note, progress_bar
from sam_variants.spaces_demo.video_files import VideoFile, spoken_time
from sam_variants.spaces_demo.video_jobs import Progress, VideoJob

NO_VIDEO = empty("Video", "Open a video or take the example. Then click on a thing in its first frame.")
FIRST_CLICK = "Click on a thing to follow it. Then track it through the video."
TRACK, CONTINUE = "Track", "Continue from frame {frame}"


def described(job: VideoJob, frame: int) -> str:
    """The video, its objects, and what can be done at a frame."""
    return card(escape_title(job.video), facts(video_facts(job.video)), objects_list(job), advice(job, frame))


def escape_title(video: VideoFile) -> str:
    """The name, shortened; `card` escapes it."""
    return video.name if len(video.name) <= 40 else video.name[:37] + "…"


def video_facts(video: VideoFile) -> list[tuple[str, str]]:
    """Names and values."""
    seconds = video.num_frames / float(video.fps)
    return [
        ("Length", f"{video.num_frames} frames, {spoken_time(seconds)}"),
        ("Size", f"{video.width} × {video.height}"),
    ]


def objects_list(job: VideoJob) -> str:
    """Each object's colour, name, and on how many of the tracked frames it is seen."""
    if not job.prompts:
        return ""
    frames = tracked_range(job)
    seen = dict.fromkeys(job.names, 0)
    for frame in frames:
        for entry in job.results[frame].annotations:
            seen[entry["object_id"]] = seen.get(entry["object_id"], 0) + (entry["area"] > 0)
    rows = []
    for object_id, name in sorted(job.names.items()):
        red, green, blue = distinct_colors([object_id])[0].tolist()
        text = f"seen on {seen[object_id]} of {len(frames)} frames" if len(frames) > 1 else "not tracked yet"
        rows.append(
            f'<li><i style="background:rgb({red},{green},{blue})"></i><b>{escape(name)}</b><span>{text}</span></li>'
        )
    return f'<ul class="objects" style="margin-top: 10px">{"".join(rows)}</ul>'


def advice(job: VideoJob, frame: int) -> str:
    """What to do next."""
    task = job.task()
    if not task.prompts:
        if job.prompts:
            return note("Click on the thing itself too, with include.", "warning")
        return note(FIRST_CLICK)
    reached = job.next_frame()
    if not job.can_prompt(frame):
        return note(f"Frame {frame} is not tracked yet: masks and clicks begin when tracking has come here.", "warning")
    if reached >= job.video.num_frames:
        return note(
            "All frames are tracked. Where a mask went wrong, go to that frame and click to correct it.", "good"
        )
    if frame in job.results and not job.is_current(frame):
        return note(f"This mask is from before the correction: continue from frame {reached}.", "warning")
    if reached > task.first + 1:
        return note(f"Tracked up to frame {reached - 1}.")
    return note("Now track it through the video.")


def tracked_range(job: VideoJob) -> range:
    """The frames whose masks follow from the prompts as they are; empty without prompts."""
    task = job.task()
    return range(task.first, job.next_frame()) if task.prompts else range(0)


def tracking_line(job: VideoJob, step: Progress) -> str:
    """How far tracking is."""
    first = job.task().first
    fraction = (step.frame + 1 - first) / max(1, step.num_frames - first)
    verb = "Frame" if step.is_new else "Getting ready: frame"
    return card(
        escape_title(job.video),
        progress_bar(fraction, f"{verb} {step.frame} of {step.num_frames - 1}, {step.speed:.1f} frames per second"),
        objects_list(job),
    )


def reading_line(job: VideoJob, expected: int | None) -> str:
    """How far reading the upload is."""
    count = job.video.num_frames
    text = f"Reading the video: {count} frames"
    return card(escape_title(job.video), progress_bar(count / max(count, expected or 2 * count), text))


def track_label(job: VideoJob | None) -> tuple[str, bool]:
    """What the button that tracks says, and whether there is anything to do."""
    if job is None or not job.task().prompts:
        return TRACK, False
    reached, first = job.next_frame(), job.task().first
    if reached >= job.video.num_frames:
        return TRACK, False
    return (TRACK if reached <= first + 1 else CONTINUE.format(frame=reached)), True


def timeline(job: VideoJob | None, frame: int) -> str:
    """A thin bar over the whole video: what is tracked, what is outdated, and where there are prompts."""
    if job is None:
        return ""
    count = job.video.num_frames
    current = tracked_range(job)
    old = sorted(set(job.results) - set(current)) if job.prompts else []
    spans = [_span(current.start, current.stop, count, "done")] if len(current) else []
    spans += [_span(begin, end, count, "old") for begin, end in _runs(old)]
    spans += [_span(index, index + 1, count, "prompt") for index in sorted(job.prompts)]
    said = f"tracked: frames {current.start} to {current.stop - 1}" if len(current) else "nothing tracked yet"
    prompted = ", ".join(map(str, sorted(job.prompts))) or "none"
    label = f"Frame {frame} of {count - 1}; {said}; prompts on frames: {prompted}"
    return f'<div class="timeline" role="img" aria-label="{escape(label)}">{"".join(spans)}</div>'


def _runs(frames: list[int]) -> list[tuple[int, int]]:
    if not frames:
        return []
    breaks = np.flatnonzero(np.diff(frames) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(np.array(frames), breaks)]


def _span(begin: int, end: int, count: int, kind: str) -> str:
    left, width = 100 * begin / count, 100 * (end - begin) / count
    return f'<span class="{kind}" style="left:{left:.2f}%;width:max({width:.2f}%,4px)"></span>'
