"""Arrangement of composed things into scenes: on a ground with a horizon, lying about, close up, in heaps and rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_backgrounds import (
    Setting,
    bokeh,
    dark_ground,
    seen_from_above,
    sky,
    standing_room,
)
from sam_variants.hub_scripts.scene_grown_things import GROWN_THINGS, HELD_OUT_THINGS, face, person, tree
from sam_variants.hub_scripts.scene_layout import Composer
from sam_variants.hub_scripts.scene_made_things import MADE_THINGS, house, lamp, lattice, signpost, tower, wires
from sam_variants.hub_scripts.scene_objects import Objects
from sam_variants.hub_scripts.scene_shapes import Patch, Shape, blob, circle, random_shape
from sam_variants.hub_scripts.scene_stage import Stage, Surface, random_light
from sam_variants.hub_scripts.scene_textures import Texture, TextureBank
from sam_variants.hub_scripts.scene_things import PART, SUBPART, Piece, Thing

Rng = np.random.Generator
Maker = Callable[[Rng], Thing]
LEAST_PIECE = 0.0004
"""Pieces below this share of the image are not painted."""
LEAF_BUDGET = 225


@dataclass
class Arranger:
    """Arranges one scene: owns the random numbers, the stage, the scene's materials and the list of objects."""

    rng: Rng
    stage: Stage
    bank: TextureBank
    difficulty: float
    ground: Texture
    horizon: float | None
    makers: dict[Maker, float]
    materials: list[Texture] = field(default_factory=list)
    objects: Objects = field(default_factory=Objects)
    max_overlap: float = 0.0
    repeats: float = 0.5

    @property
    def size(self) -> int:
        return self.stage.size

    def chance(self, probability: float) -> bool:
        return bool(self.rng.uniform() < probability)

    def between(self, low: float, high: float) -> float:
        """A log-uniform number."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def texture(self) -> Texture:
        """A material of the scene's, a new one, or the ground's own in another brightness."""
        if self.chance(0.06 * self.difficulty):
            return self.ground.relit(self.rng.choice([-1, 1]) * self.rng.uniform(0, 60))
        if self.materials and self.chance(self.repeats):
            return self.materials[self.rng.integers(len(self.materials))]
        rng = self.rng
        draw = rng.uniform()
        if draw < 0.5:
            new = self.bank.flat(rng, rng.uniform(0, 0.15))
        else:
            new = self.bank.flat(rng, rng.uniform(0.1, 0.8)) if draw < 0.82 else self.bank.photo(rng)
        self.materials.append(new)
        return new

    def surfaces(self, count: int = 4) -> list[Surface]:
        """What a thing's pieces are made of."""
        rng, d = self.rng, self.difficulty
        shaded, bevel = self.chance(0.75), rng.uniform(0.1, 0.8) if self.chance(0.3) else 0.0
        depth = rng.uniform(0.15, 0.75) if shaded else 0.0
        if self.chance(0.05 * d) and self.ground.levels[0].ndim == 2:
            # seen by its light and shadow alone
            hidden = Surface(self.ground, rng.uniform(0, 7), depth=0.8, bevel=0.9, min_contrast=0.0)
            return [hidden] * count
        turn = rng.uniform(0, 2 * np.pi)
        least = float((50 - 36 * d) * rng.uniform(0.85, 1.7))
        return [
            Surface(
                self.texture(), turn, depth=depth * rng.uniform(0.6, 1), bevel=bevel,
                emboss=rng.uniform(0.2, 0.9) if self.chance(0.12) else 0.0,
                gloss=rng.uniform(0.2, 0.8) if self.chance(0.15) else 0.0, min_contrast=least,
            )
            for _ in range(count)
        ]  # fmt: skip

    def maker(self) -> Maker:
        makers = list(self.makers)
        weights = np.array(list(self.makers.values()))
        return makers[self.rng.choice(len(makers), p=weights / weights.sum())]

    def silhouette(self, thing: Thing) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
        """The window and coverage of a placed thing."""
        shape = Shape(tuple(p for piece in thing.pieces if not piece.inside for p in piece.shape.primitives))
        window = shape.window(1, self.size)
        return (window, shape.coverage(window)) if window else None

    def fits(self, thing: Thing) -> bool:
        """Whether enough of it shows and it covers little of earlier things."""
        seen = self.silhouette(thing)
        if seen is None:
            return False
        (x0, y0, x1, y1), mask = seen
        covered = self.stage.leaves[y0:y1, x0:x1][mask > 127]
        points = thing.points
        inside = float(((points > 0) & (points < self.size)).all(1).mean())
        if len(covered) < 0.003 * self.size**2 or inside < 0.45:
            return False
        return bool(np.count_nonzero(covered) <= self.max_overlap * len(covered))

    def put(self, thing: Thing, surfaces: list[Surface], angle: float, reach: float = 0.0) -> None:
        """Paint a placed thing and note its objects.

        Args:
            thing: in pixels.
            surfaces: of its pieces; `Piece.surface` counts round.
            angle: that it is turned by.
            reach: pixels it lies above what is behind it, for its shadow; 0: it stands on its lowest point.
        """
        if self.stage.num_leaves + len(thing.pieces) > LEAF_BUDGET:
            return
        seen = self.silhouette(thing)
        if seen is None:
            return
        if reach > 0:
            self.stage.drop_shadow(*seen, reach)
        elif self.horizon is not None:
            self.stage.ground_shadow(*seen, float(thing.points[:, 1].max()))
        patches: list[Patch | None] = []
        for piece in thing.pieces:
            patches.append(self._paint_piece(piece, patches, surfaces, angle))
        self.objects.add_thing(thing.pieces, patches)

    def _paint_piece(
        self, piece: Piece, patches: list[Patch | None], surfaces: list[Surface], angle: float
    ) -> Patch | None:
        within = patches[piece.parent] if piece.inside else None
        if piece.inside and within is None:
            return None
        if (
            piece.level in (PART, SUBPART)
            and sum(p.area() for p in piece.shape.primitives) < LEAST_PIECE * self.size**2
        ):
            return None
        surface = replace(surfaces[piece.surface % len(surfaces)], form=piece.form)
        if piece.glass:
            opacity = self.rng.uniform(0.12, 0.5)
            surface = replace(surface, opacity=opacity, gloss=max(surface.gloss, 0.5), min_contrast=60.0)
        if piece.level is None:
            surface = replace(surface, min_contrast=surface.min_contrast * 0.7)
        return self.stage.lay(self.rng, piece.shape, surface, angle, within)

    def on_the_ground(self, makers: dict[Maker, float] | None = None) -> None:
        """Things that stand on a plane, the near ones larger and before the far ones."""
        rng, d = self.rng, self.difficulty
        horizon = self.horizon if self.horizon is not None else 0.5 * self.size
        self.makers = makers or self.makers
        self.max_overlap = rng.uniform(0.1, 0.6) * (0.3 + 0.7 * d)
        count = round(self.between(1, 2.5 + 5.5 * d))
        height = self.size * self.between(0.42, 1.05) / count**0.33
        near = horizon + (self.size - horizon) * np.sort(rng.uniform(0.12, 1.0, count))
        for base in near:
            depth = (base - horizon) / (self.size - horizon)
            surfaces = self.surfaces()
            make = self.maker()
            for _ in range(3):
                thing = make(rng)
                points = thing.points
                lean = rng.normal(0, 0.03) if thing.stands else rng.normal(0, 0.3)
                scale = (
                    height
                    * (0.45 + 0.75 * depth)
                    * np.exp(rng.normal(0, 0.25))
                    / max(np.ptp(points, axis=0).max(), 1e-3)
                )
                at = np.array([rng.uniform(0.08, 0.92) * self.size, base - points[:, 1].max() * scale])
                one = thing.placed(at, scale, lean, float(np.exp(rng.normal(0, 0.1))), self.chance(0.5))
                if self.fits(one):
                    self.put(one, surfaces, lean)
                    break

    def lying_about(self) -> None:
        """Things seen from above or before nothing in particular, turned as they fall."""
        rng, d = self.rng, self.difficulty
        self.max_overlap = rng.uniform(0, 0.6) * d
        count = round(self.between(1.5, 3 + 9 * d))
        upright = self.chance(0.5)
        sides = [self.size * self.between(0.2 if d > 0.3 else 0.35, 0.85) / count**0.22 for _ in range(count)]
        one_kind = self.maker() if self.chance(0.15) else None
        reach = self.size * rng.choice([0.0, 1.0]) * self.between(0.004, 0.04) + 0.5
        for side in sorted(sides, reverse=True):
            surfaces = self.surfaces()
            for _ in range(4):
                thing = (one_kind or self.maker())(rng)
                points = thing.points
                angle = (
                    rng.normal(0, 0.15) if upright or (thing.stands and self.chance(0.5)) else rng.uniform(0, 2 * np.pi)
                )
                scale = side / np.sqrt(np.prod(np.ptp(points, axis=0)) + 0.05)
                at = rng.uniform(0.05, 0.95, 2) * self.size
                one = thing.placed(at, scale, angle, float(np.exp(rng.normal(0, 0.15))), self.chance(0.5))
                if self.fits(one):
                    self.put(one, surfaces, angle, reach)
                    break
                side *= 0.85

    def close_up(self) -> None:
        """One large thing that fills much of the picture, sometimes cut off by its edge."""
        rng = self.rng
        makers = {**self.makers, face: 8.0, person: 4.0}
        self.makers = makers
        thing = self.maker()(rng)
        points = thing.points
        scale = self.size * rng.uniform(0.7, 1.35) / max(np.ptp(points, axis=0).max(), 1e-3)
        angle = rng.normal(0, 0.12)
        at = self.size * rng.uniform(0.35, 0.65, 2)
        self.put(thing.placed(at, scale, angle, mirror=self.chance(0.5)), self.surfaces(5), angle, 0.03 * self.size)
        if self.chance(0.5):
            self.repeats = 0.8
            self.max_overlap, self.difficulty = 0.9, self.difficulty * 0.5
            self.lying_about()

    def coins(self) -> None:
        """Rows or a heap of relief discs, touching now and then, under uneven light."""
        rng, d = self.rng, self.difficulty
        columns, rows = rng.integers(2, 4 + round(4 * d), 2)
        pitch = self.size / (max(columns, rows) + rng.uniform(-0.2, 0.5))
        radius = pitch * rng.uniform(0.28, 0.52)
        heap, spread = self.chance(0.3), rng.uniform(0, 0.25)
        texture = self.texture()
        relief = replace(
            self.surfaces(1)[0], texture=texture, form=str(rng.choice(["ball", "pillow", "flat"])),
            depth=rng.uniform(0.1, 0.7), bevel=rng.uniform(0.2, 1.0), emboss=rng.uniform(0.3, 1.2), gloss=0.0,
        )  # fmt: skip
        start = (self.size - pitch * (np.array([columns, rows]) - 1)) / 2
        self.max_overlap = rng.uniform(0, 0.12) + 0.2 * heap
        for index in range(int(columns * rows)):
            at = start + pitch * np.array([index % columns, index // columns]) + rng.normal(0, 0.07, 2) * pitch
            if heap:
                at = rng.uniform(0.08, 0.92, 2) * self.size
            outline = circle(rng) if self.chance(0.7) else blob(rng)
            area = np.pi * (radius * np.exp(rng.uniform(-spread, spread))) ** 2
            coin = Thing(stands=False)
            body = coin.body(
                outline.placed(at, area, rng.uniform(0, 7), float(np.exp(rng.normal(0, 0.05)))), form=relief.form
            )
            for _ in range(int(rng.integers(1, 4))):
                shape, angle = random_shape(rng)
                figure = shape.placed(at + rng.normal(0, 0.15, 2) * radius, area * rng.uniform(0.1, 0.3), angle)
                coin.add(figure, body, 1, inside=True, part=False)
            if not self.fits(coin):
                continue
            face_up = relief.texture.relit(rng.normal(0, 60 * spread))
            struck = replace(
                relief, texture=face_up.relit(rng.choice([-14, 14])), min_contrast=0.0, bevel=0.9, form="flat"
            )
            self.put(coin, [replace(relief, texture=face_up), struck], 0.0, 0.012 * self.size)

    def cells(self) -> None:
        """Round things on a smooth ground, with a halo and a nucleus."""
        rng, d = self.rng, self.difficulty
        count = round(self.between(1, 4 + 14 * d))
        radius = self.size * self.between(0.06, 0.3) / count**0.3
        shade = self.bank.flat(rng, rng.uniform(0, 0.2))
        opacity, nucleus = rng.uniform(0.4, 1.0), self.chance(0.5)
        halo, glow = rng.choice([-1.0, 1.0]), rng.uniform(10, 70)
        self.stage.edge_blur = rng.uniform(0.6, 2.5) * self.size / 256
        self.max_overlap = 0.15
        look = replace(self.surfaces(1)[0], texture=shade, form=str(rng.choice(["ball", "pillow"])), opacity=opacity)
        for _ in range(count):
            at = rng.uniform(0.08, 0.92, 2) * self.size
            area = np.pi * (radius * np.exp(rng.normal(0, 0.25))) ** 2
            outline = circle(rng) if self.chance(0.5) else blob(rng)
            cell = Thing(stands=False)
            body = cell.body(
                outline.placed(at, area, rng.uniform(0, 7), float(np.exp(rng.normal(0, 0.12)))), form=look.form
            )
            if nucleus:
                cell.add(
                    circle(rng).placed(at + rng.normal(0, 0.12, 2) * radius, area * rng.uniform(0.06, 0.25), 0),
                    body,
                    1,
                    inside=True,
                )
            if not self.fits(cell):
                continue
            seen = self.silhouette(cell)
            if seen and glow > 25:
                self._halo(*seen, float(halo * glow), 0.12 * radius)
            self.put(cell, [look, replace(look, texture=shade.relit(rng.choice([-50, 50])), opacity=1.0)], 0.0)

    def _halo(self, window: tuple[int, int, int, int], mask: np.ndarray, glow: float, width: float) -> None:
        pad = int(3 * width) + 2
        x0, y0, x1, y1 = window
        wide = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
        soft = cv2.GaussianBlur(wide, (0, 0), max(width, 0.8)).astype(np.float32) * np.float32(glow / 255)
        left, top, right, bottom = (
            max(x0 - pad, 0),
            max(y0 - pad, 0),
            min(x1 + pad, self.size),
            min(y1 + pad, self.size),
        )
        part = soft[top - y0 + pad : bottom - y0 + pad, left - x0 + pad : right - x0 + pad]
        self.stage.canvas[top:bottom, left:right] += part[..., None]

    def silhouettes(self) -> None:
        """Dark things before a bright ground."""
        dark = self.bank.flat(self.rng, 0.05)
        mean = float(dark.coloring.mean())
        self.materials, self.repeats = [dark.relit(self.rng.uniform(5, 45) - mean)], 1.0
        self.on_the_ground({**self.makers, person: 6.0})

    def against_the_sky(self) -> None:
        """Slender tall things that reach into the sky."""
        self.on_the_ground({tower: 6.0, tree: 2.0, signpost: 1.0, lattice: 1.0, house: 1.0, lamp: 1.0, person: 1.0})

    def in_front(self) -> None:
        """Something thin across the picture, nearer than everything else: a fence, twigs, a cable."""
        rng = self.rng
        thing = (lattice if self.chance(0.5) else wires)(rng)
        points, angle = thing.points, rng.normal(0, 0.2)
        scale = self.size * rng.uniform(0.8, 1.7) / max(np.ptp(points, axis=0).max(), 1e-3)
        at = self.size * rng.uniform(0.3, 0.7, 2)
        self.put(thing.placed(at, scale, angle), self.surfaces(), angle, 0.03 * self.size)

    def first_edition(self) -> None:
        """Single shapes, grids and strewn groups."""
        composer = Composer(self.rng, self.stage, self.bank, self.difficulty, self.ground)
        composer.compose()
        self.objects.add_nested(composer.objects)


def scene_makers(textures: str) -> dict[Maker, float]:
    """The kinds of things in the scenes of a texture set, and how often they come."""
    makers: dict[Maker, float] = {**MADE_THINGS, **GROWN_THINGS}
    return {**makers, **HELD_OUT_THINGS} if textures == "held_out" else makers


LAYOUTS: dict[Callable[[Arranger], None], float] = {
    Arranger.on_the_ground: 0.3, Arranger.lying_about: 0.26, Arranger.close_up: 0.12, Arranger.coins: 0.06,
    Arranger.cells: 0.05, Arranger.silhouettes: 0.04, Arranger.against_the_sky: 0.04, Arranger.first_edition: 0.13,
}  # fmt: skip
"""How often scenes are arranged in which way."""
STANDING = (Arranger.on_the_ground, Arranger.silhouettes, Arranger.against_the_sky)


def _setting(rng: Rng, bank: TextureBank, size: int, difficulty: float, layout: Callable[[Arranger], None]) -> Setting:
    """A background that suits a layout."""
    if layout in STANDING:
        return standing_room(rng, bank, size, difficulty, bright=layout is not Arranger.on_the_ground)
    if layout is Arranger.coins:
        return dark_ground(rng, bank, size, rng.uniform(25, 110) if rng.uniform() < 0.75 else rng.uniform(110, 220))
    if layout is Arranger.cells:
        return dark_ground(rng, bank, size, rng.uniform(40, 220))
    if layout is Arranger.close_up and rng.uniform() < 0.6:
        return Setting(bokeh(rng, bank, size) if rng.uniform() < 0.7 else sky(rng, size), bank.sample(rng))
    return seen_from_above(rng, bank, size, difficulty)


def arrange_scene(rng: Rng, bank: TextureBank, size: int, difficulty: float, gray: bool) -> Arranger:
    """Paint one scene; the arranger holds the canvas, the leaf map and the objects, not yet filtered by visibility."""
    layouts = list(LAYOUTS)
    layout = layouts[rng.choice(len(layouts), p=list(LAYOUTS.values()))]
    setting = _setting(rng, bank, size, difficulty, layout)
    sun = random_light(rng)
    unit = size / 256
    blur = (rng.uniform(0.3, 1.0) if rng.uniform() < 0.85 else rng.uniform(1, 1 + 1.2 * difficulty)) * unit
    canvas = np.ascontiguousarray(setting.canvas, np.float32)
    stage = Stage(canvas, sun.towards, gray, sun=sun, edge_blur=blur)
    arranger = Arranger(rng, stage, bank, difficulty, setting.ground, setting.horizon, scene_makers(bank.name))
    layout(arranger)
    if rng.uniform() < 0.05 * difficulty:
        arranger.in_front()
    return arranger
