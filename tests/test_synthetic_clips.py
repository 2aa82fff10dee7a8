"""Synthetic clips: deterministic, exact disjoint masks, smooth motion, objects that vanish and come back."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("skimage")

from sam_variants.hub_scripts.clip_painting import Actor, Bend, Exposure, shoot
from sam_variants.hub_scripts.evaluation_defaults import HELD_OUT_SEEDS
from sam_variants.hub_scripts.scene_motion import (
    EVENT_STEP,
    MAX_STEP,
    Track,
    camera_path,
    crossing,
    excursion,
    pace,
    wander,
)
from sam_variants.hub_scripts.scene_shapes import Finish
from sam_variants.hub_scripts.scene_sprites import Sprite
from sam_variants.hub_scripts.synthetic_clips import (
    MIN_FIRST_AREA,
    Clip,
    clip_stream,
    contact_sheet,
    main,
    synthetic_clip,
)
from sam_variants.hub_scripts.synthetic_scenes import make_scene

PLAIN = Exposure(None, shutter=0.0, blur=0.0, contrast=1.0, haze=0.0, noise=0.0, quality=None, gray=False)
LIGHT = np.array([0.0, -1.0])


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [synthetic_clip(seed, 12, 64) for seed in range(40)]


def same(first: Clip, second: Clip) -> bool:
    return (
        np.array_equal(first.frames, second.frames)
        and np.array_equal(first.masks, second.masks)
        and first.object_ids == second.object_ids
    )


def still(position: tuple[float, float], num_frames: int, scale: float = 1.0) -> Track:
    return Track(np.tile(position, (num_frames, 1)), np.zeros(num_frames), np.full(num_frames, scale))


def solid(color: tuple[int, int, int], width: int, height: int, finish: Finish | None = None) -> Sprite:
    """A rectangle with a transparent rim of a pixel, anchored in its middle."""
    pixels = np.zeros((height + 2, width + 2, 4), np.uint8)
    pixels[1:-1, 1:-1] = (*color, 255)
    half = np.array([(width - 1) / 2, (height - 1) / 2])
    hull = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) * half.astype(np.float32)
    return Sprite(pixels, half + 1, hull, finish or Finish(edge_blur=0.0))


def film(actors: list[Actor], camera: Track, size: int = 40, exposure: Exposure = PLAIN) -> tuple:
    background = np.full((60, 60, 3), (20, 90, 200), np.uint8)
    return shoot(np.random.default_rng(0), background, camera, actors, LIGHT, exposure, size)


@pytest.mark.parametrize("textures", ["train", "held_out"])
@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_same_arguments_same_clip(textures: str, difficulty: float) -> None:
    first = synthetic_clip(3, 5, 64, textures, difficulty)
    other = synthetic_clip(4, 5, 64, textures, difficulty)
    assert same(first, synthetic_clip(3, 5, 64, textures, difficulty))
    assert not same(first, other)


def test_every_argument_matters() -> None:
    base = synthetic_clip(3, 5, 64)
    for other in (
        synthetic_clip(3, 5, 64, "held_out"),
        synthetic_clip(3, 5, 64, difficulty=0.9),
        synthetic_clip(HELD_OUT_SEEDS + 3, 5, 64),
    ):
        assert not np.array_equal(base.frames, other.frames)
    assert not np.array_equal(base.frames[0], make_scene(3, 64).image)


def test_masks_are_disjoint_and_complete(clips: list[Clip]) -> None:
    for clip in clips:
        assert clip.frames.shape == (12, 64, 64, 3)
        assert clip.masks.shape == (12, len(clip.object_ids), 64, 64)
        assert clip.object_ids == tuple(range(1, len(clip.object_ids) + 1))
        assert clip.masks.sum(axis=1).max() == 1
        assert clip.masks.any(axis=(0, 2, 3)).all()
        assert clip.masks[0].mean(axis=(1, 2)).max() >= MIN_FIRST_AREA
    assert {len(clip.object_ids) for clip in clips} >= {2, 3, 4, 5, 6}
    assert max(len(clip.object_ids) for clip in clips) == 6


def comebacks(clip: Clip) -> list[tuple[int, bool]]:
    """Of objects that vanish and come back: the number, and whether a mask before touches the border of the frame."""
    found = []
    for number in range(len(clip.object_ids)):
        masks = clip.masks[:, number]
        seen = np.flatnonzero(masks.any(axis=(1, 2)))
        gaps = seen[:-1][np.diff(seen) > 1]
        if len(gaps):
            last = masks[gaps[0]]
            found.append((number, bool(last[[0, -1]].any() or last[:, [0, -1]].any())))
    return found


def test_objects_are_hidden_wholly_and_leave_the_frame_and_return(clips: list[Clip]) -> None:
    hidden = [clip for clip in clips if any(not at_border for _, at_border in comebacks(clip))]
    left = [clip for clip in clips if any(at_border for _, at_border in comebacks(clip))]
    assert len(hidden) >= len(clips) // 4
    assert len(left) >= len(clips) // 8


def test_what_hides_an_object_is_an_object_of_the_clip(clips: list[Clip]) -> None:
    """Where an object vanishes away from the border, another one lies on its last place soon after."""
    checked = 0
    for clip in clips:
        for number, at_border in comebacks(clip):
            if at_border:
                continue
            seen = np.flatnonzero(clip.masks[:, number].any(axis=(1, 2)))
            last = int(seen[:-1][np.diff(seen) > 1][0])
            place = cv2.dilate(clip.masks[last, number].astype(np.uint8), np.ones((3, 3))).astype(bool)
            others = np.delete(clip.masks[last + 1], number, axis=0)
            assert others[:, place].any(axis=1).any()
            checked += 1
    assert checked > 5


def test_masks_move_smoothly(clips: list[Clip]) -> None:
    """The centre of a mask that keeps its area, clear of the border, moves at most MAX_STEP in a frame."""
    steps = []
    for clip in clips:
        for masks in clip.masks.transpose(1, 0, 2, 3):
            areas = masks.sum(axis=(1, 2))
            for before, after in zip(range(11), range(1, 12), strict=True):
                if min(areas[before], areas[after]) < 30 or abs(areas[after] / areas[before] - 1) > 0.1:
                    continue
                centres = [np.argwhere(masks[index]).mean(axis=0) for index in (before, after)]
                steps.append(float(np.linalg.norm(centres[1] - centres[0])) / 64)
    assert max(steps) <= MAX_STEP
    assert np.mean(np.array(steps) > 0.01) > 0.3


@pytest.mark.parametrize("num_frames", [6, 8, 24, 100])
def test_paths_keep_their_speed(num_frames: int) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        path = wander(rng, num_frames, rng.uniform(0.1, 0.9, 2), pace(rng))
        track = Track(path, np.zeros(num_frames), np.ones(num_frames)).seen_by(camera_path(rng, num_frames, 1.0))
        assert np.linalg.norm(np.diff(track.positions, axis=0), axis=1).max() < MAX_STEP - 0.05
        offsets = crossing(rng, num_frames, 0.5)
        assert np.abs(np.diff(offsets)).max() <= EVENT_STEP + 1e-9
        assert offsets.min() < 0 < offsets.max()
        outing = excursion(rng, num_frames, 0.1)
        assert np.linalg.norm(np.diff(outing, axis=0), axis=1).max() < MAX_STEP
        outside = ((outing < -0.1) | (outing > 1.1)).any(axis=1)
        assert outside.any()
        assert not outside[[0, -1]].any()


def test_a_crossing_of_a_long_clip_parts_the_two() -> None:
    offsets = crossing(np.random.default_rng(0), 24, 0.3)
    assert offsets.min() < -0.3
    assert offsets.max() > 0.3


def test_a_camera_turns_zooms_and_shifts_the_picture() -> None:
    camera = Track(np.array([[0.1, 0.0], [0.0, 0.0]]), np.array([0.0, np.pi / 2]), np.array([2.0, 1.0]))
    track = Track(np.array([[0.75, 0.5], [0.75, 0.5]]), np.array([0.0, 0.25]), np.array([0.5, 1.0])).seen_by(camera)
    np.testing.assert_allclose(track.positions, [[1.1, 0.5], [0.5, 0.75]], atol=1e-12)
    np.testing.assert_allclose(track.angles, [0, np.pi / 2 + 0.25])
    np.testing.assert_allclose(track.scales, [1.0, 1.0])


def test_painting_puts_every_pixel_where_it_belongs() -> None:
    red, green = solid((255, 0, 0), 10, 6), solid((0, 255, 0), 5, 5)
    actors = [Actor(red, still((0.5, 0.5), 2)), Actor(green, still((22.5 / 40, 22.5 / 40), 2))]
    frames, labels = film(actors, still((0.0, 0.0), 2))
    expected = np.zeros((40, 40), np.uint8)
    expected[17:23, 15:25] = 1
    expected[20:25, 20:25] = 2
    np.testing.assert_array_equal(labels[1], expected)
    for number, color in ((0, (20, 90, 200)), (1, (255, 0, 0)), (2, (0, 255, 0))):
        assert (frames[1][expected == number] == color).all()


def test_background_and_actors_share_the_camera() -> None:
    """A sprite that stands in the world stays on the spot of the background that it was put on."""
    camera = Track(np.array([[0.0, 0.0], [0.1, -0.05]]), np.array([0.0, 0.3]), np.array([1.0, 1.3]))
    background = np.zeros((60, 60, 3), np.uint8)
    background[26:34, 36:44] = (255, 255, 255)  # in the frame of 40 pixels: rows 16 to 24, columns 26 to 34
    actor = Actor(solid((255, 255, 255), 8, 8), still((30 / 40, 20 / 40), 2).seen_by(camera))
    shown = shoot(np.random.default_rng(0), background, camera, [actor], LIGHT, PLAIN, 40)
    alone, _ = shoot(np.random.default_rng(0), background, camera, [], LIGHT, PLAIN, 40)
    for frame, label in zip(alone, shown[1], strict=True):
        assert np.count_nonzero((frame[..., 0] > 127) != (label == 1)) <= 4
        assert np.count_nonzero(label) > 50


def test_effects_change_the_picture_but_no_mask() -> None:
    num_frames = 3
    path = np.stack([np.linspace(0.3, 0.7, num_frames), np.full(num_frames, 0.5)], axis=1)
    track = Track(path, np.zeros(num_frames), np.ones(num_frames))
    plain = solid((250, 250, 250), 8, 8)
    shaded = solid((250, 250, 250), 8, 8, Finish(edge_blur=2.0, shadow=0.8, shadow_reach=4.0, shadow_blur=1.0))
    gains = np.full((num_frames, 4, 4, 3), 0.5, np.float32)
    rough = Exposure(gains, shutter=0.6, blur=1.0, contrast=0.8, haze=20.0, noise=8.0, quality=60, gray=True)
    camera = still((0.0, 0.0), num_frames)
    clean, labels = film([Actor(plain, track)], camera)
    dirty, dirty_labels = film([Actor(shaded, track)], camera, exposure=rough)
    np.testing.assert_array_equal(labels, dirty_labels)
    assert np.abs(clean.astype(int) - dirty).mean() > 20
    assert np.abs(dirty[..., 0].astype(int) - dirty[..., 2]).max() <= 8
    cast, cast_labels = film([Actor(shaded, track)], camera)
    np.testing.assert_array_equal(labels, cast_labels)
    below = cast[1, 26:28, 18:22].mean()  # away from the light, which is above
    assert below < 0.7 * clean[1, 26:28, 18:22].mean()


def test_a_bend_moves_outlines_a_little() -> None:
    sprite, track = solid((255, 0, 0), 16, 16), still((0.5, 0.5), 6)
    _, straight = film([Actor(sprite, track)], still((0.0, 0.0), 6))
    _, bent = film([Actor(sprite, track, Bend(1.5, 20.0, 10.0, 0.3))], still((0.0, 0.0), 6))
    assert (np.diff(straight.astype(int), axis=0) == 0).all()
    assert (np.diff(bent.astype(int), axis=0) != 0).any(axis=(1, 2)).all()
    room = cv2.dilate((straight[0] > 0).astype(np.uint8), np.ones((7, 7)))
    assert (room[(bent > 0).any(axis=0)] == 1).all()
    assert np.isclose((bent > 0).sum(axis=(1, 2)), 256, rtol=0.15).all()


def test_streams_differ_by_seed_and_worker_and_keep_off_held_out_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, str]] = []

    def note(seed: int, num_frames: int, size: int, textures: str, difficulty: float) -> int:
        drawn.append((seed, textures))
        return seed

    monkeypatch.setattr("sam_variants.hub_scripts.synthetic_clips.synthetic_clip", note)
    streams = [list(islice(clip_stream(seed, worker), 50)) for seed, worker in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert streams[0] == streams[3]
    assert len({seed for stream in streams[:3] for seed in stream}) == 150
    assert all(0 <= seed < HELD_OUT_SEEDS and textures == "train" for seed, textures in drawn)


def test_a_stream_gives_clips_as_asked() -> None:
    clip = next(clip_stream(0, 2, num_frames=4, size=48))
    assert clip.frames.shape == (4, 48, 48, 3)
    assert len(clip) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": True}, "seed=True"),
        ({"num_frames": 0}, r"num_frames=0 .* 1\.\.2000"),
        ({"num_frames": 2.5}, r"num_frames=2\.5"),
        ({"size": 16}, r"size=16 .* 32\.\.1024"),
        ({"textures": "rocks"}, "textures='rocks'"),
        ({"difficulty": 1.5}, r"difficulty=1\.5"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_clip(**{"seed": 0, **arguments})


def test_a_clip_is_checked() -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"masks is bool \(2, 1, 8, 9\)"):
        Clip(frames, np.zeros((2, 1, 8, 9), bool), (1,))
    with pytest.raises(ValueError, match="frames is float64"):
        Clip(frames / 255, np.zeros((2, 1, 8, 8), bool), (1,))


def test_contact_sheets(tmp_path: Path) -> None:
    sheet = contact_sheet([synthetic_clip(0, 4, 32), synthetic_clip(1, 4, 32)], columns=3)
    assert sheet.shape == (4 * 32, 3 * 32, 3)
    main(["--out", str(tmp_path / "sheet.png"), "--count", "1", "--frames", "3", "--columns", "2", "--size", "32"])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (64, 64, 3)
