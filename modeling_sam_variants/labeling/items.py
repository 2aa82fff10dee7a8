"""What flows through a labeling run: images from a source, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True)
class ItemPrompts:
    """What is asked about in one image, in pixels of the image as it is shown (EXIF orientation applied).

    Attributes:
        boxes: N×4 float64 xyxy, or None.
        points: one K×2 float64 array of (x, y) per object, or None. With boxes, the two belong together by index.
        labels: one array of K per object, 1 on it and 0 off it; with `points`.
        categories: one per object, as the source has them, or None.
    """

    boxes: np.ndarray | None = None
    points: Sequence[np.ndarray] | None = None
    labels: Sequence[np.ndarray] | None = None
    categories: Sequence[Any] | None = None

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.boxes) if self.boxes is not None else len(self.points or ())


@dataclass(frozen=True)
class Item:
    """An image to label.

    Attributes:
        key: names it; no other image of the source has the same.
        encoded: the content of the image file, where the source holds it.
        path: the file or URL, where there is one.
        prompts: what is asked about; None for everything in the image.
        error: why the source could not give the image; then there is nothing else.
    """

    key: str
    encoded: bytes | None = None
    path: str | None = None
    prompts: ItemPrompts | None = None
    error: str | None = None


@dataclass(frozen=True)
class LabeledImage:
    """An image with its masks.

    Attributes:
        item: what was labeled; `encoded` holds the file's content where images are embedded.
        size: height and width in pixels.
        annotations: as `Masks.to_coco` gives them, without `id` and `image_id`.
    """

    item: Item
    size: tuple[int, int]
    annotations: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be labeled, and why, in one line."""

    key: str
    error: str


class Part(NamedTuple):
    """The smallest piece of a source that can be read alone; `num_rows` is None where only reading tells."""

    index: int  # type: ignore[assignment]
    name: str
    num_rows: int | None


class Listed(NamedTuple):
    """A file or table of a source, and what would show that it changed (size in bytes; time stamp, ETag or digest)."""

    name: str
    size: int | None
    stamp: str


class Source(Protocol):
    """Images in numbered parts. It can be pickled, and what it gives depends on nothing but the source."""

    def description(self) -> dict[str, Any]:
        """Kind, names, columns and revision, ready for JSON: the same in every run on the same source."""

    def listing(self) -> Iterable[Listed]:
        """What the source is made of, in order."""

    @property
    def parts(self) -> Sequence[Part]: ...

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The images of a part from row `start` of it on, not decoded.

        Raises:
            OSError: the part can't be read at all, now.
        """
