"""Training scenes for promptable segmentation that need no dataset: drawn objects with exactly known visible masks.

A scene is painted back to front: a background (surface, gradient, photo or a few labelled regions), then objects with
parts, light, shadow and occlusion, then a camera. Every scene is a function of its seed. `write_cache` stores many
scenes as memory-mapped arrays; `python -m sam_variants.hub_scripts.synthetic_scenes --help` draws contact sheets and
writes caches.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_camera import photograph
from sam_variants.hub_scripts.scene_layout import MIN_VISIBLE_FRACTION, compose_scene
from sam_variants.hub_scripts.scene_objects import Objects, legible_objects, seen_objects
from sam_variants.hub_scripts.scene_sets import arrange_scene
from sam_variants.hub_scripts.scene_shapes import MAX_LEAVES
from sam_variants.hub_scripts.scene_textures import PHOTOS, camera, check_texture_set, texture_bank

MIN_SIZE, MAX_SIZE = 32, 2048
EDITION = 2
CHUNK = 64


@dataclass(frozen=True)
class Scene:
    """One image with its visible regions.

    Attributes:
        image: H×W×3 uint8 RGB.
        leaves: H×W uint8, the id of the leaf region seen at each pixel, 0 = background.
        objects: for each object (whole objects, and their parts as objects of their own) the leaf ids whose union is
            its visible mask.
        levels: for each object 0 (whole), 1 (part) or 2 (subpart); empty where nothing is known.
        parents: for each object the index of the one that encloses it, -1 for wholes; empty where nothing is known.

    Raises:
        ValueError: image and leaves disagree in shape or dtype, or an object names no leaf or one outside 1..255.
    """

    image: np.ndarray
    leaves: np.ndarray
    objects: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise ValueError(f"image is {self.image.dtype} {self.image.shape}; allowed: uint8 (H, W, 3)")
        if self.leaves.dtype != np.uint8 or self.leaves.shape != self.image.shape[:2]:
            height, width = self.image.shape[:2]
            raise ValueError(f"leaves is {self.leaves.dtype} {self.leaves.shape}; allowed: uint8 {(height, width)}")
        for leaf_ids in self.objects:
            if not leaf_ids or min(leaf_ids) < 1 or max(leaf_ids) > MAX_LEAVES:
                raise ValueError(f"objects has {leaf_ids}; an object is one or more leaf ids in 1..{MAX_LEAVES}")
        for name, values, low, high in (
            ("levels", self.levels, 0, 2),
            ("parents", self.parents, -1, len(self.objects) - 1),
        ):
            if values and (len(values) != len(self.objects) or min(values) < low or max(values) > high):
                raise ValueError(
                    f"{name} is {values}; allowed: one int in {low}..{high} for each of {len(self.objects)}"
                )

    def masks(self) -> np.ndarray:
        """Visible masks, N×H×W bool, of the objects that show at least MIN_VISIBLE_FRACTION of the image.

        Scenes of `make_scene` hold only such objects, so there mask i is object i.
        """
        shown = visible_objects(self.leaves, self.objects)
        table = np.zeros((len(shown), MAX_LEAVES + 1), bool)
        for row, leaf_ids in zip(table, shown, strict=True):
            row[list(leaf_ids)] = True
        return table[:, self.leaves]


def visible_objects(leaves: np.ndarray, objects: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """The objects reduced to leaves that can be seen, without the too small ones and without repetitions."""
    areas = np.bincount(leaves.ravel(), minlength=MAX_LEAVES + 1)
    least = MIN_VISIBLE_FRACTION * leaves.size
    kept: dict[tuple[int, ...], None] = {}
    for leaf_ids in objects:
        seen = tuple(leaf for leaf in leaf_ids if areas[leaf])
        if sum(int(areas[leaf]) for leaf in seen) >= least:
            kept[seen] = None
    return tuple(kept)


def _check_arguments(size: int, textures: str, difficulty: float) -> None:
    check_texture_set(textures)
    if isinstance(size, bool) or not isinstance(size, int) or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size={size!r} is not allowed; it is an int of pixels in {MIN_SIZE}..{MAX_SIZE}")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty={difficulty!r} is outside 0..1")


def make_scene(
    seed: int, size: int = 256, textures: str = "train", difficulty: float = 1.0, edition: int = EDITION
) -> Scene:
    """One scene, always the same for the same arguments, with at least one object.

    Args:
        seed: any int from 0 on; seeds of the two texture sets are unrelated.
        size: side of the square image in pixels.
        textures: "train" or "held_out" (disjoint photos and procedural families).
        difficulty: 0 = few large objects, strong contrast, hardly any overlap; 1 = everything.
        edition: 2, or 1 for the simpler scenes of the project's first release.

    Raises:
        ValueError: an argument is out of range.
        ImportError: scikit-image is missing.
    """
    _check_arguments(size, textures, difficulty)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed={seed!r} is not allowed; it is an int from 0 on")
    if edition not in (1, EDITION):
        raise ValueError(f"edition={edition!r} does not exist; allowed: 1, {EDITION}")
    start = [int(seed), list(PHOTOS).index(textures), round(difficulty * 1e6)]
    if edition == 1:
        return _first_edition(np.random.default_rng(start), size, textures, difficulty)
    rng = np.random.default_rng([*start, edition])
    objects = Objects()
    while not len(objects):
        gray = bool(rng.uniform() < 0.25)
        arranger = arrange_scene(rng, texture_bank(textures), size, difficulty, gray)
        leaves = arranger.stage.leaves
        objects = seen_objects(leaves, arranger.objects, MIN_VISIBLE_FRACTION * leaves.size)
        image = photograph(rng, arranger.stage.canvas, difficulty, gray)
        objects = legible_objects(image, leaves, objects)
    return Scene(image, leaves, tuple(objects.leaf_ids), tuple(objects.levels), tuple(objects.parents))


def _first_edition(rng: np.random.Generator, size: int, textures: str, difficulty: float) -> Scene:
    objects: tuple[tuple[int, ...], ...] = ()
    while not objects:
        gray = bool(rng.uniform() < 0.25)
        composer = compose_scene(rng, texture_bank(textures), size, difficulty, gray)
        objects = visible_objects(composer.painter.leaves, composer.objects)
    nested = Objects()
    nested.add_nested(objects)
    image = camera(rng, composer.painter.canvas, difficulty, gray)
    return Scene(image, composer.painter.leaves, objects, tuple(nested.levels), tuple(nested.parents))


@dataclass(frozen=True)
class SceneCache:
    """Scenes on disk, read lazily: a sequence of `Scene` whose arrays are read-only views of memory-mapped files.

    Attributes:
        images: N×H×W×3 uint8.
        leaves: N×H×W uint8.
        leaf_ids: the leaf ids of all objects of all scenes in a row, uint8.
        object_starts: where each object begins in `leaf_ids`, plus the end.
        scene_starts: where each scene begins in `object_starts`, plus the end.
        about: the arguments of `write_cache`: seeds, size, textures, difficulty; and the edition of the scenes.
        levels: the level of every object, uint8; empty in a cache of the first edition.
        parents: for every object the index of the enclosing one in its scene or -1, int16; empty as `levels`.
    """

    images: np.ndarray
    leaves: np.ndarray
    leaf_ids: np.ndarray
    object_starts: np.ndarray
    scene_starts: np.ndarray
    about: dict[str, Any]
    levels: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    parents: np.ndarray = field(default_factory=lambda: np.empty(0, np.int16))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Scene:
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        index %= len(self)
        bounds = self.object_starts[self.scene_starts[index] : self.scene_starts[index + 1] + 1]
        objects = tuple(tuple(self.leaf_ids[start:end].tolist()) for start, end in pairwise(bounds))
        nesting: list[tuple[int, ...]] = [(), ()]
        if len(self.levels):
            start, end = self.scene_starts[index : index + 2]
            nesting = [tuple(values[start:end].tolist()) for values in (self.levels, self.parents)]
        return Scene(self.images[index], self.leaves[index], objects, *nesting)


def _write_chunk(
    start: int, path: Path, seeds: Sequence[int], size: int, textures: str, difficulty: float
) -> list[Objects]:
    """Make the scenes start .. start + CHUNK into the arrays on disk; returns their objects."""
    images = np.load(path / "images.npy", mmap_mode="r+")
    leaves = np.load(path / "leaves.npy", mmap_mode="r+")
    objects = []
    for index in range(start, min(start + CHUNK, len(seeds))):
        scene = make_scene(seeds[index], size, textures, difficulty)
        images[index], leaves[index] = scene.image, scene.leaves
        objects.append(Objects(list(scene.objects), list(scene.levels), list(scene.parents)))
    return objects


def write_cache(
    path: str | Path,
    seeds: Sequence[int],
    size: int = 256,
    textures: str = "train",
    difficulty: float = 1.0,
    workers: int = 1,
) -> None:
    """Make one scene per seed into the folder `path`: images.npy, leaves.npy, objects.npz and scenes.json.

    With more than one worker, processes are started afresh, so a calling script needs the `if __name__ == "__main__"`
    guard. scenes.json is written last: a folder without it is unfinished.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: `path` holds a finished cache.
    """
    _check_arguments(size, textures, difficulty)
    path, seeds = Path(path), [int(seed) for seed in seeds]
    if not seeds or min(seeds) < 0:
        raise ValueError("seeds is empty or has a negative number; give ints from 0 on, one per scene")
    if workers < 1:
        raise ValueError(f"workers={workers!r} is not allowed; give 1 or more processes")
    if (path / "scenes.json").exists():
        raise FileExistsError(f"path={str(path)!r} holds a finished cache; give another folder")
    path.mkdir(parents=True, exist_ok=True)
    for name, shape in (("images", (len(seeds), size, size, 3)), ("leaves", (len(seeds), size, size))):
        np.lib.format.open_memmap(path / f"{name}.npy", "w+", np.uint8, shape).flush()
    write = partial(_write_chunk, path=path, seeds=seeds, size=size, textures=textures, difficulty=difficulty)
    starts = range(0, len(seeds), CHUNK)
    if workers == 1:
        chunks = [write(start) for start in starts]
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            chunks = list(pool.map(write, starts))
    scenes = [objects for chunk in chunks for objects in chunk]
    flat = [leaf_ids for objects in scenes for leaf_ids in objects.leaf_ids]
    np.savez(
        path / "objects.npz",
        leaf_ids=np.array([leaf for leaf_ids in flat for leaf in leaf_ids], np.uint8),
        object_starts=np.cumsum([0, *map(len, flat)]),
        scene_starts=np.cumsum([0, *map(len, scenes)]),
        levels=np.array([level for objects in scenes for level in objects.levels], np.uint8),
        parents=np.array([parent for objects in scenes for parent in objects.parents], np.int16),
    )
    about = {"seeds": seeds, "size": size, "textures": textures, "difficulty": difficulty, "edition": EDITION}
    (path / "scenes.json").write_text(json.dumps(about))


def open_cache(path: str | Path) -> SceneCache:
    """Open a folder written by `write_cache`, without reading the images.

    Raises:
        FileNotFoundError: the folder holds no finished cache.
    """
    path = Path(path)
    if not (path / "scenes.json").exists():
        raise FileNotFoundError(f"path={str(path)!r} holds no finished scene cache (scenes.json is missing)")
    with np.load(path / "objects.npz") as tables:
        index = {name: tables[name] for name in tables.files}
    return SceneCache(
        images=np.load(path / "images.npy", mmap_mode="r"),
        leaves=np.load(path / "leaves.npy", mmap_mode="r"),
        about=json.loads((path / "scenes.json").read_text()),
        **index,
    )


def contact_sheet(scenes: Sequence[Scene], columns: int = 4) -> np.ndarray:
    """Scenes in a grid, each as image and coloured masks (small masks over large ones), uint8 RGB."""
    tiles = []
    for scene in scenes:
        masks = scene.masks()
        colors = np.random.default_rng(0).integers(60, 256, (len(masks), 3))
        view = np.zeros_like(scene.image)
        for index in np.argsort(-masks.sum((1, 2))):
            view[masks[index]] = colors[index]
        tiles.append(np.hstack([scene.image, view]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[row : row + columns]) for row in range(0, len(tiles), columns)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a contact sheet or write a cache; see --help."""
    parser = argparse.ArgumentParser(description="Draw synthetic training scenes.")
    parser.add_argument("--out", type=Path, help="PNG file for a contact sheet")
    parser.add_argument("--count", type=int, default=24, help="scenes on the contact sheet")
    parser.add_argument("--cache", type=Path, help="folder for a cache of scenes")
    parser.add_argument("--seeds", default="0:1000", help="A:B, seeds A up to but not including B")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--textures", default="train", choices=list(PHOTOS))
    parser.add_argument("--difficulty", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    if not options.out and not options.cache:
        parser.error("give --out FILE.png, --cache FOLDER, or both")
    first, _, last = options.seeds.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        parser.error(f"--seeds {options.seeds}: give A:B with 0 <= A < B, such as 0:1000")
    look = (options.size, options.textures, options.difficulty)
    if options.out:
        scenes = [make_scene(int(first) + index, *look) for index in range(options.count)]
        cv2.imwrite(str(options.out), cv2.cvtColor(contact_sheet(scenes), cv2.COLOR_RGB2BGR))
    if options.cache:
        write_cache(options.cache, range(int(first), int(last)), *look, options.workers)


if __name__ == "__main__":
    main()
