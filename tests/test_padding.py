"""A padded prompt gives what it gives alone; and what the model says to tensors that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny import TINY_VISION, tiny_model

MODELS = {name: tiny_model(name) for name in sorted(TINY_VISION)}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Any]:
    """One object's prompts: any mix with at least one of points, box and mask."""
    kinds = draw(st.sets(st.sampled_from(["points", "box", "mask"]), min_size=1))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    prompt: dict[str, Any] = {}
    if "points" in kinds:
        count = draw(st.integers(1, 4))
        prompt["points"] = torch.rand(count, 2, generator=generator) * 64
        prompt["labels"] = torch.tensor(draw(st.lists(st.sampled_from([1, 0, -1]), min_size=count, max_size=count)))
    if "box" in kinds:
        corner = torch.rand(2, generator=generator) * 30
        prompt["box"] = torch.cat([corner, corner + 5 + torch.rand(2, generator=generator) * 25])
    if "mask" in kinds:
        prompt["mask"] = torch.randn(16, 16, generator=generator) * 4
    return prompt


def padded(batch: list[list[dict[str, Any]]], more_points: int = 0) -> dict[str, Tensor]:
    """The tensors of ragged prompts, one list of objects per image."""
    num_objects = max(len(image) for image in batch)
    everything = [prompt for image in batch for prompt in image]
    tensors: dict[str, Tensor] = {}
    most = max((len(prompt["points"]) for prompt in everything if "points" in prompt), default=0)
    if most:
        most += more_points
        tensors["input_points"] = torch.full((len(batch), num_objects, most, 2), -10.0)
        tensors["input_labels"] = torch.full((len(batch), num_objects, most), -10)
    if any("box" in prompt for prompt in everything):
        tensors["input_boxes"] = torch.full((len(batch), num_objects, 4), -10.0)
    if any("mask" in prompt for prompt in everything):
        tensors["input_masks"] = torch.full((len(batch), num_objects, 16, 16), torch.nan)
    for row, image in enumerate(batch):
        for column, prompt in enumerate(image):
            if "points" in prompt:
                count = len(prompt["points"])
                tensors["input_points"][row, column, :count] = prompt["points"]
                tensors["input_labels"][row, column, :count] = prompt["labels"]
            if "box" in prompt:
                tensors["input_boxes"][row, column] = prompt["box"]
            if "mask" in prompt:
                tensors["input_masks"][row, column] = prompt["mask"]
    return tensors


@pytest.mark.parametrize("name", sorted(TINY_VISION))
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_padding_changes_nothing(name: str, data: st.DataObject) -> None:
    model = MODELS[name]
    batch = [data.draw(st.lists(objects(), min_size=1, max_size=3)) for _ in range(2)]
    with torch.no_grad():
        together = model(pixel_values=IMAGES, **padded(batch, more_points=data.draw(st.integers(0, 3))))
        for row, image in enumerate(batch):
            for column, prompt in enumerate(image):
                alone = model(pixel_values=IMAGES[row : row + 1], **padded([[prompt]]))
                for field in ("pred_masks", "iou_scores"):
                    difference = (together[field][row, column] - alone[field][0, 0]).abs().max()
                    assert difference < 1e-5, f"{field} of object {column} of image {row} moved by {difference}"


@pytest.mark.parametrize("name", sorted(TINY_VISION))
def test_padding_objects_have_no_part_in_the_loss(name: str) -> None:
    model = MODELS[name]
    box = {"box": torch.tensor([8.0, 8.0, 40.0, 40.0])}
    labels = torch.zeros(2, 2, 64, 64)
    labels[:, :, 8:40, 8:40] = 1
    with torch.no_grad():
        ragged = model(pixel_values=IMAGES, labels=labels, **padded([[box, box], [box]])).loss
        one = model(pixel_values=IMAGES[:1], labels=labels[:1, :1], **padded([[box]])).loss
        two = model(pixel_values=IMAGES[1:], labels=labels[1:, :1], **padded([[box]])).loss
    torch.testing.assert_close(ragged, (2 * one + two) / 3)


POINTS = torch.full((2, 1, 1, 2), 20.0)
LABELS = torch.ones(2, 1, 1, dtype=torch.long)
BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"pixel_values": None}, "either pixel_values or image_embeddings"),
    "both": ({"image_embeddings": torch.randn(2, 32, 4, 4)}, "either pixel_values or image_embeddings"),
    "three dimensions": ({"pixel_values": IMAGES[0]}, r"pixel_values has shape \(3, 64, 64\)"),
    "channels": ({"pixel_values": IMAGES[:, :2]}, "expected batch×3×height×width"),
    "side": ({"pixel_values": IMAGES[:, :, :60]}, "multiples of 16"),
    "empty": ({"pixel_values": IMAGES[:, :, :0]}, "positive multiples"),
    "points without labels": ({"input_points": POINTS}, "input_labels is missing"),
    "labels without points": ({"input_labels": LABELS}, "input_points is missing"),
    "flat points": ({"input_points": POINTS[:, 0], "input_labels": LABELS}, "batch×objects×points×2"),
    "no points": ({"input_points": POINTS[:, :, :0], "input_labels": LABELS[:, :, :0]}, "none of them empty"),
    "three coordinates": ({"input_points": torch.rand(2, 1, 1, 3), "input_labels": LABELS}, "batch×objects×points×2"),
    "other images": ({"input_points": POINTS[:1], "input_labels": LABELS[:1]}, "for 1 images, but there are 2"),
    "count": ({"input_points": POINTS, "input_labels": LABELS.expand(2, 1, 3)}, "one label per point"),
    "objects": ({"input_points": POINTS, "input_labels": LABELS, "input_boxes": torch.ones(2, 3, 4)}, "disagree"),
    "nan": ({"input_points": POINTS * torch.nan, "input_labels": LABELS}, "input_points holds NaN"),
    "infinite": ({"input_boxes": torch.full((2, 1, 4), torch.inf)}, "input_boxes holds NaN or infinite"),
    "label": ({"input_points": POINTS, "input_labels": LABELS * 7}, r"input_labels holds \[7\]"),
    "list": ({"input_points": [[[[3, 4]]]], "input_labels": LABELS}, "is a list, expected a tensor"),
    "labels": (
        {"input_points": POINTS, "input_labels": LABELS, "labels": torch.zeros(2, 64, 64)},
        "one mask per image and object",
    ),
}


@pytest.mark.parametrize("case", sorted(BAD_CALLS))
def test_bad_calls_name_what_is_wrong(case: str) -> None:
    arguments, message = BAD_CALLS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        MODELS["tiny_vit"](**{"pixel_values": IMAGES} | arguments)


def test_a_mask_prompt_with_some_nan_is_refused() -> None:
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="input_masks holds NaN"):
        MODELS["tiny_vit"](pixel_values=IMAGES, input_masks=masks)


def test_embeddings_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="what get_image_embeddings returned"):
        MODELS["tiny_vit_with_skips"](image_embeddings=torch.randn(1, 32, 4, 4))
    with pytest.raises(ValueError, match="what get_image_embeddings returned"):
        MODELS["tiny_vit"](image_embeddings=torch.randn(1, 16, 4, 4))


@pytest.mark.parametrize("fields", [{"image_size": 100}, {"image_size": 0}, {"image_size": -64}])
def test_an_impossible_image_size_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="multiple of the encoder's stride 16"):
        tiny_model("vit", **fields)
