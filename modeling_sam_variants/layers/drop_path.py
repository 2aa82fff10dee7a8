"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., 2016): whole samples of a residual branch are dropped in training.

    Args:
        drop_prob: probability of dropping a sample's branch, 0 ≤ p < 1.
        scale_by_keep: divide what is kept by 1 − p, so that the expectation stays.

    Raises:
        ValueError: for a probability outside [0, 1).
    """

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f"drop_prob={drop_prob} must be at least 0 and below 1")
        self.drop_prob = float(drop_prob)
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        """Any shape with the samples first; identity in eval mode."""
        if self.drop_prob == 0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (kept / keep if self.scale_by_keep else kept)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"
