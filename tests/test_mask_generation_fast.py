"""The fast preset: which points it asks about, and what it finds on scenes whose objects are known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_crop import select
from torch import Tensor

from sam_variants.mask_generation.encoded_crop import Candidates
from sam_variants.mask_generation.mask_generator import generate_masks
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.point_grid import build_point_grid
from sam_variants.mask_generation.point_schedule import (
    ENOUGH_MASKS,
    PRESETS,
    PointLevel,
    point_levels,
    times_covered,
    worth_asking,
)
from sam_variants.mask_runs import MaskGeometry, MaskRuns, trace

SIDE = 128
IMAGE = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)


class SceneCrop:
    """A model that knows a scene: a point gives the topmost object there, exactly."""

    def __init__(self, objects: list[np.ndarray]) -> None:
        self.objects = objects
        self.geometry = MaskGeometry((SIDE, SIDE))
        self.asked: list[list[float]] = []

    def decode(self, points: np.ndarray, score_threshold: float | None, multimask_output: bool = True) -> Candidates:
        self.asked += points.tolist()
        labels = np.zeros((SIDE, SIDE), dtype=int)
        for index, mask in enumerate(self.objects):
            labels[mask] = index
        columns, rows = points.astype(int).T
        masks = torch.from_numpy(np.stack([self.objects[index] for index in labels[rows, columns]]))
        return select(torch.ones(len(points), 1), torch.where(masks, 10.0, -10.0)[:, None], score_threshold)

    def refine(self, points: np.ndarray, logits: Tensor, score_threshold: float | None) -> Candidates:
        raise AssertionError("not asked to")


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def runs_of(mask: np.ndarray) -> MaskRuns:
    return trace(np.where(mask, 1, -1).astype(np.float32), MaskGeometry(mask.shape), 0.0)


BACKGROUND = rectangle(0, 0, SIDE, SIDE)
CORNERS = [2, 34, 66, 98]
OBJECTS = [BACKGROUND, *(rectangle(x, y, x + 28, y + 28) for x in CORNERS for y in CORNERS), rectangle(60, 60, 68, 68)]


def found(preset: str, objects: list[np.ndarray], **options: int) -> tuple[set[str], int]:
    """The masks, and about how many points the model was asked."""
    crop = SceneCrop(objects)
    chosen = MaskGenerationOptions(preset=preset, **options)
    masks = generate_masks(IMAGE, lambda images: [crop for _ in images], chosen)
    return {annotation["segmentation"]["counts"] for annotation in masks.to_coco(0)}, len(crop.asked)


def test_fast_finds_what_full_finds_with_fewer_questions() -> None:
    full, all_points = found("full", OBJECTS)
    fast, asked = found("fast", OBJECTS)
    assert all_points == 32 * 32
    assert fast == full
    assert len(full) == len(OBJECTS)
    assert asked < 0.75 * all_points


def test_points_that_are_left_out_are_done_with() -> None:
    crop, told = SceneCrop(OBJECTS), []
    options = MaskGenerationOptions(preset="fast")
    generate_masks(IMAGE, lambda images: [crop], options, progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (1024, 1024)
    assert len(crop.asked) < 1024


def test_the_batch_size_changes_nothing() -> None:
    assert found("fast", OBJECTS, points_per_batch=1) == found("fast", OBJECTS, points_per_batch=1000)


def test_full_is_one_level() -> None:
    (level,) = point_levels(build_point_grid(5), "full")
    assert level.indices.tolist() == list(range(25))


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.sampled_from(list(PRESETS)))
@settings(max_examples=60, deadline=None)
def test_levels_deal_every_point_out_once(seed: int, count: int, preset: str) -> None:
    grid = np.random.default_rng(seed).random((count, 2))
    levels = point_levels(grid, preset)
    dealt = np.concatenate([level.indices for level in levels])
    assert sorted(dealt.tolist()) == list(range(count))
    assert all((np.diff(level.indices) > 0).all() for level in levels)


@pytest.mark.parametrize("points_per_side", [8, 16, 32])
def test_levels_of_a_grid_are_grids(points_per_side: int) -> None:
    """A level together with those before it is an even grid, the third a chessboard's black squares."""
    so_far = np.zeros((points_per_side, points_per_side), dtype=bool)
    expected = [
        np.indices(so_far.shape).max(axis=0) < 0,
        (np.indices(so_far.shape) % 4 == 1).all(axis=0),
        (np.indices(so_far.shape) % 2 == 1).all(axis=0),
        np.indices(so_far.shape).sum(axis=0) % 2 == 0,
        np.ones_like(so_far),
    ]
    levels = point_levels(build_point_grid(points_per_side), "fast")
    for level, (known, wanted) in zip(levels, pairwise(expected), strict=True):
        assert np.array_equal(so_far, known)
        so_far.flat[level.indices] = True
        assert np.array_equal(so_far, wanted)
    assert [level.only_beside_found for level in levels] == [False, False, False, True]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_masks_on_a_point_are_counted(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = random.random((4, 9, 7)) < random.random((4, 1, 1)) ** 2
    points = random.random((30, 2)) * [7, 9]
    expected = [sum(mask[int(y), int(x)] for mask in masks) for x, y in points]
    assert times_covered(points, [runs_of(mask) for mask in masks]).tolist() == expected


GRID = build_point_grid(4) * 40
NOTHING = np.zeros((0, 2))


def wanted(level: PointLevel, masks: list[MaskRuns], prompts: np.ndarray = NOTHING) -> list[int]:
    return level.indices[worth_asking(GRID, level, masks, prompts, (40, 40))].tolist()


def test_points_on_enough_masks_are_left_out() -> None:
    left_half = np.zeros((40, 40), dtype=bool)
    left_half[:, :20] = True
    level = PointLevel(np.array([0, 1, 2, 3, 15]), only_beside_found=False)
    assert wanted(level, []) == [0, 1, 2, 3, 15]
    assert wanted(level, [runs_of(left_half)] * (ENOUGH_MASKS - 1)) == [0, 1, 2, 3, 15]
    assert wanted(level, [runs_of(left_half)] * ENOUGH_MASKS) == [2, 3, 15]


def test_masks_of_most_of_the_crop_do_not_count() -> None:
    most = np.zeros((40, 40), dtype=bool)
    most[:, :21] = True
    level = PointLevel(np.array([0, 3]), only_beside_found=False)
    assert wanted(level, [runs_of(most)] * ENOUGH_MASKS) == [0, 3]


def test_only_points_beside_one_that_found_something() -> None:
    level = PointLevel(np.arange(16), only_beside_found=True)
    assert wanted(level, [], NOTHING) == []
    assert wanted(level, [], GRID[[5, 5]]) == [1, 4, 5, 6, 9]


def test_points_are_beside_each_other_in_a_flat_image_too() -> None:
    level = PointLevel(np.arange(16), only_beside_found=True)
    flat = GRID * [10, 1]
    assert np.flatnonzero(worth_asking(flat, level, [], flat[[5]], (40, 400))).tolist() == [1, 4, 5, 6, 9]


def test_barren_ground_is_not_asked_about_finely() -> None:
    """Where nothing passes, only the chessboard of points is asked, half of the grid."""
    crop = SceneCrop([BACKGROUND])
    options = MaskGenerationOptions(preset="fast", points_per_side=12, pred_iou_thresh=2.0)
    generate_masks(IMAGE, lambda images: [crop], options)
    assert len(crop.asked) == 72
