"""A linear layer on many tokens, at the full speed of any x86 processor."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.compiled_operators import FUSED_DTYPES, HAS_ONEDNN, fused_linear, is_compiled_inference

# Below so many multiplications a plain linear layer is as fast.
MIN_PRODUCTS = 1 << 20


def is_plain_inference() -> bool:
    """Whether nothing but the result is wanted: no gradient, no graph for a compiler or an export, no transform.

    Transforms of `torch.func` know nothing of oneDNN's operators, and would give wrong tangents without a word.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled():
        return False
    return not torch._C._are_functorch_transforms_active()


def is_untouched(module: nn.Module) -> bool:
    """Whether a module is what its class says: no hook, no replaced forward, no quantised or sharded weight."""
    return is_unhooked(module) and all(
        type(weight) is nn.Parameter for weight in module._parameters.values() if weight is not None
    )


def is_unhooked(module: nn.Module) -> bool:
    """Whether a module's own forward is all that runs when it is called."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def plain_weight(linear: nn.Linear, x: Tensor) -> Tensor | None:
    """A layer's weight for a kernel that takes plain tensors only, or None where it has to stay what it is.

    An int8 weight of torchao that leaves the activations alone becomes floats for one product, in inference on a CPU:
    torchao itself multiplies it at half the speed, because it scales the product instead, in passes of its own.
    """
    weight: Any = linear.weight
    if type(weight) is nn.Parameter:
        return weight
    is_weight_only = getattr(weight, "act_quant_kwargs", weight) is None and weight.act_pre_scale is None
    if not is_weight_only or x.device.type != "cpu" or not is_plain_inference():
        return None
    return weight.dequantize(x.dtype)


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
    return fused_linear(x, weight, bias)


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
        and (is_plain_inference() or is_compiled_inference())
        and not torch.is_autocast_enabled("cpu")
        and HAS_ONEDNN
        and x.numel() * weight.shape[0] >= MIN_PRODUCTS
    )


def onednn_fuses(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer may go to oneDNN with what follows it: float32 or bfloat16 inference on a CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in FUSED_DTYPES
        and (is_plain_inference() or is_compiled_inference())
        and not torch.is_autocast_enabled("cpu")
    )


def is_exact_gelu(activation: nn.Module) -> bool:
    """Whether an activation is the GELU that oneDNN knows."""
    return type(activation) is nn.GELU and activation.approximate == "none" and is_untouched(activation)


def activated(linear: nn.Linear, activation: nn.Module, x: Tensor) -> Tensor:
    """`activation(linear(x))`; in inference on a CPU without a map in between, which costs as much as the product.

    Args:
        linear: of in_features and out_features.
        activation: works elementwise.
        x: …×in_features.

    Returns:
        …×out_features.
    """
    if type(linear) is TokenLinear and is_unhooked(linear) and is_exact_gelu(activation):
        weight = plain_weight(linear, x)
        if weight is not None and onednn_fuses(x, weight):
            return fused_linear(x, weight, linear.bias, "gelu")
    return activation(linear(x))


class TokenLinear(nn.Linear):
    """`nn.Linear` by `token_product`."""

    def forward(self, x: Tensor) -> Tensor:
        """…×in_features → …×out_features."""
        weight = plain_weight(self, x)
        if weight is None:  # a quantised weight knows linear layers only
            return super().forward(x)
        return token_product(x, weight, self.bias)
