"""`sam-variants convert --verify`: our outputs beside those of transformers' own classes, on the same weights."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sam_variants.checkpoint_layouts.config_transformers_sam2_video import with_rope_parameters
from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.write_checkpoint import (
    THEIR_CLASSES,
    published_as,
    their_model,
    transformers_layout,
    without_aliases,
)
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.hub_scripts.benchmark_their_models import transformers_twin
from sam_variants.hub_scripts.benchmark_trackers import OurTracker, TheirTracker
from sam_variants.hub_scripts.convert_source import Source
from sam_variants.processing.frame_processing import PreparedFrame

LIMIT = 1e-3
NUM_FRAMES = 3
OUTPUTS = {"masks": "pred_masks", "scores": "iou_scores", "object scores": "object_score_logits"}


@dataclass(frozen=True)
class Verification:
    """How far our outputs are from theirs.

    Attributes:
        compared_with: which of transformers' classes.
        differences: what was compared → the largest absolute difference.
        not_compared: what transformers has nothing for; empty when everything was compared.
    """

    compared_with: str
    differences: dict[str, float]
    not_compared: str = ""

    def check(self, source: str) -> None:
        """Raise ValueError when a difference is above the limit, or no number."""
        wrong = {name: value for name, value in self.differences.items() if not value <= LIMIT}
        if wrong:
            told = ", ".join(f"{name} {value:.3g}" for name, value in wrong.items())
            raise ValueError(
                f"{source!r} was not converted: outputs differ from those of transformers' {self.compared_with} by up "
                f"to {told}; at most {LIMIT:g} is allowed"
            )


@torch.no_grad()
def verify_source(source: Source) -> Verification:
    """Compare a checkpoint's model with transformers' class, in float32, on one random image and, if it tracks, a clip.

    Args:
        source: the checkpoint; both get its weights as they will be written.

    Raises:
        ValueError: when transformers has nothing to compare with.
    """
    row = published_as(source.model.config)
    with in_float32(source.model) as model:
        if row.images is None:
            with comparable(source):
                twin = transformers_twin(as_read(source, model))
            return Verification(
                "SamModel (its prompt encoder and mask decoder, behind our image encoder)",
                image_differences(model, twin),
                "the image encoder: transformers has none of this architecture",
            )
        with comparable(source):
            theirs = reference(source, row.images)
        differences = image_differences(model, theirs)
        compared_with = type(theirs).__name__
        if transformers_layout(model.config) == row.video:
            with comparable(source):
                theirs = reference(source, row.video)
            differences |= tracking_differences(model, theirs)
            compared_with += f" and {type(theirs).__name__}"
        return Verification(compared_with, differences)


@contextmanager
def comparable(source: Source) -> Iterator[None]:
    """Say what it means for the conversion that transformers has no such model."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{source.name!r} was not converted: transformers has no such architecture to compare with ({error}); "
            "without --verify it is converted"
        ) from error


@contextmanager
def in_float32(model: Any) -> Iterator[Any]:
    """The model in float32, and without what transformers' trackers don't do: filling holes."""
    is_float32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    alike = model if is_float32 else copy.deepcopy(model).float()
    if not isinstance(alike.config, SamVariantsVideoConfig):
        yield alike
        return
    area = alike.config.fill_hole_area
    alike.config.fill_hole_area = 0
    try:
        yield alike
    finally:
        alike.config.fill_hole_area = area


def reference(source: Source, layout: str) -> Any:
    """transformers' model of a layout, made of the tensors that were read, not of our model."""
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in LAYOUTS[layout].table.to_theirs(source.written).items()
    }
    config_to: Any = LAYOUTS[layout].config_to
    if source.layout == layout and source.config_values:
        config = THEIR_CLASSES[layout].config_class.from_dict(with_rope_parameters(source.config_values))
    else:
        config = config_to(source.model.config)
    return their_model(layout, config, without_aliases(tensors), torch.float32)


def as_read(source: Source, model: Any) -> Any:
    """A model of ours with the tensors that were read, whatever the given one has."""
    alike = copy.deepcopy(model)
    alike.load_state_dict(source.written)
    return alike


def prompts_for(side: int) -> list[dict[str, Tensor]]:
    """A click, several clicks, and a box with a click, in pixels of a square input."""
    points = torch.tensor([[[[0.3, 0.4]]], [[[0.7, 0.6]]]]).reshape(1, 2, 1, 2)
    clicks = torch.tensor([[0.2, 0.3], [0.8, 0.5], [0.5, 0.9]]).reshape(1, 1, 3, 2)
    box = torch.tensor([[[0.1, 0.2, 0.8, 0.9]]])
    return [
        {"input_points": points * side, "input_labels": torch.ones(1, 2, 1, dtype=torch.int64)},
        {"input_points": clicks * side, "input_labels": torch.tensor([[[1, 0, 1]]])},
        {"input_boxes": box * side},
        {
            "input_points": points[:, :1] * side,
            "input_labels": torch.zeros(1, 1, 1, dtype=torch.int64),
            "input_boxes": box * side,
        },
    ]


def image_differences(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest difference of every output over all prompts, with one mask and with several."""
    side = ours.config.image_size
    pixel_values = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    embeddings = [model.get_image_embeddings(pixel_values) for model in (ours, theirs)]
    found: dict[str, float] = {}
    for prompts in prompts_for(side):
        for multimask_output in (True, False):
            one, other = (
                model(image_embeddings=embedding, multimask_output=multimask_output, **prompts)
                for model, embedding in zip((ours, theirs), embeddings, strict=True)
            )
            add_differences(found, one, other)
    return found


def add_differences(found: dict[str, float], one: Any, other: Any, when: str = "") -> None:
    """Raise what was found so far by what two outputs differ."""
    for name, field in OUTPUTS.items():
        if one.get(field) is not None and other.get(field) is not None:
            difference = (one[field] - other[field].reshape(one[field].shape)).abs().max().item()
            found[name + when] = largest(found.get(name + when, 0.0), difference)


def largest(one: float, other: float) -> float:
    """The larger number; what is none stays."""
    return other if other != other or other > one else one


def tracking_differences(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest differences of all outputs, and of memories, for one clicked object over a few frames of noise."""
    side, generator = ours.config.image_size, torch.Generator().manual_seed(1)
    our_session, their_session = OurTracker(ours, 1).session, TheirTracker(theirs, 1).session
    found: dict[str, float] = {}
    with same_memories(ours, theirs, found):
        for _ in range(NUM_FRAMES):
            frame = torch.randn(1, 3, side, side, generator=generator)
            other = theirs(inference_session=their_session, frame=frame[0])
            add_differences(found, our_session.step(PreparedFrame(frame, (side, side))), other, " while tracking")
    return found


@contextmanager
def same_memories(ours: Any, theirs: Any, found: dict[str, float]) -> Iterator[None]:
    """Compare the two memory encoders on the same masks, and let both trackers go on with the same memories.

    Masks are cut at 0 and memories rounded to bfloat16 before they are used, so that a difference in the last bit can
    become a large one from frame to frame although both compute the same.
    """
    encoded: deque[tuple[Any, Tensor]] = deque()

    def keep(module: Any, args: Any, output: Any) -> None:
        encoded.append((args, output[0].clone()))  # a copy, because theirs is changed afterwards

    def compare(module: Any, args: Any, output: Any) -> Any:
        memory = encoded.popleft()[1]
        difference = (output.memory_features - memory).abs().max().item()
        found["memories"] = largest(found.get("memories", 0.0), difference)
        output.memory_features = memory
        return output

    hooks = [
        theirs.memory_encoder.register_forward_hook(keep),
        ours.memory_encoder.register_forward_pre_hook(lambda module, args: encoded[0][0]),
        ours.memory_encoder.register_forward_hook(compare),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
