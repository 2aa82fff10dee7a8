"""Boxes and points out of rows, in every form that detectors and people write."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sam_variants.labeling.label_rows import ChosenColumns, RowReader
from sam_variants.labeling.prompt_columns import MissingColumnError, PromptColumns, column_value

TWO = [[1, 2, 5, 8], [0.5, 0, 3, 4]]


def boxes_of(value: Any, column: str = "boxes", **options: Any) -> list[list[float]]:
    boxes = PromptColumns(boxes=column, **options).read({column.partition(".")[0]: value}).boxes
    assert boxes is not None
    assert boxes.dtype == np.float64
    assert boxes.shape[1:] == (4,)
    return boxes.tolist()


@pytest.mark.parametrize(
    ("value", "column"),
    [
        (TWO, "boxes"),
        (tuple(map(tuple, TWO)), "boxes"),
        (np.array(TWO, np.float32), "boxes"),
        ([np.array(box) for box in TWO], "boxes"),
        (json.dumps(TWO), "boxes"),
        (json.dumps(TWO).encode(), "boxes"),
        (f" {json.dumps(TWO)}", "boxes"),
        ({"bbox": TWO}, "objects.bbox"),
        ({"bbox": TWO, "area": [1, 2]}, "objects"),
        ([{"bbox": box} for box in TWO], "objects.bbox"),
        ([{"box": box, "category": "cat"} for box in TWO], "objects"),
        (json.dumps([{"bbox": box} for box in TWO]), "objects"),
        ({"found": {"boxes": TWO}}, "a.found.boxes"),
    ],
)
def test_forms_of_boxes(value: Any, column: str) -> None:
    assert boxes_of(value, column) == TWO


@pytest.mark.parametrize("value", [None, [], (), "[]", np.zeros((0, 4)), {"bbox": []}, {"bbox": None}])
def test_no_objects(value: Any) -> None:
    assert boxes_of(value) == []


def test_box_formats() -> None:
    assert boxes_of([[1, 2, 4, 6]], box_format="xywh") == [[1, 2, 5, 8]]
    assert boxes_of([[3, 5, 4, 6]], box_format="cxcywh") == [[1, 2, 5, 8]]


def test_forms_of_points() -> None:
    def read(value: Any) -> list[tuple[Any, Any]]:
        found = PromptColumns(points="points").read({"points": value})
        assert found.boxes is None
        assert found.points is not None
        assert found.labels is not None
        assert all(points.shape == (len(labels), 2) for points, labels in zip(found.points, found.labels, strict=True))
        return [(points.tolist(), labels.tolist()) for points, labels in zip(found.points, found.labels, strict=True)]

    one_each = [([[1.0, 2.0]], [1]), ([[3.0, 4.0]], [1])]
    assert read([[1, 2], [3, 4]]) == one_each
    assert read(np.array([[1, 2], [3, 4]])) == one_each
    assert read([[[1, 2]], [[3, 4]]]) == one_each
    assert read({"point_coords": [[[1, 2]], [[3, 4]]]}) == one_each
    assert read([{"point": [1, 2]}, {"point": [3, 4]}]) == one_each
    assert read([[[1, 2, 1], [3, 4, 0]], [[5, 6]]]) == [([[1.0, 2.0], [3.0, 4.0]], [1, 0]), ([[5.0, 6.0]], [1])]
    assert read([[1, 2, 0]]) == [([[1.0, 2.0]], [0])]
    assert read(None) == []
    beside = {"point_coords": [[[1, 2], [3, 4]], [5, 6]], "point_labels": [[1, 0], None]}
    expected = [([[1.0, 2.0], [3.0, 4.0]], [1, 0]), ([[5.0, 6.0]], [1])]
    assert read(beside) == expected
    assert read([dict(zip(beside, values, strict=True)) for values in zip(*beside.values(), strict=True)]) == expected
    assert read({"points": [[1, 2]], "point_labels": [0]}) == [([[1.0, 2.0]], [0])]


def test_boxes_with_points_and_categories() -> None:
    columns = PromptColumns(boxes="objects.bbox", points="clicks", categories="objects.category")
    found = columns.read({"objects": {"bbox": TWO, "category": ["cat", None]}, "clicks": [[[2, 3]], []]})
    assert len(found) == 2
    assert found.categories == ["cat", None]
    assert [len(points) for points in found.points or ()] == [1, 0]
    with pytest.raises(ValueError, match=r"'objects\.bbox' has 2 boxes and 'clicks' points of 1 objects: they belong"):
        columns.read({"objects": {"bbox": TWO, "category": [1, 2]}, "clicks": [[2, 3]]})
    with pytest.raises(ValueError, match=r"'objects\.category' has 1 categories for 2 objects"):
        columns.read({"objects": {"bbox": TWO, "category": [1]}, "clicks": [[2, 3], [2, 3]]})


def test_categories_of_annotations_are_found() -> None:
    coco = [{"bbox": [0, 0, 2, 2], "category_id": number, "score": 0.5} for number in (3, 7)]
    assert PromptColumns(boxes="objects", box_format="xywh").read({"objects": coco}).categories == [3, 7]
    assert PromptColumns(boxes="objects").read({"objects": {"bbox": TWO}}).categories is None
    assert PromptColumns(boxes="objects").read({"objects": []}).categories is None
    assert PromptColumns(boxes="b", categories="c").read({"b": None, "c": None}).categories == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2, 3]], r"'boxes': box 0 has 3 numbers, a box is four \(xyxy\)"),
        ([1, 2, 3, 4], "'boxes': entry 0 is 1; a box is four numbers"),
        ([TWO[0], None], "'boxes': entry 1 is None; a box is four numbers"),
        (["1234"], "'boxes': entry 0 is '1234'; a box is four numbers"),
        ({"bbox": TWO, "name": "street"}, "'boxes' has 'street' for 2 objects; without categories, name what is in"),
        ([["a", 1, 2, 3]], r"'boxes': entry 0 is \['a', 1, 2, 3\]; a box is four numbers"),
        ([[1, 2, float("nan"), 4]], r"'boxes': entry 0, \[1.0, 2.0, nan, 4.0\], isn't finite"),
        ([TWO[0], [5, 5, 5, 9]], r"'boxes': box 1, \[5.0, 5.0, 5.0, 9.0\], has no area as xyxy"),
        ("no boxes", "'boxes' is 'no boxes', not a list"),
        (7, "'boxes' is 7, not a list"),
        ({"mask": 1}, r"objects with \['mask'\] have none of \['bbox', 'box'"),
        ([{"bbox": TWO[0]}, {"area": 1}], r"object 1 has no 'bbox': \{'area': 1\}"),
        ([{"bbox": TWO[0]}, None], "object 1 has no 'bbox': None"),
    ],
)
def test_what_is_no_box(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes_of(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1]], r"'points', object 0: \[1.0\] is no point"),
        ([[1, 2], [[3, 4, 2]]], r"'points', object 1: \[3.0, 4.0, 2.0\] is no point: x, y or x, y, label, which is 1"),
        ([[[1, None]]], r"'points', object 0: entry 0 is \[1, None\]; a point is"),
        ([[[1, 2]], None], "'points': object 1 has no point"),
        ("1,2", "'points' is '1,2', not a list"),
        ({"points": [[1, 2]], "point_labels": [[1, 0]]}, r"object 0: point_labels are \[1, 0\] for 1 points; each has"),
        ({"points": [[1, 2]], "point_labels": [2]}, "object 0: point_labels are 2 for 1 points"),
        ({"points": [[1, 2]], "point_labels": []}, r"point_labels are \[\] for the points of 1 objects"),
    ],
)
def test_what_is_no_point(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptColumns(points="points").read({"points": value})


def test_nested_columns() -> None:
    row = {"a.b": 1, "a": {"b": 2, "c": [{"d": 3}, {"d": 4}]}, "e": None}
    assert column_value(row, "a.b") == 1
    assert column_value(row, "a.c.d") == [3, 4]
    assert column_value(row, "e.f") is None
    for name in ("x", "a.x", "x.y", "a.b.c"):
        with pytest.raises(MissingColumnError):
            column_value(row, name)


def test_a_bad_row_is_an_item_with_an_error() -> None:
    reader = RowReader(ChosenColumns("image", "id", PromptColumns(boxes="boxes")), "/photos")
    row = {"image": {"bytes": b"x", "path": None}, "id": 7, "boxes": TWO}
    good = reader.item(row, "file#0")
    assert (good.key, good.encoded, good.path, good.error) == ("7", b"x", None, None)
    bad = reader.item(row | {"boxes": [[1, 2]]}, "file#0")
    assert (bad.key, bad.encoded, bad.prompts) == ("7", None, None)
    assert bad.error == "'boxes': box 0 has 2 numbers, a box is four (xyxy)"
    unnamed = reader.item(row | {"id": None}, "file#0")
    assert (unnamed.key, unnamed.error) == ("file#0", "there is nothing in the column of keys, 'id'")
    assert reader.item(row | {"image": "a/../b.png"}, "file#0").path == "/photos/b.png"
    assert reader.item(row | {"image": b""}, "file#0").error == "column 'image' holds no image: b''"
