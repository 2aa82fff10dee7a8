"""The cast of a synthetic clip: which objects there are, what they look like, and what happens to them."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from sam_variants.hub_scripts.clip_painting import Actor, Bend
from sam_variants.hub_scripts.scene_layout import Composer, paint_background
from sam_variants.hub_scripts.scene_motion import (
    MIN_EVENT_FRAMES,
    Track,
    crossing,
    excursion,
    pace,
    posture,
    wander,
)
from sam_variants.hub_scripts.scene_shapes import Painter
from sam_variants.hub_scripts.scene_sprites import Look, Sprite, draw_sprite, occluding_look, random_look
from sam_variants.hub_scripts.scene_textures import TextureBank

MAX_OBJECTS = 6
BACKGROUND_SIDE = 1.5
"""Side of the background in sides of the frame: what the camera may pan and zoom over."""


def paint_set(
    rng: np.random.Generator, bank: TextureBank, size: int, light: np.ndarray, difficulty: float, gray: bool
) -> np.ndarray:
    """A background for frames of a size, S×S×3 uint8: bare, or with things that nobody asks for."""
    side = round(BACKGROUND_SIDE * size)
    canvas, ground = paint_background(rng, bank, side, difficulty)
    if rng.uniform() < 0.45 * difficulty:
        Composer(rng, Painter(canvas, light, gray), bank, difficulty * 0.6, ground).layers()
    return np.clip(canvas, 0, 255).astype(np.uint8)


@dataclass
class Director:
    """Casts one clip: owns the random numbers and the growing list of actors, back to front.

    Args:
        rng: random numbers.
        bank: of textures.
        size: side of the frame in pixels.
        camera: its track has as many frames as the clip.
        background: from `paint_set`.
        light: unit vector (x, y) towards the light.
        difficulty: 0..1: how much happens, how alike things look.
        gray: colours do not count as contrast.
    """

    rng: np.random.Generator
    bank: TextureBank
    size: int
    camera: Track
    background: np.ndarray
    light: np.ndarray
    difficulty: float
    gray: bool
    actors: list[Actor] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        return len(self.camera.angles)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.uniform() < probability)

    def look(self, low: float, high: float) -> Look:
        """An object with an area, log-uniform, between two shares of the frame."""
        area = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        return random_look(self.rng, self.bank, self.size, area, self.difficulty)

    def draw(self, look: Look, position: np.ndarray, centred: bool = False) -> Sprite | None:
        """The object in colours that differ from the background about a position (x, y, shares of the frame)."""
        side, reach = len(self.background), self.size // 8
        x, y = np.clip((position - 0.5) * self.size + side / 2, reach, side - reach).astype(int)
        around = np.array(cv2.mean(self.background[y - reach : y + reach, x - reach : x + reach])[:3])
        look_at = (self.size, around, self.light, self.difficulty, self.gray)
        return draw_sprite(self.rng, look, self.bank, *look_at, centred=centred)

    def bend(self, sprite: Sprite) -> Bend | None:
        """How an object gives way, if it does."""
        if not self.chance(0.35 * self.difficulty):
            return None
        rng, extent = self.rng, max(sprite.pixels.shape[:2])
        strength, length = extent * rng.uniform(0.01, 0.045), extent * rng.uniform(0.7, 1.6)
        return Bend(strength, length, rng.uniform(8, 24), rng.uniform(0, 2 * np.pi))

    def enter_anywhere(self, sprite: Sprite, track: Track) -> None:
        """Put an object before some of the others and behind the rest."""
        at = int(self.rng.integers(len(self.actors) + 1))
        self.actors.insert(at, Actor(sprite, track, self.bend(sprite)))

    def add_wanderer(self, look: Look | None = None, sprite: Sprite | None = None) -> Sprite | None:
        """An object that wanders; a `look` or a whole `sprite` of another makes it a twin."""
        centre = self.rng.uniform(0.12, 0.88, 2)
        sprite = sprite or self.draw(look or self.look(0.006, 0.12), centre)
        if sprite is not None:
            positions = wander(self.rng, self.num_frames, centre, pace(self.rng))
            track = Track(positions, *posture(self.rng, self.num_frames))
            self.enter_anywhere(sprite, track.seen_by(self.camera))
        return sprite

    def add_twins(self) -> None:
        """Two objects of one surface: the same thing twice, two of a kind, or two shapes cut from it."""
        look = self.look(0.006, 0.06)
        first = self.add_wanderer(look)
        if first is None:
            return
        if self.chance(0.3):
            self.add_wanderer(sprite=first.relit(self.rng.normal(0, 6)))
            return
        other = self.look(0.006, 0.06)
        if self.chance(0.5) or other.piece is not None:
            self.add_wanderer(replace(look, area=look.area * float(np.exp(self.rng.normal(0, 0.2)))))
        else:
            self.add_wanderer(replace(other, texture=look.texture))

    def add_occlusion(self) -> None:
        """An object that another hides wholly: the other passes over it, or stands and it passes behind."""
        rng, size, num_frames = self.rng, self.size, self.num_frames
        centre = rng.uniform(0.25, 0.75, 2)
        hidden_look = self.look(0.005, 0.035)
        hidden = self.draw(hidden_look, centre)
        if hidden is None or hidden.radius > 0.17 * size:
            return
        positions = wander(rng, num_frames, centre, 0.7 * pace(rng))
        angles, scales = posture(rng, num_frames, liveliness=0.5)
        radius = hidden.radius * float(scales.max()) + 3
        look = occluding_look(rng, self.bank, size, radius * rng.uniform(1.05, 1.5), self.difficulty)
        if self.chance(0.15 * self.difficulty):
            look = replace(look, texture=hidden_look.texture)
        occluder = self.draw(look, centre, centred=True)
        if occluder is None:
            return
        turns = rng.uniform(0, np.pi) + np.arange(4) * np.pi / 4
        along = min(np.stack([np.cos(turns), np.sin(turns)], axis=1), key=occluder.reach)
        apart = crossing(rng, num_frames, (occluder.reach(along) + radius) / size)[:, None] * along
        behind, front = (positions - apart, positions) if self.chance(0.5) else (positions, positions + apart)
        still = Track(front, np.zeros(num_frames), np.ones(num_frames))
        for sprite, track in ((hidden, Track(behind, angles, scales)), (occluder, still)):
            self.actors.append(Actor(sprite, track.seen_by(self.camera)))

    def add_excursion(self) -> None:
        """An object that leaves the frame and comes back."""
        sprite = self.draw(self.look(0.005, 0.05), self.rng.uniform(0.12, 0.88, 2))
        if sprite is None or sprite.radius > 0.22 * self.size:
            return
        angles, scales = posture(self.rng, self.num_frames, liveliness=0.5)
        positions = excursion(self.rng, self.num_frames, sprite.radius / self.size * float(scales.max()))
        self.enter_anywhere(sprite, Track(positions, angles, scales))

    def cast(self) -> None:
        """Two to six objects: those that something happens to, then those that wander."""
        count = int(self.rng.integers(2, MAX_OBJECTS + 1))
        hides, leaves, resembles = (self.chance(p * (0.2 + 0.8 * self.difficulty)) for p in (0.6, 0.4, 0.4))
        eventful = self.num_frames >= MIN_EVENT_FRAMES
        if eventful and hides:
            self.add_occlusion()
        if eventful and leaves and len(self.actors) < count:
            self.add_excursion()
        if resembles and len(self.actors) + 2 <= count:
            self.add_twins()
        for _ in range(count - len(self.actors)):
            self.add_wanderer()
