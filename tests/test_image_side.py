"""The decoder's folded form: the plain form's answers for every kind of prompt, and when it steps back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from plain_crop import PlainCrop
from tiny import TINY_VISION, WIDTH, tiny_model, tiny_video_model
from torch import Tensor, nn

from sam_variants import SamVariantsModel, processor_for
from sam_variants.decoders import image_side, mask_decoder
from sam_variants.decoders.mask_decoder import MaskDecoder
from sam_variants.encoded_image import EncodedImage, encode_images
from sam_variants.layers import folded_attention

each_encoder = pytest.mark.parametrize("name", sorted(TINY_VISION))


@contextmanager
def plain_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(MaskDecoder, "is_foldable", lambda self, num_tokens: False)
        yield


def ragged_prompts(num_images: int = 2, num_objects: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Objects with points, boxes, masks or several of these; the last ones of the second image are padding."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, num_objects)
    prompts = {
        "input_points": torch.rand(*shape, 3, 2, generator=generator) * 64,
        "input_labels": torch.randint(0, 2, (*shape, 3), generator=generator),
        "input_boxes": torch.rand(*shape, 4, generator=generator) * 64,
        "input_masks": torch.randn(*shape, 16, 16, generator=generator),
    }
    prompts["input_labels"][:, 1, 1:] = -10
    prompts["input_labels"][:, 2] = -10
    prompts["input_boxes"][:, 1] = -10
    prompts["input_masks"][:, :2] = torch.nan
    prompts["input_labels"][1, 3:] = -10
    prompts["input_boxes"][1, 3:] = -10
    prompts["input_masks"][1, 3:] = torch.nan
    return prompts


def image_embeddings(model: SamVariantsModel, num_images: int = 2) -> Any:
    with torch.no_grad():
        return model.get_image_embeddings(torch.randn(num_images, 3, 64, 64))


def answers(model: SamVariantsModel, **inputs: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        outputs = model(**inputs)
    return outputs.pred_masks, outputs.iou_scores


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("kinds", [("points",), ("points", "boxes"), ("points", "boxes", "masks"), ("masks",)])
@each_encoder
def test_folded_equals_plain(
    name: str, kinds: tuple[str, ...], multimask_output: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(name)
    names = {"points": ("input_points", "input_labels"), "boxes": ("input_boxes",), "masks": ("input_masks",)}
    prompts = ragged_prompts()
    chosen = {key: prompts[key] for kind in kinds for key in names[kind]}
    inputs = {"image_embeddings": image_embeddings(model), "multimask_output": multimask_output, **chosen}
    # Tiles that cut the pixels of one prompt, and groups of two prompts.
    monkeypatch.setattr(folded_attention, "TILE_NUMBERS", 5 * WIDTH)
    monkeypatch.setitem(image_side.GROUP_NUMBERS, "cpu", 2 * 16 * WIDTH)
    found = answers(model, **inputs)
    with plain_form(monkeypatch):
        assert_same(found, answers(model, **inputs))


@each_encoder
def test_one_prompt_and_hundreds_agree(name: str) -> None:
    model = tiny_model(name)
    embeddings = image_embeddings(model, 1)
    points, labels = torch.rand(1, 300, 1, 2) * 64, torch.ones(1, 300, 1, dtype=torch.long)
    masks, scores = answers(model, image_embeddings=embeddings, input_points=points, input_labels=labels)
    for index in (0, 157, 299):
        one = slice(index, index + 1)
        alone = answers(model, image_embeddings=embeddings, input_points=points[:, one], input_labels=labels[:, one])
        assert_same((masks[:, one], scores[:, one]), alone)


@each_encoder
def test_padding_objects_are_empty_in_both_forms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(name)
    inputs = {"image_embeddings": image_embeddings(model), **ragged_prompts()}
    for folded in (True, False):
        if folded:
            masks, scores = answers(model, **inputs)
        else:
            with plain_form(monkeypatch):
                masks, scores = answers(model, **inputs)
        assert (masks[1, 3:] == mask_decoder.NO_OBJECT_LOGIT).all()
        assert (scores[1, 3:] == 0).all()
        assert (masks[0] > mask_decoder.NO_OBJECT_LOGIT).all()


@pytest.mark.parametrize("num_levels", [1, 2, 3, 6])
def test_finer_maps_of_fewer_images_belong_to_objects_that_follow_each_other(
    num_levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("tiny_vit_with_skips")
    *skips, embedding = image_embeddings(model, 6)
    pe = model.prompt_encoder.get_dense_pe((embedding.shape[2], embedding.shape[3]))
    tokens, dense = torch.randn(12, 2, WIDTH), torch.randn(12, *embedding.shape[1:])

    def decoded() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return model.mask_decoder(embedding, pe, tokens, dense, True, [skip[:num_levels] for skip in skips])

    found = decoded()
    with plain_form(monkeypatch):
        assert_same(found, decoded())


def test_nothing_but_padding() -> None:
    model = tiny_model("tiny_vit")
    labels = torch.full((1, 2, 1), -10)
    masks, scores = answers(
        model,
        image_embeddings=image_embeddings(model, 1),
        input_points=labels[..., None].float().expand(-1, -1, -1, 2),
        input_labels=labels,
    )
    assert (masks == mask_decoder.NO_OBJECT_LOGIT).all()
    assert not scores.any()


def add_hook(model: SamVariantsModel) -> None:
    model.mask_decoder.transformer.layers[0].norm4.register_forward_hook(lambda *_: None)


def replace_projection(model: SamVariantsModel) -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    attention = model.mask_decoder.transformer.layers[0].cross_attn_image_to_token
    adapted = Adapted(*attention.q_proj.weight.T.shape)
    adapted.load_state_dict(attention.q_proj.state_dict())
    attention.q_proj = adapted


def use_eager_attention(model: SamVariantsModel) -> None:
    model.set_attn_implementation("eager")


@pytest.mark.parametrize("change", [add_hook, replace_projection, use_eager_attention])
def test_changed_decoders_are_left_alone(change: Any) -> None:
    model = tiny_model("vit")
    with torch.no_grad():
        assert model.mask_decoder.is_foldable(7)
        change(model)
        assert not model.mask_decoder.is_foldable(7)


def test_gradients_autocast_and_long_prompts_take_the_plain_form() -> None:
    decoder = tiny_model("vit").mask_decoder
    assert not decoder.is_foldable(7)
    with torch.no_grad():
        assert not decoder.is_foldable(100)
        with torch.autocast("cpu", torch.bfloat16):
            assert not decoder.is_foldable(7)


def told(form: Any, taken: list[str]) -> Any:
    def call(*given: Any) -> Any:
        taken.append(form.__name__)
        return form(*given)

    return call


@pytest.mark.parametrize(
    ("num_images", "num_objects", "side", "is_folded"),
    [(1, 1, 31, False), (1, 1, 32, True), (1, 2, 4, False), (1, 3, 4, True), (2, 4, 4, False), (2, 6, 4, True)],
)
def test_few_objects_on_small_maps_take_the_plain_form(
    num_images: int, num_objects: int, side: int, is_folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("tiny_vit")
    decoder, taken = model.mask_decoder, list[str]()
    for form in ("_predict_folded", "_predict_plainly"):
        monkeypatch.setattr(MaskDecoder, form, told(getattr(MaskDecoder, form), taken))
    maps = torch.randn(num_images, WIDTH, side, side)
    pe = torch.randn(1, WIDTH, side, side)
    dense = torch.randn(1, WIDTH, 1, 1).expand(num_objects, -1, side, side)
    with torch.no_grad():
        decoder(maps, pe, torch.randn(num_objects, 2, WIDTH), dense)
    assert taken == ["_predict_folded" if is_folded else "_predict_plainly"]


def test_a_mask_that_hides_no_token_is_left_out_of_the_plain_form() -> None:
    decoder = tiny_model("tiny_vit").mask_decoder
    seen: list[Tensor | None] = []
    handle = decoder.transformer.register_forward_pre_hook(lambda module, given: seen.append(given[3]))
    images, pe, tokens = torch.randn(2, WIDTH, 4, 4), torch.randn(1, WIDTH, 4, 4), torch.randn(2, 3, WIDTH)
    given = images, pe, tokens, torch.randn(2, WIDTH, 4, 4)
    all_seen, one_hidden = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[True] * 3, [True, True, False]])
    with torch.no_grad():
        expected = decoder(*given)
        found = decoder(*given, token_mask=all_seen)
        decoder(*given, token_mask=one_hidden)
    with_gradients = decoder(*given, token_mask=all_seen)
    handle.remove()
    assert [mask is None for mask in seen] == [True, True, False, False]
    assert torch.equal(found.masks, expected.masks)
    assert_same((with_gradients.masks.detach(),), (expected.masks,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    model = tiny_model("tiny_vit_with_skips")
    embeddings = image_embeddings(model, 1)
    prompts = {name: prompt[:1] for name, prompt in ragged_prompts().items()}
    expected, _ = answers(model, image_embeddings=embeddings, **prompts)
    found, _ = answers(model.to(dtype), image_embeddings=[level.to(dtype) for level in embeddings], **prompts)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < 0.1 * expected.std()


@each_encoder
def test_the_encoder_alone_in_bfloat16(name: str) -> None:
    model, pixels = tiny_model(name), torch.randn(1, 3, 64, 64)
    prompts = {name: prompt[:1] for name, prompt in ragged_prompts().items()}
    expected, _ = answers(model, pixel_values=pixels, **prompts)
    assert model.encode_in(torch.bfloat16) is model
    assert (model.image_encoder.dtype, model.mask_decoder.dtype) == (torch.bfloat16, torch.float32)
    found, _ = answers(model, pixel_values=pixels.bfloat16(), **prompts)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.2 * expected.std()


def encode_noise(model: Any) -> EncodedImage:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return encode_images(model, processor_for(model).image_processor, [noise])[0]


def test_images_are_encoded_in_the_precision_of_the_encoder() -> None:
    """Also where the model has parameters of its own in another one, as SAM 2's `no_mem_embed`."""
    model, points = tiny_video_model(), np.array([[10.0, 20.0]])
    expected = encode_noise(model).decode(points, None).logits
    found = encode_noise(model.encode_in(torch.bfloat16)).decode(points, None).logits
    assert 0 < (found - expected).abs().max() < 0.2 * expected.std()


def test_scores_that_are_nan_are_no_image_without_masks() -> None:
    model = tiny_model("vit")
    torch.nn.init.constant_(model.mask_decoder.iou_token.weight, torch.nan)
    encoded = encode_noise(model)
    with pytest.raises(ValueError, match=r"scores are NaN: .* overflow in torch\.float32"):
        encoded.decode(np.ones((2, 2)), 0.5)
    with pytest.raises(ValueError, match="scores are NaN"):
        encoded.refine(np.ones((1, 2)), torch.zeros(1, 16, 16), 0.5)


def test_a_hook_of_the_decoder_sees_what_is_proposed() -> None:
    model, calls = tiny_model("vit"), []
    encoded = encode_noise(model)
    before = encoded.decode(np.ones((2, 2)), None)
    model.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    assert_same(encoded.decode(np.ones((2, 2)), None), before)
    assert calls


def test_models_without_memory_have_shapes() -> None:
    model = tiny_model("vit").to("meta")
    with torch.no_grad():
        assert model(pixel_values=torch.empty(1, 3, 64, 64, device="meta")).pred_masks.shape == (1, 1, 3, 16, 16)


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.0, 1e9])
@each_encoder
def test_encoded_images_propose_what_the_model_says(name: str, threshold: float | None, multimask_output: bool) -> None:
    model = tiny_model(name)
    processor = processor_for(model).image_processor
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, 255, (40, 60, 3), dtype=np.uint8),
        generator.integers(0, 255, (70, 30, 3), dtype=np.uint8),
    ]
    points = generator.random((9, 2)) * 30
    for image, encoded in zip(images, encode_images(model, processor, images), strict=True):
        plain = PlainCrop(model, image)
        assert encoded.geometry == plain.geometry
        found = encoded.decode(points, threshold, multimask_output)
        expected = plain.decode(points, threshold, multimask_output)
        assert found.prompts.tolist() == expected.prompts.tolist()
        assert_same((found.scores, found.logits), (expected.scores, expected.logits))
        if threshold is None and not multimask_output:
            refined, wanted = encoded.refine(points, found.logits, None), plain.refine(points, expected.logits, None)
            assert_same((refined.scores, refined.logits), (wanted.scores, wanted.logits))


def test_the_mode_of_a_training_model_is_kept() -> None:
    model = tiny_model("tiny_vit").train()
    processor = processor_for(model).image_processor
    encoded = encode_images(model, processor, [np.zeros((20, 30, 3), np.uint8)])[0]
    encoded.decode(np.ones((2, 2)), None)
    assert model.training
    assert all(module.training for module in model.modules())
