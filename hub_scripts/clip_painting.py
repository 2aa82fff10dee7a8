"""Frames of synthetic clips: a moving camera, sprites warped onto the background, light, noise and compression.

As in still scenes, picture and visible regions are painted in step, back to front: a pixel belongs to the topmost
object that covers half of it or more. Motion blur, shadows and the camera's softness change only the picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_motion import Track, flicker
from sam_variants.hub_scripts.scene_sprites import Sprite
from sam_variants.hub_scripts.scene_textures import noise_grain

Matrix = np.ndarray
NOISE_ROOM = 128


@dataclass(frozen=True)
class Bend:
    """A wave that runs through an object: pixels it moves the surface by, pixels and frames it takes to repeat."""

    strength: float
    length: float
    period: float
    phase: float


@dataclass(frozen=True)
class Actor:
    """A sprite, its way through the frames (positions as seen by the camera), and how it bends, if it does."""

    sprite: Sprite
    track: Track
    bend: Bend | None = None


@dataclass(frozen=True)
class Exposure:
    """What the camera does to every frame.

    Attributes:
        gains: T×4×4×3 float32 of the light over the frame, or None.
        shutter: share of a frame's time for which moving objects smear, 0..1.
        blur: pixels (standard deviation) that everything is out of focus by.
        contrast, haze: the picture becomes contrast × picture + haze.
        noise: gray levels (standard deviation).
        quality: of JPEG compression, or None.
        gray: equal channels.
    """

    gains: np.ndarray | None
    shutter: float
    blur: float
    contrast: float
    haze: float
    noise: float
    quality: int | None
    gray: bool


def random_exposure(
    rng: np.random.Generator, num_frames: int, size: int, difficulty: float, gray: bool, brightness: float
) -> Exposure:
    """A camera and a light for a scene of a mean `brightness` (gray levels); too dark scenes are lit."""
    gains = flicker(rng, num_frames, difficulty) if rng.uniform() < 0.7 else None
    if brightness < 50:
        lit = np.float32(min(rng.uniform(45, 90) / max(brightness, 1.0), 2.5))
        gains = (np.ones((num_frames, 4, 4, 3), np.float32) if gains is None else gains) * lit
    hazy = rng.uniform() < 0.25 * difficulty
    return Exposure(
        gains=gains,
        shutter=rng.uniform(0.2, 0.6) if rng.uniform() < 0.6 else 0.0,
        blur=rng.uniform(0.35, 1.1) * max(size / 256, 0.5) if rng.uniform() < 0.4 * difficulty else 0.0,
        contrast=rng.uniform(0.5, 0.9) if hazy else 1.0,
        haze=rng.uniform(0, 70) if hazy else 0.0,
        noise=float(np.exp(rng.uniform(0, 2.6))) if rng.uniform() < 0.7 * difficulty else 0.0,
        quality=int(rng.integers(30, 92)) if rng.uniform() < 0.35 * difficulty else None,
        gray=gray,
    )


def shoot(
    rng: np.random.Generator, background: np.ndarray, camera: Track, actors: list[Actor], light: np.ndarray,
    exposure: Exposure, size: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Paint all frames.

    Args:
        rng: random numbers, for the noise.
        background: S×S×3 uint8, its middle in the middle of the frame when the camera stands.
        camera: moves the background; actors' tracks have it in them already.
        actors: back to front; number i is i + 1 in the labels.
        light: unit vector (x, y) towards the light.
        exposure: of the camera.
        size: side of the frames in pixels.

    Returns:
        frames T×size×size×3 uint8 RGB, labels T×size×size uint8 (0 = background).
    """
    num_frames = len(camera.angles)
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    labels = np.zeros((num_frames, size, size), np.uint8)
    develop = Developer(rng, exposure, size)
    for index in range(num_frames):
        frame = _see_background(background, camera, index, size)
        for number, actor in enumerate(actors, start=1):
            _paint_actor(frame, labels[index], number, actor, index, light, exposure.shutter)
        frames[index] = develop(frame, index)
    return frames, labels


def _see_background(background: np.ndarray, camera: Track, index: int, size: int) -> np.ndarray:
    matrix = _placement(
        np.full(2, (len(background) - 1) / 2),
        (camera.positions[index] + 0.5) * size - 0.5,
        float(camera.angles[index]),
        float(camera.scales[index]),
    )
    return np.asarray(
        cv2.warpAffine(background, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    )


def _placement(anchor: np.ndarray, position: np.ndarray, angle: float, scale: float) -> Matrix:
    """The 2×3 matrix that turns and scales about `anchor` and puts it at `position`, both in pixel indices."""
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([turn, (position - turn @ anchor)[:, None]])


def _paint_actor(
    frame: np.ndarray, labels: np.ndarray, number: int, actor: Actor, index: int, light: np.ndarray, shutter: float
) -> None:
    """Put an actor on top of a frame and of its labels."""
    size, sprite, finish = len(frame), actor.sprite, actor.sprite.finish
    position = actor.track.positions[index] * size - 0.5
    scale, angle = float(actor.track.scales[index]), float(actor.track.angles[index])
    matrix = _placement(sprite.anchor, position, angle, scale)
    smear = _velocity(actor.track, index) * size * shutter
    pad = 2 + np.abs(smear).max() / 2 + (actor.bend.strength * scale if actor.bend else 0.0)
    pad += (finish.shadow_reach + 2 * finish.shadow_blur) * scale if finish.shadow else 0.0
    corners = sprite.hull @ matrix[:, :2].T + position
    x0, y0 = np.maximum(np.floor(corners.min(0) - pad), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(0) + pad) + 1, size).astype(int)
    if x1 - x0 < 1 or y1 - y0 < 1:
        return
    matrix[:, 2] -= (x0, y0)
    patch = _warp(sprite.pixels, matrix, (x1 - x0, y1 - y0), actor.bend, index)
    coverage = patch[..., 3]
    view = frame[y0:y1, x0:x1]
    if finish.shadow:
        _cast_shadow(view, coverage, light * scale, actor)
    labels[y0:y1, x0:x1][coverage > 127] = number
    if np.hypot(*smear) > 1.5:
        patch = cv2.filter2D(patch, -1, _streak(smear), borderType=cv2.BORDER_REPLICATE)
    elif finish.edge_blur > 0.8:
        patch = cv2.GaussianBlur(patch, (0, 0), finish.edge_blur * 0.7)
    clear = cv2.cvtColor(cv2.bitwise_not(patch[..., 3]), cv2.COLOR_GRAY2RGB)
    behind = cv2.multiply(view, clear, scale=1 / 255)
    cv2.add(behind, cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), view)


def _velocity(track: Track, index: int) -> np.ndarray:
    """The way from half a frame before to half a frame after, as a share of the frame's side."""
    before, after = max(index - 1, 0), min(index + 1, len(track.positions) - 1)
    return (track.positions[after] - track.positions[before]) / max(after - before, 1)


def _warp(pixels: np.ndarray, matrix: Matrix, shape: tuple[int, int], bend: Bend | None, index: int) -> np.ndarray:
    """The sprite under a matrix, and bent, in a window of a width and a height; transparent around it."""
    if bend is None:
        return np.asarray(cv2.warpAffine(pixels, matrix, shape, flags=cv2.INTER_LINEAR))
    (a, b, dx), (c, d, dy) = cv2.invertAffineTransform(matrix).astype(np.float32)
    x, y = np.arange(shape[0], dtype=np.float32), np.arange(shape[1], dtype=np.float32)[:, None]
    across, down = a * x + b * y + dx, c * x + d * y + dy
    turn, phase = np.float32(2 * np.pi / bend.length), np.float32(bend.phase + 2 * np.pi * index / bend.period)
    strength = np.float32(bend.strength)
    sideways = strength * np.sin(turn * down + phase)
    upwards = strength * np.sin(turn * across + phase * np.float32(0.7))
    return np.asarray(cv2.remap(pixels, across + sideways, down + upwards, cv2.INTER_LINEAR))


def _streak(smear: np.ndarray) -> np.ndarray:
    """A kernel that smears along a line (x, y in pixels)."""
    reach = int(np.ceil(np.abs(smear).max() / 2))
    kernel = np.zeros((2 * reach + 1,) * 2, np.uint8)
    start, end = (np.round((reach + sign * smear / 2) * 16).astype(int) for sign in (-1, 1))
    cv2.line(kernel, start.tolist(), end.tolist(), 255, 1, cv2.LINE_AA, 4)
    return kernel.astype(np.float32) / kernel.sum()


def _cast_shadow(view: np.ndarray, coverage: np.ndarray, light: np.ndarray, actor: Actor) -> None:
    """Darken what lies beside the actor, away from the light."""
    finish = actor.sprite.finish
    dx, dy = -light * finish.shadow_reach
    moved = cv2.warpAffine(coverage, np.array([[1, 0, dx], [0, 1, dy]]), coverage.shape[::-1])
    kernel = (2 * round(finish.shadow_blur) + 1,) * 2
    dark = cv2.convertScaleAbs(cv2.blur(cv2.blur(moved, kernel), kernel), alpha=finish.shadow)
    cv2.multiply(view, cv2.cvtColor(cv2.bitwise_not(dark), cv2.COLOR_GRAY2RGB), view, scale=1 / 255)


class Developer:
    """Turns painted frames (uint8 RGB) into photographed ones.

    Args:
        rng: random numbers, for the noise.
        exposure: of the camera.
        size: side of the frames in pixels.
    """

    def __init__(self, rng: np.random.Generator, exposure: Exposure, size: int) -> None:
        self.rng, self.exposure, self.size = rng, exposure, size
        side = size + NOISE_ROOM
        grain = noise_grain()
        grain = grain[:side, :side] if side <= len(grain) else np.resize(grain, (side, side, 3))
        self.noise = np.ascontiguousarray(grain[..., ::-1] * np.float32(exposure.noise)) if exposure.noise else None

    def __call__(self, frame: np.ndarray, index: int) -> np.ndarray:
        exposure, size = self.exposure, self.size
        if exposure.gains is not None:
            gains = cv2.resize(exposure.gains[index], (size, size), interpolation=cv2.INTER_LINEAR)
            frame = cv2.multiply(frame, gains, dtype=cv2.CV_8U)
        if exposure.contrast != 1:
            frame = cv2.convertScaleAbs(frame, alpha=exposure.contrast, beta=exposure.haze)
        if exposure.blur:
            frame = cv2.GaussianBlur(frame, (0, 0), exposure.blur)
        if exposure.gray:
            frame = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        if self.noise is not None:
            x, y = self.rng.integers(NOISE_ROOM, size=2)
            noise = self.noise[y : y + size, x : x + size]
            if exposure.gray:
                noise = np.repeat(noise[..., :1], 3, axis=2)
            frame = cv2.add(frame, noise, dtype=cv2.CV_8U)
        if exposure.quality is not None:
            _, code = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, exposure.quality])
            frame = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        return frame
