"""Small clips with moving squares, in memory and as the folders and files that people have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from sam_variants.training.masked_clip import MaskedClip

SIZE = (40, 56)
COLORS = [(0, 0, 0), (230, 60, 60), (60, 230, 60), (60, 60, 230)]


def moving_squares(num_frames: int = 6, num_objects: int = 2, seed: int = 0, name: str = "squares") -> MaskedClip:
    """Squares of one colour each that wander over noise; they never touch."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    frames = rng.integers(0, 50, (num_frames, height, width, 3), dtype=np.uint8)
    masks = np.zeros((num_objects, num_frames, height, width), bool)
    for row in range(num_objects):
        left = int(rng.integers(0, width - 12 - num_frames))
        top = 1 + row * 13
        for index in range(num_frames):
            masks[row, index, top : top + 11, left + index : left + index + 12] = True
        frames[masks[row]] = COLORS[row + 1]
    return MaskedClip(frames, masks, tuple(range(1, num_objects + 1)), name)


def label_map(clip: MaskedClip, index: int) -> np.ndarray:
    """H×W uint8: 0 and the ids of the objects."""
    labels = np.zeros(clip.frames.shape[1:3], np.uint8)
    for key, mask in zip(clip.object_ids, clip.masks[:, index], strict=True):
        labels[mask] = key
    return labels


def save_palette(labels: np.ndarray, path: Path) -> None:
    """Write a PNG with a palette, as DAVIS has them."""
    image = Image.frombytes("P", labels.shape[::-1], labels.astype(np.uint8).tobytes())
    image.putpalette([channel for color in COLORS for channel in color])
    image.save(path)


def write_clip(
    root: Path,
    clip: MaskedClip,
    annotated: Iterable[int] | None = None,
    folders: tuple[str, str] = ("JPEGImages", "Annotations"),
) -> None:
    """Frames and label maps as DAVIS has them; the frames without loss, so that tests can compare them."""
    pictures, labels = (root / folder / clip.name for folder in folders)
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(pictures / f"{index:05d}.png")
    for index in range(len(clip)) if annotated is None else annotated:
        save_palette(label_map(clip, index), labels / f"{index:05d}.png")


def write_clips(root: Path, count: int = 3, num_frames: int = 6) -> Path:
    """Several clips; the folder."""
    for seed in range(count):
        write_clip(root, moving_squares(num_frames, seed=seed, name=f"clip{seed}"))
    return root
