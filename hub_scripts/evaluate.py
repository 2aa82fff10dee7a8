"""Measure a model on objects it has never seen, beside flood fill and GrabCut.

`python -m sam_variants.hub_scripts.evaluate --help` tells the rest. Every number is a mean IoU over objects, at the
full size of the image; how the prompts are made is told in `evaluation_protocol.measure`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sam_variants.checkpoint_layouts.load_checkpoint import find_locally, load_checkpoint
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.saved_weights import checkpoint_checksums
from sam_variants.hub_scripts.evaluation_protocol import (
    ModelSegmenter,
    Segmenter,
    flood_fill_segmenter,
    grabcut_segmenter,
    measure,
)
from sam_variants.hub_scripts.evaluation_sets import EvaluationImage, coins_photo, held_out_scenes
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for

SIZES = {"all": (0.0, 1.01), "small": (0.0, 0.01), "medium": (0.01, 0.1), "large": (0.1, 1.01)}
"""Sizes of objects: share of the image from (inclusive) and to (exclusive)."""

COLUMNS = {"click": "1 click", "best_of_3": "best of 3", "three_clicks": "3 clicks", "box": "box"}
SET_TITLES = {"held_out": "Held-out scenes", "coins": "Photo of coins"}
BASELINES = {"flood_fill": flood_fill_segmenter, "grabcut": grabcut_segmenter}
MODEL_SUBSET = "model_on_baseline_scenes"


@dataclass
class Scores:
    """IoU of every object that a method was asked for, with what is needed to sum them up.

    Attributes:
        areas: of the objects, as shares of their image.
        ious: per measure of `COLUMNS`, as many as areas.
        seconds: how long the answers took, per kind ("encode" one image, "prompt" one object).
    """

    areas: list[float] = field(default_factory=list)
    ious: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, segmenter: Segmenter, example: EvaluationImage) -> None:
        """Measure one more image."""
        for measure_name, values in measure(segmenter, example).items():
            self.ious.setdefault(measure_name, []).extend(values.tolist())
        self.areas.extend(example.areas.tolist())
        self.seconds = segmenter.seconds

    def first(self, count: int) -> Scores:
        """The scores of the first `count` objects, without times."""
        return Scores(self.areas[:count], {name: values[:count] for name, values in self.ious.items()})

    def summary(self) -> dict[str, Any]:
        """Means by size of object, and median times in milliseconds.

        Returns:
            Per size of `SIZES` that occurs `objects` (their number) and the mean of every measure; `milliseconds` per
            kind of answer, if there are any.
        """
        areas = np.array(self.areas)
        result: dict[str, Any] = {}
        for size, (least, limit) in SIZES.items():
            chosen = (areas >= least) & (areas < limit)
            if chosen.any():
                means = {name: round(float(np.array(values)[chosen].mean()), 4) for name, values in self.ious.items()}
                result[size] = {"objects": int(chosen.sum()), **means}
        if self.seconds:
            result["milliseconds"] = {
                kind: round(1000 * float(np.median(values)), 2) for kind, values in self.seconds.items()
            }
        return result


def measure_set(
    examples: Iterable[EvaluationImage], model: Segmenter, baselines: dict[str, Segmenter], num_baseline_images: int
) -> dict[str, dict[str, Any]]:
    """Ask a model about all images of a set, and the baselines about the first of them.

    Returns:
        The summary of each method, "model" first; where the baselines saw fewer objects, `MODEL_SUBSET` is the model
        on theirs.
    """
    scores = {name: Scores() for name in ("model", *baselines)}
    num_compared = 0
    for index, example in enumerate(examples):
        scores["model"].add(model, example)
        if index < num_baseline_images:
            num_compared += len(example.masks)
            for name, baseline in baselines.items():
                scores[name].add(baseline, example)
    if baselines and 0 < num_compared < len(scores["model"].areas):
        subset = {MODEL_SUBSET: scores["model"].first(num_compared)}
        scores = {"model": scores["model"], **subset, **{name: scores[name] for name in baselines}}
    return {name: score.summary() for name, score in scores.items() if score.areas}


def results_table(title: str, results: dict[str, dict[str, Any]]) -> Table:
    """A table of mean IoU in percent: a row per method and size of object."""
    table = Table(title=f"{title}: mean IoU in %", title_justify="left")
    table.add_column("method")
    for heading in ("objects", "number", *COLUMNS.values(), "ms/prompt", "ms/image"):
        table.add_column(heading, justify="left" if heading == "objects" else "right")
    for method, summary in results.items():
        times = summary.get("milliseconds", {})
        for size in SIZES:
            if size not in summary:
                continue
            row = summary[size]
            first = size == "all"
            table.add_row(
                method.replace("_", " ") if first else "",
                size,
                str(row["objects"]),
                *(f"{100 * row[name]:.1f}" if name in row else "–" for name in COLUMNS),
                *(f"{times[kind]:.1f}" if first and kind in times else "" for kind in ("prompt", "encode")),
                end_section=size == _last_size(summary),
            )
    return table


def _last_size(summary: dict[str, Any]) -> str:
    return [size for size in SIZES if size in summary][-1]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "sam-variants": version("sam-variants"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "scikit-image": version("scikit-image"),
    }


def load_model(checkpoint: str, image_size: int | None) -> tuple[SamVariantsModel, dict[str, Any]]:
    """A model ready for inference, and what the report says about it.

    Raises:
        ValueError, OSError: the checkpoint can't be read, or the size is not a multiple of the encoder's stride.
    """
    model = load_checkpoint(checkpoint)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"{checkpoint} holds a {type(model).__name__}; only a whole SamVariantsModel can be evaluated")
    if image_size is not None:
        model.config.image_size = image_size
    about = {
        "checkpoint": checkpoint,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": model.config.image_size,
        # By it a model card's numbers are known to be of its weights.
        "sha256": checkpoint_checksums(find_locally(checkpoint)[0]),
    }
    return model.float().fuse(), about


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report, with the folders on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _measure_all(model: SamVariantsModel, settings: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The summaries of every set."""
    keys = ("first_seed", "size", "difficulty", "max_objects", "min_area")
    scenes = held_out_scenes(settings["scenes"], **{key: settings[key] for key in keys})
    shown = track(scenes, "held-out scenes", settings["scenes"], console=Console(stderr=True), transient=True)
    sets: dict[str, Iterable[EvaluationImage]] = {"held_out": shown, "coins": [coins_photo()]}
    results = {}
    for name, examples in sets.items():
        baselines: dict[str, Segmenter] = {}
        if settings["baseline_scenes"]:
            baselines = {baseline: make(settings["threads"]) for baseline, make in BASELINES.items()}
        segmenter = ModelSegmenter(model, processor_for(model))
        results[name] = measure_set(examples, segmenter, baselines, settings["baseline_scenes"])
    return results


def evaluate(
    model: Annotated[
        str | None, typer.Option(help="checkpoint folder, file or Hub repository; none: the embedded one")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="number of held-out scenes")] = 100,
    first_seed: Annotated[int, typer.Option(min=0, help="seed of the first scene")] = 1_000_000,
    size: Annotated[int, typer.Option(help="side of a scene in pixels")] = 256,
    difficulty: Annotated[float, typer.Option(min=0.0, max=1.0, help="of the scenes")] = 1.0,
    image_size: Annotated[int | None, typer.Option(help="another input size of the model in pixels")] = None,
    max_objects: Annotated[int, typer.Option(min=1, help="objects asked for in a scene")] = 8,
    min_area: Annotated[float, typer.Option(help="smallest object, as a share of the image")] = 0.002,
    baselines: Annotated[bool, typer.Option(help="flood fill and GrabCut beside the model")] = True,
    baseline_scenes: Annotated[int, typer.Option(min=1, help="scenes for the baselines, which are slow")] = 25,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads; none: all cores")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write settings and all numbers here")] = None,
) -> dict[str, Any]:
    """Measure a model with simulated clicks and boxes on unseen scenes and on a photo of coins."""
    checkpoint = str(default_checkpoint() if model is None else model)
    num_threads = threads or os.cpu_count() or 1
    settings = {
        "scenes": scenes,
        "first_seed": first_seed,
        "size": size,
        "difficulty": difficulty,
        "max_objects": max_objects,
        "min_area": min_area,
        "baseline_scenes": min(baseline_scenes, scenes) if baselines else 0,
        "threads": num_threads,
    }
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        loaded, about = load_model(checkpoint, image_size)
        results = _measure_all(loaded, settings)
    finally:
        torch.set_num_threads(threads_before)
    report = {"model": about, "settings": settings, "versions": versions(), "results": results}
    console = Console()
    heading = f"{about['checkpoint']}: {about['parameters']:,} parameters, input {about['image_size']} pixels"
    console.print(heading, soft_wrap=True, markup=False)
    for name, summaries in results.items():
        console.print(results_table(SET_TITLES[name], summaries))
    if json_file is not None:
        write_json(json_file, report)
    return report


if __name__ == "__main__":
    typer.run(evaluate)
