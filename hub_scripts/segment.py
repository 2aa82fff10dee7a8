"""`sam-variants segment`: an image and its prompts in; masks, pictures and COCO annotations out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sam_variants.hub_scripts.model_options import DeviceOption, ImageSizeOption


def segment(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image file or http(s) URL.")],
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            metavar="X,Y[,LABEL]",
            help="A point on the object (label 1, the default) or off it (0). All points describe one object.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X1,Y1,X2,Y2", help="A box around an object. Every box is an object of its own."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("segmented"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="CHECKPOINT",
            help="Checkpoint: a folder, a Hub repository, or an official .pth, .pt or .safetensors file.",
            show_default="the embedded checkpoint",
        ),
    ] = None,
    multimask: Annotated[
        bool, typer.Option("--multimask", help="Keep all three candidates of every object, best first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
    device: DeviceOption = None,
    image_size: ImageSizeOption = None,
) -> None:
    """Segment objects in an image from points and boxes.

    Coordinates are pixels of the image, x to the right and y down. All --point together describe one object, with the
    box if there is exactly one; several boxes are several objects and go without points.

    \b
    sam-variants segment photo.jpg --point 320,240
    sam-variants segment photo.jpg --point 320,240 --point 100,80,0
    sam-variants segment photo.jpg --box 172,18,410,308 --point 200,40,0
    sam-variants segment photo.jpg --box 172,18,410,308 --box 20,30,90,120

    Written into --out, for photo.jpg: photo_overlay.png, photo_label_map.png (0 is background, 1 the first mask),
    photo_cutout.png, photo_mask_1.png and so on, and photo.coco.json.
    """
    # Here, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.prompt_options import check_inside, check_prompts, read_boxes, read_points
    from sam_variants.hub_scripts.segment_run import describe, load_pipeline, read_image, write_results

    (points, labels), boxes = read_points(point or []), read_boxes(box or [])
    check_prompts(points, boxes)
    console, clock = Console(stderr=True), Clock()
    with clock.step("read the image", console):
        pixels = read_image(image)
        check_inside(points, boxes, width=pixels.shape[1], height=pixels.shape[0])
        make_folder(out)
    with clock.step("load the model", console):
        pipe = load_pipeline(model, device, image_size)
    with clock.step("segment", console):
        clicks: dict[str, Any] = {"points": [points], "labels": [labels]} if points else {}
        masks = pipe(pixels, boxes=boxes or None, multimask=multimask, **clicks)
    with clock.step("write", console):
        files = write_results(masks, pixels, out, image)
    report = describe(masks, files) | {
        "image": image,
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "model": model or "embedded",
        "device": str(pipe.device),
        "seconds": clock.seconds,
    }
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_summary(report)


@dataclass
class Clock:
    """How long each step took.

    Attributes:
        seconds: by the step's name.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, console: Console) -> Iterator[None]:
        """Time a step, with a spinner when the console is a terminal."""
        with console.status(f"{name} …"), self.timed(name):
            yield

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a step that shows for itself how far it is."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def make_folder(folder: Path) -> None:
    """Make the folder for the results; raises ValueError when that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {str(folder)!r} can't be made: {error.strerror or error}") from error


def print_summary(report: dict[str, Any]) -> None:
    """Tell a person what came out and where it lies."""
    table = Table("mask", "score", "area", "box", title=f"{report['image']}, {report['width']}×{report['height']}")
    for number, mask in enumerate(report["masks"], start=1):
        box = ", ".join(str(side) for side in mask["box"])
        table.add_row(str(number), f"{mask['score']:.3f}", f"{mask['area']} px", box)
    Console(markup=False, emoji=False).print(table)  # file names may look like markup
    for path in (*report["files"].values(), *(mask["file"] for mask in report["masks"])):
        typer.echo(path)
    typer.echo(", ".join(f"{name} {seconds:.2f} s" for name, seconds in report["seconds"].items()))
