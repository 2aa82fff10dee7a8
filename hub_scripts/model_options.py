"""The options --model, --device, --dtype and --image-size: a checkpoint of any layout with its processor."""

from __future__ import annotations

import copy
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from transformers import AutoProcessor, PreTrainedModel
from transformers.utils import logging

from sam_variants.checkpoint_layouts.load_checkpoint import OWN_MODEL_TYPE, config_beside, load_checkpoint
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipeline_base import SamVariantsPipeline
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for

PROCESSOR_FILE = "processor_config.json"

AnyPipeline = TypeVar("AnyPipeline", bound=SamVariantsPipeline)


class Dtype(StrEnum):
    """What the image encoder computes in, by the names of PyTorch."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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


def load_whole(source: str, image_size: int | None = None) -> tuple[SamVariantsModel, SamVariantsProcessor]:
    """The whole model of a checkpoint, as it is trained and saved, and its processor.

    Args:
        source: what `load_checkpoint` takes.
        image_size: side of the model's input in pixels, or None for its own.

    Raises:
        ValueError, OSError: for a checkpoint or size that can't be used.
    """
    logging.disable_progress_bar()
    model: PreTrainedModel = load_checkpoint(source)
    if not isinstance(model, SamVariantsModel):
        raise ValueError(f"--model {source!r} holds a {type(model).__name__} alone, not a whole model")
    if image_size is not None:
        config = copy.deepcopy(model.config)
        config.image_size = image_size
        name = model.name_or_path
        model = type(model).from_pretrained(None, config=config, state_dict=model.state_dict(), dtype=model.dtype)
        model.name_or_path = name
    processor: Any = processor_for(model)
    folder = Path(source)
    is_ours = str(config_beside(folder).get("model_type", "")).startswith(OWN_MODEL_TYPE)
    if is_ours and (folder / PROCESSOR_FILE).is_file():
        processor = AutoProcessor.from_pretrained(source, image_size=model.config.image_size)
    return model, processor


def pipeline_for(
    kind: type[AnyPipeline], model: SamVariantsModel, processor: SamVariantsProcessor, device: str | None
) -> AnyPipeline:
    """A pipeline with a model and processor of `load_model`.

    Args:
        kind: the pipeline's class.
        model, processor: what it gets.
        device: name of a torch device, or None for the best there is.

    Raises:
        ValueError: for a device that can't be used.
    """
    try:
        return kind(model=model, processor=processor, device=device)
    except (RuntimeError, AssertionError) as error:
        if device is None:
            raise
        raise ValueError(f"--device {device} can't be used: {error}") from error
