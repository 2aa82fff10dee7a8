"""The columns of a labeled dataset, in Arrow's terms and in those of `datasets`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from datasets import Features, List, Value
from datasets import Image as ImageFeature

from sam_variants.labeling.items import Item, LabeledImage

METADATA_KEY = b"sam_variants"
EMBED, REFERENCE = "embed", "reference"
NUMBER, NUMBERS = Value("float64"), List(Value("float64"))

OBJECT_FEATURES = {
    "segmentation": {"size": List(Value("int32")), "counts": Value("string")},
    "bbox": NUMBERS,
    "area": Value("int64"),
    "score": NUMBER,
    "stability_score": NUMBER,
    "point_coords": List(NUMBERS),
    "point_labels": List(Value("int32")),
    "prompt_box": NUMBERS,
    "crop_box": NUMBERS,
    "category": Value("string"),
    "object_id": Value("int64"),
    "object_score_logit": NUMBER,
}
"""What is known about a mask: the names and units of `Masks.to_coco` (boxes are xywh in pixels); null where unknown.
`point_labels`, `prompt_box` and `category` are what was asked."""

CONSTANTS = {"category_id": 1, "iscrowd": 0}
"""What COCO wants of every annotation and is not stored."""

FEATURES = Features(
    {
        "image": ImageFeature(),
        "key": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "objects": List(OBJECT_FEATURES),
    }
)
SCHEMA: pa.Schema = FEATURES.arrow_schema
# Columns of the file that are compressed already, or whose values hardly repeat.
RAW_COLUMN = "image.bytes"
UNIQUE_COLUMNS = (RAW_COLUMN, "image.path", "key", "objects.list.element.segmentation.counts")


def schema_with(metadata: Mapping[str, Any]) -> pa.Schema:
    """The schema of a file: features as `datasets` reads them, and `metadata` as JSON under "sam_variants"."""
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    return SCHEMA.with_metadata({**SCHEMA.metadata, METADATA_KEY: text.encode()})


def rows_to_batch(images: Sequence[LabeledImage], mode: str) -> pa.RecordBatch:
    """Rows of the dataset.

    Args:
        images: with their masks.
        mode: "embed" or "reference".

    Raises:
        ValueError: an image without the bytes or path it needs, or an annotation that doesn't fit it.
    """
    return pa.RecordBatch.from_pylist([_row(image, mode) for image in images], schema=SCHEMA)


def _row(image: LabeledImage, mode: str) -> dict[str, Any]:
    height, width = image.size
    return {
        "image": _image_value(image.item, mode),
        "key": image.item.key,
        "width": width,
        "height": height,
        "objects": [
            _object(annotation, image, f"{image.item.key!r}: annotations[{index}]")
            for index, annotation in enumerate(image.annotations)
        ],
    }


def _image_value(item: Item, mode: str) -> dict[str, Any]:
    if mode == REFERENCE:
        if item.path is None:
            raise ValueError(
                f"{item.key!r} is no file or URL that could be referred to: put the images into the dataset "
                f'(images="{EMBED}")'
            )
        return {"bytes": None, "path": item.path if "://" in item.path else os.path.abspath(item.path)}
    if item.encoded is None:
        raise ValueError(f'{item.key!r} comes without the content of its file, which images="{EMBED}" needs')
    name = PurePosixPath(urlsplit(item.path).path if "://" in item.path else item.path).name if item.path else None
    return {"bytes": item.encoded, "path": name if name and is_text(name) else None}


def is_text(name: str) -> bool:
    """Whether a file's name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(annotation: Mapping[str, Any], image: LabeledImage, name: str) -> dict[str, Any]:
    unknown = [
        key
        for key, value in annotation.items()
        if key not in OBJECT_FEATURES and CONSTANTS.get(key, value is None) != value
    ]
    if unknown:
        raise ValueError(f"{name} has unknown fields {unknown}; these are stored: {list(OBJECT_FEATURES)}")
    size = [int(side) for side in annotation["segmentation"]["size"]]
    if size != list(image.size):
        raise ValueError(f"{name} is a mask of size {size}, the image is {list(image.size)} (height, width)")
    stored = {key: value for key, value in annotation.items() if key in OBJECT_FEATURES}
    if stored.get("category") is not None:
        stored["category"] = str(stored["category"])
    return stored


def to_annotation(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored object as a COCO annotation without ids: what is unknown is left out."""
    return {**CONSTANTS, **{key: value for key, value in stored.items() if value is not None}}
