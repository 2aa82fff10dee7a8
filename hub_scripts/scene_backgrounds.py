"""Backgrounds with depth: skies, ground in perspective, walls, foliage, out-of-focus clutter, studio sweeps."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_layout import paint_background
from sam_variants.hub_scripts.scene_textures import Texture, TextureBank, noise_field, random_color
from sam_variants.hub_scripts.scene_things import leaf_outline

Rng = np.random.Generator


@dataclass
class Setting:
    """A background, size×size×3 float32, the texture of its ground, the row of its horizon (None: seen from above)."""

    canvas: np.ndarray
    ground: Texture
    horizon: float | None = None


def sky(rng: Rng, size: int) -> np.ndarray:
    """From one colour at the top to another at the bottom, with or without clouds, size×size×3 float32."""
    draw = rng.uniform()
    if draw < 0.5:
        top = np.array([rng.uniform(40, 130), rng.uniform(90, 180), rng.uniform(170, 250)])
        low = top + (255 - top) * rng.uniform(0.3, 0.95)
    elif draw < 0.7:
        top, low = np.full(3, rng.uniform(120, 255)), np.full(3, rng.uniform(150, 255))
    elif draw < 0.85:
        top = np.array([rng.uniform(20, 90), rng.uniform(20, 70), rng.uniform(50, 120)])
        low = np.array([rng.uniform(200, 255), rng.uniform(110, 200), rng.uniform(60, 150)])
    else:
        top, low = random_color(rng) * 0.15, random_color(rng) * 0.4
    t = np.linspace(0, 1, size, dtype=np.float32)[:, None, None] ** np.float32(rng.uniform(0.5, 1.6))
    canvas = np.broadcast_to(top.astype(np.float32) + (low - top).astype(np.float32) * t, (size, size, 3)).copy()
    if rng.uniform() < 0.5:
        wide = noise_field(rng, int(rng.integers(2, 5)), 4, size)
        clouds = np.clip(wide * np.float32(rng.uniform(0.5, 2)) + np.float32(rng.uniform(-0.5, 0.3)), 0, 1)
        canvas += (np.float32(235) - canvas) * (clouds * np.float32(rng.uniform(0.3, 1)))[..., None]
    return canvas


def in_perspective(rng: Rng, texture: Texture, size: int, horizon: float) -> np.ndarray:
    """A plane that recedes to a row, size×size×3 float32; above the row it holds nothing of use."""
    tile = texture.crop(rng, size, size, 128 / size, rng.normal(0, 0.5))
    far, turn = rng.uniform(0.15, 0.45), rng.normal(0, 0.1) * size
    source = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32)
    wide = 0.5 * size / far
    middle = size / 2 + turn
    target = np.array(
        [[middle - size, horizon], [middle + size, horizon], [middle + wide, size * 1.05], [middle - wide, size * 1.05]]
    )
    target[:2, 0] = middle + np.array([-0.5, 0.5]) * size * rng.uniform(1.0, 1.3)
    matrix = cv2.getPerspectiveTransform(source, target.astype(np.float32))
    flags = cv2.INTER_LINEAR
    return texture.colored(
        cv2.warpPerspective(tile, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    )


def foliage(rng: Rng, size: int) -> np.ndarray:
    """Leaves over leaves, darker the deeper they lie, size×size×3 float32."""
    base = random_color(rng) * 0.4 + np.array([30, 90, 20]) * rng.uniform(0.3, 1.0)
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = base * 0.25
    shape = leaf_outline(1.0, rng.uniform(0.1, 0.35))
    length = size * np.exp(rng.uniform(np.log(0.05), np.log(0.25)))
    count = int(min(3 * (size / length) ** 2, 260))
    for index in range(count):
        angle = rng.uniform(0, 2 * np.pi)
        cos, sin = np.cos(angle), np.sin(angle)
        outline = shape @ np.array([[cos, sin], [-sin, cos]]) * length * rng.uniform(0.6, 1.2) + rng.uniform(0, size, 2)
        color = base * (0.3 + 0.9 * index / count) * rng.uniform(0.7, 1.3) + rng.normal(0, 8, 3)
        cv2.fillPoly(canvas, [np.round(outline * 16).astype(np.int32)], color.tolist(), cv2.LINE_AA, 4)
    return canvas


def bokeh(rng: Rng, bank: TextureBank, size: int) -> np.ndarray:
    """Something far out of focus, sometimes with discs of light, size×size×3 float32."""
    canvas = bank.photo(rng, zoom=float(rng.uniform(1.0, 2.2))).render(rng, size, size, 256 / size)
    if rng.uniform() < 0.4:
        for _ in range(int(rng.integers(4, 16))):
            centre = rng.integers(0, size, 2).tolist()
            color = (random_color(rng) * 0.5 + 127).tolist()
            cv2.circle(canvas, centre, int(size * rng.uniform(0.02, 0.07)), color, -1, cv2.LINE_AA)
    small = cv2.resize(canvas, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), rng.uniform(0.8, 3.5) * size / 256)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def wall(rng: Rng, bank: TextureBank, size: int, clutter: float) -> np.ndarray:
    """A wall with a light that falls off, sometimes in panels or with a band, size×size×3 float32."""
    texture = bank.flat(rng, rng.uniform(0, 0.3)) if rng.uniform() < 0.7 else bank.sample(rng)
    canvas = texture.render(rng, size, size, 256 / size)
    if rng.uniform() < 0.4 * clutter:
        step = size * rng.uniform(0.1, 0.4)
        shade = np.float32(rng.uniform(0.6, 0.9))
        upright = rng.uniform() < 0.6
        for at in np.arange(rng.uniform(0, step), size, step):
            line = slice(int(at), int(at) + max(size // 128, 1))
            canvas[(slice(None), line) if upright else (line,)] *= shade
    x, y = rng.uniform(-0.3, 1.3, 2)
    ramp = np.arange(size, dtype=np.float32) / size
    distance = np.sqrt((ramp[None, :] - np.float32(x)) ** 2 + (ramp[:, None] - np.float32(y)) ** 2)
    return canvas * (np.float32(1.15) - np.float32(rng.uniform(0.1, 0.6)) * distance)[..., None]


def standing_room(rng: Rng, bank: TextureBank, size: int, difficulty: float, bright: bool = False) -> Setting:
    """A place with a horizon: a table before a wall, ground under a sky, before trees, before something blurred.

    Args:
        rng: random numbers.
        bank: textures.
        size: side in pixels.
        difficulty: 0..1, how much there is to see.
        bright: under a sky.
    """
    horizon = size * rng.uniform(0.3, 0.75)
    draw = 0.0 if bright else rng.uniform()
    if draw < 0.3:
        canvas = sky(rng, size)
    elif draw < 0.65:
        canvas = wall(rng, bank, size, difficulty)
    elif draw < 0.65 + 0.12 * difficulty:
        canvas = foliage(rng, size)
    elif draw < 0.95:
        canvas = bokeh(rng, bank, size)
    else:
        canvas = bank.photo(rng, zoom=float(rng.uniform(1.2, 2.2))).render(rng, size, size, 256 / size)
    if rng.uniform() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.8, 3.5) * size / 256)
    ground = bank.flat(rng, rng.uniform(0, 0.25)) if rng.uniform() < 0.45 else bank.sample(rng)
    if bright and rng.uniform() < 0.5:
        ground = ground.relit(-60)
    floor = in_perspective(rng, ground, size, horizon)
    rows = np.arange(size, dtype=np.float32)
    floor *= (np.float32(0.75) + np.float32(rng.uniform(0.1, 0.4)) * (rows / size))[:, None, None]
    edge = horizon + np.float32(rng.normal(0, 0.03)) * (rows - size / 2)
    if rng.uniform() < 0.3:
        edge = edge + cv2.resize(rng.normal(0, 0.02 * size, (1, 12)).astype(np.float32), (size, 1))[0]
    share = np.clip((rows[:, None] - edge[None, :].astype(np.float32)) / np.float32(rng.uniform(0.7, 3)) + 0.5, 0, 1)
    canvas = cv2.blendLinear(floor, np.ascontiguousarray(canvas), share, 1 - share)
    return Setting(np.clip(canvas, 0, 255), ground, horizon)


def seen_from_above(rng: Rng, bank: TextureBank, size: int, difficulty: float) -> Setting:
    """A surface that things lie on, or nothing in particular behind them."""
    draw = rng.uniform()
    if draw < 0.62:
        canvas, ground = paint_background(rng, bank, size, difficulty)
        return Setting(canvas, ground)
    ground = bank.sample(rng)
    if draw < 0.62 + 0.12 * difficulty:
        return Setting(foliage(rng, size), ground)
    if draw < 0.84:
        return Setting(np.clip(wall(rng, bank, size, difficulty), 0, 255), ground)
    return Setting(bokeh(rng, bank, size), ground)


def dark_ground(rng: Rng, bank: TextureBank, size: int, brightness: float) -> Setting:
    """Cloth or board in one shade of gray or colour, unevenly lit, with a little grain."""
    ground = bank.flat(rng, rng.uniform(0.0, 0.12))
    canvas = ground.render(rng, size, size, 256 / size)
    canvas += np.float32(brightness - canvas.mean())
    grid = rng.uniform(0.55, 1.3, (int(rng.integers(2, 4)),) * 2).astype(np.float32)
    canvas *= cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    return Setting(np.clip(canvas, 0, 255), ground)
