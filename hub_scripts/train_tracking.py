"""Give an image model a memory: train it to track on synthetic clips, its image encoder as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sam_variants.default_checkpoint import default_checkpoint

DEFAULT, CONTINUE = RECIPES = ("default", "continue")


def train_tracking(
    out: Annotated[Path, typer.Option(help="folder for the checkpoint and the log")],
    start: Annotated[
        Path | None, typer.Option("--from", help="image or video checkpoint folder", show_default="the embedded one")
    ] = None,
    recipe: Annotated[str, typer.Option(help=f"one of {', '.join(RECIPES)}")] = DEFAULT,
    minutes: Annotated[float, typer.Option(help="length of the run")] = 90.0,
    seed: int = 0,
    processes: Annotated[int, typer.Option(help="processes that share each step; one thread each")] = 1,
) -> None:
    """Teach an image model to track objects, on synthetic clips made on the fly."""
    # Here, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.tracking_training import TrackingSettings, train_tracking_process
    from sam_variants.hub_scripts.train_embedded import run_processes

    if recipe not in RECIPES:
        raise typer.BadParameter(f"--recipe {recipe}: choose one of {', '.join(RECIPES)}")
    if minutes <= 0:
        raise typer.BadParameter(f"--minutes {minutes}: more than 0")
    if processes < 1:
        raise typer.BadParameter(f"--processes {processes}: 1 or more")
    out.mkdir(parents=True, exist_ok=True)
    settings = TrackingSettings(out, default_checkpoint() if start is None else start, recipe, minutes, seed)
    run_processes(train_tracking_process, processes, settings)


if __name__ == "__main__":
    typer.run(train_tracking)
