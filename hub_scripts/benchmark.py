"""`sam-variants benchmark`: how fast this is, beside the alternatives, measured here and now."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sam_variants.hub_scripts.benchmark_load_command import load
from sam_variants.hub_scripts.benchmark_page import page
from sam_variants.hub_scripts.benchmark_part_commands import decode, encode
from sam_variants.hub_scripts.benchmark_report import (
    DeviceOption,
    JsonOption,
    SkipTransformersOption,
    ThreadsOption,
    checked_device,
    read_counts,
    report_benchmark,
)
from sam_variants.hub_scripts.benchmark_settings import (
    DemoSettings,
    EverythingSettings,
    LabelingSettings,
    TrackSettings,
)
from sam_variants.hub_scripts.demo import check_installed

benchmark = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Measure speed and memory, beside transformers. Quote ratios: times change with the machine and with what "
    "else it does.",
)
benchmark.command()(encode)
benchmark.command()(decode)
benchmark.command()(load)
benchmark.command()(page)


@benchmark.command()
def track(
    preset: Annotated[
        str, typer.Option("--preset", metavar="PRESET", help="The model of real size.")
    ] = TrackSettings.preset,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", metavar="PIXELS", help="Its input size.", show_default="the preset's own"),
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", metavar="COUNT", min=1, help="Frames measured with it.")
    ] = TrackSettings.frames,
    preset_objects: Annotated[
        str, typer.Option("--preset-objects", metavar="COUNTS", help="Numbers of objects for it.")
    ] = ",".join(map(str, TrackSettings.preset_objects)),
    small_frames: Annotated[
        int, typer.Option("--small-frames", metavar="COUNT", min=1, help="Frames measured with tiny dimensions.")
    ] = TrackSettings.small_frames,
    objects: Annotated[
        str, typer.Option("--objects", metavar="COUNTS", help="Numbers of objects for tiny dimensions.")
    ] = ",".join(map(str, TrackSettings.objects)),
    memory_frames: Annotated[
        str, typer.Option("--memory-frames", metavar="COUNTS", help="After how many frames to look at the memory.")
    ] = ",".join(map(str, TrackSettings.memory_frames)),
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
    ] = TrackSettings.clips,
    threads: ThreadsOption = None,
    device: DeviceOption = TrackSettings.device,
    skip_transformers: SkipTransformersOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute: the preset at half its size only, fewer frames, no accuracy.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure tracking: speed, memory and agreement with transformers, all in one run on this machine.

    Weights are random and float32, the same for both; trackers that are compared take every frame in turn.

    \b
    sam-variants benchmark track --quick
    sam-variants benchmark track --preset sam2.1-hiera-small --frames 5 --preset-objects 1,4
    sam-variants benchmark track --skip-transformers --device cuda --json
    """
    # Here and below, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.benchmark_tables import track_tables
    from sam_variants.hub_scripts.benchmark_track import measure_track

    settings = TrackSettings(
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
    report_benchmark("track", settings, measure_track, track_tables, as_json)


@benchmark.command()
def everything(
    megapixels: Annotated[str, typer.Option("--megapixels", metavar="SIZES", help="Sizes of the image.")] = ",".join(
        f"{size:g}" for size in EverythingSettings.megapixels
    ),
    points_per_side: Annotated[
        int, typer.Option("--points-per-side", metavar="COUNT", min=1, help="Points along each side of the image.")
    ] = EverythingSettings.points_per_side,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="COUNT", min=1, help="Runs of each; the median counts.")
    ] = EverythingSettings.repeats,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", metavar="PIXELS", help="Input size of the random model.", show_default="1024"),
    ] = None,
    models: Annotated[
        str, typer.Option("--models", metavar="NAMES", help="Which of the two models to measure.")
    ] = ",".join(EverythingSettings.models),
    memory: Annotated[
        float,
        typer.Option(
            "--memory",
            metavar="GB",
            min=0.1,
            help="What transformers may need for the masks of a batch of points, which gets smaller for it.",
        ),
    ] = EverythingSettings.memory,
    threads: ThreadsOption = None,
    device: DeviceOption = EverythingSettings.device,
    skip_transformers: SkipTransformersOption = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute: a small random model, few points, the smallest image.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure mask generation: speed, memory and agreement with transformers' pipeline, run in turn.

    Two models: SAM ViT-B with random weights that make blobs around the points, and the embedded one, for which
    transformers' decoder runs behind our image encoder. Every run is a process of its own.

    \b
    sam-variants benchmark everything --quick
    sam-variants benchmark everything --megapixels 0.5,3 --repeats 1
    sam-variants benchmark everything --models embedded --skip-transformers --json
    """
    from sam_variants.hub_scripts.benchmark_everything import measure_everything
    from sam_variants.hub_scripts.benchmark_everything_tables import everything_tables

    settings = EverythingSettings(
        megapixels=read_sizes(megapixels),
        points_per_side=points_per_side,
        repeats=repeats,
        image_size=image_size,
        models=tuple(models.split(",")),
        memory=memory,
        with_transformers=not skip_transformers,
        device=checked_device(device),
        threads=threads or os.cpu_count() or 1,
        quick=quick,
    )
    report_benchmark("everything", settings, measure_everything, everything_tables, as_json)


@benchmark.command()
def label(
    images: Annotated[
        int, typer.Option("--images", metavar="COUNT", min=1, help="Images that are labeled.")
    ] = LabelingSettings.images,
    their_images: Annotated[
        int, typer.Option("--their-images", metavar="COUNT", min=1, help="How many of them transformers gets.")
    ] = LabelingSettings.their_images,
    memory_images: Annotated[
        int,
        typer.Option(
            "--memory-images",
            metavar="COUNT",
            min=0,
            help="Images, with little to do on each, over which to look at the memory; 0 leaves it out.",
        ),
    ] = LabelingSettings.memory_images,
    megapixels: Annotated[
        float, typer.Option("--megapixels", metavar="SIZE", min=0.01, max=500, help="Size of an image.")
    ] = LabelingSettings.megapixels,
    points_per_side: Annotated[
        int, typer.Option("--points-per-side", metavar="COUNT", min=1, help="Points along each side of an image.")
    ] = LabelingSettings.points_per_side,
    jobs: Annotated[str, typer.Option("--jobs", metavar="COUNTS", help="Numbers of batches at once.")] = ",".join(
        map(str, LabelingSettings.jobs)
    ),
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="DIR", help="The checkpoint.", show_default="the embedded one"),
    ] = None,
    threads: ThreadsOption = None,
    device: DeviceOption = LabelingSettings.device,
    skip_transformers: SkipTransformersOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="A minute: few small images, few points.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the labeling of many images: speed beside a plain loop, what writing costs, and the memory.

    The loop calls transformers' pipeline on image after image and keeps nothing; its decoder has the same weights,
    behind our image encoder where it has none. Writing is the share of the time in which shards were written, beside
    the model or at the end; resuming the share that the same call takes on a finished run. Every run is a process of
    its own.

    \b
    sam-variants benchmark label --quick
    sam-variants benchmark label --images 50 --jobs 1,2,4 --memory-images 0
    """
    check_installed(("datasets", "pyarrow"), "this benchmark", "label")
    from sam_variants.hub_scripts.benchmark_label import measure_label
    from sam_variants.hub_scripts.benchmark_label_tables import label_tables

    settings = LabelingSettings(
        images=images,
        their_images=min(their_images, images),
        memory_images=memory_images,
        megapixels=megapixels,
        points_per_side=points_per_side,
        jobs=read_counts(jobs, "--jobs"),
        model=model,
        with_transformers=not skip_transformers,
        device=checked_device(device),
        threads=threads or os.cpu_count() or 1,
        quick=quick,
    )
    report_benchmark("label", settings, measure_label, label_tables, as_json)


@benchmark.command()
def demo(
    users: Annotated[int, typer.Option("--users", metavar="COUNT", min=1, help="Visitors at once.")] = (
        DemoSettings.users
    ),
    clicks: Annotated[
        int, typer.Option("--clicks", metavar="COUNT", min=1, help="Clicks of each visitor, behind the first.")
    ] = DemoSettings.clicks,
    pause: Annotated[
        float, typer.Option("--pause", metavar="SECONDS", min=0, help="Between an answer and the next click.")
    ] = DemoSettings.pause,
    has_browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Use Chromium for one visitor, where it is installed.")
    ] = DemoSettings.with_browser,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the demo: start, first mask and clicks, for one visitor and for many at once, and its memory.

    It runs in a process of its own on this machine, with the embedded checkpoint and without a network. One visitor
    uses Chromium through Playwright where both are installed; many use the same events without a browser.

    \b
    sam-variants benchmark demo
    sam-variants benchmark demo --users 5 --clicks 3 --no-browser --json
    """
    check_installed()
    from sam_variants.hub_scripts.benchmark_demo import demo_tables, measure_demo

    settings = DemoSettings(
        users=users, clicks=clicks, pause=pause, with_browser=has_browser, threads=threads or os.cpu_count() or 1
    )
    report_benchmark("demo", settings, measure_demo, demo_tables, as_json)


def read_sizes(text: str) -> tuple[float, ...]:
    """Megapixels with commas between, ascending and each once.

    Raises:
        typer.BadParameter: for anything but numbers from 0.01 to 500.
    """
    try:
        sizes = sorted({float(part) for part in text.split(",")})
    except ValueError:
        sizes = [0.0]
    if not all(0.01 <= size <= 500 for size in sizes):
        message = f"{text!r} must be numbers from 0.01 to 500, with commas between"
        raise typer.BadParameter(message, param_hint="--megapixels")
    return tuple(sizes)
