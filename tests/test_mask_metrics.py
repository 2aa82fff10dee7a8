"""Measures of masks: hand-computed cases, pycocotools' evaluation, and definitions spelt out pixel by pixel."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam_variants.training.mask_metrics import (
    COCO_AREAS,
    average_recall,
    boundary,
    boundary_f,
    clicks_to_reach,
    mask_ious,
    recall_hits,
    region_and_boundary,
)


def rectangle(size: tuple[int, int], left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def test_iou_of_hand_made_masks() -> None:
    size = (4, 6)
    truth = rectangle(size, 0, 0, 4, 2)  # 8 pixels
    shifted = rectangle(size, 2, 0, 6, 2)  # 8 pixels, 4 of them shared
    assert mask_ious(shifted, truth) == pytest.approx(4 / 12)
    several = np.stack([truth, shifted, ~truth, np.zeros(size, bool)])
    np.testing.assert_allclose(mask_ious(several, truth), [1, 1 / 3, 0, 0])
    assert mask_ious(np.zeros(size, bool), np.zeros(size, bool)) == 1


def test_number_of_clicks() -> None:
    ious = np.array([[0.9, 0.1, 0.1], [0.5, 0.86, 0.95], [0.2, 0.3, 0.85], [0.8, 0.8, 0.84]])
    numbers, reached = clicks_to_reach(ious, 0.85)
    assert numbers.tolist() == [1, 2, 3, 3]
    assert reached.tolist() == [True, True, True, False]
    assert clicks_to_reach(ious, 0.9)[0].tolist() == [1, 3, 3, 3]
    with pytest.raises(ValueError, match=r"ious has shape \(3,\)"):
        clicks_to_reach(ious[0], 0.9)


def test_recall_by_hand() -> None:
    # Both masks want the first object; the better-scored one gets it, the other one what is left.
    ious = np.array([[0.9, 0.6], [0.95, 0.55], [0.8, 0.0]])
    assert recall_hits(ious, [0.5, 0.6, 0.99]).tolist() == [[True, True, False], [True, False, False], [False] * 3]
    assert average_recall([ious], most=3, thresholds=[0.5, 0.6, 0.99]) == pytest.approx((1 + 0.5 + 0) / 3)
    assert average_recall([ious], most=1, thresholds=[0.5]) == 0.5
    assert average_recall([np.zeros((0, 2)), np.ones((1, 1))], most=10) == pytest.approx(1 / 3)
    assert average_recall([np.zeros((4, 0))], most=10) is None


def random_codes(rng: np.random.Generator, truths: list[np.ndarray] | None, count: int) -> list[np.ndarray]:
    """Ellipses; near the truths, if there are any."""
    found = []
    for _ in range(count):
        canvas = np.zeros((140, 160), np.uint8)
        if truths and rng.uniform() < 0.8:
            box = cv2.boundingRect(truths[rng.integers(len(truths))].astype(np.uint8))
            centre = [round(box[axis] + box[axis + 2] / 2 + rng.normal(0, 2)) for axis in (0, 1)]
            axes = [max(1, round(box[axis + 2] / 2 * rng.uniform(0.75, 1.25))) for axis in (0, 1)]
        else:
            centre = [int(rng.integers(20, 140)), int(rng.integers(20, 120))]
            axes = [int(side) for side in rng.integers(4, 70, 2)]
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, 1, cv2.FILLED)
        found.append(canvas == 1)
    return found


def encoded(masks: list[np.ndarray]) -> list[dict[str, Any]]:
    return [mask_utils.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def coco_recalls(truths: list[list[Any]], found: list[list[Any]], scores: list[np.ndarray]) -> np.ndarray:
    """COCOeval's recall of IoUs × areas × 1, 100, 1000 masks; codes by image."""
    wanted = [
        {"id": 1 + 1000 * image + index, "image_id": image, "category_id": 1, "iscrowd": 0, "segmentation": code,
         "area": float(mask_utils.area(code)), "bbox": mask_utils.toBbox(code).tolist()}
        for image, codes in enumerate(truths) for index, code in enumerate(codes)
    ]  # fmt: skip
    answers = [
        {"image_id": image, "category_id": 1, "segmentation": code, "score": float(score)}
        for image, codes in enumerate(found) for code, score in zip(codes, scores[image], strict=True)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": image, "height": 140, "width": 160} for image in range(len(truths))]
        coco.dataset = {"images": images, "annotations": wanted, "categories": [{"id": 1}], "info": {}}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(answers), "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = [1, 100, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["recall"])[:, 0]


@pytest.mark.parametrize("seed", range(4))
def test_recall_is_that_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = [encoded(random_codes(rng, None, int(rng.integers(1, 9)))) for _ in range(6)]
    found = [
        encoded(random_codes(rng, [mask_utils.decode(code) == 1 for code in codes], 130 if image == 0 else 25))
        for image, codes in enumerate(truths)
    ]
    # Equal scores and equal masks, too: ties are decided as there.
    found = [[*codes, codes[0], codes[0]] for codes in found]
    scores = [np.round(rng.uniform(size=len(codes)), 2) for codes in found]
    expected = coco_recalls(truths, found, scores)
    ranked = [[codes[place] for place in np.argsort(-s, kind="stable")] for codes, s in zip(found, scores, strict=True)]
    ious = [
        np.asarray(mask_utils.iou(ours, codes, [0] * len(codes))) for ours, codes in zip(ranked, truths, strict=True)
    ]
    assert 0.05 < expected[:, 0, 2].mean() < 0.99
    for column, most in enumerate((1, 100, 1000)):
        assert average_recall(ious, most) == pytest.approx(expected[:, 0, column].mean(), abs=1e-9)
    for row, (least, limit) in enumerate(COCO_AREAS.values(), 1):
        counted = [
            values[:, [least <= mask_utils.area(code) <= limit for code in codes]]
            for values, codes in zip(ious, truths, strict=True)
        ]
        recall = average_recall(counted, 1000)
        assert (-1 if recall is None else recall) == pytest.approx(expected[:, row, 2].mean(), abs=1e-9)


def slow_boundary(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            result[y, x] = any(mask[y, x] != mask[min(v, height - 1), min(u, width - 1)] for v, u in others)
    return result


def slow_f(prediction: np.ndarray, truth: np.ndarray, bound: float) -> float:
    radius = math.ceil(bound * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    ours, theirs = np.argwhere(slow_boundary(prediction)), np.argwhere(slow_boundary(truth))
    if not len(ours) or not len(theirs):
        return float(len(ours) == len(theirs))
    distances = ((ours[:, None] - theirs[None]) ** 2).sum(axis=-1)
    precision, recall = (distances.min(axis=1) <= radius**2).mean(), (distances.min(axis=0) <= radius**2).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("bound", [0.008, 0.03, 0.1])
def test_f_is_what_its_definition_says(bound: float) -> None:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(12):
        truth = cv2.GaussianBlur(rng.normal(size=(31, 40)).astype(np.float32), (0, 0), 3) > 0.05
        prediction = np.roll(truth, rng.integers(-4, 5, 2), (0, 1)) ^ (rng.random(truth.shape) < 0.01)
        values.append(boundary_f(prediction, truth, bound))
        assert values[-1] == pytest.approx(slow_f(prediction, truth, bound), abs=1e-12)
        np.testing.assert_array_equal(boundary(truth), slow_boundary(truth))
    assert np.std(values) > 0.005


def test_f_by_hand() -> None:
    # A diagonal of 100 pixels: one pixel may be missing.
    square = rectangle((60, 80), 20, 20, 40, 40)
    assert boundary_f(square, square) == 1
    assert boundary_f(rectangle((60, 80), 21, 20, 41, 40), square) == 1
    # Moved by 10 pixels, of the 80 pixels of the contour 12 stay good above, 12 below, and 2 on the left side, which
    # are next to the other's upper and lower side.
    assert boundary_f(rectangle((60, 80), 30, 20, 50, 40), square) == pytest.approx(26 / 80)
    empty = np.zeros((60, 80), bool)
    assert boundary_f(empty, empty) == 1
    assert boundary_f(empty, square) == 0
    assert boundary_f(square, empty) == 0
    # A mask that fills the image has no contour.
    assert boundary_f(~empty, empty) == 1
    assert boundary_f(rectangle((60, 80), 60, 45, 70, 55), square) == 0
    with pytest.raises(ValueError, match=r"prediction is \(2, 3\)"):
        boundary_f(np.zeros((2, 3), bool), square)


def test_j_and_f_of_every_frame() -> None:
    square, half = rectangle((60, 80), 20, 20, 40, 40), rectangle((60, 80), 20, 20, 30, 40)
    ious, contours = region_and_boundary(np.stack([square, half]), np.stack([square, square]))
    np.testing.assert_allclose(ious, [1, 0.5])
    assert contours[0] == 1
    assert contours[1] == pytest.approx(slow_f(half, square, 0.008))
