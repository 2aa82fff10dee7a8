"""Cutting a channels-last feature map into square windows and putting it together again."""

import torch.nn.functional as F
from torch import Tensor


def window_partition(x_bhwc: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """Cut a map into windows that don't overlap, padding its right and bottom with zeros where they don't fit.

    Follows `window_partition` of segment-anything.

    Args:
        x_bhwc: B×H×W×C.
        window_size: side of a window in tokens.

    Returns:
        The windows, (B·number of windows)×window_size×window_size×C, row by row, and the padded size (H', W').

    Raises:
        ValueError: `window_size` is not positive.
    """
    if window_size < 1:
        raise ValueError(f"window_size must be a positive number of tokens, got {window_size}.")
    height, width = x_bhwc.shape[1], x_bhwc.shape[2]
    if height % window_size or width % window_size:  # padding by nothing would copy the map
        x_bhwc = F.pad(x_bhwc, (0, 0, 0, -width % window_size, 0, -height % window_size))
    batch, padded_height, padded_width, channels = x_bhwc.shape
    rows, columns = padded_height // window_size, padded_width // window_size
    grid = x_bhwc.reshape(batch, rows, window_size, columns, window_size, channels)
    windows = grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, channels)
    return windows, (padded_height, padded_width)


def window_unpartition(
    windows: Tensor, window_size: int, padded_size: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Put windows together again and cut the padding off: the inverse of `window_partition`.

    Args:
        windows: (B·number of windows)×window_size×window_size×C.
        window_size: side of a window in tokens.
        padded_size: (H', W') as `window_partition` returned it.
        size: (H, W) of the map before padding.

    Returns:
        B×H×W×C.

    Raises:
        ValueError: `padded_size` is not a multiple of `window_size` or smaller than `size`.
    """
    (padded_height, padded_width), (height, width) = padded_size, size
    if padded_height % window_size or padded_width % window_size or padded_height < height or padded_width < width:
        raise ValueError(
            f"padded_size must be a multiple of window_size {window_size} and at least size {tuple(size)}, "
            f"got {tuple(padded_size)}."
        )
    rows, columns = padded_height // window_size, padded_width // window_size
    grid = windows.reshape(-1, rows, columns, window_size, window_size, windows.shape[-1])
    x_bhwc = grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, padded_height, padded_width, windows.shape[-1])
    return x_bhwc[:, :height, :width]
