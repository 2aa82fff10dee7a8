"""Sine and cosine position encoding of feature maps, points, boxes and time."""

import math

import torch
from torch import Tensor, nn


class PositionEmbeddingSine(nn.Module):
    """2-D sine position encoding of "Attention is all you need"; follows `PositionEmbeddingSine` of SAM 2.

    Different from there: `num_pos_feats` must be a multiple of four, because each of y and x needs as many sines as
    cosines (the original accepts every even number and fails in the forward).

    Args:
        num_pos_feats: channels of the encoding: the first half encodes y, the second x.
        temperature: base of the geometric series of wavelengths.
        normalize: whether row and column numbers of a map are scaled to (0, `scale`].
        scale: what coordinates in 0–1 are multiplied with; None for 2π.

    Raises:
        ValueError: `num_pos_feats` is not a positive multiple of four, or `scale` is given without `normalize`.
    """

    def __init__(
        self,
        num_pos_feats: int,
        temperature: float = 10000,
        normalize: bool = True,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if num_pos_feats < 4 or num_pos_feats % 4:
            raise ValueError(f"num_pos_feats must be a positive multiple of 4, got {num_pos_feats}.")
        if scale is not None and not normalize:
            raise ValueError(f"scale needs normalize=True, got scale={scale} with normalize=False.")
        self.num_feats_per_axis = num_pos_feats // 2
        self.temperature = temperature
        self.normalize = normalize
        self.scale = 2 * math.pi if scale is None else scale
        self._cache: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Encode the positions of a map, B×C×H×W, as B×num_pos_feats×H×W in its dtype (its values don't matter).

        One encoding is kept per size, device and dtype. While a graph is traced nothing is kept, so that no
        symbolic tensor outlives the trace.
        """
        height, width = x.shape[-2], x.shape[-1]
        if torch.compiler.is_compiling():
            encoding = self._encode_grid(height, width, x.device).to(x.dtype)
        else:
            key = (height, width, x.device, x.dtype)
            if key not in self._cache:
                # A tensor made in inference mode could not be used in training later.
                with torch.inference_mode(False), torch.no_grad():
                    self._cache[key] = self._encode_grid(height, width, x.device).to(x.dtype)
            encoding = self._cache[key]
        return encoding[None].repeat(x.shape[0], 1, 1, 1)

    def encode_boxes(self, x: Tensor, y: Tensor, w: Tensor, h: Tensor) -> Tensor:
        """Encode N box centres and append the box sizes.

        Args:
            x, y: N centres, as fractions of the image size.
            w, h: N widths and heights, passed on as they are.

        Returns:
            N×(num_pos_feats + 2): encoding of y, of x, then h and w.
        """
        pos_x, pos_y = self._encode_axis(x * self.scale), self._encode_axis(y * self.scale)
        return torch.cat((pos_y, pos_x, h[..., None], w[..., None]), dim=-1)

    def encode_points(self, x: Tensor, y: Tensor, labels: Tensor) -> Tensor:
        """Encode points and append their labels.

        Args:
            x, y: B×N coordinates, as fractions of the image size.
            labels: B×N labels.

        Returns:
            B×N×(num_pos_feats + 1): encoding of y, of x, then the label.

        Raises:
            ValueError: the three shapes differ.
        """
        if not x.shape == y.shape == labels.shape:
            raise ValueError(
                f"x, y and labels must have the same shape (batch, points), got {tuple(x.shape)}, {tuple(y.shape)} "
                f"and {tuple(labels.shape)}."
            )
        pos_x, pos_y = self._encode_axis(x * self.scale), self._encode_axis(y * self.scale)
        return torch.cat((pos_y, pos_x, labels[..., None].to(pos_x.dtype)), dim=-1)

    def _encode_grid(self, height: int, width: int, device: torch.device) -> Tensor:
        rows = torch.arange(1, height + 1, dtype=torch.float32, device=device)
        columns = torch.arange(1, width + 1, dtype=torch.float32, device=device)
        if self.normalize:
            rows = rows / (height + 1e-6) * self.scale
            columns = columns / (width + 1e-6) * self.scale
        pos_y = self._encode_axis(rows).T[:, :, None].expand(-1, -1, width)
        pos_x = self._encode_axis(columns).T[:, None, :].expand(-1, height, -1)
        return torch.cat((pos_y, pos_x), dim=0)

    def _encode_axis(self, position: Tensor) -> Tensor:
        """Encode positions of any shape: a last axis of `num_feats_per_axis`, sine and cosine in turn."""
        pairs = torch.arange(self.num_feats_per_axis // 2, dtype=torch.float32, device=position.device)
        wavelengths = self.temperature ** (2 * pairs / self.num_feats_per_axis)
        angles = position[..., None] / wavelengths
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(position.dtype)


def sine_encoding_1d(pos: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """Encode numbers, such as the times of object pointers; follows `get_1d_sine_pe` of SAM 2.

    Args:
        pos: numbers, of any shape.
        dim: channels of the encoding, an even number.
        temperature: base of the geometric series of wavelengths, each of which two neighbouring channels share.

    Returns:
        …×dim, float32 or the dtype of `pos`, if that is a floating one: first all sines, then all cosines.

    Raises:
        ValueError: `dim` is not a positive even number.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"dim must be a positive even number, got {dim}.")
    num_waves = dim // 2
    channels = torch.arange(num_waves, dtype=torch.float32, device=pos.device)
    wavelengths = temperature ** (2 * channels.div(2, rounding_mode="floor") / num_waves)
    angles = pos[..., None] / wavelengths
    encoding = torch.cat((angles.sin(), angles.cos()), dim=-1)
    return encoding.to(pos.dtype) if pos.is_floating_point() else encoding
