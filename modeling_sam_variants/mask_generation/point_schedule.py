"""The fast preset: which points of a grid are worth asking about, coarse ones first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # it imports PyTorch, and the presets are part of what --help tells
    from sam_variants.mask_runs import MaskRuns

ENOUGH_MASKS = 12
"""A point on so many masks needs no asking.

With fewer, the best of an object's masks is often missed: what one point finds, another point on the same object finds
with a better outline.
"""

LARGEST_COVER = 0.5
"""Masks of a larger share of the crop than this don't count: what lies on top of them is still to be found."""

BESIDE = 1.25
"""Points at most so many distances of the grid apart lie beside each other: more than 1, less than the diagonal."""


class LevelRule(NamedTuple):
    """Which points of an n×n grid a level asks about.

    Attributes:
        step: side of a cell of points.
        places: (column, row) in a cell of each point that is asked.
        only_beside_found: of these only the points beside one for which masks were found.
    """

    step: int
    places: tuple[tuple[int, int], ...]
    only_beside_found: bool = False


PRESETS: dict[str, tuple[LevelRule, ...]] = {
    "full": (LevelRule(1, ((0, 0),)),),
    "fast": (
        LevelRule(4, ((1, 1),)),
        LevelRule(2, ((1, 1),)),
        LevelRule(2, ((0, 0), (1, 1))),
        LevelRule(1, ((0, 0),), only_beside_found=True),
    ),
}
"""Preset → its levels, coarse ones first. The last has all points that are left."""


class PointLevel(NamedTuple):
    """Some of a grid's points.

    Attributes:
        indices: which, ascending.
        only_beside_found: as in `LevelRule`.
    """

    indices: np.ndarray
    only_beside_found: bool


def point_levels(grid: np.ndarray, preset: str) -> list[PointLevel]:
    """Deal a grid out to the levels of a preset, each point once.

    A grid of another form than n×n is treated as if its points were moved from such a one: a level has for each place
    in each of its cells the point nearest to where an even grid would have it.

    Args:
        grid: N×2 (x, y) in 0..1.
        preset: a key of `PRESETS`.
    """
    levels, is_left = [], np.ones(len(grid), dtype=bool)
    for rule in PRESETS[preset]:
        chosen = np.arange(len(grid)) if rule.step == 1 else _at_places(grid, rule)
        levels.append(PointLevel(chosen[is_left[chosen]], rule.only_beside_found))
        is_left[chosen] = False
    return levels


def _at_places(grid: np.ndarray, rule: LevelRule) -> np.ndarray:
    """Indices of the points nearest to a rule's places in each cell of `step`×`step` points, ascending."""
    cells_per_side = max(1, round(math.sqrt(len(grid)) / rule.step))
    cells = np.minimum((grid * cells_per_side).astype(int), cells_per_side - 1)
    chosen: list[np.ndarray] = []
    for place in rule.places:
        wanted = cells + (np.array(place) + 0.5) / rule.step
        order = np.argsort(np.square(grid * cells_per_side - wanted).sum(axis=1), kind="stable")
        _, first = np.unique(cells[order] @ [1, cells_per_side], return_index=True)
        chosen.append(order[first])
    return np.unique(np.concatenate(chosen))


def worth_asking(
    points: np.ndarray,
    level: PointLevel,
    masks: Sequence[MaskRuns],
    prompts: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Say which points of a level are worth asking about: those on which few masks lie yet.

    Args:
        points: all of the grid, N×2 (x, y) in pixels of the crop.
        level: whose points.
        masks: what has been found on the crop so far.
        prompts: the points they were found from, in the same pixels, as many rows.
        size: (height, width) of the crop.

    Returns:
        A bool for each of `level.indices`.
    """
    asked = points[level.indices]
    largest_area = LARGEST_COVER * size[0] * size[1]
    is_wanted = times_covered(asked, (mask for mask in masks if mask.area <= largest_area)) < ENOUGH_MASKS
    if level.only_beside_found:
        distance = np.array(size[::-1]) / math.sqrt(len(points))
        is_wanted &= _is_beside(asked / distance, np.unique(prompts, axis=0) / distance)
    return is_wanted


def times_covered(points: np.ndarray, masks: Iterable[MaskRuns]) -> np.ndarray:
    """Count the masks on each of K points (x, y); at a point is the pixel that holds it."""
    columns, rows = np.floor(points).astype(np.int64).T
    counts = np.zeros(len(points), dtype=np.int64)
    for mask in masks:
        x1, y1, x2, y2 = mask.box
        near = np.flatnonzero((x1 <= columns) & (columns <= x2) & (y1 <= rows) & (rows <= y2))
        if near.size and mask.columns.size:
            counts[near] += _holds(mask, columns[near], rows[near])
    return counts


def _holds(mask: MaskRuns, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether a mask has pixels, all of which lie in its box."""
    height = int(mask.ends.max()) + 1
    starts = mask.columns.astype(np.int64) * height + mask.starts
    # Runs are sorted and apart, so only the last that starts at or before a pixel can hold it.
    before = np.searchsorted(starts, columns * height + rows, side="right") - 1
    return (before >= 0) & (mask.columns[before] == columns) & (rows < mask.ends[before])


def _is_beside(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of K points have one of F others beside them, in distances of the grid."""
    gaps = np.square(points[:, None] - others).sum(axis=-1)
    return gaps.min(axis=1, initial=np.inf) <= BESIDE**2
