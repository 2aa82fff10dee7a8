"""Points, labels, boxes and masks of any form, as the padded tensors that the model takes."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sam_variants.processing.coordinates import apply_boxes, apply_coords
from sam_variants.processing.mask_prompts import ImageGeometry, mask_logits
from sam_variants.processing.prompt_nesting import BOXES, LABELS, MASKS, POINTS, Entry, PromptKind, prompts_by_image

PADDING = -10
FOREGROUND = 1
LABEL_VALUES = (FOREGROUND, 0, -1, PADDING)

# One item per image: None, or one item per object: None or what the object has.
ByObject = list[list[Any] | None]


def prompt_arrays(
    images: Sequence[ImageGeometry], points: Any = None, labels: Any = None, boxes: Any = None, masks: Any = None
) -> dict[str, np.ndarray]:
    """Read prompts in original-image pixels and pad them to one shape; see `prompt_nesting` for the forms.

    P is the largest number of objects of an image, N the largest number of points of an object.

    Args:
        images: the geometry of every image.
        points: (x, y) prompts, 0..width and 0..height.
        labels: 1 foreground, 0 background, -1 not a point, -10 padding; left out, or None: foreground.
        boxes: (x1, y1, x2, y2) prompts.
        masks: see `mask_logits`.

    Returns:
        Of the prompts that were given: `input_points` B×P×N×2 float32 in pixels of the resized image, `input_labels`
        B×P×N int64, `input_boxes` B×P×4 float32, `input_masks` B×P×h×w float32. Padding: coordinates and labels -10,
        masks NaN.

    Raises:
        ValueError, TypeError: naming the prompt and what is allowed.
    """
    points_by_object = _read_points(images, points, labels)
    boxes_by_object = _read(BOXES, boxes, images, _box)
    masks_by_object = _read(MASKS, masks, images, mask_logits)
    given: dict[PromptKind, ByObject] = {
        kind: by_object
        for kind, by_object in ((POINTS, points_by_object), (BOXES, boxes_by_object), (MASKS, masks_by_object))
        if by_object is not None and any(objects is not None for objects in by_object)
    }
    num_objects = _num_objects(given, len(images))
    arrays: dict[str, np.ndarray] = {}
    if POINTS in given:
        arrays[POINTS.name], arrays[LABELS.name] = _pad_points(given[POINTS], images, num_objects)
    if BOXES in given:
        arrays[BOXES.name] = _pad_boxes(given[BOXES], images, num_objects)
    if MASKS in given:
        arrays[MASKS.name] = _pad_masks(given[MASKS], images, num_objects)
    return arrays


def _num_objects(given: dict[PromptKind, ByObject], num_images: int) -> int:
    """The largest number of objects; all kinds of prompts of an image must agree on theirs."""
    largest = 0
    for index in range(num_images):
        counts = {
            kind.name: len(objects) for kind, by_image in given.items() if (objects := by_image[index]) is not None
        }
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(
                f"the prompts of image {index} are for different numbers of objects: {listed}; they belong together by "
                "index, with None where an object has no such prompt"
            )
        largest = max([largest, *counts.values()])
    return largest


def _read(kind: PromptKind, value: Any, images: Sequence[ImageGeometry], read_one: Any) -> ByObject | None:
    if value is None:
        return None
    return [
        None if objects is None else [None if entry is None else read_one(entry, image) for entry in objects]
        for objects, image in zip(prompts_by_image(kind, value, len(images)), images, strict=True)
    ]


def _read_points(images: Sequence[ImageGeometry], points: Any, labels: Any) -> ByObject | None:
    """Per object a list of (x, y, label)."""
    if points is None:
        if labels is not None:
            raise ValueError("input_labels was given without input_points")
        return None
    points_by_image = prompts_by_image(POINTS, points, len(images))
    labels_by_image = [None] * len(images) if labels is None else prompts_by_image(LABELS, labels, len(images))
    return [
        _read_image_points(own_points, own_labels, image)
        for own_points, own_labels, image in zip(points_by_image, labels_by_image, images, strict=True)
    ]


def _read_image_points(points: list | None, labels: list | None, image: ImageGeometry) -> list[Any] | None:
    if points is None:
        if labels is not None:
            raise ValueError(f"input_labels has labels for image {image.index}, which has no points")
        return None
    labels = [None] * len(points) if labels is None else labels
    if len(labels) != len(points):
        raise ValueError(
            f"image {image.index}: input_labels describes {len(labels)} objects, input_points {len(points)}"
        )
    objects = []
    for index, (object_points, object_labels) in enumerate(zip(points, labels, strict=True)):
        num_points, num_labels = (0 if items is None else len(items) for items in (object_points, object_labels))
        if object_labels is None:
            object_labels, num_labels = [None] * num_points, num_points
        if num_points != num_labels:
            raise ValueError(
                f"object {index} of image {image.index}: input_labels has {num_labels} labels for "
                f"{num_points} input_points"
            )
        pairs = zip(object_points or [], object_labels, strict=True)
        objects.append([(*_point(point, image, label), label) for point, label in _with_labels(pairs)] or None)
    return objects


def _with_labels(pairs: Any) -> list[tuple[Entry, int]]:
    return [(point, FOREGROUND if label is None else _label(label)) for point, label in pairs]


def _label(entry: Entry) -> int:
    if not isinstance(entry.value, int | float) or entry.value not in LABEL_VALUES:
        raise ValueError(
            f"{entry.path} = {reprlib.repr(entry.value)} must be 1 (foreground), 0 (background), -1 (not a point) "
            f"or {PADDING} (padding)"
        )
    return int(entry.value)


def _point(entry: Entry, image: ImageGeometry, label: int) -> tuple[float, float]:
    x, y = _numbers(POINTS, entry, 2)
    if label == PADDING:
        return PADDING, PADDING
    _check_inside(entry, (x, y), image)
    return x, y


def _box(entry: Entry, image: ImageGeometry) -> tuple[float, ...] | None:
    box = _numbers(BOXES, entry, 4)
    if box == (PADDING,) * 4:
        return None
    _check_inside(entry, box, image)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"{entry.path} = {_shown(box)} must have x1 < x2 and y1 < y2")
    return box


def _numbers(kind: PromptKind, entry: Entry, count: int) -> tuple[float, ...]:
    values = entry.value.tolist() if isinstance(entry.value, np.ndarray) else entry.value
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{entry.path} = {reprlib.repr(values)} must be {kind.prompt}: {count} numbers")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise TypeError(f"{entry.path} = {reprlib.repr(values)} must be {kind.prompt}: {count} numbers")
    try:
        return tuple(float(value) for value in values)
    except OverflowError as error:
        raise ValueError(f"{entry.path} holds a number too large for a coordinate") from error


def _check_inside(entry: Entry, values: tuple[float, ...], image: ImageGeometry) -> None:
    height, width = image.original_size
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{entry.path} = {_shown(values)} must be finite")
    xs, ys = values[0::2], values[1::2]
    if min(values) < 0 or max(xs) > width or max(ys) > height:
        raise ValueError(
            f"{entry.path} = {_shown(values)} lies outside image {image.index} of width {width}, height {height}"
        )


def _shown(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _pad_points(by_image: ByObject, images: Sequence[ImageGeometry], num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    num_points = max([1, *(len(points) for objects in by_image for points in objects or [] if points is not None)])
    coords = np.full((len(images), num_objects, num_points, 2), PADDING, dtype=np.float32)
    labels = np.full((len(images), num_objects, num_points), PADDING, dtype=np.int64)
    for image, objects in zip(images, by_image, strict=True):
        for index, points in enumerate(objects or []):
            if points is None:
                continue
            values = np.array(points, dtype=np.float64)
            own_labels = values[:, 2].astype(np.int64)
            resized = apply_coords(values[:, :2], image.original_size, image.reshaped_size)
            coords[image.index, index, : len(points)] = np.where(own_labels[:, None] == PADDING, PADDING, resized)
            labels[image.index, index, : len(points)] = own_labels
    return coords, labels


def _pad_boxes(by_image: ByObject, images: Sequence[ImageGeometry], num_objects: int) -> np.ndarray:
    boxes = np.full((len(images), num_objects, 4), PADDING, dtype=np.float32)
    for image, objects in zip(images, by_image, strict=True):
        for index, box in enumerate(objects or []):
            if box is not None:
                boxes[image.index, index] = apply_boxes(np.array(box), image.original_size, image.reshaped_size)
    return boxes


def _pad_masks(by_image: ByObject, images: Sequence[ImageGeometry], num_objects: int) -> np.ndarray:
    masks = np.full((len(images), num_objects, *images[0].mask_size), np.nan, dtype=np.float32)
    for image, objects in zip(images, by_image, strict=True):
        for index, mask in enumerate(objects or []):
            if mask is not None:
                masks[image.index, index] = mask
    return masks
