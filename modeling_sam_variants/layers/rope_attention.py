"""Attention with axial rotary position encoding, as in SAM 2's memory attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sam_variants.layers.attention import Attention


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
    """Turn neighbouring channels of B×heads×N×d by angles, given as cosine and sine N×(d / 2), in float32."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


class RoPEAttention(Attention):
    """`Attention` with rotary encoding of queries and keys on a 2-D map; follows SAM 2's `RoPEAttention`.

    Different from there: the angles are computed in the forward, in float32 and without complex numbers, so that
    they follow every device and the module can be compiled and exported.

    Args:
        embedding_dim: channels of queries and output.
        num_heads: attention heads.
        downsample_rate: embedding_dim over the channels inside the attention.
        kv_in_dim: channels of keys and values; None for embedding_dim.
        rope_theta: base of the rotary frequencies.
        rope_k_repeat: whether keys may be several maps in a row, each encoded like the queries' map.
        feat_sizes: (width, height) of the queries' map, in SAM 2's order. Another number of queries is taken as a
            square map.

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
        feat_sizes: tuple[int, int] | list[int] = (32, 32),
    ) -> None:
        super().__init__(embedding_dim, num_heads, downsample_rate, kv_in_dim)
        self.head_dim = self.internal_dim // num_heads
        if self.head_dim % 4:
            raise ValueError(
                f"the channels of a head must be a multiple of 4 for two rotary axes, got {self.head_dim}."
            )
        self.rope_theta = rope_theta
        self.rope_k_repeat = rope_k_repeat
        self.feat_sizes = (int(feat_sizes[0]), int(feat_sizes[1]))

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
        query, key, value = (
            self._split_heads(projection(x)) for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        num_rotated = key.shape[-2] - num_k_exclude_rope
        num_maps = self._num_key_maps(query.shape[-2], num_rotated)
        angles = axial_rotary_angles(self.head_dim, self._map_size(query.shape[-2]), self.rope_theta, q.device)
        cos, sin = angles.cos(), angles.sin()
        query = rotate_pairs(query, cos, sin)
        rotated = rotate_pairs(key[:, :, :num_rotated], cos.repeat(num_maps, 1), sin.repeat(num_maps, 1))
        key = torch.cat((rotated, key[:, :, num_rotated:]), dim=-2)
        attended, _ = self.core(query, key, value, mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

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
        if not fits or (num_rotated > num_queries and not self.rope_k_repeat):
            allowed = "a multiple of" if self.rope_k_repeat else "as many as (rope_k_repeat=True allows a multiple of)"
            raise ValueError(
                f"k without num_k_exclude_rope must have {allowed} q's {num_queries} tokens, got {num_rotated}."
            )
        return num_rotated // num_queries
