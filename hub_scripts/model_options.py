"""The options --model, --device, --dtype, --quantize, --image-size and --max-memory: a checkpoint, and how it runs."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sam_variants.modeling_sam_variants import SamVariantsModel
    from sam_variants.processing.processing_sam_variants import SamVariantsProcessor


class Dtype(StrEnum):
    """What the image encoder computes in, by the names of PyTorch."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantize(StrEnum):
    """Ways to hold the weights in int8, by their names in `QUANTIZATIONS`."""

    int8 = "int8"
    int8_dynamic = "int8-dynamic"


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
QuantizeOption = Annotated[
    Quantize | None,
    typer.Option(
        "--quantize",
        help="Weights of linear layers in int8 through torchao; int8-dynamic rounds activations, too.",
        show_default="as they are stored",
    ),
]


def load_model(
    source: str, image_size: int | None = None, quantize: Quantize | None = None
) -> tuple[SamVariantsModel, SamVariantsProcessor]:
    """The whole model of a checkpoint, fused for inference, and its processor; see `load_whole`."""
    # Here, because it imports PyTorch, for which --help should not wait.
    from sam_variants.checkpoint_layouts.load_whole import load_whole

    model, processor = load_whole(source, image_size, None if quantize is None else quantize.value)
    return model.fuse(), processor
