"""ConvNeXt block, of which SAM 2's memory encoder fuses pixel and mask features."""

import torch
from torch import Tensor, nn

from sam_variants.layers.drop_path import DropPath
from sam_variants.layers.layer_norm_2d import LayerNorm2d
from sam_variants.layers.token_linear import TokenLinear


class CXBlock(nn.Module):
    """ConvNeXt block (https://arxiv.org/abs/2201.03545); follows `CXBlock` of SAM 2's memory encoder.

    Args:
        dim: channels.
        kernel_size: side of the (depthwise) convolution.
        padding: its zero padding; kernel_size // 2 keeps the size, which the residual needs.
        drop_path: rate of stochastic depth in train mode.
        layer_scale_init_value: start value of the learned scale `gamma` of each channel; there is none when ≤ 0.
        use_dwconv: whether the convolution is depthwise.

    Raises:
        ValueError: `kernel_size` and `padding` change the size of the map.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        padding: int = 3,
        drop_path: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_dwconv: bool = True,
    ) -> None:
        super().__init__()
        if kernel_size != 2 * padding + 1:
            raise ValueError(
                "kernel_size must be 2 * padding + 1 so that the residual fits, "
                f"got {kernel_size} with padding {padding}."
            )
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim if use_dwconv else 1)
        self.norm = LayerNorm2d(dim, eps=1e-6)
        self.pwconv1 = TokenLinear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = TokenLinear(4 * dim, dim)
        has_scale = layer_scale_init_value > 0
        self.gamma = nn.Parameter(torch.full((dim,), float(layer_scale_init_value))) if has_scale else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map B×dim×H×W to B×dim×H×W."""
        tokens_bhwc = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        tokens_bhwc = self.pwconv2(self.act(self.pwconv1(tokens_bhwc)))
        if self.gamma is not None:
            tokens_bhwc = self.gamma * tokens_bhwc
        return x + self.drop_path(tokens_bhwc.permute(0, 3, 1, 2))
