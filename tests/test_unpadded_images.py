"""Images whose padding is left out: positions are those of the padded square, and masks come back to their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.processing.processor_for import fitting_processor, processor_for
from tests.tiny import TINY_VISION, tiny_config, tiny_model, tiny_video_config

PADDED_MODES = sorted(set(TINY_VISION) - {"hiera"})
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
POINT = {"input_points": [[60, 20]], "input_labels": [1]}


def unpadded(model: SamVariantsModel) -> SamVariantsProcessor:
    image_processor: Any = processor_for(model).image_processor
    return SamVariantsProcessor(image_processor.updated(pad_to_multiple_of=16))


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(TINY_VISION))
def test_a_whole_square_is_what_it_was(name: str) -> None:
    padding, not_padding = tiny_model(name), tiny_model(name, pad_input=False)
    not_padding.load_state_dict(padding.state_dict())
    images = torch.randn(1, 3, 64, 64)
    prompts = {"input_points": torch.tensor([[[[9.0, 20.0]]]]), "input_labels": torch.ones(1, 1, 1, dtype=torch.long)}
    expected, found = (model(pixel_values=images, **prompts).pred_masks for model in (padding, not_padding))
    assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(TINY_VISION))
def test_positions_are_those_of_the_square(name: str) -> None:
    """An embedding that is the crop of the square's, and prompts beside it, give masks that depend on places alone."""
    model = tiny_model(name, pad_input=False)
    encoder: Any = model.prompt_encoder
    assert torch.equal(encoder.get_dense_pe((2, 3)), encoder.get_dense_pe()[:, :, :2, :3])
    point = (torch.tensor([[[9.0, 20.0]]]), torch.ones(1, 1, dtype=torch.long))
    whole, part = (
        encoder.encode_objects(*point, None, None, torch.zeros(1, 32, *size)).sparse for size in ((4, 4), (2, 3))
    )
    assert torch.equal(whole, part)
    encoder.config.pad_input = True
    other = encoder.encode_objects(*point, None, None, torch.zeros(1, 32, 2, 3)).sparse
    assert (other - whole).abs().max() > 1e-3


@torch.no_grad()
def test_vit_takes_its_positions_from_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """With attention to itself alone, nothing but positions tells the part from the whole: both agree."""
    encoder: Any = tiny_model("vit").image_encoder
    images = torch.randn(1, 3, 64, 64)
    images[:, :, 32:] = 0
    for block in encoder.blocks:  # no token sees another one
        torch.nn.init.zeros_(block.attn.proj.weight)
    encoder.neck[2].weight[:, :, :, [0, 2]] = encoder.neck[2].weight[:, :, [0, 2]] = 0
    whole = encoder(images).last_hidden_state
    part = encoder(images[:, :, :32, :48], frame_size=(64, 64)).last_hidden_state
    torch.testing.assert_close(part, whole[:, :, :2, :3], atol=1e-5, rtol=1e-5)
    resized = encoder(images[:, :, :32, :48]).last_hidden_state
    assert (resized - whole[:, :, :2, :3]).abs().max() > 1e-2


@torch.no_grad()
def test_relative_positions_are_not_stretched() -> None:
    attention: Any = tiny_model("vit").image_encoder.blocks[1].attn
    x = torch.randn(1, 2, 3, 32)
    beside = torch.zeros(1, 4, 4, 32)
    beside[:, :2, :3] = x
    seen: list[torch.Tensor] = []
    core = attention.core.forward
    attention.core.forward = lambda *args, **kwargs: seen.append(kwargs["mask"]) or core(*args, **kwargs)
    attention(x, (4, 4))
    attention(beside)
    attention(x)
    kept = torch.tensor([0, 1, 2, 4, 5, 6])
    torch.testing.assert_close(seen[0], seen[1][:, :, kept][..., kept])
    assert (seen[2] - seen[0]).abs().max() > 1e-3


@torch.no_grad()
def test_hiera_takes_its_positions_from_the_square() -> None:
    trunk: Any = tiny_model("hiera").image_encoder.trunk
    assert torch.equal(trunk._get_pos_embed((4, 6), (16, 16)), trunk._get_pos_embed((16, 16))[:, :4, :6])


def test_the_processor_pads_to_the_next_multiple() -> None:
    processor = unpadded(tiny_model("tiny_vit"))
    inputs = processor(images=PHOTO, **POINT, input_masks=PHOTO[..., 0] > 99, return_tensors="pt")
    assert tuple(inputs["pixel_values"].shape) == (1, 3, 32, 64)
    assert inputs["reshaped_input_sizes"].tolist() == [[28, 64]]
    assert tuple(inputs["input_masks"].shape) == (1, 1, 8, 16)
    padded = processor_for(tiny_model("tiny_vit"))(images=PHOTO, **POINT, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], padded["pixel_values"][:, :, :32])
    assert torch.equal(inputs["input_points"], padded["input_points"])
    both = processor(images=[PHOTO, PHOTO.transpose(1, 0, 2)], return_tensors="pt")
    assert tuple(both["pixel_values"].shape) == (2, 3, 64, 64)


def test_masks_come_back_to_their_places() -> None:
    """Logits of the upper part of the square become the same pixels as those of all of it."""
    model = tiny_model("tiny_vit")
    logits = torch.randn(1, 1, 1, 16, 16)
    sizes = torch.tensor([[40, 90]]), torch.tensor([[28, 64]])
    whole = processor_for(model).post_process_masks(logits, *sizes, binarize=False)[0]
    part = unpadded(model).post_process_masks(logits[..., :8, :], *sizes, binarize=False)[0]
    # The last row of cells is interpolated with the one below it, which is missing.
    torch.testing.assert_close(part[..., :36, :], whole[..., :36, :])


@pytest.mark.parametrize("name", PADDED_MODES)
def test_the_pipeline_leaves_out_the_padding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(name, pad_input=False)
    segment = pipeline("promptable-segmentation", model=model)
    shapes: list[tuple[int, ...]] = []
    encode = model.image_encoder.forward
    monkeypatch.setattr(
        model.image_encoder,
        "forward",
        lambda x, *args, **more: shapes.append(tuple(x.shape)) or encode(x, *args, **more),
    )
    mask = PHOTO[..., 0] > 99
    alone = segment(Image.fromarray(PHOTO), points=(60, 20), masks=mask)
    assert alone.data.shape == (1, 40, 90)
    requests = [
        {"image": Image.fromarray(PHOTO), "points": (60, 20), "masks": mask},
        {"image": Image.fromarray(PHOTO.transpose(1, 0, 2)), "points": (20, 60)},
    ]
    together = segment(requests, batch_size=2)
    assert [masks.data.shape for masks in together] == [(1, 40, 90), (1, 90, 40)]
    assert shapes == [(1, 3, 32, 64), (2, 3, 64, 64)]
    everything = pipeline("mask-generation", model=model, points_per_side=2, pred_iou_thresh=-9.0)
    found = everything(Image.fromarray(PHOTO), stability_score_thresh=0.0)
    assert len(found)
    assert found.data.shape[1:] == (40, 90)
    assert shapes[2] == (1, 3, 32, 64)


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no multiple of the stride": ({"pad_to_multiple_of": 24}, r"pad_to_multiple_of=24 must be a multiple .* stride 16"),
    "no number": ({"pad_to_multiple_of": "16"}, "pad_to_multiple_of='16' must be a multiple"),
    "no padding at all": ({"pad_to_multiple_of": 16, "do_pad": False}, "pad_to_multiple_of=16 needs do_pad=True"),
    "squares": ({"pad_to_multiple_of": 16, "resize_mode": "square"}, "needs do_pad=True and resize_mode"),
}


@pytest.mark.parametrize("case", sorted(BAD_SETTINGS))
def test_impossible_settings_are_refused(case: str) -> None:
    settings, message = BAD_SETTINGS[case]
    with pytest.raises(ValueError, match=message):
        processor_for(tiny_model("tiny_vit")).image_processor.updated(**settings)(PHOTO)


def test_model_and_processor_must_agree() -> None:
    model = tiny_model("tiny_vit")
    with pytest.raises(ValueError, match="load it with pad_input=False"):
        fitting_processor(model, unpadded(model))
    with pytest.raises(ValueError, match="resized to a square"):
        fitting_processor(tiny_model("hiera", pad_input=False))
    with pytest.raises(ValueError, match="pad_input=False is for images"):
        tiny_video_config(pad_input=False)
    small = tiny_model("vit", pad_input=False)
    with pytest.raises(ValueError, match=r"at most those of frame_size=\(64, 64\)"):
        small.get_image_embeddings(torch.zeros(1, 3, 80, 64))
    with pytest.raises(
        ValueError, match=r"masks have \(16, 16\) cells, but the image embedding has room for \(8, 16\)"
    ):
        small(pixel_values=torch.zeros(1, 3, 32, 64), input_masks=torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("name", PADDED_MODES)
def test_a_model_that_counts_on_padding_refuses_images_without(name: str) -> None:
    model = tiny_model(name)
    assert model.config.vision_config.pads_images
    inputs = unpadded(model)(images=PHOTO, **POINT, return_tensors="pt")
    message = r"\(1, 3, 32, 64\), without the padding to 64×64 .* pad_to_multiple_of, .* pad_input=False"
    for call in (model, lambda pixel_values, **_: model.get_image_embeddings(pixel_values)):
        with pytest.raises(ValueError, match=message):
            call(**{key: inputs[key] for key in ("pixel_values", "input_points", "input_labels")})
    for size in ((64, 64), (32, 48), (64, 96)):  # squares, and what is meant as another size
        model.get_image_embeddings(torch.zeros(1, 3, *size))


def test_images_that_are_stretched_to_the_square_have_no_padding_to_miss() -> None:
    model = tiny_model("hiera")
    assert not model.config.vision_config.pads_images
    assert processor_for(model).image_processor.resize_mode == "square"
    model.get_image_embeddings(torch.zeros(1, 3, 32, 64))


def test_the_setting_is_kept_and_can_be_changed(tmp_path: Any) -> None:
    tiny_model("vit").save_pretrained(tmp_path)
    model = SamVariantsModel.from_pretrained(tmp_path, pad_input=False)
    assert not model.prompt_encoder.config.pad_input
    model.save_pretrained(tmp_path)
    assert not SamVariantsModel.from_pretrained(tmp_path).config.pad_input
    config = tiny_config("vit")
    config.pad_input = False
    assert not config.prompt_encoder_config.pad_input
    assert "pad_to_multiple_of" not in processor_for(model).image_processor.to_dict()
    saved = unpadded(model)
    saved.save_pretrained(tmp_path)
    assert SamVariantsProcessor.from_pretrained(tmp_path).image_processor.pad_to_multiple_of == 16
