"""One call of `sam-variants label`: from its options to a job, the run, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from sam_variants.labeling.image_labeler import ImageLabeler
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_progress import RunProgress, count_of, duration
from sam_variants.labeling.label_run import run_local
from sam_variants.labeling.label_sources import open_label_source
from sam_variants.labeling.node_split import Node, local_gpu, this_node
from sam_variants.labeling.progress_entries import Totals
from sam_variants.labeling.stop_signals import StopSignals

MANIFEST, ERRORS, COCO = "manifest.json", "errors.jsonl", "instances.json"


@dataclass(frozen=True)
class LabelChoices:
    """What the command was told.

    Args:
        sources, out: as given.
        reading: for `open_label_source`.
        labeling: for `ImageLabeler.for_checkpoint`.
        checkpoint: None for the embedded one.
        read_threads, coco: as for `LabelJob` and `run_local`.
        ray: `address` and the fields of `Workers`, for `run_ray`; None to work in this process.
    """

    sources: Sequence[str]
    out: Path
    reading: Mapping[str, Any]
    labeling: Mapping[str, Any]
    checkpoint: str | None = None
    read_threads: int = 4
    coco: bool = True
    ray: Mapping[str, Any] | None = None


@dataclass
class LabelCommand:
    """Runs what was chosen.

    Args:
        choices: what the command was told.
        console: where progress is shown.
    """

    choices: LabelChoices
    console: Console
    progress: RunProgress = field(init=False)

    def run(self) -> tuple[dict[str, Any], int]:
        """Label, or go on with it; return the report and the exit code.

        Raises:
            ValueError, TypeError: an option, source or checkpoint that can't be used.
            OSError: something can't be read or written; says what is safe.
        """
        choices, node = self.choices, this_node()
        if choices.ray is not None and node.world_size > 1:
            raise ValueError(
                f"--engine ray shares the work out itself and is started once, not {node.world_size} times"
            )
        rows_per_shard = choices.labeling["rows_per_shard"]
        source = open_label_source(choices.sources, rows_per_shard=rows_per_shard, out=choices.out, **choices.reading)
        with self.console.status("load the model …"):
            labeler = self._labeler()
        job = LabelJob(choices.out, labeler.settings, source, choices.read_threads)
        # The bars of several processes would paint over each other.
        self.progress = RunProgress(None if node.rank else self.console, times=labeler.times)
        with StopSignals(self.console) as stop:
            totals = self._run(job, labeler, node, stop)
        is_done = totals.parts_done == len(source.parts) and (choices.out / MANIFEST).is_file()
        report = self._report(job, labeler, totals, is_done)
        if stop.received is not None and not is_done:
            return report, stop.exit_code
        return report, int(is_done and totals.rows == 0 and totals.errors > 0)

    def _labeler(self) -> ImageLabeler:
        options = dict(self.choices.labeling)
        options["device"] = options["device"] or local_gpu()
        if options["batch_size"] is None:
            options["batch_size"] = batch_size_of(self.choices.out)
        return ImageLabeler.for_checkpoint(self.choices.checkpoint, **options)

    def _run(self, job: LabelJob, labeler: ImageLabeler, node: Node, stop: StopSignals) -> Totals:
        shared: Any = {
            "labeler": labeler,
            "progress": self.progress,
            "stop": stop.event,
            "coco": self.choices.coco,
        }
        try:
            if self.choices.ray is None:
                return run_local(job, *node, **shared)
            # Takes seconds to import, and is part of the extra [label] only.
            try:
                from sam_variants.labeling.ray_engine import Workers, run_ray
            except ModuleNotFoundError as error:
                raise ValueError(
                    f"--engine ray needs {error.name}, which is not installed: pip install 'sam-variants[label]'"
                ) from error

            workers = {name: value for name, value in self.choices.ray.items() if name != "address"}
            return run_ray(job, workers=Workers(**workers), address=self.choices.ray["address"], **shared)
        except OSError as error:
            if not (job.out / "label.json").is_file():
                raise
            raise OSError(f"{error}; {what_is_safe(job.out)}") from error

    def _report(self, job: LabelJob, labeler: ImageLabeler, totals: Totals, is_done: bool) -> dict[str, Any]:
        return {
            "out": str(job.out),
            "is_done": is_done,
            "images": totals.rows,
            "masks": totals.masks,
            "errors": totals.errors,
            "parts": len(job.source.parts),
            "parts_done": totals.parts_done,
            "device": str(labeler.pipe.device),
            "jobs": labeler.jobs,
            "settings": job.settings.identity(),
            "this_run": self.progress.report(),
        }


def batch_size_of(out: Path) -> int | None:
    """That of the run that a folder holds, or None."""
    if not (out / "label.json").is_file():
        return None
    return LabelFolder.attach(out).identity["settings"].get("batch_size")


def what_is_safe(out: Path) -> str:
    """For the end of an error: what of a run is kept, and how to go on."""
    totals = LabelFolder.attach(out).progress()
    return (
        f"{count_of(totals.rows, 'image')} in finished shards of {str(out)!r} and what was recorded behind them are "
        "safe: the same command goes on from there"
    )


def print_summary(report: dict[str, Any]) -> None:
    """Tell a person what came out, where it lies, and where the time went."""
    out, run = Path(report["out"]), report["this_run"]
    failed = f", {count_of(report['errors'], 'image')} failed ({out / ERRORS})" if report["errors"] else ""
    if report["is_done"]:
        typer.echo(f"{out}: {count_of(report['images'], 'image')}, {count_of(report['masks'], 'mask')}{failed}")
    else:
        typer.echo(
            f"{out}: {report['parts_done']:,} of {count_of(report['parts'], 'part')} done, "
            f"{count_of(report['images'], 'image')} in finished shards; the same command goes on from there"
        )
    if run["images"]:
        told = f"{count_of(run['images'], 'image')} in {duration(run['seconds'])}"
        typer.echo(f"{told}, {run['images_per_second']:.3g} images/s, {run['masks_per_second']:.3g} masks/s")
        typer.echo(", ".join(f"{name} {seconds:.2f} s" for name, seconds in run["time_split"].items()))
    for failure in first_failures(out) if report["is_done"] else []:
        typer.echo(f"sam-variants: {failure['key']}: {failure['error']}", err=True)


def first_failures(out: Path, most: int = 10) -> list[dict[str, Any]]:
    """The first images that could not be labeled."""
    path = out / ERRORS
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(most), strict=False)]
