"""The benchmark `everything`: our mask generation beside transformers' pipeline, with the same weights and images."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import SamConfig
from transformers.utils import logging

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.benchmark_generators import (
    BFLOAT16,
    FAST,
    OFFICIAL,
    OURS,
    THEIRS,
    Task,
    has_official,
    photo,
    run_alone,
)
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import EMBEDDED, PRESET, EverythingSettings
from sam_variants.hub_scripts.benchmark_structured_sam import (
    preset_sam_config,
    small_sam_config,
    structured_sam,
)
from sam_variants.hub_scripts.mask_matching import agreement, recall

QUICK: dict[str, Any] = {"megapixels": (0.5,), "points_per_side": 16, "repeats": 1}
# transformers' time grows with pixels times points: for larger images both get fewer points, and ours all of them too.
COMPARED_MEGAPIXEL_POINTS = 3 * 32**2
SAME_IOU, ALIKE_IOUS = 0.99, (0.75, 0.9)


def measure_everything(settings: EverythingSettings, advance: Advance) -> dict[str, Any]:
    """Measure everything.

    Args:
        settings: what that is.
        advance: told the progress, 1 in all.

    Returns:
        `settings`; `models`: for each `options` and `rows`, see `measure_row`. Ready for JSON.

    Raises:
        ValueError, OSError: for an input size or a checkpoint that can't be used, or when ours fails.
    """
    if settings.quick:
        settings = replace(settings, **QUICK)
    preset = small_sam_config() if settings.quick else preset_sam_config(settings.image_size)
    grids = [
        (size, points)
        for size in settings.megapixels
        for points in grid_sides(size, settings.points_per_side, settings.with_transformers)
    ]
    report: dict[str, Any] = {}
    for name in settings.models:
        generators = chosen_generators(settings, preset if name == PRESET else None)
        with weights(name, preset) as folder:
            options = own_options(folder)
            task = Task(
                OURS, folder, 1.0, device=settings.device, threads=settings.threads, memory=1e9 * settings.memory
            )
            rows = [
                measure_row(
                    replace(task, megapixels=size, options={**options, "points_per_side": points}),
                    # All points: what there is no time for with transformers.
                    generators if index == 0 or grids[index - 1][0] != size else [OURS],
                    settings.repeats,
                    lambda share: advance(share / len(grids) / len(settings.models)),
                )
                for index, (size, points) in enumerate(grids)
            ]
        report[name] = {"options": options, "rows": rows}
    return {"settings": asdict(settings), "models": report}


def grid_sides(megapixels: float, points_per_side: int, with_transformers: bool) -> list[int]:
    """Points along each side for an image: as many as transformers can be waited for, then all of them."""
    fewer = max(1, int(math.sqrt(COMPARED_MEGAPIXEL_POINTS / megapixels)))
    if fewer >= points_per_side or not with_transformers:
        return [points_per_side]
    return [fewer, points_per_side]


def chosen_generators(settings: EverythingSettings, sam: SamConfig | None) -> list[str]:
    """The generators that are compared, ours first.

    Args:
        settings: what is measured.
        sam: configuration of the `SamModel`, or None for the embedded model.
    """
    generators = [OURS]
    if sam is None:
        # On random blobs around every point the fast preset has nothing to save.
        generators.append(FAST)
    if not settings.quick:
        generators.append(BFLOAT16)
    if settings.with_transformers:
        generators.append(THEIRS)
        if has_official(sam):
            generators.append(OFFICIAL)
    return generators


@contextmanager
def weights(name: str, preset: SamConfig) -> Iterator[str]:
    """A folder with the weights of a model, while they are needed."""
    if name == EMBEDDED:
        yield str(default_checkpoint())
        return
    with tempfile.TemporaryDirectory() as folder:
        logging.disable_progress_bar()
        structured_sam(preset, photo(0.5)).save_pretrained(folder)
        yield folder


def own_options(folder: str) -> dict[str, Any]:
    """The mask-generation options that suit the weights in a folder, if its configuration says so."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    return config.get("mask_generation") or {}


def measure_row(task: Task, generators: Sequence[str], repeats: int, advance: Advance) -> dict[str, Any]:
    """Compare generators on one image, run in turn, each time beginning with another.

    Args:
        task: of any generator.
        generators: which, ours first.
        repeats: how often each runs.
        advance: told the progress, 1 in all.

    Returns:
        `megapixels`, `points_per_side`; `generators`: for each what `summary` gives; `times_ours`: the time of each of
        the others, with ours as 1; `agreement`: of ours with the others that do the same; `recall`: which share of
        ours the fast preset finds too, by IoU.

    Raises:
        ValueError: ours failed, with what it said last.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in generators}
    for repeat in range(repeats):
        first = repeat % len(generators)
        for name in [*generators[first:], *generators[:first]]:
            # What fails once is not tried again.
            if not any("failed" in run for run in runs[name]):
                runs[name].append(run_alone(replace(task, generator=name)))
            advance(1 / repeats / len(generators))
    if "failed" in runs[OURS][-1]:
        raise ValueError(f"mask generation failed: {runs[OURS][-1]['failed']}")
    summaries = {name: summary(found) for name, found in runs.items()}
    masks = {name: found[-1]["masks"] for name, found in runs.items() if "failed" not in found[-1]}
    row: dict[str, Any] = {
        "megapixels": task.megapixels,
        "points_per_side": task.options["points_per_side"],
        "generators": summaries,
        "times_ours": {name: summaries[name]["seconds"] / summaries[OURS]["seconds"] for name in masks if name != OURS},
        "agreement": {
            name: agreement(masks[OURS], masks[name], SAME_IOU).to_dict()
            for name in (THEIRS, OFFICIAL, BFLOAT16)
            if name in masks
        },
    }
    if FAST in masks:
        row["recall"] = {
            str(least): float(recall(masks[FAST], masks[OURS], least).mean()) if masks[OURS] else None
            for least in ALIKE_IOUS
        }
    return row


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of a generator's runs: `seconds`, `stages`, `peak_bytes`, `masks` (their number), `points_per_batch`.

    Of a generator that failed: `failed`, its last words.
    """
    if "failed" in runs[-1]:
        return {"failed": runs[-1]["failed"]}
    peaks = [run["peak_bytes"] for run in runs]
    return {
        "seconds": float(np.median([run["seconds"] for run in runs])),
        "stages": {stage: float(np.median([run["stages"][stage] for run in runs])) for stage in runs[0]["stages"]},
        "peak_bytes": None if None in peaks else float(np.median(peaks)),
        "masks": len(runs[-1]["masks"]),
        "points_per_batch": runs[-1]["points_per_batch"],
    }
