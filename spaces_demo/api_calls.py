"""What API calls do: the page's functions on uploaded files, with nothing kept between calls.

The docstrings are what callers read: on the API page, and as descriptions of MCP tools, which have these names.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sam_variants import Masks
from sam_variants.spaces_demo import comparing, limits, video_output
from sam_variants.spaces_demo.api_prompts import read_frame_prompts, read_image_objects, share, whole_number
from sam_variants.spaces_demo.downloads import FORMATS, write
from sam_variants.spaces_demo.everything import find_everything, suiting_options
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO, store
from sam_variants.spaces_demo.photos import Photo, cache_file, open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts
from sam_variants.spaces_demo.segmenting import segment_objects
from sam_variants.spaces_demo.video_files import read_header
from sam_variants.spaces_demo.video_jobs import track_video

OVERLAY = "overlay"
NO_FILE = "none"
FILES = (NO_FILE, *FORMATS)


def models() -> dict[str, Any]:
    """List the models that can be chosen here, the kinds of files, and what is taken at most.

    Where `hub` is true, a model can also be "owner/name" of a repository on the Hugging Face Hub.

    Returns:
        models: names for the argument model
        hub: whether models on the Hugging Face Hub can be named
        files: values for the argument file
        limits: bytes of an upload, megapixels, prompts, length of a video
    """
    return {
        "models": store().choices(),
        "hub": store().allow_hub,
        "files": list(FILES),
        "limits": {
            "upload_bytes": limits.MAX_UPLOAD_BYTES,
            "megapixels": limits.MAX_MEGAPIXELS,
            "objects": limits.MAX_OBJECTS,
            "points": limits.MAX_POINTS,
            "video_seconds": limits.MAX_VIDEO_SECONDS,
            "video_frames": limits.MAX_VIDEO_FRAMES,
        },
    }


def segment(
    image: str, objects: list[Any], model: str = EMBEDDED, file: str = OVERLAY
) -> tuple[dict[str, Any], str | None]:
    """Segment objects in an image from points and boxes.

    `objects` is a list with one JSON object for each thing to cut out, with points on it, a box around it, or both:
    {"points": [[155, 50], [140, 60]], "labels": [1, 0], "box": [x1, y1, x2, y2], "name": "coin"}.
    Coordinates are whole pixels of the image from its top left corner. Label 1 says that a point is on the thing, 0
    that it is not; without labels all are 1.

    Args:
        image: The image, uploaded: JPEG, PNG or WebP.
        objects: What to segment: [{"points": [[x, y], ...], "labels": [1, ...], "box": [x1, y1, x2, y2]}, ...].
        model: A name that models lists.
        file: The file to return: overlay, cutout, masks, labels, coco or none.

    Returns:
        masks: width, height, model; for each object id, name, score (expected IoU), area, bbox and segmentation
        file: the file asked for
    """
    check_file(file)
    loaded = store().get(model)
    photo = open_photo(uploaded(image))
    prompts = read_image_objects(objects, photo.size)
    masks = segment_objects(loaded, photo, prompts)
    return described(photo, masks, prompts, loaded.name), written(file, masks, photo, [item.name for item in prompts])


def everything(
    image: str,
    points_per_side: int = 32,
    pred_iou_thresh: float | None = None,
    stability_score_thresh: float | None = None,
    min_mask_region_area: int = 0,
    model: str = EMBEDDED,
    file: str = OVERLAY,
    progress: gr.Progress = gr.Progress(),  # noqa: B008, gradio looks for it here
) -> tuple[dict[str, Any], str | None]:
    """Segment everything in an image: all masks that the model is sure of, without prompts.

    Args:
        image: The image, uploaded: JPEG, PNG or WebP.
        points_per_side: Points along each side of the image that the model is asked about, 1 to 64.
        pred_iou_thresh: Keep masks whose expected IoU is above this, 0 to 1; by default what suits the model.
        stability_score_thresh: Keep masks that are at least so stable, 0 to 1; by default what suits the model.
        min_mask_region_area: Fill holes and remove islands of fewer pixels.
        model: A name that models lists.
        file: The file to return: overlay, cutout, masks, labels, coco or none.

    Returns:
        masks: width, height, model, seconds by stage; for each mask score, area, bbox, segmentation
        file: the file asked for, unless nothing was found
    """
    check_file(file)
    loaded = store().get(model)
    chosen: dict[str, Any] = {
        "points_per_side": whole_number(points_per_side, "points_per_side"),
        "pred_iou_thresh": share(pred_iou_thresh, "pred_iou_thresh"),
        "stability_score_thresh": share(stability_score_thresh, "stability_score_thresh"),
        "min_mask_region_area": whole_number(min_mask_region_area, "min_mask_region_area"),
    }
    options = replace(suiting_options(loaded), **{name: value for name, value in chosen.items() if value is not None})
    photo = open_photo(uploaded(image))
    masks, times = find_everything(loaded, photo, options, lambda done, text: progress(done, desc=text))
    answer = described(photo, masks, None, loaded.name)
    return answer | {"seconds": times.seconds}, written(file, masks, photo, None) if len(masks) else None


def track(
    video: str,
    prompts: list[Any],
    model: str = EMBEDDED_VIDEO,
    overlay: bool = True,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> tuple[dict[str, Any], str, str | None]:
    """Track objects through a short video.

    `prompts` is a list with one JSON object for each frame on which something is pointed at:
    {"frame": 0, "objects": [{"id": 1, "points": [[200, 120]], "labels": [1], "name": "ball"}]}.
    Objects are as for segment, in whole pixels of a frame; the same id on a later frame corrects the object there.

    Args:
        video: The video, uploaded: mp4, mov, mkv, webm, avi or gif.
        prompts: What to track: [{"frame": 0, "objects": [{"id": 1, "points": [[x, y], ...]}]}, ...].
        model: A name that models lists, of a model that can track.
        overlay: Whether to return the video with the masks drawn in.

    Returns:
        tracked: number of frames, frames per second, width, height, first tracked frame, objects
        masks: COCO JSON file with the masks of every frame
        overlay: mp4 file with the masks drawn in
    """
    path = uploaded(video)
    header = read_header(path)
    by_frame = read_frame_prompts(prompts, (header.height, header.width))
    job = track_video(
        path,
        by_frame,
        store().get(model).name,
        lambda step: progress((step.frame + 1) / step.num_frames, desc=f"{step.speed:.1f} frames per second"),
    )
    answer = {
        "model": model,
        "num_frames": job.video.num_frames,
        "frames_per_second": float(job.video.fps),
        "width": job.video.width,
        "height": job.video.height,
        "first_frame": min(by_frame),
        "objects": [{"id": number, "name": name} for number, name in sorted(job.names.items())],
    }
    files = [video_output.json_file(job), video_output.overlay_file(job) if overlay else None]
    kept = [kept_file(path) if path else None for path in files]
    job.close()
    assert kept[0] is not None
    return answer, kept[0], kept[1]


def compare(
    image: str, objects: list[Any], first_model: str = EMBEDDED, second_model: str = EMBEDDED_VIDEO
) -> dict[str, Any]:
    """Ask two models about the same points and boxes in an image.

    Args:
        image: The image, uploaded: JPEG, PNG or WebP.
        objects: What to segment, as for segment: [{"points": [[x, y], ...], "box": [x1, y1, x2, y2]}, ...].
        first_model: A name that models lists.
        second_model: Another one.

    Returns:
        comparison: first, second: as from segment, with seconds; agreement: IoU of both masks of each object
    """
    loaded = [store().get(name) for name in (first_model, second_model)]
    photo = open_photo(uploaded(image))
    prompts = read_image_objects(objects, photo.size)
    found = comparing.compare(loaded[0], loaded[1], photo, prompts)
    answers = [
        described(photo, answer.masks, prompts, each.name)
        | {"encode_seconds": answer.encode_seconds, "decode_seconds": answer.decode_seconds}
        for answer, each in zip((found.first, found.second), loaded, strict=True)
    ]
    return {"first": answers[0], "second": answers[1], "agreement": found.agreement}


def uploaded(path: Any) -> str:
    """The path of an upload.

    Raises:
        gr.Error: when there is none.
    """
    if not isinstance(path, str):
        raise gr.Error("There is no file: upload one (gradio_client.handle_file with a file of yours).")
    return path


def check_file(name: Any) -> None:
    """Refuse an unknown format before any work is done; raises gr.Error."""
    if name not in FILES:
        raise gr.Error(f"file must be one of {', '.join(FILES)}; got {str(name)[:40]!r}.")


def described(photo: Photo, masks: Masks, prompts: Sequence[ObjectPrompts] | None, model: str) -> dict[str, Any]:
    """Masks as JSON."""
    found = masks.to_coco(image_id=1)
    names = [{"id": item.id, "name": item.name} for item in prompts] if prompts is not None else []
    unused = ("image_id", "category_id", "iscrowd", "object_id")
    entries = [{key: value for key, value in entry.items() if key not in unused} for entry in found]
    for entry, name in zip(entries, names, strict=False):
        entry |= name
    return {"model": model, "width": photo.width, "height": photo.height, "masks": entries}


def written(name: str, masks: Masks, photo: Photo, names: Sequence[str] | None) -> str | None:
    """The file that was asked for, in gradio's cache."""
    return None if name == NO_FILE else str(write(name, masks, photo, names))


def kept_file(path: Path) -> str:
    """Move a file into gradio's cache, where it is served until it is old."""
    target = cache_file(f"tracked-{uuid.uuid4().hex}", path.name)
    shutil.move(path, target)
    return str(target)
