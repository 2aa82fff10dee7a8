"""`sam-variants convert`: any checkpoint in; our repository, the authors' file or transformers' folder out."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sam_variants.hub_scripts.convert_forms import Target, WriteOptions
from sam_variants.hub_scripts.model_options import Quantize


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
    # Here, because they import PyTorch, for which --help should not wait.
    import torch
    from transformers.utils import logging

    from sam_variants.hub_scripts.convert_report import print_report
    from sam_variants.hub_scripts.convert_run import Conversion
    from sam_variants.hub_scripts.convert_source import sources_in
    from sam_variants.quantization import check_name

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
