"""Objects of synthetic clips: drawn once with texture, parts and shading, then moved from frame to frame by warping."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_layout import Composer
from sam_variants.hub_scripts.scene_shapes import (
    Finish,
    Painter,
    Primitive,
    Shape,
    blob,
    circle,
    contrast_shift,
    ellipse,
    polygon,
    random_finish,
    random_shape,
    rectangle,
    rounded_rectangle,
)
from sam_variants.hub_scripts.scene_textures import Texture, TextureBank

OCCLUDERS = (circle, ellipse, blob, polygon, rectangle, rounded_rectangle)
MAX_SIDE = 1.5
"""No object is larger than this, as a share of the frame's side."""
MARGIN = 2


@dataclass(frozen=True)
class Sprite:
    """An object cut out.

    Attributes:
        pixels: h×w×4 uint8, red, green, blue times coverage, and coverage (255 = all of the pixel).
        anchor: x and y of the point that is moved, in pixel-index coordinates of the sprite (0 = centre of a pixel).
        hull: n×2 float32, the corners around everything covered, relative to the anchor.
        finish: how it casts its shadow.
    """

    pixels: np.ndarray
    anchor: np.ndarray
    hull: np.ndarray
    finish: Finish

    @property
    def radius(self) -> float:
        """Pixels from the anchor to the farthest covered one."""
        return float(np.linalg.norm(self.hull, axis=1).max())

    def reach(self, along: np.ndarray) -> float:
        """Pixels from the anchor to the farthest covered one along a line through the anchor (a unit vector)."""
        return float(np.abs(self.hull @ along).max())

    def relit(self, brightness: float) -> "Sprite":
        """The same object, brighter or darker by `brightness` gray levels."""
        alpha = self.pixels[..., 3:].astype(np.float32)
        colors = np.clip(self.pixels[..., :3] + alpha * np.float32(brightness / 255), 0, alpha)
        return replace(self, pixels=np.concatenate([colors, alpha], axis=2).astype(np.uint8))


@dataclass(frozen=True)
class Look:
    """What makes an object recognisable: outline, angle it is drawn at, area in square pixels, surface, finish.

    `piece` is set where the outline was cut from the surface's own photo: the photo pixel at the outline's origin.
    """

    shape: Shape
    angle: float
    area: float
    texture: Texture
    finish: Finish
    num_parts: int = 0
    piece: np.ndarray | None = None


def random_look(rng: np.random.Generator, bank: TextureBank, size: int, area: float, difficulty: float) -> Look:
    """An object of a kind that still scenes have: any shape with any surface, or a piece of a photo.

    Args:
        rng: random numbers.
        bank: of the textures.
        size: side of the frame in pixels.
        area: as a share of the frame.
        difficulty: 0..1, as for scenes.
    """
    finish = random_finish(rng, difficulty, size)
    if rng.uniform() < 0.2 and bank.pieces:
        texture, outline = bank.piece(rng)
        middle = (outline.min(0) + outline.max(0)) / 2
        piece = Shape((Primitive((outline - middle,)),))
        return Look(piece, float(rng.normal(0, 0.5)), area * size**2, texture, finish, piece=middle)
    shape, angle = random_shape(rng)
    num_parts = int(rng.integers(1, 4)) if rng.uniform() < 0.2 * difficulty else 0
    return Look(shape, angle, area * size**2, bank.sample(rng), finish, num_parts)


def occluding_look(rng: np.random.Generator, bank: TextureBank, size: int, radius: float, difficulty: float) -> Look:
    """A solid object that can hide anything within `radius` pixels of its middle."""
    make = OCCLUDERS[rng.integers(len(OCCLUDERS))]
    shape, angle = make(rng), rng.uniform(0, 2 * np.pi)
    for candidate in (shape, circle(rng)):
        # drawn at a known area to learn how large a disc it holds
        trial, _, side = _fitted(candidate, 64.0**2, angle)
        held = float(cv2.distanceTransform(trial.coverage((0, 0, side, side)), cv2.DIST_L2, 5).max()) - 1
        area = (64.0 * radius / held) ** 2
        if side * radius / held <= size and area <= 0.4 * size**2:
            break
    finish = replace(random_finish(rng, difficulty, size), edge_blur=0.0)
    return Look(candidate, angle, area, bank.sample(rng), finish)


def _fitted(shape: Shape, area: float, angle: float) -> tuple[Shape, np.ndarray, int]:
    """The shape in the smallest square canvas that holds it, the x and y of its origin there, the canvas's side."""
    placed = shape.placed(np.zeros(2), area, angle)
    points = np.concatenate([outline for primitive in placed.primitives for outline in primitive.outlines])
    margin = max(primitive.width for primitive in placed.primitives) / 2 + MARGIN
    centre = margin - points.min(0)
    return shape.placed(centre, area, angle), centre, int(np.ceil(np.ptp(points, axis=0).max() + 2 * margin))


def draw_sprite(
    rng: np.random.Generator, look: Look, bank: TextureBank, size: int, around: np.ndarray, light: np.ndarray,
    difficulty: float, gray: bool, centred: bool = False,
) -> Sprite | None:  # fmt: skip
    """Draw an object; another call gives another crop of its surface and other parts.

    Args:
        rng: random numbers.
        look: what to draw.
        bank: surfaces of parts.
        size: side of the frame in pixels.
        around: mean RGB of where it will be seen first, from which it is made to differ.
        light: unit vector (x, y) towards the light.
        difficulty: 0..1, as for scenes.
        gray: colours do not count as contrast.
        centred: put the anchor where most is covered around it, else at the middle of mass.

    Returns:
        None if it would be too large or too thin to be seen.
    """
    shape, centre, side = _fitted(look.shape, look.area, look.angle)
    if side > MAX_SIDE * size:
        return None
    if look.piece is None:
        surface = look.texture.render(rng, side, side, 256 / size)
        colors = None
    else:
        surface = colors = _piece_surface(look, side, centre)
    painter = Painter(surface.copy(), light, gray)
    finish = replace(look.finish, shadow=0.0, edge_blur=0.0, min_contrast=0.0)
    body = painter.paint(rng, shape, look.texture, finish, colors=colors)
    if body is None:
        return None
    if look.num_parts:
        Composer(rng, painter, bank, difficulty, look.texture).add_parts(body, look.num_parts)
    return _cut_out(rng, painter.canvas, body.window, body.coverage, look.finish, around, gray, centred)


def _piece_surface(look: Look, side: int, centre: np.ndarray) -> np.ndarray:
    """The photo around a piece of it, turned and scaled as the piece, side×side×3 float32."""
    factor = np.sqrt(look.area / max(sum(primitive.area() for primitive in look.shape.primitives), 1.0))
    cos, sin = np.cos(look.angle), np.sin(look.angle)
    source = look.piece + (side / 2 - centre) @ np.array([[cos, -sin], [sin, cos]]) / factor
    return look.texture.colored(look.texture.crop_at(source, side, side, 1 / factor, -look.angle))


def _cut_out(
    rng: np.random.Generator, canvas: np.ndarray, window: tuple[int, int, int, int], coverage: np.ndarray,
    finish: Finish, around: np.ndarray, gray: bool, centred: bool,
) -> Sprite | None:  # fmt: skip
    """A painted body without what it was painted on, or None where hardly a pixel is covered."""
    x0, y0, x1, y1 = window
    solid = (coverage > 127).astype(np.uint8)
    outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if cv2.countNonZero(solid) < 12 or not outlines:
        return None
    if centred:
        depth = cv2.distanceTransform(cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
        anchor = np.array(cv2.minMaxLoc(depth)[3], float) - 1
    else:
        moments = cv2.moments(solid, binaryImage=True)
        anchor = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    colors = canvas[y0:y1, x0:x1]
    own = np.array(cv2.mean(colors, solid)[:3])
    shift = contrast_shift(rng, own, around, finish.min_contrast, gray)
    alpha = coverage.astype(np.float32)[..., None]
    colors = np.clip(colors + np.float32(shift), 0, 255) * alpha * np.float32(1 / 255)
    hull = cv2.convexHull(np.concatenate(outlines))[:, 0].astype(np.float32) - anchor.astype(np.float32)
    return Sprite(np.concatenate([colors, alpha], axis=2).astype(np.uint8), anchor, hull, finish)
