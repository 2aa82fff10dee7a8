"""Multi-layer perceptrons."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sam_variants.layers.token_linear import TokenLinear, activated


class MLP(nn.Module):
    """A stack of linear layers with an activation between them (segment-anything's `MLP`, SAM 2's options included).

    Args:
        input_dim, hidden_dim, output_dim: widths.
        num_layers: number of linear layers, at least 1.
        act: class of the activation.
        sigmoid: sigmoid on the result.
        residual: add the input to the result (widths must agree).
        out_norm: module applied to the result, after the residual and before the sigmoid.

    Raises:
        ValueError: for no layers, or a residual between different widths.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        act: type[nn.Module] = nn.ReLU,
        sigmoid: bool = False,
        residual: bool = False,
        out_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} must be at least 1")
        if residual and input_dim != output_dim:
            raise ValueError(f"residual=True needs input_dim == output_dim, got {input_dim} and {output_dim}")
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))
        self.act = act()
        self.sigmoid = sigmoid
        self.residual = residual
        self.out_norm = nn.Identity() if out_norm is None else out_norm

    def forward(self, x: Tensor) -> Tensor:
        """…×input_dim → …×output_dim."""
        hidden = x
        *inner, last = self.layers  # a slice would be a module of its own, made anew for each call
        for layer in inner:
            hidden = self.act(layer(hidden))
        hidden = last(hidden)
        if self.residual:
            hidden = hidden + x
        hidden = self.out_norm(hidden)
        return F.sigmoid(hidden) if self.sigmoid else hidden


class MLPBlock(nn.Module):
    """Two linear layers, `lin1` and `lin2`, with an activation between them (segment-anything's `MLPBlock`).

    Args:
        embedding_dim: width in and out.
        mlp_dim: hidden width.
        act: class of the activation.
    """

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = TokenLinear(embedding_dim, mlp_dim)
        self.lin2 = TokenLinear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """…×embedding_dim in and out."""
        return self.lin2(activated(self.lin1, self.act, x))
