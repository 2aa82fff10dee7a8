"""Measure what the fast preset of mask generation loses and saves, and what both presets find of known objects.

Sets: held-out synthetic scenes and the photo of coins, where every object is known, and photos of scikit-image, where
the full preset itself is what the fast one is held against.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.evaluation_defaults import FIRST_SEED, SCENE_SIZE


def evaluate_everything(
    model: Annotated[
        str | None, typer.Option(help="checkpoint folder, file or Hub repository; none: the embedded one")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="number of held-out scenes")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="seed of the first scene")] = FIRST_SEED,
    size: Annotated[int, typer.Option(help="side of a scene in pixels")] = SCENE_SIZE,
    image_size: Annotated[int | None, typer.Option(help="another input size of the model in pixels")] = None,
    points_per_side: Annotated[int, typer.Option(min=1, help="points along each side of an image")] = 32,
    pred_iou_thresh: Annotated[float | None, typer.Option(help="least predicted IoU; none: the model's")] = None,
    stability_score_thresh: Annotated[float | None, typer.Option(help="least stability; none: the model's")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads; none: all cores")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write settings and all numbers here")] = None,
) -> dict[str, Any]:
    """Measure the fast preset of mask generation beside the full one, and both beside known objects."""
    # Here, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.benchmark_report import torch_threads
    from sam_variants.hub_scripts.evaluation_facts import load_model, versions, write_json
    from sam_variants.hub_scripts.evaluation_presets import PHOTOS, SETS, measure_presets, photos, presets_table
    from sam_variants.hub_scripts.evaluation_sets import coins_photo, held_out_scenes
    from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline

    checkpoint = str(default_checkpoint() if model is None else model)
    thresholds = {"pred_iou_thresh": pred_iou_thresh, "stability_score_thresh": stability_score_thresh}
    options = {name: value for name, value in thresholds.items() if value is not None}
    options["points_per_side"] = points_per_side
    num_threads = threads or os.cpu_count() or 1
    with torch_threads(num_threads):
        loaded, about = load_model(checkpoint, image_size)
        pipeline = SamVariantsMaskGenerationPipeline(model=loaded)
        sets: dict[str, Iterable[Any]] = {
            "held_out": held_out_scenes(scenes, first_seed, size),
            "coins": [coins_photo()],
            "photos": photos(),
        }
        lengths = {"held_out": scenes, "coins": 1, "photos": len(PHOTOS)}
        console = Console(stderr=True)
        results = {
            name: measure_presets(
                pipeline, track(examples, SETS[name], lengths[name], console=console, transient=True), options
            )
            for name, examples in sets.items()
        }
    settings = {"scenes": scenes, "first_seed": first_seed, "size": size, "threads": num_threads, **options}
    report = {"model": about, "settings": settings, "versions": versions(), "results": results}
    Console().print(presets_table(results))
    if json_file is not None:
        write_json(json_file, report)
    return report
