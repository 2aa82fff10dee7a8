"""Masks traced from small logits are the masks of `upsample_logits`, without its pixels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_variants.mask_codecs import encode_mask, rle_runs
from sam_variants.mask_runs import MaskGeometry, MaskRuns, MaskSurface, area_above, trace
from sam_variants.mask_storage import LogitStore, upsample_logits

# Values this close to the threshold may fall on either side: PyTorch's kernels round in their own order.
ROUNDING = 1e-5

sides = st.integers(1, 90)


@st.composite
def geometries(draw: st.DrawFn) -> MaskGeometry:
    """Straight to any size, or through a padded square that is cut."""
    size = (draw(sides), draw(sides))
    if draw(st.booleans()):
        return MaskGeometry(size)
    inner = (draw(sides), draw(sides))
    return MaskGeometry(size, inner, (inner[0] + draw(st.integers(0, 20)), inner[1] + draw(st.integers(0, 20))))


@st.composite
def smooth_logits(draw: st.DrawFn) -> np.ndarray:
    """Hills and valleys of every coarseness, single cells too; with whole numbers some plateaus and ties."""
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    coarse = torch.randn(1, 1, *(draw(st.integers(1, side)) for side in (height, width)), generator=generator)
    logits = draw(st.sampled_from([0.1, 3.0, 30.0])) * F.interpolate(coarse, (height, width), mode="bicubic")[0, 0]
    return (logits.round() if draw(st.integers(0, 4)) == 0 else logits).numpy()


def upsampled(logits: np.ndarray, geometry: MaskGeometry) -> np.ndarray:
    stack = torch.from_numpy(logits)[None]
    return upsample_logits(stack, geometry.size, geometry.reshaped_input_size, geometry.input_size)[0].numpy()


def pixels(runs: MaskRuns, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for column, start, end in zip(*(values.tolist() for values in (runs.columns, runs.starts, runs.ends)), strict=True):
        assert start < end
        assert not mask[max(start - 1, 0) : end + 1, column].any(), "runs overlap or touch"
        mask[start:end, column] = True
    return mask


def blob(side: int = 256, radius: float = 0.4) -> np.ndarray:
    """A wavy disc of radius × side cells with noise."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    edge = radius * (1 + 0.15 * np.sin(7 * np.arctan2(y, x)))
    noise = np.random.default_rng(0).standard_normal((side, side))
    return np.clip(100 * (edge - np.hypot(x, y)) + noise, -30, 30).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(smooth_logits(), geometries(), st.sampled_from([0.0, -1.0, 0.25, 2.0]))
def test_the_pixels_are_those_of_the_interpolation(
    logits: np.ndarray, geometry: MaskGeometry, threshold: float
) -> None:
    values = upsampled(logits, geometry)
    runs = trace(logits, geometry, threshold)
    mask = pixels(runs, geometry.size)
    assert (np.abs(values - threshold)[mask != (values > threshold)] < ROUNDING).all()
    assert area_above(logits, geometry, threshold) == runs.area == mask.sum()
    order = np.lexsort((runs.starts, runs.columns))
    assert (order == np.arange(len(order))).all()


@settings(max_examples=60, deadline=None)
@given(smooth_logits(), geometries(), st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(0, 9))
def test_boxes_and_codes_in_a_larger_image(
    logits: np.ndarray, geometry: MaskGeometry, offset: tuple[int, int], margin: int
) -> None:
    runs = trace(logits, geometry, 0.0)
    mask = pixels(runs, geometry.size)
    (height, width), (left, top) = geometry.size, offset
    placed = np.zeros((height + top + margin, width + left + margin), dtype=bool)
    placed[top : top + height, left : left + width] = mask
    rle = runs.rle((placed.shape[0], placed.shape[1]), offset)
    assert rle == encode_mask(placed)
    assert rle_runs(rle["counts"]).tolist() == runs.run_lengths((placed.shape[0], placed.shape[1]), offset).tolist()
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max(), rows.max()] if mask.any() else [0, 0, 0, 0]
    assert runs.box == box


@pytest.mark.parametrize(
    "geometry",
    [
        MaskGeometry((1200, 1600), (768, 1024), (1024, 1024)),
        MaskGeometry((480, 640), (768, 1024), (1024, 1024)),
        MaskGeometry((1200, 1600)),
        MaskGeometry((100, 3000)),
    ],
)
def test_real_sizes_agree_to_the_last_pixel(geometry: MaskGeometry) -> None:
    for radius in (0.02, 0.2, 0.45, 0.8):
        logits = blob(radius=radius)
        assert trace(logits, geometry, 0.0).rle(geometry.size) == encode_mask(upsampled(logits, geometry) > 0)


def test_positions_are_rounded_as_pytorch_rounds_them() -> None:
    """On steep logits the last bit of a position decides more than the last bit of a value."""
    logits = np.random.default_rng(0).uniform(-30, 30, (250, 6)).astype(np.float32)
    for size in ((5003, 400), (7001, 400)):
        values = upsampled(logits, MaskGeometry(size))
        wrong = pixels(trace(logits, MaskGeometry(size), 0.0), size) != (values > 0)
        assert (np.abs(values)[wrong] < ROUNDING).all()


def test_rounding_does_not_open_runs() -> None:
    """One bit above the threshold everywhere: some interpolated values are equal to it."""
    value = np.nextafter(np.float32(1.99), np.float32(2))
    for width in (14, 23, 36, 49, 61):
        runs = trace(np.full((5, 5), value), MaskGeometry((50, width)), 1.99)
        assert runs.run_lengths((50, width)).tolist() == [0, 50 * width]


def test_one_surface_answers_for_several_thresholds() -> None:
    logits, geometry = blob(64), MaskGeometry((150, 200), (48, 64), (64, 64))
    surface = MaskSurface(logits, geometry, -1.0)
    values = upsampled(logits, geometry)
    for threshold in (-1.0, 0.0, 1.0, 100.0):
        assert surface.area(threshold) == surface.runs(threshold).area == (values > threshold).sum()
    with pytest.raises(ValueError, match=r"threshold=-1\.5 must not be below"):
        surface.area(-1.5)


def test_all_and_nothing() -> None:
    geometry = MaskGeometry((5, 7), (3, 4), (4, 4))
    everything = trace(np.ones((2, 2), np.float32), geometry, 0.0)
    assert (everything.area, everything.box, everything.rle((5, 7))["size"]) == (35, [0, 0, 6, 4], [5, 7])
    assert everything.run_lengths((5, 7)).tolist() == [0, 35]
    nothing = trace(np.zeros((2, 2), np.float32), geometry, 0.0)
    assert (nothing.area, nothing.box, nothing.run_lengths((5, 7)).tolist()) == (0, [0, 0, 0, 0], [35])


def test_padding_makes_no_pixels() -> None:
    """What lies above the threshold only in the padding is cut off."""
    logits = np.full((8, 8), -5, np.float32)
    logits[6:] = 5
    assert trace(logits, MaskGeometry((40, 80), (32, 64), (64, 64)), 0.0).area == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_finite_logits(bad: float) -> None:
    logits = np.zeros((4, 4), np.float32)
    logits[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        trace(logits, MaskGeometry((8, 8)), 0.0)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits must be hxw, got shape \(1, 4, 4\)"):
        trace(np.zeros((1, 4, 4), np.float32), MaskGeometry((8, 8)), 0.0)
    with pytest.raises(ValueError, match="go together"):
        MaskGeometry((8, 8), reshaped_input_size=(4, 4))
    runs = trace(np.ones((2, 2), np.float32), MaskGeometry((4, 4)), 0.0)
    with pytest.raises(ValueError, match=r"offset=\(3, 0\).*outside full_size=\(6, 6\)"):
        runs.rle((6, 6), (3, 0))


def test_memory_stays_far_below_the_image() -> None:
    """A mask over most of 48 megapixels."""
    geometry = MaskGeometry((6000, 8000), (768, 1024), (1024, 1024))
    logits = blob()
    tracemalloc.start()
    try:
        trace(logits, geometry, 0.0).rle(geometry.size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6000 * 8000 / 2


def test_a_store_of_logits_makes_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes, areas and boxes of logits equal those of the pixels, which nobody builds."""
    geometry = ((90, 120), (48, 64), (64, 64))
    logits = torch.stack([torch.from_numpy(blob(16, radius)) for radius in (0.1, 0.3, 0.0)])
    by_pixels = LogitStore(logits, *geometry, 0.0)
    by_pixels.dense()
    store = LogitStore(logits, *geometry, 0.0)
    monkeypatch.setattr(LogitStore, "build", lambda *_: pytest.fail("pixels were built"))
    assert store.rles() == by_pixels.rles()
    assert torch.equal(store.areas(), by_pixels.areas())
    assert torch.equal(store.boxes(), by_pixels.boxes())
    assert store.boxes()[2].tolist() == [0, 0, 0, 0]
    assert store.select([1]).rles() == by_pixels.rles()[1:2]
    assert store.select([]).boxes().shape == (0, 4)


def test_a_store_of_infinite_logits_still_has_masks() -> None:
    logits = torch.full((1, 4, 4), -torch.inf)
    logits[0, 1:3, 1:3] = 5
    store = LogitStore(logits, (4, 4), None, None, 0.0)
    assert (store.areas().tolist(), store.boxes().tolist()) == ([4], [[1, 1, 3, 3]])
