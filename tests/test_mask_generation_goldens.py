"""Mask generation against whole runs of the official generators, mask by mask; and what must not change a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from golden_mask_generation import GoldenRun, golden_runs
from plain_crop import AnalyticCrop, encode_with

from sam_variants.mask_generation.mask_generator import generate_masks
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation.time_split import TimeSplit
from sam_variants.results import Masks

RUNS = golden_runs()
ANALYTIC = next(run for run in RUNS if run.make is AnalyticCrop)
WITH_CROPS = [run for run in RUNS if run.options.get("crop_n_layers")]
by_name: dict[str, Any] = {"ids": lambda run: run.name}


def generated(run: GoldenRun, arguments: dict[str, Any] | None = None, **options: Any) -> Masks:
    chosen = MaskGenerationOptions(**run.options | options)
    return generate_masks(run.image, encode_with(run.make), chosen, **arguments or {})


def inclusive_xywh(boxes: np.ndarray) -> np.ndarray:
    """The official generators' form: width and height count to the last pixel, not behind it."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1, y1, np.maximum(x2 - x1 - 1, 0), np.maximum(y2 - y1 - 1, 0)], axis=1)


@pytest.mark.parametrize("run", RUNS, **by_name)
def test_a_run_equals_the_official_one(run: GoldenRun) -> None:
    masks, records = generated(run), run.records
    annotations = masks.to_coco(image_id=0)
    assert [annotation["segmentation"]["counts"] for annotation in annotations] == records["counts"]
    assert masks.areas.tolist() == records["area"]
    assert inclusive_xywh(masks.boxes.numpy()).tolist() == records["bbox"]
    assert [annotation["crop_box"] for annotation in annotations] == records["crop_box"]
    np.testing.assert_allclose(masks.points, np.asarray(records["point_coords"]), atol=1e-5)
    np.testing.assert_allclose(masks.scores, np.asarray(records["predicted_iou"]), atol=1e-5)
    # What the official code calls NaN, the stability of nothing, is 0 here.
    stability = np.nan_to_num(np.asarray(records["stability_score"]), nan=0.0)
    np.testing.assert_allclose(masks.stability_scores, stability, atol=1e-5)


def test_the_runs_cover_what_there_is() -> None:
    options = {name for run in RUNS for name in run.options}
    left = {"crop_overlap_ratio", "point_grids", "preset", "mask_threshold"} - options
    assert left == {"point_grids", "preset", "mask_threshold"}
    assert any(0 in run.records["area"] for run in RUNS)
    assert any(len(set(map(tuple, run.records["crop_box"]))) > 1 for run in RUNS)


def same(first: Masks, second: Masks) -> bool:
    """Whether two results agree in everything but the rounding of scores."""
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-5)
    pairs = zip(first.to_coco(0), second.to_coco(0), strict=True)
    return all({**one, "score": 0} == {**other, "score": 0} for one, other in pairs)


@pytest.mark.parametrize("run", WITH_CROPS, **by_name)
def test_how_much_is_done_at_once_changes_nothing(run: GoldenRun) -> None:
    assert same(generated(run), generated(run, {"crops_at_once": 3}, points_per_batch=7))


def test_crops_are_encoded_some_at_a_time_and_the_whole_image_only_if_it_must() -> None:
    run = next(run for run in WITH_CROPS if run.name.startswith("sam-"))
    sizes: list[list[tuple[int, ...]]] = []

    def encode(images: Sequence[np.ndarray]) -> list[Any]:
        sizes.append([image.shape[:2] for image in images])
        return [run.make(image) for image in images]

    options = MaskGenerationOptions(**run.options)
    given = generate_masks(run.image, encode, options, whole_image=run.make(run.image), crops_at_once=3)
    assert [len(group) for group in sizes] == [3, 1]
    assert (90, 120) not in [size for group in sizes for size in group]
    assert same(given, generated(run))


def test_points_may_be_given_instead_of_their_number() -> None:
    run = next(run for run in WITH_CROPS if run.make is AnalyticCrop)
    grids = MaskGenerationOptions(**run.options).layer_point_grids()
    left_out = {"points_per_side": None, "crop_n_points_downscale_factor": 1}
    assert same(generated(run), generated(run, point_grids=grids, **left_out))


def test_progress_and_times_are_told() -> None:
    run, told, times = WITH_CROPS[0], [], TimeSplit()
    generated(run, {"progress": lambda done, total: told.append((done, total)), "times": times})
    grids = MaskGenerationOptions(**run.options).layer_point_grids()
    total = len(grids[0]) + 4 * len(grids[1])
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert min(times.seconds.values()) > 0


def test_a_mask_cut_elsewhere_is_another_mask() -> None:
    options = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    wide, usual, narrow = (generated(ANALYTIC, mask_threshold=cut, **options).areas.sum() for cut in (-3.0, 0.0, 3.0))
    assert wide > usual > narrow


def test_an_image_without_masks_gives_none() -> None:
    masks = generated(ANALYTIC, pred_iou_thresh=5.0)
    assert len(masks) == 0
    assert masks.size == (90, 120)
    assert masks.points.shape == (0, 2)


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (np.zeros((4, 4), np.uint8), ValueError, r"HxWx3 with a pixel at least, got shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "shape"),
        (np.zeros((4, 4, 3), np.float32), TypeError, "uint8, got float32"),
        ("photo.jpg", TypeError, "got str"),
    ],
)
def test_another_image_is_refused(image: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        generate_masks(image, encode_with(ANALYTIC.make), MaskGenerationOptions())


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="crops_at_once must be 1 or more, got 0"):
        generated(ANALYTIC, {"crops_at_once": 0})
    with pytest.raises(ValueError, match="one encoding per image, got 0 for 1"):
        generate_masks(ANALYTIC.image, lambda images: [], MaskGenerationOptions())
