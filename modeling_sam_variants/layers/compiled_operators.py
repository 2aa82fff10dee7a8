"""Fast operators of the CPU that a compiler takes as they are.

`torch.compile` would take the plain forms apart and give their products to MKL, which makes a compiled model slower
than it is without. Under it, the same kernels are called as operators of our own; exports don't see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_ONEDNN = torch.backends.mkldnn.is_available()
# What oneDNN computes here with an activation behind it.
FUSED_DTYPES: tuple[torch.dtype, ...] = ()
if HAS_ONEDNN:
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    FUSED_DTYPES = (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: True)


def is_compiled_inference() -> bool:
    """Whether a compiler, not an export, records what is computed here, and no gradient is wanted."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled() and not _is_exporting()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    result = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, activation, [], "none"
    )
    # The stride between samples of a single map can look like another layout to oneDNN; a compiler counts on this one.
    return result.contiguous(memory_format=torch.channels_last)


_linear_operator = torch.library.custom_op(
    "sam_variants::linear",
    _linear,
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor",
)
_convolution_operator = torch.library.custom_op(
    "sam_variants::convolution",
    _convolution,
    mutates_args=(),
    schema=(
        "(Tensor x, Tensor weight, Tensor? bias, SymInt[] padding, SymInt[] stride, SymInt[] dilation, SymInt groups, "
        "str activation) -> Tensor"
    ),
)


@_linear_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@_convolution_operator.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str,
) -> Tensor:
    shape = F.conv2d(x, weight, bias, stride, padding, dilation, groups).shape
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """A linear layer by oneDNN, with an activation that it knows behind it.

    Args:
        x: …×in_features, on the CPU, of one of `FUSED_DTYPES`.
        weight: out_features×in_features, dense or the transpose of a dense one.
        bias: out_features, or None.
        activation: "none" or "gelu".

    Returns:
        …×out_features.
    """
    compute: Any = _linear_operator if torch.compiler.is_compiling() else _linear
    return compute(x, weight, bias, activation)


def fused_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: str = "none",
) -> Tensor:
    """A convolution by oneDNN on a map whose channels lie together, with an activation that it knows behind it.

    Args:
        x: B×C×H×W, channels-last, on the CPU, of one of `FUSED_DTYPES`.
        weight, bias: of an `nn.Conv2d`.
        padding, stride, dilation, groups: of the same.
        activation: "none" or "gelu".

    Returns:
        B×C'×H'×W', channels-last.
    """
    compute: Any = _convolution_operator if torch.compiler.is_compiling() else _convolution
    return compute(x, weight, bias, padding, stride, dilation, groups, activation)
