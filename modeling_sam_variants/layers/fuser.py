"""A stack of copies of one layer."""

import copy

from torch import Tensor, nn


class Fuser(nn.Module):
    """`num_layers` independent copies of a layer in sequence; follows `Fuser` of SAM 2's memory encoder.

    The copies start from the same weights.

    Args:
        layer: the layer to copy; its output must fit its input. It is not itself part of the module.
        num_layers: number of copies.
        dim: channels; needed with `input_projection`.
        input_projection: whether a 1×1 convolution comes first.

    Raises:
        ValueError: `num_layers` is not positive, or `input_projection` without `dim`.
    """

    def __init__(
        self, layer: nn.Module, num_layers: int, dim: int | None = None, input_projection: bool = False
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be positive, got {num_layers}.")
        if input_projection and dim is None:
            raise ValueError("dim must be given as the number of channels with input_projection=True, got None.")
        self.proj = nn.Conv2d(dim, dim, kernel_size=1) if input_projection and dim is not None else nn.Identity()
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map B×C×H×W to B×C×H×W."""
        x = self.proj(x)
        for layer in self.layers:
            x = layer(x)
        return x
