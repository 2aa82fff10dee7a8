"""The pure functions of mask generation: against the official ones, and against what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import load_golden
from golden_mask_generation import golden_helpers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from torch import Tensor

from sam_variants.mask_codecs import Rle, encode_mask, rle_runs
from sam_variants.mask_generation.crops import (
    generate_crop_boxes,
    is_box_near_crop_edge,
    uncrop_boxes,
    uncrop_points,
)
from sam_variants.mask_generation.found_masks import stability_score
from sam_variants.mask_generation.nms import nms
from sam_variants.mask_generation.point_grid import build_layer_point_grids, build_point_grid
from sam_variants.mask_generation.small_regions import clean_small_regions, remove_small_regions
from sam_variants.mask_generation.time_split import TimeSplit
from sam_variants.mask_runs import MaskGeometry, MaskSurface, trace

HELPERS = golden_helpers()
IO = load_golden("sam_amg").io
SMALL = HELPERS["small_regions"]


def code(size: list[int], counts: str) -> Rle:
    return {"size": size, "counts": counts}


def pixels(size: list[int], counts: str) -> np.ndarray:
    return mask_utils.decode(code(size, counts)).astype(bool)


def logits_of(mask: np.ndarray) -> np.ndarray:
    """Logits at full size, cut at 0."""
    return np.where(mask, 1, -1).astype(np.float32)


@pytest.mark.parametrize("n_per_side", [1, 2, 3, 8, 32])
def test_point_grids_equal_the_official_ones(n_per_side: int) -> None:
    expected = IO[f"helpers/build_point_grid/{n_per_side}"].numpy()
    grid = build_point_grid(n_per_side)
    assert grid.dtype == np.float64
    np.testing.assert_array_equal(grid, expected)


def test_layers_are_thinned_out() -> None:
    lengths = [len(grid) for grid in build_layer_point_grids(8, 2, 2)]
    assert lengths == HELPERS["build_all_layer_point_grids(8,2,2)_lengths"]
    with pytest.raises(ValueError, match=r"no points for crop layer 2: points per side would be \[5, 1, 0\]"):
        build_layer_point_grids(5, 2, 3)
    with pytest.raises(ValueError, match="n_per_side must be 1 or more, got 0"):
        build_point_grid(0)


@pytest.mark.parametrize("case", HELPERS["generate_crop_boxes"], ids=lambda case: f"{case['im_size']}")
def test_crop_boxes_equal_the_official_ones(case: dict[str, Any]) -> None:
    boxes, layers = generate_crop_boxes(case["im_size"], case["n_layers"], case["overlap_ratio"])
    assert boxes == case["boxes_xyxy"]
    assert layers == case["layer_idxs"]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 4), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_crops_lie_in_the_image_and_cover_it_in_each_layer(
    height: int, width: int, n_layers: int, overlap_ratio: float
) -> None:
    boxes, layers = generate_crop_boxes((height, width), n_layers, overlap_ratio)
    for layer in range(n_layers + 1):
        seen = np.zeros((height, width), dtype=bool)
        for (x1, y1, x2, y2), own in zip(boxes, layers, strict=True):
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            if own == layer:
                seen[y1:y2, x1:x2] = True
        assert seen.all()


@pytest.mark.parametrize("case", HELPERS["is_box_near_crop_edge"])
def test_cut_boxes_are_the_official_ones(case: dict[str, Any]) -> None:
    boxes = torch.tensor(case["boxes_xyxy_in_crop_frame"])
    near = is_box_near_crop_edge(boxes, case["crop_box"], case["orig_box"], case["atol"])
    assert near.tolist() == case["out"]


def test_uncropping_equals_the_official_functions() -> None:
    case = HELPERS["uncrop"]
    crop, size = case["crop_box"], case["orig_hw"]
    assert uncrop_boxes(torch.tensor(case["boxes_in"]), crop).tolist() == case["boxes_out"]
    np.testing.assert_allclose(uncrop_points(np.asarray(case["points_in"]), crop), case["points_out"])
    for cropped, placed in zip(case["masks_in"], case["masks_out"], strict=True):
        mask = pixels([crop[3] - crop[1], crop[2] - crop[0]], cropped)
        runs = trace(logits_of(mask), MaskGeometry(mask.shape), 0.0)
        assert runs.rle(size, (crop[0], crop[1])) == code(size, placed)


def test_boxes_areas_and_codes_equal_the_official_functions() -> None:
    masks = HELPERS["masks"]
    for index, counts in enumerate(masks["counts"]):
        mask = pixels(masks["size"], counts)
        runs = trace(logits_of(mask), MaskGeometry(mask.shape), 0.0)
        assert runs.box == masks["batched_mask_to_box"][index]
        assert runs.area == masks["area_from_rle"][index]
        assert runs.rle(mask.shape) == encode_mask(mask) == code(masks["size"], counts)
        assert rle_runs(counts).tolist() == masks["uncompressed"][index]


@pytest.mark.parametrize(("threshold", "offset"), [(0, 0.5), (0, 1.0), (0.3, 1.0)])
def test_stability_equals_the_official_function(threshold: float, offset: float) -> None:
    expected = IO[f"helpers/stability/out_thr{threshold}_off{offset}"].tolist()
    for logits, reference in zip(IO["helpers/stability/in_logits"].numpy(), expected, strict=True):
        surface = MaskSurface(logits, MaskGeometry(logits.shape), threshold - offset)
        # The reference's NaN, stored as −1, is 0 here.
        assert stability_score(surface, threshold, offset) == pytest.approx(max(reference, 0), abs=1e-6)


@pytest.mark.parametrize(
    "case", SMALL["cases"], ids=lambda case: f"{case['mask']}-{case['mode']}-{case['area_thresh']}"
)
def test_small_regions_equal_the_official_function(case: dict[str, Any]) -> None:
    mask = pixels(SMALL["size"], SMALL["in"][case["mask"]])
    cleaned, changed = remove_small_regions(mask, case["area_thresh"], case["mode"])
    assert changed == case["changed"]
    assert encode_mask(cleaned)["counts"] == case["out"]


def test_small_regions_know_two_modes() -> None:
    with pytest.raises(ValueError, match=r"one of \['holes', 'islands'\], got 'specks'"):
        remove_small_regions(np.ones((3, 3), dtype=bool), 2, "specks")


@example(seed=52608, height=15, width=20, area=2.0, density=0.1)  # several islands of one size, and no other
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 30),
    st.integers(2, 30),
    st.floats(0.5, 40),
    st.sampled_from([0.1, 0.5, 0.9]),
)
@settings(max_examples=80, deadline=None)
def test_looking_around_the_mask_only_changes_nothing(
    seed: int, height: int, width: int, area: float, density: float
) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=bool)
    (y1, y2), (x1, x2) = (np.sort(random.choice(side + 1, 2, replace=False)) for side in (height, width))
    mask[y1:y2, x1:x2] = random.random((y2 - y1, x2 - x1)) < density
    expected, _ = remove_small_regions(mask, area, "holes")
    expected, _ = remove_small_regions(expected, area, "islands")
    (cleaned,), kept = clean_small_regions([encode_mask(mask)], area, 0.7)
    assert kept == [0]
    assert cleaned == encode_mask(expected)


def test_a_mask_that_needed_cleaning_loses_against_its_twin() -> None:
    clean = np.zeros((30, 30), dtype=bool)
    clean[5:20, 5:20] = True
    pierced = clean.copy()
    pierced[10, 10] = False
    empty = np.zeros_like(clean)
    rles = [encode_mask(mask) for mask in (pierced, clean, empty, empty)]
    cleaned, kept = clean_small_regions(rles, 4, 0.7)
    assert kept == [1, 2, 3]
    assert cleaned == [rles[index] for index in kept]
    cleaned, kept = clean_small_regions(rles[:1], 4, 0.7)
    assert cleaned == [encode_mask(clean)]


def plain_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[int]:
    """Greedy suppression, pair by pair, in float32 with the comparison in float64."""
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index].item()):
        for better in kept:
            first, second = boxes[index].numpy(), boxes[better].numpy()
            sides = np.maximum(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), np.float32(0))
            common = sides.prod()
            with np.errstate(invalid="ignore"):
                iou = common / (np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - common)
            if float(iou) > iou_threshold:
                break
        else:
            kept.append(index)
    return kept


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
@settings(max_examples=80, deadline=None)
def test_suppression_is_the_greedy_one(seed: int, count: int, iou_threshold: float) -> None:
    random = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 8, (count, 2), generator=random)
    # Small whole numbers: many ties of scores and overlaps, and boxes without area.
    boxes = torch.cat([corners, corners + torch.randint(0, 6, (count, 2), generator=random)], dim=1).float()
    scores = torch.randint(0, 4, (count,), generator=random) / 4
    kept = nms(boxes, scores, iou_threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == plain_nms(boxes, scores, iou_threshold)


def test_suppression_compares_in_float64() -> None:
    """7/10 in float32 is below 0.7 in float64, 3/5 is above 0.6: only the second suppresses."""
    seven = torch.tensor([[0.0, 0, 10, 1], [0, 0, 7, 1]])
    three = torch.tensor([[0.0, 0, 5, 1], [0, 0, 3, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(seven, scores, 0.7).tolist() == [0, 1]
    assert nms(three, scores, 0.6).tolist() == [0]


def test_boxes_without_area_stay() -> None:
    assert nms(torch.zeros(3, 4), torch.tensor([0.1, 0.3, 0.2]), 0.0).tolist() == [1, 2, 0]


def test_suppression_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"boxes must be Nx4 and scores N, got \(3, 4\) and \(2,\)"):
        nms(torch.zeros(3, 4), torch.zeros(2), 0.5)


def test_times_add_up_even_behind_an_error() -> None:
    times = TimeSplit()
    with pytest.raises(KeyError), times.stage("decode"):
        raise KeyError
    assert times.seconds["decode"] > 0
    assert times.total == sum(times.seconds.values())
    assert TimeSplit({"encode": 0.5, "decode": 3.14, "post-processing": 0.0}).summary() == (
        "encode 0.5 s, decode 3.1 s, post-processing 0.0 s"
    )
    with pytest.raises(ValueError, match="'upsampling' is none of"), times.stage("upsampling"):
        pass
