"""What can't be understood of a dataset of masks is one clear error that says what is there and what to do."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from mask_rows import LEFT, flat, label_map, photo, pictures, plain_rle, truths
from PIL import Image

from sam_variants.mask_codecs import encode_mask
from sam_variants.training.mask_columns import MaskColumns
from sam_variants.training.mask_datasets import open_masks

CODES = [encode_mask(mask) for mask in truths()]
PLAIN_CODES = [plain_rle(mask) for mask in truths()]


def rows_of(**columns: Any) -> Dataset:
    """Two rows with the same values and different photos."""
    return Dataset.from_list([{"image": photo(number), **columns} for number in range(2)])


def test_columns_are_named_where_names_do_not_tell() -> None:
    rows = Dataset.from_list([{"first": photo(1), "second": photo(), "third": Image.fromarray(label_map())}])
    with pytest.raises(ValueError, match=r"\['first', 'second', 'third'\] could each be the images; the columns are "):
        open_masks(rows)
    with pytest.raises(ValueError, match=r"\['second', 'third'\] could each be the masks"):
        open_masks(rows, columns={"image": "first"})
    masks = open_masks(rows, columns={"image": "second", "masks": "third"})
    assert masks.found == MaskColumns("second", "third", "label_map", 255, "")
    np.testing.assert_array_equal(masks[0].masks, truths())


PROBLEMS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no masks": ({"label": 3}, {}, "no column looks like masks; the columns are 'image': Image, 'label': int64. Name"),
    "boxes": ({"objects": {"bbox": [[1, 2, 3, 4]], "category": [1]}}, {}, "'objects' has boxes, which are no masks"),
    "two": ({"mask": Image.fromarray(label_map()), "rle": CODES}, {}, r"\['mask', 'rle'\] could each be the masks"),
    "unknown column": (
        {"rle": CODES},
        {"columns": {"masks": "mask"}},
        r"no column 'mask' \(for 'masks'\); the columns",
    ),
    "unknown key": ({"rle": CODES}, {"columns": {"mask": "rle"}}, r"unknown \['mask'\]; it takes \['image', 'masks'"),
    "unknown kind": ({"rle": CODES}, {"columns": {"kind": "png"}}, "kind='png' is none of"),
    "void": ({"rle": CODES}, {"columns": {"void": "white"}}, "void must be a whole number"),
    "text": ({"label": "a cat"}, {"columns": {"masks": "label"}}, "column 'label' holds no masks of a known form"),
    "min_pixels": ({"rle": CODES}, {"min_pixels": 0}, "min_pixels=0"),
    "split": ({"rle": CODES}, {"split": "train"}, "split='train' was given, but the dataset is one split"),
}


@pytest.mark.parametrize(("columns", "options", "message"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_cannot_be_opened_is_one_clear_error(columns: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_masks(rows_of(**columns), **options)


BROKEN: dict[str, tuple[str, Any, Any, str]] = {
    "size": ("mask", pictures()[0], Image.new("L", (30, 20), 3), "the mask is 30x20 pixels .* the image 40x24"),
    "turned": (
        "mask",
        pictures()[0],
        Image.new("L", (24, 40), 3),
        ".* 24x40 .* the image 40x24: one of them is turned",
    ),
    "instance": ("masks", pictures(), [pictures()[0], Image.new("1", (4, 4))], "mask 1 is 4x4 pixels"),
    "rle size": ("rle", CODES, [{"size": [4, 4], "counts": "@"}], r"object 0: the runs of counts sum"),
    "rle runs": ("masks", PLAIN_CODES, [{"size": [24, 40], "counts": [5]}], "object 0: the runs of counts sum to 5"),
    "shares": ("polygons", [flat(LEFT)], [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], ".*shares of the image; pixels are needed"),
    "odd": ("polygons", [flat(LEFT)], [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 3.0]], "object 0: a polygon is x1, y1"),
}


@pytest.mark.parametrize(("column", "good", "bad", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_named(column: str, good: Any, bad: Any, message: str) -> None:
    bad = [[float(number) for number in ring] for ring in bad] if column == "polygons" else bad
    good = [[float(number) for number in ring] for ring in good] if column == "polygons" else good
    masks = open_masks(Dataset.from_list([{"image": photo(), column: value} for value in (good, good, bad)]))
    assert len(masks[1].masks) == len(masks[0].masks) > 0
    with pytest.raises(ValueError, match=f"dataset: row 2, column '{column}': {message}"):
        masks[2]


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_picture_that_cannot_be_decoded_is_named(column: str) -> None:
    stored = io.BytesIO()
    photo().save(stored, "PNG")
    whole, broken = {"bytes": stored.getvalue(), "path": None}, {"bytes": stored.getvalue()[:99], "path": None}
    columns = {"image": [whole] * 40, "mask": [Image.fromarray(label_map())] * 40}
    columns[column][38] = broken
    feature = Features({"image": ImageFeature(), "mask": ImageFeature()})
    masks = open_masks(Dataset.from_dict(columns, features=feature))
    with pytest.raises(ValueError, match=f"row 38, column '{column}': "):
        masks[38]


def test_a_photo_is_no_label_map() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    rows = Dataset.from_list([{"image": Image.fromarray(noise), "mask": Image.fromarray(noise[::-1])}])
    with pytest.raises(ValueError, match="different values, which no picture has objects"):
        open_masks(rows)[0]


@pytest.mark.parametrize("kind", ["label_map", "components"])
def test_a_label_map_saved_as_jpeg_is_refused(kind: str) -> None:
    stored = io.BytesIO()
    Image.fromarray(label_map() * 90).save(stored, "JPEG")
    rows = rows_of(mask=Image.open(stored))
    with pytest.raises(ValueError, match=r"row 0, column 'mask': the label map was saved as JPEG.*\"binary\""):
        open_masks(rows, columns={"kind": kind})[0]
    assert len(open_masks(rows, columns={"kind": "binary"})[0].masks) == 1


def test_rows_are_read_one_by_one() -> None:
    masks = open_masks(rows_of(rle=CODES))
    with pytest.raises(TypeError, match="slice"):
        masks[0:1]
    assert len(masks[np.int64(-1)].masks) == 2


def test_a_class_label_is_no_mask_beside_one() -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat"]), "png": ImageFeature()})
    columns = {"image": [photo()], "label": [0], "png": [Image.fromarray(label_map())]}
    masks = open_masks(Dataset.from_dict(columns, features=features))
    assert masks.found.masks == "png"
    with pytest.raises(ValueError, match=r"'label': ClassLabel, 'text': string"):
        open_masks(
            Dataset.from_dict(
                {**columns, "text": ["a"]}, features=Features(features | {"text": Value("string")})
            ).remove_columns("png")
        )


def test_a_dataset_without_rows_says_so() -> None:
    features = Features({"image": ImageFeature(), "mask": ImageFeature()})
    with pytest.raises(ValueError, match="the dataset has no row"):
        open_masks(Dataset.from_dict({"image": [], "mask": []}, features=features))
