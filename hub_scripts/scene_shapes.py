"""Outlines of synthetic objects and the painter that draws them, with light and shadow, into a scene.

Shapes are built around the origin, then turned, scaled to an area and moved. The painter keeps two rasters in step: the
picture, and the id of the leaf region seen at each pixel, so that a mask is always the visible part of its object.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_textures import LUMA, Texture

MAX_LEAVES = 255
SHIFT = 4
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Primitive:
    """Outlines (each n×2 float, x and y) filled even-odd, or one open line of `width` pixels."""

    outlines: tuple[np.ndarray, ...]
    width: float = 0.0

    def area(self) -> float:
        """The covered area in square pixels (a line's: length × width)."""
        if self.width:
            return float(np.linalg.norm(np.diff(self.outlines[0], axis=0), axis=1).sum() * self.width)
        areas = [abs(cv2.contourArea(outline.astype(np.float32))) for outline in self.outlines]
        return areas[0] - sum(areas[1:])


@dataclass(frozen=True)
class Shape:
    """The union of its primitives."""

    primitives: tuple[Primitive, ...]

    def placed(self, centre: np.ndarray, area: float, angle: float, squeeze: float = 1.0) -> "Shape":
        """The shape turned by `angle` (radians), scaled to `area` square pixels and moved to `centre` (x, y)."""
        factor = np.sqrt(area / max(sum(primitive.area() for primitive in self.primitives), 1e-9))
        cos, sin = np.cos(angle), np.sin(angle)
        stretch = np.diag([np.sqrt(squeeze), 1 / np.sqrt(squeeze)])
        matrix = (stretch @ np.array([[cos, sin], [-sin, cos]])) * factor
        moved = (
            Primitive(tuple(outline @ matrix + centre for outline in primitive.outlines), primitive.width * factor)
            for primitive in self.primitives
        )
        return Shape(tuple(moved))

    def window(self, pad: float, size: int) -> Window | None:
        """The bounding box x0, y0, x1, y1 grown by `pad` and cut to the image; None outside of it."""
        points = np.concatenate([outline for primitive in self.primitives for outline in primitive.outlines])
        pad += max(primitive.width for primitive in self.primitives) / 2 + 1
        x0, y0 = np.maximum(np.floor(points.min(0) - pad), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(points.max(0) + pad), size).astype(int)
        return (int(x0), int(y0), int(x1), int(y1)) if x1 - x0 > 2 and y1 - y0 > 2 else None

    def coverage(self, window: Window) -> np.ndarray:
        """How much of each pixel of the window is covered, h×w uint8 (255 = all)."""
        x0, y0, x1, y1 = window
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        for primitive in self.primitives:
            fixed = [
                np.round((outline - (x0 + 0.5, y0 + 0.5)) * (1 << SHIFT)).astype(np.int32)
                for outline in primitive.outlines
            ]
            if primitive.width:
                cv2.polylines(mask, fixed, False, 255, max(round(primitive.width), 1), cv2.LINE_AA, SHIFT)
            else:
                cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, SHIFT)
        return mask


def around(radii: np.ndarray | float, count: int = 72, phase: float = 0.0) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + phase
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def _filled(*outlines: np.ndarray) -> Shape:
    return Shape((Primitive(outlines),))


def _union(*outlines: np.ndarray) -> Shape:
    return Shape(tuple(Primitive((outline,)) for outline in outlines))


def circle(rng: np.random.Generator) -> Shape:
    return _filled(around(1.0))


def ellipse(rng: np.random.Generator) -> Shape:
    return _filled(around(1.0) * (1, rng.uniform(0.3, 1)))


def blob(rng: np.random.Generator) -> Shape:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    roughness = rng.uniform(0.08, 0.5)
    waves = [rng.normal(0, roughness / k) * np.cos(k * angles + rng.uniform(0, 7)) for k in range(1, 9)]
    return _filled(around(np.maximum(1 + np.sum(waves, axis=0), 0.15)) * (1, rng.uniform(0.5, 1)))


def polygon(rng: np.random.Generator) -> Shape:
    count = int(rng.integers(3, 9))
    angles = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * 2 * np.pi / count
    return _filled(np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.6, 1, (count, 1)))


def star(rng: np.random.Generator) -> Shape:
    count = int(rng.integers(4, 10))
    return _filled(around(np.tile([1.0, rng.uniform(0.35, 0.8)], count), 2 * count))


def rectangle(rng: np.random.Generator) -> Shape:
    half = np.array([1.0, rng.uniform(0.15, 1)])
    return _filled(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half)


def rounded(width: float, height: float, radius: float) -> np.ndarray:
    corner = around(radius, 48)
    return corner + np.sign(corner + 1e-9) * (np.array([width, height]) - radius)


def rounded_rectangle(rng: np.random.Generator) -> Shape:
    height = rng.uniform(0.25, 1)
    return _filled(rounded(1, height, height * rng.uniform(0.1, 1)))


def ring(rng: np.random.Generator) -> Shape:
    squash = (1, rng.uniform(0.6, 1))
    return _filled(around(1.0) * squash, around(rng.uniform(0.4, 0.85)) * squash)


def frame(rng: np.random.Generator) -> Shape:
    outer = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (1, rng.uniform(0.5, 1))
    return _filled(outer, outer * rng.uniform(0.5, 0.85))


def stroke(rng: np.random.Generator) -> Shape:
    knots = np.cumsum(rng.normal((0.8, 0), 1, (int(rng.integers(3, 6)), 2)), axis=0)
    t, at = np.linspace(0, 1, 40), np.linspace(0, 1, len(knots))
    fits = [np.polynomial.Polynomial.fit(at, knots[:, axis], min(3, len(knots) - 1)) for axis in (0, 1)]
    line = np.stack([fit(t) for fit in fits], axis=1)
    line -= line.mean(0)
    length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    return Shape((Primitive((line,), length * rng.uniform(0.05, 0.25)),))


def lumps(rng: np.random.Generator) -> Shape:
    radii = rng.uniform(0.25, 1, (int(rng.integers(2, 6)), 2))
    return _union(*(around(1.0) * radius + rng.normal(0, 0.7, 2) for radius in radii))


def corner(rng: np.random.Generator) -> Shape:
    bar = rng.uniform(0.25, 0.7)
    across = np.array([[-1, -1], [1, -1], [1, -1 + bar], [-1, -1 + bar]])
    at = rng.choice([-1.0, 1 - bar, -bar / 2])
    return _union(across, np.array([[at, -1], [at + bar, -1], [at + bar, 1], [at, 1]]))


def figure(rng: np.random.Generator) -> Shape:
    """An upright silhouette: a head on a body on two to four legs."""
    body = rounded(rng.uniform(0.4, 1.1), rng.uniform(0.5, 0.9), rng.uniform(0.15, 0.4))
    width, height = body.max(0)
    head = around(rng.uniform(0.25, 0.45)) * (1, 1.2) + (rng.uniform(-0.8, 0.8) * width, -height - 0.25)
    legs = []
    for x in np.linspace(-0.8, 0.8, int(rng.integers(2, 5))) * width:
        foot = x + rng.normal(0, 0.25)
        legs.append(np.array([[x - 0.16, 0], [x + 0.16, 0], [foot + 0.12, height + 1.1], [foot - 0.12, height + 1.1]]))
    return _union(body, head, *legs)


def crescent(rng: np.random.Generator) -> Shape:
    angles = np.linspace(0.1, 1.9 * np.pi * rng.uniform(0.4, 0.9), 36)
    outer = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _filled(np.concatenate([outer, outer[::-1] * rng.uniform(0.4, 0.8)]))


SHAPES: dict[Callable[[np.random.Generator], Shape], float] = {
    circle: 2, ellipse: 3, blob: 5, polygon: 2, star: 0.7, rectangle: 2, rounded_rectangle: 2, ring: 0.8,
    frame: 0.5, stroke: 1.5, lumps: 2.5, corner: 0.6, figure: 1.5, crescent: 0.7,
}  # fmt: skip
UPRIGHT = (figure, frame, corner)
_WEIGHTS = np.array(list(SHAPES.values())) / sum(SHAPES.values())


def random_shape(rng: np.random.Generator) -> tuple[Shape, float]:
    """A shape around the origin and the angle (radians) to turn it by; silhouettes stay nearly upright."""
    make = list(SHAPES)[rng.choice(len(_WEIGHTS), p=_WEIGHTS)]
    return make(rng), float(rng.normal(0, 0.15) if make in UPRIGHT else rng.uniform(0, 2 * np.pi))


@dataclass(frozen=True)
class Finish:
    """How an object meets the light; lengths in pixels, strengths 0..1."""

    edge_blur: float = 0.5
    ramp: float = 0.0
    dome: float = 0.0
    bevel: float = 0.0
    emboss: float = 0.0
    shadow: float = 0.0
    shadow_reach: float = 0.0
    shadow_blur: float = 1.0
    min_contrast: float = 20.0


def contrast_shift(rng: np.random.Generator, own: np.ndarray, around: np.ndarray, least: float, gray: bool) -> float:
    """Gray levels to add to a mean RGB colour so that it differs from its surroundings' by `least`; 0 if it does."""
    difference = own - around
    gap = float(difference @ LUMA)
    seen = abs(gap) if gray else max(abs(gap), float(np.abs(difference).max()) * 0.7)
    if seen >= least:
        return 0.0
    luma = float(around @ LUMA)
    sign = np.sign(gap) if abs(gap) > 3 else rng.choice([-1.0, 1.0])
    if not 0 < luma + sign * least < 255:
        sign = -sign
    return float(sign * least - gap)


@dataclass(frozen=True)
class Patch:
    """A painted leaf: its id, its window x0, y0, x1, y1 and its coverage there (uint8)."""

    leaf: int
    window: Window
    coverage: np.ndarray


@dataclass
class Painter:
    """Draws leaves over each other; `canvas` S×S×3 float32, `leaves` S×S uint8, `light` a unit vector (x, y)."""

    canvas: np.ndarray
    light: np.ndarray
    gray: bool
    leaves: np.ndarray = field(init=False)
    num_leaves: int = 0

    def __post_init__(self) -> None:
        self.leaves = np.zeros(self.canvas.shape[:2], np.uint8)

    @property
    def size(self) -> int:
        return self.canvas.shape[0]

    def new_leaf(self) -> int:
        """The next free leaf id.

        Raises:
            ValueError: 255 leaves exist already (0 is the background of a uint8 map).
        """
        if self.num_leaves >= MAX_LEAVES:
            raise ValueError(f"a scene holds at most {MAX_LEAVES} leaves, asked for one more")
        self.num_leaves += 1
        return self.num_leaves

    def paint(
        self, rng: np.random.Generator, shape: Shape, texture: Texture, finish: Finish, within: Patch | None = None,
        colors: np.ndarray | None = None,
    ) -> Patch | None:  # fmt: skip
        """Draw a shape on top of everything (cut to `within`'s coverage, if given); None if outside the image.

        `colors` (H×W×3 float32, the size of the image) replaces the texture's own crop.
        """
        pad = finish.shadow_reach + 2 * finish.shadow_blur + 2 if finish.shadow else 2
        window = within.window if within else shape.window(pad, self.size)
        if window is None:
            return None
        x0, y0, x1, y1 = window
        mask = shape.coverage(window)
        if within:
            mask = np.minimum(mask, within.coverage)
        if cv2.countNonZero(mask) == 0:
            return None
        view = self.canvas[y0:y1, x0:x1]
        if finish.shadow:
            self._cast_shadow(view, mask, finish)
        if colors is None:
            crop = texture.crop(rng, y1 - y0, x1 - x0, 256 / self.size, rng.uniform(0, 2 * np.pi))
            surface = texture.colored(crop)
        else:
            crop, surface = None, colors[y0:y1, x0:x1].copy()
        self._separate(rng, surface, view, mask, finish.min_contrast)
        self._shade(surface, mask, crop, finish)
        alpha = mask.astype(np.float32) * np.float32(1 / 255)
        if finish.edge_blur > 0.3:
            alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), finish.edge_blur), np.float32)
        view[:] = cv2.blendLinear(surface, view, alpha, 1 - alpha)
        leaf = self.new_leaf()
        self.leaves[y0:y1, x0:x1][mask > 127] = leaf
        return Patch(leaf, window, mask)

    def _cast_shadow(self, view: np.ndarray, mask: np.ndarray, finish: Finish) -> None:
        dx, dy = -self.light * finish.shadow_reach
        moved = cv2.warpAffine(mask, np.array([[1, 0, dx], [0, 1, dy]]), mask.shape[::-1])
        kernel = (2 * round(finish.shadow_blur) + 1,) * 2
        dark = cv2.blur(cv2.blur(moved, kernel), kernel).astype(np.float32)
        view *= cv2.cvtColor(1 - dark * np.float32(finish.shadow / 255), cv2.COLOR_GRAY2RGB)

    def _separate(
        self, rng: np.random.Generator, surface: np.ndarray, view: np.ndarray, mask: np.ndarray, least: float
    ) -> None:
        """Make the surface's mean differ from its surroundings' by `least` gray levels, by brightness."""
        own = np.array(cv2.mean(surface, mask)[:3])
        around = np.array(cv2.mean(view, cv2.bitwise_not(mask))[:3])
        shift = contrast_shift(rng, own, around, least, self.gray)
        if shift:
            surface += np.float32(shift)

    def _shade(self, surface: np.ndarray, mask: np.ndarray, crop: np.ndarray | None, finish: Finish) -> None:
        height, width = mask.shape
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        lx, ly = np.float32(self.light[0]), np.float32(self.light[1])
        gain = np.ones(mask.shape, np.float32)
        if finish.ramp:
            gain += np.float32(finish.ramp) * (lx * x + ly * y)
        if finish.dome:
            gain -= np.float32(finish.dome) * ((x - 0.35 * lx) ** 2 + (y - 0.35 * ly) ** 2 - np.float32(0.4))
        if finish.bevel:
            radius = max(round(0.04 * min(height, width)), 1)
            soft = cv2.blur(mask, (2 * radius + 1,) * 2)
            slope = -lx * cv2.Sobel(soft, cv2.CV_32F, 1, 0) - ly * cv2.Sobel(soft, cv2.CV_32F, 0, 1)
            gain += slope * np.float32(finish.bevel * radius / 500)
        if finish.emboss and crop is not None:
            relief = crop if crop.ndim == 2 else np.ascontiguousarray(crop[..., 1])
            slope = -lx * cv2.Sobel(relief, cv2.CV_32F, 1, 0) - ly * cv2.Sobel(relief, cv2.CV_32F, 0, 1)
            gain += np.clip(slope * np.float32(finish.emboss / 250), -0.6, 0.6)
        if finish.ramp or finish.dome or finish.bevel or finish.emboss:
            surface *= cv2.cvtColor(np.maximum(gain, np.float32(0.05)), cv2.COLOR_GRAY2RGB)


def random_finish(rng: np.random.Generator, difficulty: float, size: int) -> Finish:
    """Random shading, shadow and edge softness; the least contrast falls as `difficulty` rises."""
    unit = size / 256
    finish = Finish(
        edge_blur=(rng.uniform(0.3, 1.0) if rng.uniform() < 0.8 else rng.uniform(1, 1 + 1.5 * difficulty)) * unit,
        min_contrast=float((55 - 41 * difficulty) * rng.uniform(0.8, 1.6)),
        ramp=rng.uniform(0, 0.45) if rng.uniform() < 0.6 else 0.0,
        dome=rng.uniform(0.05, 0.4) if rng.uniform() < 0.25 else 0.0,
        bevel=rng.uniform(0.2, 1.0) if rng.uniform() < 0.25 else 0.0,
        emboss=rng.uniform(0.2, 1.0) if rng.uniform() < 0.2 else 0.0,
    )
    if rng.uniform() < 0.15 + 0.35 * difficulty:
        reach = rng.uniform(0, 2) if rng.uniform() < 0.4 else rng.uniform(2, 10)
        blur = (rng.uniform(1, 3) + reach * rng.uniform(0.1, 0.6)) * unit
        finish = replace(finish, shadow=rng.uniform(0.2, 0.75), shadow_reach=reach * unit, shadow_blur=blur)
    return finish
