"""What `sam-variants benchmark label` measures, each in a process of its own.

`python -m sam_variants.hub_scripts.benchmark_labeling '{"what": "label", "folder": "photos", …}'` makes one measurement
and prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sam_variants.hub_scripts.benchmark_generators import GENERATORS, Task
from sam_variants.hub_scripts.benchmark_label import LABEL, LOOP, Work
from sam_variants.hub_scripts.benchmark_memory import resident_bytes
from sam_variants.labeling.image_labeler import ImageLabeler
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_progress import RunProgress
from sam_variants.labeling.label_run import run_local
from sam_variants.labeling.label_sources import open_label_source
from sam_variants.labeling.stage_times import WRITE
from sam_variants.mask_generation.time_split import TimeSplit

LOOKS = 5
"""How often a run looks at its memory."""


def label_images(work: Work) -> dict[str, Any]:
    """Label a folder as the command does.

    Returns:
        `images`, `masks`; `seconds` from the first image to the finished dataset; `writing`, the share of them in which
        a thread of its own wrote or the end of the run was written; `resuming`, the share that the same call takes on
        the finished run; `memory`, pairs of images done and resident bytes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = open_label_source([work.folder], rows_per_shard=1000, out=Path(scratch) / "out")
        labeler = ImageLabeler.for_checkpoint(
            work.model, device=work.device, jobs=work.jobs, image_size=work.image_size, generation=work.options
        )
        job = LabelJob(Path(scratch) / "out", labeler.settings, source)
        looks: list[tuple[int, int | None]] = []
        progress = Watched(max(1, work.count // LOOKS), looks, labeler)
        begin = time.perf_counter()
        totals = run_local(job, labeler=labeler, progress=progress)
        seconds = time.perf_counter() - begin
        ending = seconds - progress.report()["seconds"]
        begin = time.perf_counter()
        run_local(job, labeler=labeler)
        again = time.perf_counter() - begin
    return {
        "images": totals.rows,
        "masks": totals.masks,
        "seconds": seconds,
        "writing": (labeler.times.seconds[WRITE] + ending) / seconds,
        "resuming": again / seconds,
        "memory": looks,
    }


class Watched(RunProgress):
    """Looks at the memory now and then."""

    def __init__(self, every: int, looks: list[tuple[int, int | None]], labeler: ImageLabeler) -> None:
        super().__init__(times=labeler.times)
        self._every, self._looks = every, looks

    def add(self, batch: Any) -> None:
        super().add(batch)
        done = self.report()["images"]
        if done % self._every == 0:
            self._looks.append((done, resident_bytes()))


def loop_over_images(work: Work) -> dict[str, Any]:
    """Call a pipeline on image after image, and keep nothing: `images`, `masks`, `seconds`."""
    task = Task(work.generator, work.model, 1.0, device=work.device, threads=work.threads)
    generate = GENERATORS[work.generator](task)
    generate(np.zeros((64, 64, 3), np.uint8), {**work.options, "points_per_side": 2}, TimeSplit())
    paths = sorted(Path(work.folder).iterdir())[: work.count]
    begin = time.perf_counter()
    masks = sum(len(generate(np.asarray(Image.open(path)), work.options, TimeSplit())) for path in paths)
    return {"images": len(paths), "masks": masks, "seconds": time.perf_counter() - begin}


MEASUREMENTS: dict[str, Callable[[Work], dict[str, Any]]] = {LABEL: label_images, LOOP: loop_over_images}


def main(arguments: Sequence[str]) -> None:
    """Measure what the argument says."""
    work = Work(**json.loads(arguments[0]))
    torch.set_num_threads(work.threads)
    sys.stdout.write(json.dumps(MEASUREMENTS[work.what](work)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
