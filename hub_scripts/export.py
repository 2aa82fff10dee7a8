"""`sam-variants export`: a checkpoint as graphs that run without this package, each of them run again and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts.export_format import Format
from sam_variants.hub_scripts.model_options import ImageSizeOption
from sam_variants.hub_scripts.segment import Clock

# At their places below, because they import PyTorch, for which --help should not wait.
if TYPE_CHECKING:
    from sam_variants.hub_scripts.export_files import Written
    from sam_variants.hub_scripts.export_parts import Part

# Beside the weights of each part: its graph.
GRAPH_BYTES = 4 << 20


def export(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHECKPOINT]",
            help="A folder, a Hub repository, or an official .pth, .pt or .safetensors file.",
            show_default="the embedded checkpoint",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the result: a new or an empty one.")
    ] = Path("exported"),
    to: Annotated[Format, typer.Option("--format", help="ONNX, or a program for torch.export.load.")] = Format.onnx,
    video: Annotated[
        bool, typer.Option("--video", help="Without CHECKPOINT: the embedded checkpoint that tracks objects.")
    ] = False,
    part: Annotated[
        list[str] | None,
        typer.Option("--part", metavar="NAME", help="Only this graph; can be repeated.", show_default="all"),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset", metavar="NUMBER", min=18, help="Version of ONNX's operators.", show_default="PyTorch's"
        ),
    ] = None,
    image_size: ImageSizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Write a checkpoint as graphs for ONNX Runtime or PyTorch, which run without this package.

    The image encoder, prompts with the mask decoder, and of a checkpoint that tracks also the memory. The size of the
    model's input is fixed; numbers of images, objects, points, masks and memories and the size of photos stay free.
    Every file is run again with other sizes than it was recorded with; above a difference of 1e-3 nothing is written.

    With ONNX there is predictor.py beside the graphs, which segments photos and tracks objects without PyTorch.

    \b
    sam-variants export --out mobile
    sam-variants export --video --out tracker
    sam-variants export facebook/sam2.1-hiera-tiny --format pt2 --out sam2
    sam-variants export sam_vit_b_01ec64.pth --part image_encoder --out encoder
    """
    from sam_variants.checkpoint_layouts.load_whole import load_whole
    from sam_variants.hub_scripts.convert_folder import whole_folder
    from sam_variants.hub_scripts.export_files import write_part
    from sam_variants.hub_scripts.export_manifest import MANIFEST_FILE, copy_predictor, manifest
    from sam_variants.hub_scripts.export_parts import parts_of
    from sam_variants.processing.image_fitting import LONGEST_SIDE

    console, clock = Console(stderr=True), Clock()
    check_request(checkpoint, out, to, video, opset)
    source = str(default_checkpoint(video)) if checkpoint is None else checkpoint
    with clock.step("load the model", console):
        model, processor = load_whole(source, image_size)
        check_model(source, model, processor)
        model = model.float().eval().requires_grad_(False)
        parts = chosen_parts(parts_of(model, processor.image_processor.resize_mode == LONGEST_SIDE), part)
    num_bytes = sum(weight.nbytes for weight in model.state_dict().values())
    written: dict[str, Written] = {}
    with whole_folder(out, False, 2 * num_bytes + len(parts) * GRAPH_BYTES) as draft:
        for name, each in parts.items():
            with clock.step(name, console):
                written[name] = write_part(name, each, to, draft, opset)
        if to is Format.onnx and part is None:
            copy_predictor(draft)
        told = manifest(draft, checkpoint or "embedded", model, processor, to, parts, written)
        (draft / MANIFEST_FILE).write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    report = {"out": str(out), **told, "seconds": clock.seconds}
    if as_json:
        typer.echo(json.dumps(report))
    else:
        print_summary(report)


def check_request(checkpoint: str | None, out: Path, to: Format, video: bool, opset: int | None) -> None:
    """Refuse what can't be meant before the model is loaded."""
    from sam_variants.hub_scripts.export_files import check_packages

    if checkpoint is not None and video:
        raise typer.BadParameter(f"names the embedded checkpoint; {checkpoint!r} is another", param_hint="--video")
    if opset is not None and to is not Format.onnx:
        raise typer.BadParameter(f"is for --format onnx, not for {to.value}", param_hint="--opset")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {str(out)!r} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {str(out)!r} is not empty; give a new folder")
    check_packages(to)


def check_model(source: str, model: Any, processor: Any) -> None:
    """Refuse a model whose graphs would not be what it does here.

    Raises:
        ValueError: naming what stands in the way.
    """
    from torch import nn

    from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig

    if any(type(weight) is not nn.Parameter for weight in model.parameters()):
        raise ValueError(f"{source!r} is quantised; export the checkpoint that it was made from")
    if not model.config.pad_input:
        raise ValueError(f"{source!r} has pad_input=False, but graphs take the whole padded square; set pad_input=True")
    if model.config.model_type == SamVariantsVideoConfig.model_type:
        for name in ("clear_non_cond_mem_around_input", "non_overlap_masks"):
            if getattr(model.config, name):
                raise ValueError(f"{source!r} has {name}=True, which is not part of the graphs; set {name}=False")
    images = processor.image_processor
    for name in ("do_resize", "do_normalize", "do_pad"):
        if not getattr(images, name):
            raise ValueError(f"the image processor of {source!r} has {name}=False, which an export can't tell")


def chosen_parts(parts: dict[str, Part], names: list[str] | None) -> dict[str, Part]:
    """The parts that --part names, or all.

    Raises:
        typer.BadParameter: for an unknown one.
    """
    for name in names or []:
        if name not in parts:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(parts)}", param_hint="--part")
    return parts if not names else {name: parts[name] for name in parts if name in names}


def print_summary(report: dict[str, Any]) -> None:
    """Tell a person what was written and how far it is from the model."""
    table = Table("graph", "output", "largest difference", title=f"{report['model']} as {report['format']}")
    for name, differences in report["differences"].items():
        for number, (output, value) in enumerate(differences.items()):
            table.add_row("" if number else name, output, f"{value:.1e}")
    Console(markup=False, emoji=False).print(table)
    for file, entry in report["files"].items():
        typer.echo(f"{report['out']}/{file}  {entry['bytes'] / 1e6:.1f} MB")
    typer.echo(", ".join(f"{name} {seconds:.2f} s" for name, seconds in report["seconds"].items()))
