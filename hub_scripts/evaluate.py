"""Measure a model on objects it has never seen: clicks and boxes, everything, clips; and its speed.

`sam-variants evaluate --help` tells the rest. How prompts are made is told in `evaluation_protocol.measure`, what is
summed up in `evaluation_scores`, `evaluation_everything`, `tracking_protocol` and `evaluation_speed`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.evaluation_report import REPORT_VERSION
from sam_variants.hub_scripts.benchmark_report import checked_device, torch_threads
from sam_variants.hub_scripts.evaluation_data import (
    BUILT_IN,
    EvaluationSet,
    SetOptions,
    Source,
    built_in_sets,
    data_set,
    read_columns,
)
from sam_variants.hub_scripts.evaluation_everything import measure_everything
from sam_variants.hub_scripts.evaluation_facts import chosen_names, load_model, versions, write_json
from sam_variants.hub_scripts.evaluation_protocol import (
    NUM_CLICKS,
    ModelSegmenter,
    Segmenter,
    flood_fill_segmenter,
    grabcut_segmenter,
)
from sam_variants.hub_scripts.evaluation_scores import NOC_CLICKS, measure_set
from sam_variants.hub_scripts.evaluation_sets import FIRST_SEED, NUM_SCENES, SCENE_SIZE
from sam_variants.hub_scripts.evaluation_speed import measure_speed
from sam_variants.hub_scripts.evaluation_tables import report_tables
from sam_variants.hub_scripts.evaluation_video import ClipOptions, ClipSet, held_out_set, measure_clips, own_clips
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.masked_image import MaskedImage

SCENES = ("scenes", "first_seed", "size")
MEASURES = ("prompts", "noc", "everything", "video", "speed")
BASELINES = {"flood_fill": flood_fill_segmenter, "grabcut": grabcut_segmenter}


def with_progress(title: str, items: Iterable[Any], count: int | None) -> Iterable[Any]:
    return track(items, title, count, console=Console(stderr=True), transient=True)


def measure_images(
    model: SamVariantsModel, sets: dict[str, EvaluationSet], measures: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The sections of a report that are about images: "results", "everything", "speed", those that are asked for.

    And "left_out", what was no object that is asked for, if there was any.
    """
    sections: dict[str, Any] = {}
    segmenter = ModelSegmenter(model, processor_for(model))
    if "speed" in measures:  # first, as memory that was needed before would not be seen to grow
        sections["speed"] = measure_speed(segmenter, first_image(sets).image)
    if {"prompts", "noc"} & set(measures):
        num_clicks = NOC_CLICKS if "noc" in measures else NUM_CLICKS
        sections["results"] = {}
        for name, found in sets.items():
            baselines: dict[str, Segmenter] = {}
            if found.is_compared and settings.get("baseline_scenes"):
                baselines = {method: make(settings["threads"]) for method, make in BASELINES.items()}
            segmenter = ModelSegmenter(model, processor_for(model))
            images = with_progress(found.title, found.images(False), found.num_images)
            scores = measure_set(images, segmenter, baselines, settings.get("baseline_scenes", 0), num_clicks)
            if not scores:
                raise ValueError(f"{name} has no object of the wanted size in any image: there is nothing to measure")
            sections["results"][name] = scores
    if "everything" in measures:
        pipeline = SamVariantsMaskGenerationPipeline(model=model, device=model.device)
        options, most = {"points_per_side": settings["points_per_side"]}, settings["everything_images"]
        sections["everything"] = {}
        for name, found in sets.items():
            count = most if found.num_images is None else min(most, found.num_images)
            images = with_progress(f"{found.title}, everything", islice(found.images(True), count), count)
            sections["everything"][name] = measure_everything(pipeline, images, options)
    left_out = {name: found.left_out() for name, found in sets.items()}
    return sections | ({"left_out": left_out} if any(left_out.values()) else {})


def first_image(sets: dict[str, EvaluationSet]) -> MaskedImage:
    """The first image of all sets.

    Raises:
        ValueError: there is none.
    """
    for found in sets.values():
        for example in found.images(False):
            return example
    raise ValueError("there is no image to measure")


def open_sets(
    measures: list[str], source: Source | None, sets: str, options: SetOptions, clip_options: ClipOptions
) -> tuple[dict[str, EvaluationSet], dict[str, ClipSet]]:
    """The images and the clips that the measures are made on, as far as they need any.

    Raises:
        ValueError, OSError: the data can't be read, or would have to be both images and clips.
    """
    wants_clips, wants_images = "video" in measures, measures != ["video"]
    if source is None:
        image_sets = built_in_sets(sets, options) if wants_images else {}
        return image_sets, held_out_set(clip_options) if wants_clips else {}
    if wants_clips and wants_images:
        raise ValueError(f"data={source.data!r} holds either clips or images: measure video in a run of its own")
    if wants_clips:
        return {}, own_clips(source, clip_options)
    return data_set(source, options), {}


def check_outputs(json_file: Path | None, plots: Path | None, compare: Path | None, measured: set[str]) -> None:
    """Find out before anything is measured what could not be written or drawn afterwards.

    Args:
        json_file, plots, compare: of the command.
        measured: the sets, and "speed" if that is measured.

    Raises:
        ValueError: plots that can't be drawn, or a report that has nothing to compare.
        OSError: a file that can't be read or written.
    """
    if compare is not None and plots is None:
        raise ValueError(f"compare={str(compare)!r} is drawn beside this model: give a folder, too: --plots DIR")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        if json_file.is_dir() or not os.access(json_file if json_file.exists() else json_file.parent, os.W_OK):
            raise OSError(f"{json_file} can't be written: give --json a file in a folder of yours")
    if plots is None:
        return
    if find_spec("matplotlib") is None:
        raise ValueError("--plots needs matplotlib, which is not installed: pip install 'sam-variants[train]'")
    plots.mkdir(parents=True, exist_ok=True)
    if compare is not None:
        from sam_variants.hub_scripts.evaluation_plots import measured_in, read_report

        others = measured_in(read_report(compare))
        if not others & measured:
            raise ValueError(
                f"compare={str(compare)!r} was measured on {sorted(others)} and not on {sorted(measured)}: there is "
                "nothing to draw beside this model"
            )


def evaluate(
    model: Annotated[
        str | None, typer.Option(help="checkpoint folder, file or Hub repository; none: the embedded one")
    ] = None,
    measure: Annotated[
        str, typer.Option(help=f"what to measure, with commas between: {','.join(MEASURES)}")
    ] = "prompts",
    data: Annotated[
        str | None,
        typer.Option(help="images with masks (for video: clips): folder, file or Hub dataset; none: the built-in sets"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="of the data, where there are several")] = None,
    columns: Annotated[str | None, typer.Option(help="of the data, if not found: image=NAME,masks=NAME,kind=…")] = None,
    streaming: Annotated[bool, typer.Option(help="read the data's rows one after another")] = False,
    max_images: Annotated[int | None, typer.Option(min=1, help="most images (or clips) of a set")] = None,
    seed: Annotated[int, typer.Option(min=0, help="draws the images of data that has more")] = 0,
    max_objects: Annotated[
        int | None, typer.Option(min=1, help="objects asked for in an image; none: 8 in a scene, all elsewhere")
    ] = None,
    min_area: Annotated[
        float | None, typer.Option(help="smallest object, as a share of the image; none: 0.002 in scenes, 0 elsewhere")
    ] = None,
    sets: Annotated[str, typer.Option(help="built-in sets, with commas between")] = ",".join(BUILT_IN),
    scenes: Annotated[int, typer.Option(min=1, help="number of held-out scenes")] = NUM_SCENES,
    first_seed: Annotated[int, typer.Option(min=0, help="seed of the first scene")] = FIRST_SEED,
    size: Annotated[int, typer.Option(help="side of a scene in pixels")] = SCENE_SIZE,
    difficulty: Annotated[float, typer.Option(min=0.0, max=1.0, help="of the scenes")] = 1.0,
    image_size: Annotated[int | None, typer.Option(help="another input size of the model in pixels")] = None,
    baselines: Annotated[
        bool, typer.Option(help="flood fill and GrabCut beside the model, on scenes and coins")
    ] = True,
    baseline_scenes: Annotated[int, typer.Option(min=1, help="scenes for the baselines, which are slow")] = 25,
    everything_images: Annotated[int, typer.Option(min=1, help="images of a set for everything, which is slow")] = 20,
    points_per_side: Annotated[int, typer.Option(min=1, help="for everything: points along each side")] = 32,
    clips: Annotated[int, typer.Option(min=1, help="for video: number of held-out clips")] = 24,
    frames: Annotated[int, typer.Option(min=2, help="for video: of each held-out clip")] = 24,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads; none: all cores")] = None,
    device: Annotated[str | None, typer.Option(help="such as cpu or cuda; none: a GPU if there is one")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write settings and all numbers here")] = None,
    plots: Annotated[Path | None, typer.Option(help="draw the numbers into this folder")] = None,
    compare: Annotated[Path | None, typer.Option(help="JSON of another model, drawn beside this one")] = None,
) -> dict[str, Any]:
    """Measure a model with simulated clicks and boxes on unseen scenes and photos, or on your own images with masks."""
    measures = chosen_names("measure", measure, MEASURES)
    options = SetOptions(scenes, first_seed, size, difficulty, max_objects, min_area, max_images, seed)
    clip_options = ClipOptions(clips, frames, difficulty, min_area, max_images)
    source = None if data is None else Source(data, split, streaming, read_columns(columns))
    image_sets, clip_sets = open_sets(measures, source, sets, options, clip_options)
    check_outputs(json_file, plots, compare, {*image_sets, *clip_sets} | ({"speed"} & set(measures)))
    num_threads = threads or os.cpu_count() or 1
    used_device = checked_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings = {
        "measure": ",".join(measures),
        **({"sets": ",".join(image_sets | clip_sets)} if source is None else asdict(source) | {"columns": columns}),
        **{name: value for name, value in asdict(options).items() if name not in SCENES or "held_out" in image_sets},
        "difficulty": difficulty if {"held_out", "held_out_clips"} & {*image_sets, *clip_sets} else None,
        "seed": None if source is None else seed,
        "baseline_scenes": (min(baseline_scenes, scenes) if baselines else 0) if source is None else None,
        "everything_images": everything_images if "everything" in measures else None,
        "points_per_side": points_per_side if "everything" in measures else None,
        "clips": clips if "video" in measures else None,
        "frames": frames if "video" in measures else None,
        "threads": num_threads,
        "device": used_device,
    }
    settings = {name: value for name, value in settings.items() if value is not None and value is not False}
    with torch_threads(num_threads):
        checkpoint = str(default_checkpoint(video="video" in measures) if model is None else model)
        loaded, about = load_model(checkpoint, image_size, used_device)
        sections = measure_images(loaded, image_sets, measures, settings) if image_sets else {}
        if clip_sets:
            sections["video"] = measure_clips(loaded, checkpoint, clip_sets, clip_options)
    report = {"version": REPORT_VERSION, "model": about, "settings": settings, "versions": versions(), **sections}
    show(report, {name: found.title for name, found in (image_sets | clip_sets).items()}, json_file, plots, compare)
    return report


def show(
    report: dict[str, Any], titles: dict[str, str], json_file: Path | None, plots: Path | None, compare: Path | None
) -> None:
    """Print a report, and write it to where it is wanted."""
    about, console = report["model"], Console()
    heading = f"{about['checkpoint']}: {about['parameters']:,} parameters, input {about['image_size']} pixels"
    console.print(heading, soft_wrap=True, markup=False)
    for table in report_tables(report, titles):
        console.print(table)
    for name, reasons in report.get("left_out", {}).items():
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        console.print(f"{titles[name]}: left out {told}", soft_wrap=True, markup=False, highlight=False)
    if json_file is not None:
        write_json(json_file, report)
    if plots is not None:
        from sam_variants.hub_scripts.evaluation_plots import write_plots

        for path in write_plots(plots, report, compare, titles):
            console.print(f"wrote {path}", soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(evaluate)
