"""Labeling runs for tests: small photos, a labeler without a model, and what a folder holds in the end."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from sam_variants.labeling.items import FailedImage, Item, LabeledImage
from sam_variants.labeling.label_job import LabelJob
from sam_variants.labeling.label_settings import LabelSettings
from sam_variants.labeling.label_sources import open_label_source
from sam_variants.labeling.whole_files import DRAFT
from sam_variants.mask_codecs import encode_mask


def write_photos(folder: Path, number: int, broken: Sequence[int] = (), side: int = 48) -> Path:
    """Numbered photos of unequal sizes, some of which are no images."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        path = folder / f"{index:04d}.png"
        if index in broken:
            path.write_text("no image")
            continue
        pixels = np.random.default_rng(index).integers(0, 255, (side, side + index % 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def write_tar(path: Path, files: Sequence[Path]) -> None:
    """A WebDataset tar of these files."""
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)


class StandIn:
    """Finds two masks in an image, which depend on nothing but its pixels and on what it is labeled together with.

    Args:
        seconds: that an image takes.
        jobs: how many calls may be made at once.
    """

    def __init__(self, seconds: float = 0.0, jobs: int = 1) -> None:
        self.seconds, self.jobs = seconds, jobs
        self.asked: list[list[str]] = []

    def __call__(self, items: Sequence[Item], pixels: Sequence[Any]) -> list[LabeledImage | FailedImage]:
        self.asked.append([item.key for item in items])
        time.sleep(self.seconds * len(items))
        # Batches that are cut elsewhere give other rows.
        together = sum(int(array.sum()) for array in pixels if not isinstance(array, str)) % 1000
        return [
            FailedImage(item.key, array) if isinstance(array, str) else self._labeled(item, array, together)
            for item, array in zip(items, pixels, strict=True)
        ]

    def _labeled(self, item: Item, pixels: np.ndarray, together: int) -> LabeledImage:
        annotations = []
        for channel in range(2):
            mask = pixels[..., channel] > 128
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            x, y = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": encode_mask(mask),
                    "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                    "area": int(mask.sum()),
                    "score": together / 1000,
                }
            )
        return LabeledImage(item, pixels.shape[:2], annotations)


def stand_in_settings(**fields: Any) -> LabelSettings:
    defaults = {"checkpoint": "none", "model": "stand-in", "weights": "0" * 64, "image_size": 64}
    return LabelSettings(**(defaults | {"rows_per_shard": 8} | fields))


def stand_in_job(photos: Path, out: Path, **fields: Any) -> LabelJob:
    """A job over a folder of photos for a `StandIn`."""
    settings = stand_in_settings(**fields)
    source = open_label_source([str(photos)], rows_per_shard=settings.rows_per_shard, out=out)
    return LabelJob(out, settings, source, read_threads=2)


def digests(out: Path) -> dict[str, str]:
    """The sha256 of every file of a finished run, but for drafts that killed processes left."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not DRAFT.fullmatch(path.name)
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows in order, without the images' content."""
    rows = []
    for path in sorted((out / "data").glob("*.parquet")):
        rows += pq.read_table(path, columns=["key", "width", "height", "objects"]).to_pylist()
    return rows


def errors_of(out: Path) -> list[dict[str, Any]]:
    path = out / "errors.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
