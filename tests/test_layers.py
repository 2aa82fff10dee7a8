"""The layers where the goldens don't look: refusals, other sizes, other dtypes, tracing, memory and random numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sam_variants.layers.attention import Attention
from sam_variants.layers.cx_block import CXBlock
from sam_variants.layers.drop_path import DropPath
from sam_variants.layers.fuser import Fuser
from sam_variants.layers.layer_norm_2d import LayerNorm2d
from sam_variants.layers.mask_down_sampler import MaskDownSampler
from sam_variants.layers.mlp import MLP, MLPBlock
from sam_variants.layers.patch_embed import PatchEmbed
from sam_variants.layers.position_embedding_random import PositionEmbeddingRandom
from sam_variants.layers.position_embedding_sine import PositionEmbeddingSine
from sam_variants.layers.re_attention import REAttention
from sam_variants.layers.rope_attention import RoPEAttention, axial_rotary_angles, rotate_pairs
from sam_variants.layers.sam2_two_way_transformer import SAM2TwoWayAttentionBlock, SAM2TwoWayTransformer
from sam_variants.layers.tiny_vit_attention import BasicLayer, TinyAttention, TinyMLP, TinyViTBlock
from sam_variants.layers.tiny_vit_convolutions import Conv2d_BN, ConvLayer, MBConv, PatchMerging, TinyPatchEmbed
from sam_variants.layers.two_way_transformer import TwoWayAttentionBlock, TwoWayTransformer
from sam_variants.layers.vit_block import Block
from sam_variants.layers.windows import window_partition, window_unpartition

TWO_WAY_SHAPES = ((2, 3, 16), (2, 20, 16), (2, 3, 16), (2, 20, 16))
TRANSFORMER_SHAPES = ((2, 16, 4, 5), (2, 16, 4, 5), (2, 3, 16))

# Every layer that has parameters, with the shapes of its inputs; maps are not square.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "attention": (lambda: Attention(16, 2, downsample_rate=2, kv_in_dim=12), ((2, 3, 16), (2, 7, 12), (2, 7, 12))),
    "basic_layer": (lambda: BasicLayer(16, (5, 7), 2, 2, 3, downsample=PatchMerging, out_dim=24), ((2, 35, 16),)),
    "block_global": (lambda: Block(16, 2, use_rel_pos=True, input_size=(5, 7)), ((2, 5, 7, 16),)),
    "block_windows": (lambda: Block(16, 2, use_rel_pos=True, window_size=3), ((2, 5, 7, 16),)),
    "conv2d_bn": (lambda: Conv2d_BN(6, 8, 3, 2, 1), ((2, 6, 5, 7),)),
    "conv_layer": (lambda: ConvLayer(8, (6, 4), 2, nn.GELU, downsample=PatchMerging, out_dim=12), ((2, 8, 6, 4),)),
    "cx_block": (lambda: CXBlock(8, drop_path=0.0), ((2, 8, 5, 7),)),
    "fuser": (lambda: Fuser(CXBlock(8), 2, dim=8, input_projection=True), ((2, 8, 5, 7),)),
    "layer_norm_2d": (lambda: LayerNorm2d(6), ((2, 6, 5, 7),)),
    "mask_down_sampler": (lambda: MaskDownSampler(8, total_stride=4, interpol_size=(8, 12)), ((2, 1, 9, 11),)),
    "mbconv": (lambda: MBConv(8, 8, 2.0, nn.GELU), ((2, 8, 5, 7),)),
    "mlp": (lambda: MLP(8, 12, 8, 3, sigmoid=True, residual=True, out_norm=nn.LayerNorm(8)), ((2, 3, 8),)),
    "mlp_block": (lambda: MLPBlock(8, 12), ((2, 3, 8),)),
    "patch_embed": (lambda: PatchEmbed((7, 7), (4, 4), (3, 3), embed_dim=8), ((2, 3, 16, 24),)),
    "patch_merging": (lambda: PatchMerging((4, 6), 8, 12, nn.GELU), ((2, 24, 8),)),
    "re_attention": (lambda: REAttention(16, 2, use_rel_pos=True, input_size=(4, 4)), ((2, 5, 7, 16),)),
    "rope_attention": (
        lambda: RoPEAttention(16, 2, kv_in_dim=12, rope_k_repeat=True, feat_sizes=(2, 3)),
        ((2, 6, 16), (2, 12, 12), (2, 12, 12)),
    ),
    "sam2_two_way_block": (lambda: SAM2TwoWayAttentionBlock(16, 2, 24), TWO_WAY_SHAPES),
    "sam2_two_way_transformer": (lambda: SAM2TwoWayTransformer(2, 16, 2, 24), TRANSFORMER_SHAPES),
    "tiny_attention": (lambda: TinyAttention(16, 8, 2, 2, (3, 5)), ((2, 15, 16),)),
    "tiny_mlp": (lambda: TinyMLP(8, 12), ((2, 3, 8),)),
    "tiny_patch_embed": (lambda: TinyPatchEmbed(3, 8, 16, nn.GELU), ((2, 3, 16, 24),)),
    "tiny_vit_block": (lambda: TinyViTBlock(16, (5, 7), 2, window_size=3), ((2, 35, 16),)),
    "two_way_block": (lambda: TwoWayAttentionBlock(16, 2, 24), TWO_WAY_SHAPES),
    "two_way_transformer": (lambda: TwoWayTransformer(2, 16, 2, 24), TRANSFORMER_SHAPES),
}

REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "attention heads": (lambda: Attention(16, 3), "num_heads"),
    "attention width": (lambda: Attention(2, 1, downsample_rate=4), "num_heads"),
    "block window": (lambda: Block(16, 2, window_size=-1), "window_size"),
    "cx_block padding": (lambda: CXBlock(8, kernel_size=7, padding=2), "padding"),
    "drop_path negative": (lambda: DropPath(-0.1), "drop_prob"),
    "drop_path one": (lambda: DropPath(1.0), "drop_prob"),
    "fuser dim": (lambda: Fuser(nn.Identity(), 2, input_projection=True), "dim"),
    "fuser layers": (lambda: Fuser(nn.Identity(), 0), "num_layers"),
    "mask_down_sampler stride": (lambda: MaskDownSampler(stride=4, total_stride=32), "total_stride"),
    "mask_down_sampler stride one": (lambda: MaskDownSampler(stride=1, total_stride=2), "total_stride"),
    "mbconv channels": (lambda: MBConv(8, 12, 2.0, nn.GELU), "in_chans"),
    "mlp layers": (lambda: MLP(8, 8, 8, 0), "num_layers"),
    "mlp residual": (lambda: MLP(8, 8, 4, 2, residual=True), "residual"),
    "re_attention heads": (lambda: REAttention(16, 3), "num_heads"),
    "re_attention input size": (lambda: REAttention(16, 2, use_rel_pos=True), "input_size"),
    "rope head": (lambda: RoPEAttention(12, 2), "multiple of 4"),
    "rope heads": (lambda: RoPEAttention(16, 3), "num_heads"),
    "rope queries": (lambda: rope_forward(6, 6, feat_sizes=(2, 2)), "feat_sizes"),
    "rope keys": (lambda: rope_forward(4, 8, feat_sizes=(2, 2)), "rope_k_repeat"),
    "rope keys in part": (lambda: rope_forward(4, 7, feat_sizes=(2, 2), rope_k_repeat=True), "multiple"),
    "sine channels": (lambda: PositionEmbeddingSine(10), "num_pos_feats"),
    "sine scale": (lambda: PositionEmbeddingSine(8, normalize=False, scale=1.0), "scale"),
    "sine labels": (
        lambda: PositionEmbeddingSine(8).encode_points(torch.rand(1, 2), torch.rand(1, 2), torch.ones(1, 3)),
        "labels",
    ),
    "tiny_vit_block heads": (lambda: TinyViTBlock(16, (4, 4), 3), "num_heads"),
    "tiny_vit_block tokens": (lambda: TinyViTBlock(16, (4, 4), 2)(torch.rand(1, 15, 16)), "tokens"),
    "tiny_vit_block window": (lambda: TinyViTBlock(16, (4, 4), 2, window_size=0), "window_size"),
    "window size": (lambda: window_partition(torch.rand(1, 4, 4, 2), 0), "window_size"),
    "window padding": (lambda: window_unpartition(torch.rand(4, 2, 2, 1), 2, (4, 4), (5, 4)), "padded_size"),
}


def rope_forward(num_queries: int, num_keys: int, **arguments: object) -> Tensor:
    keys = torch.rand(1, num_keys, 16)
    return RoPEAttention(16, 2, **arguments)(torch.rand(1, num_queries, 16), keys, keys)


def build(name: str) -> tuple[nn.Module, list[Tensor]]:
    """A layer with random, never-zero weights in eval mode, and inputs for it."""
    factory, shapes = LAYERS[name]
    module = factory().eval()
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            random = torch.rand_like(value) * 0.5 + 0.1
            value.copy_(random if "running_var" in key else random * torch.randn_like(value).sign())
    return module, [torch.randn(shape) for shape in shapes]


def tensors_of(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name: str) -> None:
    make, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    module, inputs = build(name)
    expected = tensors_of(module(*inputs))
    actual = tensors_of(module.to(dtype)(*[x.to(dtype) for x in inputs]))
    for ours, reference in zip(actual, expected, strict=True):
        assert ours.dtype == dtype
        assert (ours.float() - reference).norm() < 0.05 * reference.norm()


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    module, inputs = build(name)
    sum((output * torch.randn_like(output)).sum() for output in tensors_of(module(*inputs))).backward()
    without = [key for key, value in module.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    # A key bias moves all scores of a query by the same amount, so its gradient is rounding or exactly zero.
    assert [key for key in without if not key.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("name", LAYERS)
def test_traces_without_a_break(name: str) -> None:
    module, inputs = build(name)
    with torch.no_grad():
        expected = tensors_of(module(*inputs))
        actual = tensors_of(torch.export.export(module, tuple(inputs), strict=False).module()(*inputs))
    for ours, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("name", LAYERS)
def test_building_writes_all_memory_and_leaves_the_process_alone(name: str, poison_empty: None) -> None:
    before = (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled())
    torch.manual_seed(3)
    first = LAYERS[name][0]().state_dict()
    drawn = torch.rand(4)
    torch.manual_seed(4)
    LAYERS[name][0]()
    assert not torch.equal(torch.rand(4), drawn), "building reseeds the random numbers"
    unwritten = [key for key, value in first.items() if not value.isfinite().all()]
    assert unwritten == []
    after = (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled())
    assert after == before


def test_layers_without_parameters_draw_no_random_numbers() -> None:
    before = torch.get_rng_state()
    PositionEmbeddingSine(8)(torch.rand(1, 1, 2, 3, generator=torch.Generator()))
    DropPath(0.5).eval()(torch.ones(2, 3))
    axial_rotary_angles(8, (2, 3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scale_by_keep", [True, False])
def test_drop_path_drops_whole_samples_at_its_rate(scale_by_keep: bool) -> None:
    drop_path = DropPath(0.3, scale_by_keep=scale_by_keep)
    x = torch.rand(20000, 2, 2) + 0.5
    assert torch.equal(drop_path.eval()(x), x)
    factor = drop_path.train()(x) / x
    torch.testing.assert_close(factor, factor[:, :1, :1].expand_as(factor))
    kept = factor[:, 0, 0] > 0
    assert abs(kept.float().mean().item() - 0.7) < 0.02
    torch.testing.assert_close(factor[kept], torch.full_like(factor[kept], 1 / 0.7 if scale_by_keep else 1.0))


@given(height=st.integers(1, 9), width=st.integers(1, 9), window=st.integers(1, 6), batch=st.integers(1, 2))
@settings(deadline=None, max_examples=40)
def test_windows_come_together_again(height: int, width: int, window: int, batch: int) -> None:
    x = torch.arange(1.0, batch * height * width * 2 + 1).reshape(batch, height, width, 2)
    windows, padded_size = window_partition(x, window)
    assert windows.shape[0] == batch * (padded_size[0] // window) * (padded_size[1] // window)
    assert torch.equal(windows[0, : min(height, window), : min(width, window)], x[0, :window, :window])
    assert windows.sum() == x.sum(), "the padding is not zero, or a token is lost"
    assert torch.equal(window_unpartition(windows, window, padded_size, (height, width)), x)


def test_windowed_block_looks_no_further_than_its_window() -> None:
    block, (x,) = build("block_windows")
    changed = x.clone()
    changed[:, 4, 1] += torch.randn(16)
    moved = (block(changed) - block(x)).abs().amax(dim=(0, 3)) > 0
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[3:, :3] = True
    assert torch.equal(moved, expected)


def test_relative_positions_of_another_size_are_resized() -> None:
    attention = REAttention(8, 2, use_rel_pos=True, rel_pos_zero_init=False, input_size=(3, 4))
    assert attention.rel_pos_h.shape == (5, 4)
    assert attention.rel_pos_w.shape == (7, 4)
    assert attention.rel_pos_w.abs().min() > 0
    assert not REAttention(8, 2, use_rel_pos=True, input_size=(3, 4)).rel_pos_h.any()
    x = torch.randn(1, 6, 2, 8)
    with_bias = attention(x)
    attention.use_rel_pos = False
    assert (attention(x) - with_bias).abs().max() > 1e-6


def test_mask_of_another_size_is_resized_in_float32() -> None:
    sampler, _ = build("mask_down_sampler")
    mask = torch.randn(2, 1, 19, 23)
    assert sampler(mask).shape == (2, 8, 2, 3)
    small = nn.functional.interpolate(mask, (8, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(sampler(mask), sampler(small))


def test_fuser_copies_are_independent() -> None:
    layer = CXBlock(4)
    fuser = Fuser(layer, 2)
    with torch.no_grad():
        fuser.layers[0].pwconv1.weight.fill_(1.0)
    assert not torch.equal(fuser.layers[1].pwconv1.weight, fuser.layers[0].pwconv1.weight)
    assert torch.equal(fuser.layers[1].pwconv1.weight, layer.pwconv1.weight)


def test_sine_encoding_is_kept_per_size_device_and_dtype() -> None:
    encoding = PositionEmbeddingSine(8)
    first = encoding(torch.zeros(2, 1, 3, 5))
    assert first.shape == (2, 8, 3, 5)
    kept = first.clone()
    first.fill_(7.0)
    assert torch.equal(encoding(torch.ones(2, 4, 3, 5)), kept), "the caller's tensor is the kept one"
    assert encoding(torch.zeros(1, 1, 5, 3)).shape == (1, 8, 5, 3)
    half = encoding(torch.zeros(2, 1, 3, 5, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), kept, atol=0.01, rtol=0)
    assert len(encoding._cache) == 3


def test_sine_encoding_made_in_inference_mode_or_under_trace_is_no_trap() -> None:
    encoding = PositionEmbeddingSine(8)
    torch.export.export(encoding, (torch.zeros(1, 1, 3, 5),), strict=False)
    assert not encoding._cache
    with torch.inference_mode():
        encoding(torch.zeros(1, 1, 3, 5))
    weight = torch.ones(8, 1, 1, requires_grad=True)
    (encoding(torch.zeros(1, 1, 3, 5)) * weight).sum().backward()
    assert weight.grad is not None


def test_sine_encoding_of_a_map_is_that_of_its_points() -> None:
    encoding = PositionEmbeddingSine(8)
    height, width = 3, 5
    rows, columns = torch.meshgrid(torch.arange(1.0, height + 1), torch.arange(1.0, width + 1), indexing="ij")
    x, y = (columns / width).reshape(1, -1), (rows / height).reshape(1, -1)
    points = encoding.encode_points(x, y, torch.ones_like(x))[0, :, :8]
    grid = encoding(torch.zeros(1, 1, height, width))[0]
    torch.testing.assert_close(points, grid.flatten(1).T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(3, 3), (2, 5)])
def test_rotary_scores_depend_on_the_offset_only(size: tuple[int, int]) -> None:
    height, width = size
    angles = axial_rotary_angles(8, size)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    count = height * width
    queries, keys = (rotate_pairs(x.expand(-1, -1, count, -1), angles.cos(), angles.sin()) for x in (query, key))
    scores = (queries @ keys.transpose(-2, -1))[0, 0].reshape(height, width, height, width)
    torch.testing.assert_close(scores[0, 0, 1, 1], scores[height - 2, width - 2, height - 1, width - 1])
    assert (scores[0, 0, 0, 1] - scores[0, 0, 1, 0]).abs() > 1e-3


def test_rotary_map_is_width_by_height_and_other_squares_are_taken() -> None:
    attention, _ = build("rope_attention")
    assert attention._map_size(6) == (3, 2)
    assert attention._map_size(25) == (5, 5)


def test_keys_without_position_are_a_set() -> None:
    attention, (q, k, _) = build("rope_attention")
    order = torch.tensor([*range(9), 11, 9, 10])
    kept = attention(q, k[:, :9], k[:, :9], num_k_exclude_rope=3)
    assert kept.shape == q.shape
    torch.testing.assert_close(
        attention(q, k, k, num_k_exclude_rope=6), attention(q, k[:, order], k[:, order], num_k_exclude_rope=6)
    )
    swapped = torch.tensor([1, 0, *range(2, 12)])
    moved = attention(q, k[:, swapped], k[:, swapped], num_k_exclude_rope=6) - attention(q, k, k, num_k_exclude_rope=6)
    assert moved.abs().max() > 1e-4


def test_random_encoding_leaves_its_input_alone() -> None:
    encoding = PositionEmbeddingRandom(6)
    coords = torch.rand(2, 3, 2) * 10
    before = coords.clone()
    assert encoding.forward_with_coords(coords, (10, 20)).shape == (2, 3, 12)
    assert torch.equal(coords, before)


def test_tiny_vit_block_takes_a_map_of_another_size() -> None:
    block, _ = build("tiny_vit_block")
    x = torch.randn(1, 24, 16)
    assert block(x, (4, 6)).shape == x.shape
    assert (block(x, (4, 6)) - block(x, (6, 4))).abs().max() > 1e-4


def test_folded_convolution_is_the_same_map() -> None:
    convolution, (x,) = build("conv2d_bn")
    torch.testing.assert_close(convolution.fuse()(x), convolution(x))
