"""SAM 2's image encoder where the goldens don't look: other sizes, faster paths, recorded outputs, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY_VISION, randomize
from torch import Tensor, nn

from sam_variants.configuration.configuration_hiera import HieraConfig
from sam_variants.encoders import hiera
from sam_variants.encoders.encoder_hiera import ImageEncoder
from sam_variants.encoders.fpn_neck import FpnNeck
from sam_variants.encoders.hiera import Hiera
from sam_variants.layers import token_linear
from sam_variants.layers.mlp import MLP
from sam_variants.layers.multi_scale_attention import MultiScaleAttention
from sam_variants.layers.multi_scale_block import MultiScaleBlock, TokenMLP
from sam_variants.layers.token_linear import MIN_PRODUCTS, TokenLinear

WIDTH = TINY_VISION["hiera"]["out_chans"]


def tiny_encoder(**changes: Any) -> ImageEncoder:
    """Seven blocks in four stages, the fourth block of the third stage global, without a zero anywhere."""
    values = {key: value for key, value in TINY_VISION["hiera"].items() if key != "model_type"}
    return randomize(ImageEncoder(HieraConfig(**{**values, **changes}))).eval()  # type: ignore[return-value]


def levels_of(encoder: ImageEncoder, pixel_values: Tensor, **options: Any) -> list[Tensor]:
    with torch.no_grad():
        output = encoder(pixel_values, **options)
    return [*output.high_resolution_features, output.last_hidden_state]


def assert_same_levels(ours: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(ours) == len(expected) == 3
    for level, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(level, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("changes", "parameters", "widths"),
    [
        ({"stages": (1, 2, 7, 2), "global_att_blocks": (5, 7, 9)}, 27_219_136, [768, 384, 192, 96]),
        ({"stages": (1, 2, 11, 2), "global_att_blocks": (7, 10, 13)}, 34_316_992, [768, 384, 192, 96]),
        ({"embed_dim": 112, "num_heads": 2}, 69_106_816, [896, 448, 224, 112]),
        (
            {
                "embed_dim": 144,
                "num_heads": 2,
                "stages": (2, 6, 36, 4),
                "global_att_blocks": (23, 33, 43),
                "window_spec": (8, 4, 16, 8),
            },
            212_703_280,
            [1152, 576, 288, 144],
        ),
    ],
)
def test_published_sizes(changes: dict[str, Any], parameters: int, widths: list[int]) -> None:
    background = (14, 14) if changes.get("embed_dim") == 112 else (7, 7)
    with torch.device("meta"):
        encoder = ImageEncoder(HieraConfig(window_pos_embed_bkg_spatial_size=background, **changes))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.config.backbone_channel_list == widths
    assert encoder.config.stride == 16
    assert encoder.config.high_resolution_channels == (256, 256)
    assert {"trunk.pos_embed_window", "trunk.blocks.1.mlp.layers.1.bias", "neck.convs.3.conv.weight"} <= set(
        encoder.state_dict()
    )


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), batch=st.integers(1, 2), window=st.sampled_from([4, 6, 8]))
def test_any_multiple_of_sixteen(rows: int, columns: int, batch: int, window: int) -> None:
    encoder = tiny_encoder(window_spec=(window, 4, 6, 3))
    height, width = 16 * rows, 16 * columns
    x = torch.randn(batch, 3, height, width)
    levels = levels_of(encoder, x)
    assert [tuple(level.shape) for level in levels] == [
        (batch, WIDTH, height // stride, width // stride) for stride in (4, 8, 16)
    ]
    padded = F.pad(x, (0, -width % 32, 0, -height % 32))
    assert_same_levels(
        levels,
        [
            level[:, :, : height // stride, : width // stride]
            for level, stride in zip(levels_of(encoder, padded), (4, 8, 16), strict=True)
        ],
    )


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_windows_in_bands_equal_whole_maps(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder()
    assert encoder.trunk.num_nested_blocks == 4
    calls: list[tuple[int, ...]] = []
    first, forward = encoder.trunk.blocks[0], hiera.HieraLayer.forward

    def watched(block: Any, x: torch.Tensor) -> torch.Tensor:
        if block is first:
            calls.append(tuple(x.shape))
        return forward(block, x)

    monkeypatch.setattr(hiera.HieraLayer, "forward", watched)  # hooks get whole maps
    x = torch.randn(2, 3, *size)
    whole = levels_of(encoder, x, output_hidden_states=True)
    at_once = levels_of(encoder, x)
    monkeypatch.setattr(hiera, "BAND_TOKENS", 1)
    assert_same_levels(levels_of(encoder, x), whole)
    assert_same_levels(at_once, whole)
    with_gradient = encoder(x)
    assert_same_levels([*with_gradient.high_resolution_features, with_gradient.last_hidden_state], whole)
    rows, columns = size[0] // 32, size[1] // 32
    windows = (2 * rows * columns, 8, 8, 8)
    assert calls == [(2, size[0] // 4, size[1] // 4, 8), windows, *[(2 * columns, 8, 8, 8)] * rows, windows]


def test_windows_end_where_they_change() -> None:
    assert Hiera(embed_dim=8, stages=(2, 6, 36, 4), window_spec=(8, 4, 16, 8)).num_nested_blocks == 9
    assert Hiera(embed_dim=8, stages=(1, 1, 1, 1), window_spec=(8, 4, 2, 1)).num_nested_blocks == 4
    assert (
        Hiera(embed_dim=8, stages=(1, 2, 1, 1), window_spec=(8, 4, 2, 1), global_att_blocks=(2,)).num_nested_blocks == 2
    )
    assert (
        Hiera(embed_dim=8, stages=(1, 1), window_spec=(8, 4), q_pool=1, global_att_blocks=(0,)).num_nested_blocks == 0
    )


def test_positions_repeat_in_every_window_of_any_map() -> None:
    trunk = tiny_encoder(window_spec=(6, 4, 6, 3)).trunk
    with torch.no_grad():
        positions = trunk._get_pos_embed((16, 21))
        trunk.pos_embed.zero_()
        windows = trunk._get_pos_embed((16, 21))
    assert positions.shape == windows.shape == (1, 16, 21, 8)
    for row, column in ((0, 0), (5, 7), (15, 20), (12, 18)):
        assert torch.equal(windows[0, row, column], trunk.pos_embed_window[0, :, row % 6, column % 6])
    assert (positions - windows).abs().min() > 0


@pytest.mark.parametrize("shape", [(1, 3, 72, 64), (1, 4, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pixel_values"):
        tiny_encoder()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"global_att_blocks": (1,)}, r"global_att_blocks=\(1,\).*pool their queries"),
        ({"global_att_blocks": (7,)}, "global_att_blocks"),
        ({"stages": (1, 2, 0, 1)}, "stages"),
        ({"stages": ()}, "stages"),
        ({"window_spec": (8, 4, 6)}, "window_spec"),
        ({"window_spec": (8, 5, 6, 3)}, "window_spec"),
        ({"window_pos_embed_bkg_spatial_size": (5,)}, "window_pos_embed_bkg_spatial_size"),
        ({"q_pool": 2}, "q_pool=2"),
        ({"q_stride": (2, 1)}, "q_stride"),
        ({"num_heads": 3}, "num_heads=3"),
        ({"scalp": 2}, "scalp=2"),
        ({"fpn_interp_model": "lanczos"}, "fpn_interp_model"),
        ({"fuse_type": "max"}, "fuse_type"),
        ({"fpn_top_down_levels": (4,)}, "fpn_top_down_levels"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"image_size": 40}, "image_size=40"),
    ],
)
def test_refuses_other_configurations(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tiny_encoder(**changes)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: MultiScaleAttention(8, 16, 3), "num_heads"),
        (lambda: MultiScaleBlock(8, 8, 2, window_size=-1), "window_size"),
        (lambda: MultiScaleBlock(8, 16, 2, q_stride=(2, 2)), "q_stride"),
        (lambda: MultiScaleBlock(8, 16, 2, q_stride=(2, 2), window_size=7), "q_stride"),
        (lambda: MultiScaleBlock(8, 16, 2, q_stride=(2, 1), window_size=8), "q_stride"),
        (lambda: Hiera(window_spec=(8, 4)), "window_spec"),
        (lambda: Hiera(q_pool=4), "q_pool"),
        (lambda: FpnNeck(8, [16, 8], fuse_type="max"), "fuse_type"),
        (lambda: FpnNeck(8, [16, 8])([torch.zeros(1, 8, 4, 4)]), "xs holds 1"),
        (lambda: FpnNeck(8, [16, 8])([torch.zeros(1, 8, 5, 4), torch.zeros(1, 16, 2, 2)]), "halve"),
    ],
)
def test_blocks_refuse_wrong_arguments(build: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()


def test_neck_encodes_positions_when_asked() -> None:
    neck = FpnNeck(8, [16, 8])
    xs = [torch.randn(2, 8, 6, 4, dtype=torch.float64), torch.randn(2, 16, 3, 2, dtype=torch.float64)]
    levels, positions = neck.double()(xs)
    assert [level.shape for level in levels] == [position.shape for position in positions]
    assert positions[0].dtype == torch.float64
    assert torch.equal(positions[1], neck.position_encoding(levels[1]))
    only, none = neck(xs, encode_positions=False)
    assert torch.equal(only[0], levels[0])
    assert none == []


def test_records_maps_and_attention() -> None:
    encoder = tiny_encoder()
    x = torch.randn(2, 3, 64, 96)
    expected = levels_of(encoder, x)
    encoder.set_attn_implementation("eager")
    with torch.no_grad():
        output = encoder(x, output_hidden_states=True, output_attentions=True)
    assert_same_levels([*output.high_resolution_features, output.last_hidden_state], expected)
    sides = [(8, 16, 24), (8, 16, 24), (16, 8, 12), (16, 8, 12), *[(32, 4, 6)] * 3, (64, 2, 3)]
    assert [tuple(state.shape) for state in output.hidden_states] == [(2, *side) for side in sides]
    assert [tuple(attention.shape) for attention in output.attentions] == [
        (12, 1, 64, 64),
        (12, 2, 16, 64),
        (12, 2, 16, 16),
        (12, 4, 4, 16),
        (2, 4, 24, 24),
        (2, 4, 36, 36),
        (2, 8, 9, 36),
    ]
    torch.testing.assert_close(output.attentions[4].sum(-1), torch.ones(2, 4, 24))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    encoder = tiny_encoder().train()
    x = torch.randn(1, 3, 64, 96)

    def gradients() -> dict[str, Tensor]:
        encoder.zero_grad()
        output = encoder(x)
        sum(level.square().mean() for level in (output.last_hidden_state, *output.high_resolution_features)).backward()
        return {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}

    expected = gradients()
    assert [name for name, gradient in expected.items() if not gradient.abs().max() > 0] == []
    encoder.gradient_checkpointing_enable()
    calls: list[int] = []
    encoder.trunk.blocks[0].attn.register_forward_pre_hook(lambda *_: calls.append(1))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name])
    assert len(calls) == 2


def test_stochastic_depth_drops_whole_samples_in_training_only() -> None:
    encoder = tiny_encoder(drop_path_rate=0.6)
    rates = [block.drop_path.drop_prob for block in encoder.trunk.blocks]
    torch.testing.assert_close(rates, [0.1 * index for index in range(7)], atol=1e-6, rtol=0)
    samples: list[int] = []
    encoder.trunk.blocks[1].drop_path.register_forward_pre_hook(lambda _, inputs: samples.append(inputs[0].shape[0]))
    x = torch.randn(2, 3, 64, 64)
    assert_same_levels(levels_of(encoder, x), levels_of(encoder, x), tolerance=0)
    encoder.train()
    samples.clear()
    first, second = levels_of(encoder, x), levels_of(encoder, x)
    assert samples == [2] * 4
    assert (first[2] - second[2]).abs().max() > 1e-3


def test_half_precision_stays_close() -> None:
    encoder = tiny_encoder()
    x = torch.randn(1, 3, 64, 96)
    expected = levels_of(encoder, x)
    levels = levels_of(encoder.to(torch.bfloat16), x.to(torch.bfloat16))
    for level, other in zip(levels, expected, strict=True):
        assert level.dtype == torch.bfloat16
        assert (level.float() - other).abs().max() < 0.05 * other.abs().max()


def test_exports_with_a_free_batch_size() -> None:
    encoder = tiny_encoder(stages=(1, 1, 2, 1), global_att_blocks=(3,))
    dynamic = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=8)}}
    with torch.no_grad():
        program = torch.export.export(encoder, (torch.randn(2, 3, 64, 80),), dynamic_shapes=dynamic, strict=False)
        x = torch.randn(3, 3, 64, 80)
        output = program.module()(x)
    assert_same_levels([*output.high_resolution_features, output.last_hidden_state], levels_of(encoder, x))


def test_compiles_as_one_graph() -> None:
    encoder = tiny_encoder(stages=(1, 1, 2, 1), global_att_blocks=(3,))
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 64, 64)
    assert_same_levels(levels_of(compiled, x), levels_of(encoder, x))  # type: ignore[arg-type]


def test_comes_back_from_disk(tmp_path: Path, poison_empty: None) -> None:
    encoder = tiny_encoder()
    encoder.save_pretrained(tmp_path)
    loaded = ImageEncoder.from_pretrained(tmp_path)
    assert list(loaded.config.stages) == [1, 2, 3, 1]
    x = torch.randn(1, 3, 64, 96)
    assert_same_levels(levels_of(loaded, x), levels_of(encoder, x), tolerance=0)
    fresh = ImageEncoder(HieraConfig(**{key: TINY_VISION["hiera"][key] for key in ("stages", "global_att_blocks")}))
    assert not fresh.trunk.pos_embed.any()
    assert not fresh.trunk.pos_embed_window.any()


def test_other_activations() -> None:
    x = torch.randn(1, 3, 64, 64)
    outputs = [levels_of(tiny_encoder(hidden_act=name), x)[2] for name in ("gelu", "relu")]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_token_linear_is_a_linear_layer(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = TokenLinear(6, 5, bias=bias)
    decisions: list[bool] = []
    pays = token_linear.onednn_pays
    monkeypatch.setattr(token_linear, "onednn_pays", lambda *pair: decisions.append(pays(*pair)) or decisions[-1])
    x = torch.randn(2, MIN_PRODUCTS // 100, 3, 12)[..., ::2]  # not contiguous
    expected = F.linear(x, layer.weight, layer.bias)
    with_gradient = layer(x)
    with torch.no_grad():
        few, many, double = layer(x[:, :2]), layer(x), layer.double()(x.double())
    assert decisions == [False, False, True, False]
    assert many.is_contiguous()
    for found in (with_gradient, many, double.float()):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(few, expected[:, :2], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_slice_of_longer_rows_is_made_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN computes with such a weight, but a thousand times slower."""
    monkeypatch.setattr(token_linear, "MIN_PRODUCTS", 1)
    x, rows = torch.randn(5, 8), torch.randn(6, 32)
    seen: list[bool] = []
    product = torch.ops.mkldnn._linear_pointwise

    def watched(x: torch.Tensor, weight: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(weight.is_contiguous() or weight.T.is_contiguous())
        return product(x, weight, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", watched)
    with torch.no_grad():
        for weight in (rows[:, 8:16], rows[:, :8].T.contiguous().T):
            torch.testing.assert_close(token_linear.token_product(x, weight), x @ weight.T)
    assert seen == [True, True]


def test_token_linear_follows_autocast_and_leaves_traces_alone() -> None:
    layer, x = TokenLinear(64, 64), torch.randn(MIN_PRODUCTS // 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert "mkldnn" not in str(torch.jit.trace(layer, x).inlined_graph)


@pytest.mark.parametrize("act", [nn.GELU, nn.SiLU])
def test_token_mlp_equals_mlp_and_keeps_its_input(act: type[nn.Module]) -> None:
    mlp, plain = TokenMLP(6, 24, act), MLP(6, 24, 6, 2, act)
    plain.load_state_dict(mlp.state_dict())
    x = torch.randn(2, 512, 6)
    kept = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), plain(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mlp(x), plain(x), atol=1e-6, rtol=1e-6)
    assert torch.equal(x, kept)
