"""A linear layer on many tokens, at the full speed of any x86 processor."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Below so many multiplications a plain linear layer is as fast.
MIN_PRODUCTS = 1 << 20


def is_plain_inference() -> bool:
    """Whether nothing but the result is wanted: no gradient, and no graph for a compiler or an export."""
    is_recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not torch.is_grad_enabled() and not is_recorded


def is_untouched(module: nn.Module) -> bool:
    """Whether a module is what its class says: no hook, no replaced forward, no quantised or sharded weight."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in module.__dict__
        or any(type(weight) is not nn.Parameter for weight in module._parameters.values() if weight is not None)
    )


def token_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, computed by oneDNN where this is faster: in float32 inference on a CPU.

    In float32 a linear layer goes to MKL, whose products reach half the speed of oneDNN's on processors that are not
    Intel's. Results differ by rounding only.

    Args:
        x: …×in_features.
        weight: out_features×in_features, of any strides.
        bias: out_features, or None.

    Returns:
        …×out_features.
    """
    if not onednn_pays(x, weight):
        return F.linear(x, weight, bias)
    # For a slice of longer rows oneDNN falls back to its reference code, a thousand times slower.
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def batched_product(x: Tensor, weight: Tensor) -> Tensor:
    """`token_product` with another weight for each member of a batch.

    Args:
        x: G×N×in_features.
        weight: G×out_features×in_features, of any strides.

    Returns:
        G×N×out_features.
    """
    if not onednn_pays(x[0], weight[0]):
        # The longer side comes first, because a kernel may reorder the other one beforehand.
        is_long = x.shape[1] >= weight.shape[1]
        return x @ weight.transpose(1, 2) if is_long else (weight @ x.transpose(1, 2)).transpose(1, 2)
    if x.shape[0] == 1:
        return token_product(x[0], weight[0])[None]
    return torch.stack([token_product(*pair) for pair in zip(x, weight, strict=True)])


def onednn_pays(x: Tensor, weight: Tensor) -> bool:
    """Whether a product of x …×in_features and weight out_features×in_features is left to oneDNN."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and is_plain_inference()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
    )


class TokenLinear(nn.Linear):
    """`nn.Linear` by `token_product`."""

    def forward(self, x: Tensor) -> Tensor:
        """…×in_features → …×out_features."""
        if type(self.weight) is not nn.Parameter:  # a quantised weight knows linear layers only
            return super().forward(x)
        return token_product(x, self.weight, self.bias)
