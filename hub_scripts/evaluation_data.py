"""What an evaluation is made on: the built-in sets of images, or anybody's images with masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sam_variants.hub_scripts.evaluation_defaults import (
    BUILT_IN,
    CELL,
    COINS,
    FIRST_SEED,
    HELD_OUT,
    MAX_OBJECTS,
    MIN_AREA,
    NUM_SCENES,
    PHOTO_OBJECTS,
    SCENE_SIZE,
)
from sam_variants.hub_scripts.evaluation_sets import coins_photo, held_out_scenes
from sam_variants.hub_scripts.photo_objects import cell_photo, photo_objects
from sam_variants.training.masked_image import MaskedImage


@dataclass(frozen=True)
class SetOptions:
    """Which images and objects are asked for.

    Attributes:
        scenes, first_seed, size, difficulty: of the held-out scenes.
        max_objects: of an image; None: `MAX_OBJECTS` of a scene, all of any other image.
        min_area: smaller objects (as a share of the image) are not asked for; None: `MIN_AREA` in scenes, 0 elsewhere.
        max_images: of every set; None for all.
        seed: which images of a data set are drawn where there are more.
    """

    scenes: int = NUM_SCENES
    first_seed: int = FIRST_SEED
    size: int = SCENE_SIZE
    difficulty: float = 1.0
    max_objects: int | None = None
    min_area: float | None = None
    max_images: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """Anybody's data.

    Attributes:
        data: folder, file or Hub dataset.
        split: which, where there are several.
        streaming: whether rows are read one after another.
        columns: those that are not found by themselves.
    """

    data: str
    split: str | None = None
    streaming: bool = False
    columns: dict[str, str] | None = None

    @property
    def name(self) -> str:
        """What it is called in a report: its id on the Hub, or the name of its folder or file."""
        return Path(self.data).resolve().name if Path(self.data).exists() else self.data


@dataclass(frozen=True)
class EvaluationSet:
    """Images that are measured together.

    Attributes:
        title: for people.
        images: gives them anew, always the same; called with whether all objects are wanted, whatever the options say.
        num_images: how many; None where it isn't known before.
        is_compared: whether baselines are measured here, too.
        left_out: how much of what was read last is no object that is asked for, by reason.
    """

    title: str
    images: Callable[[bool], Iterable[MaskedImage]]
    num_images: int | None = 1
    is_compared: bool = False
    left_out: Callable[[], dict[str, int]] = dict


def scene_set(options: SetOptions) -> EvaluationSet:
    """The held-out scenes."""
    min_area = MIN_AREA if options.min_area is None else options.min_area

    def images(all_objects: bool) -> Iterator[MaskedImage]:
        max_objects = None if all_objects else options.max_objects or MAX_OBJECTS
        of_scenes = (options.first_seed, options.size, options.difficulty, max_objects, min_area)
        return held_out_scenes(options.scenes, *of_scenes)

    return EvaluationSet("Held-out scenes", images, options.scenes, is_compared=True)


def photo_set(
    title: str, photos: Callable[[], Iterable[MaskedImage]], count: int, is_compared: bool, options: SetOptions
) -> EvaluationSet:
    """Photos with every object asked for that the options allow."""

    def images(all_objects: bool) -> Iterator[MaskedImage]:
        return (wanted_objects(photo, options, all_objects) for photo in photos())

    return EvaluationSet(title, images, count, is_compared)


MAKERS: dict[str, Callable[[SetOptions], EvaluationSet]] = {
    HELD_OUT: scene_set,
    COINS: partial(photo_set, "Photo of coins", lambda: [coins_photo()], 1, True),
    PHOTO_OBJECTS: partial(photo_set, "Objects in photos", photo_objects, 4, False),
    CELL: partial(photo_set, "Photo of a cell", lambda: [cell_photo()], 1, False),
}


def wanted_objects(example: MaskedImage, options: SetOptions, all_objects: bool = False) -> MaskedImage:
    """The image with the objects that are asked for: large enough, and the first ones."""
    chosen = np.flatnonzero(example.areas >= (options.min_area or 0.0))
    if not all_objects and options.max_objects is not None:
        chosen = chosen[: options.max_objects]
    if len(chosen) == len(example.masks):
        return example
    levels = None if example.levels is None else example.levels[chosen]
    return replace(example, masks=example.masks[chosen], levels=levels)


def built_in_sets(names: str, options: SetOptions) -> dict[str, EvaluationSet]:
    """The sets of a comma-separated list.

    Raises:
        ValueError: an unknown or missing name.
    """
    chosen = [name.strip() for name in names.split(",")]
    if not set(chosen) <= set(BUILT_IN):
        raise ValueError(f"sets={names!r} is not allowed; give some of {','.join(BUILT_IN)}, with commas between")
    return {name: first_images(make(options), options.max_images) for name, make in MAKERS.items() if name in chosen}


def first_images(found: EvaluationSet, count: int | None) -> EvaluationSet:
    """At most so many images of a set."""
    if count is None or (found.num_images is not None and found.num_images <= count):
        return found
    return replace(found, images=lambda all_objects: islice(found.images(all_objects), count), num_images=count)


def read_columns(text: str | None) -> dict[str, str] | None:
    """Columns of a data set from "image=photo,masks=labels".

    Raises:
        ValueError: another form.
    """
    if text is None:
        return None
    pairs = [[side.strip() for side in pair.split("=")] for pair in text.split(",")]
    if not all(len(pair) == 2 and all(pair) for pair in pairs):
        raise ValueError(f"columns={text!r} is not allowed; write --columns image=NAME,masks=NAME")
    return dict(pairs)


def data_set(source: Source, options: SetOptions) -> dict[str, EvaluationSet]:
    """Anybody's images with masks; what was found there is told on the standard error.

    Of more than `options.max_images` rows some are drawn by the seed; of a stream the first are taken.

    Raises:
        ValueError, OSError: see `open_masks`.
        ImportError: datasets is missing.
    """
    from sam_variants.training.mask_datasets import open_masks

    given: dict[str, Any] = {"split": source.split, "streaming": source.streaming, "columns": source.columns}
    dataset = open_masks(source.data, max_objects=options.max_objects, **given)
    Console(stderr=True).print(dataset.report(), soft_wrap=True, markup=False, highlight=False)
    read: dict[str, int] = {}

    def images(all_objects: bool) -> Iterator[MaskedImage]:
        rows = open_masks(source.data, **given) if all_objects else copy(dataset)
        rows.skipped = Counter()
        if not source.streaming and options.max_images is not None and options.max_images < len(rows):
            rows = rows.shuffle(options.seed).select(range(options.max_images))
        own: Counter[str] = Counter()
        for row in rows:
            example = wanted_objects(row, options, all_objects)
            own["objects that are not asked for"] += len(row.masks) - len(example.masks)
            own["images without an object"] += not len(example.masks)
            read.clear()
            read.update(+(rows.skipped + own))
            yield example

    found = EvaluationSet(source.name, images, None if source.streaming else len(dataset), left_out=lambda: dict(read))
    return {source.name: first_images(found, options.max_images)}
