"""A labeling run of this process: its parts one after the other, and the end of the run when all are done."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from sam_variants.labeling.image_labeler import ImageLabeler
from sam_variants.labeling.items import Part
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_part import Labeler, label_part
from sam_variants.labeling.label_progress import RunProgress
from sam_variants.labeling.node_split import node_parts
from sam_variants.labeling.progress_entries import Totals
from sam_variants.labeling.write_behind import FinishBehind


def run_local(
    job: LabelJob,
    rank: int = 0,
    world_size: int = 1,
    console: Console | None = None,
    *,
    labeler: Labeler | None = None,
    progress: RunProgress | None = None,
    stop: threading.Event | None = None,
    coco: bool = True,
) -> Totals:
    """Label the parts that fall to this process, and finish the dataset if no other part is left.

    Args:
        job: what is labeled, how, and where the rows go.
        rank: which of the processes that share the work this is.
        world_size: how many they are; they need nothing but the output folder in common.
        console: where the progress is shown.
        labeler: what labels; None makes an `ImageLabeler` of the job's settings.
        progress: counts what is recorded; None makes one on the console.
        stop: when it is set, what has been begun is finished and recorded, and the run ends.
        coco: whether instances.json is written at the end.

    Returns:
        What is recorded, by all processes and runs together.

    Raises:
        ValueError: the output folder holds another run, with what differs.
        OSError: the source can't be read, or the output not be written. What was recorded stays, and the same call
            goes on from there.
    """
    folder, stop = job.open(), stop or threading.Event()
    parts = job.source.parts
    mine = [parts[index] for index in node_parts(len(parts), rank, world_size)]
    left = [part for part in mine if not folder.is_done(part.index)]
    if left and labeler is None:
        labeler = ImageLabeler(job.settings)
    progress = progress or RunProgress(console, times=getattr(labeler, "times", None))
    total = count_rows(mine)
    progress.expect(total, 0 if total is None else total - (count_rows(left) or 0))
    with progress, FinishBehind() as finishing:
        shared: Any = {"folder": folder, "stop": stop, "times": progress.times, "finishing": finishing}
        for part in left:
            if stop.is_set() or labeler is None:
                break
            label_part(job, part.index, labeler, progress.add, **shared)
    return finish_if_done(folder, job, coco) if not stop.is_set() else folder.progress()


def count_rows(parts: Iterable[Part]) -> int | None:
    """The rows of parts, or None where only reading tells."""
    counts = [part.num_rows for part in parts]
    return None if None in counts else sum(count for count in counts if count is not None)


def finish_if_done(folder: LabelFolder, job: LabelJob, coco: bool = True) -> Totals:
    """Write the manifest, the card and the rest if every part is done; else only count."""
    totals = folder.progress()
    if totals.parts_done < len(job.source.parts):
        return totals
    return folder.finish(len(job.source.parts), coco=coco)
