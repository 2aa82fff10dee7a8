"""The prompts of API calls: the canvas's JSON with what programs may leave out put in, checked the same way."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.prompts import ObjectPrompts, read_objects
from sam_variants.spaces_demo.segmenting import answerable

EXAMPLE = '[{"points": [[155, 50]], "labels": [1]}] or [{"box": [10, 10, 80, 90]}]'


def read_image_objects(values: Any, size: tuple[int, int]) -> list[ObjectPrompts]:
    """The objects of a call about one image.

    Args:
        values: a list of objects as the canvas has them; `id`, `name` and `labels` may be missing.
        size: (height, width) of the image.

    Raises:
        gr.Error: for anything else, and for objects that can't be answered.
    """
    objects = read_objects(completed(values), size)
    if not objects:
        raise gr.Error(f"There is nothing to segment: give objects with points or a box, such as {EXAMPLE}.")
    if unclear := [item.name for item in objects if not answerable(item)]:
        raise gr.Error(f"{unclear[0]} only says what it is not: add a point on it (label 1), or a box.")
    return objects


def read_frame_prompts(values: Any, size: tuple[int, int]) -> dict[int, dict[int, ObjectPrompts]]:
    """The prompts of a call about a video: frame → object id → prompts.

    Args:
        values: a list of {"frame", "objects"}.
        size: (height, width) of the frames.

    Raises:
        gr.Error: for anything else, and for objects that begin with exclusions alone.
    """
    example = f'[{{"frame": 0, "objects": {EXAMPLE.split(" or ")[0]}}}]'
    if not isinstance(values, list) or not values or not all(isinstance(item, dict) for item in values):
        raise gr.Error(f"prompts must be a list of frames with objects, such as {example}.")
    if len(values) > limits.MAX_VIDEO_FRAMES:
        raise gr.Error(f"{limits.MAX_VIDEO_FRAMES} prompted frames are the most.")
    by_frame: dict[int, dict[int, ObjectPrompts]] = {}
    for item in values:
        frame = whole_number(item.get("frame", 0), "frame")
        if frame in by_frame:
            raise gr.Error(f"Frame {frame} is given twice: put its objects into one list.")
        objects = read_objects(completed(item.get("objects")), size)
        if objects:
            by_frame[frame] = {each.id: each for each in objects}
    if not by_frame:
        raise gr.Error(f"There is nothing to track: give frames with objects, such as {example}.")
    _check_totals(by_frame)
    return by_frame


def completed(values: Any) -> Any:
    """Objects with the fields that may be left out; what is wrong with them is found by `read_objects`."""
    if isinstance(values, dict):
        values = [values]
    if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
        raise gr.Error(f"objects must be a list, such as {EXAMPLE}.")
    return [_completed(item, number) for number, item in enumerate(values, 1)]


def whole_number(value: Any, name: str) -> int:
    """A JSON number that is whole.

    Raises:
        gr.Error: for anything else.
    """
    if not _is_number(value) or not -(2**31) < value < 2**31 or value != int(value):
        raise gr.Error(f"{name} must be a whole number.")
    return int(value)


def share(value: Any, name: str) -> float | None:
    """A JSON number from 0 to 1, or None.

    Raises:
        gr.Error: for anything else.
    """
    if value is not None and (not _is_number(value) or not 0 <= value <= 1):
        raise gr.Error(f"{name} must be a number from 0 to 1.")
    return None if value is None else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _completed(item: dict[str, Any], number: int) -> dict[str, Any]:
    points = item.get("points") or []
    labels = [1] * len(points) if isinstance(points, list) else []
    return {"id": number, **item, "points": points, "labels": labels if item.get("labels") is None else item["labels"]}


def _check_totals(by_frame: dict[int, dict[int, ObjectPrompts]]) -> None:
    objects = {number for given in by_frame.values() for number in given}
    if len(objects) > limits.MAX_VIDEO_OBJECTS:
        raise gr.Error(f"{limits.MAX_VIDEO_OBJECTS} objects are the most in a video; these are {len(objects)}.")
    num_points = sum(len(item.points) for given in by_frame.values() for item in given.values())
    if num_points > limits.MAX_POINTS:
        raise gr.Error(f"{limits.MAX_POINTS} points are the most; these are {num_points}.")
    num_prompts = sum(len(given) for given in by_frame.values())
    if num_prompts > limits.MAX_VIDEO_PROMPTS:
        raise gr.Error(
            f"{limits.MAX_VIDEO_PROMPTS} prompts are the most in a video, counted by object and frame; these are "
            f"{num_prompts}."
        )
    for number in objects:
        first = min(frame for frame, given in by_frame.items() if number in given)
        if not answerable(by_frame[first][number]):
            raise gr.Error(f"Object {number} must begin with a point on it (label 1), or a box.")
