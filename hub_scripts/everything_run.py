"""One run of `sam-variants everything`: reads image after image, has it segmented, writes what was found."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sam_variants.coco_files import CocoWriter, coco_image, write_coco
from sam_variants.hub_scripts.image_sources import file_name, unique_stems
from sam_variants.hub_scripts.segment_run import read_image
from sam_variants.mask_generation.time_split import TimeSplit
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.results import Masks

DATASET_NAME = "instances.json"


class EverythingRun:
    """The images of one call and what became of each.

    Args:
        sources: files and URLs, each once.
        out: an existing folder for the results.
    """

    def __init__(self, sources: Sequence[str], out: Path) -> None:
        self.sources, self.out = sources, out
        self.stems = unique_stems(sources)
        names = [file_name(source) for source in sources]
        # What COCO calls the images: in one dataset no two may have the same name.
        self.names = names if len(set(names)) == len(names) else list(sources)
        self.times = TimeSplit()
        self.done: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []

    def go(self, pipe: SamVariantsMaskGenerationPipeline, console: Console, **options: Any) -> None:
        """Segment and write all images.

        Args:
            pipe: what segments them.
            console: where a bar is shown.
            options: of the pipeline's call.

        Raises:
            OSError: when a file can't be written.
            ValueError: for an option that can't be.
        """
        # What the pipeline has read and not given back yet.
        waiting: deque[tuple[int, np.ndarray]] = deque()
        with self._progress(console) as (next_image, points), CocoWriter(self.out / DATASET_NAME) as dataset:
            images = self._readable(waiting, next_image)
            for masks in pipe(images, times=self.times, progress=points, **options):
                index, pixels = waiting.popleft()
                self._write(index, pixels, masks, dataset)
                next_image()

    def _readable(self, waiting: deque[tuple[int, np.ndarray]], next_image: Callable[[], None]) -> Iterator[np.ndarray]:
        """The images that can be read; the others are kept for the report."""
        for index, source in enumerate(self.sources):
            try:
                pixels = read_image(source)
            except (OSError, TypeError, ValueError) as error:
                self.failed.append({"image": source, "error": " ".join(str(error).split())})
                next_image()
                continue
            waiting.append((index, pixels))
            yield pixels

    def _write(self, index: int, pixels: np.ndarray, masks: Masks, dataset: CocoWriter) -> None:
        stem = self.stems[index]
        files = {key: str(self.out / f"{stem}_{key}.png") for key in ("overlay", "label_map")}
        files["coco"] = str(self.out / f"{stem}.coco.json")
        masks.overlay(pixels).save(files["overlay"])
        masks.save_png(files["label_map"])
        entry = coco_image(index + 1, self.names[index], masks)
        annotations = masks.to_coco(index + 1, dataset.num_annotations + 1)
        write_coco(Path(files["coco"]), entry, annotations)
        dataset.add(entry, annotations)
        height, width = masks.size
        self.done.append(
            {
                "image": self.sources[index],
                "id": index + 1,
                "width": width,
                "height": height,
                "num_masks": len(masks),
                "files": files,
            }
        )

    def report(self) -> dict[str, Any]:
        """What was done, ready for JSON: `images`, `failed`, `num_masks`, `files` and `time_split` (seconds)."""
        return {
            "images": self.done,
            "failed": self.failed,
            "num_masks": sum(entry["num_masks"] for entry in self.done),
            "files": {"coco": str(self.out / DATASET_NAME)},
            "time_split": {name: round(seconds, 3) for name, seconds in self.times.seconds.items()},
        }

    @contextmanager
    def _progress(self, console: Console) -> Iterator[tuple[Callable[[], None], Callable[[int, int], None]]]:
        """Bars for images and for the points of the current one, where a person can see them."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            images = progress.add_task("images", total=len(self.sources))
            points = progress.add_task("points", total=None)
            yield (
                lambda: progress.advance(images),
                lambda done, total: progress.update(points, completed=done, total=total),
            )
