"""`sam-variants convert`: any checkpoint in; our repository, the authors' file or transformers' folder out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from huggingface_hub import ModelCard
from rich.console import Console
from transformers.utils import logging

from sam_variants.checkpoint_layouts.read_checkpoint import WEIGHT_SUFFIXES
from sam_variants.hub_scripts.convert_folder import check_folder, folder_sizes, whole_folder
from sam_variants.hub_scripts.convert_report import print_report
from sam_variants.hub_scripts.convert_source import (
    Source,
    as_quantized,
    parameters_by_part,
    read_source,
    sources_in,
)
from sam_variants.hub_scripts.convert_target import Target, WriteOptions, card_for, check_target, write_target
from sam_variants.hub_scripts.convert_verify import verify_source
from sam_variants.hub_scripts.model_options import Quantize
from sam_variants.hub_scripts.segment import Clock
from sam_variants.quantization import check_name

# Beside the weights: the card, the configuration, the package's code.
SMALL_FILES = 2 << 20


class StoredDtype(StrEnum):
    """What the weights are stored in, by the names of PyTorch."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="An official .pth, .pt or .safetensors file, a folder, or a Hub repository; or a folder of files.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the result: a new or an empty one.")
    ] = Path("converted"),
    to: Annotated[
        Target,
        typer.Option("--to", help="A repository folder of ours, the authors' own file, or transformers' folder."),
    ] = Target.ours,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="The architecture.", show_default="told by config.json or the shapes"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare masks and scores with those of transformers' class first.")
    ] = False,
    dtype: Annotated[
        StoredDtype | None,
        typer.Option("--dtype", help="Store the weights in another precision.", show_default="as they are stored"),
    ] = None,
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            "--quantize",
            help="Weights of linear layers in int8 through torchao; int8-dynamic is for activations in int8, too.",
            show_default="as they are stored",
        ),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="Split weights above, such as 1GB.")
    ] = WriteOptions.max_shard_size,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            metavar="ID",
            help="The weights' licence for the card, such as apache-2.0.",
            show_default="that of the published weights, when these are they",
        ),
    ] = None,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Add the package's code, for trust_remote_code without the package.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Convert a file whose checksum is not that of its name, too.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch, tag or commit of a Hub repository.", show_default="its main branch"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an older result in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the summary.")] = False,
) -> None:
    """Turn a checkpoint of any layout into a complete repository folder, and back.

    SAM, MobileSAM, SAM 2 and 2.1 in their authors' files, in transformers' folders, or in ours. Tensors stay what they
    are, bit for bit; what was written is read back and compared. The folder is written whole or not at all.

    With --quantize the weights of linear layers become int8, and everything else stays what it is.

    A folder that is no checkpoint but holds several files converts each of them to --out/PRESET; one that can't be
    converted is reported at the end, the others are done, and the exit code is 1.

    \b
    sam-variants convert sam2.1_hiera_tiny.pt --out sam2.1-hiera-tiny --verify
    sam-variants convert facebook/sam-vit-base --out sam-vit-base
    sam-variants convert facebook/sam-vit-base --quantize int8 --out sam-vit-base-int8
    sam-variants convert checkpoints --out repositories
    sam-variants convert sam2.1-hiera-tiny --to official --out authors
    sam-variants convert sam2.1-hiera-tiny --to transformers --out theirs
    """
    for_ours = {"--with-code": with_code, "--licence": licence is not None, "--quantize": quantize is not None}
    given = next((option for option, is_given in for_ours.items() if is_given), None)
    if to is not Target.ours and given is not None:
        raise ValueError(f"{given} is for a repository of ours; it can't go with --to {to.value}")
    way = None if quantize is None else quantize.value
    if way is not None:
        check_name(way)
    logging.disable_progress_bar()
    options = WriteOptions(max_shard_size, licence, with_code)
    wanted = None if dtype is None else getattr(torch, dtype.value)
    sources = sources_in(checkpoint)
    is_batch = sources != [checkpoint]
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for name in sources:
        conversion = Conversion(name, to, options, preset, wanted, not no_check, revision, force, verify, way)
        try:
            done.append(conversion.run(out, [Path(report["out"]).name for report in done] if is_batch else None))
        except (ValueError, TypeError, OSError) as error:
            if not is_batch:
                raise
            failed.append({"checkpoint": name, "error": " ".join(str(error).split())})
    if as_json:
        typer.echo(json.dumps({"converted": done, "failed": failed}))
    else:
        for report in done:
            print_report(report)
    for failure in failed:
        typer.echo(f"sam-variants: {failure['error']}", err=True)
    if failed:
        raise typer.Exit(1)


class Conversion:
    """One checkpoint on its way.

    Args:
        name: what `load_checkpoint` takes.
        to: what is written.
        options: how it is written.
        preset, dtype, check, revision: as in `read_source`.
        force: write over an older result.
        verify: compare with transformers first.
        quantize: name in `QUANTIZATIONS`, or None.
    """

    def __init__(
        self,
        name: str,
        to: Target,
        options: WriteOptions,
        preset: str | None,
        dtype: torch.dtype | None,
        check: bool,
        revision: str | None,
        force: bool,
        verify: bool,
        quantize: str | None = None,
    ) -> None:
        self.name, self.to, self.options = name, to, options
        self.preset, self.dtype, self.check, self.revision = preset, dtype, check, revision
        self.force, self.verify, self.quantize = force, verify, quantize
        self.clock, self.console = Clock(), Console(stderr=True)

    def run(self, out: Path, taken: list[str] | None) -> dict[str, Any]:
        """Convert it.

        Args:
            out: where to.
            taken: for one of several: the folders below `out` that have others of them already.

        Returns:
            What there is to tell, ready for JSON.

        Raises:
            ValueError, TypeError, OSError: when it can't be done; nothing is left behind.
        """
        if taken is None:
            check_folder(out, self.force, Path(self.name))
        with self.clock.step("read", self.console):
            source = read_source(self.name, self.preset, self.dtype, self.check, self.revision)
            check_target(source, self.to)
        folder = out if taken is None else out / folder_name(source, taken)
        check_folder(folder, self.force, source.path)
        verified = None
        if self.verify:
            with self.clock.step("verify", self.console):
                verified = verify_source(source)
            verified.check(self.name)
        if self.quantize is not None:
            with self.clock.step("quantise", self.console):
                source = as_quantized(source, self.quantize)
        num_bytes = sum(tensor.nbytes for tensor in source.written.values()) + SMALL_FILES
        with self.clock.step("write", self.console), whole_folder(folder, self.force, num_bytes) as draft:
            write_target(source, self.to, draft, self.options)
            written = folder_sizes(draft)
        return describe(source, card_for(source, self.options)) | {
            "to": self.to.value,
            "out": str(folder),
            "written": written,
            "verified": None if verified is None else asdict(verified),
            "seconds": self.clock.seconds,
        }


def folder_name(source: Source, taken: list[str]) -> str:
    """The folder of one of several checkpoints: its preset's name, once; else the file's."""
    if source.preset is not None and source.preset not in taken:
        return source.preset
    name = source.path.name
    return next((name.removesuffix(suffix) for suffix in WEIGHT_SUFFIXES if name.endswith(suffix)), name)


def describe(source: Source, card: ModelCard) -> dict[str, Any]:
    """What a checkpoint was found to be, ready for JSON.

    Args:
        source: the checkpoint.
        card: the one that a repository of it gets.
    """
    return {
        "checkpoint": source.name,
        "layout": source.layout_name,
        "preset": source.preset,
        "told_by": source.how,
        "model_class": type(source.model).__name__,
        "files": [
            {
                "file": str(file.path),
                "sha256": file.sha256,
                "equals": file.compared_with or None,
                "published": None if file.published is None else file.published.file_name,
            }
            for file in source.files
        ],
        "licence": card.data.get("license"),
        "base_model": card.data.get("base_model"),
        "parameters": parameters_by_part(source.model.named_parameters()),
        "dropped": source.dropped,
        "stored_dtypes": dtypes_of(source.tensors.values()),
        "dtype": ", ".join(dtypes_of(source.written.values())),
        "quantize": source.quantize,
    }


def dtypes_of(tensors: Iterable[torch.Tensor]) -> list[str]:
    """The names of the dtypes of floating-point tensors, sorted."""
    return sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()})
