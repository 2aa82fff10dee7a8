"""The transformer parts of TinyViT (Wu et al., 2022), as MobileSAM has them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.drop_path import DropPath
from sam_variants.layers.fused_convolution import convolved
from sam_variants.layers.tiny_vit_convolutions import Conv2d_BN, PatchMerging, map_to_tokens, tokens_to_map
from sam_variants.layers.token_linear import TokenLinear, activated, is_plain_inference


class TinyMLP(nn.Module):
    """Layer norm, then two linear layers (TinyViT's `Mlp`).

    Args:
        in_features: width in.
        hidden_features, out_features: hidden width and width out; in_features when None.
        act_layer: class of the activation.
        drop: dropout behind each linear layer.
        layer_norm_eps: epsilon of the norm.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: type[nn.Module] = nn.GELU,
        drop: float = 0.0,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden_features = hidden_features or in_features
        self.norm = nn.LayerNorm(in_features, eps=layer_norm_eps)
        self.fc1 = TokenLinear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = TokenLinear(hidden_features, out_features or in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """…×in_features → …×out_features."""
        return self.drop(self.fc2(self.drop(activated(self.fc1, self.act, self.norm(x)))))


def attention_bias_indexes(resolution: tuple[int, int]) -> Tensor:
    """Which learned bias belongs to each pair of positions: HW×HW, |Δrow|·W + |Δcolumn|."""
    height, width = resolution
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    return (rows[:, None] - rows).abs() * width + (columns[:, None] - columns).abs()


class TinyAttention(nn.Module):
    """Attention inside a window, with layer norm first and a learned bias for every |Δrow|, |Δcolumn|.

    Args:
        dim: width of the tokens.
        key_dim: width of queries and keys per head.
        num_heads: heads.
        attn_ratio: width of the values per head over key_dim.
        resolution: (H, W) of the window.
        layer_norm_eps: epsilon of the norm.
    """

    attention_bias_idxs: Tensor

    def __init__(
        self,
        dim: int,
        key_dim: int,
        num_heads: int = 8,
        attn_ratio: float = 4.0,
        resolution: tuple[int, int] = (14, 14),
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = int(attn_ratio * key_dim)
        self.resolution = (resolution[0], resolution[1])
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.qkv = TokenLinear(dim, num_heads * (2 * key_dim + self.value_dim))
        self.proj = TokenLinear(num_heads * self.value_dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, resolution[0] * resolution[1]))
        self.register_buffer("attention_bias_idxs", attention_bias_indexes(self.resolution), persistent=False)
        self.core = AttentionCore()
        self._kept_bias: tuple[Tensor, Tensor] | None = None

    @property
    def ab(self) -> Tensor:
        """The bias of every pair of positions, heads×HW×HW; in inference on a CPU kept until the parameter changes."""
        biases = self.attention_biases
        if biases.device.type != "cpu" or not is_plain_inference() or torch._C._len_torch_dispatch_stack() > 0:
            return biases[:, self.attention_bias_idxs]  # there are modes in which tensors have no values
        kept = self._kept_bias  # once, because another thread may change it meanwhile
        # By value: what is written to `.data`, as by a moving average, changes neither version nor address.
        if kept is None or kept[0].dtype != biases.dtype or not torch.equal(kept[0], biases):
            kept = self._kept_bias = (biases.detach().clone(), biases[:, self.attention_bias_idxs].detach())
        return kept[1]

    def forward(self, x: Tensor) -> Tensor:
        """B×HW×dim in and out, one window per sample."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        query, key, value = qkv.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        attended, _ = self.core(query, key, value, self.ab.to(query.dtype)[None])
        return self.proj(attended.transpose(1, 2).flatten(2))


class TinyViTBlock(nn.Module):
    """Windowed attention, depthwise convolution and MLP of TinyViT.

    Maps that are no multiple of the window are padded with zeros at the right and the bottom *before* the attention's
    layer norm, and padded positions are attended to, as published.

    Args:
        dim: width of the tokens.
        input_resolution: size (H, W) of the map that tokens are read as when none is given.
        num_heads: heads; must divide dim.
        window_size: side of the window, at least 1.
        mlp_ratio: hidden width of the MLP over dim.
        drop: dropout of the MLP.
        drop_path: stochastic depth of both branches.
        local_conv_size: kernel of the depthwise convolution.
        activation: class of the MLP's activation.
        layer_norm_eps: epsilon of the norms.

    Raises:
        ValueError: for a window below 1 or heads that don't divide dim.
    """

    def __init__(
        self,
        dim: int,
        input_resolution: tuple[int, int],
        num_heads: int,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        local_conv_size: int = 3,
        activation: type[nn.Module] = nn.GELU,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if window_size < 1:
            raise ValueError(f"window_size={window_size} must be at least 1")
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide dim={dim}")
        self.input_resolution = (input_resolution[0], input_resolution[1])
        self.window_size = window_size
        window = (window_size, window_size)
        self.attn = TinyAttention(dim, dim // num_heads, num_heads, 1, window, layer_norm_eps)
        self.mlp = TinyMLP(dim, int(dim * mlp_ratio), act_layer=activation, drop=drop, layer_norm_eps=layer_norm_eps)
        self.local_conv = Conv2d_BN(dim, dim, local_conv_size, 1, local_conv_size // 2, groups=dim)
        self.drop_path = DropPath(drop_path)

    def _windowed_attention(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """B×L×C in and out."""
        (height, width), side = size, self.window_size
        if height == side and width == side:
            return self.attn(x)
        x_bhwc = x.unflatten(1, size)
        pad_bottom, pad_right = -height % side, -width % side
        if pad_bottom or pad_right:
            x_bhwc = F.pad(x_bhwc, (0, 0, 0, pad_right, 0, pad_bottom))
        rows, columns = (height + pad_bottom) // side, (width + pad_right) // side
        # B×rows×side×columns×side×C → one window per sample
        windows = x_bhwc.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3)
        attended = self.attn(windows.reshape(-1, side * side, x.shape[-1]))
        x_bhwc = attended.reshape(-1, rows, columns, side, side, x.shape[-1]).transpose(2, 3)
        x_bhwc = x_bhwc.reshape(-1, rows * side, columns * side, x.shape[-1])
        return x_bhwc[:, :height, :width].flatten(1, 2)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """B×L×C of a map of `size` in and out."""
        size = self.input_resolution if size is None else size
        if x.shape[1] != size[0] * size[1]:
            raise ValueError(f"x has {x.shape[1]} tokens, which does not fill a map of {size[0]}×{size[1]}")
        x = x + self.drop_path(self._windowed_attention(x, size))
        x = map_to_tokens(convolved(self.local_conv, tokens_to_map(x, size)))
        return x + self.drop_path(self.mlp(x))


class BasicLayer(nn.Module):
    """A stage of TinyViT: `depth` blocks and an optional downsampling.

    Args:
        dim, input_resolution, num_heads, window_size, mlp_ratio, drop, local_conv_size, activation, layer_norm_eps:
            as in `TinyViTBlock`.
        depth: number of blocks.
        drop_path: stochastic depth, one value or one per block.
        downsample, out_dim, downsample_stride: as in `ConvLayer`.
        block_class: class of the blocks.
    """

    def __init__(
        self,
        dim: int,
        input_resolution: tuple[int, int],
        depth: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float | list[float] = 0.0,
        downsample: type[PatchMerging] | None = None,
        local_conv_size: int = 3,
        activation: type[nn.Module] = nn.GELU,
        out_dim: int | None = None,
        layer_norm_eps: float = 1e-5,
        downsample_stride: int | None = None,
        block_class: type[TinyViTBlock] = TinyViTBlock,
    ) -> None:
        super().__init__()
        rates = drop_path if isinstance(drop_path, list) else [drop_path] * depth
        self.input_resolution = (input_resolution[0], input_resolution[1])
        self.blocks = nn.ModuleList(
            block_class(
                dim,
                self.input_resolution,
                num_heads,
                window_size,
                mlp_ratio,
                drop,
                rate,
                local_conv_size,
                activation,
                layer_norm_eps,
            )
            for rate in rates
        )
        self.downsample = (
            None
            if downsample is None
            else downsample(self.input_resolution, dim, out_dim or dim, activation, downsample_stride)
        )

    def forward_blocks(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The blocks alone: B×L×C of a map of `size` in and out."""
        for block in self.blocks:
            x = block(x, size)
        return x

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """B×L×C of a map of `size` → B×L'×out_dim."""
        size = self.input_resolution if size is None else size
        x = self.forward_blocks(x, size)
        return x if self.downsample is None else self.downsample(x, size)
