"""The fast preset: which points of a grid are worth asking about, coarse ones first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sam_variants.mask_runs import MaskRuns


class LevelRule(NamedTuple):
    """Which points of an n×n grid a level asks about.

    Attributes:
        step: every how many rows and columns.
        first: the first row and column, below `step`.
        largest_cover: points on a mask found before are left out when its area is at most this share of the crop's.
    """

    step: int
    first: int
    largest_cover: float


PRESETS: dict[str, tuple[LevelRule, ...]] = {
    "full": (LevelRule(1, 0, 0.0),),
    "fast": (LevelRule(4, 1, 0.0), LevelRule(2, 1, 0.1), LevelRule(1, 0, 0.1)),
}
"""Preset → its levels, coarse ones first. The last asks about all points that are left."""


class PointLevel(NamedTuple):
    """Some of a grid's points.

    Attributes:
        indices: which, ascending.
        largest_cover: as in `LevelRule`.
    """

    indices: np.ndarray
    largest_cover: float


def point_levels(grid: np.ndarray, preset: str) -> list[PointLevel]:
    """Deal a grid out to the levels of a preset, each point once.

    A grid of another form than n×n is treated as if its points were moved from such a one: a level has one point for
    each of its cells, the one nearest to where an even grid would have it.

    Args:
        grid: N×2 (x, y) in 0..1.
        preset: a key of `PRESETS`.
    """
    levels, is_left = [], np.ones(len(grid), dtype=bool)
    for rule in PRESETS[preset]:
        chosen = np.arange(len(grid)) if rule.step == 1 else _one_per_cell(grid, rule)
        levels.append(PointLevel(chosen[is_left[chosen]], rule.largest_cover))
        is_left[chosen] = False
    return levels


def _one_per_cell(grid: np.ndarray, rule: LevelRule) -> np.ndarray:
    """Indices of the points nearest to one place in each cell of `step`×`step` points, ascending."""
    cells_per_side = max(1, round(math.sqrt(len(grid)) / rule.step))
    cells = np.minimum((grid * cells_per_side).astype(int), cells_per_side - 1)
    places = cells + (rule.first + 0.5) / rule.step
    order = np.argsort(np.square(grid * cells_per_side - places).sum(axis=1), kind="stable")
    _, first = np.unique(cells[order] @ [1, cells_per_side], return_index=True)
    return np.sort(order[first])


def uncovered(points: np.ndarray, masks: Iterable[MaskRuns], largest_area: float) -> np.ndarray:
    """Say which points are worth asking about: those on which no mask of suitable size lies yet.

    A large mask answers for nothing: smaller objects may lie on top of it.

    Args:
        points: K×2 (x, y) in pixels of the crop.
        masks: what has been found on the crop so far.
        largest_area: the largest area in pixels of a mask that answers for the points on it.

    Returns:
        K bool.
    """
    wanted = np.ones(len(points), dtype=bool)
    for mask in masks:
        if mask.area <= largest_area:
            wanted[wanted] = ~_is_inside(points[wanted], mask)
    return wanted


def _is_inside(points: np.ndarray, mask: MaskRuns) -> np.ndarray:
    """Which of K points, whose pixel is the one that holds them, a mask has."""
    if not mask.columns.size:
        return np.zeros(len(points), dtype=bool)
    columns, rows = np.floor(points).astype(np.int64).T
    height = max(mask.ends.max(), rows.max(initial=0)) + 1
    # Runs are sorted and apart, so only the last that starts at or before a pixel can hold it.
    before = np.searchsorted(mask.columns * height + mask.starts, columns * height + rows, side="right") - 1
    return (before >= 0) & (mask.columns[before] == columns) & (rows < mask.ends[before])
