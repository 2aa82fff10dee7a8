"""The convolutional parts of TinyViT (Wu et al., 2022), as MobileSAM has them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sam_variants.layers.drop_path import DropPath
from sam_variants.layers.fused_convolution import activated_in_place, convolved


def tokens_to_map(x_blc: Tensor, size: tuple[int, int]) -> Tensor:
    """B×L×C → B×C×H×W without a copy: the map is channels-last in memory."""
    if x_blc.shape[1] != size[0] * size[1]:
        raise ValueError(f"x has {x_blc.shape[1]} tokens, which does not fill a map of {size[0]}×{size[1]}")
    # In this order one map has the strides of several, by which a convolution sees that its channels lie together.
    return x_blc.unflatten(1, size).permute(0, 3, 1, 2)


def map_to_tokens(x_bchw: Tensor) -> Tensor:
    """B×C×H×W → B×L×C."""
    return x_bchw.flatten(2).transpose(1, 2)


class Conv2d_BN(nn.Sequential):
    """Convolution without bias (`c`) and batch norm (`bn`).

    Args:
        a, b: channels in and out.
        ks, stride, pad, dilation, groups: of the convolution.
        bn_weight_init: value that the batch norm's weight starts at.
    """

    def __init__(
        self,
        a: int,
        b: int,
        ks: int = 1,
        stride: int = 1,
        pad: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bn_weight_init: float = 1.0,
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(a, b, ks, stride, pad, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(b)
        self.bn_weight_init = float(bn_weight_init)
        nn.init.constant_(self.bn.weight, self.bn_weight_init)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """The same map as one convolution with bias, from the running statistics (for inference)."""
        conv: Any = self.c
        norm: Any = self.bn
        # Rounded once, at the end, also where the weights are in half precision.
        wide = torch.promote_types(conv.weight.dtype, torch.float32)
        factor = norm.weight.to(wide) / torch.sqrt(norm.running_var.to(wide) + norm.eps)
        fused = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        fused.weight.copy_(conv.weight * factor[:, None, None, None])
        fused.bias.copy_(norm.bias - norm.running_mean * factor)
        return fused.requires_grad_(conv.weight.requires_grad).train(self.training)


class TinyPatchEmbed(nn.Module):
    """Two 3×3 convolutions of stride 2 with the activation between them.

    Args:
        in_chans, embed_dim: channels in and out.
        resolution: image size in pixels, kept as `patches_resolution` after division by 4.
        activation: class of the activation.
    """

    def __init__(
        self, in_chans: int, embed_dim: int, resolution: int | tuple[int, int], activation: type[nn.Module]
    ) -> None:
        super().__init__()
        height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
        self.patches_resolution = (height // 4, width // 4)
        self.seq = nn.Sequential(
            Conv2d_BN(in_chans, embed_dim // 2, 3, 2, 1), activation(), Conv2d_BN(embed_dim // 2, embed_dim, 3, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """B×in_chans×H×W → B×embed_dim×H/4×W/4."""
        first, activation, second = self.seq
        return second(convolved(first, x, activation))


class MBConv(nn.Module):
    """Inverted bottleneck: 1×1 expand, depthwise 3×3, 1×1 project, residual, activation after the sum.

    Args:
        in_chans, out_chans: channels in and out; equal, because of the residual.
        expand_ratio: hidden channels over in_chans.
        activation: class of the activation.
        drop_path: stochastic depth of the branch.
    """

    def __init__(
        self, in_chans: int, out_chans: int, expand_ratio: float, activation: type[nn.Module], drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(f"in_chans={in_chans} and out_chans={out_chans} must be equal: the block has a residual")
        hidden_chans = int(in_chans * expand_ratio)
        self.conv1 = Conv2d_BN(in_chans, hidden_chans)
        self.act1 = activation()
        self.conv2 = Conv2d_BN(hidden_chans, hidden_chans, 3, 1, 1, groups=hidden_chans)
        self.act2 = activation()
        self.conv3 = Conv2d_BN(hidden_chans, out_chans, bn_weight_init=0.0)
        self.act3 = activation()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W in and out."""
        branch = convolved(self.conv2, convolved(self.conv1, x, self.act1), self.act2)
        return activated_in_place(self.act3, x + self.drop_path(convolved(self.conv3, branch)))


class PatchMerging(nn.Module):
    """Downsampling between stages: 1×1, depthwise 3×3, 1×1.

    Args:
        input_resolution: size (H, W) of the map that tokens are read as when none is given.
        dim, out_dim: channels in and out.
        activation: class of the activation.
        stride: of the depthwise convolution. None reproduces the published rule: 1 when out_dim is 320, 448 or 576.
    """

    def __init__(
        self,
        input_resolution: tuple[int, int],
        dim: int,
        out_dim: int,
        activation: type[nn.Module],
        stride: int | None = None,
    ) -> None:
        super().__init__()
        self.input_resolution = (input_resolution[0], input_resolution[1])
        self.stride = (1 if out_dim in (320, 448, 576) else 2) if stride is None else stride
        self.act = activation()
        self.conv1 = Conv2d_BN(dim, out_dim)
        self.conv2 = Conv2d_BN(out_dim, out_dim, 3, self.stride, 1, groups=out_dim)
        self.conv3 = Conv2d_BN(out_dim, out_dim)

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size of the map behind one of `size`."""
        return tuple((side - 1) // self.stride + 1 for side in size)  # type: ignore[return-value]

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """B×C×H×W, or B×L×C of a map of `size` → B×L'×out_dim."""
        if x.ndim == 3:
            x = tokens_to_map(x, self.input_resolution if size is None else size)
        x = convolved(self.conv2, convolved(self.conv1, x, self.act), self.act)
        return map_to_tokens(convolved(self.conv3, x))


class ConvLayer(nn.Module):
    """Stage 0 of TinyViT: `depth` MBConv blocks and an optional downsampling.

    Args:
        dim: channels.
        input_resolution: size (H, W) of the map.
        depth: number of blocks.
        activation: class of the activation.
        drop_path: stochastic depth, one value or one per block.
        downsample: class of the downsampling, or None.
        out_dim: channels behind it.
        conv_expand_ratio: expansion of the blocks.
        downsample_stride: stride of the downsampling; None as in `PatchMerging`.
        block_class: class of the blocks.
    """

    def __init__(
        self,
        dim: int,
        input_resolution: tuple[int, int],
        depth: int,
        activation: type[nn.Module],
        drop_path: float | list[float] = 0.0,
        downsample: type[PatchMerging] | None = None,
        out_dim: int | None = None,
        conv_expand_ratio: float = 4.0,
        downsample_stride: int | None = None,
        block_class: type[MBConv] = MBConv,
    ) -> None:
        super().__init__()
        rates = drop_path if isinstance(drop_path, list) else [drop_path] * depth
        self.input_resolution = (input_resolution[0], input_resolution[1])
        self.blocks = nn.ModuleList(block_class(dim, dim, conv_expand_ratio, activation, rate) for rate in rates)
        self.downsample = (
            None
            if downsample is None
            else downsample(self.input_resolution, dim, out_dim or dim, activation, downsample_stride)
        )

    def forward_blocks(self, x: Tensor) -> Tensor:
        """The blocks alone: B×C×H×W in and out."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×L×out_dim with a downsampling, B×C×H×W without."""
        x = self.forward_blocks(x)
        return x if self.downsample is None else self.downsample(x)
