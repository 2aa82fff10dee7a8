"""A convolution together with what follows it, in one pass over memory.

On a CPU a large map costs more to write and read again than to compute with, so the activation is left to oneDNN, which
applies it to a result before that leaves the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam_variants.layers.compiled_operators import fused_convolution
from sam_variants.layers.token_linear import is_exact_gelu, is_plain_inference, is_untouched, onednn_fuses


def convolved(convolution: nn.Module, x: Tensor, activation: nn.Module | None = None) -> Tensor:
    """`activation(convolution(x))`, or the convolution alone.

    Fused in inference on a CPU where the convolution is a plain one (its batch norm folded) and the activation is
    GELU; else the modules run one after the other. Results differ by rounding only.

    Args:
        convolution: from B×C×H×W to B×C'×H'×W'.
        x: B×C×H×W.
        activation: works elementwise.

    Returns:
        B×C'×H'×W'.
    """
    if (
        isinstance(convolution, nn.Conv2d)
        and _is_fusible(convolution, x)
        and (activation is None or is_exact_gelu(activation))
    ):
        return fused_convolution(
            x,
            convolution.weight,
            convolution.bias,
            convolution.padding,  # type: ignore[arg-type]
            convolution.stride,
            convolution.dilation,
            convolution.groups,
            "none" if activation is None else "gelu",
        )
    result = convolution(x)
    return result if activation is None else activation(result)


def activated_in_place(activation: nn.Module, x: Tensor) -> Tensor:
    """An activation whose input nobody else holds, and that it may overwrite in inference."""
    if is_exact_gelu(activation) and is_plain_inference():
        return torch.ops.aten.gelu_(x)
    return activation(x)


def _is_fusible(convolution: nn.Conv2d, x: Tensor) -> bool:
    """Whether oneDNN may do all of it, with a map whose channels lie together."""
    return (
        type(convolution) is nn.Conv2d
        and is_untouched(convolution)
        and convolution.padding_mode == "zeros"
        and isinstance(convolution.padding, tuple)
        and x.is_contiguous(memory_format=torch.channels_last)
        and onednn_fuses(x, convolution.weight)
    )
