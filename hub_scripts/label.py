"""`sam-variants label`: images in, a dataset with their masks out; resumable."""

from __future__ import annotations

import json
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
)


class BoxFormat(StrEnum):
    """What the four numbers of a box are, in pixels."""

    xyxy = "xyxy"
    xywh = "xywh"
    cxcywh = "cxcywh"


class Images(StrEnum):
    """Whether image files are put into the dataset."""

    embed = "embed"
    reference = "reference"


class Engine(StrEnum):
    """Who does the work."""

    local = "local"
    ray = "ray"


def label(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A folder, image files, patterns, URLs, a .txt list of paths or URLs, Parquet, WebDataset tars, JSON "
            "lines, CSV, save_to_disk's folder, or owner/name on the Hub.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the dataset, new or to go on with.")],
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into the folders below a folder too.")] = False,
    split: Annotated[str | None, typer.Option("--split", help="Which split, where there are several.")] = None,
    config: Annotated[str | None, typer.Option("--config", help="Which configuration of a Hub dataset.")] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Read a Hub dataset as it comes, without downloading it before.")
    ] = False,
    image_column: Annotated[
        str | None,
        typer.Option("--image-column", metavar="COLUMN", help="The images.", show_default="found by type and name"),
    ] = None,
    boxes_column: Annotated[
        str | None,
        typer.Option(
            "--boxes-column",
            metavar="COLUMN",
            help="Boxes: one mask for each, instead of everything.",
            show_default="none",
        ),
    ] = None,
    points_column: Annotated[
        str | None,
        typer.Option(
            "--points-column", metavar="COLUMN", help="Points: one mask for each object of them.", show_default="none"
        ),
    ] = None,
    category_column: Annotated[
        str | None,
        typer.Option(
            "--category-column", metavar="COLUMN", help="What the objects are; it is passed on.", show_default="none"
        ),
    ] = None,
    box_format: Annotated[BoxFormat, typer.Option("--box-format", help="The four numbers of a box.")] = BoxFormat.xyxy,
    key_column: Annotated[
        str | None,
        typer.Option(
            "--key-column", metavar="COLUMN", help="Names of the images.", show_default="the path, URL or row number"
        ),
    ] = None,
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
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images, or crops of one, to encode at once.",
            show_default="that of the run to go on with, else 8 on a GPU and 1 on a CPU",
        ),
    ] = None,
    rows_per_shard: Annotated[int, typer.Option("--rows-per-shard", min=1, help="Images in a Parquet file.")] = 1000,
    images: Annotated[
        Images, typer.Option("--images", help="Embed the image files, or only refer to them.")
    ] = Images.embed,
    coco: Annotated[bool, typer.Option("--coco/--no-coco", help="Write instances.json at the end.")] = True,
    max_memory: MaxMemoryOption = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            help="Batches that the model works on at once, each on its share of the CPU's threads.",
            show_default="one per thread of the CPU, at most 8, and 1 for two threads; 2 on a GPU",
        ),
    ] = None,
    read_threads: Annotated[
        int, typer.Option("--read-threads", min=1, help="Images that are decoded at once, ahead of the model.")
    ] = 4,
    engine: Annotated[Engine, typer.Option("--engine", help="This process, or Ray's workers.")] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option("--address", help="The Ray cluster, such as auto.", show_default="one on this machine"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Ray's workers.", show_default="what the cluster has room for"),
    ] = None,
    worker_cpus: Annotated[
        float | None,
        typer.Option(
            "--worker-cpus", min=0, help="CPUs of each.", show_default="its share of the machine's, at most 8"
        ),
    ] = None,
    worker_gpus: Annotated[
        float | None,
        typer.Option(
            "--worker-gpus", min=0, help="GPUs of each, or a share of one.", show_default="1 where there are any"
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = Dtype.float32,
    quantize: QuantizeOption = None,
    image_size: ImageSizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Turn images into a dataset with masks.

    Everything in the images is found, as `everything` does, or one mask for each box or point that comes with them.
    Stopped at any moment, by Ctrl+C or kill, the same command goes on: every image is done once. Images
    that can't be read are listed in errors.jsonl.

    \b
    sam-variants label photos --recursive --out labeled
    sam-variants label "photos/*.jpg" --out labeled --preset fast --images reference
    sam-variants label "tars/{000..099}.tar" --out labeled
    sam-variants label owner/dataset --split train --streaming --out labeled
    sam-variants label detections.parquet --boxes-column boxes --box-format xywh --out labeled
    torchrun --nproc-per-node 8 -m sam_variants.hub_scripts.cli label photos --out labeled
    sam-variants label photos --out labeled --engine ray --workers 4

    Written into --out: data/*.parquet (image, key, width, height, objects with masks as COCO run-length codes),
    README.md, instances.json, contact_sheet.jpg, manifest.json and, where images failed, errors.jsonl.
    load_dataset(DIR) reads it, finished or not, and so do `train` and `browse`.

    Memory: the weights; what the model needs for --jobs batches, which --max-memory limits; 1 GB of images decoded
    ahead, or one image if it is larger; and the image files of a few batches. It does not grow with the dataset.

    The exit code is 0 when all is done, also when some images failed, but not when all of them did; 130 after Ctrl+C
    and 143 after SIGTERM.
    """
    # Here, because they import PyTorch, for which --help should not wait.
    from PIL import Image

    from sam_variants.hub_scripts.label_command import LabelChoices, LabelCommand, print_summary

    generation = given_generation(locals())
    prompted = boxes_column is not None or points_column is not None
    choices = LabelChoices(
        sources=source,
        out=out,
        reading={
            "recursive": recursive,
            "split": split,
            "config": config,
            "streaming": streaming,
            "image_column": image_column,
            "boxes_column": boxes_column,
            "points_column": points_column,
            "category_column": category_column,
            "box_format": box_format.value,
            "key_column": key_column,
        },
        labeling={
            "device": device,
            "dtype": dtype.value,
            "quantize": None if quantize is None else quantize.value,
            "image_size": image_size,
            "batch_size": batch_size,
            "mode": "prompts" if prompted else "everything",
            "generation": generation,
            "max_memory": max_memory,
            "jobs": jobs,
            "images": images.value,
            "rows_per_shard": rows_per_shard,
        },
        checkpoint=model,
        read_threads=read_threads,
        coco=coco,
        ray=ray_choices(engine, {"address": address, "number": workers, "cpus": worker_cpus, "gpus": worker_gpus}),
    )
    # A large photo is no attack here; what Pillow itself refuses is reported for the image.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    report, exit_code = LabelCommand(choices, Console(stderr=True)).run()
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_summary(report)
    if exit_code:
        raise typer.Exit(exit_code)


def ray_choices(engine: Engine, given: dict[str, Any]) -> dict[str, Any] | None:
    """The options of Ray, or None for the local engine.

    Raises:
        typer.BadParameter: for options that mean nothing without Ray.
    """
    if engine is Engine.ray:
        return given
    names = {"address": "--address", "number": "--workers", "cpus": "--worker-cpus", "gpus": "--worker-gpus"}
    if ignored := [names[name] for name, value in given.items() if value is not None]:
        raise typer.BadParameter(
            f"goes with --engine ray, which was not given: {' '.join(ignored)}", param_hint=ignored
        )
    return None
