"""The neck of SAM's image encoders."""

from __future__ import annotations

from torch import nn

from sam_variants.layers.layer_norm_2d import LayerNorm2d


def build_neck(in_chans: int, out_chans: int) -> nn.Sequential:
    """1×1 convolution, norm, 3×3 convolution, norm: B×in_chans×h×w → B×out_chans×h×w."""
    return nn.Sequential(
        nn.Conv2d(in_chans, out_chans, kernel_size=1, bias=False),
        LayerNorm2d(out_chans),
        nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(out_chans),
    )
