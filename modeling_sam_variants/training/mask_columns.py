"""Which columns of a dataset are images and masks, and in which form the masks are: by names and by what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from sam_variants.processing.image_loading import rgb_array
from sam_variants.training.label_images import WHITE, as_picture, is_black_and_white, is_label_image, label_array
from sam_variants.training.mask_adapters import SEGMENTATION_KEYS, nesting, parsed_text

NO_VOID = -1
IMAGE_WORDS = {"image", "images", "img", "imgs", "pixel", "pixels", "photo", "picture", "jpg", "jpeg", "webp", "png"}
MASK_WORDS = {
    *("mask", "masks", "label", "labels", "labelmap", "seg", "segm", "segmentation", "segmentations", "annotation"),
    *("annotations", "objects", "instances", "instance", "rle", "rles", "polygon", "polygons", "gt", "panoptic"),
}  # fmt: skip
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
NAME_COLUMNS = ("file_name", "filename", "image_id", "name", "id", "key", "__key__")

KINDS = {
    "label_map": "a label map, one object per value",
    "binary": "a mask of one object",
    "components": "a label map, one object per connected region",
    "instances": "a list of pictures, one object each",
    "rle": "run-length codes, one object each",
    "polygons": "polygons, one object each",
    "objects": "COCO annotations, one object each",
}


@dataclass(frozen=True)
class MaskColumns:
    """Where the images and masks of a dataset are; what is None is found out.

    Attributes:
        image: the column of images. A part of a structured column is written with a dot: "json.annotations".
        masks: the column of masks.
        kind: a key of `KINDS`. Semantic maps, where one value stands for several objects, want "components".
        void: a value of label maps that is no object, besides 0 and negative ones; −1 for none. By default 255 in
            label maps of 8 bits.
        name: the column that names the images; "" for none.
    """

    image: str | None = None
    masks: str | None = None
    kind: str | None = None
    void: int | None = None
    name: str | None = None

    @classmethod
    def of(cls, columns: MaskColumns | Mapping[str, Any] | None) -> MaskColumns:
        """Check what a caller says about columns, `void` also as text.

        Raises:
            ValueError: an unknown key or kind, or a `void` that is no number.
        """
        if columns is None or isinstance(columns, MaskColumns):
            wanted = columns or cls()
        else:
            allowed = [entry.name for entry in fields(cls)]
            unknown = sorted(set(columns) - set(allowed))
            if unknown:
                raise ValueError(f"columns has unknown {unknown}; it takes {allowed}, such as {EXAMPLE}")
            wanted = cls(**columns)
        if isinstance(wanted.void, str):
            try:
                wanted = replace(wanted, void=int(wanted.void))
            except ValueError:
                raise ValueError(f"void must be a whole number (-1 for none), got {wanted.void!r}") from None
        if wanted.kind is not None and wanted.kind not in KINDS:
            raise ValueError(f"kind={wanted.kind!r} is none of {list(KINDS)}")
        return wanted


EXAMPLE = 'columns={"image": "photo", "masks": "labels"} (of a command --columns image=photo,masks=labels)'


def find_columns(
    rows: Iterable[dict[str, Any]], wanted: MaskColumns, features: Mapping[str, Any] | None
) -> MaskColumns:
    """Find out what `wanted` leaves open.

    Args:
        rows: the first rows; no more of them are taken than are needed.
        wanted: what the caller says.
        features: of the dataset, for what an error says; None where the dataset knows none.

    Returns:
        `wanted` with everything filled in.

    Raises:
        ValueError: a column that isn't there, none or several that could be meant, or no row at all. It lists the
            columns with their features.
    """
    found, listing = wanted, ""
    for row in rows:
        flat, listing = flat_row(row), columns_text(row, features)
        for role in ("image", "masks", "name"):
            column = getattr(wanted, role)
            if column and column not in flat:
                raise ValueError(f"there is no column {column!r} (for {role!r}); {listing}")
        found = replace(found, image=found.image or _image_column(flat, listing))
        found = replace(found, masks=found.masks or _mask_column(flat, found, listing))
        if found.name is None:
            named = (column for column in NAME_COLUMNS if isinstance(flat.get(column), str | int))
            found = replace(found, name=next(named, None))
        if found.masks is not None:
            found = _with_kind(found, flat[found.masks], flat[found.image or ""], listing)
        if found.kind is not None and found.void is not None:
            break
    if not listing:
        raise ValueError("the dataset has no row")
    if found.masks is None or found.kind is None:
        raise ValueError(
            f"no mask in the first rows tells in which form masks are: name the column and its kind "
            f'(columns={{..., "kind": one of {list(KINDS)}}}); {listing}'
        )
    return replace(found, void=NO_VOID if found.void is None else found.void, name=found.name or "")


def flat_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the parts of structured columns beside them, as "column.part"."""
    flat = dict(row)
    for name, value in row.items():
        value = parsed_text(value) if isinstance(value, str) else value
        if isinstance(value, dict) and not is_label_image(value):
            flat |= {f"{name}.{part}": inner for part, inner in value.items()}
    return flat


def columns_text(row: Mapping[str, Any], features: Mapping[str, Any] | None) -> str:
    """The columns with what is in them, and how to name the right ones."""
    listed = [f"{name!r}: {feature_text(features[name]) if features else type(row[name]).__name__}" for name in row]
    return f"the columns are {', '.join(listed)}. Name the ones that are meant: {EXAMPLE}"


def feature_text(feature: Any) -> str:
    """A short name of a `datasets` feature: "Image", "List(Image)", "{size: List(int32), counts: string}"."""
    if isinstance(feature, dict):
        return f"{{{', '.join(f'{name}: {feature_text(part)}' for name, part in feature.items())}}}"
    kind = type(feature).__name__
    if hasattr(feature, "feature"):
        return f"{kind}({feature_text(feature.feature)})"
    return feature.dtype if kind == "Value" else kind


def kind_of(value: Any, image: Any, name: str) -> str | None:
    """The kind of masks that a value could be, None if it is none.

    Args:
        value: of the column.
        image: the row's image: lists of numbers are label maps where they are as large, else polygons.
        name: of the column; a bare string or flat list counts only where the name says what it is.
    """
    if isinstance(value, str):
        text = parsed_text(value)
        if isinstance(text, str):
            return "label_map" if text.lower().endswith(PICTURE_SUFFIXES) else None
        return kind_of(text, image, name)
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 3:
        return "label_map" if value.shape[-1] in (1, 3, 4) or value.shape[0] == 1 else "instances"
    if isinstance(value, bytes) or is_label_image(value):
        return "label_map"
    if isinstance(value, dict):
        if {"size", "counts"} <= set(value):
            return "rle"
        return "objects" if set(SEGMENTATION_KEYS) & set(value) else None
    return _kind_of_list(value, image, name) if isinstance(value, list | tuple) else None


def _kind_of_list(value: list | tuple, image: Any, name: str) -> str | None:
    first = next((item for item in value if item is not None), None)
    if isinstance(first, str) and not isinstance(parsed_text(first), str):
        first = parsed_text(first)
    if isinstance(first, dict) and not is_label_image(first):
        return kind_of(first, image, name)
    if is_label_image(first) or isinstance(first, bytes):
        return "instances"
    if isinstance(first, str):
        if first.lower().endswith(PICTURE_SUFFIXES):
            return "instances"
        return "rle" if words(name) & {"rle", "rles"} else None
    return _kind_of_numbers(value, image, name)


def _kind_of_numbers(value: list | tuple, image: Any, name: str) -> str | None:
    leaf: Any = value
    shape = []
    while isinstance(leaf, list | tuple | np.ndarray) and len(leaf):
        shape.append(len(leaf))
        leaf = next((item for item in leaf if item is not None), None)
    if not isinstance(leaf, int | float | np.number) or (isinstance(leaf, bool) and len(shape) < 2):
        return None
    if len(shape) in (2, 3) and tuple(shape[-2:]) == rgb_array(as_picture(image)).shape[:2]:
        return "label_map" if len(shape) == 2 else "instances"
    named = bool(words(name) & {"polygon", "polygons", "segmentation", "segmentations"})
    is_ring = shape[-1] >= 6 and shape[-1] % 2 == 0
    likely = {1: named and is_ring, 2: is_ring or (named and shape[-1] == 2), 3: is_ring or shape[-1] == 2, 4: True}
    return "polygons" if likely.get(len(shape), False) else None


def words(name: str) -> set[str]:
    """The words in a column's name: of "instanceMasks", "instance_masks" and "instance-masks" the same two."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", name).lower().split())


def _image_rank(name: str, value: Any) -> tuple[int, bool] | None:
    """The lower, the likelier: pictures before arrays before paths, and what is just called image first."""
    exact = name.lower() not in ("image", "img", "pixel_values")
    if isinstance(value, Image.Image | bytes) or (isinstance(value, dict) and is_label_image(value)):
        return 0, exact
    if isinstance(value, np.ndarray | Tensor | list) and nesting(
        value if isinstance(value, list) else value.tolist()
    ) in (2, 3):
        return 1, exact
    return (2, exact) if isinstance(value, str) and value.lower().endswith(PICTURE_SUFFIXES) else None


def _image_column(flat: Mapping[str, Any], listing: str) -> str:
    ranks = {name: _image_rank(name, value) for name, value in flat.items() if not words(name) & MASK_WORDS}
    possible = {name: rank for name, rank in ranks.items() if rank is not None}
    named = {name: rank for name, rank in possible.items() if words(name) & IMAGE_WORDS or rank[0] == 2}
    best = [name for name, rank in named.items() if rank == min(named.values())]
    if not named:
        best = [name for name, rank in possible.items() if rank[0] == 0]
    if len(best) == 1:
        return best[0]
    problem = f"{best} could each be the images" if best else "no column looks like images"
    raise ValueError(f"{problem}; {listing}")


def _mask_column(flat: Mapping[str, Any], found: MaskColumns, listing: str) -> str | None:
    """The column of masks; None while rows have nothing in the one whose name says so."""
    others = {name: value for name, value in flat.items() if name != found.image}
    kinds = {name: kind_of(value, flat[found.image or ""], name) for name, value in others.items()}
    possible = [name for name, kind in kinds.items() if kind and not kinds.get(name.rpartition(".")[0])]
    named = [name for name in possible if words(name) & MASK_WORDS]
    empty = [name for name, value in others.items() if words(name) & MASK_WORDS and _is_nothing(value)]
    if not named and empty:
        return empty[0] if len(empty) == 1 and found.kind else None
    chosen = named or possible
    if len(chosen) == 1:
        return chosen[0]
    boxes = [name for name, value in others.items() if isinstance(value, dict) and {"bbox", "boxes"} & set(value)]
    problem = f"{chosen} could each be the masks" if chosen else "no column looks like masks"
    hint = f" ({boxes[0]!r} has boxes, which are no masks)" if boxes and not chosen else ""
    raise ValueError(f"{problem}{hint}; {listing}")


def _is_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_nothing(part) for part in value.values())
    return value is None or (isinstance(value, list | tuple | str) and not len(value))


def _with_kind(found: MaskColumns, value: Any, image: Any, listing: str) -> MaskColumns:
    """Fill in kind and void as far as one row tells: an empty label map doesn't."""
    if _is_nothing(value):
        return found
    kind = found.kind or kind_of(value, image, found.masks or "")
    if kind is None:
        raise ValueError(f"column {found.masks!r} holds no masks of a known form; {listing}")
    if kind not in ("label_map", "binary", "components"):
        return replace(found, kind=kind, void=NO_VOID if found.void is None else found.void)
    labels = label_array(value)
    if found.kind is None:
        kind = "binary" if is_black_and_white(labels) else "label_map"
    has_void = kind != "binary" and labels.dtype == np.uint8 and not is_black_and_white(labels)
    void = (WHITE if has_void else NO_VOID) if found.void is None else found.void
    return replace(found, kind=kind, void=void) if labels.any() else replace(found, kind=found.kind)
