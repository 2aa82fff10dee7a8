"""`sam-variants track`: a video and its prompts in; an overlay video and the masks of every frame out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.model_options import DeviceOption, ImageSizeOption, load_model
from sam_variants.hub_scripts.segment import Clock, make_folder

# At their places below, because they import PyTorch, for which --help should not wait.
if TYPE_CHECKING:
    from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline


def track(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Video file or URL, or a folder of images.")],
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="FRAME,ID,X,Y[,LABEL]",
            help="A point on object ID (label 1, the default) or off it (0), on a frame; frames count from 0.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None, typer.Option("--box", metavar="FRAME,ID,X1,Y1,X2,Y2", help="A box around object ID.")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option("--mask", metavar="FRAME,ID,FILE", help="A picture that is not 0 where object ID is."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help='Prompts as JSON: {"0": {"1": {"points": [[320, 240]], "labels": [1]}}}.'
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("tracked"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="CHECKPOINT",
            help="Checkpoint: a folder, a Hub repository, or an official .pt or .safetensors file of SAM 2.",
            show_default="the embedded checkpoint",
        ),
    ] = None,
    device: DeviceOption = None,
    image_size: ImageSizeOption = None,
    start: Annotated[int, typer.Option("--start", metavar="FRAME", min=0, help="The first frame to track.")] = 0,
    stop: Annotated[
        int | None,
        typer.Option("--stop", metavar="FRAME", min=1, help="The frame before which to stop.", show_default="the end"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")] = False,
    no_overlay: Annotated[bool, typer.Option("--no-overlay", help="Write no overlay video.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Track objects through a video from points, boxes and masks.

    Every prompt names the frame, counted from 0, and the object by a number of your own. An object begins on its first
    prompted frame; prompts on later frames correct it. Coordinates are pixels, x to the right and y down.

    \b
    sam-variants track clip.mp4 --point 0,1,320,240
    sam-variants track clip.mp4 --point 0,1,320,240 --point 0,1,100,80,0 --box 0,2,172,18,410,308
    sam-variants track clip.mp4 --mask 0,1,mask.png --point 90,1,300,200
    sam-variants track clip.mp4 --prompts prompts.json --resume

    Written into --out, for clip.mp4: clip_overlay.mp4 and clip_masks.jsonl, whose first line tells what was tracked
    and every other line the masks of one frame as COCO annotations. While it runs there is clip_state.safetensors too,
    from which --resume goes on as if nothing had happened.
    """
    from sam_variants.hub_scripts.prompt_options import check_inside_video, read_video_prompts
    from sam_variants.hub_scripts.tracking_run import Files, TrackingRun
    from sam_variants.processing.video_reader import video_info

    if resume and overwrite:
        raise typer.BadParameter("give one of --resume and --overwrite", param_hint="--resume")
    if stop is not None and stop <= start:
        raise typer.BadParameter(f"{stop} is not behind --start {start}", param_hint="--stop")
    console, clock = Console(stderr=True), Clock()
    given = read_video_prompts(point or [], box or [], mask or [], prompts)
    with clock.step("look at the video", console):
        info = video_info(video)
        source = {"model": model or "embedded", "image_size": image_size}
        run = TrackingRun(video, info, given, Files.of(video, out), source, start, stop, with_overlay=not no_overlay)
        check_inside_video(given, info.width, info.height, start, run.end)
        make_folder(out)
        run.look_back(resume, overwrite)
    pipe = None
    if not run.is_complete:
        with clock.step("load the model", console):
            pipe = load_tracker(model, device, image_size)
        begin = time.perf_counter()
        run.track(pipe.model.start_session(pipe.processor), console)
        clock.seconds["track"] = round(time.perf_counter() - begin, 3)
    report = run.report() | {
        "video": video,
        "width": info.width,
        "height": info.height,
        "model": model or "embedded",
        "device": None if pipe is None else str(pipe.device),
        "seconds": clock.seconds,
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_summary(report)


def load_tracker(source: str | None, device: str | None, image_size: int | None) -> PromptableVideoSegmentationPipeline:
    """The pipeline for a checkpoint of any layout.

    Args:
        source: what `load_checkpoint` takes; None is the embedded checkpoint.
        device: name of a torch device, or None for the best there is.
        image_size: side of the model's input in pixels, or None for its own.

    Raises:
        ValueError, OSError: for a checkpoint, size or device that can't be used.
    """
    from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
    from sam_variants.pipeline_base import pipeline_for
    from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline

    path = str(default_checkpoint(video=True)) if source is None else source
    model: Any
    model, processor = load_model(path, image_size)
    if model.config.model_type != SamVariantsVideoConfig.model_type:
        raise ValueError(
            f"--model {path!r} is for images and has no memory; one that can track is "
            "--model facebook/sam2.1-hiera-tiny, or any other checkpoint of SAM 2"
        )
    return pipeline_for(PromptableVideoSegmentationPipeline, model, processor, device)


def print_summary(report: dict[str, Any]) -> None:
    """Tell a person what came out and where it lies."""
    table = Table("object", "frames visible", title=f"{report['video']}, {report['width']}×{report['height']}")
    for entry in report["objects"]:
        table.add_row(str(entry["object_id"]), f"{entry['frames_visible']} of {report['frames']}")
    Console(markup=False, emoji=False).print(table)  # file names may look like markup
    for path in report["files"].values():
        typer.echo(path)
    typer.echo(", ".join(f"{name} {seconds:.2f} s" for name, seconds in report["seconds"].items()))
