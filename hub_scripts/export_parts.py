"""The parts of a model that an export writes: their inputs with the sizes that stay free, and random ones to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.hub_scripts.export_graphs import ImageGraph, PhotoGeometry, PromptGraph
from sam_variants.hub_scripts.export_video_graphs import (
    FrameGraph,
    MaskPromptGraph,
    MemoryAttentionGraph,
    MemoryEncoderGraph,
    ObjectGraph,
)

# What random photos measure at least and at most in pixels.
PHOTO_SIDES = (40, 400)


@dataclass(frozen=True)
class Input:
    """A tensor that a part takes.

    Attributes:
        shape: numbers, and names of sizes that stay free.
        draw: makes a random one of a shape.
    """

    shape: tuple[int | str, ...]
    draw: Callable[..., Tensor] = torch.randn


@dataclass(frozen=True)
class Part:
    """A part of a model that becomes a file.

    Attributes:
        module: what is traced.
        inputs: by name.
        outputs: names.
    """

    module: nn.Module
    inputs: dict[str, Input]
    outputs: tuple[str, ...]

    def free_sizes(self) -> set[str]:
        """Names of the sizes that stay free."""
        return {size for given in self.inputs.values() for size in given.shape if isinstance(size, str)}

    def example(self, sizes: Mapping[str, int]) -> dict[str, Tensor]:
        """Random inputs; `sizes` are those that stay free."""
        drawn = {}
        for name, given in self.inputs.items():
            drawn[name] = given.draw([sizes[size] if isinstance(size, str) else size for size in given.shape])
        if "mask" in drawn:
            drawn["original_size"] = torch.tensor(drawn["mask"].shape[1:])
        return drawn


def photo_geometry(config: Any, keeps_aspect: bool) -> PhotoGeometry:
    """How photos lie in the input of a model, by its configuration and whether the processor keeps their aspect."""
    cells = 4 * config.prompt_encoder_config.image_embedding_size
    return PhotoGeometry(config.image_size, cells, keeps_aspect, config.mask_threshold)


def parts_of(model: Any, keeps_aspect: bool) -> dict[str, Part]:
    """Everything that a model's export consists of, by the names of the files.

    Args:
        model: a `SamVariantsModel` in evaluation mode and float32; one that tracks has more parts.
        keeps_aspect: whether its image processor does.
    """
    config: Any = model.config
    photo = photo_geometry(config, keeps_aspect)
    tracks = config.model_type == SamVariantsVideoConfig.model_type
    finer = finer_shapes(config)
    pixels = {"pixel_values": Input(("batch", config.vision_config.in_chans, photo.side, photo.side))}
    maps = ("image_embeddings", *finer, *(["frame_embeddings"] if tracks else []))
    encoder = FrameGraph(model) if tracks else ImageGraph(model)
    parts = {
        "image_encoder": Part(encoder, pixels, maps),
        "prompt_decoder": Part(
            PromptGraph(model, photo),
            {
                "image_embeddings": Input(("batch", *embedding_shape(config))),
                **prompts("batch"),
                "mask_prompts": Input(("batch", "objects", photo.cells, photo.cells), draw_masks),
                "original_size": Input((2,), draw_size),
                "mask_numbers": Input(("kinds",), partial(draw_numbers, model.mask_decoder.num_mask_tokens)),
                **{name: Input(("batch", *shape)) for name, shape in finer.items()},
            },
            ("masks", "mask_logits", "iou_scores", "object_scores"),
        ),
    }
    return parts | (tracking_parts(model, photo, finer) if tracks else {})


def tracking_parts(model: Any, photo: PhotoGeometry, finer: dict[str, tuple[int, ...]]) -> dict[str, Part]:
    """What only a model that tracks has."""
    config: Any = model.config
    embedding = embedding_shape(config)
    memory = (embedding[1] * embedding[2], config.memory_encoder_config.out_dim)
    frame = {"frame_embeddings": Input((1, *embedding))}
    levels = {name: Input((1, *shape)) for name, shape in finer.items()}
    size = {"original_size": Input((2,), draw_size)}
    logits = {"mask_logits": Input(("objects", photo.cells, photo.cells), draw_whole_numbers)}
    answers = ("mask_logits", "pointers", "object_scores", "iou_scores")
    return {
        "object_decoder": Part(
            ObjectGraph(model, photo),
            {"image_embeddings": Input(("objects", *embedding)), **prompts(1), **size, **levels},
            answers,
        ),
        "mask_prompt": Part(
            MaskPromptGraph(model, photo),
            {"mask": Input(("objects", "height", "width"), draw_blobs), **frame, **size, **levels},
            answers,
        ),
        "memory_attention": Part(
            MemoryAttentionGraph(model),
            {
                **frame,
                "memories": Input(("objects", "memories", *memory)),
                "ages": Input(("objects", "memories"), partial(torch.randint, 0, config.num_maskmem)),
                "pointers": Input(("objects", "pointers", embedding[0])),
                "distances": Input(("objects", "pointers"), partial(torch.randint, 1, 20)),
            },
            ("image_embeddings",),
        ),
        "memory_encoder": Part(
            MemoryEncoderGraph(model),
            {
                **frame,
                **logits,
                "object_scores": Input(("objects",)),
                "is_prompted": Input(("objects",), draw_turns),
            },
            ("memories",),
        ),
        "mask_resize": Part(photo, {**logits, **size}, ("masks",)),
    }


def embedding_shape(config: Any) -> tuple[int, int, int]:
    """C×h×w of the image embedding."""
    cells = config.prompt_encoder_config.image_embedding_size
    return config.vision_config.out_chans, cells, cells


def finer_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The decoder's finer maps by name, finest first; none without skip connections."""
    if config.mask_decoder_config.high_resolution_channels is None:
        return {}
    width, cells = config.mask_decoder_config.transformer_dim, config.prompt_encoder_config.image_embedding_size
    return {"finer_0": (width // 8, 4 * cells, 4 * cells), "finer_1": (width // 4, 2 * cells, 2 * cells)}


def prompts(batch: int | str) -> dict[str, Input]:
    """Points and boxes of all objects."""
    return {
        "points": Input((batch, "objects", "points", 2), draw_points),
        "labels": Input((batch, "objects", "points"), draw_labels),
        "boxes": Input((batch, "objects", 4), draw_boxes),
    }


def draw_size(shape: list[int]) -> Tensor:
    return torch.randint(*PHOTO_SIDES, shape)


def draw_points(shape: list[int]) -> Tensor:
    return torch.rand(shape) * PHOTO_SIDES[0]


def draw_labels(shape: list[int]) -> Tensor:
    """On or off the object; the last point of every second object is padding."""
    labels = torch.randint(0, 2, shape).float()
    labels[:, 1::2, -1] = -10
    return labels


def draw_boxes(shape: list[int]) -> Tensor:
    """A box for every second object."""
    corners = torch.rand(shape) * PHOTO_SIDES[0] / 2
    corners[..., 2:] += PHOTO_SIDES[0] / 2
    corners[:, ::2] = -10
    return corners


def draw_masks(shape: list[int]) -> Tensor:
    """Mask logits for two of three objects."""
    masks = 5 * torch.randn(shape)
    masks[:, ::3] = torch.nan
    return masks


def draw_numbers(count: int, shape: list[int]) -> Tensor:
    return torch.arange(count)[-shape[0] :]


def draw_whole_numbers(shape: list[int]) -> Tensor:
    """Logits that bilinear resizing leaves exact, so that no rounding decides on which side of a border a pixel is."""
    return torch.randint(-40, 40, shape).float()


def draw_blobs(shape: list[int]) -> Tensor:
    """Masks with smooth borders, all different."""
    masks = torch.zeros(shape, dtype=torch.bool)
    for number, mask in enumerate(masks):
        mask[number : mask.shape[0] // 2, 1 : mask.shape[1] // (1 + number % 2)] = True
    return masks


def draw_turns(shape: list[int]) -> Tensor:
    return torch.arange(shape[0]) % 2 == 0
