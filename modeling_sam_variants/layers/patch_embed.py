"""Image to patch tokens: the stem of the SAM and SAM 2 image encoders."""

from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """One convolution that turns an image into a channels-last map of patch embeddings.

    Follows `PatchEmbed` of segment-anything; SAM 2's Hiera uses the same class with an overlapping 7×7 kernel.

    Args:
        kernel_size: height and width of a patch in pixels.
        stride: distance between two patches in pixels; equal to `kernel_size` for patches that don't overlap.
        padding: zero padding around the image in pixels.
        in_chans: image channels.
        embed_dim: channels of a token.
        bias: whether the convolution has a bias.
    """

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=kernel_size, stride=stride, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image, B×in_chans×H×W, as B×H'×W'×embed_dim (channels last)."""
        patches_bchw = self.proj(x)
        return patches_bchw.permute(0, 2, 3, 1)
