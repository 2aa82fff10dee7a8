"""COCO files of masks: a dataset of one image at once, or of many image by image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, Self

from sam_variants.results import Masks

CATEGORIES = [{"id": 1, "name": "object"}]
# Of the list of images so much is held in memory, the rest in a file without a name.
MAX_MEMORY_BYTES = 1 << 20


def coco_image(image_id: int, name: str, masks: Masks) -> dict[str, Any]:
    """COCO's entry for an image."""
    height, width = masks.size
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def write_coco(path: Path, image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> None:
    """Write a COCO dataset of one image.

    Raises:
        OSError: when the file can't be written.
    """
    dataset = {"images": [image], "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(dataset), encoding="utf-8")


class CocoWriter:
    """A COCO dataset that grows on disk, so that any number of images takes the same memory.

    Until it is closed it lies beside its place, under the name with `.part` behind: what was there stays whole.

    Args:
        path: the file; replaced when it is closed.

    Attributes:
        categories: what the file says of them; may grow until it is closed.
        num_annotations: how many were added.

    Raises:
        OSError: when the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._part = path, path.with_name(f"{path.name}.part")
        self.categories = list(CATEGORIES)
        self.num_annotations = self._num_images = 0
        self._images = SpooledTemporaryFile(  # noqa: SIM115
            MAX_MEMORY_BYTES, "w+", encoding="utf-8", dir=str(path.parent)
        )
        self._file = self._part.open("w", encoding="utf-8")
        self._file.write('{"annotations": [')

    def add(self, image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> None:
        """Append one image with its annotations, whose ids go on from those before."""
        self._images.write(f"{', ' if self._num_images else ''}\n{json.dumps(image)}")
        self._num_images += 1
        for annotation in annotations:
            self._file.write(f"{', ' if self.num_annotations else ''}\n{json.dumps(annotation)}")
            self.num_annotations += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        """Finish the file with what was added, also behind an error; one before the first image changes nothing."""
        with self._file, self._images:
            self._file.write('], "images": [')
            self._images.seek(0)
            shutil.copyfileobj(self._images, self._file)
            self._file.write(f'], "categories": {json.dumps(self.categories)}}}')
        if error is not None and not self._num_images:
            self._part.unlink()
        else:
            self._part.replace(self.path)
