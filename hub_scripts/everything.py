"""`sam-variants everything`: images in; all masks in them as pictures and COCO annotations out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.everything_run import EverythingRun
from sam_variants.hub_scripts.image_sources import find_images
from sam_variants.hub_scripts.model_options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    ImageSizeOption,
    load_model,
    pipeline_for,
)
from sam_variants.hub_scripts.segment import Clock, make_folder
from sam_variants.mask_generation.options import MaskGenerationOptions
from sam_variants.mask_generation_arguments import read_settings
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline

# A longer table of images tells a person nothing.
LONGEST_TABLE = 20


def shown(option: str) -> str:
    """What the help says of an option that is not given."""
    value = getattr(MaskGenerationOptions(), option)
    return f"the model's own, else {value if isinstance(value, str) else format(value, '.3g')}"


def everything(
    image: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, patterns or http(s) URLs.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("everything"),
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders below a folder too.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="CHECKPOINT",
            help="Checkpoint: a folder, a Hub repository, or an official .pth, .pt or .safetensors file.",
            show_default="the embedded checkpoint",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="full, or fast: no points where masks of fitting size lie already.",
            show_default=shown("preset"),
        ),
    ] = None,
    points_per_side: Annotated[
        int | None,
        typer.Option(
            "--points-per-side", help="Points along each side of the image.", show_default=shown("points_per_side")
        ),
    ] = None,
    points_per_batch: Annotated[
        int | None,
        typer.Option(
            "--points-per-batch", help="Points that the decoder takes at once.", show_default=shown("points_per_batch")
        ),
    ] = None,
    pred_iou_thresh: Annotated[
        float | None,
        typer.Option(
            "--pred-iou-thresh", help="Keep masks whose predicted IoU is above.", show_default=shown("pred_iou_thresh")
        ),
    ] = None,
    stability_score_thresh: Annotated[
        float | None,
        typer.Option(
            "--stability-score-thresh",
            help="Keep masks at least so stable.",
            show_default=shown("stability_score_thresh"),
        ),
    ] = None,
    stability_score_offset: Annotated[
        float | None,
        typer.Option(
            "--stability-score-offset",
            help="How far the cut moves to measure stability, in logits.",
            show_default=shown("stability_score_offset"),
        ),
    ] = None,
    box_nms_thresh: Annotated[
        float | None,
        typer.Option(
            "--box-nms-thresh",
            help="Box IoU above which the worse of two masks goes.",
            show_default=shown("box_nms_thresh"),
        ),
    ] = None,
    crop_n_layers: Annotated[
        int | None,
        typer.Option(
            "--crop-n-layers",
            help="Layers of crops to look at too; layer i has 4^i.",
            show_default=shown("crop_n_layers"),
        ),
    ] = None,
    crop_nms_thresh: Annotated[
        float | None,
        typer.Option(
            "--crop-nms-thresh",
            help="The same between crops; the larger crop's mask goes.",
            show_default=shown("crop_nms_thresh"),
        ),
    ] = None,
    crop_overlap_ratio: Annotated[
        float | None,
        typer.Option(
            "--crop-overlap-ratio",
            help="Overlap of crops, as a share of the shorter side.",
            show_default=shown("crop_overlap_ratio"),
        ),
    ] = None,
    crop_n_points_downscale_factor: Annotated[
        int | None,
        typer.Option(
            "--crop-n-points-downscale-factor",
            help="Divides the points per side with each layer.",
            show_default=shown("crop_n_points_downscale_factor"),
        ),
    ] = None,
    min_mask_region_area: Annotated[
        float | None,
        typer.Option(
            "--min-mask-region-area",
            help="Fill holes and remove islands of fewer pixels.",
            show_default=shown("min_mask_region_area"),
        ),
    ] = None,
    mask_threshold: Annotated[
        float | None,
        typer.Option("--mask-threshold", help="Logit above which a pixel counts.", show_default="the model's own"),
    ] = None,
    use_m2m: Annotated[
        bool, typer.Option("--use-m2m", help="Refine every mask with itself as a prompt, once (SAM 2).")
    ] = False,
    max_hole_area: Annotated[
        float, typer.Option("--max-hole-area", help="Fill holes of at most so many cells of the logits.")
    ] = 0,
    max_sprinkle_area: Annotated[
        float, typer.Option("--max-sprinkle-area", help="Remove specks of at most so many cells of the logits.")
    ] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images, or crops of one, to encode at once.")
    ] = 1,
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="BYTES",
            help="Memory above the weights, such as 1.5GB: takes no more images, crops and points at once than fit.",
            show_default="no limit",
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.float32,
    image_size: ImageSizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Find everything in images.

    A folder stands for the images in it. An image that can't be read is reported at the end, the others are done, and
    the exit code is 1.

    \b
    sam-variants everything photo.jpg
    sam-variants everything photos --recursive --preset fast --out masks
    sam-variants everything "photos/*.jpg" https://example.com/photo.jpg --crop-n-layers 1

    Written into --out, for photo.jpg: photo_overlay.png, photo_label_map.png (0 is background, 1 the first mask) and
    photo.coco.json, and for all images together the COCO dataset instances.json. A second image of the same name is
    called photo_2.
    """
    given = {
        "preset": preset,
        "points_per_side": points_per_side,
        "points_per_batch": points_per_batch,
        "pred_iou_thresh": pred_iou_thresh,
        "stability_score_thresh": stability_score_thresh,
        "stability_score_offset": stability_score_offset,
        "box_nms_thresh": box_nms_thresh,
        "crop_n_layers": crop_n_layers,
        "crop_nms_thresh": crop_nms_thresh,
        "crop_overlap_ratio": crop_overlap_ratio,
        "crop_n_points_downscale_factor": crop_n_points_downscale_factor,
        "min_mask_region_area": min_mask_region_area,
        "mask_threshold": mask_threshold,
        "use_m2m": use_m2m or None,
        "max_hole_area": max_hole_area or None,
        "max_sprinkle_area": max_sprinkle_area or None,
        "max_memory": max_memory,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    # Before anything slow happens.
    read_settings(settings, {})
    console, clock = Console(stderr=True), Clock()
    run = EverythingRun(find_images(image, recursive, out), out)
    make_folder(out)
    with clock.step("load the model", console):
        fused, processor = load_model(str(default_checkpoint()) if model is None else model, image_size)
        fused.encode_in(getattr(torch, dtype.value))
        pipe = pipeline_for(SamVariantsMaskGenerationPipeline, fused, processor, device)
    with clock.timed("segment"):
        run.go(pipe, console, batch_size=batch_size, **settings)
    report = run.report() | {
        "model": model or "embedded",
        "device": str(pipe.device),
        "dtype": dtype.value,
        "settings": settings,
        "seconds": clock.seconds,
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_summary(report)
    for failure in report["failed"]:
        typer.echo(f"sam-variants: {failure['error']}", err=True)
    if report["failed"]:
        raise typer.Exit(1)


def print_summary(report: dict[str, Any]) -> None:
    """Tell a person what came out, where it lies, and where the time went."""
    images, split = report["images"], report["time_split"]
    if len(images) <= LONGEST_TABLE:
        table = Table(Column("image", overflow="fold"), "size", "masks")
        for entry in images:
            table.add_row(entry["image"], f"{entry['width']}×{entry['height']}", str(entry["num_masks"]))
        Console(markup=False, emoji=False).print(table)  # file names may look like markup
        for entry in images:
            typer.echo(entry["files"]["overlay"])
    typer.echo(report["files"]["coco"])
    failed = f", {len(report['failed'])} could not be read" if report["failed"] else ""
    counted = ((len(images), "image"), (report["num_masks"], "mask"))
    typer.echo(", ".join(f"{number} {name}{'s' * (number != 1)}" for number, name in counted) + failed)
    typer.echo(", ".join(f"{name} {seconds:.2f} s" for name, seconds in (report["seconds"] | split).items()))
