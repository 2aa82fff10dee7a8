"""What a visitor takes home of a tracked video: the video with its masks drawn in, and the masks as COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from sam_variants import Masks
from sam_variants.processing.video_reader import read_frames
from sam_variants.processing.video_writer import VideoWriter
from sam_variants.spaces_demo.video_jobs import VideoJob

# Frames closer together than this are shown one frame period apart.
SHORTEST_SECONDS = 1e-3
NOTHING_YET = "There is nothing tracked yet. Click on something and press Track first."


def tracked_frames(job: VideoJob) -> range:
    """The frames with masks that follow from the prompts as they are.

    Raises:
        gr.Error: when there are none.
    """
    if not job.task().prompts:
        raise gr.Error(NOTHING_YET)
    frames = range(job.task().first, job.next_frame())
    if not frames:
        raise gr.Error(NOTHING_YET)
    return frames


def overlay_file(job: VideoJob) -> Path:
    """The finished video of `write_overlay`."""
    *_, path = write_overlay(job)
    assert isinstance(path, Path)
    return path


def write_overlay(job: VideoJob) -> Iterator[int | Path]:
    """Draw the masks into the video, up to the last tracked frame; frames keep their times.

    Returns:
        An iterator over the number of frames written, and at the end the mp4 file.

    Raises:
        gr.Error: when nothing was tracked yet.
    """
    frames = tracked_frames(job)
    path = Path(job.folder) / f"{file_stem(job)}_overlay.mp4"
    begin: float | None = None
    last = -SHORTEST_SECONDS
    with VideoWriter(path, job.video.fps) as writer:
        for frame in read_frames(job.video.path, stop=frames.stop):
            masks = job.masks(frame.index) if frame.index in frames else None
            shown = None
            if frame.time is not None:
                begin = frame.time if begin is None else begin
                shown = frame.time - begin
            if shown is None or shown < last + SHORTEST_SECONDS:
                shown = None if writer.num_frames else 0.0
            writer.write(frame.image if masks is None else drawn(frame.image, masks), shown)
            last = last + float(1 / writer.fps) if shown is None else shown
            yield frame.index + 1
    yield path


def drawn(image: np.ndarray, masks: Masks) -> np.ndarray:
    """What `masks.overlay` draws, in the time that the part of the frame with masks takes.

    Args:
        image: H×W×3 uint8 RGB; changed in place where it may be.
        masks: of its size.
    """
    boxes = masks.boxes[masks.areas > 0]
    if not len(boxes):
        return image
    height, width = masks.size
    # One pixel around it, so that no mask ends with the picture where it doesn't.
    left, top = (boxes[:, :2].amin(dim=0) - 1).clamp(min=0).tolist()
    right, bottom = (boxes[:, 2:].amax(dim=0) + 1).tolist()
    window = np.s_[top : min(bottom, height), left : min(right, width)]
    part = Masks(masks.data[(slice(None), *window)], object_ids=masks.object_ids)
    image = image if image.flags.writeable else image.copy()
    image[window] = part.overlay(image[window], contour_width=max(1, round(min(height, width) / 250)))
    return image


def json_file(job: VideoJob) -> Path:
    """Write the masks of every tracked frame as one COCO file.

    Frames are `images` with `frame_index` and `time`; objects are `categories`, and `object_id` in every annotation;
    masks are compressed RLE at the size of the video.

    Raises:
        gr.Error: when nothing was tracked yet.
    """
    path = Path(job.folder) / f"{file_stem(job)}_masks.json"
    path.write_text(json.dumps(coco_content(job)))
    return path


def coco_content(job: VideoJob) -> dict[str, Any]:
    """The content of `json_file`."""
    video, frames = job.video, tracked_frames(job)
    size = {"width": video.width, "height": video.height}
    annotations = [
        entry | {"image_id": frame, "category_id": entry["object_id"]}
        for frame in frames
        for entry in job.results[frame].annotations
    ]
    return {
        "info": {"description": video.name, "fps": float(video.fps), "num_frames": video.num_frames, **size},
        "images": [
            {"id": frame, "file_name": video.name, "frame_index": frame, "time": job.results[frame].time, **size}
            for frame in frames
        ],
        "annotations": [entry | {"id": number} for number, entry in enumerate(annotations, 1)],
        "categories": [{"id": object_id, "name": name} for object_id, name in sorted(job.names.items())],
    }


def file_stem(job: VideoJob) -> str:
    """The visitor's name for the video, as it can stand in a file name."""
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in Path(job.video.name).stem)
    return stem[:60] or "video"
