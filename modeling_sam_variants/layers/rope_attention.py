"""Attention with axial rotary position encoding, as in SAM 2's memory attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam_variants.layers.attention import Attention
from sam_variants.layers.blockwise_attention import blocks_pay, blockwise_attention
from sam_variants.layers.token_linear import TokenLinear

COMPLEX_DEVICES = ("cpu", "cuda")


def axial_rotary_angles(
    head_dim: int, size: tuple[int, int], theta: float = 10000.0, device: torch.device | None = None
) -> Tensor:
    """Rotation angles of a map's tokens: half of the channel pairs turn with the column, half with the row.

    Args:
        head_dim: channels of an attention head, a multiple of four.
        size: (H, W) of the map.
        theta: base of the geometric series of frequencies.
        device: where to make the table.

    Returns:
        (H·W)×(head_dim / 2) angles in radians, float32, tokens row by row.
    """
    height, width = size
    exponents = torch.arange(0, head_dim, 4, dtype=torch.float32, device=device) / head_dim
    frequencies = 1.0 / theta**exponents
    by_row = torch.arange(height, dtype=torch.float32, device=device)[:, None] * frequencies
    by_column = torch.arange(width, dtype=torch.float32, device=device)[:, None] * frequencies
    grid = (by_column[None].expand(height, -1, -1), by_row[:, None].expand(-1, width, -1))
    return torch.cat(grid, dim=-1).flatten(0, 1)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring channels of …×N×d by angles, given as cosine and sine N×(d / 2), in float32 or better.

    On CPU and CUDA a pair is one complex number, which takes a single pass instead of seven; while a graph is traced,
    and elsewhere, it is two real ones. The values are the same.
    """
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if x.device.type in COMPLEX_DEVICES and not torch.compiler.is_compiling():
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    else:
        first, second = pairs.unbind(-1)
        rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


class RoPEAttention(Attention):
    """`Attention` with rotary encoding of queries and keys on a 2-D map; follows SAM 2's `RoPEAttention`.

    Different from there: the angles are computed in the forward, in float32, so that they follow every device, and
    the module can be compiled and exported.

    Args:
        embedding_dim: channels of queries and output.
        num_heads: attention heads.
        downsample_rate: embedding_dim over the channels inside the attention.
        kv_in_dim: channels of keys and values; None for embedding_dim.
        rope_theta: base of the rotary frequencies.
        rope_k_repeat: whether keys may be several maps in a row, each encoded like the queries' map.
        feat_sizes: (width, height) of the queries' map, in SAM 2's order. Another number of queries is taken as a
            square map.
        dropout: dropout on the attention probabilities in train mode.

    Raises:
        ValueError: the heads don't divide the channels, or a head's channels are not a multiple of four.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        downsample_rate: int = 1,
        kv_in_dim: int | None = None,
        *,
        rope_theta: float = 10000.0,
        rope_k_repeat: bool = False,
        feat_sizes: Sequence[int] = (32, 32),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding_dim, num_heads, downsample_rate, kv_in_dim)
        for name, linear in list(self.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(self, name, TokenLinear(linear.in_features, linear.out_features))
        self.head_dim = self.internal_dim // num_heads
        if self.head_dim % 4:
            raise ValueError(
                f"the channels of a head must be a multiple of 4 for two rotary axes, got {self.head_dim}."
            )
        self.rope_theta = rope_theta
        self.rope_k_repeat = rope_k_repeat
        self.feat_sizes = (int(feat_sizes[0]), int(feat_sizes[1]))
        self.dropout = dropout

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, num_k_exclude_rope: int = 0
    ) -> Tensor:
        """Attend from queries to keys.

        Args:
            q: B×Nq×embedding_dim, a map row by row.
            k: B×Nk×kv_in_dim, one map like the queries', or several with `rope_k_repeat`, then `num_k_exclude_rope`
                keys without position.
            v: B×Nk×kv_in_dim.
            mask: as in `AttentionCore`.
            num_k_exclude_rope: keys at the end that are not rotated (object pointers).

        Returns:
            B×Nq×embedding_dim.

        Raises:
            ValueError: Nq is neither the size of `feat_sizes` nor a square, or the rotated keys don't fit the queries.
        """
        query, key = self._split_heads(self.q_proj(q)), self._split_heads(self.k_proj(k))
        num_rotated = key.shape[-2] - num_k_exclude_rope
        num_maps = self._num_key_maps(query.shape[-2], num_rotated)
        angles = axial_rotary_angles(self.head_dim, self._map_size(query.shape[-2]), self.rope_theta, q.device)
        cos, sin = angles.cos(), angles.sin()
        query = rotate_pairs(query, cos, sin)
        maps = key[:, :, :num_rotated].unflatten(2, (num_maps, query.shape[-2]))
        rotated = rotate_pairs(maps, cos, sin).flatten(2, 3)
        key = torch.cat((rotated, key[:, :, num_rotated:]), dim=-2) if num_k_exclude_rope else rotated
        attended = self._attend_in_blocks(query, key, v) if mask is None else None
        if attended is None:
            value = self._split_heads(self.v_proj(v))
            heads, _ = self.core(query, key, value, mask, dropout_p=self.dropout if self.training else 0.0)
            attended = heads.transpose(1, 2).flatten(2)
        return self.out_proj(attended)

    def _attend_in_blocks(self, query: Tensor, key: Tensor, v: Tensor) -> Tensor | None:
        """The attention before the output projection, B×Nq×internal_dim, or None where the core has to compute it."""
        has_dropout = self.training and self.dropout > 0
        if has_dropout or not blocks_pay(query, key) or not self.core.is_fused():
            return None
        if self.num_heads > 1 or v.shape[-1] > self.internal_dim:
            heads = blockwise_attention(query, key, self._split_heads(self.v_proj(v)))
            return None if heads is None else heads.transpose(1, 2).flatten(2)
        # Probabilities add up to one: the mean of projected values is the projection of their mean, which is narrower.
        mean = blockwise_attention(query, key, v[:, None])
        return None if mean is None else self.v_proj(mean[:, 0])

    def _map_size(self, num_queries: int) -> tuple[int, int]:
        if num_queries == self.feat_sizes[0] * self.feat_sizes[1]:
            width, height = self.feat_sizes
            return height, width
        side = math.isqrt(num_queries)
        if side * side != num_queries:
            raise ValueError(
                f"q must have as many tokens as feat_sizes {self.feat_sizes} or as a square map, got {num_queries}."
            )
        return side, side

    def _num_key_maps(self, num_queries: int, num_rotated: int) -> int:
        """How many maps of the queries' size the rotated keys are."""
        fits = num_rotated >= 0 and num_rotated % num_queries == 0
        if not fits or (not self.rope_k_repeat and num_rotated > num_queries):
            allowed = "a multiple of" if self.rope_k_repeat else "as many as (rope_k_repeat=True allows a multiple of)"
            raise ValueError(
                f"k without num_k_exclude_rope must have {allowed} q's {num_queries} tokens, got {num_rotated}."
            )
        return num_rotated // num_queries
