"""Photos with hand-made outlines: the loader, and that the outlines are what was drawn."""

from __future__ import annotations

import itertools
import json
import sys
import types
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from sam_variants.hub_scripts import photo_objects as module
from sam_variants.hub_scripts.photo_objects import OUTLINES, cell_photo, photo_objects, polygons_mask
from sam_variants.training.masked_image import MaskedImage

data = pytest.importorskip("skimage.data")

PHOTOS = json.loads(OUTLINES.read_text(encoding="utf-8"))["photos"]
OBJECTS = [(name, each) for name, photo in PHOTOS.items() for each in photo["objects"]]
NAMES = [f"{name}-{each['name']}" for name, each in OBJECTS]
EXPECTED = {
    "camera": ["man", "tower building", "camcorder"],
    "rocket": ["rocket"],
    "chelsea": ["cat", "eye"],
    "stereo_motorcycle": ["fuel tank", "seat", "headlight", "cardboard box"],
    "cell": ["cell"],
}


@pytest.fixture(scope="module")
def photos() -> dict[str, MaskedImage]:
    return {photo.name: photo for photo in [*photo_objects(), cell_photo()]}


def test_ten_objects_in_four_photos_and_a_cell(photos: dict[str, MaskedImage]) -> None:
    assert {name: [each["name"] for each in photo["objects"]] for name, photo in PHOTOS.items()} == EXPECTED
    assert [photo.name for photo in photo_objects()] == ["camera", "rocket", "chelsea", "stereo_motorcycle"]
    assert sum(len(photo.masks) for photo in photo_objects()) == 10
    assert photos["cell"].masks.shape == (1, 660, 550)


def test_masks_have_the_stored_areas(photos: dict[str, MaskedImage]) -> None:
    areas = {name: photo.masks.sum(axis=(1, 2)).tolist() for name, photo in photos.items()}
    assert areas == {name: [each["area"] for each in photo["objects"]] for name, photo in PHOTOS.items()}


def test_a_mask_is_what_other_software_fills(photos: dict[str, MaskedImage]) -> None:
    """OpenCV, eight times enlarged: it counts parts of pixels, and the outline itself too, which adds up to 1%."""
    for name, each in OBJECTS:
        height, width = PHOTOS[name]["size"]
        canvas = np.zeros((height * 8, width * 8), np.uint8)
        corners = [np.round(np.array(polygon) * 8 - 0.5).astype(np.int32) for polygon in each["polygons"]]
        filled = [cv2.fillPoly(canvas.copy(), [polygon], 1) for polygon in corners]
        coverage = np.maximum.reduce(filled).reshape(height, 8, width, 8).mean(axis=(1, 3))
        mask = photos[name].masks[PHOTOS[name]["objects"].index(each)]
        assert abs(coverage.sum() / each["area"] - 1) < 0.012, each["name"]
        assert not mask[coverage < 0.2].any(), each["name"]
        assert mask[coverage > 0.8].all(), each["name"]


@pytest.mark.parametrize(("photo", "outlined"), OBJECTS, ids=NAMES)
def test_polygons_lie_in_the_photo_and_cross_nothing(photo: str, outlined: dict) -> None:
    height, width = PHOTOS[photo]["size"]
    for polygon in outlined["polygons"]:
        corners = np.array(polygon)
        assert len(corners) >= 3
        assert (corners >= 0).all()
        assert (corners <= (width, height)).all()
        assert len(np.unique(corners, axis=0)) == len(corners)
        assert not crossings(corners)


def test_a_crossing_is_seen() -> None:
    assert crossings(np.array([(0, 0), (4, 4), (4, 0), (0, 4)])) == [(0, 2)]
    assert crossings(np.array([(0, 0), (4, 0), (2, 0), (2, 3)])) == [(0, 2)]
    assert crossings(np.array([(0, 0), (4, 0), (4, 4), (0, 4)])) == []


def test_pieces_of_an_object_do_not_overlap() -> None:
    for name, each in OBJECTS:
        pieces = [polygons_mask([polygon], tuple(PHOTOS[name]["size"])) for polygon in each["polygons"]]
        assert np.sum(pieces, axis=0).max() == 1, each["name"]


def test_objects_that_touch_share_a_border(photos: dict[str, MaskedImage]) -> None:
    for name, first, second in (("camera", 0, 2), ("stereo_motorcycle", 0, 1)):
        one, other = photos[name].masks[[first, second]].astype(np.uint8)
        assert (one & other).sum() <= 5
        assert (cv2.dilate(one, np.ones((5, 5))) & other).sum() > 20


def test_clicks_in_objects_meet_them(photos: dict[str, MaskedImage]) -> None:
    inside = {
        "camera": [(80, 300), (422, 160), (290, 165)],
        "rocket": [(322, 250)],
        "chelsea": [(150, 200), (150, 115)],
        "stereo_motorcycle": [(400, 220), (270, 230), (540, 150), (650, 250)],
        "cell": [(428, 374)],
    }
    for name, points in inside.items():
        found = [photos[name].masks[:, y, x].nonzero()[0].tolist() for x, y in points]
        wanted = [[0], [0, 1]] if name == "chelsea" else [[index] for index in range(len(points))]
        assert found == wanted


def test_images_are_the_photos_in_rgb(photos: dict[str, MaskedImage]) -> None:
    assert (photos["chelsea"].image == data.chelsea()).all()
    assert (photos["stereo_motorcycle"].image == data.stereo_motorcycle()[0]).all(), "the left one"
    assert (photos["cell"].image == data.cell()[:, :, None]).all()


def test_levels_tell_wholes_from_parts(photos: dict[str, MaskedImage]) -> None:
    assert photos["chelsea"].levels.tolist() == [0, 1]
    assert photos["stereo_motorcycle"].levels.tolist() == [1, 1, 1, 0]


def test_pixels_are_filled_whose_centre_is_inside() -> None:
    mask = polygons_mask([[[1, 1], [3, 1], [3, 2], [1, 2]], [[4.6, 0.4], [6, 0.4], [6, 0.6], [4.6, 0.6]]], (3, 6))
    assert np.argwhere(mask).tolist() == [[0, 5], [1, 1], [1, 2]]


def test_another_size_of_a_photo_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = types.SimpleNamespace(cell=lambda: np.zeros((66, 55), np.uint8))
    monkeypatch.setattr(module, "_skimage", lambda part: smaller)
    with pytest.raises(ValueError, match=r"photo cell has \(66, 55\) pixels, the outlined one \(660, 550\)"):
        cell_photo()


@pytest.mark.parametrize("load", [photo_objects, cell_photo])
def test_without_scikit_image_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, load: Callable[[], object]) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        load()


def crossings(corners: np.ndarray) -> list[tuple[int, int]]:
    """Which sides of a closed polygon, other than neighbours, have a point in common."""
    ends = np.roll(corners, -1, axis=0)
    count = len(corners)
    pairs = itertools.combinations(range(count), 2)
    apart = [(a, b) for a, b in pairs if b - a not in (1, count - 1)]
    return [(a, b) for a, b in apart if meet(corners[a], ends[a], corners[b], ends[b])]


def meet(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether the segments ab and cd have a point in common."""

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float(np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])))

    def between(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> bool:
        return side(p, q, r) == 0 and bool((np.minimum(p, q) <= r).all() and (r <= np.maximum(p, q)).all())

    if side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0:
        return True
    return between(a, b, c) or between(a, b, d) or between(c, d, a) or between(c, d, b)
