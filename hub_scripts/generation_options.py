"""The options of mask generation, as the commands take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sam_variants.mask_generation.options import MaskGenerationOptions


def shown(option: str) -> str:
    """What the help says of an option that is not given."""
    value = getattr(MaskGenerationOptions(), option)
    return f"the model's own, else {value if isinstance(value, str) else format(value, '.3g')}"


def _option(name: str, text: str) -> Any:
    return typer.Option(f"--{name.replace('_', '-')}", help=text, show_default=shown(name))


PresetOption = Annotated[
    str | None, _option("preset", "full, or fast: no points where masks of fitting size lie already.")
]
PointsPerSideOption = Annotated[int | None, _option("points_per_side", "Points along each side of the image.")]
PointsPerBatchOption = Annotated[int | None, _option("points_per_batch", "Points that the decoder takes at once.")]
PredIouThreshOption = Annotated[float | None, _option("pred_iou_thresh", "Keep masks whose predicted IoU is above.")]
StabilityScoreThreshOption = Annotated[
    float | None, _option("stability_score_thresh", "Keep masks at least so stable.")
]
StabilityScoreOffsetOption = Annotated[
    float | None, _option("stability_score_offset", "How far the cut moves to measure stability, in logits.")
]
BoxNmsThreshOption = Annotated[
    float | None, _option("box_nms_thresh", "Box IoU above which the worse of two masks goes.")
]
CropNLayersOption = Annotated[int | None, _option("crop_n_layers", "Layers of crops to look at too; layer i has 4^i.")]
CropNmsThreshOption = Annotated[
    float | None, _option("crop_nms_thresh", "The same between crops; the larger crop's mask goes.")
]
CropOverlapRatioOption = Annotated[
    float | None, _option("crop_overlap_ratio", "Overlap of crops, as a share of the shorter side.")
]
CropNPointsDownscaleFactorOption = Annotated[
    int | None, _option("crop_n_points_downscale_factor", "Divides the points per side with each layer.")
]
MinMaskRegionAreaOption = Annotated[
    float | None, _option("min_mask_region_area", "Fill holes and remove islands of fewer pixels.")
]
MaskThresholdOption = Annotated[
    float | None,
    typer.Option("--mask-threshold", help="Logit above which a pixel counts.", show_default="the model's own"),
]
UseM2mOption = Annotated[
    bool, typer.Option("--use-m2m", help="Refine every mask with itself as a prompt, once (SAM 2).")
]
MaxHoleAreaOption = Annotated[
    float, typer.Option("--max-hole-area", help="Fill holes of at most so many cells of the logits.")
]
MaxSprinkleAreaOption = Annotated[
    float, typer.Option("--max-sprinkle-area", help="Remove specks of at most so many cells of the logits.")
]

GENERATION_OPTIONS = (
    *("preset", "points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh"),
    *("stability_score_offset", "box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio"),
    *("crop_n_points_downscale_factor", "min_mask_region_area", "mask_threshold"),
    *("use_m2m", "max_hole_area", "max_sprinkle_area"),
)
# Of these, what they are when they are not given.
OFF = {"use_m2m": False, "max_hole_area": 0, "max_sprinkle_area": 0}


def given_generation(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of these options, checked before anything slow happens.

    Args:
        arguments: all of a command's arguments by name; the others are not looked at.

    Raises:
        ValueError: for a value that can't be, naming the option.
    """
    # Here, because it imports PyTorch, for which --help should not wait.
    from sam_variants.mask_generation_arguments import read_settings

    found = {name: arguments[name] for name in GENERATION_OPTIONS if arguments[name] != OFF.get(name)}
    read_settings(found, {})
    return found
