"""The way back: a model of ours as its authors' file, or as a folder that transformers' own class loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Sam2Model, Sam2VideoModel, SamModel

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor

MAX_PIXEL = 255
DIGITS = 12


@dataclass(frozen=True)
class Published:
    """How the models with one kind of image encoder are published.

    Args:
        official: name in `LAYOUTS` of the authors' layout.
        suffix: of the authors' files.
        wrapper: the key under which the authors' files hold the state dict; empty for the state dict alone.
        images, video: names in `LAYOUTS` of transformers' layouts; None where transformers has no such model.
    """

    official: str
    suffix: str
    wrapper: str = ""
    images: str | None = None
    video: str | None = None


PUBLISHED: dict[str, Published] = {
    "sam_variants_vit": Published("sam", ".pth", images="transformers-sam"),
    "sam_variants_tiny_vit": Published("mobile-sam", ".pt"),
    "sam_variants_hiera": Published("sam2", ".pt", "model", "transformers-sam2", "transformers-sam2-video"),
}
THEIR_CLASSES: dict[str, Any] = {
    "transformers-sam": SamModel,
    "transformers-sam2": Sam2Model,
    "transformers-sam2-video": Sam2VideoModel,
}


def published_as(config: Any) -> Published:
    """The row of `PUBLISHED` for a model's configuration."""
    return PUBLISHED[config.vision_config.model_type]


def transformers_layout(config: Any) -> str:
    """The name in `LAYOUTS` of transformers' layout for a model.

    Raises:
        ValueError: when transformers has no model of this architecture.
    """
    row = published_as(config)
    name = row.video if isinstance(config, SamVariantsVideoConfig) else row.images
    if name is None:
        kind = config.vision_config.model_type.removeprefix("sam_variants_")
        tracking = " that tracks" if isinstance(config, SamVariantsVideoConfig) else ""
        raise ValueError(
            f"transformers has no model{tracking} with the image encoder {kind!r}, so there is no folder of its layout"
        )
    return name


def official_state_dict(model: PreTrainedModel) -> dict[str, Tensor]:
    """A model's weights under its authors' names, sharing memory with it.

    Raises:
        ValueError: when the authors have no such model: other parts, or parts missing.
    """
    name = published_as(model.config).official
    try:
        return export_state_dict(model, name)
    except ValueError as error:
        table = LAYOUTS[name].table.name
        raise ValueError(f"there is no {table} file for this architecture: {error}") from error


def write_official(model: PreTrainedModel, path: Path) -> None:
    """Write the file that the authors' own code loads.

    Args:
        model: a whole model.
        path: the file to write.

    Raises:
        ValueError: when the authors have no such model.
    """
    row = published_as(model.config)
    # Contiguous, because a view would take the memory of all that it is a part of into the file.
    tensors = {name: tensor.contiguous() for name, tensor in official_state_dict(model).items()}
    with path.open("wb") as file:  # so that it is Python that says what a full disk does to it
        torch.save({row.wrapper: tensors} if row.wrapper else tensors, file)


def to_transformers(model: PreTrainedModel, layout: str | None = None) -> PreTrainedModel:
    """transformers' own model with the weights of ours, sharing memory with it where both store a tensor alike.

    Args:
        model: a whole model.
        layout: name in `LAYOUTS`; by default the one that holds all of the model.

    Returns:
        A `SamModel`, `Sam2Model` or `Sam2VideoModel` in evaluation mode.

    Raises:
        ValueError: when transformers has no such model.
    """
    name = transformers_layout(model.config) if layout is None else layout
    config_to: Any = LAYOUTS[name].config_to
    tensors = without_aliases(export_state_dict(model, name))
    theirs = their_model(name, config_to(model.config), tensors, model.dtype)
    current = theirs.state_dict()
    others = {name: tensor for name, tensor in tensors.items() if tensor.dtype != current[name].dtype}
    theirs.load_state_dict(others, strict=False, assign=True)  # of a model with several dtypes
    return theirs


def without_aliases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with memory of its own for every further name of the same one; nobody saves shared memory."""
    seen: set[int] = set()
    alone = {}
    for name, tensor in tensors.items():
        alone[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return alone


def their_model(layout: str, config: Any, tensors: dict[str, Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """One of transformers' models with exactly these weights."""
    theirs, info = THEIR_CLASSES[layout].from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True
    )
    problems = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys") if info[kind]}
    if problems:
        raise ValueError(f"transformers' {type(theirs).__name__} does not take these weights: {problems}")
    return theirs.eval()


def write_transformers(
    model: PreTrainedModel, processor: SamVariantsProcessor, folder: Path, max_shard_size: str | int
) -> None:
    """Write a folder that transformers' own class loads: config.json, safetensors and the processor's files.

    Args:
        model: a whole model.
        processor: the one that belongs to it.
        folder: an existing, empty one.
        max_shard_size: as in `save_pretrained`.

    Raises:
        ValueError: when transformers has no such model.
    """
    theirs: Any = to_transformers(model)
    theirs.save_pretrained(folder, max_shard_size=max_shard_size)
    theirs.config.dtype = model.config.dtype  # to compute in; saving makes it the stored one
    theirs.config.save_pretrained(folder)
    for name, values in processor_files(transformers_layout(model.config), processor).items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", "utf-8")


def processor_files(layout: str, processor: SamVariantsProcessor) -> dict[str, dict[str, Any]]:
    """File name → content, as the published repositories of a layout have them.

    The image processor of SAM 2 has the name that transformers 4.56 gave it, which newer versions know too.
    """
    image_processor: Any = processor.image_processor
    side = image_processor.image_size
    mask_side = dict(image_processor.mask_size)["height"]
    rescales = bool(image_processor.do_rescale)
    # What rescales is the published way; without it, mean and deviation are on 0..255.
    scale = MAX_PIXEL if image_processor.do_normalize and not rescales else 1
    common = {
        "do_convert_rgb": True,
        "do_normalize": bool(image_processor.do_normalize),
        "do_rescale": rescales or bool(image_processor.do_normalize),
        "do_resize": True,
        "image_mean": [round(value / scale, DIGITS) for value in image_processor.image_mean],
        "image_std": [round(value / scale, DIGITS) for value in image_processor.image_std],
        "resample": int(image_processor.resample),
        "rescale_factor": image_processor.rescale_factor if rescales else 1 / MAX_PIXEL,
    }
    square, mask_square = {"height": side, "width": side}, {"height": mask_side, "width": mask_side}
    if layout == "transformers-sam":
        sam = {
            "do_pad": True,
            "image_processor_type": "SamImageProcessor",
            "mask_pad_size": mask_square,
            "mask_size": {"longest_edge": mask_side},
            "pad_size": square,
            "processor_class": "SamProcessor",
            "size": {"longest_edge": side},
        }
        return {"preprocessor_config.json": common | sam}
    is_video = layout == "transformers-sam2-video"
    processor_class = {"processor_class": "Sam2VideoProcessor" if is_video else "Sam2Processor"}
    image = {"image_processor_type": "Sam2ImageProcessorFast", "mask_size": mask_square, "size": square}
    video = {"size": square, "video_processor_type": "Sam2VideoVideoProcessor"}
    return {
        "preprocessor_config.json": common | image | processor_class,
        "processor_config.json": {"point_pad_value": -10, "target_size": side} | processor_class,
        **({"video_preprocessor_config.json": common | video | processor_class} if is_video else {}),
    }
