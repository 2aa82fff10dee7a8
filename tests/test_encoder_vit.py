"""The ViT encoder where the goldens don't look: other sizes, recorded outputs, checkpointing, initialisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sam_variants.configuration.configuration_vit import ImageEncoderViTConfig
from sam_variants.encoders.encoder_vit import ImageEncoderViT


def tiny_encoder(**changes: Any) -> ImageEncoderViT:
    """Three blocks, the middle one global, with random, never-zero weights."""
    sizes: dict[str, Any] = {"image_size": 64, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
    more: dict[str, Any] = {"out_chans": 12, "window_size": 3, "global_attn_indexes": (1,)}
    encoder = ImageEncoderViT(ImageEncoderViTConfig(**{**sizes, **more, **changes})).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_((torch.rand_like(parameter) * 0.2 + 0.05) * torch.randn_like(parameter).sign())
    return encoder


def test_takes_other_sizes_that_are_not_square() -> None:
    encoder = tiny_encoder()
    output = encoder(torch.randn(2, 3, 40, 96), output_hidden_states=True)
    assert output.last_hidden_state.shape == (2, 12, 5, 12)
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, 16, 5, 12)] * 4
    assert output.last_hidden_state.isfinite().all()


def test_positions_are_resized_as_the_configuration_says() -> None:
    x = torch.randn(1, 3, 40, 96)
    encoder = tiny_encoder()
    outputs = []
    for mode in ("bicubic", "bilinear", "nearest"):
        encoder.config.pos_embed_interpolation = mode
        outputs.append(encoder(x).last_hidden_state)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
    assert (outputs[1] - outputs[2]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="pos_embed_interpolation"):
        ImageEncoderViTConfig(pos_embed_interpolation="lanczos")


@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 4, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pixel_values"):
        tiny_encoder()(torch.zeros(shape))


def test_records_attention_maps() -> None:
    encoder = tiny_encoder()
    x = torch.randn(1, 3, 64, 40)
    expected = encoder(x)
    encoder.set_attn_implementation("eager")
    output = encoder(x, output_attentions=True)
    torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state)
    assert [tuple(attention.shape) for attention in output.attentions] == [(6, 2, 9, 9), (1, 2, 40, 40), (6, 2, 9, 9)]
    torch.testing.assert_close(output.attentions[1].sum(-1), torch.ones(1, 2, 40))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    encoder = tiny_encoder().train()
    x = torch.randn(1, 3, 64, 40)
    encoder(x).last_hidden_state.square().mean().backward()
    expected = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}
    assert [name for name, gradient in expected.items() if not gradient.abs().max() > 0] == []
    encoder.zero_grad()
    encoder.gradient_checkpointing_enable()
    encoder(x).last_hidden_state.square().mean().backward()
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_positions_start_at_zero_or_small(poison_empty: None) -> None:
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    zeros = ImageEncoderViT(ImageEncoderViTConfig(**sizes))
    assert not zeros.pos_embed.any()
    assert not zeros.blocks[0].attn.rel_pos_h.any()
    drawn = ImageEncoderViT(ImageEncoderViTConfig(**sizes, rel_pos_zero_init=False))
    assert 0 < drawn.blocks[0].attn.rel_pos_w.abs().max() < 0.1
    plain = ImageEncoderViT(ImageEncoderViTConfig(**sizes, use_abs_pos=False, use_rel_pos=False))
    assert plain.pos_embed is None
    assert plain(torch.zeros(1, 3, 32, 32)).last_hidden_state.isfinite().all()


def test_comes_back_from_disk(tmp_path: Path, poison_empty: None) -> None:
    encoder = tiny_encoder(pos_embed_interpolation="nearest")
    encoder.save_pretrained(tmp_path)
    loaded = ImageEncoderViT.from_pretrained(tmp_path)
    assert loaded.config.pos_embed_interpolation == "nearest"
    x = torch.randn(1, 3, 40, 96)
    assert torch.equal(loaded(x).last_hidden_state, encoder(x).last_hidden_state)


def test_exports_with_a_free_batch_size() -> None:
    encoder = tiny_encoder()
    dynamic = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=8)}}
    x = torch.randn(2, 3, 64, 40)
    with torch.no_grad():
        program = torch.export.export(encoder, (x,), dynamic_shapes=dynamic, strict=False).module()
        three = torch.randn(3, 3, 64, 40)
        torch.testing.assert_close(program(three).last_hidden_state, encoder(three).last_hidden_state)
