"""Synthetic scenes: deterministic, masks that fit what is drawn, disjoint texture sets, caches that read back."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("skimage")

from sam_variants.hub_scripts.scene_layout import MIN_VISIBLE_FRACTION
from sam_variants.hub_scripts.scene_shapes import MAX_LEAVES, SHAPES, Finish, Painter
from sam_variants.hub_scripts.scene_textures import FAMILIES, PHOTOS, texture_bank
from sam_variants.hub_scripts.synthetic_scenes import Scene, contact_sheet, main, make_scene, open_cache, write_cache

EVALUATION_PHOTOS = {"coins", "cell", "chelsea", "cat", "camera", "page", "text", "horse"}


def same(first: Scene, second: Scene) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and np.array_equal(first.leaves, second.leaves)
        and first.objects == second.objects
    )


@pytest.mark.parametrize("textures", ["train", "held_out"])
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_same_arguments_same_scene(textures: str, difficulty: float) -> None:
    first = make_scene(5, 96, textures, difficulty)
    make_scene(6, 96, textures, difficulty)
    assert same(first, make_scene(5, 96, textures, difficulty))
    assert not np.array_equal(first.image, make_scene(6, 96, textures, difficulty).image)


def test_every_argument_matters() -> None:
    base = make_scene(5, 96, "train", 1.0)
    assert not np.array_equal(base.image, make_scene(5, 96, "held_out", 1.0).image)
    assert not np.array_equal(base.image, make_scene(5, 96, "train", 0.9).image)


def test_texture_sets_are_disjoint_and_spare_the_evaluation_photos() -> None:
    assert not set(PHOTOS["train"]) & set(PHOTOS["held_out"])
    assert not set(FAMILIES["train"]) & set(FAMILIES["held_out"])
    assert not EVALUATION_PHOTOS & {name for photos in PHOTOS.values() for name in photos}
    tiles = {name: texture_bank(name).procedural + texture_bank(name).photos for name in PHOTOS}
    tops = {name: [levels[0].tobytes() for levels in group] for name, group in tiles.items()}
    assert not set(tops["train"]) & set(tops["held_out"])


@pytest.mark.parametrize("size", [48, 128])
def test_masks_are_unions_of_leaves(size: int) -> None:
    for seed in range(12):
        scene = make_scene(seed, size)
        masks = scene.masks()
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == scene.leaves.dtype == np.uint8
        assert masks.shape == (len(scene.objects), size, size)
        assert masks.dtype == bool
        for mask, leaf_ids in zip(masks, scene.objects, strict=True):
            assert np.array_equal(mask, np.isin(scene.leaves, leaf_ids))
            assert all((scene.leaves == leaf).any() for leaf in leaf_ids)
        assert len(set(scene.objects)) == len(scene.objects)


def test_sizes_counts_and_parts() -> None:
    counts, areas, has_part, gray = [], [], 0, 0
    for seed in range(60):
        scene = make_scene(seed, 96)
        masks = scene.masks()
        counts.append(len(masks))
        areas.extend(masks.mean((1, 2)))
        has_part += any(set(a) < set(b) for a in scene.objects for b in scene.objects)
        gray += int(np.ptp(scene.image.astype(int), axis=2).max() == 0)
    assert min(counts) >= 1
    assert max(counts) > 15
    assert MIN_VISIBLE_FRACTION <= min(areas) < 0.005
    assert 0.3 < max(areas) < 0.9
    assert has_part > 10
    assert 5 <= gray <= 30


def test_difficulty_zero_is_few_large_objects() -> None:
    easy = [make_scene(seed, 96, difficulty=0.0) for seed in range(30)]
    hard = [make_scene(seed, 96, difficulty=1.0) for seed in range(30)]
    easy_areas, hard_areas = (np.concatenate([s.masks().mean((1, 2)) for s in group]) for group in (easy, hard))
    assert len(easy_areas) < 0.6 * len(hard_areas)
    assert np.median(easy_areas) > 2 * np.median(hard_areas)


def test_what_is_drawn_is_what_the_mask_says() -> None:
    """Painting a shape changes the picture inside its mask and, but for its soft edge, nowhere else."""
    rng, bank = np.random.default_rng(3), texture_bank("train")
    for make in SHAPES:
        painter = Painter(np.full((128, 128, 3), 90, np.float32), np.array([0.6, 0.8]), gray=False)
        shape = make(rng).placed(np.array([64.0, 60.0]), 2500.0, 0.4)
        patch = painter.paint(rng, shape, bank.flat(rng, 0.0), Finish(min_contrast=60.0))
        assert patch is not None
        mask = painter.leaves == patch.leaf
        assert 1200 < mask.sum() < 3500, make.__name__
        changed = np.abs(painter.canvas - 90).max(2) > 30
        near_edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
        assert np.array_equal(changed[~near_edge], mask[~near_edge]), make.__name__


def test_upper_object_takes_the_pixels_and_parts_stay_inside() -> None:
    rng, bank = np.random.default_rng(4), texture_bank("train")
    painter = Painter(np.full((96, 96, 3), 90, np.float32), np.array([1.0, 0.0]), gray=False)
    disc = next(iter(SHAPES))(rng)
    lower = painter.paint(rng, disc.placed(np.array([40.0, 48.0]), 1500.0, 0.0), bank.sample(rng), Finish())
    assert lower is not None
    before = painter.leaves == lower.leaf
    part = painter.paint(rng, disc.placed(np.array([25.0, 48.0]), 700.0, 0.0), bank.sample(rng), Finish(), within=lower)
    upper = painter.paint(rng, disc.placed(np.array([55.0, 48.0]), 900.0, 0.0), bank.sample(rng), Finish())
    assert part is not None
    assert upper is not None
    assert (before & (painter.leaves == upper.leaf)).any()
    assert not (~before & (painter.leaves == part.leaf)).any()
    outside = painter.paint(rng, disc.placed(np.array([500.0, 48.0]), 900.0, 0.0), bank.sample(rng), Finish())
    assert outside is None


def test_masks_leave_out_what_hardly_shows() -> None:
    leaves = np.zeros((100, 100), np.uint8)
    leaves[:50] = 1
    leaves[60, :14] = 2
    leaves[80, :15] = 3
    scene = Scene(np.zeros((100, 100, 3), np.uint8), leaves, ((1, 3), (2,), (3,), (9,)))
    assert scene.masks().sum((1, 2)).tolist() == [5015, 15]


@pytest.mark.parametrize("workers", [1, 2])
def test_cache_round_trip(tmp_path: Path, workers: int) -> None:
    seeds = [3, 11, 4, 70] if workers == 1 else list(range(66))
    folder = tmp_path / "scenes"
    write_cache(folder, seeds, 32, "held_out", 0.7, workers)
    cache = open_cache(folder)
    assert len(cache) == len(seeds)
    assert isinstance(cache.images, np.memmap)
    for index in (0, 1, len(seeds) - 1, -1):
        assert same(cache[index], make_scene(seeds[index], 32, "held_out", 0.7))
    assert cache.about == {"seeds": seeds, "size": 32, "textures": "held_out", "difficulty": 0.7}
    with pytest.raises(IndexError):
        cache[len(seeds)]
    with pytest.raises(FileExistsError, match="finished cache"):
        write_cache(folder, seeds, 32, "held_out", 0.7, 1)


def test_unfinished_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scenes\.json"):
        open_cache(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"size": -256}, "size=-256"),
        ({"size": 256.0}, "size=256.0"),
        ({"size": 100_000}, "size=100000"),
        ({"textures": "both"}, "textures='both'.*held_out"),
        ({"difficulty": 1.5}, "difficulty=1.5"),
        ({"difficulty": float("nan")}, "difficulty=nan"),
    ],
)
def test_bad_arguments(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_scene(**{"seed": 0, **arguments})


def test_bad_cache_arguments(tmp_path: Path) -> None:
    for seeds, workers, named in (([], 1, "seeds"), ([-1], 1, "seeds"), ([1], 0, "workers=0")):
        with pytest.raises(ValueError, match=named):
            write_cache(tmp_path, seeds, 32, "train", 1.0, workers)
    assert not list(tmp_path.iterdir())


def test_bad_scenes_and_too_many_leaves() -> None:
    image, leaves = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    for bad in ((image[0], leaves, ()), (image, leaves.astype(int), ()), (image, leaves[:4], ())):
        with pytest.raises(ValueError, match="allowed: uint8"):
            Scene(*bad)
    for objects in (((),), ((0,),), ((1, 256),)):
        with pytest.raises(ValueError, match=f"1\\.\\.{MAX_LEAVES}"):
            Scene(image, leaves, objects)
    painter = Painter(np.zeros((8, 8, 3), np.float32), np.array([1.0, 0.0]), gray=False)
    painter.num_leaves = MAX_LEAVES
    with pytest.raises(ValueError, match="at most 255 leaves"):
        painter.new_leaf()


def test_contact_sheet_and_command(tmp_path: Path) -> None:
    assert contact_sheet([make_scene(seed, 32) for seed in range(5)], columns=4).shape == (64, 256, 3)
    sheet, cache = tmp_path / "sheet.png", tmp_path / "cache"
    main(["--out", str(sheet), "--count", "2", "--cache", str(cache), "--seeds", "4:7", "--size", "32"])
    assert cv2.imread(str(sheet)).shape == (32, 256, 3)
    assert json.loads((cache / "scenes.json").read_text())["seeds"] == [4, 5, 6]
    with pytest.raises(SystemExit):
        main(["--cache", str(tmp_path / "other"), "--seeds", "7:4"])
