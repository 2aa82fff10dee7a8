"""The benchmark `label`: labeling many images, beside a loop over transformers' pipeline with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.benchmark_everything import own_options
from sam_variants.hub_scripts.benchmark_generators import OURS, THEIRS, photo
from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import LabelingSettings

LABEL, LOOP = "label", "loop"
# So that a run with little to do on each image is short, where only its memory is looked at.
FEW_POINTS, SMALL_INPUT = 4, 128
QUICK: dict[str, Any] = {"images": 3, "their_images": 1, "memory_images": 10, "megapixels": 0.05, "points_per_side": 4}


@dataclass(frozen=True)
class Work:
    """One measurement in a process of its own.

    Attributes:
        what: `LABEL` or `LOOP`.
        folder: the images.
        model: the checkpoint.
        count: the first so many of them.
        jobs: batches at once, for `LABEL`.
        generator: of `GENERATORS`, for `LOOP`.
        options: official names of mask generation options.
        image_size: of the model's input in pixels; None for its own.
        device, threads: where.
    """

    what: str
    folder: str
    model: str
    count: int
    jobs: int = 1
    generator: str = OURS
    options: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    device: str = "cpu"
    threads: int = 1


def measure_label(settings: LabelingSettings, advance: Advance) -> dict[str, Any]:
    """Measure everything.

    Args:
        settings: what that is.
        advance: told the progress, 1 in all.

    Returns:
        `settings`; `runs`, what `label_images` gives for each number of jobs; `loops`, what `loop_over_images` gives,
        by generator; `memory`, a run over many images. Ready for JSON.

    Raises:
        ValueError, OSError: for a checkpoint that can't be used, or when a measurement fails.
    """
    if settings.quick:
        settings = replace(settings, **QUICK)
    checkpoint = settings.model or str(default_checkpoint())
    # Said to all: transformers doesn't know what suits a model.
    options = own_options(checkpoint) | {"points_per_side": settings.points_per_side}
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch), settings.images, settings.megapixels)
        work = Work(
            LABEL,
            scratch,
            checkpoint,
            settings.images,
            options=options,
            device=settings.device,
            threads=settings.threads,
        )
        generators = [OURS, THEIRS] if settings.with_transformers else [OURS]
        counts = {OURS: settings.images, THEIRS: settings.their_images}
        shares = len(settings.jobs) + len(generators) + bool(settings.memory_images)
        runs, loops = {}, {}
        for jobs in settings.jobs:
            runs[str(jobs)] = measured_alone(replace(work, jobs=jobs))
            advance(1 / shares)
        for name in generators:
            loops[name] = measured_alone(replace(work, what=LOOP, generator=name, count=counts[name]))
            advance(1 / shares)
    report: dict[str, Any] = {"settings": asdict(settings), "runs": runs, "loops": loops}
    if settings.memory_images:
        report["memory"] = measure_memory(settings, work)
        advance(1 / shares)
    return report


def measure_memory(settings: LabelingSettings, work: Work) -> dict[str, Any]:
    """`label_images` on very many images with little to do on each."""
    with tempfile.TemporaryDirectory() as scratch:
        write_images(Path(scratch), settings.memory_images, min(settings.megapixels, 0.1))
        few = work.options | {"points_per_side": FEW_POINTS}
        return measured_alone(
            replace(
                work,
                folder=scratch,
                count=settings.memory_images,
                jobs=settings.threads,
                options=few,
                image_size=SMALL_INPUT,
            )
        )


def write_images(folder: Path, count: int, megapixels: float) -> None:
    """The bundled photo as JPEG files, each turned by another number of columns."""
    pixels = photo(megapixels)
    for number in range(count):
        turned = np.roll(pixels, number * 61 % pixels.shape[1], axis=1)
        Image.fromarray(turned).save(folder / f"{number:06d}.jpg", quality=90)


def measured_alone(work: Work) -> dict[str, Any]:
    """A measurement in a process of its own.

    Raises:
        OSError: it failed, with what the process said last.
    """
    command = [sys.executable, "-m", "sam_variants.hub_scripts.benchmark_labeling", json.dumps(asdict(work))]
    environment = os.environ | {"OMP_NUM_THREADS": str(work.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise OSError(f"the measurement {work.what!r} failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return json.loads(done.stdout.splitlines()[-1])
