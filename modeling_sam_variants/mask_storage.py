"""How `Masks` keeps masks inside: pixels, run-length codes or low-resolution logits, one small class each.

Logits become masks as in `postprocess_masks` of segment-anything (`modeling/sam.py`) and sam2 (`utils/transforms.py`).
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as mask_utils
from torch import Tensor

from sam_variants.mask_codecs import Rle, encode_mask
from sam_variants.mask_runs import MaskGeometry, MaskRuns, trace


def upsample_logits(
    logits: Tensor,
    original_size: tuple[int, int],
    reshaped_input_size: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
) -> Tensor:
    """Bring N×h×w mask logits to N×H×W float32 at the original image's size.

    With `reshaped_input_size` and `input_size` as SAM does: bilinear to the padded model input, cut to the part that
    held the image, bilinear to the original size. Without them as SAM 2 does: straight to the original size.
    """
    logits = logits.float().unsqueeze(1)
    if reshaped_input_size is not None and input_size is not None:
        logits = F.interpolate(logits, input_size, mode="bilinear", align_corners=False)
        logits = logits[..., : reshaped_input_size[0], : reshaped_input_size[1]]
    return F.interpolate(logits, original_size, mode="bilinear", align_corners=False).squeeze(1)


class MaskStore(ABC):
    """N masks of one size in some compact form, which turns into pixels or RLE only when asked, and once."""

    form = ""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._dense: Tensor | None = None
        self._rles: list[Rle] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def build(self, index: int) -> np.ndarray:
        """Make the H×W bool pixels of one mask."""

    @abstractmethod
    def select(self, indices: list[int]) -> "MaskStore":
        """Return a store of these masks, in this order."""

    def mask(self, index: int) -> np.ndarray:
        """Return one mask, H×W bool, without building the others."""
        return self.build(index) if self._dense is None else self._dense[index].numpy()

    def dense(self) -> Tensor:
        """Return all masks, N×H×W bool on the CPU."""
        if self._dense is None:
            dense = torch.zeros(len(self), *self.size, dtype=torch.bool)
            for index in range(len(self)):
                dense[index] = torch.from_numpy(self.build(index))
            self._dense = dense
        return self._dense

    def rles(self) -> list[Rle]:
        """Return all masks as canonical RLE."""
        if self._rles is None:
            self._rles = [encode_mask(self.mask(index)) for index in range(len(self))]
        return self._rles

    def areas(self) -> Tensor:
        """Return N pixel counts, int64."""
        # One by one: pycocotools counts a list's members in 8 bits and refuses more than 255.
        return torch.tensor([int(mask_utils.area(rle)) for rle in self.rles()], dtype=torch.int64)

    def boxes(self) -> Tensor:
        """Return N×4 half-open xyxy boxes, int64; zeros for a mask without pixels."""
        boxes = np.asarray(mask_utils.toBbox(self.rles())).astype(np.int64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return torch.from_numpy(boxes)


class PixelStore(MaskStore):
    """Masks as N×H×W bool pixels."""

    form = "pixels"

    def __init__(self, data: Tensor) -> None:
        super().__init__((data.shape[1], data.shape[2]))
        self._pixels = self._dense = data

    def __len__(self) -> int:
        return len(self._pixels)

    def build(self, index: int) -> np.ndarray:
        return self._pixels[index].numpy()

    def select(self, indices: list[int]) -> "PixelStore":
        return PixelStore(self._pixels[indices])

    def areas(self) -> Tensor:
        return torch.tensor([np.count_nonzero(mask) for mask in self._pixels.numpy()], dtype=torch.int64)

    def boxes(self) -> Tensor:
        boxes = torch.zeros(len(self), 4, dtype=torch.int64)
        for mask, box in zip(self._pixels, boxes, strict=True):
            if mask.any():
                rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
                box[:] = torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        return boxes


class RleStore(MaskStore):
    """Masks as canonical RLE, all of one size."""

    form = "RLE"

    def __init__(self, rles: list[Rle], size: tuple[int, int]) -> None:
        super().__init__(size)
        self._codes = self._rles = rles

    def __len__(self) -> int:
        return len(self._codes)

    def build(self, index: int) -> np.ndarray:
        return np.ascontiguousarray(mask_utils.decode(self._codes[index])).astype(bool)

    def select(self, indices: list[int]) -> "RleStore":
        return RleStore([self._codes[index] for index in indices], self.size)


class LogitStore(MaskStore):
    """Masks as N×h×w logits of the mask decoder, on the device they came from.

    Codes, areas and boxes come from the logits directly: pixels are made only when they are what is asked for.
    """

    form = "logits"

    def __init__(
        self,
        logits: Tensor,
        size: tuple[int, int],
        reshaped_input_size: tuple[int, int] | None,
        input_size: tuple[int, int] | None,
        threshold: float,
    ) -> None:
        super().__init__(size)
        self.logits = logits
        self.reshaped_input_size = reshaped_input_size
        self.input_size = input_size
        self.threshold = threshold
        self._runs: list[MaskRuns] | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def runs(self) -> list[MaskRuns] | None:
        """Trace all masks, once; None where pixels exist already, or logits are infinite and can't be interpolated."""
        if self._dense is not None:
            return None
        if self._runs is None:
            logits = self.logits.float().cpu().numpy()
            if not np.isfinite(logits).all():
                return None
            geometry = MaskGeometry(self.size, self.reshaped_input_size, self.input_size)
            self._runs = [trace(mask, geometry, self.threshold) for mask in logits]
        return self._runs

    def rles(self) -> list[Rle]:
        if self._rles is None and (runs := self.runs()) is not None:
            self._rles = [mask.rle(self.size) for mask in runs]
        return super().rles()

    def areas(self) -> Tensor:
        runs = self.runs()
        return super().areas() if runs is None else torch.tensor([mask.area for mask in runs], dtype=torch.int64)

    def boxes(self) -> Tensor:
        runs = self.runs()
        if runs is None:
            return super().boxes()
        boxes = torch.tensor([mask.box for mask in runs], dtype=torch.int64).reshape(-1, 4)
        boxes[:, 2:] += torch.tensor([[mask.area > 0] for mask in runs], dtype=torch.int64).reshape(-1, 1)
        return boxes

    def build(self, index: int) -> np.ndarray:
        logits = self.logits[index : index + 1]
        upsampled = upsample_logits(logits, self.size, self.reshaped_input_size, self.input_size)
        return (upsampled[0] > self.threshold).cpu().numpy()

    def select(self, indices: list[int]) -> MaskStore:
        if self._dense is not None:
            return PixelStore(self._dense[indices])
        geometry = (self.size, self.reshaped_input_size, self.input_size)
        chosen = LogitStore(self.logits[indices], *geometry, self.threshold)
        if self._runs is not None:
            chosen._runs = [self._runs[index] for index in indices]
        return chosen


def check_pixels(data: Any) -> Tensor:
    if isinstance(data, np.ndarray):
        if data.dtype != bool:
            raise TypeError(f"data must be bool, got {data.dtype}: pass data > 0 or data != 0, whichever is meant")
        data = torch.from_numpy(np.require(data, requirements=["C", "W"]))
    if not isinstance(data, Tensor) or data.dtype != torch.bool:
        kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise TypeError(f"data must be a bool tensor or array NxHxW, got {kind}")
    if data.ndim != 3 or data.shape[1] < 1 or data.shape[2] < 1:
        raise ValueError(f"data must be NxHxW, got shape {tuple(data.shape)}; one mask is data[None]")
    return data.detach().cpu()


def to_indices(index: Any, count: int) -> list[int]:
    """Turn what indexing takes into a list of positions. Raises: IndexError, TypeError."""
    if isinstance(index, slice):
        return list(range(count))[index]
    if isinstance(index, str | tuple) or index is None:
        raise TypeError(f"Masks are indexed with a number, slice, or list of numbers or bools, got {index!r}")
    values = np.asarray(index.tolist() if isinstance(index, Tensor) else index)
    if values.dtype == bool and values.ndim == 1:
        if len(values) != count:
            raise IndexError(f"a bool index needs one value for each of the {count} masks, got {len(values)}")
        return np.flatnonzero(values).tolist()
    if values.size == 0:
        return []
    if values.ndim > 1 or not np.issubdtype(values.dtype, np.integer):
        raise TypeError(f"Masks are indexed with a number, slice, or list of numbers or bools, got {index!r}")
    numbers = values.reshape(-1).tolist()
    for number in numbers:
        if not -count <= number < count:
            raise IndexError(f"index {number} is out of range for {count} masks")
    return [number % count for number in numbers]
