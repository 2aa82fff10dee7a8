"""Synthetic scenes: deterministic, masks that fit what is drawn, disjoint texture sets, caches that read back."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("skimage")

from sam_variants.hub_scripts.scene_camera import photograph
from sam_variants.hub_scripts.scene_grown_things import GROWN_THINGS, HELD_OUT_THINGS, plain
from sam_variants.hub_scripts.scene_layout import MIN_VISIBLE_FRACTION
from sam_variants.hub_scripts.scene_made_things import MADE_THINGS, lattice, vase, wires
from sam_variants.hub_scripts.scene_objects import Objects, legible_objects, seen_objects
from sam_variants.hub_scripts.scene_sets import Arranger, scene_makers
from sam_variants.hub_scripts.scene_shapes import MAX_LEAVES, SHAPES, Finish, Painter
from sam_variants.hub_scripts.scene_stage import Light, Stage, Surface
from sam_variants.hub_scripts.scene_textures import FAMILIES, PHOTOS, texture_bank
from sam_variants.hub_scripts.scene_things import Thing, box
from sam_variants.hub_scripts.synthetic_scenes import Scene, contact_sheet, main, make_scene, open_cache, write_cache

EVALUATION_PHOTOS = {"coins", "cell", "chelsea", "cat", "camera", "page", "text", "horse"}


def same(first: Scene, second: Scene) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and np.array_equal(first.leaves, second.leaves)
        and first.objects == second.objects
        and (first.levels, first.parents) == (second.levels, second.parents)
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
    assert not np.array_equal(base.image, make_scene(5, 96, "train", 1.0, edition=1).image)


def test_threads_change_nothing() -> None:
    scenes = []
    before = cv2.getNumThreads()
    for threads in (1, 3):
        cv2.setNumThreads(threads)
        scenes.append([make_scene(seed, 160) for seed in range(8)])
    cv2.setNumThreads(before)
    assert all(same(one, other) for one, other in zip(*scenes, strict=True))


def test_texture_sets_are_disjoint_and_spare_the_evaluation_photos() -> None:
    assert not set(PHOTOS["train"]) & set(PHOTOS["held_out"])
    assert not set(FAMILIES["train"]) & set(FAMILIES["held_out"])
    assert not EVALUATION_PHOTOS & {name for photos in PHOTOS.values() for name in photos}
    assert not set(HELD_OUT_THINGS) & {*MADE_THINGS, *GROWN_THINGS}
    kinds = {name: set(scene_makers(name)) for name in PHOTOS}
    assert kinds["held_out"] - kinds["train"] == set(HELD_OUT_THINGS)
    assert len(HELD_OUT_THINGS) >= 2
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


def test_levels_nest() -> None:
    """Every part lies within what encloses it, which is of an outer level; about half of the wholes have parts."""
    wholes = with_parts = with_subparts = 0
    for seed in range(60):
        scene = make_scene(seed, 96, "train" if seed % 2 else "held_out")
        masks = scene.masks()
        assert len(scene.levels) == len(scene.parents) == len(masks)
        for mask, level, parent in zip(masks, scene.levels, scene.parents, strict=True):
            assert (level == 0) == (parent == -1)
            if parent >= 0:
                assert scene.levels[parent] < level <= 2
                assert not (mask & ~masks[parent]).any()
                assert mask.sum() < masks[parent].sum()
        whole_masks = masks[np.array(scene.levels) == 0]
        assert whole_masks.sum(axis=0).max() == 1
        parts = {index for index, parent in enumerate(scene.parents) if parent >= 0}
        wholes += len(whole_masks)
        with_parts += len({scene.parents[index] for index in parts if scene.levels[index] == 1})
        with_subparts += len({scene.parents[p] for p in scene.parents if p in parts})
    assert 0.3 < with_parts / wholes < 0.8
    assert 0.2 < with_subparts / with_parts < 0.6


def test_what_hides_keeps_the_outer_level() -> None:
    """A part that shows all that is seen of its whole goes; what lies on it stays, below the whole."""
    leaves = np.zeros((20, 20), np.uint8)
    leaves[:8], leaves[8:12], leaves[19, 0] = 2, 3, 5
    objects = Objects([(1, 2, 3), (2, 3), (3,), (4,), (5,)], [0, 1, 2, 0, 0], [-1, 0, 1, -1, -1])
    seen = seen_objects(leaves, objects, least=2)
    assert (seen.leaf_ids, seen.levels, seen.parents) == ([(2, 3), (3,)], [0, 2], [-1, 0])


def test_what_nobody_can_outline_is_no_object() -> None:
    """A whole that looks like its surroundings goes with its parts; a part that cannot be seen goes alone."""
    leaves, image = np.zeros((64, 64), np.uint8), np.full((64, 64, 3), 90, np.uint8)
    leaves[5:30, 5:30], leaves[10:20, 10:20] = 1, 2
    leaves[35:60, 5:30], leaves[40:50, 10:20] = 3, 4
    image[leaves == 2] = 200
    image[(leaves == 3) | (leaves == 4)] = 140
    objects = Objects([(1, 2), (2,), (3, 4), (4,)], [0, 1, 0, 1], [-1, 0, -1, 2])
    found = legible_objects(image, leaves, objects)
    assert (found.leaf_ids, found.levels, found.parents) == ([(3, 4)], [0], [-1])
    image[leaves == 1] = 140
    assert legible_objects(image, leaves, objects).leaf_ids == [(1, 2), (2,), (3, 4)]


def test_nesting_follows_from_leaves_where_nothing_else_is_known() -> None:
    objects = Objects([(9,)], [0], [-1])
    objects.add_nested([(1, 2, 3), (2, 3), (3,), (4,)])
    assert objects.levels == [0, 0, 1, 2, 0]
    assert objects.parents == [-1, -1, 1, 2, -1]


def test_difficulty_zero_is_few_large_objects() -> None:
    easy = [make_scene(seed, 96, difficulty=0.0) for seed in range(30)]
    hard = [make_scene(seed, 96, difficulty=1.0) for seed in range(30)]
    easy_areas, hard_areas = (
        np.concatenate([scene.masks()[np.array(scene.levels) == 0].mean((1, 2)) for scene in group])
        for group in (easy, hard)
    )
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


@pytest.mark.parametrize("make", [*MADE_THINGS, *GROWN_THINGS, *HELD_OUT_THINGS], ids=lambda make: make.__name__)
def test_things_are_painted_where_their_masks_are(make: Callable[[np.random.Generator], Thing]) -> None:
    """Every kind of thing changes the picture in its mask, and elsewhere only by its shadow, which is dark."""
    rng, size = np.random.default_rng(8), 128
    light = Light(np.array([0.6, -0.8]), strength=0.5, softness=0.2, length=0.5)
    stage = Stage(np.full((size, size, 3), 128, np.float32), light.towards, gray=False, sun=light)
    bank = texture_bank("train")
    arranger = Arranger(rng, stage, bank, 0.0, bank.flat(rng, 0.0), size / 2, {make: 1.0})
    thing = make(rng)
    scale = 0.8 * size / np.ptp(thing.points, axis=0).max()
    middle = (thing.points.max(0) + thing.points.min(0)) / 2
    surfaces = [Surface(bank.flat(rng, 0.0).relit(60 * k), min_contrast=45.0) for k in range(4)]
    arranger.put(thing.placed(np.array([64, 64]) - middle * scale, scale), surfaces, 0.0)
    objects = arranger.objects
    whole = np.isin(stage.leaves, objects.leaf_ids[0])
    assert objects.levels[0] == 0
    assert objects.parents[0] == -1
    assert np.array_equal(whole, stage.leaves > 0)
    assert all(set(ids) <= set(objects.leaf_ids[0]) for ids in objects.leaf_ids)
    assert len(objects) > 1 or make in (lattice, plain, vase, wires)
    near_edge = cv2.morphologyEx(whole.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
    outside = stage.canvas[~whole & ~near_edge]
    assert outside.max() < 129
    assert outside.min() < 110
    changed = np.abs(stage.canvas - 128).max(2) > 4
    assert changed[whole & ~near_edge].mean() > 0.9


def test_glass_lets_what_lies_behind_show() -> None:
    rng, bank = np.random.default_rng(2), texture_bank("train")
    canvas = np.full((96, 96, 3), 60, np.float32)
    canvas[:, 48:] = 160
    step = []
    for opacity in (1.0, 0.3):
        light = Light(np.array([0.0, -1.0]), 0.5, 0.1, 0.5)
        stage = Stage(canvas.copy(), light.towards, gray=False, sun=light)
        surface = Surface(bank.flat(np.random.default_rng(1), 0.0), opacity=opacity, min_contrast=0.0)
        pane = stage.lay(rng, box(20, 20, 76, 76), surface)
        assert pane is not None
        assert (stage.leaves[22:74, 22:74] == pane.leaf).all()
        assert 54**2 <= np.count_nonzero(stage.leaves) <= 58**2
        step.append(float((stage.canvas[40:56, 56:66] - stage.canvas[40:56, 30:40]).mean()))
    assert abs(step[0]) < 5
    assert 60 < step[1] < 75


@pytest.mark.parametrize("size", [64, 300])
def test_camera_keeps_shape_and_gray(size: int) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (size, size, 3)).astype(np.float32)
    for seed in range(25):
        gray = bool(seed % 2)
        photo = photograph(np.random.default_rng(seed), image.copy(), 1.0, gray)
        assert photo.shape == (size, size, 3)
        assert photo.dtype == np.uint8
        assert (np.ptp(photo.astype(int), axis=2).max() == 0) == gray
        assert np.array_equal(photo, photograph(np.random.default_rng(seed), image.copy(), 1.0, gray))


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
    assert cache.about == {"seeds": seeds, "size": 32, "textures": "held_out", "difficulty": 0.7, "edition": 2}
    with pytest.raises(IndexError):
        cache[len(seeds)]
    with pytest.raises(FileExistsError, match="finished cache"):
        write_cache(folder, seeds, 32, "held_out", 0.7, 1)


def test_cache_without_levels_opens(tmp_path: Path) -> None:
    write_cache(tmp_path, [3], 32)
    with np.load(tmp_path / "objects.npz") as tables:
        first = {name: tables[name] for name in ("leaf_ids", "object_starts", "scene_starts")}
    np.savez(tmp_path / "objects.npz", **first)
    scene = open_cache(tmp_path)[0]
    assert scene.objects == make_scene(3, 32).objects
    assert scene.levels == scene.parents == ()


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
        ({"edition": 3}, "edition=3.*1, 2"),
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
    for nesting, named in ((((0, 1), ()), "levels"), (((3,), ()), "levels"), (((0,), (1,)), "parents")):
        with pytest.raises(ValueError, match=f"{named} is"):
            Scene(image, leaves, ((1,),), *nesting)
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
