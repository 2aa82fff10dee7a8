"""Batches of training scenes with simulated first prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sam_variants.hub_scripts.synthetic_scenes import Scene, SceneCache, open_cache
from sam_variants.training.prompt_simulation import jittered_box, sample_click

CELL = 4  # the decoder predicts one logit for 4×4 pixels of the input
NUM_LEVELS = 3  # whole, part, subpart: what the decoder's three outputs for an ambiguous prompt mean
NO_OBJECT = -1
BOX_SHARE = 0.35
MASK_PROMPT_SHARE = 0.67


class SceneBatches(IterableDataset):
    """Endless batches of augmented scenes.

    Args:
        caches: folders written by `synthetic_scenes.write_cache`.
        size: side of the model's input in pixels.
        batch_size: images per batch.
        num_objects: prompted objects per image; scenes with fewer repeat some with other prompts.
        rounds: predictions per object, for which there are random numbers.
        min_area: objects below this share of the image are not asked for.
        seed: start of the random numbers, as several numbers; every worker adds its own.
    """

    def __init__(
        self,
        caches: list[Path],
        size: int,
        batch_size: int,
        num_objects: int,
        rounds: int,
        min_area: float,
        seed: Sequence[int],
    ) -> None:
        super().__init__()
        self.paths = caches
        self.size = size
        self.batch_size = batch_size
        self.num_objects = num_objects
        self.rounds = rounds
        self.min_area = min_area
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([*self.seed, worker.id if worker else 0])
        cv2.setNumThreads(1)
        caches = [open_cache(path) for path in self.paths]
        while True:
            examples = [self._example(caches, rng) for _ in range(self.batch_size)]
            yield {key: torch.from_numpy(np.stack([example[key] for example in examples])) for key in examples[0]}

    def _example(self, caches: list[SceneCache], rng: np.random.Generator) -> dict[str, np.ndarray]:
        while True:
            cache = caches[rng.integers(len(caches))]
            image, leaves, objects = augment(cache[int(rng.integers(len(cache)))], self.size, rng)
            coverages = object_coverages(leaves, objects, CELL)
            areas = coverages.mean(axis=(1, 2))
            usable = np.flatnonzero((areas >= self.min_area) & (areas < 0.9))
            if len(usable):
                break
        # every object about equally often, larger ones somewhat more
        weight = areas[usable] ** 0.25
        order = rng.choice(usable, self.num_objects, p=weight / weight.sum())
        chosen = coverages[order]
        clicks = np.array([sample_click(coverage, rng, CELL) for coverage in chosen], np.float32)
        boxes = np.stack([jittered_box(coverage, rng, CELL) for coverage in chosen])
        nested = np.array(
            [
                nested_objects(leaves, objects, coverages, int(asked), click)
                for asked, click in zip(order, clicks, strict=True)
            ]
        )
        return {
            "image": image,
            "targets": chosen,
            "levels": coverages[nested],
            "has_level": nested != NO_OBJECT,
            "is_object": np.ones(self.num_objects, bool),
            "points": clicks,
            "boxes": boxes,
            "use_box": rng.uniform(size=self.num_objects) < BOX_SHARE,
            "draws": rng.uniform(size=(self.num_objects, self.rounds - 1, 3)).astype(np.float32),
            "use_mask": rng.uniform(size=(self.num_objects, self.rounds - 1)) < MASK_PROMPT_SHARE,
        }


def nested_objects(
    leaves: np.ndarray, objects: tuple[tuple[int, ...], ...], coverages: np.ndarray, asked: int, click: np.ndarray
) -> list[int]:
    """What a click can mean: the indices of whole, part and subpart under it, `NO_OBJECT` for what is missing.

    Where more than three objects lie one in the other, the one that is asked for is among the three.

    Args:
        leaves: H×W leaf ids.
        objects: the leaf ids of every object.
        coverages: N×h×w, of every object.
        asked: index of the object that the click is for.
        click: x and y in pixels.
    """
    leaf = leaves[int(click[1] + 0.5), int(click[0] + 0.5)]
    under = {index for index, leaf_ids in enumerate(objects) if leaf in leaf_ids} | {asked}
    inwards = sorted(under, key=lambda index: (-coverages[index].sum(), index))
    while len(inwards) > NUM_LEVELS:
        inwards.remove(next(index for index in inwards[1:] if index != asked))
    return inwards + [NO_OBJECT] * (NUM_LEVELS - len(inwards))


def augment(
    scene: Scene, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, ...], ...]]:
    """A random crop, turn and recolouring of a scene at size×size: image H×W×3 uint8, leaves H×W uint8, objects."""
    image, leaves = scene.image, scene.leaves
    full = image.shape[0]
    side = full if rng.uniform() < 0.5 else int(full * rng.uniform(0.5, 1.0))
    top, left = rng.integers(0, full - side + 1, 2)
    image, leaves = (x[top : top + side, left : left + side] for x in (image, leaves))
    if side != size:
        # averaging over areas is fast for whole factors only
        method = cv2.INTER_AREA if side % size == 0 else cv2.INTER_LINEAR
        image = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=method)
        leaves = cv2.resize(leaves, (size, size), interpolation=cv2.INTER_NEAREST)
    turns, flip = int(rng.integers(4)), rng.uniform() < 0.5
    image, leaves = (np.rot90(x[:, ::-1] if flip else x, turns) for x in (image, leaves))
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, 3)
    shift = rng.uniform(-20, 20)
    image = np.clip(image.astype(np.float32) * gain + shift, 0, 255)
    if rng.uniform() < 0.15:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.uniform() < 0.3:
        image = image[:, :, rng.permutation(3)]
    return np.ascontiguousarray(image.astype(np.uint8)), np.ascontiguousarray(leaves), scene.objects


def object_coverages(leaves: np.ndarray, objects: tuple[tuple[int, ...], ...], cell: int) -> np.ndarray:
    """Every object's share of every cell: N×H/cell×W/cell float32."""
    height, width = (side // cell for side in leaves.shape)
    cells = np.arange(height).repeat(cell)[:, None] * width + np.arange(width).repeat(cell)
    counts = np.bincount((leaves.astype(np.int64) * (height * width) + cells).ravel(), minlength=256 * height * width)
    shares = (counts.reshape(256, height, width) / cell**2).astype(np.float32)
    return np.stack([shares[list(leaf_ids)].sum(axis=0) for leaf_ids in objects])


def drawn_ahead(dataset: IterableDataset) -> Iterator[dict[str, Tensor]]:
    """The batches of a dataset, drawn by a process of its own while the model works."""
    # Before the process is made: a forked one would wait for ever for OpenCV's threads, which it does not have, to end.
    cv2.setNumThreads(1)
    return iter(DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=4))
