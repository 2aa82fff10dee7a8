"""Photos of scikit-image with objects in them outlined by hand: ground truth that no model had a say in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam_variants.training.masked_image import MaskedImage

OUTLINES = Path(__file__).parent / "photos" / "objects.json"
"""For each photo its size and its objects' polygons; it says itself how its coordinates are meant."""

CELL = "cell"
"""The one photo that is asked for by itself: a microscope's image, unlike the others."""


def photo_objects() -> list[MaskedImage]:
    """Ten everyday objects in four photos, from a camcorder to a cat; wholes and parts.

    Returns:
        A `MaskedImage` for each of the photos camera, rocket, chelsea and stereo_motorcycle (the left one), named so.

    Raises:
        ImportError: scikit-image is missing.
        ValueError: scikit-image's photo has another size than the one that was outlined.
    """
    outlined = _outlined_photos()
    return [_masked_photo(name, outlined[name]) for name in outlined if name != CELL]


def cell_photo() -> MaskedImage:
    """A cell that floats in saline, seen by a holographic microscope (660×550, gray), with its mask.

    Raises:
        ImportError: scikit-image is missing.
        ValueError: scikit-image's photo has another size than the one that was outlined.
    """
    return _masked_photo(CELL, _outlined_photos()[CELL])


def polygons_mask(polygons: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> np.ndarray:
    """Fill polygons: a pixel belongs to the mask where its centre lies inside one of them.

    Args:
        polygons: each a list of corners (x, y) in pixels from the image's left upper corner, so that the centre of the
            first pixel is (0.5, 0.5).
        size: (height, width) of the image.

    Returns:
        H×W bool.

    Raises:
        ImportError: scikit-image is missing.
    """
    draw = _skimage("draw")
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        x, y = np.asarray(polygon, dtype=np.float64).T - 0.5
        mask[draw.polygon(y, x, shape=size)] = True
    return mask


def _outlined_photos() -> Mapping[str, Mapping[str, Any]]:
    photos: Mapping[str, Mapping[str, Any]] = json.loads(OUTLINES.read_text(encoding="utf-8"))["photos"]
    return photos


def _masked_photo(name: str, outlined: Mapping[str, Any]) -> MaskedImage:
    photo = getattr(_skimage("data"), name)()
    if isinstance(photo, tuple):  # stereo_motorcycle: left, right, disparity
        photo = photo[0]
    size = (outlined["size"][0], outlined["size"][1])
    if photo.shape[:2] != size:
        raise ValueError(f"scikit-image's photo {name} has {photo.shape[:2]} pixels, the outlined one {size}")
    masks = np.stack([polygons_mask(each["polygons"], size) for each in outlined["objects"]])
    levels = np.array([each["level"] for each in outlined["objects"]])
    image = cv2.cvtColor(photo, cv2.COLOR_GRAY2RGB) if photo.ndim == 2 else np.ascontiguousarray(photo)
    return MaskedImage(image, masks, name, levels)


def _skimage(part: str) -> Any:
    try:
        import skimage
    except ImportError as error:
        raise ImportError("the photos with outlined objects are scikit-image's: pip install scikit-image") from error
    return getattr(skimage, part)
