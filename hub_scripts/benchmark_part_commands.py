"""`sam-variants benchmark encode` and `decode`: the two halves of a promptable model."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sam_variants.hub_scripts.benchmark_report import (
    DeviceOption,
    JsonOption,
    SkipTransformersOption,
    ThreadsOption,
    checked_device,
    read_counts,
    report_benchmark,
)
from sam_variants.hub_scripts.benchmark_settings import DecodeSettings, EncodeSettings

ENCODERS, DECODERS = ",".join(EncodeSettings.models), ",".join(DecodeSettings.models)

ModelsOption = Annotated[
    str, typer.Option("--models", metavar="NAMES", help='Presets with commas between, and "embedded".')
]
SizeOption = Annotated[
    int | None,
    typer.Option("--image-size", metavar="PIXELS", help="Input size of the presets.", show_default="their own"),
]
RepeatsOption = Annotated[
    int, typer.Option("--repeats", metavar="COUNT", min=1, help="Runs of each; the median counts.")
]


def encode(
    models: ModelsOption = ENCODERS,
    image_size: SizeOption = EncodeSettings.image_size,
    repeats: RepeatsOption = EncodeSettings.repeats,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Measure ours under torch.compile too, whose warm-up takes a minute.")
    ] = False,
    quantize: Annotated[
        str,
        typer.Option(
            "--quantize",
            metavar="NAMES",
            help="Measure ours with int8 weights too: int8, int8-dynamic, or both with a comma between.",
            show_default=False,
        ),
    ] = "",
    threads: ThreadsOption = None,
    device: DeviceOption = EncodeSettings.device,
    skip_transformers: SkipTransformersOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="A minute: small inputs, few runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure image encoders: ours in float32 and bfloat16, beside the published form and transformers, run in turn.

    Weights are the same for all; those of presets are random. The published form of TinyViT is MobileSAM's: batch
    norms apart, channels first, attention written out.

    \b
    sam-variants benchmark encode --quick
    sam-variants benchmark encode --models mobile-sam --compile
    sam-variants benchmark encode --models embedded --quantize int8,int8-dynamic
    sam-variants benchmark encode --models sam-vit-base,sam2.1-hiera-tiny --repeats 3 --json
    """
    # Here and below, because they import PyTorch, for which --help should not wait.
    from sam_variants.hub_scripts.benchmark_encode import measure_encode
    from sam_variants.hub_scripts.benchmark_encode_tables import encode_tables

    settings = EncodeSettings(
        models=tuple(models.split(",")),
        image_size=image_size,
        repeats=repeats,
        compiled=compiled,
        quantize=tuple(filter(None, quantize.split(","))),
        with_transformers=not skip_transformers,
        device=checked_device(device),
        threads=threads or os.cpu_count() or 1,
        quick=quick,
    )
    report_benchmark("encode", settings, measure_encode, encode_tables, as_json)


def decode(
    models: ModelsOption = DECODERS,
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="COUNTS", help="Numbers of prompts given together.")
    ] = ",".join(map(str, DecodeSettings.prompts)),
    image_size: SizeOption = DecodeSettings.image_size,
    repeats: RepeatsOption = DecodeSettings.repeats,
    threads: ThreadsOption = None,
    device: DeviceOption = DecodeSettings.device,
    skip_transformers: SkipTransformersOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="A minute: small inputs, few prompts and runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure prompts on an encoded image: ours, our plain form, and transformers' decoder on the same weights.

    \b
    sam-variants benchmark decode --quick
    sam-variants benchmark decode --models embedded --prompts 1,64
    """
    from sam_variants.hub_scripts.benchmark_decode import measure_decode
    from sam_variants.hub_scripts.benchmark_decode_tables import decode_tables

    settings = DecodeSettings(
        models=tuple(models.split(",")),
        prompts=read_counts(prompts, "--prompts"),
        image_size=image_size,
        repeats=repeats,
        with_transformers=not skip_transformers,
        device=checked_device(device),
        threads=threads or os.cpu_count() or 1,
        quick=quick,
    )
    report_benchmark("decode", settings, measure_decode, decode_tables, as_json)
