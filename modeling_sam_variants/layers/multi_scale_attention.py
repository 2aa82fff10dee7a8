"""Self-attention of SAM 2's image encoder, whose queries can be pooled."""

from torch import Tensor, nn

from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.pooling import do_pool
from sam_variants.layers.token_linear import TokenLinear


class MultiScaleAttention(nn.Module):
    """Multi-head self-attention on a channels-last map; follows `MultiScaleAttention` of SAM 2's Hiera.

    Args:
        dim: channels in.
        dim_out: channels out, and of queries, keys and values.
        num_heads: attention heads; must divide `dim_out`.
        q_pool: a module on B×C×H×W, such as `nn.MaxPool2d`, that makes the map of the queries, and so the result,
            smaller.

    Raises:
        ValueError: `num_heads` doesn't divide `dim_out`.
    """

    def __init__(self, dim: int, dim_out: int, num_heads: int, q_pool: nn.Module | None = None) -> None:
        super().__init__()
        if num_heads < 1 or dim_out % num_heads:
            raise ValueError(f"num_heads must be positive and divide dim_out {dim_out}, got {num_heads}.")
        self.num_heads = num_heads
        self.q_pool = q_pool
        self.qkv = TokenLinear(dim, dim_out * 3)
        self.proj = TokenLinear(dim_out, dim_out)
        self.core = AttentionCore()

    def forward(self, x: Tensor) -> Tensor:
        """Attend within a map, B×H×W×dim → B×H'×W'×dim_out; the size changes with `q_pool` only."""
        query_bhwc, key_bhwc, value_bhwc = self.qkv(x).chunk(3, dim=-1)
        query_bhwc = do_pool(query_bhwc, self.q_pool)
        query, key, value = (self._to_heads(map_bhwc) for map_bhwc in (query_bhwc, key_bhwc, value_bhwc))
        attended, _ = self.core(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(query_bhwc.shape))

    def _to_heads(self, map_bhwc: Tensor) -> Tensor:
        """B×H×W×C → B×heads×(H·W)×C/heads."""
        return map_bhwc.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
