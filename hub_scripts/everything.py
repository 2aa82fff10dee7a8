"""`sam-variants everything`: images in; all masks in them as pictures and COCO annotations out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.generation_options import (
    BoxNmsThreshOption,
    CropNLayersOption,
    CropNmsThreshOption,
    CropNPointsDownscaleFactorOption,
    CropOverlapRatioOption,
    MaskThresholdOption,
    MaxHoleAreaOption,
    MaxSprinkleAreaOption,
    MinMaskRegionAreaOption,
    PointsPerBatchOption,
    PointsPerSideOption,
    PredIouThreshOption,
    PresetOption,
    StabilityScoreOffsetOption,
    StabilityScoreThreshOption,
    UseM2mOption,
    given_generation,
)
from sam_variants.hub_scripts.model_options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    ImageSizeOption,
    MaxMemoryOption,
    ModelOption,
    QuantizeOption,
    load_model,
)
from sam_variants.hub_scripts.segment import Clock, make_folder

# A longer table of images tells a person nothing.
LONGEST_TABLE = 20


def everything(
    image: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="Image files, folders, patterns or http(s) URLs.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("everything"),
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders below a folder too.")] = False,
    model: ModelOption = None,
    preset: PresetOption = None,
    points_per_side: PointsPerSideOption = None,
    points_per_batch: PointsPerBatchOption = None,
    pred_iou_thresh: PredIouThreshOption = None,
    stability_score_thresh: StabilityScoreThreshOption = None,
    stability_score_offset: StabilityScoreOffsetOption = None,
    box_nms_thresh: BoxNmsThreshOption = None,
    crop_n_layers: CropNLayersOption = None,
    crop_nms_thresh: CropNmsThreshOption = None,
    crop_overlap_ratio: CropOverlapRatioOption = None,
    crop_n_points_downscale_factor: CropNPointsDownscaleFactorOption = None,
    min_mask_region_area: MinMaskRegionAreaOption = None,
    mask_threshold: MaskThresholdOption = None,
    use_m2m: UseM2mOption = False,
    max_hole_area: MaxHoleAreaOption = 0,
    max_sprinkle_area: MaxSprinkleAreaOption = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Images, or crops of one, to encode at once.")
    ] = 1,
    max_memory: MaxMemoryOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.float32,
    quantize: QuantizeOption = None,
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
    # Here, because they import PyTorch, for which --help should not wait.
    import torch

    from sam_variants.hub_scripts.everything_run import EverythingRun
    from sam_variants.hub_scripts.image_sources import find_images
    from sam_variants.mask_generation_arguments import read_bytes
    from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
    from sam_variants.pipeline_base import pipeline_for

    settings = given_generation(locals()) | ({} if max_memory is None else {"max_memory": max_memory})
    read_bytes("max_memory", max_memory)
    console, clock = Console(stderr=True), Clock()
    run = EverythingRun(find_images(image, recursive, out), out)
    make_folder(out)
    with clock.step("load the model", console):
        fused, processor = load_model(str(default_checkpoint()) if model is None else model, image_size, quantize)
        fused.encode_in(getattr(torch, dtype.value))
        pipe = pipeline_for(SamVariantsMaskGenerationPipeline, fused, processor, device)
    with clock.timed("segment"):
        run.go(pipe, console, batch_size=batch_size, **settings)
    report = run.report() | {
        "model": model or "embedded",
        "device": str(pipe.device),
        "dtype": dtype.value,
        "quantize": None if quantize is None else quantize.value,
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
