"""The painter of composed things: surfaces with a form under one light, glass, and shadows cast on what lies behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_shapes import Painter, Patch, Shape, Window, contrast_shift
from sam_variants.hub_scripts.scene_textures import Texture

FORMS = ("flat", "tube", "ball", "pillow")


@dataclass(frozen=True)
class Surface:
    """What something is made of and how it takes the light; strengths 0..1.

    Attributes:
        texture: colours.
        turn: radians that the texture is turned by.
        form: of FORMS: even, round about the upright axis of its thing, a ball, or falling off at the outline.
        depth: how strongly the form is shaded.
        bevel: light and dark rims.
        emboss: relief of the texture itself.
        gloss: a bright spot on the side of the light.
        opacity: below 1 it is glass: what lies behind shows through, the rim is brighter.
        min_contrast: gray levels that it differs by from what is around it.
    """

    texture: Texture
    turn: float = 0.0
    form: str = "flat"
    depth: float = 0.0
    bevel: float = 0.0
    emboss: float = 0.0
    gloss: float = 0.0
    opacity: float = 1.0
    min_contrast: float = 20.0


@dataclass(frozen=True)
class Light:
    """The light of a scene.

    Attributes:
        towards: unit vector (x, y) in the picture, towards the light.
        strength: how dark a shadow is, 0..1.
        softness: blur of a shadow, as a share of its length.
        length: of a shadow on the ground, in heights of what casts it.
    """

    towards: np.ndarray
    strength: float
    softness: float
    length: float


def random_light(rng: np.random.Generator) -> Light:
    """Mostly from above, as lamps and the sky are."""
    angle = rng.normal(-np.pi / 2, 0.8) if rng.uniform() < 0.75 else rng.uniform(0, 2 * np.pi)
    return Light(
        towards=np.array([np.cos(angle), np.sin(angle)]),
        strength=float(rng.uniform(0.25, 0.75)),
        softness=float(np.exp(rng.uniform(np.log(0.03), np.log(0.6)))),
        length=float(rng.uniform(0.15, 0.9)),
    )


@dataclass
class Stage(Painter):
    """A painter that knows the scene's light; `edge_blur` is the softness of outlines in pixels."""

    sun: Light = field(kw_only=True)
    edge_blur: float = 0.5

    def lay(
        self, rng: np.random.Generator, shape: Shape, surface: Surface, axis: float = 0.0, within: Patch | None = None
    ) -> Patch | None:
        """Draw a shape on top of everything, cut to `within`; None if nothing of it lies inside the image.

        `axis` is the angle (radians) that the thing it belongs to is turned by.
        """
        window = shape.window(4 + 0.02 * self.size, self.size)
        if window and within:
            window = _common(window, within.window)
        if window is None:
            return None
        x0, y0, x1, y1 = window
        mask = shape.coverage(window)
        room = cv2.bitwise_not(mask)
        if within:
            inner = _cut(within, window)
            mask, room = np.minimum(mask, inner), np.minimum(room, inner)
        if cv2.countNonZero(mask) < 4:
            return None
        view = self.canvas[y0:y1, x0:x1]
        crop = surface.texture.crop(rng, y1 - y0, x1 - x0, 256 / self.size, surface.turn - axis)
        colors = surface.texture.colored(crop)
        self._set_apart(rng, colors, view, mask, room, surface.min_contrast)
        gain = self._gain(shape, window, mask, crop, surface, axis)
        if gain is not None:
            colors *= cv2.cvtColor(np.maximum(gain, np.float32(0.05)), cv2.COLOR_GRAY2RGB)
        alpha = mask.astype(np.float32) * np.float32(1 / 255)
        if surface.opacity < 1:
            rim = 1 - cv2.blur(mask, (2 * max(round(0.012 * self.size), 1) + 1,) * 2).astype(np.float32) / 255
            alpha *= np.float32(surface.opacity) + np.clip(rim * np.float32(1.4), 0, 0.7) * (1 - surface.opacity)
            colors += (rim * 60)[..., None]
        if surface.gloss:
            colors += self._gloss(shape, window, surface.gloss)[..., None]
        if self.edge_blur > 0.3:
            alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), self.edge_blur), np.float32)
        view[:] = cv2.blendLinear(np.clip(colors, 0, 255), view, alpha, 1 - alpha)
        leaf = self.new_leaf()
        self.leaves[y0:y1, x0:x1][mask > 127] = leaf
        return Patch(leaf, window, mask)

    def _set_apart(
        self, rng: np.random.Generator, colors: np.ndarray, view: np.ndarray, mask: np.ndarray, room: np.ndarray,
        least: float,
    ) -> None:  # fmt: skip
        if least <= 0 or cv2.countNonZero(room) < 12:
            return
        own, around = (np.array(cv2.mean(*pair)[:3]) for pair in ((colors, mask), (view, room)))
        shift = contrast_shift(rng, own, around, least, self.gray)
        if shift:
            colors += np.float32(shift)

    def _axes(self, shape: Shape, window: Window, axis: float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of a window's pixels along the axes of a thing, -1..1 over the shape."""
        points = np.concatenate([outline for primitive in shape.primitives for outline in primitive.outlines])
        x0, y0, x1, y1 = window
        x, y = np.arange(x0, x1, dtype=np.float32)[None, :], np.arange(y0, y1, dtype=np.float32)[:, None]
        fields = []
        for cos, sin in ((np.cos(axis), np.sin(axis)), (-np.sin(axis), np.cos(axis))):
            along = points @ (cos, sin)
            middle, half = (along.max() + along.min()) / 2, max(np.ptp(along) / 2, 1.0)
            fields.append((x * np.float32(cos) + y * np.float32(sin) - np.float32(middle)) * np.float32(1 / half))
        return fields[0], fields[1]

    def _gain(
        self, shape: Shape, window: Window, mask: np.ndarray, crop: np.ndarray, surface: Surface, axis: float
    ) -> np.ndarray | None:
        if not (surface.depth or surface.bevel or (surface.emboss and crop is not None)):
            return None
        gain = np.ones(mask.shape, np.float32)
        lx, ly = np.float32(self.light[0]), np.float32(self.light[1])
        if surface.depth:
            gain += np.float32(surface.depth) * self._form(shape, window, mask, surface.form, axis)
        if surface.bevel:
            gain += np.float32(surface.bevel * 0.9) * self._slope(mask, max(round(0.006 * self.size), 1))
        if surface.emboss:
            relief = crop if crop.ndim == 2 else np.ascontiguousarray(crop[..., 1])
            slope = -lx * cv2.Sobel(relief, cv2.CV_32F, 1, 0) - ly * cv2.Sobel(relief, cv2.CV_32F, 0, 1)
            gain += np.clip(slope * np.float32(surface.emboss / 250), -0.6, 0.6)
        return gain

    def _form(self, shape: Shape, window: Window, mask: np.ndarray, form: str, axis: float) -> np.ndarray:
        """Light on a form, about -1..1, 0 on average."""
        if form == "pillow":
            x0, y0, x1, y1 = window
            return self._slope(mask, max(round(0.09 * min(x1 - x0, y1 - y0)), 1)) * np.float32(1.5)
        u, v = self._axes(shape, window, axis)
        cos, sin = np.cos(axis), np.sin(axis)
        lx, ly = self.light
        across, along = np.float32(lx * cos + ly * sin), np.float32(-lx * sin + ly * cos)
        if form == "tube":
            return np.float32(0.35) - np.float32(1.1) * (u - 0.5 * across) ** 2 + np.float32(0.25) * across * u
        if form == "ball":
            return np.float32(0.4) - (u - 0.45 * across) ** 2 - (v - 0.45 * along) ** 2
        return np.float32(0.6) * (across * u + along * v)

    def _slope(self, mask: np.ndarray, radius: int) -> np.ndarray:
        """How far the rim of a mask, blurred over `radius` pixels, is turned towards the light, about -1..1."""
        soft = cv2.blur(mask, (2 * radius + 1,) * 2)
        lx, ly = np.float32(self.light[0]), np.float32(self.light[1])
        slope = -lx * cv2.Sobel(soft, cv2.CV_32F, 1, 0) - ly * cv2.Sobel(soft, cv2.CV_32F, 0, 1)
        return slope * np.float32(radius / 500)

    def _gloss(self, shape: Shape, window: Window, gloss: float) -> np.ndarray:
        u, v = self._axes(shape, window, 0.0)
        lx, ly = self.light
        return np.float32(170 * gloss) * np.exp(
            -((u - np.float32(0.45 * lx)) ** 2 + (v - np.float32(0.45 * ly)) ** 2) * np.float32(14)
        )

    def drop_shadow(self, window: Window, mask: np.ndarray, reach: float) -> None:
        """Darken what lies behind a mask, `reach` pixels away from the light (something lying on the ground)."""
        dx, dy = -self.light * reach
        self._darken(window, mask, np.array([[1, 0, dx], [0, 1, dy]]), 1 + reach * (0.15 + self.sun.softness))

    def ground_shadow(self, window: Window, mask: np.ndarray, base: float) -> None:
        """Darken the ground behind something that stands on it at the row `base`: its outline, laid down."""
        y0 = window[1]
        lean = -self.sun.towards[0] * self.sun.length * 1.3
        flat = -self.sun.length * 0.35 if self.sun.towards[1] > -0.2 else self.sun.length * 0.35
        row = base - y0
        matrix = np.array([[1, -lean, lean * row], [0, flat, (1 - flat) * row]])
        self._darken(window, mask, matrix, 1 + self.sun.softness * 0.12 * mask.shape[0])
        height = max(0.03 * mask.shape[0], 1.5)
        contact = np.zeros_like(mask)
        columns = np.flatnonzero(mask[max(round(row) - max(mask.shape[0] // 12, 2), 0) : round(row) + 1].any(0))
        if len(columns):
            middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0]) / 2 + 2
            centre = (round(middle), min(round(row), mask.shape[0] - 1))
            cv2.ellipse(contact, centre, (round(half), max(round(height), 1)), 0, 0, 360, 255, -1)
            self._darken(window, contact, np.eye(2, 3), 1 + height * 0.6)

    def _darken(self, window: Window, mask: np.ndarray, matrix: np.ndarray, blur: float) -> None:
        """Multiply the canvas by a mask moved by a matrix (in the window's pixels) and blurred."""
        x0, y0, x1, y1 = window
        corners = np.array([[0, 0, 1], [x1 - x0, 0, 1], [0, y1 - y0, 1], [x1 - x0, y1 - y0, 1]]) @ matrix.T
        pad = 2 * blur + 2
        left, top = np.maximum(np.floor(corners.min(0) - pad + (x0, y0)), 0).astype(int)
        right, bottom = np.minimum(np.ceil(corners.max(0) + pad + (x0, y0)), self.size).astype(int)
        if right - left < 2 or bottom - top < 2:
            return
        moved = matrix.copy()
        moved[:, 2] += (x0 - left, y0 - top)
        dark = cv2.warpAffine(mask, moved, (int(right - left), int(bottom - top)))
        kernel = (2 * round(blur / 1.5) + 1,) * 2
        dark = cv2.blur(cv2.blur(dark, kernel), kernel).astype(np.float32)
        shade = cv2.cvtColor(1 - dark * np.float32(self.sun.strength / 255), cv2.COLOR_GRAY2RGB)
        self.canvas[top:bottom, left:right] *= shade


def _common(first: Window, second: Window) -> Window | None:
    x0, y0 = max(first[0], second[0]), max(first[1], second[1])
    x1, y1 = min(first[2], second[2]), min(first[3], second[3])
    return (x0, y0, x1, y1) if x1 - x0 > 2 and y1 - y0 > 2 else None


def _cut(patch: Patch, window: Window) -> np.ndarray:
    """A patch's coverage in a window inside its own."""
    left, top = patch.window[:2]
    x0, y0, x1, y1 = window
    return patch.coverage[y0 - top : y1 - top, x0 - left : x1 - left]
