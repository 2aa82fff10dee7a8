"""Transformer block of SAM 2's image encoder."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from sam_variants.layers.drop_path import DropPath
from sam_variants.layers.mlp import MLP
from sam_variants.layers.multi_scale_attention import MultiScaleAttention
from sam_variants.layers.pooling import do_pool
from sam_variants.layers.token_linear import TokenLinear, activated
from sam_variants.layers.windows import window_partition, window_unpartition

# Published epsilon of all norms in Hiera.
HieraNorm: Callable[[int], nn.Module] = partial(nn.LayerNorm, eps=1e-6)


class TokenMLP(MLP):
    """The two layers of `MLP` for many tokens: faster products, and the activation together with the first of them.

    Args:
        dim: channels in and out.
        hidden_dim: channels between.
        act: class of the activation.
    """

    def __init__(self, dim: int, hidden_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__(dim, hidden_dim, dim, num_layers=2, act=act)
        self.layers = nn.ModuleList([TokenLinear(dim, hidden_dim), TokenLinear(hidden_dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """…×dim in and out."""
        first: Any = self.layers[0]
        return self.layers[1](activated(first, self.act, x))


class MultiScaleBlock(nn.Module):
    """Pre-norm block with windowed or global attention that can widen and pool; follows SAM 2's Hiera.

    Args:
        dim: channels in.
        dim_out: channels out. Where they differ from `dim`, the shortcut is pool(proj(norm1(x))).
        num_heads: attention heads; must divide `dim_out`.
        mlp_ratio: hidden channels of the MLP over `dim_out`.
        drop_path: stochastic depth of both branches.
        norm_layer: makes a normalisation layer from the number of channels.
        q_stride: factors by which the queries, and so the map, are max-pooled; None for no pooling. Both must be equal.
        act_layer: class of the activation of the MLP.
        window_size: side of the attention windows in tokens; 0 for attention over the whole map.

    Raises:
        ValueError: `num_heads` doesn't divide `dim_out`, `window_size` is negative, or queries are pooled without
            windows that `q_stride` divides.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = HieraNorm,
        q_stride: tuple[int, int] | None = None,
        act_layer: type[nn.Module] = nn.GELU,
        window_size: int = 0,
    ) -> None:
        super().__init__()
        if window_size < 0:
            raise ValueError(f"window_size must be a number of tokens, or 0 for global attention, got {window_size}.")
        self.window_size = window_size
        self.q_stride = None if q_stride is None else q_stride[0]
        self.pool = None
        if q_stride is not None:
            self.pool = nn.MaxPool2d(kernel_size=q_stride, stride=q_stride)
            if q_stride[0] != q_stride[1] or window_size == 0 or window_size % q_stride[0]:
                raise ValueError(
                    f"q_stride must hold twice a factor of window_size, and pooling with global attention (window_size "
                    f"0) is not defined; got q_stride {tuple(q_stride)} with window_size {window_size}."
                )
        self.norm1 = norm_layer(dim)
        self.attn = MultiScaleAttention(dim, dim_out, num_heads, self.pool)
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim_out)
        self.mlp = TokenMLP(dim_out, int(dim_out * mlp_ratio), act_layer)
        self.proj = TokenLinear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Map B×H×W×dim to B×H×W×dim_out, or B×H/q×W/q×dim_out, rounded down.

        The padding of windows at the border comes after the norm and is attended to, as in the original.
        """
        normed = self.norm1(x)
        shortcut = do_pool(x if self.proj is None else self.proj(normed), self.pool)
        x = shortcut + self.drop_path(self._attend(normed))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width, side = x.shape[1], x.shape[2], self.window_size
        if side == 0 or (height == side and width == side):
            return self.attn(x)
        windows, padded = window_partition(x, side)
        stride = self.q_stride or 1
        pooled_padded, pooled = (padded[0] // stride, padded[1] // stride), (height // stride, width // stride)
        return window_unpartition(self.attn(windows), side // stride, pooled_padded, pooled)
