"""Batch norms that keep their statistics while what surrounds them is trained."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that stays in eval mode: it uses its running statistics and never changes them."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        super().train(False)
        return self


def freeze_batch_norms(module: Module) -> Module:
    """Freeze the statistics of every batch norm whose weights are frozen.

    They are buffers, which `requires_grad` does not hold: in train mode a frozen TinyViT would drift with every batch,
    and what is saved without it (an adapter, a decoder) would fit nothing that can be loaded.

    Args:
        module: changed in place; parameters and names stay as they are.

    Returns:
        The module itself.
    """
    for child in module.modules():
        if type(child) is nn.BatchNorm2d and not any(parameter.requires_grad for parameter in child.parameters()):
            child.__class__ = FrozenBatchNorm2d
            child.training = False
    return module


def thaw_batch_norms(module: Module) -> Module:
    """Undo `freeze_batch_norms`; the modes stay until the next `train()` or `eval()`."""
    for child in module.modules():
        if type(child) is FrozenBatchNorm2d:
            child.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    return module
