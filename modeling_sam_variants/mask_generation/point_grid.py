"""The regular grids of points that mask generation asks the model about."""

from __future__ import annotations

import numpy as np


def build_point_grid(n_per_side: int) -> np.ndarray:
    """Return the centres of n×n equal cells, row by row (segment-anything's `build_point_grid`).

    Args:
        n_per_side: points along each side.

    Returns:
        n²×2 float64 (x, y) in 0..1, as a share of the image's width and height.

    Raises:
        ValueError: `n_per_side` below 1.
    """
    if n_per_side < 1:
        raise ValueError(f"n_per_side must be 1 or more, got {n_per_side}")
    offset = 1 / (2 * n_per_side)
    along_side = np.linspace(offset, 1 - offset, n_per_side)
    x, y = np.meshgrid(along_side, along_side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def build_layer_point_grids(points_per_side: int, n_layers: int, downscale_factor: int) -> list[np.ndarray]:
    """Return one grid per layer of crops, thinner by the factor from layer to layer (`build_all_layer_point_grids`).

    Args:
        points_per_side: points along each side of the whole image.
        n_layers: layers of crops behind the whole image.
        downscale_factor: layer i has points_per_side // downscale_factor**i points along each side of a crop.

    Returns:
        n_layers + 1 grids as `build_point_grid` makes them.

    Raises:
        ValueError: a layer would have no points.
    """
    sides = [points_per_side // downscale_factor**layer for layer in range(n_layers + 1)]
    if sides[-1] < 1:
        raise ValueError(
            f"points_per_side={points_per_side} with crop_n_points_downscale_factor={downscale_factor} leaves no "
            f"points for crop layer {n_layers}: points per side would be {sides}"
        )
    return [build_point_grid(side) for side in sides]
