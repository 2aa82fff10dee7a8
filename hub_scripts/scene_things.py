"""Things put together from pieces: wholes with parts and subparts, in coordinates of their own.

x goes right, y down; a thing measures about 2 across and is built upright.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sam_variants.hub_scripts.scene_shapes import Primitive, Shape, around, rounded

Point = Sequence[float] | np.ndarray
Points = Sequence[Point] | np.ndarray
WHOLE, PART, SUBPART = range(3)


@dataclass(frozen=True)
class Piece:
    """One outline of a thing, which is painted in one surface.

    Attributes:
        shape: outline.
        level: WHOLE for what is only a piece of the whole, PART, SUBPART; None for a detail of the piece it lies on.
        parent: index of the piece it belongs to, or -1.
        surface: index of one of the thing's materials.
        inside: it is cut to its parent's outline.
        form: of scene_stage.FORMS.
        glass: it is seen through.
    """

    shape: Shape
    level: int | None
    parent: int = -1
    surface: int = 0
    inside: bool = False
    form: str = "flat"
    glass: bool = False


@dataclass
class Thing:
    """Pieces in the order they are painted in.

    Attributes:
        pieces: see `Piece`.
        stands: it is seen from the side and stands on its lowest point; else it may lie turned in any way.
    """

    pieces: list[Piece] = field(default_factory=list)
    stands: bool = True

    def add(
        self, shape: Shape, parent: int = -1, surface: int = 0, form: str = "flat", part: bool = True,
        inside: bool = False, glass: bool = False,
    ) -> int:  # fmt: skip
        """Add a piece on top and return its index; `part=False`: it is no object of its own."""
        depth = (self.pieces[parent].level if parent >= 0 else WHOLE) or WHOLE
        detail = parent >= 0 and self.pieces[parent].level is None
        level: int | None = depth + 1 if part and depth < SUBPART and not detail else None
        if level is None and parent < 0:
            level = WHOLE
        self.pieces.append(Piece(shape, level, parent, surface, inside, form, glass))
        return len(self.pieces) - 1

    def body(self, shape: Shape, surface: int = 0, form: str = "flat", glass: bool = False) -> int:
        """Add a piece of the whole that is no part of its own."""
        return self.add(shape, surface=surface, form=form, part=False, glass=glass)

    @property
    def points(self) -> np.ndarray:
        """All corners of what is not cut to something else, n×2."""
        shapes = [piece.shape for piece in self.pieces if not piece.inside]
        return np.concatenate([outline for shape in shapes for p in shape.primitives for outline in p.outlines])

    def placed(
        self, at: np.ndarray, scale: float, angle: float = 0.0, squeeze: float = 1.0, mirror: bool = False
    ) -> Thing:
        """The thing mirrored, squeezed in x, turned, scaled and moved so that its origin lies at `at` (pixels)."""
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = np.diag([squeeze * (-1 if mirror else 1), 1]) @ np.array([[cos, sin], [-sin, cos]]) * scale
        return Thing([replace(piece, shape=moved(piece.shape, matrix, at)) for piece in self.pieces], self.stands)


def moved(shape: Shape, matrix: np.ndarray, offset: np.ndarray) -> Shape:
    """The shape with every row vector multiplied by a 2×2 matrix and moved."""
    factor = np.sqrt(abs(np.linalg.det(matrix)))
    return Shape(
        tuple(
            Primitive(tuple(outline @ matrix + offset for outline in primitive.outlines), primitive.width * factor)
            for primitive in shape.primitives
        )
    )


def union(*shapes: Shape) -> Shape:
    """One shape that covers what any of them covers."""
    return Shape(tuple(primitive for shape in shapes for primitive in shape.primitives))


def poly(*points: Point) -> Shape:
    """A filled polygon."""
    return Shape((Primitive((np.array(points, float),)),))


def disc(x: float, y: float, across: float, down: float | None = None, turn: float = 0.0) -> Shape:
    """A filled ellipse with two half axes."""
    cos, sin = np.cos(turn), np.sin(turn)
    outline = (around(1.0, 48) * (across, across if down is None else down)) @ np.array([[cos, sin], [-sin, cos]])
    return Shape((Primitive((np.add(outline, (x, y)),)),))


def hoop(x: float, y: float, outer: float, inner: float, squash: float = 1.0) -> Shape:
    """A ring between two radii."""
    ring = around(1.0, 48) * (1, squash)
    return Shape((Primitive((ring * outer + (x, y), ring * inner + (x, y))),))


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Shape:
    """A rectangle, with round corners if `radius` is above 0."""
    if radius <= 0:
        return poly((left, top), (right, top), (right, bottom), (left, bottom))
    half = np.array([right - left, bottom - top]) / 2
    outline = rounded(half[0], half[1], min(radius, 0.98 * half.min()))
    return Shape((Primitive((np.add(outline, ((left + right) / 2, (top + bottom) / 2)),)),))


def wire(points: Points, width: float) -> Shape:
    """An open line."""
    return Shape((Primitive((np.array(points, float),), width),))


def curve(points: Points, count: int = 24) -> np.ndarray:
    """A smooth line of `count` points through the given ones (Catmull-Rom)."""
    knots = np.array(points, float)
    knots = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.linspace(0, len(knots) - 3 - 1e-9, count)
    index, t = t.astype(int), (t % 1)[:, None]
    a, b, c, d = (knots[index + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def limb(start: Point, end: Point, first: float, last: float) -> Shape:
    """A bar with round ends that tapers from one half width to another."""
    a, b = np.array(start, float), np.array(end, float)
    along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
    angle = np.arctan2(along[1], along[0])
    half = np.linspace(np.pi / 2, 3 * np.pi / 2, 9) + angle
    caps = np.stack([np.cos(half), np.sin(half)], axis=1)
    return Shape((Primitive((np.concatenate([a + caps * first, b - caps * last]),)),))


def lathe(profile: Points, smooth: bool = True) -> Shape:
    """The outline of something turned about the y axis, from (half width, y) pairs from top to bottom."""
    side = curve(profile, 32) if smooth else np.array(profile, float)
    return Shape((Primitive((np.concatenate([side, side[::-1] * (-1, 1)]),)),))


def leaf_outline(length: float, width: float, lobes: float = 0.0) -> np.ndarray:
    """A leaf from the origin to (length, 0), n×2."""
    t = np.linspace(0, 1, 20)
    half = width * np.sin(np.pi * t**0.8) * (1 + lobes * np.sin(14 * t))
    side = np.stack([t * length, half], axis=1)
    return np.concatenate([side, side[::-1] * (1, -1)])


def turned(outline: np.ndarray, angle: float, x: float = 0.0, y: float = 0.0) -> Shape:
    """A filled outline turned about the origin, then moved."""
    cos, sin = np.cos(angle), np.sin(angle)
    return Shape((Primitive((outline @ np.array([[cos, sin], [-sin, cos]]) + (x, y),)),))
