"""The forms in which datasets hold the masks of an image, each brought to the same: objects that are decoded on demand.

Run-length codes and polygons are COCO's, see `mask_codecs`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from sam_variants.mask_codecs import Rle, encode_mask, segmentation_to_rle
from sam_variants.results import Masks
from sam_variants.training.label_images import (
    foreground,
    is_black_and_white,
    is_label_image,
    is_lossy,
    label_array,
    value_counts,
)

Size = tuple[int, int]

SEGMENTATION_KEYS = (
    "segmentation",
    "segmentations",
    "segmentation_mask",
    "mask",
    "masks",
    "rle",
    "polygon",
    "polygons",
)
CROWD_KEYS = ("iscrowd", "is_crowd")
SIZE_KEY = "image_height_and_width"  # not COCO's: what a COCO file says of the whole image, in each of its annotations
MAX_LABELS = 20_000  # more different values than any picture has objects: a photo, or a label map saved as JPEG

NO_MASK = "objects without a mask"
CROWD = "crowd regions"
VOID_ALONE = "label maps of void alone"
SEVERAL_VALUES = "masks of one object with several values"
SHORT_POLYGON = "polygons of fewer than three points"


@dataclass
class RowMasks:
    """The objects of one row before any of them is decoded.

    Attributes:
        areas: N pixel counts; 0 for an empty mask.
        decode: N' indices, an array, to N'×H×W bool.
        skipped: what the row holds that is no object, by reason.
    """

    areas: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def nothing(cls) -> RowMasks:
        """A row whose column of masks is empty."""
        return cls(np.zeros(0, int), lambda chosen: np.zeros((0, 0, 0), bool))


def masks_from_label_map(value: Any, size: Size, void: int) -> RowMasks:
    """One object for every value of a label map except 0, negative ones and `void` (−1: no other)."""
    labels = _labels(value, size)
    return _objects_of_values(labels, _object_values(labels, void), _void_alone(labels, void))


def masks_from_binary(value: Any, size: Size, void: int) -> RowMasks:
    """One object: what is white, in a mask of two values or one with soft edges."""
    labels = label_array(value)
    found = masks_from_label_map(foreground(labels), size, void)
    values, _ = value_counts(labels)
    if np.count_nonzero(values) > 1 and not is_black_and_white(labels) and not is_lossy(value):
        found.skipped[SEVERAL_VALUES] = 1
    return found


def masks_from_components(value: Any, size: Size, void: int) -> RowMasks:
    """One object for every 8-connected region of one value of a label map."""
    labels = _labels(value, size)
    pieces = np.zeros(size, np.int32)
    count = 0
    for label in _object_values(labels, void):
        number, regions = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=8)
        pieces += np.where(regions > 0, regions + count, 0)
        count += number - 1
    return _objects_of_values(pieces, np.arange(1, count + 1), _void_alone(labels, void))


def masks_from_instances(value: Any, size: Size, void: int) -> RowMasks:
    """One object for every picture of a list, or every plane of an N×H×W array."""
    skipped: Counter[str] = Counter()
    codes = []
    for index, instance in enumerate(_parsed(value)):
        if instance is None:
            skipped[NO_MASK] += 1
        else:
            codes.append(encode_mask(_sized(foreground(label_array(instance)), size, f"mask {index}")))
    return _objects_of_codes(codes, size, skipped)


def masks_from_rle(value: Any, size: Size, void: int) -> RowMasks:
    """One object for every run-length code: a list of {"size", "counts"} or bare counts, one alone, a dict of lists."""
    return masks_from_segmentations(_untransposed(_parsed(value)), size)


def masks_from_polygons(value: Any, size: Size, void: int) -> RowMasks:
    """One object for every polygon [x, y, x, y, …] or [[x, y], …], or for every list of such."""
    polygons = _parsed(value)
    levels = nesting(polygons)
    if levels == 1 or (levels == 2 and all(len(point) == 2 for point in polygons)):
        polygons = [polygons]
    return masks_from_segmentations(polygons, size)


def masks_from_objects(value: Any, size: Size, void: int) -> RowMasks:
    """One object for every COCO annotation that is no crowd: a list of dicts, or a dict of lists."""
    annotations = _parsed(value)
    if isinstance(annotations, dict):
        annotations = _annotations_of_lists(annotations)
    skipped: Counter[str] = Counter()
    segmentations = []
    for index, element in enumerate(annotations):
        annotation = _parsed(element)
        if not isinstance(annotation, dict):
            raise TypeError(f"object {index} must be a dict with one of {SEGMENTATION_KEYS}, got {annotation!r:.80}")
        if SIZE_KEY in annotation and tuple(annotation[SIZE_KEY]) != size:
            raise ValueError(f"the COCO file says {_unlike(annotation[SIZE_KEY], size)}")
        if any(annotation.get(key) for key in CROWD_KEYS):
            skipped[CROWD] += 1
        else:
            segmentations.append(next((annotation[key] for key in SEGMENTATION_KEYS if key in annotation), None))
    return masks_from_segmentations(segmentations, size, skipped)


def masks_from_segmentations(segmentations: Iterable[Any], size: Size, skipped: Counter[str] | None = None) -> RowMasks:
    """One object for every element: run-length code, polygons, or picture; missing ones are counted.

    Raises:
        ValueError: a code of another size, a polygon that is none, or coordinates that are shares instead of pixels.
        TypeError: an element that is none of these.
    """
    skipped = Counter() if skipped is None else skipped
    codes, largest = [], []
    for index, element in enumerate(segmentations):
        segmentation = _parsed(element)
        if isinstance(segmentation, list | tuple | np.ndarray) and not is_label_image(segmentation):
            rings = [ring for ring in _rings(segmentation) if ring.size]
            long_enough = [ring for ring in rings if ring.size >= 6]
            skipped[SHORT_POLYGON] += len(rings) - len(long_enough)
            largest += [float(ring.max()) for ring in long_enough]
            segmentation = [ring.tolist() for ring in long_enough]
        code = _code(segmentation, size, f"object {index}")
        if code is None:
            skipped[NO_MASK] += 1
        else:
            codes.append(code)
    if largest and max(largest) <= 1:
        raise ValueError(
            f"all polygons lie within 0..1, so they are shares of the image; pixels are needed: multiply x by "
            f"{size[1]} and y by {size[0]}"
        )
    return _objects_of_codes(codes, size, skipped)


READERS: dict[str, Callable[[Any, Size, int], RowMasks]] = {
    "label_map": masks_from_label_map,
    "binary": masks_from_binary,
    "components": masks_from_components,
    "instances": masks_from_instances,
    "rle": masks_from_rle,
    "polygons": masks_from_polygons,
    "objects": masks_from_objects,
}


def nesting(value: Any) -> int:
    """How many lists lie inside one another, judged by the first of each that isn't empty; 0 for what is no list."""
    levels = 0
    while isinstance(value, list | tuple | np.ndarray):
        levels += 1
        value = next((item for item in value if item is not None and not _is_empty_list(item)), None)
    return levels


def _is_empty_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and not len(value)


def parsed_text(text: str) -> Any:
    """What a string of JSON holds; the string itself where it is none."""
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _parsed(value: Any) -> Any:
    return parsed_text(value) if isinstance(value, str) else value


def _sized(array: np.ndarray, size: Size, name: str = "the mask") -> np.ndarray:
    if array.shape != size:
        raise ValueError(f"{name} is {_unlike(array.shape, size)}")
    return array


def _unlike(size: Sequence[int], image_size: Size) -> str:
    turned = ": one of them is turned (what EXIF says of an image is done)" if tuple(size) == image_size[::-1] else ""
    (height, width), (image_height, image_width) = size, image_size
    return f"{width}x{height} pixels (width x height), the image {image_width}x{image_height}{turned}"


def _labels(value: Any, size: Size) -> np.ndarray:
    """A label map with the values that were saved."""
    if is_lossy(value):
        raise ValueError(
            "the label map was saved as JPEG, which changes its values: save it as PNG; if it is black and white, a "
            'mask of one object, say so: columns={"kind": "binary"}'
        )
    return _sized(label_array(value), size)


def _object_values(labels: np.ndarray, void: int) -> np.ndarray:
    values, _ = value_counts(labels)
    values = values[(values > 0) & (values != void)]
    if len(values) > MAX_LABELS:
        raise ValueError(
            f"the label map has {len(values)} different values, which no picture has objects: is it a photo, or was "
            "it saved with loss?"
        )
    return values


def _void_alone(labels: np.ndarray, void: int) -> Counter[str]:
    values, _ = value_counts(labels)
    return Counter({VOID_ALONE: 1} if void > 0 and set(values[values > 0].tolist()) == {void} else {})


def _objects_of_values(labels: np.ndarray, values: np.ndarray, skipped: Counter[str]) -> RowMasks:
    present, counts = value_counts(labels)
    areas = counts[np.searchsorted(present, values)]
    return RowMasks(areas, lambda chosen: labels == values[chosen][:, None, None], skipped)


def _objects_of_codes(codes: list[Rle], size: Size, skipped: Counter[str]) -> RowMasks:
    masks = Masks.from_rle(codes, size)
    return RowMasks(masks.areas.numpy(), lambda chosen: masks[chosen].data.numpy(), skipped)


def _code(segmentation: Any, size: Size, name: str) -> Rle | None:
    """One canonical run-length code; None where there is nothing in it."""
    if segmentation is None or (isinstance(segmentation, list) and not segmentation):
        return None
    if is_label_image(segmentation):
        return encode_mask(_sized(foreground(label_array(segmentation)), size, name))
    if isinstance(segmentation, str | bytes):
        segmentation = {"size": list(size), "counts": segmentation}
    if isinstance(segmentation, dict) and segmentation.get("counts") is None:
        return None
    return segmentation_to_rle(segmentation, size, name)


def _rings(segmentation: Any) -> list[np.ndarray]:
    """The polygons of one object, flat, from [x, y, …], [[x, y], …], [[x, y, …], …] or [[[x, y], …], …]."""
    levels = nesting(segmentation)
    if levels == 1 or (levels == 2 and all(len(item) == 2 for item in segmentation)):
        segmentation = [segmentation]
    try:
        return [np.asarray(ring, dtype=np.float64).reshape(-1) for ring in segmentation]
    except (TypeError, ValueError) as error:
        raise ValueError(f"a polygon is x1, y1, x2, y2, … or [[x1, y1], …], got {segmentation!r:.80}") from error


def _untransposed(codes: Any) -> Any:
    """A list of codes, from a list, from one code, or from {"size": [[h, w], …], "counts": […]}."""
    if not isinstance(codes, dict):
        return codes
    if nesting(codes.get("size")) == 2:
        return [{"size": size, "counts": counts} for size, counts in zip(codes["size"], codes["counts"], strict=True)]
    return [codes]


def _annotations_of_lists(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """A dict of lists as a list of dicts; only what masks are read from."""
    key = next((key for key in SEGMENTATION_KEYS if key in columns), None)
    if key is None:
        raise ValueError(f"there is none of {SEGMENTATION_KEYS} among {sorted(columns)}")
    values = _untransposed(_parsed(columns[key])) or []
    crowd = next((columns[name] for name in CROWD_KEYS if columns.get(name) is not None), [0] * len(values))
    if len(crowd) != len(values):
        raise ValueError(f"{key!r} has {len(values)} entries, the marks of crowds {len(crowd)}")
    return [{key: value, CROWD_KEYS[0]: mark} for value, mark in zip(values, crowd, strict=True)]
