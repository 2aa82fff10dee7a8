"""What the options of mask generation accept, and how they say no."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from sam_variants.mask_generation.options import MaskGenerationOptions

# Names and defaults of SamAutomaticMaskGenerator in segment-anything and, behind the empty line, what SAM 2 added.
OFFICIAL = {
    "points_per_side": 32,
    "points_per_batch": 64,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.7,
    "crop_n_layers": 0,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1,
    "point_grids": None,
    "min_mask_region_area": 0,
    #
    "mask_threshold": 0.0,
    "use_m2m": False,
    "multimask_output": True,
}
NAN, INFINITE = float("nan"), float("inf")
HALF = np.full((1, 2), 0.5)
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"points_per_side": 0}, "points_per_side must be a whole number of at least 1, or None with point_grids, got 0"),
    ({"points_per_side": 32.0}, "points_per_side must be a whole number"),
    (
        {"points_per_side": True},
        "points_per_side must be a whole number of at least 1, or None with point_grids, got True",
    ),
    ({"points_per_batch": 0}, "points_per_batch must be a whole number of at least 1, got 0"),
    ({"points_per_batch": None}, "points_per_batch must be a whole number of at least 1, got None"),
    ({"pred_iou_thresh": NAN}, "pred_iou_thresh must be a finite number, got nan"),
    ({"pred_iou_thresh": "0.9"}, "pred_iou_thresh must be a finite number, got '0.9'"),
    ({"stability_score_thresh": 1.1}, "stability_score_thresh must be a finite number and at most 1, got 1.1"),
    ({"stability_score_thresh": NAN}, "stability_score_thresh must be a finite number"),
    ({"stability_score_offset": -1}, "stability_score_offset must be a finite number and at least 0, got -1"),
    ({"stability_score_offset": INFINITE}, "stability_score_offset must be a finite number"),
    ({"box_nms_thresh": 1.5}, "box_nms_thresh must be a finite number and at least 0 and at most 1, got 1.5"),
    ({"crop_nms_thresh": -0.1}, "crop_nms_thresh must be a finite number and at least 0 and at most 1, got -0.1"),
    ({"crop_overlap_ratio": 2}, "crop_overlap_ratio must be a finite number and at least 0 and at most 1, got 2"),
    ({"crop_n_layers": -1}, "crop_n_layers must be a whole number of at least 0, got -1"),
    (
        {"crop_n_points_downscale_factor": 0},
        "crop_n_points_downscale_factor must be a whole number of at least 1, got 0",
    ),
    ({"min_mask_region_area": -5}, "min_mask_region_area must be a finite number and at least 0, got -5"),
    ({"multimask_output": 1}, "multimask_output must be True or False, got 1"),
    ({"use_m2m": None}, "use_m2m must be True or False, got None"),
    ({"mask_threshold": NAN}, "mask_threshold must be a finite number, got nan"),
    ({"preset": "quick"}, r"preset must be one of \['full', 'fast'\], got 'quick'"),
    ({"preset": ["fast"]}, "preset must be one of"),
    ({"point_grids": [HALF]}, "either points_per_side or point_grids .* got points_per_side=32 and 1 point_grids"),
    ({"points_per_side": None}, "either points_per_side or point_grids .* got points_per_side=None and no point_grids"),
    ({"points_per_side": None, "point_grids": [HALF * 3]}, "point_grids must be a list of one grid per crop layer"),
    ({"points_per_side": None, "point_grids": [HALF * NAN]}, "point_grids must be a list of one grid per crop layer"),
    ({"points_per_side": None, "point_grids": HALF}, "point_grids must be a list of one grid per crop layer"),
    ({"points_per_side": None, "point_grids": [["a", "b"]]}, "point_grids must be a list of one grid per crop layer"),
    ({"points_per_side": None, "point_grids": [np.zeros((0, 2))]}, "with N at least 1"),
    ({"points_per_side": None, "point_grids": 5}, "point_grids must be a list of one grid per crop layer"),
    ({"points_per_side": None, "point_grids": [HALF] * 2}, "one grid per layer, 1 with crop_n_layers=0, got 2"),
    (
        {"points_per_side": None, "point_grids": [HALF], "crop_n_points_downscale_factor": 2},
        "crop_n_points_downscale_factor=2 thins points_per_side out",
    ),
    (
        {"points_per_side": 4, "crop_n_layers": 3, "crop_n_points_downscale_factor": 2},
        r"leaves no points for crop layer 3: points per side would be \[4, 2, 1, 0\]",
    ),
]


def test_names_and_defaults_are_the_official_ones() -> None:
    defaults = {each.name: each.default for each in fields(MaskGenerationOptions)}
    assert defaults == OFFICIAL | {"preset": "full"}


@pytest.mark.parametrize(("wrong", "said"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_wrong_option_is_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MaskGenerationOptions(**wrong)


def test_numbers_of_numpy_are_numbers() -> None:
    options = MaskGenerationOptions(
        points_per_side=np.int64(8), pred_iou_thresh=np.float32(0.5), multimask_output=np.True_, box_nms_thresh=1
    )
    assert options.points_per_side == 8
    assert type(options.points_per_side) is int
    assert type(options.pred_iou_thresh) is float
    assert options.multimask_output is True
    assert options.box_nms_thresh == 1.0


def test_options_can_be_replaced_but_not_written() -> None:
    options = MaskGenerationOptions(points_per_side=8)
    assert replace(options, crop_n_layers=1).points_per_side == 8
    with pytest.raises(AttributeError):
        options.points_per_side = 4  # type: ignore[misc]
    with pytest.raises(ValueError, match="crop_n_layers"):
        replace(options, crop_n_layers=1.5)


def test_own_grids_are_copied() -> None:
    own = [HALF.copy(), [[0.25, 0.75], [0, 1]]]
    options = MaskGenerationOptions(points_per_side=None, crop_n_layers=1, point_grids=own)
    own[0][:] = 0
    first, second = options.layer_point_grids()
    assert first.tolist() == HALF.tolist()
    assert second.tolist() == [[0.25, 0.75], [0, 1]]


@pytest.mark.parametrize(("threshold", "compared"), [(0.88, 0.88), (0, None), (-1e9, None)])
def test_a_threshold_that_filters_nothing_is_none(threshold: float, compared: float | None) -> None:
    assert MaskGenerationOptions(pred_iou_thresh=threshold).score_threshold == compared
