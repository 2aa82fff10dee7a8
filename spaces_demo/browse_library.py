"""A labeled dataset with what visitors do to it: find images, look at them, mark them."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from sam_variants.labeling.label_finish import ERRORS_FILE
from sam_variants.labeling.labeled_dataset import AREA, SCORE, LabeledDataset
from sam_variants.labeling.progress_entries import PROGRESS, ProgressEntries
from sam_variants.spaces_demo.browse_finding import Columns, MaskFilter, Query, Summary, find, shown_masks, summarized
from sam_variants.spaces_demo.browse_marks import Marks
from sam_variants.spaces_demo.caches import BoundedCache

PAGE_SIZE = 24
# Filters whose counts are kept: a slider that is moved to and fro asks for few.
KEPT_SUMMARIES = 8
# Images that failed: so many are named.
MOST_FAILURES = 50
# A mask has as many pixels as its image at most, which number less than 2³¹; an unknown score is NaN.
KINDS: dict[str, Any] = {"score": np.float32}


class Snapshot:
    """The dataset as it was at one time: its images by row.

    In memory are its keys, 24 bytes for each image and 8 for each mask, and some pictures; not the dataset.

    Args:
        dataset: finished or not; it must not be refreshed.

    Attributes:
        stamp: part of the addresses of pictures, which browsers keep.

    Raises:
        OSError: for a dataset that can't be read.
    """

    def __init__(self, dataset: LabeledDataset) -> None:
        self.dataset = dataset
        self.columns = read_columns(dataset)
        self.stamp = secrets.token_hex(4)
        self._summaries: BoundedCache[Summary] = BoundedCache(KEPT_SUMMARIES, lambda summary: 1)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Key → row."""
        return {key: row for row, key in enumerate(self.columns.keys)}

    def summary(self, masks: MaskFilter) -> Summary:
        """What a filter leaves of each image's masks."""
        return self._summaries.get(masks, lambda: summarized(self.columns, masks))

    def shown(self, row: int, masks: MaskFilter) -> list[int]:
        """The masks of an image that a filter leaves, counted from 0."""
        part = slice(*self.columns.offsets[row : row + 2])
        return np.flatnonzero(shown_masks(self.columns.scores[part], self.columns.areas[part], masks)).tolist()

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of an image."""
        return int(self.columns.heights[row]), int(self.columns.widths[row])


def read_columns(dataset: LabeledDataset) -> Columns:
    """What is sorted and filtered by.

    Raises:
        OSError: a file is missing or damaged.
    """
    keys: list[str] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("height", "width", "num_masks", "score", "area")}
    for batch in dataset.batches(["key", "width", "height", SCORE, AREA]):
        keys += batch["key"].to_pylist()
        masks = batch["objects"].flatten()
        numbers = {"height": batch["height"], "width": batch["width"], "num_masks": batch["objects"].value_lengths()}
        for name, values in (numbers | {name: masks.field(name) for name in ("score", "area")}).items():
            found[name].append(values.to_numpy(zero_copy_only=False).astype(KINDS.get(name, np.int32)))
    whole = {name: np.concatenate([np.zeros(0, KINDS.get(name, np.int32)), *parts]) for name, parts in found.items()}
    offsets = np.concatenate([[0], np.cumsum(whole["num_masks"], dtype=np.int64)])
    return Columns(keys, whole["height"], whole["width"], offsets, whole["score"], whole["area"])


class Run(NamedTuple):
    """How far the run is that made a dataset.

    Attributes:
        parts_done: parts of the source that are labeled to their end.
        failed: `key` and `error` of the first images that couldn't be labeled, one more than `MOST_FAILURES` of more.
    """

    parts_done: int
    failed: list[dict[str, Any]]


def read_run(dataset: LabeledDataset) -> Run:
    """How far a run is: of one that isn't finished a file for each of its shards is read.

    Raises:
        OSError: a file is damaged.
    """
    if dataset.is_finished:
        return Run(dataset.identity["num_parts"], _failed(dataset.folder / ERRORS_FILE))
    entries = ProgressEntries(dataset.folder / PROGRESS)
    totals = entries.totals()
    names = entries.in_order() if totals.errors else []
    failed = (failure for name in names for failure in entries.read(*name).failed)
    return Run(totals.parts_done, list(islice(failed, MOST_FAILURES + 1)))


def _failed(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, MOST_FAILURES + 1)]


@dataclass(frozen=True, eq=False)
class View:
    """What one visitor looks at.

    Attributes:
        query: what was asked for.
        snapshot: of the dataset.
        rows: the images that were found, int32; they stay while some of them are marked.
        page: which of their pages, from 0.
        place: the open image's index in `rows`; None for the gallery.
    """

    query: Query
    snapshot: Snapshot
    rows: np.ndarray
    page: int = 0
    place: int | None = None

    @property
    def num_pages(self) -> int:
        """At least one."""
        return max(1, -(-len(self.rows) // PAGE_SIZE))

    @property
    def row(self) -> int | None:
        """Of the open image."""
        return None if self.place is None else int(self.rows[self.place])

    @property
    def key(self) -> str | None:
        """Of the open image."""
        return None if self.row is None else self.snapshot.columns.keys[self.row]

    @property
    def num_masks(self) -> int:
        """Of the open image, hidden ones too."""
        return 0 if self.row is None else int(np.diff(self.snapshot.columns.offsets[self.row : self.row + 2])[0])

    def page_rows(self) -> list[int]:
        """The images of the page."""
        return self.rows[self.page * PAGE_SIZE : (self.page + 1) * PAGE_SIZE].tolist()

    def turned(self, page: int) -> View:
        """The same on another page, or the nearest that there is."""
        return replace(self, page=min(max(page, 0), self.num_pages - 1))

    def opened(self, place: int | None) -> View:
        """The same with an image open, which is on the page that the gallery then shows."""
        if place is None or not 0 <= place < len(self.rows):
            return replace(self, place=None)
        return replace(self, place=place, page=place // PAGE_SIZE)

    def place_of(self, key: str) -> int | None:
        """Where an image stands; None where it is not among those found."""
        places = np.flatnonzero(self.rows == self.snapshot.row_of.get(key, -1))
        return int(places[0]) if len(places) else None


class Library:
    """A labeled dataset and the marks in it, for all visitors.

    Args:
        folder: of the dataset.

    Attributes:
        current: the dataset as it was when a page was last loaded.
        run: how far its run was then.

    Raises:
        ValueError: for a dataset of another version.
        OSError: for a folder that holds none, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self.marks = Marks(self.folder)
        self._lock = Lock()
        # Those that visitors still look at.
        self._snapshots: WeakValueDictionary[str, Snapshot] = WeakValueDictionary()
        dataset = LabeledDataset(self.folder)
        self.current, self.run = self._kept(dataset), read_run(dataset)

    def _kept(self, dataset: LabeledDataset) -> Snapshot:
        snapshot = Snapshot(dataset)
        self._snapshots[snapshot.stamp] = snapshot
        return snapshot

    def refresh(self) -> None:
        """Read the dataset again where it has grown, and what others marked.

        Raises:
            ValueError, OSError: as above; then all stays as it was.
        """
        self.marks.read()
        with self._lock:
            before = self.current.dataset
            if before.is_finished:
                return
            now = LabeledDataset(before.folder)
            run, current = read_run(now), self.current
            if (len(now), now.num_shards, now.is_finished) != (len(before), before.num_shards, before.is_finished):
                current = self._kept(now)
            self.current, self.run = current, run

    def snapshot(self, stamp: str) -> Snapshot | None:
        """One that somebody still looks at."""
        return self._snapshots.get(stamp)

    def look(self, query: Query) -> View:
        """What a query finds now."""
        snapshot, bad = self.current, self.marks.images()
        return View(query, snapshot, find(snapshot.columns, snapshot.summary(query.masks), query, bad))
