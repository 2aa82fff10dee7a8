"""Runs the golden of SAM 2's free functions: each case names its function and, behind it, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.pooling import do_pool
from sam_variants.layers.position_embedding_sine import sine_encoding_1d
from sam_variants.layers.rope_attention import axial_rotary_angles, rotate_pairs
from sam_variants.layers.windows import window_partition, window_unpartition


def run_sam2_function(module: None, case: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A free function of SAM 2, by the case's name: some end in the sizes that they were called with."""
    name = case["name"]
    prefix = next(prefix for prefix in SAM2_FUNCTIONS if name == prefix or name.startswith(f"{prefix}_"))
    return SAM2_FUNCTIONS[prefix](name.removeprefix(prefix).strip("_"), **inputs)


def axial_cis(suffix: str) -> dict[str, Tensor]:
    """`compute_axial_cis`: "16_3x5" is 16 channels on a map 3 wide and 5 high."""
    dim, size = suffix.split("_")
    width, height = map(int, size.split("x"))
    angles = axial_rotary_angles(int(dim), (height, width))
    return {"real_imag": torch.stack((angles.cos(), angles.sin()), dim=-1)}


def rotary_encoding(suffix: str, q: Tensor, k: Tensor) -> dict[str, Tensor]:
    """`apply_rotary_enc` on a 4×4 map; keys may be several maps."""
    angles = axial_rotary_angles(q.shape[-1], (4, 4))
    cos, sin = angles.cos(), angles.sin()
    maps = k.unflatten(2, (-1, q.shape[2]))
    return {"q": rotate_pairs(q, cos, sin), "k": rotate_pairs(maps, cos, sin).flatten(2, 3)}


def windows(suffix: str, x: Tensor) -> dict[str, Tensor]:
    """`window_partition` and back: "4_7x10" has windows of 4 on a 7×10 map."""
    size = int(suffix.split("_")[0])
    parts, padded = window_partition(x, size)
    whole = window_unpartition(parts, size, padded, (x.shape[1], x.shape[2]))
    return {"windows": parts, "pad_hw": torch.tensor(padded), "unpartitioned": whole}


def pooled(suffix: str, x: Tensor) -> dict[str, Tensor]:
    return {"y": do_pool(x, nn.MaxPool2d(2, 2))}


def pooled_and_normed(suffix: str, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """`do_pool` with a norm behind it; without a pooling there is no norm either."""

    class Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], weight, bias)

    return {"y": do_pool(x, nn.MaxPool2d(2, 2), Norm()), "y_none": do_pool(x, None, Norm())}


def sine_of_time(suffix: str, pos: Tensor) -> dict[str, Tensor]:
    return {"pe": sine_encoding_1d(pos, 24)}


SAM2_FUNCTIONS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "compute_axial_cis": axial_cis,
    "apply_rotary_enc": rotary_encoding,
    "get_1d_sine_pe": sine_of_time,
    "window": windows,
    "do_pool_norm": pooled_and_normed,
    "do_pool": pooled,
}
