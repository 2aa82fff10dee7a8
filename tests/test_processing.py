"""The processor: images and prompts together, settings, saving and loading, and the one for each preset."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.sam.processing_sam import SamProcessor

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.presets import PRESETS, config_for
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import processor_for

SIZE_A, SIZE_B = (48, 64), (30, 20)  # (height, width)
P, Q, R = (10, 20), (3, 4), (15.5, 0)
BOX, OTHER_BOX = (1, 2, 13, 14), (0, 0, 20, 30)


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    AutoImageProcessor.register(
        SamVariantsConfig, image_processor_classes={"pil": SamVariantsImageProcessorPil}, exist_ok=True
    )
    AutoProcessor.register(SamVariantsConfig, SamVariantsProcessor, exist_ok=True)


def processor() -> SamVariantsProcessor:
    return SamVariantsProcessor(SamVariantsImageProcessorPil(image_size=64))


def images(count: int) -> list[np.ndarray]:
    return [np.random.randint(0, 256, (*size, 3), dtype=np.uint8) for size in (SIZE_A, SIZE_B)[:count]]


def test_objects_of_all_kinds_are_aligned_by_index() -> None:
    mask = np.zeros(SIZE_A, bool)
    mask[5:20, 10:40] = True
    batch = processor()(
        images=images(2),
        input_points=[[[P, Q], None, None], [R]],
        input_boxes=[[None, BOX, None], None],
        input_masks=[[None, None, mask], None],
        return_tensors="pt",
    )
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert batch["input_points"].shape == (2, 3, 2, 2)
    assert batch["input_labels"].tolist() == [[[1, 1], [-10] * 2, [-10] * 2], [[1, -10], [-10] * 2, [-10] * 2]]
    assert (batch["input_boxes"] == -10).all(-1).tolist() == [[True, False, True], [True, True, True]]
    assert batch["input_masks"].shape == (2, 3, 16, 16)
    assert batch["input_masks"].isnan().all(-1).all(-1).tolist() == [[True, True, False], [True, True, True]]
    dtypes = {name: value.dtype for name, value in batch.items()}
    floats = ("pixel_values", "input_points", "input_boxes", "input_masks")
    assert all(dtype == (torch.float32 if name in floats else torch.int64) for name, dtype in dtypes.items())
    assert set(batch) <= set(processor().model_input_names)


def test_images_or_sizes_are_needed() -> None:
    for arguments in ({}, {"images": images(1), "original_sizes": [SIZE_A]}):
        with pytest.raises(ValueError, match="give either images or"):
            processor()(**arguments)
    for sizes in ([], [5, 5], [[5, 0]], [[5.5, 6]]):
        with pytest.raises(ValueError, match="original_sizes"):
            processor()(original_sizes=sizes)
    with pytest.raises(ValueError, match=r"images\[1\]"):
        processor()(images=[images(1)[0], np.zeros((0, 0, 3), np.uint8)])


def test_transformers_nesting_means_the_same() -> None:
    """SamProcessor's levels: images, points; or images, objects, points; boxes: images, boxes."""
    size = {"longest_edge": 64}, {"height": 64, "width": 64}
    theirs = SamProcessor(SamImageProcessorPil(size=size[0], pad_size=size[1]))
    for arguments in (
        {"input_points": [[list(P), list(Q)]], "input_labels": [[1, 0]]},
        {"input_points": [[[list(P)], [list(Q)]]], "input_labels": [[[1], [0]]]},
        {"input_boxes": [[list(map(float, BOX)), list(map(float, OTHER_BOX))]]},
    ):
        image = Image.fromarray(images(2)[1])
        reference = theirs(image, return_tensors="pt", **arguments)
        ours = processor()(images=image, return_tensors="pt", **arguments)
        for name in arguments:
            torch.testing.assert_close(ours[name].double(), reference[name].double(), rtol=1e-6, atol=1e-6)
        assert ours["reshaped_input_sizes"].tolist() == reference["reshaped_input_sizes"].tolist()


NO_IMAGES = (
    st.none()
    | st.integers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.sampled_from([np.zeros((2, 0)), np.ones((2, 2)), np.array(["x"]), torch.ones(2), torch.tensor(1j), {1: 2}])
    | st.sampled_from([torch.ones(1, 1, 1, 4), Image.new("L", (3, 3)), Image.new("RGB", (0, 0)), np.full((9, 9), 300)])
)


@settings(deadline=None, max_examples=50)
@given(value=st.recursive(NO_IMAGES, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_garbage_images_are_refused_with_a_plain_error(value: Any) -> None:
    try:
        batch = processor()(images=value)
    except (ValueError, TypeError) as error:
        assert str(error)  # noqa: PT017 - both outcomes are fine
    else:
        assert batch["pixel_values"].shape[1:] == (3, 64, 64)


def test_images_within_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="nested too deep"):
        processor()(images=endless)


def test_settings_of_a_call() -> None:
    batch = processor()(
        images=images(1), input_points=P, input_masks=np.ones(SIZE_A, bool), image_size=128, return_tensors="pt"
    )
    assert batch["pixel_values"].shape == (1, 3, 128, 128)
    assert batch["input_points"].tolist() == [[[[20.0, 40.0]]]]
    assert batch["input_masks"].shape == (1, 1, 32, 32)
    array = images(1)[0].transpose(2, 0, 1)
    same = processor()(images=array, input_data_format="channels_first")
    np.testing.assert_array_equal(same["pixel_values"], processor()(images=array)["pixel_values"])


def test_masks_are_post_processed_by_the_image_processor() -> None:
    ours = processor()
    logits = torch.randn(2, 3, 1, 16, 16)
    arguments = (logits, torch.tensor([SIZE_A, SIZE_B]))
    results = ours.post_process_masks(*arguments, mask_threshold=0.5, binarize=True)
    expected = ours.image_processor.post_process_masks(*arguments, mask_threshold=0.5)
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert results[1].shape == (3, 1, *SIZE_B)


def test_the_processor_survives_saving(tmp_path: Path) -> None:
    ours = processor()
    ours.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["processor_config.json"]
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["processor_class"] == "SamVariantsProcessor"
    assert saved["image_processor"]["image_processor_type"] == "SamVariantsImageProcessor"
    arguments = {"images": images(2), "input_points": [P, [Q, R]], "return_tensors": "pt"}
    expected = ours(**arguments)
    for loaded in (SamVariantsProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, SamVariantsProcessor)
        batch = loaded(**arguments)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
    for loader in (SamVariantsProcessor, AutoProcessor):
        larger = loader.from_pretrained(tmp_path, image_size=128)
        assert larger(**arguments)["pixel_values"].shape == (2, 3, 128, 128)
        assert dict(larger.image_processor.mask_size) == {"height": 32, "width": 32}
    assert AutoImageProcessor.from_pretrained(tmp_path, image_size=32).image_size == 32


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_has_its_processor(preset: str) -> None:
    config = config_for(preset)
    for source in (preset, config, SimpleNamespace(config=config), config.vision_config):
        image_processor = processor_for(source).image_processor
        assert image_processor.image_size == 1024
        assert dict(image_processor.mask_size) == {"height": 256, "width": 256}
        is_sam2 = preset.startswith("sam2")
        assert image_processor.resize_mode == ("square" if is_sam2 else "longest_side")
        assert image_processor.do_rescale == is_sam2
        assert (image_processor.image_mean[0] < 1) == is_sam2
    config.image_size = 512
    image_processor = processor_for(config).image_processor
    assert image_processor.image_size == 512
    assert dict(image_processor.mask_size) == {"height": 128, "width": 128}


def test_a_processor_for_nothing_known_is_refused() -> None:
    with pytest.raises(ValueError, match="mobile-sam"):
        processor_for("mobile-sam-2")
    for source in (3, None, SimpleNamespace(config=3)):
        with pytest.raises(TypeError, match="processor_for takes a model"):
            processor_for(source)
    foreign = SimpleNamespace(image_size=64, stride=16, model_type="sam_vision_model")
    with pytest.raises(ValueError, match="sam_vision_model"):
        processor_for(foreign)


def test_image_size_of_the_constructor_leaves_the_given_one_alone() -> None:
    image_processor = SamVariantsImageProcessorPil(image_size=64)
    assert SamVariantsProcessor(image_processor, image_size=96).image_processor.image_size == 96
    assert image_processor.image_size == 64
