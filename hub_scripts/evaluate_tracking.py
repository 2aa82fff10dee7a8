"""Measure how well a model follows objects through clips it has never seen, from one click each, beside baselines.

`python -m sam_variants.hub_scripts.evaluate_tracking --help` tells the rest. What is measured, and how the baselines
work, is told in `tracking_protocol`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.evaluation_defaults import HELD_OUT_SEEDS

# At their places below, because they import PyTorch, for which --help should not wait.
if TYPE_CHECKING:
    from sam_variants.hub_scripts.tracking_protocol import Tracker

METHODS = {"session": "session", "box": "box before", "flow": "optical flow", "frozen": "frozen mask"}
COLUMNS = {"j_first": "1st frame", "j": "J", "j_visible": "visible", "j_reappeared": "came back", "j_absent": "absent"}


def build_trackers(
    methods: list[str], model: str | None, image_model: str | None, image_size: int | None
) -> tuple[dict[str, Tracker], dict[str, Any]]:
    """The trackers, and what the report says about their models.

    Raises:
        ValueError, OSError: a checkpoint can't be read, or the session's is for images only.
    """
    from sam_variants.hub_scripts.evaluation_facts import load_model
    from sam_variants.hub_scripts.evaluation_protocol import ModelSegmenter
    from sam_variants.hub_scripts.tracking_protocol import BoxTracker, FlowTracker, FrozenTracker, SessionTracker
    from sam_variants.processing.processor_for import processor_for

    trackers: dict[str, Tracker] = {}
    about: dict[str, Any] = {}
    if "session" in methods:
        checkpoint = str(default_checkpoint(video=True) if model is None else model)
        loaded, about["model"] = load_model(checkpoint, image_size)
        if not hasattr(loaded, "start_session"):
            raise ValueError(
                f"model={checkpoint!r} holds a {type(loaded).__name__}, which is for images; give a checkpoint that "
                f"can track, or --methods {','.join(name for name in METHODS if name != 'session')}"
            )
        trackers["session"] = SessionTracker(loaded, processor_for(loaded))
    if set(methods) - {"session"}:
        loaded, about["image_model"] = load_model(
            str(default_checkpoint() if image_model is None else image_model), None
        )
        segmenter = ModelSegmenter(loaded, processor_for(loaded))
        for name, make in (("box", BoxTracker), ("flow", FlowTracker), ("frozen", FrozenTracker)):
            if name in methods:
                trackers[name] = make(segmenter)
    return trackers, about


def tracking_table(results: dict[str, dict[str, Any]]) -> Table:
    """A table in percent, a row per method."""
    first = next(iter(results.values()))
    title = f"{first['clips']} held-out clips: mean IoU in %"
    caption = f"{first['objects']} objects, {first['reappearing_objects']} vanish and come back"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("method")
    for heading in (*COLUMNS.values(), "ms/frame"):
        table.add_column(heading, justify="right")
    for method, summary in results.items():
        scores = (f"{100 * summary[name]:.1f}" if name in summary else "–" for name in COLUMNS)
        table.add_row(METHODS[method], *scores, f"{summary['milliseconds_per_frame']:.1f}")
    return table


def evaluate_tracking(
    model: Annotated[
        str | None,
        typer.Option(help="checkpoint folder, file or Hub repository that can track; none: the embedded"),
    ] = None,
    image_model: Annotated[
        str | None, typer.Option(help="checkpoint of the image model behind the baselines; none: the embedded one")
    ] = None,
    methods: Annotated[str, typer.Option(help="what to measure, with commas between")] = ",".join(METHODS),
    clips: Annotated[int, typer.Option(min=1, help="number of held-out clips")] = 24,
    frames: Annotated[int, typer.Option(min=2, help="of each clip")] = 24,
    size: Annotated[int, typer.Option(help="side of a frame in pixels")] = 320,
    first_seed: Annotated[int, typer.Option(help="seed of the first clip")] = HELD_OUT_SEEDS,
    difficulty: Annotated[float, typer.Option(min=0.0, max=1.0, help="of the clips")] = 1.0,
    image_size: Annotated[int | None, typer.Option(help="another input size of the video model in pixels")] = None,
    min_area: Annotated[float, typer.Option(help="smallest object, as a share of the first frame")] = 0.002,
    threads: Annotated[int | None, typer.Option(min=1, help="processor threads; none: all cores")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write settings and all numbers here")] = None,
) -> dict[str, Any]:
    """Measure tracking on unseen synthetic clips with one click per object on the first frame."""
    import torch

    from sam_variants.hub_scripts.evaluation_facts import chosen_names, versions
    from sam_variants.hub_scripts.tracking_protocol import held_out_clips, measure_trackers

    names = chosen_names("methods", methods, tuple(METHODS))
    num_threads = threads or os.cpu_count() or 1
    settings = {
        "methods": names,
        "clips": clips,
        "frames": frames,
        "size": size,
        "first_seed": first_seed,
        "difficulty": difficulty,
        "min_area": min_area,
        "threads": num_threads,
    }
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        trackers, about = build_trackers(names, model, image_model, image_size)
        drawn = held_out_clips(clips, frames, size, first_seed, difficulty)
        shown = track(drawn, "held-out clips", clips, console=Console(stderr=True), transient=True)
        results = measure_trackers(shown, trackers, min_area)
    finally:
        torch.set_num_threads(threads_before)
    report = {**about, "settings": settings, "versions": versions(), "results": results}
    console = Console()
    for role, facts in about.items():
        heading = f"{facts['checkpoint']}: {facts['parameters']:,} parameters, input {facts['image_size']} pixels"
        console.print(f"{role.replace('_', ' ')} {heading}", soft_wrap=True, markup=False)
    console.print(tracking_table(results))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    typer.run(evaluate_tracking)
