"""Images of any dataset, whatever else its rows hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets.fingerprint import Hasher

from sam_variants.processing.image_loading import rgb_array
from sam_variants.training.label_images import as_picture
from sam_variants.training.mask_columns import feature_text
from sam_variants.training.mask_folders import open_source

IMAGE_COLUMN = "image"


@dataclass(frozen=True)
class ImageRow:
    """A row with its image, H×W×3 uint8 RGB."""

    image: np.ndarray


class ImageRows:
    """The images of a dataset by row number, read when they are asked for.

    Args:
        dataset: with row numbers.
        column: of the images; None finds it.
        name: for reports and errors.
        files: a checksum of files that rows only point to.

    Raises:
        ValueError: no such column, or none or several that could be meant.
    """

    def __init__(self, dataset: Dataset, column: str | None = None, name: str = "dataset", files: str = "") -> None:
        self.column, self.name, self._files = column or image_column(dataset), name, files
        if self.column not in dataset.column_names:
            raise ValueError(f"there is no column {self.column!r}; {columns_text(dataset)}")
        self._rows = dataset.with_format(None).select_columns([self.column])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ImageRow:
        try:
            return ImageRow(rgb_array(as_picture(self._rows[index][self.column])))
        except Exception as error:  # a broken picture raises whatever its decoder does
            raise ValueError(f"{self.name}: row {index}, column {self.column!r}: {error}") from error

    @property
    def fingerprint(self) -> str:
        """A checksum that is the same in every run while rows, column and files are."""
        return Hasher.hash((self._rows._fingerprint, self._files, self.column))

    def report(self) -> str:
        """A line on what was found."""
        return f"{self.name}: {len(self)} images in column {self.column!r}"


def open_images(source: Any, *, split: str | None = None, column: str | None = None) -> ImageRows:
    """Open the images of a dataset; masks are not looked at.

    Args:
        source: a `datasets` object, the id of a dataset on the Hub, or a folder or file here: pictures, or whatever
            `open_masks` reads.
        split: which, where there are several.
        column: of the images, where it isn't found.

    Raises:
        ValueError: no such split or column, no row, or none or several that could be meant.
        OSError: there is no such dataset.
        TypeError: `source` is none of these, or streamed.
    """
    opened = open_source(source, split)
    if not isinstance(opened.dataset, Dataset):
        raise TypeError("a streamed dataset has no row numbers: open it with streaming=False")
    rows = ImageRows(opened.dataset, column, opened.name, opened.files)
    if not len(rows):
        raise ValueError(f"{opened.name} has no row")
    return rows


def image_column(dataset: Dataset) -> str:
    """The column called image, else the only one of pictures."""
    if IMAGE_COLUMN in dataset.column_names:
        return IMAGE_COLUMN
    pictures = [name for name, feature in dataset.features.items() if isinstance(feature, ImageFeature)]
    if len(pictures) == 1:
        return pictures[0]
    problem = f"{pictures} could each be the images" if pictures else "no column holds images"
    raise ValueError(f"{problem}; {columns_text(dataset)}")


def columns_text(dataset: Dataset) -> str:
    """The columns of a dataset, and how to name one."""
    features: Mapping[str, Any] = dataset.features
    listed = ", ".join(f"{name!r}: {feature_text(feature)}" for name, feature in features.items())
    return f"the columns are {listed}. Name the one that is meant: column={next(iter(features))!r}"
