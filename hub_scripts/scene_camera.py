"""The camera of still scenes: light that falls unevenly, lens, sensor, and what is done to a picture afterwards."""

from __future__ import annotations

import cv2
import numpy as np

from sam_variants.hub_scripts.scene_textures import LUMA, noise_grain

Rng = np.random.Generator


def photograph(rng: Rng, image: np.ndarray, difficulty: float, gray: bool) -> np.ndarray:
    """Photograph a rendered scene.

    Args:
        rng: source of every random choice.
        image: S×S×3 float32 RGB, nominally 0..255.
        difficulty: 0 (clean) to 1 (every defect, each with its own chance).
        gray: return equal channels.

    Returns:
        S×S×3 uint8 RGB.
    """
    image = _exposed(rng, _lit(rng, image, difficulty), difficulty)
    image = _through_lens(rng, image, difficulty)
    if gray:
        weights = LUMA if rng.uniform() < 0.6 else rng.dirichlet([2, 2, 2]).astype(np.float32)
        image = cv2.cvtColor(cv2.transform(image, weights[None, :]), cv2.COLOR_GRAY2RGB)
    if rng.uniform() < 0.65 * difficulty:
        image = _noisy(rng, image, float(np.exp(rng.uniform(0.3, 2.7))), gray)
    if rng.uniform() < 0.25 * difficulty:
        soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 2.0) * image.shape[0] / 256)
        image = image + (image - soft) * np.float32(rng.uniform(0.4, 1.6))
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    if rng.uniform() < 0.45 * difficulty:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))]
        pixels = cv2.imdecode(cv2.imencode(".jpg", pixels, quality)[1], cv2.IMREAD_COLOR)
    return np.ascontiguousarray(pixels)


def _lit(rng: Rng, image: np.ndarray, difficulty: float) -> np.ndarray:
    """Uneven light, the shadow of something outside of the picture, a darker rim."""
    size = image.shape[0]
    field = np.ones((size, size), np.float32)
    if rng.uniform() < 0.45 * difficulty:
        grid = rng.uniform(1 - rng.uniform(0.1, 0.6), 1.15, (int(rng.integers(2, 4)),) * 2).astype(np.float32)
        field *= cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.uniform() < 0.12 * difficulty:
        field *= _shade_from_outside(rng, size)
    if rng.uniform() < 0.25 * difficulty:
        offset = (np.arange(size, dtype=np.float32) / size - 0.5) ** 2
        field *= 1 - np.float32(rng.uniform(0.3, 1.3)) * (offset[:, None] + offset[None, :])
    return image * cv2.cvtColor(field, cv2.COLOR_GRAY2RGB)


def _shade_from_outside(rng: Rng, size: int) -> np.ndarray:
    """Bars of a window, a straight edge or leaves, blurred, size×size float32 up to 1."""
    mask = np.zeros((size, size), np.uint8)
    draw = rng.uniform()
    if draw < 0.5:
        angle, count = rng.uniform(0, np.pi), int(rng.integers(1, 4))
        across = np.array([-np.sin(angle), np.cos(angle)]) * size
        along = np.array([np.cos(angle), np.sin(angle)]) * 2 * size
        width = int(size * rng.uniform(0.04, 0.3))
        for at in rng.uniform(-0.6, 0.6, count):
            ends = np.array([size / 2, size / 2]) + across * at + np.array([[-1], [1]]) * along
            start, end = np.round(ends).astype(int).tolist()
            cv2.line(mask, start, end, 255, max(width, 1))
    else:
        for _ in range(int(rng.integers(5, 30))):
            centre, axes = rng.integers(0, size, 2).tolist(), (size * rng.uniform(0.02, 0.1, 2)).astype(int) + 1
            cv2.ellipse(mask, centre, axes.tolist(), float(rng.uniform(0, 180)), 0, 360, 255, -1)
    kernel = (2 * max(round(size * rng.uniform(0.004, 0.04)), 1) + 1,) * 2
    dark = cv2.blur(cv2.blur(mask, kernel), kernel).astype(np.float32)
    return 1 - dark * np.float32(rng.uniform(0.2, 0.55) / 255)


def _exposed(rng: Rng, image: np.ndarray, difficulty: float) -> np.ndarray:
    """Exposure, white balance, haze and the sensor's curve."""
    mean = float(image.mean())
    if mean < 50:
        image = image * np.float32(min(rng.uniform(45, 90) / max(mean, 1.0), 4.0))
    draw = rng.uniform()
    if draw < 0.12 * difficulty:
        image = image * np.float32(rng.uniform(0.35, 0.7))
    elif draw < 0.24 * difficulty:
        image = image * np.float32(rng.uniform(1.2, 1.7))
    elif draw < 0.45 * difficulty:
        image = image * np.float32(rng.uniform(0.5, 0.9)) + np.float32(rng.uniform(0, 80))
    if rng.uniform() < 0.4 * difficulty:
        image = image * rng.normal(1, 0.09, 3).clip(0.7, 1.3).astype(np.float32)
    if rng.uniform() < 0.35 * difficulty:
        levels = np.arange(256, dtype=np.float32) / 255
        curve = (levels ** np.float32(np.exp(rng.normal(0, 0.3))) * 255).astype(np.float32)
        image = cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), curve)
    return image


def _through_lens(rng: Rng, image: np.ndarray, difficulty: float) -> np.ndarray:
    """Out of focus, or shaken."""
    unit = max(image.shape[0] / 256, 0.5)
    draw = rng.uniform()
    if draw < 0.33 * difficulty:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.6) * unit))
    if draw < 0.42 * difficulty:
        reach = max(round(rng.uniform(1, 3) * unit), 1)
        kernel = np.zeros((2 * reach + 1,) * 2, np.uint8)
        angle = rng.uniform(0, np.pi)
        way = np.array([np.cos(angle), np.sin(angle)]) * reach
        start, end = np.round(np.array([reach - way, reach + way]) * 16).astype(int).tolist()
        cv2.line(kernel, start, end, 255, 1, cv2.LINE_AA, 4)
        return np.asarray(cv2.filter2D(image, -1, kernel.astype(np.float32) / kernel.sum()))
    return image


def _noisy(rng: Rng, image: np.ndarray, sigma: float, gray: bool) -> np.ndarray:
    """Noise of the sensor: per pixel, more where there is light, and, in colour pictures, blotches of colour."""
    height, width = image.shape[:2]
    grain = noise_grain()
    y, x = (int(rng.integers(max(len(grain) - side, 0) + 1)) for side in (height, width))
    window = grain[y : y + height, x : x + width]
    if window.shape[:2] != (height, width):
        window = np.resize(grain, (height, width, 3))
    luma = cv2.cvtColor(np.ascontiguousarray(window[..., 0]), cv2.COLOR_GRAY2RGB)
    if rng.uniform() < 0.3:
        luma = cv2.blur(luma, (2, 2)) * 2
    noise = luma
    if not gray:
        color = cv2.blur(window, (3, 3)) * 3 if rng.uniform() < 0.5 else window
        share = np.float32(rng.uniform(0.2, 1.0))
        noise = luma * (1 - share) + color * share
    if rng.uniform() < 0.5:
        shot = np.sqrt(np.clip(image, 4, 255) * np.float32(1 / 110))
        return image + noise * shot * np.float32(sigma)
    return image + noise * np.float32(sigma)
