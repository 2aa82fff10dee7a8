"""From a mask to features at a fraction of its resolution."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.layer_norm_2d import LayerNorm2d


class MaskDownSampler(nn.Module):
    """Downsamples a one-channel mask by `total_stride` with strided convolutions; follows SAM 2's `MaskDownSampler`.

    Each step multiplies the channels by stride² and is followed by a layer norm and an activation; a 1×1
    convolution leads to `embed_dim` channels.

    Args:
        embed_dim: channels of the result.
        kernel_size: side of the kernels.
        stride: downsampling of one step.
        padding: zero padding of each convolution.
        total_stride: downsampling of all steps together, a power of `stride`.
        activation: class of the activation of a step.
        interpol_size: (height, width) to which masks of another size are first resized (bilinear, antialiased);
            None to take masks as they come.

    Raises:
        ValueError: `total_stride` is not a power of `stride`.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        kernel_size: int = 4,
        stride: int = 4,
        padding: int = 0,
        total_stride: int = 16,
        activation: type[nn.Module] = nn.GELU,
        interpol_size: tuple[int, int] | list[int] | None = None,
    ) -> None:
        super().__init__()
        num_steps = _num_steps(stride, total_stride)
        channels = [stride ** (2 * step) for step in range(num_steps + 1)]
        self.encoder = nn.Sequential()
        for in_chans, out_chans in pairwise(channels):
            self.encoder.append(nn.Conv2d(in_chans, out_chans, kernel_size, stride=stride, padding=padding))
            self.encoder.append(LayerNorm2d(out_chans))
            self.encoder.append(activation())
        self.encoder.append(nn.Conv2d(channels[-1], embed_dim, kernel_size=1))
        self.interpol_size = None if interpol_size is None else (int(interpol_size[0]), int(interpol_size[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Encode masks, B×1×H×W, as B×embed_dim×H/total_stride×W/total_stride."""
        if self.interpol_size is not None and self.interpol_size != (x.shape[-2], x.shape[-1]):
            resized = F.interpolate(
                x.float(), size=self.interpol_size, mode="bilinear", align_corners=False, antialias=True
            )
            x = resized.to(x.dtype)
        return self.encoder(x)


def _num_steps(stride: int, total_stride: int) -> int:
    """The k of stride^k = total_stride."""
    num_steps, reached = 0, 1
    while stride > 1 and reached < total_stride:
        num_steps, reached = num_steps + 1, reached * stride
    if reached != total_stride:
        raise ValueError(
            f"total_stride must be a power of stride (2 or more), got {total_stride} with stride {stride}."
        )
    return num_steps
