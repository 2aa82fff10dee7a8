"""Checks of the tensors that a promptable model is called with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sam_variants.decoders.prompt_encoder import PADDING_LABEL

KNOWN_LABELS = (1, 0, -1, PADDING_LABEL)

SHAPES = {
    "input_points": (4, 2, "batch×objects×points×2"),
    "input_labels": (3, None, "batch×objects×points"),
    "input_boxes": (3, 4, "batch×objects×4"),
    "input_masks": (4, None, "batch×objects×height×width"),
}


def check_prompts(prompts: dict[str, Tensor | None], num_images: int) -> int | None:
    """Check shapes and values of prompt tensors that belong to `num_images` images.

    Values are not looked at while the model is compiled or exported.

    Args:
        prompts: tensors by argument name, None where not given.
        num_images: batch size of images or image embeddings.

    Returns:
        The number of objects per image, or None without prompts.

    Raises:
        TypeError: for something that is no tensor.
        ValueError: for a wrong shape, a different number of images or objects, or a value that means nothing.
    """
    given = {name: value for name, value in prompts.items() if value is not None}
    for name, value in given.items():
        ndim, last, wanted = SHAPES[name]
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}, expected a tensor; the processor makes one")
        if value.ndim != ndim or (last is not None and value.shape[-1] != last) or 0 in value.shape[1:]:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {wanted}, none of them empty")
        if value.shape[0] != num_images:
            raise ValueError(f"{name} is for {value.shape[0]} images, but there are {num_images}")
    if ("input_points" in given) != ("input_labels" in given):
        missing = "input_labels" if "input_points" in given else "input_points"
        raise ValueError(f"{missing} is missing: points and labels come together")
    if "input_points" in given and given["input_points"].shape[:3] != given["input_labels"].shape:
        shapes = tuple(given["input_points"].shape), tuple(given["input_labels"].shape)
        raise ValueError(f"input_points has shape {shapes[0]} and input_labels {shapes[1]}: one label per point")
    counts = {name: value.shape[1] for name, value in given.items()}
    first = next(iter(counts.values()), None)
    if any(count != first for count in counts.values()):
        raise ValueError(f"prompts disagree on the number of objects per image: {counts}")
    if not torch.compiler.is_compiling():
        _check_values(given)
    return first


def check_padding(pixel_values: Any, config: Any) -> None:
    """Refuse images whose padding was left out where the model counts on it: their positions would be stretched.

    They are as long as the model's input and narrower. Other sizes are taken for what they are. Nothing is looked at
    while the model is compiled or exported, which would tie the graph to these sizes.

    Args:
        pixel_values: B×C×H×W; anything else is left to the image encoder.
        config: of the whole model.

    Raises:
        ValueError: naming the shape, and what to load or prepare otherwise.
    """
    if not config.pad_input or not config.vision_config.pads_images or torch.compiler.is_compiling():
        return
    shape = tuple(getattr(pixel_values, "shape", ()))
    fits = len(shape) == 4 and not any(side == 0 or side % config.vision_config.stride for side in shape[2:])
    if fits and min(shape[2:]) < max(shape[2:]) == config.image_size:
        raise ValueError(
            f"pixel_values has shape {shape}, without the padding to {config.image_size}×{config.image_size} that the "
            "model counts on: make them without pad_to_multiple_of, or load the model with pad_input=False"
        )


def _check_values(given: dict[str, Tensor]) -> None:
    for name in ("input_points", "input_boxes"):
        if name in given and not torch.isfinite(given[name]).all():
            raise ValueError(f"{name} holds NaN or infinite coordinates")
    if "input_labels" in given:
        known = torch.isin(given["input_labels"], torch.tensor(KNOWN_LABELS, device=given["input_labels"].device))
        if not known.all():
            unknown = sorted(set(given["input_labels"][~known].tolist()))
            raise ValueError(
                f"input_labels holds {unknown}; allowed are 1 (include), 0 (exclude), -1 (not a point), -10 (padding)"
            )
    if "input_masks" in given:
        nan = given["input_masks"].isnan().flatten(2)
        if (nan.any(dim=-1) & ~nan.all(dim=-1)).any() or given["input_masks"].isinf().any():
            raise ValueError("input_masks holds NaN or infinite logits; only a whole mask of NaN means: no mask prompt")
