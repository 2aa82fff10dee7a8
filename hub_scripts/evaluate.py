"""Measure a model on objects it has never seen: clicks and boxes, everything, clips; and its speed.

`sam-variants evaluate --help` tells the rest. How prompts are made is told in `evaluation_protocol.measure`, what is
summed up in `evaluation_scores`, `evaluation_everything`, `tracking_protocol` and `evaluation_speed`.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.evaluation_defaults import BUILT_IN, FIRST_SEED, NUM_SCENES, SCENE_SIZE

SCENES = ("scenes", "first_seed", "size")
MEASURES = ("prompts", "noc", "everything", "video", "speed")


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
    # Here, because they import PyTorch, for which --help should not wait.
    import torch

    from sam_variants.hub.evaluation_report import REPORT_VERSION
    from sam_variants.hub_scripts.benchmark_report import checked_device, torch_threads
    from sam_variants.hub_scripts.evaluation_data import SetOptions, Source, read_columns
    from sam_variants.hub_scripts.evaluation_facts import chosen_names, load_model, versions
    from sam_variants.hub_scripts.evaluation_run import check_outputs, measure_images, open_sets, show
    from sam_variants.hub_scripts.evaluation_video import ClipOptions, measure_clips

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


if __name__ == "__main__":
    typer.run(evaluate)
