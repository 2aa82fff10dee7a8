"""Everything that can be set about mask generation, under the official names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

from sam_variants.mask_generation.point_grid import build_layer_point_grids
from sam_variants.mask_generation.point_schedule import PRESETS

Check = Callable[[Any], Any]


def _whole(least: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return int(value)

    return check


def _number(least: float = -math.inf, most: float = math.inf) -> Check:
    bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (most < math.inf)

    def check(value: Any) -> float:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not least <= value <= most:
            raise ValueError(" and ".join(["a finite number", *bounds]))
        return float(value)

    return check


def _switch(value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError("True or False")
    return bool(value)


def _points_per_side(value: Any) -> int | None:
    try:
        return None if value is None else _whole(1)(value)
    except ValueError as error:
        raise ValueError(f"{error}, or None with point_grids") from None


def _grids(value: Any) -> tuple[np.ndarray, ...] | None:
    if value is None:
        return None
    wanted = "a list of one grid per crop layer, each of N×2 (x, y) in 0..1 with N at least 1"
    if isinstance(value, str | dict) or not isinstance(value, Sequence | np.ndarray):
        raise ValueError(wanted)
    try:
        grids = tuple(np.array(grid, dtype=np.float64) for grid in value)
    except (TypeError, ValueError):
        raise ValueError(wanted) from None
    for grid in grids:
        if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid) or not ((grid >= 0) & (grid <= 1)).all():
            raise ValueError(wanted)
    return grids


def _preset(value: Any) -> str:
    if not isinstance(value, str) or value not in PRESETS:
        raise ValueError(f"one of {list(PRESETS)}")
    return value


def option(default: Any, check: Check) -> Any:
    """A field with its default and the function that checks a value or raises ValueError with what is allowed."""
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, eq=False)
class MaskGenerationOptions:
    """The options of segment-anything's and SAM 2's `SamAutomaticMaskGenerator`, with their names and defaults.

    Their `output_mode` is missing: a `Masks` gives every form. A threshold of 0 or less filters nothing, as there.

    Args:
        points_per_side: points along each side of the image; None with `point_grids`.
        points_per_batch: points that the decoder takes at once; changes speed and memory, not the result.
        pred_iou_thresh: a mask is kept when its predicted IoU is above.
        stability_score_thresh: a mask is kept when its stability score is at least this, at most 1.
        stability_score_offset: how far the cut is moved up and down to measure stability, in logits.
        box_nms_thresh: box IoU above which the worse of two masks of one crop goes.
        crop_n_layers: layers of crops to look at beside the whole image; layer i has (2**i)² crops.
        crop_nms_thresh: box IoU above which the mask of the larger of two crops goes.
        crop_overlap_ratio: overlap of the first layer's crops, as a share of the shorter side, 0..1.
        crop_n_points_downscale_factor: layer i has points_per_side // factor**i points along each side of a crop.
        point_grids: instead of `points_per_side` one N×2 grid of (x, y) in 0..1 for each layer, the whole image first.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed; 0 for no change.
        multimask_output: several masks for a point instead of the single one.
        use_m2m: give every mask back to the model as a prompt, once (SAM 2).
        mask_threshold: a pixel belongs to the mask when its logit is above.
        preset: "full" asks about every point; "fast", ours, asks about a coarse grid first and then only where no
            mask of fitting size lies yet.

    Raises:
        ValueError: a value that is not allowed, or options that contradict each other.
    """

    points_per_side: int | None = option(32, _points_per_side)
    points_per_batch: int = option(64, _whole(1))
    pred_iou_thresh: float = option(0.88, _number())
    stability_score_thresh: float = option(0.95, _number(most=1))
    stability_score_offset: float = option(1.0, _number(least=0))
    box_nms_thresh: float = option(0.7, _number(0, 1))
    crop_n_layers: int = option(0, _whole(0))
    crop_nms_thresh: float = option(0.7, _number(0, 1))
    crop_overlap_ratio: float = option(512 / 1500, _number(0, 1))
    crop_n_points_downscale_factor: int = option(1, _whole(1))
    point_grids: Sequence[np.ndarray] | None = option(None, _grids)
    min_mask_region_area: float = option(0, _number(least=0))
    multimask_output: bool = option(True, _switch)
    use_m2m: bool = option(False, _switch)
    mask_threshold: float = option(0.0, _number())
    preset: str = option("full", _preset)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            try:
                checked = each.metadata["check"](value)
            except ValueError as wanted:
                raise ValueError(f"{each.name} must be {wanted}, got {value!r:.200}") from None
            object.__setattr__(self, each.name, checked)
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ValueError(
                "pass either points_per_side or point_grids (with points_per_side=None), got "
                f"points_per_side={self.points_per_side} and "
                f"{'no' if self.point_grids is None else len(self.point_grids)} point_grids"
            )
        if self.point_grids is not None and self.crop_n_points_downscale_factor != 1:
            raise ValueError(
                f"crop_n_points_downscale_factor={self.crop_n_points_downscale_factor} thins points_per_side out: "
                "with point_grids leave it 1"
            )
        if self.point_grids is not None and len(self.point_grids) != self.crop_n_layers + 1:
            raise ValueError(
                f"point_grids must hold one grid per layer, {self.crop_n_layers + 1} with "
                f"crop_n_layers={self.crop_n_layers}, got {len(self.point_grids)}"
            )
        self.layer_point_grids()

    def layer_point_grids(self) -> list[np.ndarray]:
        """Return the grid of each layer, N×2 float64 (x, y) in 0..1, the whole image's first."""
        if self.points_per_side is None:
            return list(self.point_grids or ())
        return build_layer_point_grids(self.points_per_side, self.crop_n_layers, self.crop_n_points_downscale_factor)

    @property
    def score_threshold(self) -> float | None:
        """What the decoder compares predicted IoUs with; None where they are not compared."""
        return self.pred_iou_thresh if self.pred_iou_thresh > 0 else None
