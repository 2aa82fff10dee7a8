"""Attention of the mask decoder's two-way transformer."""

from __future__ import annotations

from torch import Tensor, nn

from sam_variants.layers.attention_core import AttentionCore


class Attention(nn.Module):
    """Multi-head attention whose width may be smaller than the tokens' (segment-anything's `Attention`).

    Args:
        embedding_dim: width of the queries and of the result.
        num_heads: heads; must divide embedding_dim / downsample_rate.
        downsample_rate: factor by which the attention is narrower.
        kv_in_dim: width of keys and values; embedding_dim when None.

    Raises:
        ValueError: when the heads don't divide the internal width.
    """

    def __init__(
        self, embedding_dim: int, num_heads: int, downsample_rate: int = 1, kv_in_dim: int | None = None
    ) -> None:
        super().__init__()
        internal_dim = embedding_dim // downsample_rate
        if internal_dim == 0 or internal_dim % num_heads:
            raise ValueError(
                f"num_heads={num_heads} must divide embedding_dim / downsample_rate = "
                f"{embedding_dim} / {downsample_rate}"
            )
        kv_in_dim = embedding_dim if kv_in_dim is None else kv_in_dim
        self.num_heads = num_heads
        self.internal_dim = internal_dim
        self.q_proj = nn.Linear(embedding_dim, internal_dim)
        self.k_proj = nn.Linear(kv_in_dim, internal_dim)
        self.v_proj = nn.Linear(kv_in_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embedding_dim)
        self.core = AttentionCore()

    def _split_heads(self, x_bnc: Tensor) -> Tensor:
        """B×N×C → B×heads×N×C/heads."""
        return x_bnc.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from queries to keys.

        Args:
            q: B×Nq×embedding_dim.
            k: B×Nk×kv_in_dim.
            v: B×Nk×kv_in_dim.
            mask: as in `AttentionCore`.

        Returns:
            B×Nq×embedding_dim.
        """
        query, key, value = (
            self._split_heads(projection(x)) for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        attended, _ = self.core(query, key, value, mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
