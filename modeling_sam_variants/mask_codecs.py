"""How masks are exchanged: run-length codes, polygons, COCO annotations. Pure functions.

Source: the COCO run-length format as pycocotools' `maskApi.c` defines it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

# COCO's compressed run-length code: {"size": [height, width], "counts": str}, runs down the columns.
Rle = dict[str, Any]

# One connected region: its exterior ring, then its holes; each ring K×2 int32 (x, y).
Polygon = list[np.ndarray]

PADDING_COORDINATE = -10.0
"""Coordinate of a point that only fills up a row of `points`."""


def check_size(name: str, size: Any) -> tuple[int, int]:
    """Return `size` as (height, width). Raises: ValueError unless it is two positive whole numbers."""
    values = np.asarray(size.tolist() if isinstance(size, Tensor) else size)
    if values.shape != (2,) or not np.issubdtype(values.dtype, np.number) or not (values == values.astype(int)).all():
        raise ValueError(f"{name} must be (height, width), two whole numbers, got {size!r}")
    height, width = (int(value) for value in values)
    if height < 1 or width < 1:
        raise ValueError(f"{name} must be (height, width) of at least 1 pixel each, got {size!r}")
    return height, width


def encode_mask(mask: np.ndarray) -> Rle:
    """Encode one H×W bool mask as compressed RLE with `counts` as str, so that it fits in JSON."""
    encoded = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def rle_runs(counts: str | bytes | Sequence[int]) -> np.ndarray:
    """Return the run lengths (background first, int64) behind a compressed or plain `counts`.

    The compressed form keeps five bits per character, low bits first, bit 5 meaning "more follows"; from the
    fourth run on it holds the difference to the run two places earlier.

    Raises: ValueError for characters or endings the format doesn't have.
    """
    if not isinstance(counts, str | bytes):
        return np.asarray(counts, dtype=np.int64).reshape(-1)
    raw = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or ends.size == 0 or ends[-1] != codes.size - 1:
        raise ValueError(f"counts is no compressed COCO run-length code: {raw[:40]!r}")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def canonical_rle(rle: Rle, name: str = "rle") -> Rle:
    """Check one RLE (compressed or plain) without decoding it and return it compressed, `counts` as str.

    Runs of length zero inside the code are legal but mislead pycocotools' bounding boxes: they are merged away.

    Raises: ValueError when the runs don't cover the size, TypeError when it is no RLE at all.
    """
    if not isinstance(rle, dict) or "size" not in rle or "counts" not in rle:
        raise TypeError(f'{name} must be a dict with "size" and "counts", got {rle!r:.80}')
    height, width = check_size(f"{name} size", rle["size"])
    runs = rle_runs(rle["counts"])
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"{name}: the runs of counts sum to {runs.sum()}, size {height}x{width} needs {height * width}"
        )
    if isinstance(rle["counts"], str | bytes) and (runs[1:] > 0).all():
        counts = rle["counts"]
    else:
        runs = _merge_empty_runs(runs)
        counts = mask_utils.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"]
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def _merge_empty_runs(runs: np.ndarray) -> np.ndarray:
    is_foreground = np.arange(runs.size) % 2 == 1
    runs, is_foreground = runs[runs > 0], is_foreground[runs > 0]
    starts = np.flatnonzero(np.concatenate([[True], is_foreground[1:] != is_foreground[:-1]]))
    merged = np.add.reduceat(runs, starts)
    return np.concatenate([[0], merged]) if is_foreground[0] else merged


def segmentation_to_rle(segmentation: Any, size: tuple[int, int] | None, name: str) -> Rle:
    """Turn a COCO `segmentation` (RLE of either form, or a list of polygons) into canonical RLE.

    Raises: ValueError for polygons without `size`, a polygon of fewer than three points, or another RLE size.
    """
    if isinstance(segmentation, dict):
        rle = canonical_rle(segmentation, name)
        if size is not None and tuple(rle["size"]) != size:
            raise ValueError(f"{name} has size {rle['size']}, expected {list(size)}")
        return rle
    if not isinstance(segmentation, list | tuple):
        raise TypeError(f"{name} must be an RLE dict or a list of polygons, got {type(segmentation).__name__}")
    if size is None:
        raise ValueError(
            f"{name} is made of polygons, which don't say how large the image is: pass size=(height, width)"
        )
    if not segmentation:
        return encode_mask(np.zeros(size, dtype=bool))
    rings = [np.asarray(ring, dtype=np.float64).reshape(-1) for ring in segmentation]
    for ring in rings:
        if ring.size < 6 or ring.size % 2 or not np.isfinite(ring).all():
            raise ValueError(f"{name}: a polygon is x1, y1, x2, y2, … with three points or more, got {ring.tolist()}")
    merged = mask_utils.merge(mask_utils.frPyObjects([ring.tolist() for ring in rings], *size))
    return canonical_rle(merged, name)


def mask_to_polygons(mask: np.ndarray) -> list[Polygon]:
    """Trace the pixel edges of an H×W bool mask: one polygon for every 4-connected region.

    Rings run along the outer edges of pixels, so pixel (x, y) is the square from (x, y) to (x+1, y+1): a single
    pixel is a real square, shoelace areas add up to the pixel count, and even-odd filling gives back exactly this
    mask. Exteriors turn clockwise on the screen, holes counter-clockwise. No ring crosses or touches itself.
    """
    import cv2  # here, because it is large and who loads a model needs none of it

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    polygons = []
    for component in range(1, count):
        x, y, width, height = (int(value) for value in stats[component, :4])
        region = labels[y : y + height, x : x + width] == component
        polygons.append([ring + np.array([x, y], dtype=np.int32) for ring in _region_rings(region)])
    return polygons


def _region_rings(region: np.ndarray) -> Polygon:
    """Trace one 4-connected region.

    OpenCV's contours run through the centres of border pixels. On the mask at twice the size, border pixels on a
    left or top edge have an even coordinate 2p and those on a right or bottom edge an odd one 2p+1, for exteriors
    and holes alike: (c + 1) // 2 is the edge itself.
    """
    import cv2  # here, because it is large and who loads a model needs none of it

    doubled = region.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    exterior: Polygon = []
    holes: Polygon = []
    for contour, parent in zip(contours, hierarchy[0][:, 3], strict=True):
        ring = _corners((contour.reshape(-1, 2) + 1) // 2)
        is_hole = parent >= 0
        if (ring_area(ring) < 0) != is_hole:
            ring = ring[::-1]
        (holes if is_hole else exterior).append(np.ascontiguousarray(ring, dtype=np.int32))
    return exterior + holes


def _corners(ring: np.ndarray) -> np.ndarray:
    """Drop repeated points, then points on a straight line."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    incoming, outgoing = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[incoming[:, 0] * outgoing[:, 1] != incoming[:, 1] * outgoing[:, 0]]


def ring_area(ring: np.ndarray) -> float:
    """Signed shoelace area of a K×2 ring in pixels, positive when it turns clockwise on the screen (y down)."""
    x, y = ring.astype(np.int64).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def common_size(codes: list[Rle], size: Sequence[int] | None, name: str) -> tuple[int, int]:
    sizes = {check_size(name, code["size"]) for code in codes}
    if size is not None:
        sizes.add(check_size("size", size))
    if not sizes:
        raise ValueError(f"{name} is empty and doesn't say how large the image is: pass size=(height, width)")
    if len(sizes) > 1:
        raise ValueError(f"{name} must all be of one size, got {sorted(sizes)}")
    return sizes.pop()


def read_coco_field(annotations: Sequence[dict[str, Any]], *keys: str) -> list[Any] | None:
    """Collect a field under its first name that occurs. Raises: ValueError when only some annotations have it."""
    for key in keys:
        present = [annotation[key] for annotation in annotations if annotation.get(key) is not None]
        if present and len(present) != len(annotations):
            raise ValueError(f"{len(present)} of {len(annotations)} annotations have {key!r}: all or none must")
        if present:
            return present
    return None


def pad_points(points: list[Any]) -> Tensor:
    """Stack lists of points as N×K×2, filled up with padding; N×2 when every mask has one point."""
    rows = [torch.as_tensor(row, dtype=torch.float32).reshape(-1, 2) for row in points]
    padded = torch.full((len(rows), max(len(row) for row in rows), 2), PADDING_COORDINATE)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded[:, 0] if padded.shape[1] == 1 else padded


def to_xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]
