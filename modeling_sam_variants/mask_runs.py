"""Full-size masks of the decoder's small logits without full-size pixels.

`upsample_logits` is bilinear, so each column of the result is a polyline through few knots: a mask changes only where
the polyline crosses the threshold. Only those crossings are computed; between them lie the mask's vertical runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sam_variants.mask_codecs import Rle, canonical_rle


@dataclass(frozen=True)
class MaskGeometry:
    """How low-resolution logits h×w become pixels, with the fields of `upsample_logits`.

    Args:
        size: (height, width) of the image, or of the crop that the model saw.
        reshaped_input_size: (height, width) of the resized image inside the padded model input (SAM); None when the
            image was stretched over the whole input (SAM 2).
        input_size: (height, width) of the padded model input, with `reshaped_input_size`.

    Raises:
        ValueError: only one of the two input sizes.
    """

    size: tuple[int, int]
    reshaped_input_size: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if (self.reshaped_input_size is None) != (self.input_size is None):
            raise ValueError(
                "reshaped_input_size and input_size go together (SAM: both, SAM 2: neither), "
                f"got {self.reshaped_input_size} and {self.input_size}"
            )


@dataclass(frozen=True)
class MaskRuns:
    """The pixels of one mask as vertical runs, sorted by column and row, none touching the next.

    Args:
        columns: K whole numbers, x of each run.
        starts: K, y of its first pixel.
        ends: K, y after its last pixel.
    """

    columns: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int((self.ends - self.starts).sum())

    @property
    def box(self) -> list[int]:
        """x1, y1, x2, y2 of the outermost pixels, all inclusive as in segment-anything's `batched_mask_to_box`.

        [0, 0, 0, 0] for a mask without pixels.
        """
        if not self.columns.size:
            return [0, 0, 0, 0]
        return [int(self.columns[0]), int(self.starts.min()), int(self.columns[-1]), int(self.ends.max()) - 1]

    def run_lengths(self, full_size: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Return the uncompressed COCO counts of the mask placed into a larger image.

        Args:
            full_size: (height, width) of the whole image.
            offset: (x, y) there of the crop's first pixel.

        Returns:
            int64, background first, down the columns; only the first may be 0.

        Raises:
            ValueError: a mask that sticks out of `full_size`.
        """
        height, width = full_size
        (x1, y1, x2, y2), (left, top) = self.box, offset
        if self.columns.size and (min(x1 + left, y1 + top) < 0 or x2 + left >= width or y2 + top >= height):
            raise ValueError(f"offset={offset} puts a mask with the box {self.box} outside full_size={full_size}")
        firsts = (self.columns.astype(np.int64) + left) * height + top
        starts, ends = firsts + self.starts, firsts + self.ends
        # A run down to the last row goes on at the top of the next column.
        apart = starts[1:] != ends[:-1]
        edges = np.stack(
            [starts[np.append(True, apart)[: starts.size]], ends[np.append(apart, True)[: ends.size]]], axis=1
        )
        lengths = np.diff(edges.reshape(-1), prepend=0, append=height * width)
        return lengths if lengths[-1] else lengths[:-1]

    def rle(self, full_size: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> Rle:
        """Encode the mask placed into a larger image; arguments and errors as for `run_lengths`."""
        return canonical_rle({"size": list(full_size), "counts": self.run_lengths(full_size, offset)})


class _Axis(NamedTuple):
    """One axis of a bilinear interpolation from `inputs` to `outputs` samples: where each output is read."""

    lower: np.ndarray  # outputs int64, the input sample before the position
    upper: np.ndarray  # outputs int64, the one after it
    weight: np.ndarray  # outputs float32, of the one after it
    first_output: np.ndarray  # at k + 1: the first output behind the input sample k, for k = −1..inputs
    inputs: int
    outputs: int

    def outputs_reading(self, first: int, last: int) -> tuple[int, int]:
        """The range of outputs that read any of the input samples [first, last)."""
        return int(self.first_output[first]), int(self.first_output[last + 1])


@lru_cache(maxsize=64)
def _axis(inputs: int, outputs: int) -> _Axis:
    """Positions and weights of `F.interpolate(mode="bilinear", align_corners=False)`, to the last bit.

    PyTorch's kernels fuse the multiplication with the subtraction: float64 rounded once gives the same float32.
    """
    scale = np.float64(np.float32(inputs) / np.float32(outputs))
    positions = np.maximum((scale * (np.arange(outputs) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    lower = np.minimum(positions.astype(np.int64), inputs - 1)
    weight = np.clip(positions - lower.astype(np.float32), 0, 1)
    first_output = np.searchsorted(lower, np.arange(-1, inputs + 1))
    return _Axis(lower, np.minimum(lower + 1, inputs - 1), weight, first_output, inputs, outputs)


def _interpolate(samples: np.ndarray, axis: _Axis, first: int, last: int, offset: int = 0) -> np.ndarray:
    """Outputs [first, last) along the first axis, when `samples` starts at the input sample `offset`."""
    weight = axis.weight[first:last].reshape(-1, *[1] * (samples.ndim - 1))
    result = samples.take(axis.lower[first:last] - offset, axis=0)
    result *= 1 - weight
    upper = samples.take(axis.upper[first:last] - offset, axis=0)
    upper *= weight
    result += upper
    return result


def _blend(lower: np.ndarray, upper: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate between two samples, rounded as PyTorch does on CPUs that fuse multiplication and addition."""
    return (lower * (1 - weight).astype(np.float64) + upper * weight).astype(np.float32)


class MaskSurface:
    """One mask's logits with all that its runs need at any threshold, for several questions about the same mask.

    Args:
        logits: h×w float32.
        geometry: how they become pixels.
        lowest_threshold: no question is asked below; what lies lower is left out.

    Raises:
        ValueError: logits of another shape, or NaN or infinity in them.
    """

    def __init__(self, logits: np.ndarray, geometry: MaskGeometry, lowest_threshold: float) -> None:
        if logits.ndim != 2 or not logits.size:
            raise ValueError(f"logits must be hxw, got shape {logits.shape}")
        if not np.isfinite(logits).all():
            raise ValueError("logits hold NaN or infinity")
        self.lowest_threshold = lowest_threshold
        self._knots, self._top, self._left = np.zeros((0, 0), dtype=np.float32), 0, 0
        height, width = geometry.reshaped_input_size or logits.shape
        self._rows, self._columns = _axis(height, geometry.size[0]), _axis(width, geometry.size[1])
        # A bilinear value never exceeds its neighbours: only this part of the logits can make pixels.
        above = logits > lowest_threshold
        bounds = [_extent(np.asarray(above.any(axis=1))), _extent(np.asarray(above.any(axis=0)))]
        if geometry.reshaped_input_size is not None and geometry.input_size is not None:
            steps = [_axis(*sides) for sides in zip(logits.shape, geometry.input_size, strict=True)]
            bounds = [step.outputs_reading(*bound) for step, bound in zip(steps, bounds, strict=True)]
        # One more knot on each side shows where the mask ends; those cut off by `reshaped_input_size` are never read.
        top, bottom = max(bounds[0][0] - 1, 0), min(bounds[0][1] + 1, height)
        left, right = max(bounds[1][0] - 1, 0), min(bounds[1][1] + 1, width)
        if not above.any() or top >= bottom or left >= right:
            return
        if geometry.reshaped_input_size is not None:
            first, last = steps[0].lower[top], steps[0].upper[bottom - 1] + 1
            stretched = _interpolate(logits[first:last].T, steps[1], left, right)
            knots = _interpolate(stretched.T, steps[0], top, bottom, first)
        else:
            knots = logits[top:bottom, left:right]
        # Rows of background above and below close every run; a column beyond the right edge repeats the last one.
        self._knots = np.pad(knots, ((1, 1), (0, 0)), constant_values=lowest_threshold - 1)
        if right == width:
            self._knots = np.concatenate([self._knots, self._knots[:, -1:]], axis=1)
        self._top, self._left = top - 1, left

    def _crossings(self, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Columns and rows where a run starts or, each second one, ends before; sorted by column, then row."""
        if not threshold >= self.lowest_threshold:
            raise ValueError(f"threshold={threshold} must not be below lowest_threshold={self.lowest_threshold}")
        quads, strips = _mixed_quads(self._knots > threshold)
        columns, chosen = self._columns_of(strips)
        lower, upper = self._columns.lower[columns] - self._left, self._columns.weight[columns]
        top, above_top = self._read(quads[chosen], lower, upper, threshold)
        bottom, above_bottom = self._read(quads[chosen] + 1, lower, upper, threshold)
        crossed = np.flatnonzero(above_top != above_bottom)
        rows = self._rows_of(quads[chosen[crossed]] + self._top, top[crossed], bottom[crossed], threshold)
        return columns[crossed], rows

    def _columns_of(self, strips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each output column paired with each quad of the strip it is read from: the columns and the quads' indices.

        Args:
            strips: K, sorted: column of knots at the left of each quad.
        """
        if not strips.size:
            return strips, strips
        first, last = np.searchsorted(self._columns.lower, [strips[0] + self._left, strips[-1] + self._left + 1])
        own = self._columns.lower[first:last] - self._left
        starts = np.searchsorted(strips, own)
        counts = np.searchsorted(strips, own, side="right") - starts
        ends = counts.cumsum()
        chosen = np.arange(ends[-1] if ends.size else 0) - np.repeat(ends - counts - starts, counts)
        return np.repeat(np.arange(first, last), counts), chosen

    def _read(
        self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interpolate along rows of knots: the values, and which are above the threshold.

        Between two knots on the same side the value is on that side too: rounding must not say otherwise, or runs
        would not close.
        """
        width = self._knots.shape[1]
        flat, places = self._knots.reshape(-1), rows * width + columns
        left, right = flat.take(places), flat.take(places + 1)
        values = _blend(left, right, weights)
        is_left, is_right = left > threshold, right > threshold
        return values, np.where(is_left == is_right, is_left, values > threshold)

    def _rows_of(self, knots: np.ndarray, top: np.ndarray, bottom: np.ndarray, threshold: float) -> np.ndarray:
        """First row on the other side of a crossing between the values `top` and `bottom` at two knots.

        Args:
            knots: K, row of the upper knot.
        """
        axis = self._rows
        first, last = axis.first_output.take(knots + 1), axis.first_output.take(knots + 2)
        first[knots == axis.inputs - 1] = axis.outputs  # below the last knot nothing changes any more
        step = bottom.astype(np.float64) - top
        share = np.divide(threshold - top, step, out=np.zeros_like(step), where=step != 0).clip(0, 1)
        guess = np.ceil((knots + share + 0.5) * (axis.outputs / axis.inputs) - 0.5).astype(np.int64)
        guess = np.clip(guess, first, last)

        def is_beyond(rows: np.ndarray) -> np.ndarray:
            weight = axis.weight.take(rows, mode="clip")
            return (_blend(top, bottom, weight) > threshold) == (bottom > threshold)

        # The guess is exact but for rounding: ask the two rows at the border what the interpolation makes of them.
        guess += (guess < last) & ~is_beyond(guess)
        guess -= (guess > first) & is_beyond(guess - 1)
        return guess

    def area(self, threshold: float) -> int:
        """Number of pixels above the threshold."""
        _, rows = self._crossings(threshold)
        return int(rows[1::2].sum() - rows[::2].sum())

    def runs(self, threshold: float) -> MaskRuns:
        """The pixels above the threshold."""
        columns, rows = self._crossings(threshold)
        kept = rows[1::2] > rows[::2]
        columns, starts, ends = columns[::2][kept], rows[::2][kept], rows[1::2][kept]
        touching = (columns[1:] == columns[:-1]) & (starts[1:] == ends[:-1])
        if touching.any():
            begins, stops = np.append(True, ~touching), np.append(~touching, True)
            columns, starts, ends = columns[begins], starts[begins], ends[stops]
        # Many masks are held until duplicates are dropped, and noisy ones have 100,000 runs.
        smallest = np.uint16 if max(self._rows.outputs, self._columns.outputs) < 1 << 16 else np.int64
        return MaskRuns(*(values.astype(smallest) for values in (columns, starts, ends)))


def _extent(flags: np.ndarray) -> tuple[int, int]:
    """The half-open range from the first to the last true value; (0, 0) when there is none."""
    if not flags.any():
        return 0, 0
    return int(flags.argmax()), int(flags.size - flags[::-1].argmax())


def _mixed_quads(above: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (sorted by column, then row) of the 2×2 quads that are neither all true nor all false."""
    flags = above.view(np.uint8)
    pairs = flags[1:] + flags[:-1]
    counts = pairs[:, 1:] + pairs[:, :-1]
    rows, columns = np.divmod(np.flatnonzero((counts - np.uint8(1)) < 3), max(counts.shape[1], 1))
    order = np.argsort(columns.astype(np.uint16) if counts.shape[1] < 1 << 16 else columns, kind="stable")
    return rows[order], columns[order]


def trace(logits: np.ndarray, geometry: MaskGeometry, threshold: float) -> MaskRuns:
    """Find the pixels of one mask, as `upsample_logits(…) > threshold` has them.

    Pixels whose value equals the threshold up to float32 rounding may differ.

    Args:
        logits: h×w float32.
        geometry: how they become pixels.
        threshold: a pixel belongs to the mask when its logit is above.

    Raises:
        ValueError: logits of another shape, or NaN or infinity in them.
    """
    return MaskSurface(logits, geometry, threshold).runs(threshold)


def area_above(logits: np.ndarray, geometry: MaskGeometry, threshold: float) -> int:
    """Count the pixels of one mask; arguments and errors as for `trace`, `MaskSurface` for several thresholds."""
    return MaskSurface(logits, geometry, threshold).area(threshold)
