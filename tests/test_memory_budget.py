"""`max_memory`: what is counted, what is chosen, and that a call keeps to it."""

from __future__ import annotations

import gc
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TINY_VISION, tiny_model
from transformers import pipeline

from sam_variants import memory_budget
from sam_variants.mask_generation_arguments import read_bytes
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from sam_variants.memory_budget import AtOnce, Budget, CountedMemory, MemoryNeeds, group_images
from sam_variants.processing.processor_for import processor_for

SIZE = (48, 80)


def needs_of(encoder: str = "tiny_vit", **kwargs: Any) -> MemoryNeeds:
    model = tiny_model(encoder)
    return MemoryNeeds(model, processor_for(model).image_processor, **kwargs)


def image(height: int = 48, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_bytes_are_read_in_every_form() -> None:
    for value, expected in ((None, None), (2500, 2500), ("2500", 2500), ("1.5GB", 1_500_000_000), ("2 mib", 2 << 20)):
        assert read_bytes("max_memory", value) == expected


def test_what_is_alive_together_is_counted() -> None:
    with CountedMemory() as counted:
        first = torch.ones(1000)
        part = first[:500].view(50, 10)  # no new bytes
        second = first + 1
        del first, part, second
        gc.collect()
        third = torch.ones(1500)
        del third
    assert counted.peak == 8000


@pytest.mark.parametrize("encoder", sorted(TINY_VISION))
def test_counting_leaves_the_model_as_it_was(encoder: str) -> None:
    model = tiny_model(encoder)
    pixels = torch.randn(1, 3, 64, 64)
    expected = model.get_image_embeddings(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MemoryNeeds(model, processor_for(model).image_processor)
    again = model.get_image_embeddings(pixels)
    for one, other in zip([*expected], [*again], strict=True):
        assert type(other) is torch.Tensor
        assert torch.equal(one, other)


@pytest.mark.parametrize("encoder", sorted(TINY_VISION))
def test_the_encoder_holds_what_was_counted(encoder: str) -> None:
    model, needs = tiny_model(encoder), needs_of(encoder)
    for count in (1, 2):
        with torch.no_grad(), CountedMemory() as counted:
            model.get_image_embeddings(torch.randn(count, 3, 64, 64))
        predicted = needs.encode_one + (count - 1) * needs.encode_more
        assert predicted == pytest.approx(counted.peak, rel=0.3)


@pytest.mark.parametrize("use_m2m", [False, True])
def test_needs_grow_with_everything_that_is_done_at_once(use_m2m: bool) -> None:
    needs = needs_of(use_m2m=use_m2m)
    base = needs.bytes([SIZE], AtOnce(1, 1), 16)
    assert base < needs.bytes([SIZE], AtOnce(1, 64), 16)
    assert base < needs.bytes([SIZE], AtOnce(4, 1), 16)
    assert base < needs.bytes([SIZE, SIZE], AtOnce(1, 1), 16)
    assert base < needs.bytes([SIZE], AtOnce(1, 1), 1024)
    assert base < needs.bytes([(3000, 4000)], AtOnce(1, 1), 16)


def test_as_much_is_done_as_fits() -> None:
    needs, most = needs_of(), AtOnce(8, 64)
    least = needs.bytes([SIZE], AtOnce(1, 1), 16)
    for limit in np.linspace(least, needs.bytes([SIZE], AtOnce(12, 64), 16), 20).astype(int).tolist():
        chosen = Budget(most, limit, needs, 16).plan([SIZE])
        assert needs.bytes([SIZE], chosen, 16) <= limit
        if chosen.points < most.points:
            assert needs.bytes([SIZE], AtOnce(1, chosen.points + 1), 16) > limit
        elif chosen.images < most.images:
            assert needs.bytes([SIZE], AtOnce(chosen.images + 1, chosen.points), 16) > limit
    assert chosen == most
    assert Budget(most).plan([SIZE]) == most
    with pytest.raises(ValueError, match=r"too little: an image of width 80, height 48 needs \d+MB"):
        Budget(most, least - 1, needs, 16).plan([SIZE])


def test_images_are_grouped_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_budget, "OVERHEAD", 0)
    needs, most = needs_of(), AtOnce(4, 4)
    two = needs.bytes([SIZE, SIZE], AtOnce(2, 4), 16)
    read: list[int] = []

    def images() -> Any:
        for index, height in enumerate((48, 48, 48, 4000, 48)):
            read.append(index)
            yield image(height)

    groups = group_images(images(), Budget(most, two + 100_000, needs, 16))
    assert [len(group) for group, _ in [next(groups)]] == [2]
    assert read == [0, 1], "whether another one fits is told without reading it"
    rest: list[Any] = []
    with pytest.raises(ValueError, match="height 4000"):
        rest.extend(groups)
    assert [len(group) for group, _ in rest] == [1]


def test_a_group_ends_before_an_image_that_cannot_be_read() -> None:
    groups = group_images([image(), ValueError("cut"), image()], Budget(AtOnce(4, 4)))
    assert len(next(groups)[0]) == 1
    with pytest.raises(ValueError, match="cut"):
        next(groups)


@pytest.mark.parametrize("encoder", ["tiny_vit", "hiera"])
def test_a_limited_call_gives_the_same_masks(encoder: str) -> None:
    options = {"points_per_side": 4, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "crop_n_layers": 1}
    pipe = pipeline("mask-generation", model=tiny_model(encoder), **options)
    with pytest.raises(ValueError, match=r"max_memory=10MB is too little.*needs (\d+)MB") as error:
        pipe(image(), max_memory="10MB")
    needed = int(str(error.value).split(" needs ")[1].split("MB")[0])
    tight = pipe(image(), max_memory=f"{needed}MB", batch_size=4)
    wide = pipe(image(), max_memory="8GB")
    for masks in (tight, wide):
        expected = pipe(image())
        assert len(masks) == len(expected) > 0
        torch.testing.assert_close(masks.scores, expected.scores, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="max_memory=10MB"):
        list(pipe(iter([image()]), max_memory="10MB"))


def test_what_a_model_needs_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe: SamVariantsMaskGenerationPipeline = pipeline(
        "mask-generation", model=tiny_model("tiny_vit"), points_per_side=2, max_memory="4GB"
    )
    pipe(image())
    monkeypatch.setattr(MemoryNeeds, "__init__", None)
    assert pipe([image(), image()], batch_size=2)
    with pytest.raises(TypeError):
        pipe(image(), multimask_output=False)  # another need
