"""Tensors on their way to a device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor

# Where a copy from the CPU reads everything before the call is back, so that it never has to be waited for.
UNHURRIED = {"cuda"}


def sent(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device still does, where that is possible."""
    return tensor.to(device, dtype, non_blocking=device.type in UNHURRIED)
