"""A picture of a labeled dataset: images from all over it, with their masks drawn."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from sam_variants.labeling.labeled_dataset import LabeledDataset

MAX_IMAGES, COLUMNS = 24, 6
TILE, GAP = 256, 4
BACKGROUND = (32, 32, 36)
MISSING = (72, 72, 80)
JPEG_QUALITY = 88
# Images that are only referred to may lie on a server that doesn't answer.
MAX_FAILURES = 3


def contact_sheet(dataset: LabeledDataset) -> bytes | None:
    """Draw up to 24 images in rows of six, as JPEG; None for a dataset without images.

    An image that can't be read (one that is referred to and gone) is a gray tile.

    Raises:
        OSError: a shard is missing or damaged.
    """
    if not len(dataset):
        return None
    chosen = np.unique(np.linspace(0, len(dataset) - 1, MAX_IMAGES).round().astype(int))
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    step = TILE + GAP
    sheet = Image.new("RGB", (columns * step + GAP, rows * step + GAP), BACKGROUND)
    failures = 0
    for place, index in enumerate(chosen.tolist()):
        tile = _tile(dataset, index) if failures < MAX_FAILURES else None
        failures += tile is None
        tile = tile or Image.new("RGB", (TILE, TILE), MISSING)
        row, column = divmod(place, columns)
        left = GAP + column * step + (TILE - tile.width) // 2
        top = GAP + row * step + (TILE - tile.height) // 2
        sheet.paste(tile, (left, top))
    content = BytesIO()
    sheet.save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def _tile(dataset: LabeledDataset, index: int) -> Image.Image | None:
    masks = dataset.masks(index)
    try:
        drawn = masks.overlay(dataset.picture(index))
    except ValueError:
        return None
    drawn.thumbnail((TILE, TILE))
    return drawn
