"""The objects of a scene as nested sets of leaves: which enclose which, which can be seen, which can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_shapes import MAX_LEAVES, Patch
from sam_variants.hub_scripts.scene_things import PART, SUBPART, WHOLE, Piece

LeafIds = tuple[int, ...]
MIN_STEP = 9.0
"""Gray levels (of the strongest channel) that an outline stands out by where it can be followed by eye."""
MIN_OUTLINE = 0.5
"""Share of an outline that must stand out."""


@dataclass
class Objects:
    """Objects in step: leaf ids, level (0 whole, 1 part, 2 subpart) and the index of the enclosing object or -1."""

    leaf_ids: list[LeafIds] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.leaf_ids)

    def add(self, leaf_ids: LeafIds, level: int, parent: int) -> int:
        """Add an object and return its index."""
        self.leaf_ids.append(leaf_ids)
        self.levels.append(level)
        self.parents.append(parent)
        return len(self.leaf_ids) - 1

    def add_thing(self, pieces: Sequence[Piece], patches: Sequence[Patch | None]) -> None:
        """Add a painted thing: the whole, then its parts and subparts (a part before what lies on it)."""
        leaves = [patch.leaf if patch else None for patch in patches]
        if not any(leaves):
            return
        holdings: list[list[int]] = [[] for _ in pieces]
        for index, leaf in enumerate(leaves):
            at = index
            while leaf is not None and at >= 0:
                holdings[at].append(leaf)
                at = pieces[at].parent
        whole = self.add(tuple(leaf for leaf in leaves if leaf is not None), WHOLE, -1)
        places: dict[int, int] = {}
        for index, piece in enumerate(pieces):
            if piece.level not in (PART, SUBPART) or not holdings[index]:
                continue
            at = piece.parent
            while at >= 0 and at not in places:
                at = pieces[at].parent
            places[index] = self.add(tuple(holdings[index]), piece.level, places.get(at, whole))

    def add_nested(self, objects: Sequence[LeafIds]) -> None:
        """Add objects whose nesting follows from their leaves: what lies in none is a whole."""
        sets = [set(leaf_ids) for leaf_ids in objects]
        first = len(self)
        for index, own in enumerate(sets):
            around = [other for other in range(index) if own < sets[other]]
            inner = min(around, key=lambda other: len(sets[other]), default=-1)
            self.add(objects[index], min(len(around), SUBPART), first + inner if around else -1)

    def kept(self, keep: Sequence[bool]) -> Objects:
        """The objects marked, each below the nearest enclosing one that is left, or below none."""
        places = np.cumsum(keep) - 1
        left = Objects()
        for index in compress(range(len(self)), keep):
            parent = self.parents[index]
            while parent >= 0 and not keep[parent]:
                parent = self.parents[parent]
            left.add(self.leaf_ids[index], self.levels[index], int(places[parent]) if parent >= 0 else -1)
        return left


def seen_objects(leaves: np.ndarray, objects: Objects, least: float) -> Objects:
    """The objects reduced to leaves that show, without those that cover less than `least` pixels.

    Of objects that show the same leaves the outermost is kept. What encloses a kept object covers no less, so that it
    is kept too, unless another stands for it.
    """
    areas = np.bincount(leaves.ravel(), minlength=MAX_LEAVES + 1)
    reduced = Objects([tuple(x for x in ids if areas[x]) for ids in objects.leaf_ids], objects.levels, objects.parents)
    first: dict[frozenset[int], int] = {}
    for index, ids in enumerate(reduced.leaf_ids):
        key = frozenset(ids)
        if key not in first or reduced.levels[index] < reduced.levels[first[key]]:
            first[key] = index
    outermost = set(first.values())
    keep = [index in outermost and int(areas[list(ids)].sum()) >= least for index, ids in enumerate(reduced.leaf_ids)]
    return reduced.kept(keep)


def legible_objects(image: np.ndarray, leaves: np.ndarray, objects: Objects) -> Objects:
    """The objects whose outlines can be seen in the picture, with all that encloses them seen as well.

    Args:
        image: S×S×3 uint8, as the camera left it.
        leaves: S×S uint8.
        objects: whose leaves show.
    """
    if not len(objects):
        return objects
    reach = max(round(2 * image.shape[0] / 256), 1)
    smooth = cv2.blur(image, (2 * (reach // 2) + 1,) * 2).astype(np.int16)
    noise = float(np.median(np.abs(image[::4, ::4] - smooth[::4, ::4])))
    pairs, steps = [], []
    for axis in (0, 1):
        before, after = (
            np.take(leaves, range(*span), axis) for span in ((0, -1 + leaves.shape[axis]), (1, leaves.shape[axis]))
        )
        rows, columns = np.nonzero(before != after)
        pairs.append(np.stack([before[rows, columns], after[rows, columns]]))
        ends = []
        for way in (-reach + 1, reach):
            place = [rows, columns]
            place[axis] = np.clip(place[axis] + way, 0, leaves.shape[axis] - 1)
            ends.append(smooth[place[0], place[1]])
        steps.append(np.abs(ends[0] - ends[1]).max(axis=1))
    (first, second), step = np.concatenate(pairs, axis=1), np.concatenate(steps)
    table = np.zeros((len(objects), MAX_LEAVES + 1), bool)
    for row, ids in zip(table, objects.leaf_ids, strict=True):
        row[list(ids)] = True
    outline = table[:, first] != table[:, second]
    clear = outline @ (step >= MIN_STEP + 1.5 * min(noise, 8.0)).astype(np.float32)
    keep = (clear >= MIN_OUTLINE * outline.sum(axis=1)).tolist()
    for index, parent in enumerate(objects.parents):
        keep[index] = keep[index] and (parent < 0 or keep[parent])
    return objects.kept(keep)
