"""Geometry between original and resized images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_variants.processing.coordinates import (
    apply_boxes,
    apply_coords,
    invert_boxes,
    invert_coords,
    longest_side_shape,
)

SIDES = st.integers(1, 6000)
SIZES = st.tuples(SIDES, SIDES)


def fractions(count: int) -> st.SearchStrategy[np.ndarray]:
    """Rows of `count` shares of an image's sides, 0..1."""
    row = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    return st.lists(row, min_size=1, max_size=5).map(np.array)


@pytest.mark.parametrize(
    ("size", "longest_edge", "expected"),
    [
        ((1200, 1800), 1024, (683, 1024)),
        ((1800, 1200), 1024, (1024, 683)),
        ((48, 70), 64, (44, 64)),
        ((5, 2), 5, (5, 2)),
        ((3, 2), 1, (1, 1)),
        ((6000, 1), 1024, (1024, 1)),
    ],
)
def test_longest_side_shape_of_known_sizes(size: tuple[int, int], longest_edge: int, expected: tuple[int, int]) -> None:
    assert longest_side_shape(*size, longest_edge) == expected


@settings(deadline=None, max_examples=50)
@given(size=SIZES, longest_edge=st.integers(16, 2048))
def test_the_longer_side_is_met_and_the_aspect_kept(size: tuple[int, int], longest_edge: int) -> None:
    height, width = longest_side_shape(*size, longest_edge)
    assert max(height, width) == longest_edge
    assert longest_side_shape(size[1], size[0], longest_edge) == (width, height)
    scale = longest_edge / max(size)
    for old, new in zip(size, (height, width), strict=True):
        assert new >= 1
        assert new == 1 or abs(new - old * scale) <= 0.5 + 1e-6


@settings(deadline=None, max_examples=50)
@given(size=SIZES, longest_edge=st.integers(16, 2048), shares=fractions(2))
def test_points_go_there_and_back(size: tuple[int, int], longest_edge: int, shares: np.ndarray) -> None:
    resized = longest_side_shape(*size, longest_edge)
    points = shares * (size[1], size[0])
    there = apply_coords(points, size, resized)
    np.testing.assert_allclose(there, shares * (resized[1], resized[0]), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(invert_coords(there, size, resized), points, rtol=1e-12, atol=1e-9)
    there_float32 = apply_coords(torch.tensor(points, dtype=torch.float32), size, resized)
    back_float32 = invert_coords(there_float32, torch.tensor(size), torch.tensor(resized))
    torch.testing.assert_close(back_float32, torch.tensor(points, dtype=torch.float32), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(size=SIZES, longest_edge=st.integers(16, 2048), shares=fractions(4))
def test_boxes_go_there_and_back_as_their_corners(size: tuple[int, int], longest_edge: int, shares: np.ndarray) -> None:
    resized = longest_side_shape(*size, longest_edge)
    boxes = shares * (size[1], size[0], size[1], size[0])
    there = apply_boxes(boxes, size, resized)
    corners = apply_coords(boxes.reshape(-1, 2, 2), size, resized)
    np.testing.assert_array_equal(there, corners.reshape(-1, 4))
    np.testing.assert_allclose(invert_boxes(there, size, resized), boxes, rtol=1e-12, atol=1e-9)


def test_each_axis_has_its_own_factor_and_the_input_stays() -> None:
    points = np.array([[10, 20], [100, 50]])
    resized = apply_coords(points, (50, 100), (100, 1000))
    np.testing.assert_array_equal(resized, [[100.0, 40.0], [1000.0, 100.0]])
    assert resized.dtype == np.float64
    np.testing.assert_array_equal(points, [[10, 20], [100, 50]])
    boxes = torch.tensor([[[1, 2, 3, 4]]])
    assert torch.equal(apply_boxes(boxes, (50, 100), (100, 1000)), torch.tensor([[[10.0, 4.0, 30.0, 8.0]]]))
    assert apply_coords(torch.zeros(0, 2, dtype=torch.float16), (5, 5), (9, 9)).dtype == torch.float16


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_sizes_without_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="no pixels"):
        longest_side_shape(*size, 64)
    with pytest.raises(ValueError, match="positive"):
        apply_coords(np.zeros((1, 2)), size, (5, 5))


def test_other_last_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="longest_edge=0"):
        longest_side_shape(5, 5, 0)
    with pytest.raises(ValueError, match=r"x and y in the last dimension, got shape \(4, 3\)"):
        apply_coords(np.zeros((4, 3)), (5, 5), (9, 9))
    with pytest.raises(ValueError, match=r"got shape \(4, 2\)"):
        apply_boxes(torch.zeros(4, 2), (5, 5), (9, 9))
