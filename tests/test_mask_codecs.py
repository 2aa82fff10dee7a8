"""Boxes, areas, RLE, COCO annotations and polygons of Masks."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mask_examples import SIZE, in_every_form, make_fields, make_stack
from pycocotools import mask as mask_utils

from sam_variants.mask_codecs import canonical_rle, mask_to_polygons, ring_area, rle_runs
from sam_variants.results import Masks

stacks = hnp.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 17), st.integers(1, 17)))
single_masks = hnp.arrays(bool, st.tuples(st.integers(1, 17), st.integers(1, 17)))
properties = settings(deadline=None, max_examples=50)


def fill_polygons(regions: list, size: tuple[int, int]) -> np.ndarray:
    """Even-odd filling of axis-aligned rings, from the definition: every vertical edge flips what lies to its right."""
    filled = np.zeros(size, dtype=bool)
    for ring in (ring for region in regions for ring in region):
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (x1 == x2) != (y1 == y2)
            if x1 == x2:
                filled[min(y1, y2) : max(y1, y2), x1:] ^= True
    return filled


# Boxes and areas


def test_boxes_are_half_open():
    stack = np.zeros((3, 10, 12), dtype=bool)
    stack[0, 2:5, 3:9] = True
    stack[1, 9, 11] = True
    for masks in in_every_form(stack):
        assert masks.boxes.tolist() == [[3, 2, 9, 5], [11, 9, 12, 10], [0, 0, 0, 0]]
        assert masks.areas.tolist() == [18, 1, 0]


@properties
@given(stacks)
def test_boxes_and_areas_agree_with_the_pixels(stack):
    for masks in in_every_form(stack):
        np.testing.assert_array_equal(masks.areas, stack.sum((1, 2)))
        for mask, (x1, y1, x2, y2) in zip(stack, masks.boxes.tolist(), strict=True):
            inside = mask[y1:y2, x1:x2]
            assert inside.sum() == mask.sum()
            if mask.any():
                assert inside[0].any()
                assert inside[-1].any()
                assert inside[:, 0].any()
                assert inside[:, -1].any()
            else:
                assert (x1, y1, x2, y2) == (0, 0, 0, 0)


# COCO and RLE


@properties
@given(stacks)
def test_coco_round_trip(stack):
    annotations = json.loads(json.dumps(Masks(stack).to_coco(1)))
    again = Masks.from_coco(annotations, size=stack.shape[1:])
    np.testing.assert_array_equal(again.data, stack)
    for annotation, mask in zip(annotations, stack, strict=True):
        np.testing.assert_array_equal(mask_utils.decode(annotation["segmentation"]), mask)


@properties
@given(single_masks, st.lists(st.integers(0, 300), max_size=3))
def test_empty_runs_are_merged_away(mask, places):
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    runs = [0, *runs] if flat[0] else runs
    canonical = list(runs)
    for place in places:
        run = place % len(runs)
        first = place % (runs[run] + 1)
        runs[run : run + 1] = [first, 0, runs[run] - first]
    plain = {"size": list(mask.shape), "counts": runs}
    for rle in (plain, mask_utils.frPyObjects(plain, *mask.shape)):
        assert rle_runs(canonical_rle(rle)["counts"]).tolist() == canonical
        assert Masks.from_rle([rle]).boxes.tolist() == Masks(mask[None]).boxes.tolist()
        np.testing.assert_array_equal(Masks.from_rle([rle]).data[0], mask)


def test_long_runs_survive_the_compressed_form():
    mask = np.zeros((1, 900, 1100), dtype=bool)
    mask[0, 10:, 500:] = True
    mask[0, 850:, 20:25] = True
    counts = Masks(mask).to_coco(1)[0]["segmentation"]["counts"]
    assert rle_runs(counts).sum() == 900 * 1100
    assert rle_runs(counts.encode())[1::2].sum() == mask.sum()


def test_coco_fields():
    masks = Masks(make_stack(), **make_fields())
    annotations = json.loads(json.dumps(masks.to_coco(5, first_annotation_id=10)))
    first = annotations[0]
    x1, y1, x2, y2 = masks.boxes[0].tolist()
    assert first["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    assert first["crop_box"] == [1, 2, 29, 18]
    assert first["point_coords"] == [masks.points[0].tolist()]
    assert (first["image_id"], first["category_id"], first["iscrowd"]) == (5, 1, 0)
    assert [a["id"] for a in annotations] == [10, 11, 12, 13]
    assert first["area"] == int(masks.areas[0])
    again = Masks.from_coco(annotations)
    for name in make_fields():
        torch.testing.assert_close(getattr(again, name), getattr(masks, name))
    bare = Masks(make_stack()).to_coco(5)[0]
    assert set(first) - set(bare) == {"score", "stability_score", "point_coords", "crop_box", "object_id"}


def test_points_of_different_number_round_trip():
    points = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [-10.0, -10.0]]])
    masks = Masks(make_stack(2), points=points)
    annotations = masks.to_coco(1)
    assert [a["point_coords"] for a in annotations] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert torch.equal(Masks.from_coco(annotations).points, points)


def test_foreign_annotations():
    polygon = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4], [8, 8, 10, 8, 10, 10, 8, 10]]}
    expected = np.zeros(SIZE, dtype=bool)
    expected[1:4, 2:6] = expected[8:10, 8:10] = True
    np.testing.assert_array_equal(Masks.from_coco([polygon], size=SIZE).data[0], expected)
    sa1b = Masks(make_stack(1)).to_coco(1)[0] | {"predicted_iou": 0.75}
    assert Masks.from_coco([sa1b]).scores.tolist() == [0.75]
    assert Masks.from_coco([{"segmentation": []}], size=SIZE).areas.tolist() == [0]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([], "pass size"),
        ([{"bbox": [1, 2, 3, 4]}], '"segmentation"'),
        ([{"segmentation": [[0, 0, 5, 0, 5, 5]]}], "pass size"),
        ([{"segmentation": {"size": [4, 4], "counts": [3, 9]}}], "sum to 12, size 4x4 needs 16"),
        ([{"segmentation": {"size": [4, 4], "counts": "\x10!"}}], "no compressed COCO"),
        ([{"segmentation": {"size": [4, 4], "counts": [16]}, "image_id": n} for n in (1, 2)], "one image"),
        ([{"segmentation": {"size": [4, n], "counts": [4 * n]}} for n in (4, 5)], "one size"),
        ([{"segmentation": {"size": [1, 1], "counts": [1]}} | extra for extra in ({}, {"score": 1})], "all or none"),
    ],
)
def test_bad_annotations_are_refused(annotations, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Masks.from_coco(annotations)


def test_bad_polygons_and_sizes_are_refused():
    with pytest.raises(ValueError, match="three points"):
        Masks.from_coco([{"segmentation": [[1, 2, 3, 4]]}], size=SIZE)
    with pytest.raises(ValueError, match="expected"):
        Masks.from_coco(Masks(make_stack()).to_coco(1), size=(5, 5))
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        Masks.from_coco([], size=(0, 5))


# Polygons


@properties
@given(single_masks)
def test_polygons_fill_back_to_the_mask(mask):
    regions = Masks(mask[None]).to_polygons()[0]
    np.testing.assert_array_equal(fill_polygons(regions, mask.shape), mask)
    assert sum(ring_area(ring) for region in regions for ring in region) == mask.sum()
    for exterior, *holes in regions:
        assert ring_area(exterior) > 0
        assert all(ring_area(hole) < 0 for hole in holes)
        for ring in (exterior, *holes):
            assert len({tuple(point) for point in ring.tolist()}) == len(ring), "a ring touches itself"
    assert len(regions) == cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] - 1


def test_polygons_without_holes_mean_the_same_to_coco():
    mask = np.zeros(SIZE, dtype=bool)
    mask[3:9, 4:15] = mask[9:14, 4:7] = mask[20, 20] = True
    segmentation = [region[0].flatten().tolist() for region in mask_to_polygons(mask)]
    np.testing.assert_array_equal(Masks.from_coco([{"segmentation": segmentation}], size=SIZE).data[0], mask)


def test_one_pixel_hole_and_island():
    mask = np.ones((7, 7), dtype=bool)
    mask[2:5, 2:5] = False
    mask[3, 3] = True
    ring, island = mask_to_polygons(mask)
    assert [len(r) for r in ring] == [4, 4]
    assert sorted(map(tuple, island[0].tolist())) == [(3, 3), (3, 4), (4, 3), (4, 4)]
