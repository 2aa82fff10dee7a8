"""Surfaces and camera effects for synthetic training scenes: no dataset, only noise and scikit-image's shipped photos.

A texture is a tile (gray and procedural, or cut from a photo) with a random crop, rotation, zoom and colouring.
The "train" and "held_out" sets share no photo and no procedural family, so that a score on held-out scenes says
something about unseen surfaces. The photos coins, cell, chelsea, camera, page, text and horse are in neither set: they
stay free for evaluation.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

TILE_SIZE = 512
PHOTO_SIDE = 640
PHOTOS: dict[str, tuple[str, ...]] = {
    "train": (
        "astronaut", "coffee", "retina", "hubble_deep_field", "colorwheel",
        "brick", "grass", "moon", "clock", "microaneurysms",
    ),
    "held_out": ("gravel", "immunohistochemistry", "rocket", "stereo_motorcycle"),
}  # fmt: skip
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def to_byte(values: np.ndarray) -> np.ndarray:
    """Stretch an array linearly to 0..255 (uint8)."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255.0 / max(high - low, 1e-6))).astype(np.uint8)


def noise_field(rng: np.random.Generator, cells: int, octaves: int = 1, size: int = TILE_SIZE) -> np.ndarray:
    """Smooth value noise, size×size float32, about -1..1: `cells` cells per side, each octave twice as fine."""
    field = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        side = min(cells * 2**octave, size)
        grid = rng.uniform(-1, 1, (side, side)).astype(np.float32)
        field += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    return field


def _ramps() -> tuple[np.ndarray, np.ndarray]:
    ramp = np.linspace(0, 1, TILE_SIZE, endpoint=False, dtype=np.float32)
    return ramp[None, :], ramp[:, None]


def _clouds(rng: np.random.Generator) -> np.ndarray:
    return noise_field(rng, int(rng.integers(3, 24)), octaves=int(rng.integers(1, 6)))


def _stripes(rng: np.random.Generator) -> np.ndarray:
    x, _ = _ramps()
    warp = noise_field(rng, 4) * rng.uniform(0, 0.5)
    return np.sin(2 * np.pi * (x * rng.integers(8, 32) + warp))


def _checks(rng: np.random.Generator) -> np.ndarray:
    x, y = _ramps()
    count = int(rng.integers(6, 24))
    sharpness = rng.uniform(2, 20)
    return np.tanh(sharpness * np.sin(2 * np.pi * count * x) * np.sin(2 * np.pi * count * y))


def _speckle(rng: np.random.Generator) -> np.ndarray:
    grain = rng.standard_normal((TILE_SIZE, TILE_SIZE)).astype(np.float32)
    return cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.7, 2.5))


def _brushed(rng: np.random.Generator) -> np.ndarray:
    grain = rng.standard_normal((TILE_SIZE, TILE_SIZE)).astype(np.float32)
    return cv2.blur(grain, (int(rng.integers(20, 80)), 2))


def _wood(rng: np.random.Generator) -> np.ndarray:
    x, y = _ramps()
    radius = np.hypot((x - 0.5) * 1.5, (y - 1.3) * 0.5) + noise_field(rng, 4, 3) * 0.06
    return np.mod(radius * rng.uniform(10, 30), 1.0)


def _marble(rng: np.random.Generator) -> np.ndarray:
    return np.abs(np.sin(2 * np.pi * (_ramps()[0] * rng.uniform(1, 5) + noise_field(rng, 4, 5) * 0.8)))


def _cells(rng: np.random.Generator) -> np.ndarray:
    seeds = np.full((TILE_SIZE, TILE_SIZE), 255, np.uint8)
    count = int(rng.integers(60, 500))
    seeds[rng.integers(0, TILE_SIZE, count), rng.integers(0, TILE_SIZE, count)] = 0
    return cv2.distanceTransform(seeds, cv2.DIST_L2, 5)


def _dots(rng: np.random.Generator) -> np.ndarray:
    x, y = _ramps()
    count = int(rng.integers(8, 30))
    waves = (np.cos(2 * np.pi * count * (x * np.cos(a) + y * np.sin(a))) for a in np.arange(3) * np.pi / 3)
    return np.clip(sum(waves), rng.uniform(-1, 0.3), 3)


def _ridges(rng: np.random.Generator) -> np.ndarray:
    return 1 - np.abs(noise_field(rng, int(rng.integers(4, 12)), 4))


FAMILIES: dict[str, tuple[Callable[[np.random.Generator], np.ndarray], ...]] = {
    "train": (_clouds, _clouds, _stripes, _checks, _speckle, _brushed),
    "held_out": (_wood, _marble, _cells, _dots, _ridges),
}


def _read_photo(name: str) -> np.ndarray:
    """A shipped scikit-image photo as uint8, H×W (gray) or H×W×3 (RGB), the longer side at most PHOTO_SIDE."""
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("synthetic scenes need scikit-image's photos: pip install scikit-image") from error
    photo = getattr(data, name)()
    photo = np.ascontiguousarray(photo[0] if isinstance(photo, tuple) else photo)
    scale = PHOTO_SIDE / max(photo.shape[:2])
    if scale == 1:
        return photo
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=interpolation)


def _pyramid(tile: np.ndarray) -> tuple[np.ndarray, ...]:
    """The tile and three halvings of it, so that a zoomed-out crop does not alias."""
    levels = [tile]
    for _ in range(3):
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return tuple(levels)


def _photo_pieces(rng: np.random.Generator, photo: np.ndarray, count: int = 48) -> list[np.ndarray]:
    """Outlines (n×2 float32, in photo pixels) of regions that follow the photo's edges: a seeded watershed."""
    half = cv2.GaussianBlur(cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), (0, 0), 2)
    markers = np.zeros(half.shape[:2], np.int32)
    for label in range(1, count + 1):
        y, x = rng.integers(8, half.shape[0] - 8), rng.integers(8, half.shape[1] - 8)
        markers[y - 2 : y + 3, x - 2 : x + 3] = label
    cv2.watershed(half, markers)
    pieces = []
    for label in range(1, count + 1):
        region = cv2.medianBlur((markers == label).astype(np.uint8), 7)
        contours, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if contours:
            largest = max(contours, key=cv2.contourArea)
            if cv2.contourArea(largest) > 150:
                pieces.append(largest[::2, 0].astype(np.float32) * 2 + 0.5)
    return pieces


def random_color(rng: np.random.Generator) -> np.ndarray:
    """An RGB colour, 3 float32 in 0..255: every hue and brightness, muted colours more often than vivid ones."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.beta(1.1, 1.8), rng.uniform(0.08, 0.97))
    return np.array(rgb, np.float32) * 255


def random_palette(rng: np.random.Generator, contrast: float) -> np.ndarray:
    """A 256×1×3 uint8 lookup table between two colours; `contrast` 0..1 is how far apart they may be."""
    base = random_color(rng)
    other = base + rng.choice([-1.0, 1.0]) * rng.uniform(40, 160) + rng.normal(0, 20, 3)
    if rng.uniform() < 0.3:
        other = random_color(rng)
    ramp = np.linspace(-0.5, 0.5, 256)[:, None]
    if rng.uniform() < 0.2:
        ramp = np.tanh(ramp * rng.uniform(4, 20)) / 2
    return np.clip(base + (other - base) * ramp * contrast, 0, 255).astype(np.uint8)[:, None, :]


def random_color_matrix(rng: np.random.Generator) -> np.ndarray:
    """A 3×4 RGB transform: hue rotation about the gray axis, saturation, contrast and brightness jitter."""
    angle = rng.normal(0, 0.4) if rng.uniform() < 0.7 else rng.uniform(-np.pi, np.pi)
    rotation, _ = cv2.Rodrigues(np.full(3, angle / np.sqrt(3)))
    saturation = rng.uniform(0.3, 1.3)
    mix = rotation * saturation + (1 - saturation) * LUMA[None, :]
    gain = rng.uniform(0.55, 1.25)
    offset = np.full((3, 1), rng.uniform(-40, 60) + (1 - gain) * 80)
    return np.hstack([mix * gain, offset]).astype(np.float32)


@dataclass(frozen=True)
class Texture:
    """One surface; every `render` is another crop of it.

    Attributes:
        levels: the tile (H×W or H×W×3 uint8) and its halvings.
        zoom: tile pixels per pixel of a 256×256 image.
        coloring: for a gray tile a 256×1×3 uint8 lookup table, for a colour tile a 3×4 transform.
        brightness: gray levels added to every colour.
    """

    levels: tuple[np.ndarray, ...]
    zoom: float
    coloring: np.ndarray
    brightness: float = 0.0

    def crop(self, rng: np.random.Generator, height: int, width: int, pixel_size: float, angle: float) -> np.ndarray:
        """A random crop before colouring, height×width or height×width×3 uint8; `pixel_size` = 256 / image size."""
        centre = rng.uniform(0.1, 0.9, 2) * (self.levels[0].shape[1], self.levels[0].shape[0])
        return self.crop_at(centre, height, width, self.zoom * pixel_size, angle)

    def crop_at(self, centre: np.ndarray, height: int, width: int, step: float, angle: float) -> np.ndarray:
        """The crop centred on `centre` (x, y in tile pixels), `step` tile pixels per output pixel."""
        level = int(np.clip(np.floor(np.log2(max(step, 1e-3)) + 0.3), 0, len(self.levels) - 1))
        tile, step, (x, y) = self.levels[level], step / 2**level, np.asarray(centre) / 2**level
        cos, sin = np.cos(angle) * step, np.sin(angle) * step
        matrix = np.array(
            [
                [cos, -sin, x - cos * width / 2 + sin * height / 2],
                [sin, cos, y - sin * width / 2 - cos * height / 2],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(tile, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    def colored(self, crop: np.ndarray) -> np.ndarray:
        """The crop's colours, H×W×3 float32, nominally 0..255."""
        if crop.ndim == 2:
            colors = np.asarray(cv2.applyColorMap(crop, self.coloring), np.float32)
        else:
            colors = np.asarray(cv2.transform(crop.astype(np.float32), self.coloring))
        return colors + np.float32(self.brightness) if self.brightness else colors

    def render(self, rng: np.random.Generator, height: int, width: int, pixel_size: float) -> np.ndarray:
        """A random, randomly turned crop in colour, height×width×3 float32."""
        return self.colored(self.crop(rng, height, width, pixel_size, rng.uniform(0, 2 * np.pi)))

    def relit(self, brightness: float) -> "Texture":
        """The same surface, brighter or darker by `brightness` gray levels."""
        return replace(self, brightness=self.brightness + brightness)


@dataclass(frozen=True)
class TextureBank:
    """The tiles of one texture set, built once per process; see `texture_bank`."""

    name: str
    procedural: tuple[tuple[np.ndarray, ...], ...]
    photos: tuple[tuple[np.ndarray, ...], ...]
    pieces: tuple[tuple[int, np.ndarray], ...]

    def flat(self, rng: np.random.Generator, contrast: float) -> Texture:
        """A procedural surface; `contrast` near 0 gives an almost flat colour."""
        levels = self.procedural[rng.integers(len(self.procedural))]
        return Texture(levels, float(np.exp(rng.uniform(-1.2, 0.9))), random_palette(rng, contrast))

    def photo(self, rng: np.random.Generator, zoom: float | None = None) -> Texture:
        """A photo surface in jittered colours; `zoom` photo pixels per pixel of a 256 image (random if None)."""
        levels = self.photos[rng.integers(len(self.photos))]
        zoom = float(np.exp(rng.uniform(-0.9, 0.9))) if zoom is None else zoom
        if levels[0].ndim == 3:
            return Texture(levels, zoom, random_color_matrix(rng))
        return Texture(levels, zoom, random_palette(rng, rng.uniform(0.5, 1.5)))

    def piece(self, rng: np.random.Generator) -> tuple[Texture, np.ndarray]:
        """A photo in jittered colours and the outline (n×2, photo pixels) of a region along its own edges."""
        index, outline = self.pieces[rng.integers(len(self.pieces))]
        return Texture(self.photos[index], 1.0, random_color_matrix(rng)), outline

    def sample(self, rng: np.random.Generator) -> Texture:
        """Any surface: 30 % nearly flat, 40 % procedural, 30 % photo."""
        draw = rng.uniform()
        if draw < 0.3:
            return self.flat(rng, rng.uniform(0, 0.12))
        return self.flat(rng, rng.uniform(0.1, 1.0)) if draw < 0.7 else self.photo(rng)


def check_texture_set(name: str) -> None:
    """Raise ValueError unless `name` is a texture set."""
    if name not in PHOTOS:
        raise ValueError(f"textures={name!r} is not a texture set; allowed: {', '.join(PHOTOS)}")


@lru_cache(maxsize=len(PHOTOS))
def texture_bank(name: str) -> TextureBank:
    """The texture bank "train" or "held_out" (cached per process, always the same tiles).

    Raises:
        ValueError: `name` is no texture set.
        ImportError: scikit-image is missing.
    """
    check_texture_set(name)
    rng = np.random.default_rng([77, list(PHOTOS).index(name)])
    tiles = [to_byte(family(rng)) for family in FAMILIES[name] for _ in range(4)]
    photos = [_read_photo(photo) for photo in PHOTOS[name]]
    pieces = [
        (index, outline)
        for index, photo in enumerate(photos)
        if photo.ndim == 3
        for outline in _photo_pieces(rng, photo)
    ]
    return TextureBank(name, tuple(map(_pyramid, tiles)), tuple(map(_pyramid, photos)), tuple(pieces))


@lru_cache(maxsize=1)
def noise_grain() -> np.ndarray:
    """Unit Gaussian noise, 1024×1024×3 float32: drawing windows of it is much cheaper than drawing numbers."""
    return np.random.default_rng(78).standard_normal((1024, 1024, 3)).astype(np.float32)


def _sensor_noise(rng: np.random.Generator, image: np.ndarray, sigma: float, gray: bool) -> np.ndarray:
    height, width = image.shape[:2]
    grain, y, x = noise_grain(), int(rng.integers(512)), int(rng.integers(512))
    window = grain[y : y + height, x : x + width, ::-1] if rng.uniform() < 0.5 else grain[y:, x:][:height, :width]
    if window.shape[:2] != (height, width):
        window = np.resize(grain, (height, width, 3))
    if gray:
        window = cv2.cvtColor(np.ascontiguousarray(window[..., 0]), cv2.COLOR_GRAY2RGB)
    if rng.uniform() < 0.3:
        window = cv2.blur(window, (2, 2)) * 2
    return image + window * np.float32(sigma)


def camera(rng: np.random.Generator, image: np.ndarray, difficulty: float, gray: bool) -> np.ndarray:
    """Photograph a rendered scene: exposure, uneven light, vignette, low contrast, defocus, sensor noise, JPEG.

    Args:
        rng: source of every random choice.
        image: S×S×3 float32 RGB, nominally 0..255.
        difficulty: 0 (clean) to 1 (every defect, each with its own chance).
        gray: return equal channels.

    Returns:
        S×S×3 uint8 RGB.
    """
    size = image.shape[0]
    if gray:
        image = cv2.cvtColor(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    exposure = float(image.mean())
    if exposure < 50:
        image = image * np.float32(min(rng.uniform(45, 90) / max(exposure, 1.0), 4.0))
    if rng.uniform() < 0.5 * difficulty:
        grid = rng.uniform(1 - rng.uniform(0.1, 0.6), 1.15, (int(rng.integers(2, 4)),) * 2).astype(np.float32)
        field = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
        image = image * cv2.cvtColor(field, cv2.COLOR_GRAY2RGB)
    if rng.uniform() < 0.25 * difficulty:
        offset = (np.arange(size, dtype=np.float32) / size - 0.5) ** 2
        field = 1 - np.float32(rng.uniform(0.3, 1.2)) * (offset[:, None] + offset[None, :])
        image = image * cv2.cvtColor(field, cv2.COLOR_GRAY2RGB)
    if rng.uniform() < 0.3 * difficulty:
        image = image * np.float32(rng.uniform(0.45, 0.9)) + np.float32(rng.uniform(0, 90))
    if rng.uniform() < 0.35 * difficulty:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6) * max(size / 256, 0.5))
    if rng.uniform() < 0.6 * difficulty:
        image = _sensor_noise(rng, image, float(np.exp(rng.uniform(0, 2.8))), gray)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    if rng.uniform() < 0.35 * difficulty:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 92))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(pixels)
