"""Transformer block of the SAM image encoder."""

from collections.abc import Callable

from torch import Tensor, nn

from sam_variants.layers.mlp import MLPBlock
from sam_variants.layers.re_attention import REAttention
from sam_variants.layers.windows import window_partition, window_unpartition


class Block(nn.Module):
    """Pre-norm ViT block with windowed or global attention; follows `Block` of segment-anything's image encoder.

    Args:
        dim: channels.
        num_heads: attention heads; must divide `dim`.
        mlp_ratio: hidden channels of the MLP over `dim`.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        norm_layer: makes a normalisation layer from the number of channels.
        act_layer: class of the activation of the MLP.
        use_rel_pos: whether a learned relative position bias is added to the attention scores.
        rel_pos_zero_init: whether the relative position tables start at zero.
        window_size: side of the attention windows in tokens; 0 for attention over the whole map.
        input_size: (H, W) of the map for which a global block makes its relative position tables (a windowed block
            makes them for its window).

    Raises:
        ValueError: `window_size` is negative, `num_heads` doesn't divide `dim`, or a global block has `use_rel_pos`
            without `input_size`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if window_size < 0:
            raise ValueError(f"window_size must be a number of tokens, or 0 for global attention, got {window_size}.")
        self.window_size = window_size
        self.norm1 = norm_layer(dim)
        self.attn = REAttention(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            use_rel_pos=use_rel_pos,
            rel_pos_zero_init=rel_pos_zero_init,
            input_size=(window_size, window_size) if window_size else input_size,
        )
        self.norm2 = norm_layer(dim)
        self.mlp = MLPBlock(embedding_dim=dim, mlp_dim=int(dim * mlp_ratio), act=act_layer)

    def forward(self, x: Tensor, frame: tuple[int, int] | None = None) -> Tensor:
        """Map B×H×W×dim to B×H×W×dim; the padding of windows at the border is attended to, as in the original.

        `frame` is (H, W) of a larger map that x is a part of: global attention takes the relative positions there.
        """
        x = x + self._attend(self.norm1(x), frame)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, frame: tuple[int, int] | None) -> Tensor:
        if self.window_size == 0:
            return self.attn(x, frame)
        windows, padded_size = window_partition(x, self.window_size)
        return window_unpartition(self.attn(windows), self.window_size, padded_size, (x.shape[1], x.shape[2]))
