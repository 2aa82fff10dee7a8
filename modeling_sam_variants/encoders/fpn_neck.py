"""The feature pyramid of SAM 2's image encoder."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.position_embedding_sine import PositionEmbeddingSine


class FpnNeck(nn.Module):
    """Lateral convolutions and top-down fusion (Lin et al., 2017, without output convolutions); SAM 2's `FpnNeck`.

    Different from there: without `position_encoding` the encoding is made here, and a doubled map has the dtype of the
    map that it is added to.

    Args:
        d_model: channels of every level of the result.
        backbone_channel_list: channels of the maps that come in, coarsest first.
        kernel_size, stride, padding: of the lateral convolutions.
        fpn_interp_model: mode of `F.interpolate` that doubles a map.
        fuse_type: "sum" or "avg" of the lateral and the doubled map.
        fpn_top_down_levels: levels, counted finest first, that take in the level below; None for all.
        position_encoding: module from a map to its position encoding; None for `PositionEmbeddingSine(d_model)`.

    Raises:
        ValueError: unknown `fuse_type`.
    """

    def __init__(
        self,
        d_model: int,
        backbone_channel_list: Sequence[int],
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        fpn_interp_model: str = "bilinear",
        fuse_type: str = "sum",
        fpn_top_down_levels: Sequence[int] | None = None,
        position_encoding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if fuse_type not in ("sum", "avg"):
            raise ValueError(f"fuse_type={fuse_type!r} must be 'sum' or 'avg'")
        self.convs = nn.ModuleList()
        for channels in backbone_channel_list:
            level = nn.Sequential()
            level.add_module("conv", nn.Conv2d(channels, d_model, kernel_size, stride, padding))
            self.convs.append(level)
        self.fpn_interp_model = fpn_interp_model
        self.fuse_type = fuse_type
        levels = range(len(self.convs)) if fpn_top_down_levels is None else fpn_top_down_levels
        self.fpn_top_down_levels = tuple(levels)
        self.position_encoding = PositionEmbeddingSine(d_model) if position_encoding is None else position_encoding

    def forward(self, xs: Sequence[Tensor], encode_positions: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """Fuse the maps of a backbone.

        Args:
            xs: B×C×h×w each, finest first, every one twice the size of the next.
            encode_positions: whether to compute the position encodings.

        Returns:
            The levels, B×d_model×h×w each, finest first, and their position encodings (an empty list without).

        Raises:
            ValueError: another number of maps than `backbone_channel_list` has, or a map that is not twice the next.
        """
        if len(xs) != len(self.convs):
            raise ValueError(f"xs holds {len(xs)} maps, expected {len(self.convs)}")
        levels: list[Tensor] = []
        for index, conv in zip(reversed(range(len(xs))), self.convs, strict=True):
            lateral = conv(xs[index])
            if levels and index in self.fpn_top_down_levels:
                lateral = self._fuse(lateral, levels[-1])
            levels.append(lateral)
        levels.reverse()
        if not encode_positions:
            return levels, []
        return levels, [self.position_encoding(level).to(level.dtype) for level in levels]

    def _fuse(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        """Add the doubled coarser level, which is computed in float32."""
        align_corners = None if self.fpn_interp_model == "nearest" else False
        doubled = F.interpolate(
            coarser.float(), scale_factor=2.0, mode=self.fpn_interp_model, align_corners=align_corners
        )
        if doubled.shape[2:] != lateral.shape[2:]:
            raise ValueError(
                f"xs must halve exactly from map to map: {tuple(coarser.shape[2:])} lies behind "
                f"{tuple(lateral.shape[2:])}"
            )
        fused = lateral + doubled.to(lateral.dtype)
        return fused / 2 if self.fuse_type == "avg" else fused
