"""Which images of a labeled dataset are asked for, and in which order: arithmetic on its columns, without pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Range = tuple[float | None, float | None]
ANY: Range = (None, None)
ALL, UNMARKED, BAD = "all", "unmarked", "bad"
SHOWN = {"All": ALL, "Not marked": UNMARKED, "Marked bad": BAD}


@dataclass(frozen=True)
class MaskFilter:
    """Which masks are shown.

    Attributes:
        score: those below are hidden; masks without a score are not, and with 0 none is: an expected IoU may be less.
        area: pixels, from and to, both inclusive.
    """

    score: float = 0.0
    area: Range = ANY


@dataclass(frozen=True)
class Query:
    """What a visitor asks for; all of it must hold.

    Attributes:
        text: part of the image's key, upper or lower case.
        sort: key in `SORTS`.
        shown: value in `SHOWN`.
        masks: which masks are shown; what is said of masks below is said of these.
        num_masks: of an image, from and to, both inclusive.
        megapixels: of the image, from and to.
    """

    text: str = ""
    sort: str = "Source order"
    shown: str = ALL
    masks: MaskFilter = MaskFilter()
    num_masks: Range = ANY
    megapixels: Range = ANY


@dataclass(frozen=True)
class Columns:
    """What is known about N images and their M masks, one behind the other.

    Attributes:
        keys: N.
        heights, widths: N, in pixels.
        offsets: N+1; the masks of image i are offsets[i] to offsets[i+1].
        scores: M float32, NaN where a mask has none.
        areas: M, in pixels.
    """

    keys: Sequence[str]
    heights: np.ndarray
    widths: np.ndarray
    offsets: np.ndarray
    scores: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def pixels(self) -> np.ndarray:
        """N int64, height × width."""
        return self.heights.astype(np.int64) * self.widths


class Summary(NamedTuple):
    """Of the masks of each image that are shown: N numbers, means of images without masks are NaN."""

    num_masks: np.ndarray
    mean_score: np.ndarray
    covered: np.ndarray  # sum of areas / pixels; overlapping masks count twice


# Name → what images are sorted by, smallest first.
SORTS: dict[str, Callable[[Columns, Summary], np.ndarray] | None] = {
    "Source order": None,
    "Most masks": lambda columns, summary: -summary.num_masks,
    "Fewest masks": lambda columns, summary: summary.num_masks,
    "Lowest mean score": lambda columns, summary: summary.mean_score,
    "Highest mean score": lambda columns, summary: -summary.mean_score,
    "Largest masked area": lambda columns, summary: -summary.covered,
    "Smallest masked area": lambda columns, summary: summary.covered,
    "Largest image": lambda columns, summary: -columns.pixels,
    "Smallest image": lambda columns, summary: columns.pixels,
}


def shown_masks(scores: np.ndarray, areas: np.ndarray, wanted: MaskFilter) -> np.ndarray:
    """Which masks a filter leaves: M bool."""
    kept = within(areas, wanted.area)
    return kept if wanted.score <= 0 else kept & ~(scores < wanted.score)  # NaN is not below


def within(values: np.ndarray, limits: Range) -> np.ndarray:
    """Which values lie between two limits, both inclusive; None is no limit."""
    low, high = limits
    kept = np.ones(len(values), dtype=bool)
    if low is not None:
        kept &= values >= low
    if high is not None:
        kept &= values <= high
    return kept


def summarized(columns: Columns, wanted: MaskFilter) -> Summary:
    """Count and average the masks that a filter leaves."""
    kept = shown_masks(columns.scores, columns.areas, wanted)
    num_masks = _sums(kept, columns.offsets)
    scored = kept & ~np.isnan(columns.scores)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_score = _sums(np.where(scored, columns.scores, 0), columns.offsets) / _sums(scored, columns.offsets)
    covered = _sums(np.where(kept, columns.areas, 0), columns.offsets) / np.maximum(columns.pixels, 1)
    return Summary(num_masks, mean_score, covered)


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum over each image's masks."""
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    totals = np.zeros(len(values) + 1, dtype=kind)
    np.cumsum(values, out=totals[1:])
    return totals[offsets[1:]] - totals[offsets[:-1]]


def find(columns: Columns, summary: Summary, query: Query, bad: frozenset[str]) -> np.ndarray:
    """The rows of the images that are asked for, in order.

    Args:
        columns: of the dataset.
        summary: under `query.masks`.
        query: what is asked for.
        bad: the keys of the images that are marked.

    Returns:
        int32.
    """
    kept = within(summary.num_masks, query.num_masks) & within(columns.pixels / 1e6, query.megapixels)
    rows = np.flatnonzero(kept).astype(np.int32)
    text = query.text.strip().casefold()
    if text:
        rows = rows[[text in columns.keys[row].casefold() for row in rows.tolist()]]
    if query.shown != ALL:
        rows = rows[[(columns.keys[row] in bad) == (query.shown == BAD) for row in rows.tolist()]]
    order = SORTS[query.sort]
    # Of equal ones the first in the source is first; NaN is last.
    return rows if order is None else rows[np.argsort(order(columns, summary)[rows], kind="stable")]
