"""Pooling of channels-last feature maps."""

from torch import Tensor, nn


def do_pool(x: Tensor, pool: nn.Module | None, norm: nn.Module | None = None) -> Tensor:
    """Pool a channels-last map over space and normalise it; follows `do_pool` of SAM 2's Hiera.

    Args:
        x: B×H×W×C.
        pool: a module on B×C×H×W, such as `nn.MaxPool2d`; with None, `x` is returned as it is.
        norm: a module on B×H'×W'×C that is applied after the pooling.

    Returns:
        B×H'×W'×C.
    """
    if pool is None:
        return x
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x if norm is None else norm(x)
