"""TinyViT as MobileSAM's published code computes it, on the weights of ours: what `benchmark encode` compares with.

Convolution and batch norm one after the other, maps with their channels apart, attention as products with a softmax
between them. Nothing here is faster or slower than that code; the biases of all pairs are prepared once, as there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam_variants.encoders.encoder_tiny_vit import TinyViT


class OfficialTinyViT:
    """The plain form of an encoder that is not fused, in evaluation mode.

    Args:
        encoder: whose weights it computes with.

    Raises:
        ValueError: for a fused encoder.
    """

    def __init__(self, encoder: TinyViT) -> None:
        if encoder._is_fused:
            raise ValueError("the plain form needs batch norms, which a fused encoder has no more")
        self.encoder: Any = encoder
        transformers = [block for stage in list(encoder.layers)[1:] for block in stage.blocks]
        self.biases = {
            id(block): block.attn.attention_biases[:, block.attn.attention_bias_idxs] for block in transformers
        }

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Images B×3×H×W → their embedding B×out_chans×H/stride×W/stride."""
        first, _, second = self.encoder.patch_embed.seq
        x = _with_norm(second, F.gelu(_with_norm(first, pixel_values)))
        size = (x.shape[2], x.shape[3])
        for index, stage in enumerate(self.encoder.layers):
            for block in stage.blocks:
                x = _inverted_bottleneck(block, x) if index == 0 else self._block(block, x, size)
            if stage.downsample is not None:
                x = _merge(stage.downsample, x, size)
                size = stage.downsample.output_size(size)
        x = x.reshape(x.shape[0], *size, -1).permute(0, 3, 1, 2)
        narrow, norm, mix, last_norm = self.encoder.neck
        return _layer_norm_2d(last_norm, mix(_layer_norm_2d(norm, narrow(x))))

    def _block(self, block: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        (batch, tokens, channels), (height, width), side = x.shape, size, block.window_size
        windows = x.reshape(batch, height, width, channels)
        bottom, right = -height % side, -width % side
        if bottom or right:
            windows = F.pad(windows, (0, 0, 0, right, 0, bottom))
        rows, columns = (height + bottom) // side, (width + right) // side
        windows = windows.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
        attended = self._attend(block, windows.reshape(-1, side * side, channels))
        attended = attended.reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
        attended = attended.reshape(batch, rows * side, columns * side, channels)[:, :height, :width]
        x = x + attended.reshape(batch, tokens, channels)
        x_bchw = x.transpose(1, 2).reshape(batch, channels, height, width)
        x = _with_norm(block.local_conv, x_bchw).flatten(2).transpose(1, 2)
        mlp = block.mlp
        hidden = F.gelu(F.linear(_layer_norm(mlp.norm, x), mlp.fc1.weight, mlp.fc1.bias))
        return x + F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)

    def _attend(self, block: Any, windows: Tensor) -> Tensor:
        layer = block.attn
        qkv = F.linear(_layer_norm(layer.norm, windows), layer.qkv.weight, layer.qkv.bias)
        widths = [layer.key_dim, layer.key_dim, layer.value_dim]
        qkv = qkv.reshape(*windows.shape[:2], layer.num_heads, -1)
        query, key, value = (part.permute(0, 2, 1, 3) for part in qkv.split(widths, dim=3))
        logits = query @ key.transpose(-2, -1) * layer.key_dim**-0.5 + self.biases[id(block)]
        attended = (logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        return F.linear(attended, layer.proj.weight, layer.proj.bias)


def _with_norm(pair: Any, x: Tensor) -> Tensor:
    return pair.bn(pair.c(x))


def _layer_norm(norm: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _layer_norm_2d(norm: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=1, keepdim=True)
    normed = centred / torch.sqrt(centred.pow(2).mean(dim=1, keepdim=True) + norm.eps)
    return norm.weight[:, None, None] * normed + norm.bias[:, None, None]


def _inverted_bottleneck(block: Any, x: Tensor) -> Tensor:
    hidden = F.gelu(_with_norm(block.conv2, F.gelu(_with_norm(block.conv1, x))))
    return F.gelu(x + _with_norm(block.conv3, hidden))


def _merge(layer: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.ndim == 3:
        x = x.reshape(x.shape[0], *size, -1).permute(0, 3, 1, 2)
    x = _with_norm(layer.conv3, F.gelu(_with_norm(layer.conv2, F.gelu(_with_norm(layer.conv1, x)))))
    return x.flatten(2).transpose(1, 2)
