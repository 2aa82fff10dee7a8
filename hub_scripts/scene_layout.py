"""Arrangement of synthetic scenes: backgrounds, layered objects with parts, groups and grids of similar objects."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_shapes import (
    Finish,
    Painter,
    Patch,
    Primitive,
    Shape,
    circle,
    random_finish,
    random_shape,
    rectangle,
)
from sam_variants.hub_scripts.scene_textures import Texture, TextureBank, noise_field, random_color

MIN_VISIBLE_FRACTION = 0.0015


@dataclass
class Composer:
    """Arranges one scene: owns the random numbers, the painter and the growing list of objects."""

    rng: np.random.Generator
    painter: Painter
    bank: TextureBank
    difficulty: float
    ground: Texture
    objects: list[tuple[int, ...]] = field(default_factory=list)
    max_overlap: float = 0.0

    @property
    def size(self) -> int:
        return self.painter.size

    def chance(self, probability: float) -> bool:
        return bool(self.rng.uniform() < probability)

    def texture(self) -> Texture:
        """A surface for an object, sometimes the background's own in another brightness."""
        if self.chance(0.12 * self.difficulty):
            return self.ground.relit(self.rng.choice([-1, 1]) * self.rng.uniform(15, 80))
        return self.bank.sample(self.rng)

    def area(self, low: float, high: float) -> float:
        """A log-uniform area in square pixels between two fractions of the image."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high)))) * self.size**2

    def fits(self, shape: Shape) -> bool:
        """Whether the shape shows enough inside the image and overlaps earlier objects little, or lies on one."""
        window = shape.window(1, self.size)
        if window is None:
            return False
        x0, y0, x1, y1 = window
        inside = shape.coverage(window) > 127
        covered = self.painter.leaves[y0:y1, x0:x1][inside]
        if len(covered) < 1.3 * MIN_VISIBLE_FRACTION * self.size**2:
            return False
        share = np.count_nonzero(covered) / len(covered)
        if share <= self.max_overlap:
            return True
        under = np.bincount(covered).argmax()
        nested = len(covered) < 0.4 * np.count_nonzero(self.painter.leaves == under)
        return bool(nested and self.difficulty > 0.2 and np.count_nonzero(covered == under) > 0.9 * len(covered))

    def paint(self, shape: Shape, texture: Texture, finish: Finish, within: Patch | None = None) -> Patch | None:
        return self.painter.paint(self.rng, shape, texture, finish, within)

    def add_object(self, shape: Shape, texture: Texture, finish: Finish, num_parts: int) -> None:
        """Paint an object and up to `num_parts` parts on it; record the whole and each part."""
        body = self.paint(shape, texture, finish)
        if body is None:
            return
        parts = self.add_parts(body, num_parts) if num_parts else []
        self.objects.append((body.leaf, *parts))
        self.objects.extend((part,) for part in parts)

    def add_parts(self, body: Patch, count: int) -> list[int]:
        """Paint sub-regions inside a body: bands across it, or shapes on it (now and then one shape repeated)."""
        x0, y0, x1, y1 = body.window
        corner, span = np.array([x0, y0]), np.array([x1 - x0, y1 - y0])
        area = cv2.countNonZero(body.coverage)
        rng, leaves = self.rng, []
        repeated = (random_shape(rng), self.texture()) if self.chance(0.35) else None
        bands = repeated is None and self.chance(0.4)
        finish = replace(random_finish(rng, self.difficulty, self.size), shadow=0.0)
        scale = rng.uniform(0.03, 0.3) / np.sqrt(count)
        for _ in range(count):
            (shape, angle), texture = repeated or (random_shape(rng), self.texture())
            if bands:
                shape = rectangle(rng).placed(
                    corner + span * rng.uniform(0, 1, 2), span.max() ** 2 * 3, rng.uniform(0, 7), rng.uniform(6, 30)
                )
            else:
                ys, xs = np.nonzero(body.coverage)
                at = rng.integers(len(ys))
                size = scale * area * rng.uniform(0.8, 1.25)
                shape = shape.placed(corner + np.array([xs[at], ys[at]]), size, angle)
            part = self.paint(shape, texture, finish, within=body)
            if part is not None:
                leaves.append(part.leaf)
        return leaves

    def num_parts(self) -> int:
        return int(self.rng.integers(1, 5)) if self.chance(0.1 + 0.25 * self.difficulty) else 0

    def layers(self) -> None:
        """Objects of many kinds and sizes over each other, large ones mostly first."""
        rng, d = self.rng, self.difficulty
        self.max_overlap = rng.uniform(0, 1) * d
        count = round(np.exp(rng.uniform(np.log(2), np.log(4 + 14 * d))))
        areas = [self.area(0.0035 if d > 0.1 else 0.04, 0.45 if count < 8 else 0.25) for _ in range(count)]
        if self.chance(0.25):
            areas[0] = self.area(0.2, 0.5)
        for area in sorted(areas, key=lambda value: -value * np.exp(rng.normal(0, 0.7))):
            for _ in range(4):
                outline, angle = random_shape(rng)
                centre = rng.uniform(0.02, 0.98, 2) * self.size
                shape = outline.placed(centre, area, angle, np.exp(rng.normal(0, 0.2)))
                if self.fits(shape):
                    if self.chance(0.2 * d) and self.bank.pieces:
                        self.paste_piece(centre, area)
                    else:
                        finish = random_finish(rng, d, self.size)
                        self.add_object(shape, self.texture(), finish, self.num_parts())
                    break
                area *= 0.8

    def paste_piece(self, centre: np.ndarray, area: float) -> None:
        """Paste a piece of a photo, cut along the photo's own edges."""
        rng, size = self.rng, self.size
        texture, outline = self.bank.piece(rng)
        middle = (outline.min(0) + outline.max(0)) / 2
        angle = rng.normal(0, 0.5)
        factor = np.sqrt(area / max(cv2.contourArea(outline), 1.0))
        cos, sin = np.cos(angle), np.sin(angle)
        source = middle + (size / 2 - centre) @ np.array([[cos, -sin], [sin, cos]]) / factor
        colors = texture.colored(texture.crop_at(source, size, size, 1 / factor, -angle))
        shape = Shape((Primitive((outline - middle,)),)).placed(centre, area, angle)
        patch = self.painter.paint(rng, shape, texture, random_finish(rng, self.difficulty, size), colors=colors)
        if patch is not None:
            self.objects.append((patch.leaf,))

    def grid(self) -> None:
        """Rows and columns of similar small objects, mostly coins: shaded, embossed discs, each a little different."""
        rng, d = self.rng, self.difficulty
        rows, columns = rng.integers(2, 4 + round(3 * d), 2)
        pitch = self.size / (np.array([columns, rows]) + rng.uniform(-0.3, 0.6))
        radius = pitch.min() * rng.uniform(0.22, 0.5)
        start = (self.size - pitch * (np.array([columns, rows]) - 1)) / 2
        tilt = rng.normal(0, 0.06)
        outline, angle = (circle(rng), 0.0) if self.chance(0.75) else random_shape(rng)
        one, inner = self.texture(), self.texture() if self.chance(0.25) else None
        look = random_finish(rng, d, self.size)
        if self.chance(0.7):
            look = replace(look, emboss=rng.uniform(0.2, 1.2), bevel=rng.uniform(0, 1), edge_blur=0.6)
        spread = rng.uniform(0, 0.25)
        for row in range(rows):
            for column in range(columns):
                if self.chance(0.08 * d):
                    continue
                centre = start + pitch * (column, row) + rng.normal(0, 0.06, 2) * pitch
                centre += tilt * (centre[::-1] - self.size / 2) * (1, -1)
                area = np.pi * (radius * np.exp(rng.uniform(-spread, spread))) ** 2
                turn = angle + rng.normal(0, 0.2)
                shape = outline.placed(centre, area, turn)
                coin = self.paint(shape, one.relit(rng.normal(0, 25 * spread * 4)), look)
                if coin is None:
                    continue
                part = self.paint(outline.placed(centre, area * 0.4, turn), inner, look, coin) if inner else None
                self.objects.append((coin.leaf, part.leaf) if part else (coin.leaf,))
                if part:
                    self.objects.append((part.leaf,))

    def scatter(self) -> None:
        """A group of alike objects strewn over the image, touching or overlapping a little."""
        rng, d = self.rng, self.difficulty
        outline, angle = random_shape(rng)
        kinds = [self.texture() for _ in range(int(rng.integers(1, 4)))]
        look = random_finish(rng, d, self.size)
        count = int(rng.integers(4, 8 + round(18 * d)))
        base = self.area(0.4 / count / 8, 0.7 / count)
        self.max_overlap = rng.uniform(0, 0.5) * d
        for _ in range(count):
            area = base * np.exp(rng.normal(0, 0.35))
            turn = angle + rng.uniform(-np.pi, np.pi)
            shape = outline.placed(rng.uniform(0.03, 0.97, 2) * self.size, area, turn, np.exp(rng.normal(0, 0.15)))
            if self.fits(shape):
                texture = kinds[rng.integers(len(kinds))].relit(rng.normal(0, 12))
                self.add_object(shape, texture, look, self.num_parts() if self.chance(0.3) else 0)

    def regions(self) -> None:
        """Cover the background with labelled regions: ground under a sky, a table, a wall with a strip."""
        rng, size = self.rng, self.size
        centre = np.array([0.5, 0.5]) * size
        for _ in range(int(rng.integers(1, 3))):
            turn = rng.normal(0, 0.12) + rng.choice([0, 0, 0, np.pi / 2])
            away = np.array([-np.sin(turn), np.cos(turn)]) * size * (1 + rng.uniform(-0.05, 0.35))
            wave = np.stack([np.linspace(-1.6, 1.6, 80), np.full(80, -1.0)], axis=1)
            wave[:, 1] += np.convolve(rng.normal(0, rng.choice([0, 0.02, 0.3]), 94), np.ones(15) / 15, "valid")
            area = np.concatenate([wave, [[1.6, 1.0], [-1.6, 1.0]]]) * size
            cos, sin = np.cos(turn), np.sin(turn)
            placed = Shape((Primitive((area @ np.array([[cos, sin], [-sin, cos]]) + centre + away,)),))
            finish = replace(random_finish(rng, self.difficulty, size), shadow=0.0, bevel=0.0, dome=0.0)
            self.add_object(placed, self.texture(), finish, 0)

    def compose(self) -> None:
        """Fill the scene: regions now and then, then layers, a grid or a strewn group, sometimes two of them."""
        d = self.difficulty
        if self.chance(0.22 * d):
            self.regions()
        draw = self.rng.uniform()
        if draw < 0.2:
            self.grid()
        elif draw < 0.2 + 0.15 * (0.4 + d):
            self.scatter()
        else:
            self.layers()
        if draw < 0.3 and self.chance(0.3 * d):
            self.layers()


def paint_background(
    rng: np.random.Generator, bank: TextureBank, size: int, clutter: float
) -> tuple[np.ndarray, Texture]:
    """A background, size×size×3 float32, and its texture: gradient, surface, photo texture or large photo content."""
    draw = rng.uniform()
    if draw < 0.35:
        texture = bank.flat(rng, rng.uniform(0, 0.15))
    elif draw < 0.35 + 0.35 * (1 - 0.4 * clutter):
        texture = bank.flat(rng, rng.uniform(0.1, 0.2 + 0.6 * clutter))
    else:
        texture = bank.photo(rng, zoom=float(rng.uniform(1.2, 2.2)) if rng.uniform() < 0.4 * clutter else None)
    canvas = texture.render(rng, size, size, 256 / size)
    if rng.uniform() < 0.4:
        slope = rng.normal(0, 0.35, 2).astype(np.float32)
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        canvas *= cv2.cvtColor(1 + slope[0] * ramp[:, None] + slope[1] * ramp[None, :], cv2.COLOR_GRAY2RGB)
    if rng.uniform() < 0.3 * clutter:
        haze = cv2.cvtColor(noise_field(rng, int(rng.integers(2, 6)), size=size), cv2.COLOR_GRAY2RGB)
        canvas += haze * (random_color(rng) - 128) * np.float32(0.3)
    if rng.uniform() < 0.25:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(1, 4) * size / 256)
    return np.clip(canvas, 0, 255), texture


def compose_scene(rng: np.random.Generator, bank: TextureBank, size: int, difficulty: float, gray: bool) -> Composer:
    """Paint one scene; the composer holds the canvas, the leaf map and the objects, not yet filtered by visibility."""
    canvas, ground = paint_background(rng, bank, size, difficulty)
    angle = rng.uniform(0, 2 * np.pi)
    painter = Painter(canvas, np.array([np.cos(angle), np.sin(angle)]), gray)
    composer = Composer(rng, painter, bank, difficulty, ground)
    composer.compose()
    return composer
