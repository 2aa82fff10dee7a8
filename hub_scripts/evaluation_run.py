"""The steps of `sam-variants evaluate`: what is measured on, the measures, and the report for people."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from sam_variants.hub_scripts.evaluation_data import (
    EvaluationSet,
    SetOptions,
    Source,
    built_in_sets,
    data_set,
)
from sam_variants.hub_scripts.evaluation_everything import measure_everything
from sam_variants.hub_scripts.evaluation_facts import write_json
from sam_variants.hub_scripts.evaluation_protocol import (
    NUM_CLICKS,
    ModelSegmenter,
    Segmenter,
    flood_fill_segmenter,
    grabcut_segmenter,
)
from sam_variants.hub_scripts.evaluation_scores import NOC_CLICKS, measure_set
from sam_variants.hub_scripts.evaluation_speed import measure_speed
from sam_variants.hub_scripts.evaluation_tables import report_tables
from sam_variants.hub_scripts.evaluation_video import ClipOptions, ClipSet, held_out_set, own_clips
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.masked_image import MaskedImage

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
