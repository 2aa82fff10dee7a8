"""What a visitor clicked and drew, read from the browser's JSON with every check, because anybody can send anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.photos import Photo

MALFORMED = "The page sent prompts that can't be read ({problem}). Reload it and try again."
INCLUDE, EXCLUDE = 1, 0
MAX_NUMBER = 2**53
CANDIDATES = (None, 0, 1, 2)


@dataclass(frozen=True)
class ObjectPrompts:
    """The prompts of one object, in whole pixels of the original photo.

    Attributes:
        id: from 1; its number, colour and place in the list.
        name: what the visitor calls it.
        points: (x, y) each.
        labels: 1 include, 0 exclude, one for each point.
        box: (x1, y1, x2, y2).
        candidate: which of the model's three answers, best first; None leaves it to the package.
    """

    id: int
    name: str
    points: tuple[tuple[int, int], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[int, int, int, int] | None = None
    candidate: int | None = None


def read_value(value: Any, photo: Photo | None) -> list[ObjectPrompts]:
    """The objects of a canvas's value, without those that have no prompt.

    Args:
        value: what the browser sent.
        photo: the photo that it must be about.

    Raises:
        gr.Error: without a photo, for too many prompts, and for what no canvas sends.
    """
    if photo is None:
        raise gr.Error("There is no photo yet: upload one, or take an example.")
    if value is None:
        return []
    if not isinstance(value, dict):
        raise malformed("no object")
    if value.get("photo") != photo.id:
        raise gr.Error("These clicks belong to another photo. Click again on the one you see.")
    if not _is_whole(value.get("version")):
        raise malformed("its version must be a whole number")
    return read_objects(value.get("objects"), photo.size)


def read_objects(values: Any, size: tuple[int, int]) -> list[ObjectPrompts]:
    """The objects of a list of JSON objects, without those that have no prompt.

    Args:
        values: a list of dicts with the fields of `ObjectPrompts`.
        size: (height, width) of the image, or of the video's frames.

    Raises:
        gr.Error: as `read_value`.
    """
    if not isinstance(values, list):
        raise malformed("objects must be a list")
    if len(values) > limits.MAX_OBJECTS:
        raise gr.Error(f"{limits.MAX_OBJECTS} objects are the most: delete some of the {len(values)}.")
    num_points = sum(len(points) for item in values if isinstance(points := _field(item, "points"), list))
    if num_points > limits.MAX_POINTS:
        raise gr.Error(f"{limits.MAX_POINTS} clicks are the most: undo or clear some of the {num_points}.")
    objects = [_read_object(item, size) for item in values]
    if len({item.id for item in objects}) < len(objects):
        raise malformed("two objects have one id")
    return [item for item in objects if item.points or item.box]


def malformed(problem: str) -> gr.Error:
    """The error for what no page of ours sends."""
    return gr.Error(MALFORMED.format(problem=problem))


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else None


def _read_object(item: Any, size: tuple[int, int]) -> ObjectPrompts:
    if not isinstance(item, dict):
        raise malformed("an object is none")
    number: Any = item.get("id")
    if not _is_whole(number) or not 1 <= number < 2**31:
        raise malformed("an object's id must be a whole number from 1")
    name = item.get("name", f"Object {number}")
    if not isinstance(name, str):
        raise malformed("an object's name must be text")
    if len(name) > limits.MAX_NAME:
        raise gr.Error(f"The name of object {number} is too long: {limits.MAX_NAME} characters are the most.")
    points, labels = item.get("points", []), item.get("labels", [])
    if not isinstance(points, list) or not isinstance(labels, list) or len(points) != len(labels):
        raise malformed("points and labels must be lists of one length")
    if any(not _is_whole(label) or label not in (INCLUDE, EXCLUDE) for label in labels):
        raise malformed("a label must be 1 or 0")
    candidate: Any = item.get("candidate")
    if candidate is not None and (not _is_whole(candidate) or candidate not in CANDIDATES):
        raise malformed("a candidate must be 0, 1 or 2")
    return ObjectPrompts(
        id=int(number),
        name=" ".join(name.split()) or f"Object {number}",
        points=tuple(_read_point(point, size) for point in points),
        labels=tuple(int(label) for label in labels),
        box=_read_box(item.get("box"), size),
        candidate=None if candidate is None else int(candidate),
    )


def _read_point(point: Any, size: tuple[int, int]) -> tuple[int, int]:
    x, y = _whole_numbers(point, 2, "a point must be [x, y] in whole pixels")
    height, width = size
    if not (0 <= x < width and 0 <= y < height):
        raise gr.Error(f"The point {x}, {y} is outside the image of {width}×{height} pixels.")
    return x, y


def _read_box(box: Any, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    if box is None:
        return None
    x1, y1, x2, y2 = _whole_numbers(box, 4, "a box must be [x1, y1, x2, y2] in whole pixels")
    height, width = size
    if not (0 <= x1 <= width and 0 <= x2 <= width and 0 <= y1 <= height and 0 <= y2 <= height):
        raise gr.Error(f"The box {x1}, {y1}, {x2}, {y2} is outside the image of {width}×{height} pixels.")
    if x1 >= x2 or y1 >= y2:
        raise gr.Error("A box needs a width and a height: drag from one corner to the opposite one.")
    return x1, y1, x2, y2


def _whole_numbers(values: Any, count: int, problem: str) -> Sequence[int]:
    if not isinstance(values, list) or len(values) != count or not all(_is_whole(value) for value in values):
        raise malformed(problem)
    return [int(value) for value in values]


def _is_whole(value: Any) -> bool:
    """Whether a JSON number is whole, and one that a browser can hold; true, NaN and infinity are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_NUMBER < value < MAX_NUMBER:
        return False
    return isinstance(value, int) or value.is_integer()
