"""Smooth motion for synthetic clips: objects that wander, pass behind each other or leave the frame, and the camera.

Everything is computed for all frames of a clip at once. Lengths are shares of the frame's side, angles are radians,
times are frames, so that a clip moves alike at any size.
"""

from dataclasses import dataclass

import numpy as np

MIN_EVENT_FRAMES = 6
EVENT_STEP = 0.11
MAX_STEP = 0.18
"""No object's centre moves farther than this in one frame; what an event asks for is at most EVENT_STEP."""


@dataclass(frozen=True)
class Track:
    """Where something is in each of T frames.

    Attributes:
        positions: T×2, x and y; for a camera the shift of the picture.
        angles: T.
        scales: T, relative to the size it was drawn at.
    """

    positions: np.ndarray
    angles: np.ndarray
    scales: np.ndarray

    def seen_by(self, camera: "Track") -> "Track":
        """The same track in the picture of a moving camera, which turns and zooms about the middle of the frame."""
        cos, sin = np.cos(camera.angles), np.sin(camera.angles)
        x, y = ((self.positions - 0.5) * camera.scales[:, None]).T
        turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
        return Track(turned + 0.5 + camera.positions, self.angles + camera.angles, self.scales * camera.scales)


def wave(rng: np.random.Generator, num_frames: int, amplitude: float, shortest: float, longest: float) -> np.ndarray:
    """T values of a sine with a random phase and a period between two numbers of frames."""
    turn = 2 * np.pi * np.arange(num_frames) / rng.uniform(shortest, longest)
    return amplitude * np.sin(turn + rng.uniform(0, 2 * np.pi))


def wander(rng: np.random.Generator, num_frames: int, centre: np.ndarray, speed: float) -> np.ndarray:
    """T×2 positions that swing about a centre along a curve, with `speed` (per frame) as the greatest on its axis."""
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    positions = np.tile(np.asarray(centre, float), (num_frames, 1))
    for axis, share in ((along, 1.0), (along[::-1] * (1, -1), rng.uniform(0, 0.6))):
        period = rng.uniform(20, 70)
        reach = min(speed * share * period / (2 * np.pi), 0.35)
        positions += wave(rng, num_frames, reach, period, period)[:, None] * axis
    return positions


def pace(rng: np.random.Generator) -> float:
    """A speed per frame: most objects are slow, some stand still."""
    return 0.0 if rng.uniform() < 0.15 else float(np.exp(rng.uniform(np.log(0.004), np.log(0.04))))


def posture(rng: np.random.Generator, num_frames: int, liveliness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """T angles and T scales: some objects spin, most sway, and they come nearer or go away; 0 keeps them as drawn."""
    angles = wave(rng, num_frames, rng.uniform(0, 0.5) * liveliness, 20, 60)
    if rng.uniform() < 0.3:
        angles = angles + rng.normal(0, 0.06) * liveliness * np.arange(num_frames)
    scales = np.exp(wave(rng, num_frames, rng.uniform(0, 0.25) * liveliness, 24, 70))
    return angles, scales


def _event_middle(rng: np.random.Generator, num_frames: int) -> float:
    return (num_frames - 1) * rng.uniform(0.4, 0.6)


def crossing(rng: np.random.Generator, num_frames: int, reach: float) -> np.ndarray:
    """T distances from -reach to reach and back, at an even pace, with 0 near the middle of the clip.

    Added to an object's positions, along a line, it makes another object pass over it: both are apart at ±reach, which
    a short clip may not leave the time for.
    """
    middle = _event_middle(rng, num_frames)
    period = 4 * max(min(middle, num_frames - 1 - middle), 2.0) * rng.uniform(1.0, 1.15)
    swing = np.arcsin(0.95 * np.sin(2 * np.pi * (np.arange(num_frames) - middle) / period)) / np.arcsin(0.95)
    steepest = 2 * np.pi / period * 0.95 / np.arcsin(0.95)
    return min(reach * 1.05, EVENT_STEP / steepest) * swing


def excursion(rng: np.random.Generator, num_frames: int, radius: float) -> np.ndarray:
    """T×2 positions of an object of a radius that leaves the frame over one side and comes back where it left."""
    middle = _event_middle(rng, num_frames)
    period = max(num_frames * rng.uniform(0.9, 1.2), 8.0)
    out = 0.5 + 0.5 * np.cos(2 * np.pi * (np.arange(num_frames) - middle) / period)
    outside = radius * rng.uniform(1.15, 1.6) + 0.02
    longest = max(EVENT_STEP * period / np.pi - outside, 0.3 * radius)
    inside = min(radius * rng.uniform(0.3, 1.5), longest)
    depth = 1 - inside + (outside + inside) * out
    beside = rng.uniform(0.2, 0.8) + wave(rng, num_frames, rng.uniform(0, 0.08), 24, 60)
    positions = np.stack([depth, beside], axis=1)
    if rng.uniform() < 0.5:
        positions[:, 0] = 1 - positions[:, 0]
    return positions[:, ::-1] if rng.uniform() < 0.5 else positions


def camera_path(rng: np.random.Generator, num_frames: int, difficulty: float) -> Track:
    """A camera that stands, pans and zooms slowly, or is held by an unsteady hand."""
    positions, angles, scales = np.zeros((num_frames, 2)), np.zeros(num_frames), np.ones(num_frames)
    if rng.uniform() < 0.75:
        reach = rng.uniform(0.02, 0.1) * (0.3 + 0.7 * difficulty)
        positions = np.stack([wave(rng, num_frames, reach, 30, 90) for _ in range(2)], axis=1)
        scales = np.exp(wave(rng, num_frames, rng.uniform(0, 0.12) * difficulty, 30, 90))
        angles = wave(rng, num_frames, rng.uniform(0, 0.07) * difficulty, 30, 90)
    if rng.uniform() < 0.3 * difficulty:
        positions = positions + np.stack([wave(rng, num_frames, 0.004, 5, 12) for _ in range(2)], axis=1)
    return Track(positions, angles, scales)


def flicker(rng: np.random.Generator, num_frames: int, difficulty: float) -> np.ndarray:
    """T×4×4×3 gains of the light over the frame: brighter and darker, warmer and colder, a shade that wanders."""
    gains = np.ones((num_frames, 4, 4, 3))
    gains *= np.exp(wave(rng, num_frames, rng.uniform(0, 0.25) * difficulty, 16, 60))[:, None, None, None]
    if rng.uniform() < 0.4:
        tint = rng.normal(0, 0.08 * difficulty, 3)
        gains *= np.exp(wave(rng, num_frames, 1.0, 24, 70)[:, None, None, None] * tint)
    if rng.uniform() < 0.5:
        strength = rng.uniform(0.05, 0.35) * difficulty
        for _ in range(2):
            shade = rng.uniform(-1, 1, (4, 4, 1)) * strength
            gains *= np.exp(wave(rng, num_frames, 1.0, 24, 80)[:, None, None, None] * shade)
    return gains.astype(np.float32)
