"""The options --model, --device, --dtype, --image-size and --max-memory: a checkpoint, and how it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sam_variants.checkpoint_layouts.load_whole import load_whole
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor


class Dtype(StrEnum):
    """What the image encoder computes in, by the names of PyTorch."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="CHECKPOINT",
        help="Checkpoint: a folder, a Hub repository, or an official .pth, .pt or .safetensors file.",
        show_default="the embedded checkpoint",
    ),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="BYTES",
        help="Memory above the weights, such as 1.5GB: takes no more images, crops and points at once than fit.",
        show_default="no limit",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps, …", show_default="a GPU where there is one"
    ),
]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        "--image-size", metavar="PIXELS", help="Another input size of the model.", show_default="the model's own"
    ),
]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="What the image encoder computes in; the mask decoder keeps float32.")
]


def load_model(source: str, image_size: int | None = None) -> tuple[SamVariantsModel, SamVariantsProcessor]:
    """The whole model of a checkpoint, fused for inference, and its processor; see `load_whole`."""
    model, processor = load_whole(source, image_size)
    return model.fuse(), processor
