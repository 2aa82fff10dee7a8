"""Cross-attention between a few tokens and many pixels, with the pixels' projections folded into the tokens' side.

An attention projects all of its keys. Where the other side has a dozen tokens, the same product is cheaper the other
way round: `(K·Wk)·q = K·(Wk·q)`, so that one small matrix per prompt meets the unprojected pixels, in each of the
attention's products. Exact up to rounding; for inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.attention import Attention
from sam_variants.layers.token_linear import batched_product, token_product
from sam_variants.layers.two_way_transformer import TwoWayAttentionBlock

# Numbers of a tile of pixels: 2 MB, so that what is made of a tile is still in the cache when it is used.
TILE_NUMBERS = 1 << 19


class PixelUpdate(NamedTuple):
    """What tokens add to the pixels, as two factors: G×(heads·T)×HW probabilities and G×(heads·T)×C values."""

    probabilities: Tensor
    values: Tensor


Tile = tuple[slice, slice]


def tiles(shape: Sequence[int], device: torch.device) -> Iterator[Tile]:
    """Cut pixels G×HW×C into pieces that suit the device: slices of the prompts and of the pixels."""
    if device.type != "cpu":
        yield slice(None), slice(None)
        return
    num_prompts, num_pixels, channels = shape
    prompts = max(1, TILE_NUMBERS // (num_pixels * channels))
    pixels = max(1, TILE_NUMBERS // channels)
    for prompt in range(0, num_prompts, prompts):
        for pixel in range(0, num_pixels, pixels):
            yield slice(prompt, prompt + prompts), slice(pixel, pixel + pixels)


def match_pixels(looked_for: Tensor, pixels: Tensor, pixel_pe: Tensor) -> Tensor:
    """Products of G×N×C with pixels G×HW×C and their position term 1×HW×C, G×N×HW."""
    matches = looked_for.new_empty(*looked_for.shape[:2], pixels.shape[1])
    for prompts, part in tiles(pixels.shape, pixels.device):
        matches[prompts, :, part] = batched_product(looked_for[prompts], pixels[prompts, part] + pixel_pe[:, part])
    return matches


def update_pixels(norm: nn.Module, pixels: Tensor, update: PixelUpdate, out: Tensor) -> Tensor:
    """`norm(pixels + update)` of pixels 1×HW×C or G×HW×C, written into `out` G×HW×C, which may be the pixels."""
    for prompts, part in tiles(out.shape, out.device):
        probabilities, values = update.probabilities[prompts, :, part], update.values[prompts]
        added = batched_product(probabilities.transpose(1, 2), values.transpose(1, 2))
        out[prompts, part] = norm(added.add_(pixels[prompts if len(pixels) > 1 else slice(None), part]))
    return out


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """B×N×D → B×heads×N×d."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def per_head(projection: nn.Linear, num_heads: int) -> tuple[Tensor, Tensor]:
    """Weight heads×d×C and bias heads×d×1 of a projection to heads."""
    bias = projection.bias
    return projection.weight.unflatten(0, (num_heads, -1)), bias.reshape(num_heads, -1, 1)


def tokens_to_pixels(attention: Attention, tokens: Tensor, pixels: Tensor, pixel_pe: Tensor) -> Tensor:
    """`attention(tokens, pixels + pixel_pe, pixels)`.

    Args:
        attention: the layer, whose keys and values are the pixels.
        tokens: G×T×C, with their position term.
        pixels: G×HW×C.
        pixel_pe: 1×HW×C.

    Returns:
        G×T×C.
    """
    heads = attention.num_heads
    queries = split_heads(attention.q_proj(tokens), heads)
    key_weight, _ = per_head(attention.k_proj, heads)
    # A bias of the keys adds the same to all logits of a query, which softmax doesn't see.
    looked_for = (queries * queries.shape[-1] ** -0.5) @ key_weight
    logits = match_pixels(looked_for.flatten(1, 2), pixels, pixel_pe)
    gathered = batched_product(logits.softmax(dim=-1), pixels.transpose(1, 2)).unflatten(1, (heads, -1))
    value_weight, value_bias = per_head(attention.v_proj, heads)
    values = gathered @ value_weight.transpose(1, 2) + value_bias.transpose(1, 2)
    return attention.out_proj(values.transpose(1, 2).flatten(2))


def shared_tokens_to_pixels(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same where all prompts see the same pixels, which were projected once.

    Args:
        attention: the layer.
        tokens: G×T×C, with their position term.
        keys, values: 1×heads×HW×d.

    Returns:
        G×T×C.
    """
    queries = split_heads(attention.q_proj(tokens).flatten(0, 1)[None], attention.num_heads)
    attended = F.scaled_dot_product_attention(queries, keys, values)
    return attention.out_proj(attended.transpose(1, 2).flatten(2).unflatten(1, tokens.shape[:2])[0])


def pixels_to_tokens(
    attention: Attention,
    tokens_with_pe: Tensor,
    tokens: Tensor,
    token_mask: Tensor | None,
    pixels: Tensor,
    pixel_pe: Tensor,
    shared_queries: Tensor | None = None,
) -> PixelUpdate:
    """`attention(pixels + pixel_pe, tokens_with_pe, tokens, token_mask)`, in factors.

    Args:
        attention: the layer, whose queries are the pixels.
        tokens_with_pe, tokens: G×T×C.
        token_mask: G×T bool, False for padding.
        pixels: G×HW×C.
        pixel_pe: 1×HW×C.
        shared_queries: the pixels' queries 1×heads×HW×d instead, where all prompts see the same pixels.

    Returns:
        `PixelUpdate`.
    """
    heads = attention.num_heads
    keys = split_heads(attention.k_proj(tokens_with_pe), heads)
    keys = keys * keys.shape[-1] ** -0.5
    if shared_queries is None:
        query_weight, query_bias = per_head(attention.q_proj, heads)
        looked_for, offsets = (keys @ query_weight).flatten(1, 2), (keys @ query_bias).flatten(1, 2)
        logits = match_pixels(looked_for, pixels, pixel_pe).add_(offsets).unflatten(1, (heads, -1))
    else:
        logits = keys @ shared_queries.transpose(2, 3)
    if token_mask is not None:
        logits = logits.masked_fill(~token_mask[:, None, :, None], float("-inf"))
    probabilities = logits.softmax(dim=2).flatten(1, 2)
    values = split_heads(attention.v_proj(tokens), heads) @ attention.out_proj.weight.T.unflatten(0, (heads, -1))
    # The probabilities of a head sum to one: a bias on the values of one head is added once to every pixel.
    values = torch.cat([values[:, :1] + attention.out_proj.bias, values[:, 1:]], dim=1)
    return PixelUpdate(probabilities, values.flatten(1, 2))


class SharedPixels(NamedTuple):
    """The first block's projections of pixels that all prompts share, each 1×heads×HW×d."""

    keys: Tensor
    values: Tensor
    queries: Tensor

    @classmethod
    def project(cls, block: TwoWayAttentionBlock, pixels: Tensor, pixels_with_pe: Tensor) -> SharedPixels:
        """Project pixels 1×HW×C for both cross-attentions of a block."""
        inward, outward = block.cross_attn_token_to_image, block.cross_attn_image_to_token
        projections = (
            (inward.k_proj, pixels_with_pe, inward.num_heads),
            (inward.v_proj, pixels, inward.num_heads),
            (outward.q_proj, pixels_with_pe, outward.num_heads),
        )
        return cls(*(split_heads(token_product(x, to.weight, to.bias), heads) for to, x, heads in projections))


def folded_block(
    block: TwoWayAttentionBlock,
    tokens: Tensor,
    token_pe: Tensor,
    token_mask: Tensor | None,
    pixels: Tensor,
    pixel_pe: Tensor,
    shared: SharedPixels | None,
    out: Tensor,
) -> tuple[Tensor, Tensor]:
    """`block(tokens, pixels, token_pe, pixel_pe, token_mask)`.

    Args:
        block: the two-way block.
        tokens, token_pe: G×T×C.
        token_mask: G×T bool, False for padding.
        pixels: G×HW×C, or 1×HW×C with `shared`.
        pixel_pe: 1×HW×C.
        shared: the projections of pixels that all prompts share.
        out: where the new pixels go, G×HW×C; may be `pixels`.

    Returns:
        Tokens G×T×C and pixels G×HW×C.
    """
    attended_by = None if token_mask is None else token_mask[:, None, None, :]
    if block.skip_first_layer_pe:
        tokens = block.self_attn(tokens, tokens, tokens, attended_by)
    else:
        with_pe = tokens + token_pe
        tokens = tokens + block.self_attn(with_pe, with_pe, tokens, attended_by)
    tokens = block.norm1(tokens)
    inward, outward = block.cross_attn_token_to_image, block.cross_attn_image_to_token
    if shared is None:
        attended = tokens_to_pixels(inward, tokens + token_pe, pixels, pixel_pe)
    else:
        attended = shared_tokens_to_pixels(inward, tokens + token_pe, shared.keys, shared.values)
    tokens = block.norm2(tokens + attended)
    tokens = block.norm3(tokens + block.mlp(tokens))
    queries = None if shared is None else shared.queries
    update = pixels_to_tokens(outward, tokens + token_pe, tokens, token_mask, pixels, pixel_pe, queries)
    return tokens, update_pixels(block.norm4, pixels, update, out)
