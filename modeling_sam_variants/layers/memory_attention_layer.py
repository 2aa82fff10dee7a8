"""One layer of SAM 2's memory attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam_variants.layers.rope_attention import RoPEAttention
from sam_variants.layers.token_linear import TokenLinear, is_plain_inference

# In inference the feed-forward network takes so many tokens at once, that what it holds in between stays in the cache.
FEED_FORWARD_BLOCK = 1024


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to the memory and a feed-forward network, pre-norm; follows SAM 2's class of this name.

    Different from there: its attentions are built from values, and one image can serve the memories of many objects.

    Args:
        d_model: channels of the image tokens.
        dim_feedforward: hidden width of the feed-forward network.
        dropout: dropout on attention probabilities, hidden units and residual branches, in train mode.
        num_heads: heads of both attentions.
        kv_in_dim: channels of the memory tokens; None for d_model.
        activation: class of the feed-forward network's activation.
        rope_theta: base of the rotary frequencies.
        feat_sizes: (width, height) of the image tokens' map, as in `RoPEAttention`.
        pos_enc_at_attn: add `query_pos` to queries and keys of the self-attention.
        pos_enc_at_cross_attn_keys: add `pos` to the keys of the attention to the memory.
        pos_enc_at_cross_attn_queries: add `query_pos` to its queries.
        layer_norm_eps: epsilon of the three norms.
    """

    def __init__(
        self,
        d_model: int = 256,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        num_heads: int = 1,
        kv_in_dim: int | None = 64,
        activation: type[nn.Module] = nn.ReLU,
        rope_theta: float = 10000.0,
        feat_sizes: Sequence[int] = (64, 64),
        pos_enc_at_attn: bool = False,
        pos_enc_at_cross_attn_keys: bool = True,
        pos_enc_at_cross_attn_queries: bool = False,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.self_attn = RoPEAttention(
            d_model, num_heads, rope_theta=rope_theta, feat_sizes=feat_sizes, dropout=dropout
        )
        self.cross_attn_image = RoPEAttention(
            d_model,
            num_heads,
            kv_in_dim=kv_in_dim,
            rope_theta=rope_theta,
            rope_k_repeat=True,
            feat_sizes=feat_sizes,
            dropout=dropout,
        )
        self.linear1 = TokenLinear(d_model, dim_feedforward)
        self.linear2 = TokenLinear(dim_feedforward, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model, eps=layer_norm_eps) for _ in range(3))
        self.dropout1, self.dropout2, self.dropout3, self.dropout = (nn.Dropout(dropout) for _ in range(4))
        self.activation = activation()
        self.pos_enc_at_attn = pos_enc_at_attn
        self.pos_enc_at_cross_attn_keys = pos_enc_at_cross_attn_keys
        self.pos_enc_at_cross_attn_queries = pos_enc_at_cross_attn_queries

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        pos: Tensor | None = None,
        query_pos: Tensor | None = None,
        num_k_exclude_rope: int = 0,
    ) -> Tensor:
        """Bring the memory into the image tokens.

        Args:
            tgt: image tokens P×N×d_model of P objects, or 1×N×d_model for all of them.
            memory: memory tokens P×M×kv_in_dim: maps of N tokens in a row, then `num_k_exclude_rope` without place.
            pos: position encoding of the memory, of its shape or broadcastable to it.
            query_pos: position encoding of the image tokens, of their shape or broadcastable to it.
            num_k_exclude_rope: memory tokens at the end that are not rotated (object pointers).

        Returns:
            P×N×d_model.
        """
        tgt = tgt + self.dropout1(self._attend_to_itself(self.norm1(tgt), query_pos))
        queries = self.norm2(tgt).expand(memory.shape[0], -1, -1)
        tgt = tgt + self.dropout2(self._attend_to_memory(queries, memory, pos, query_pos, num_k_exclude_rope))
        return tgt + self.dropout3(self._feed_forward(self.norm3(tgt)))

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        if not is_plain_inference() or tokens.device.type != "cpu":
            return self.linear2(self.dropout(self.activation(self.linear1(tokens))))
        blocks = tokens.flatten(0, 1).split(FEED_FORWARD_BLOCK)
        mapped = [self.linear2(self.dropout(self.activation(self.linear1(block)))) for block in blocks]
        return torch.cat(mapped).unflatten(0, tokens.shape[:2])

    def _attend_to_itself(self, tokens: Tensor, query_pos: Tensor | None) -> Tensor:
        q = _with_position(tokens, query_pos if self.pos_enc_at_attn else None)
        return self.self_attn(q, q, tokens)

    def _attend_to_memory(
        self,
        tokens: Tensor,
        memory: Tensor,
        pos: Tensor | None,
        query_pos: Tensor | None,
        num_k_exclude_rope: int,
    ) -> Tensor:
        q = _with_position(tokens, query_pos if self.pos_enc_at_cross_attn_queries else None)
        k = _with_position(memory, pos if self.pos_enc_at_cross_attn_keys else None)
        return self.cross_attn_image(q, k, memory, num_k_exclude_rope=num_k_exclude_rope)


def _with_position(tokens: Tensor, position: Tensor | None) -> Tensor:
    return tokens if position is None else tokens + position
