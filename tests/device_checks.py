"""On an accelerator: tensors of two devices never meet, and nobody waits for values in the hot loops.

test_no_waiting.py runs this in a process of its own, which has the pretended device from then on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam_variants import encoded_image
from sam_variants.decoders import mask_decoder
from sam_variants.hub_scripts.benchmark_trackers import random_model, small_config
from sam_variants.layers import sending
from sam_variants.layers.token_linear import is_unhooked
from sam_variants.mask_generation_pipeline import SamVariantsMaskGenerationPipeline
from tests.pretend_device import NAME, PretendTensor, noticed_waits, on_pretend_device, pretend_device
from tests.tiny import TINY_VISION, tiny_model

PHOTO = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
AT_THE_END = ("_result", "from_logits")
OPTIONS: Any = {"pred_iou_thresh": -9.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.99}


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_device()
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)  # at the end of encoding, to be timed
    monkeypatch.setattr(sending, "UNHURRIED", {NAME})
    # Its weights are of a class of their own, which would be left to their own ways.
    for module in (encoded_image, mask_decoder):
        monkeypatch.setattr(module, "is_untouched", is_unhooked)


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("name", TINY_VISION)
def test_an_image_is_encoded_and_asked_without_waiting(name: str, is_fused: bool) -> None:
    model = tiny_model(name)
    if is_fused:
        model.fuse()
    pixel_values = torch.randn(2, 3, 64, 64)
    prompts = {"input_points": 64 * torch.rand(2, 3, 1, 2), "input_labels": torch.ones(2, 3, 1, dtype=torch.long)}
    with torch.no_grad():
        expected = model(pixel_values=pixel_values, **prompts)
    there = on_pretend_device(copy.deepcopy(model))
    with noticed_waits() as waits:
        embeddings = there.get_image_embeddings(PretendTensor(pixel_values))
        assert waits == []
        found = there(image_embeddings=embeddings, **{key: PretendTensor(value) for key, value in prompts.items()})
    # What is given is looked at once, before anything is computed.
    assert [wait for wait in waits if "prompt_checks.py" not in wait] == []
    torch.testing.assert_close(found.pred_masks.values, expected.pred_masks, atol=1e-5, rtol=1e-5)


def test_a_frame_of_a_video_is_waited_for_at_its_end_only() -> None:
    model = random_model(small_config(), "cpu")
    there = on_pretend_device(copy.deepcopy(model))
    expected = tracked(model)
    with noticed_waits() as waits:
        for number, (masks, theirs) in enumerate(zip(tracked(there, waits), expected, strict=True)):
            if number:
                assert len(waits) <= 2
                assert [wait for wait in waits if not any(place in wait for place in AT_THE_END)] == []
            assert (masks.data == theirs.data).float().mean() > 0.999
            torch.testing.assert_close(masks.object_score_logits, theirs.object_score_logits, atol=1e-2, rtol=0)


def tracked(model: Any, waits: list[str] | None = None) -> Iterator[Any]:
    session = model.start_session()
    session.add_object(1, points=[[20, 20]])
    session.add_object(2, boxes=[10, 10, 50, 50])
    for number in range(8):
        if waits is not None:
            waits.clear()
        yield session.step(np.roll(PHOTO, 3 * number, axis=1))


@pytest.mark.parametrize("name", ["vit", "hiera"])
def test_a_batch_of_points_is_waited_for_twice(name: str) -> None:
    model = tiny_model(name).fuse()
    there = on_pretend_device(copy.deepcopy(model))
    grid = {"points_per_side": 8, "points_per_batch": 16, **OPTIONS}
    expected = SamVariantsMaskGenerationPipeline(model=model)(Image.fromarray(PHOTO), **grid)
    with noticed_waits() as waits:
        pipeline = SamVariantsMaskGenerationPipeline(model=there, device=NAME)
        found = pipeline(Image.fromarray(PHOTO), **grid)
    batches = 64 // 16
    # For its scores, by which masks are chosen, and for the masks.
    assert len([wait for wait in waits if "encoded_image.py" in wait or "mask_generator.py" in wait]) <= 2 * batches
    assert (found.data == expected.data).all()
