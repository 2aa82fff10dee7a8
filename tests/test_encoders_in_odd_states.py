"""Encoders whose weights change, are watched, transformed, fused in parts or given another precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sam_variants.encoders import hiera
from sam_variants.layers import re_attention, token_linear
from sam_variants.layers.tiny_vit_attention import TinyAttention
from sam_variants.layers.tiny_vit_convolutions import Conv2d_BN
from sam_variants.modeling_sam_variants import SamVariantsModel
from tests.tiny import randomize, tiny_model

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "data": lambda layer: [parameter.data.mul_(3) for parameter in layer.parameters()],
    "in place": lambda layer: [parameter.mul_(3) for parameter in layer.parameters()],
    "new data": lambda layer: [setattr(parameter, "data", parameter.data * 3) for parameter in layer.parameters()],
    "state": lambda layer: layer.load_state_dict({key: 3 * value for key, value in layer.state_dict().items()}),
    "dtype": lambda layer: layer.double(),
    "there and back": lambda layer: layer.bfloat16().float(),
}


@torch.no_grad()
@pytest.mark.parametrize("case", sorted(CHANGES))
def test_a_kept_bias_follows_its_parameter(case: str) -> None:
    layer: Any = randomize(TinyAttention(8, 4, 2, 1, (3, 3))).eval()
    assert layer.ab is layer.ab
    before = layer.ab
    CHANGES[case](layer)
    assert torch.equal(layer.ab, layer.attention_biases[:, layer.attention_bias_idxs])
    assert layer.ab is not before


def test_a_kept_bias_is_left_alone_by_training_and_by_threads() -> None:
    layer: Any = randomize(TinyAttention(8, 4, 2, 1, (3, 3)))
    with torch.no_grad():
        assert layer.ab is layer.ab
    layer.ab.sum().backward()
    assert layer.attention_biases.grad.abs().min() > 0
    failures: list[BaseException] = []

    def use() -> None:
        try:
            with torch.no_grad():
                for _ in range(50):
                    layer.eval()
                    assert torch.equal(layer.ab, layer.attention_biases[:, layer.attention_bias_idxs])
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture
def fast_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_linear, "MIN_PRODUCTS", 1)
    monkeypatch.setattr(re_attention, "MIN_TOKENS", 16)


@torch.no_grad()
@pytest.mark.parametrize("name", ["tiny_vit", "vit"])
def test_transforms_see_plain_layers(name: str, fast_paths: None) -> None:
    """A tangent is that of the function also outside `enable_grad`, and several sets of weights run at once."""
    encoder: Any = tiny_model(name).image_encoder.fuse()
    encoder.set_attn_implementation("eager")  # PyTorch's own kernel has no tangents
    x, direction = IMAGES, torch.randn_like(IMAGES)

    def embed(pixel_values: Tensor) -> Tensor:
        return encoder(pixel_values).last_hidden_state

    with torch.enable_grad():
        _, expected = torch.func.jvp(embed, (x,), (direction,))
    _, tangent = torch.func.jvp(embed, (x,), (direction,))
    torch.testing.assert_close(tangent, expected.detach(), atol=1e-4, rtol=1e-3)
    parameters = {key: torch.stack([value, 1.1 * value]) for key, value in encoder.named_parameters()}
    buffers = dict(encoder.named_buffers())
    both = torch.func.vmap(
        lambda values: torch.func.functional_call(encoder, (values, buffers), (x,)).last_hidden_state
    )(parameters)
    torch.testing.assert_close(both[0], embed(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_hooks_of_blocks_see_whole_maps_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hiera, "BAND_TOKENS", 64)
    encoder: Any = tiny_model("hiera").image_encoder
    expected = encoder(IMAGES).last_hidden_state
    seen: list[tuple[int, ...]] = []
    handle = encoder.trunk.blocks[0].register_forward_hook(lambda *call: seen.append(tuple(call[-1].shape)))
    torch.testing.assert_close(encoder(IMAGES).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
    assert seen == [(1, 16, 16, 8)]
    handle.remove()
    encoder.set_attn_implementation("eager")
    assert len(encoder(IMAGES, output_attentions=True).attentions) == len(encoder.trunk.blocks)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fusing_rounds_once(dtype: torch.dtype) -> None:
    layer: Any = randomize(Conv2d_BN(16, 8, 3, 1, 1)).eval().to(dtype)
    expected = copy.deepcopy(layer).double().fuse()
    fused = layer.fuse()
    assert torch.equal(fused.weight, expected.weight.to(dtype))
    assert torch.equal(fused.bias, expected.bias.to(dtype))


def test_a_frozen_model_stays_frozen_when_it_is_fused() -> None:
    encoder = tiny_model("tiny_vit").image_encoder.requires_grad_(False).fuse()  # type: ignore[operator]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert any(parameter.requires_grad for parameter in tiny_model("tiny_vit").fuse().parameters())


@pytest.mark.parametrize("name", ["tiny_vit", "vit"])
def test_a_model_with_a_fused_part_is_fused(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    assert not model._is_fused
    model.image_encoder.fuse()  # type: ignore[operator]
    assert copy.deepcopy(model)._is_fused
    with pytest.raises(ValueError, match="fused"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="fused"):
        model.train()


def test_what_cannot_be_fused_stays_as_it_was() -> None:
    peft = pytest.importorskip("peft")
    model: Any = tiny_model("tiny_vit")
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["conv1.c"], r=2), model)
    away: Any = tiny_model("tiny_vit").to("meta")
    for broken, message in ((model, "'conv1' is a Conv2d: merge its adapter"), (away, "not in memory")):
        with pytest.raises(ValueError, match=message):
            broken.fuse()
        assert not broken._is_fused
        assert any(isinstance(module, nn.BatchNorm2d) for module in broken.modules())


PROMPTS: dict[str, Any] = {"input_boxes": torch.tensor([[[4.0, 4.0, 30.0, 40.0]]])}


@torch.no_grad()
def test_an_encoder_in_another_precision_takes_the_processors_images(tmp_path: Path) -> None:
    """The model's own precision is that of the prompts and the decoder, also when it is saved."""
    model = tiny_model("vit").encode_in(torch.bfloat16)
    expected = model(pixel_values=IMAGES.bfloat16(), **PROMPTS)
    assert torch.equal(model(pixel_values=IMAGES, **PROMPTS).pred_masks, expected.pred_masks)
    assert model.dtype == torch.float32
    model.save_pretrained(tmp_path)
    loaded = SamVariantsModel.from_pretrained(tmp_path)
    for key, value in loaded.mask_decoder.state_dict().items():
        assert torch.equal(value, model.mask_decoder.state_dict()[key])
    again = loaded.encode_in(torch.bfloat16)(pixel_values=IMAGES, **PROMPTS)
    # Weights that are mapped lie at other places of memory, where a product may round another way.
    torch.testing.assert_close(again.pred_masks, expected.pred_masks, atol=1e-6, rtol=1e-5)
