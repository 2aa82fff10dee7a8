"""Boxes and points out of a row: what detectors and people write, in all its forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam_variants.labeling.items import ItemPrompts

BOX_KEYS = ("bbox", "box", "boxes", "bboxes")
POINT_KEYS = ("point", "points", "point_coords", "keypoints")
POINT_LABEL_KEY = "point_labels"
CATEGORY_KEYS = ("category", "categories", "category_id", "label", "labels", "class", "name")


def _from_xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_center(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)


BOX_FORMATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "xyxy": lambda boxes: boxes,
    "xywh": _from_xywh,
    "cxcywh": _from_center,
}


class MissingColumnError(ValueError):
    """A row doesn't have a column that was named."""


@dataclass(frozen=True)
class PromptColumns:
    """Where a row says what is asked about.

    A column may be nested: "objects.bbox" is "bbox" of "objects", a dict or a list of dicts. A column of dicts, such
    as COCO's annotations, may be named as a whole: its boxes, points and categories are found by their usual names.

    Args:
        boxes: the column of boxes, four numbers per object.
        points: the column of points: (x, y) per object, or a list of (x, y) or (x, y, label) per object; label 1 is on
            it and 0 off it. In dicts the labels may be beside them, as "point_labels". With `boxes`, the two belong
            together by index.
        categories: the column of what the objects are, one per object.
        box_format: what the four numbers are, in pixels: "xyxy" two corners, "xywh" a corner and the size (COCO's),
            "cxcywh" the center and the size.

    Raises:
        ValueError: neither boxes nor points, or an unknown format.
    """

    boxes: str | None = None
    points: str | None = None
    categories: str | None = None
    box_format: str = "xyxy"

    def __post_init__(self) -> None:
        if self.box_format not in BOX_FORMATS:
            raise ValueError(f"the box format is one of {list(BOX_FORMATS)}, not {self.box_format!r}")
        if self.boxes is None and self.points is None:
            raise ValueError("categories belong to boxes or points: name the column of one of these too")

    @property
    def names(self) -> list[str]:
        """The columns that are named."""
        return [name for name in (self.boxes, self.points, self.categories) if name is not None]

    def read(self, row: Mapping[str, Any]) -> ItemPrompts:
        """What a row asks about; without objects where its columns are empty or null.

        Raises:
            MissingColumnError: there is no such column.
            ValueError: what is no box or point, or different numbers of them.
        """
        boxes = points = labels = None
        if self.boxes is not None:
            boxes = read_boxes(_inner(column_value(row, self.boxes), BOX_KEYS), self.box_format, self.boxes)
        if self.points is not None:
            value = column_value(row, self.points)
            points, labels = read_points(_inner(value, POINT_KEYS), self.points)
            if _is_of_dicts(plain(value)):
                told = plain(_inner(value, (POINT_LABEL_KEY,), is_needed=False))
                labels = labels if told is None else _told_labels(told, labels, self.points)
            if boxes is not None and len(boxes) != len(points):
                raise ValueError(
                    f"{self.boxes!r} has {len(boxes)} boxes and {self.points!r} points of {len(points)} objects: "
                    "they belong together by index"
                )
            if boxes is None and not all(map(len, points)):
                raise ValueError(f"{self.points!r}: object {[len(p) for p in points].index(0)} has no point")
        prompts = ItemPrompts(boxes, points, labels)
        return ItemPrompts(boxes, points, labels, self._categories(row, len(prompts)))

    def _categories(self, row: Mapping[str, Any], num_objects: int) -> list[Any] | None:
        column = self.categories or self.boxes or self.points or ""
        value = plain(column_value(row, column))
        if not self.categories and not _is_of_dicts(value):
            return None
        value = plain(_inner(value, CATEGORY_KEYS, is_needed=bool(self.categories)))
        if value is None:
            return [] if self.categories and not num_objects else None
        if not isinstance(value, list) or len(value) != num_objects:
            found = f"{len(value)} categories" if isinstance(value, list) else repr(value)
            hint = "" if self.categories else f"; without categories, name what is in it alone, such as {column}.bbox"
            raise ValueError(f"{column!r} has {found} for {num_objects} objects{hint}")
        return value


def column_value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, which may be nested: "objects.bbox".

    Raises:
        MissingColumnError: there is none.
    """
    try:
        return _nested(row, name)
    except KeyError:
        raise MissingColumnError(f"there is no column {name!r}; there are {sorted(map(str, row))}") from None


def _nested(row: Mapping[str, Any], name: str) -> Any:
    outer, _, inner = name.rpartition(".")
    if name in row or not outer:
        return row[name]
    value = plain(_nested(row, outer))
    if isinstance(value, Mapping):
        return value[inner]
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return [item[inner] for item in value]
    if value is None:
        return None
    raise KeyError(name)


def plain(value: Any) -> Any:
    """Arrays as lists, JSON as what it says."""
    if isinstance(value, str | bytes) and value.lstrip()[:1] in ("[", "{", b"[", b"{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def read_boxes(value: Any, box_format: str, name: str) -> np.ndarray:
    """N×4 float64 xyxy. Raises: ValueError, which names what is no box."""
    rows = _rows_of_numbers(value, repr(name), "a box is four numbers")
    for index, row in enumerate(rows):
        if len(row) != 4:
            raise ValueError(f"{name!r}: box {index} has {len(row)} numbers, a box is four ({box_format})")
    boxes = BOX_FORMATS[box_format](np.array(rows, np.float64).reshape(-1, 4))
    for flat in np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1)):
        raise ValueError(f"{name!r}: box {flat}, {rows[flat]}, has no area as {box_format}")
    return boxes


def read_points(value: Any, name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One K×2 float64 array of (x, y) and one of K labels per object.

    Raises:
        ValueError: which names what is no point.
    """
    points, labels = [], []
    for index, entry in enumerate(_entries(value, repr(name))):
        of_object = plain(entry)
        is_single = isinstance(of_object, list) and of_object and not isinstance(plain(of_object[0]), list)
        where = f"{name!r}, object {index}"
        rows = _rows_of_numbers([of_object] if is_single else of_object, where, "a point is x, y or x, y, label")
        for row in rows:
            if len(row) not in (2, 3) or (len(row) == 3 and row[2] not in (0, 1)):
                raise ValueError(
                    f"{where}: {row} is no point: x, y or x, y, label, which is 1 on the object or 0 off it"
                )
        points.append(np.array([row[:2] for row in rows], np.float64).reshape(-1, 2))
        labels.append(np.array([row[2] if len(row) == 3 else 1 for row in rows], np.int64))
    return points, labels


def _told_labels(told: Any, labels: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    """The labels that are beside the points, one list per object; those of `labels` where there are none."""
    if not isinstance(told, list) or len(told) != len(labels):
        raise ValueError(f"{name!r}: {POINT_LABEL_KEY} are {_shortened(told)} for the points of {len(labels)} objects")
    found = []
    for index, (entry, known) in enumerate(zip(map(plain, told), labels, strict=True)):
        row = entry if isinstance(entry, list) else [entry]
        if entry is not None and (len(row) != len(known) or any(label not in (0, 1) for label in row)):
            raise ValueError(
                f"{name!r}, object {index}: {POINT_LABEL_KEY} are {_shortened(entry)} for {len(known)} points; each "
                "has 1, on the object, or 0, off it"
            )
        found.append(known if entry is None else np.array(row, np.int64))
    return found


def _entries(value: Any, where: str) -> list[Any]:
    entries = plain(value)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise ValueError(f"{where} is {_shortened(entries)}, not a list")
    return entries


def _rows_of_numbers(value: Any, where: str, expected: str) -> list[list[float]]:
    rows = []
    for index, entry in enumerate(_entries(value, where)):
        numbers = plain(entry)
        try:
            row = [float(number) for number in numbers] if isinstance(numbers, list) else None
        except (TypeError, ValueError):
            row = None
        if row is None:
            raise ValueError(f"{where}: entry {index} is {_shortened(numbers)}; {expected}")
        if not np.isfinite(row).all():
            raise ValueError(f"{where}: entry {index}, {row}, isn't finite")
        rows.append(row)
    return rows


def _is_of_dicts(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _inner(value: Any, keys: Sequence[str], is_needed: bool = True) -> Any:
    """What a dict, or each of a list of dicts, has under the first of these keys; other values as they are."""
    value = plain(value)
    if not _is_of_dicts(value):
        return value
    first = value if isinstance(value, Mapping) else value[0]
    key = next((key for key in keys if key in first), None)
    if key is None:
        if not is_needed:
            return None
        raise ValueError(f"objects with {sorted(first)} have none of {list(keys)}")
    if isinstance(value, Mapping):
        return value[key]
    for index, item in enumerate(value):
        if not isinstance(item, Mapping) or key not in item:
            raise ValueError(f"object {index} has no {key!r}: {_shortened(item)}")
    return [item[key] for item in value]


def _shortened(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[:length] + "…"
