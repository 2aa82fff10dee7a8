"""Video clips for tracking that need no dataset: the objects of the synthetic scenes set in motion, with exact masks.

A clip has two to six objects over a moving background. Objects wander, turn, come nearer and bend; often one is hidden
wholly by another and comes out again, one leaves the frame and returns, or two look alike. There are no cuts. Every
clip is a function of its seed; `python -m sam_variants.hub_scripts.synthetic_clips --help` draws contact sheets.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sam_variants.hub_scripts.clip_casting import Director, paint_set
from sam_variants.hub_scripts.clip_painting import random_exposure, shoot
from sam_variants.hub_scripts.evaluation_defaults import HELD_OUT_SEEDS
from sam_variants.hub_scripts.scene_motion import camera_path
from sam_variants.hub_scripts.scene_textures import PHOTOS, check_texture_set, texture_bank

MIN_SIZE, MAX_SIZE = 32, 1024
MAX_FRAMES = 2000
MIN_FIRST_AREA = 0.004

CLIP_STREAM = 0x636C6970  # where still scenes have their difficulty times a million, which is never as large


@dataclass(frozen=True)
class Clip:
    """A video with the visible region of every object in every frame.

    Attributes:
        frames: T×H×W×3 uint8 RGB.
        masks: T×N×H×W bool, disjoint; empty where an object is hidden or outside the frame.
        object_ids: N numbers from 1 on.

    Raises:
        ValueError: the arrays or the ids disagree in shape or dtype.
    """

    frames: np.ndarray
    masks: np.ndarray
    object_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3:
            raise ValueError(f"frames is {self.frames.dtype} {self.frames.shape}; allowed: uint8 (T, H, W, 3)")
        expected = (len(self.frames), len(self.object_ids), *self.frames.shape[1:3])
        if self.masks.dtype != bool or self.masks.shape != expected:
            raise ValueError(f"masks is {self.masks.dtype} {self.masks.shape}; allowed: bool {expected}")

    def __len__(self) -> int:
        return len(self.frames)


def _check_whole(name: str, value: object, least: int, most: int | None) -> None:
    allowed = f"an int from {least} on" if most is None else f"an int in {least}..{most}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name}={value!r} is not allowed; it is {allowed}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name}={value!r} is not allowed; it is {allowed}")


def synthetic_clip(
    seed: int, num_frames: int = 8, size: int = 256, textures: str = "train", difficulty: float = 1.0
) -> Clip:
    """One clip, always the same for the same arguments, with an object or more to point at in the first frame.

    Args:
        seed: any int from 0 on; clips share no random numbers with still scenes, nor the two texture sets with each
            other.
        num_frames: from 1 to MAX_FRAMES; objects are hidden and leave the frame in clips of 6 frames or more.
        size: side of the square frames in pixels.
        textures: "train" or "held_out" (disjoint photos and procedural families).
        difficulty: 0 = few events, strong contrast, a calm and clean camera; 1 = everything.

    Raises:
        ValueError: an argument is out of range.
        ImportError: scikit-image is missing.
    """
    check_texture_set(textures)
    _check_whole("seed", seed, 0, None)
    _check_whole("num_frames", num_frames, 1, MAX_FRAMES)
    _check_whole("size", size, MIN_SIZE, MAX_SIZE)
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty={difficulty!r} is outside 0..1")
    rng = np.random.default_rng([int(seed), list(PHOTOS).index(textures), CLIP_STREAM, round(difficulty * 1e6)])
    while True:
        frames, labels = _shoot_clip(rng, num_frames, size, textures, difficulty)
        areas = np.bincount(labels[0].ravel(), minlength=2)[1:]
        if areas.max() >= MIN_FIRST_AREA * size**2:
            break
    shown = np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:]) + 1
    masks = labels[:, None] == shown.astype(np.uint8)[:, None, None]
    return Clip(frames, masks, tuple(range(1, len(shown) + 1)))


def _shoot_clip(
    rng: np.random.Generator, num_frames: int, size: int, textures: str, difficulty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Frames T×S×S×3 uint8 and labels T×S×S uint8 of one try."""
    bank, gray = texture_bank(textures), bool(rng.uniform() < 0.12)
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), np.sin(angle)])
    background = paint_set(rng, bank, size, light, difficulty, gray)
    camera = camera_path(rng, num_frames, difficulty)
    director = Director(rng, bank, size, camera, background, light, difficulty, gray)
    director.cast()
    exposure = random_exposure(rng, num_frames, size, difficulty, gray, float(background.mean()))
    return shoot(rng, background, camera, director.actors, light, exposure, size)


def clip_stream(
    seed: int, worker: int = 0, num_frames: int = 8, size: int = 256, difficulty: float = 1.0
) -> Iterator[Clip]:
    """Endless training clips, another sequence for every seed and worker.

    Args:
        seed: of the sequence.
        worker: number of the process that draws, from 0 on.
        num_frames, size, difficulty: of `synthetic_clip`.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_whole("seed", seed, 0, None)
    _check_whole("worker", worker, 0, None)
    seeds = np.random.default_rng([int(seed), int(worker), CLIP_STREAM])
    while True:
        yield synthetic_clip(int(seeds.integers(HELD_OUT_SEEDS)), num_frames, size, "train", difficulty)


def contact_sheet(clips: Sequence[Clip], columns: int = 8) -> np.ndarray:
    """Two rows per clip, frames and coloured masks, of `columns` frames spread over each clip; uint8 RGB."""
    rows = []
    for clip in clips:
        chosen = np.linspace(0, len(clip) - 1, columns).round().astype(int)
        colors = np.random.default_rng(0).integers(60, 256, (len(clip.object_ids), 3)).astype(np.uint8)
        views = np.einsum("tnhw,nc->thwc", clip.masks[chosen].astype(np.uint8), colors)
        rows += [np.hstack(list(clip.frames[chosen])), np.hstack(list(views))]
    return np.vstack(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a contact sheet; see --help."""
    parser = argparse.ArgumentParser(description="Draw synthetic clips.")
    parser.add_argument("--out", type=Path, required=True, help="PNG file for a contact sheet")
    parser.add_argument("--count", type=int, default=6, help="clips on the contact sheet")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=24, help="of a clip")
    parser.add_argument("--columns", type=int, default=8, help="frames shown of a clip")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--textures", default="train", choices=list(PHOTOS))
    parser.add_argument("--difficulty", type=float, default=1.0)
    options = parser.parse_args(arguments)
    look = (options.frames, options.size, options.textures, options.difficulty)
    clips = [synthetic_clip(options.first_seed + index, *look) for index in range(options.count)]
    cv2.imwrite(str(options.out), cv2.cvtColor(contact_sheet(clips, options.columns), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
