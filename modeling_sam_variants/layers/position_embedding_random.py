"""Position encoding by random Fourier features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of positions in the unit square (segment-anything; Tancik et al., 2020).

    The matrix is a buffer that is stored with the weights. Encodings are computed in its own precision, so keep the
    coordinates in float32.

    Args:
        num_pos_feats: number of frequencies; the encoding has twice as many channels.
        scale: standard deviation of the frequencies; 1.0 when None or not positive.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int = 64, scale: float | None = None) -> None:
        super().__init__()
        self.scale = 1.0 if scale is None or scale <= 0 else float(scale)
        self.register_buffer("positional_encoding_gaussian_matrix", self.scale * torch.randn(2, num_pos_feats))

    def _encode(self, coords: Tensor) -> Tensor:
        """…×2 in [0, 1] → …×C."""
        angles = 2 * math.pi * (2 * coords - 1) @ self.positional_encoding_gaussian_matrix.to(coords.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, size: tuple[int, int]) -> Tensor:
        """Encode the centres of a grid of (h, w) cells → C×h×w in the matrix' own dtype."""
        height, width = size
        matrix = self.positional_encoding_gaussian_matrix
        y = (torch.arange(height, device=matrix.device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=matrix.device, dtype=torch.float32) + 0.5) / width
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        return self._encode(grid).permute(2, 0, 1).to(matrix.dtype)

    def forward_with_coords(self, coords_input: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Encode pixel positions.

        Args:
            coords_input: B×N×2 pixels, x then y; not changed.
            image_size: (height, width) in pixels that the positions are divided by.

        Returns:
            B×N×C float32.
        """
        height, width = image_size
        x, y = coords_input.float().unbind(-1)
        return self._encode(torch.stack([x / width, y / height], dim=-1))
