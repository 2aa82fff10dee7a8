"""`sam-variants benchmark`: how fast this is, beside the alternatives, measured here and now."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sam_variants.hub_scripts.benchmark_tables import track_tables
from sam_variants.hub_scripts.benchmark_track import Settings, measure_track


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        measure: from the settings and a function that is told the progress to the report.
        tables: the report for people.
    """

    measure: Callable[[Settings, Callable[[float], None]], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[Table]]


BENCHMARKS = {"track": Benchmark(measure_track, track_tables)}


def benchmark(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"What to measure: {', '.join(BENCHMARKS)}.")],
    preset: Annotated[
        str, typer.Option("--preset", metavar="PRESET", help="The model of real size.")
    ] = Settings.preset,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", metavar="PIXELS", help="Its input size.", show_default="the preset's own"),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", metavar="COUNT", min=1, help="Frames measured with it.")
    ] = Settings.frames,
    preset_objects: Annotated[
        str, typer.Option("--preset-objects", metavar="COUNTS", help="Numbers of objects for it.")
    ] = ",".join(map(str, Settings.preset_objects)),
    small_frames: Annotated[
        int, typer.Option("--small-frames", metavar="COUNT", min=1, help="Frames measured with tiny dimensions.")
    ] = Settings.small_frames,
    objects: Annotated[
        str, typer.Option("--objects", metavar="COUNTS", help="Numbers of objects for tiny dimensions.")
    ] = ",".join(map(str, Settings.objects)),
    memory_frames: Annotated[
        str, typer.Option("--memory-frames", metavar="COUNTS", help="After how many frames to look at the memory.")
    ] = ",".join(map(str, Settings.memory_frames)),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="CHECKPOINT",
            help="Trained tracker whose accuracy at half its input size is measured.",
            show_default="the embedded checkpoint",
        ),
    ] = None,
    clips: Annotated[
        int, typer.Option("--clips", metavar="COUNT", min=0, help="Held-out clips for that; 0 leaves it out.")
    ] = Settings.clips,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="COUNT", min=1, help="Processor threads.", show_default="all cores"),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, …")] = Settings.device,
    skip_transformers: Annotated[bool, typer.Option("--skip-transformers", help="Measure ours alone.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute: the preset at half its size only, fewer frames, no accuracy.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Measure speed, memory and agreement with transformers, all in one run on this machine.

    Weights are random and float32, the same for both; trackers that are compared take every frame in turn. Quote
    ratios: times change with the machine and with what else it does.

    \b
    sam-variants benchmark track --quick
    sam-variants benchmark track --preset sam2.1-hiera-small --frames 5 --preset-objects 1,4
    sam-variants benchmark track --skip-transformers --device cuda --json
    """
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(BENCHMARKS)}", param_hint="NAME")
    settings = Settings(
        preset=preset,
        image_size=image_size,
        frames=frames,
        preset_objects=read_counts(preset_objects, "--preset-objects"),
        small_frames=small_frames,
        objects=read_counts(objects, "--objects"),
        memory_frames=read_counts(memory_frames, "--memory-frames"),
        with_transformers=not skip_transformers,
        device=checked_device(device),
        threads=threads or os.cpu_count() or 1,
        model=model,
        clips=clips,
        quick=quick,
    )
    console, begin = Console(stderr=True), time.perf_counter()
    with torch_threads(settings.threads), Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"benchmark {name}", total=1.0)
        report = BENCHMARKS[name].measure(settings, lambda share: progress.advance(task, share))
    machine = {"machine": platform.machine(), "torch": torch.__version__, "transformers": version("transformers")}
    report = {"benchmark": name, "seconds": round(time.perf_counter() - begin, 1), "versions": machine, **report}
    if as_json:
        typer.echo(json.dumps(report))
        return
    out = Console()
    facts = f"{report['seconds']:.0f} s on {settings.device} with {settings.threads} threads"
    out.print(f"{facts}; torch {machine['torch']}, transformers {machine['transformers']}", markup=False)
    for table in BENCHMARKS[name].tables(report):
        out.print(table)


def read_counts(text: str, option: str) -> tuple[int, ...]:
    """Numbers with commas between, ascending and each once.

    Raises:
        typer.BadParameter: for anything but whole numbers from 1 on.
    """
    try:
        counts = sorted({int(part) for part in text.split(",")})
    except ValueError:
        counts = [0]
    if counts[0] < 1:
        raise typer.BadParameter(f"{text!r} must be whole numbers from 1 on, with commas between", param_hint=option)
    return tuple(counts)


def checked_device(device: str) -> str:
    """The name of a device that can be used.

    Raises:
        typer.BadParameter: for another.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise typer.BadParameter(f"{device!r} can't be used here: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """As many threads as that, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
