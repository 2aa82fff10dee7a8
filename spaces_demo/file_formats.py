"""The files that masks become: one writer for each, which holds no more than a few pictures of the photo's size."""

from __future__ import annotations

import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sam_variants import Masks, __version__
from sam_variants.spaces_demo.photos import Photo

Names = Sequence[str] | None
MAX_NAME_BYTES = 80
# Windows opens devices under these names, whatever the suffix.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Photographs hardly shrink by trying harder, and it takes five times as long.
PHOTO_COMPRESSION = 1


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        title: on its button.
        description: one sentence for people who have to choose.
        ending: of the file's name, behind the photo's: for one mask, and for several.
        write: makes the file.
    """

    title: str
    description: str
    endings: tuple[str, str]
    write: Callable[[Path, Masks, Photo, Names], None]

    def ending(self, masks: Masks) -> str:
        """What stands behind the photo's name."""
        return self.endings[len(masks) > 1]


def safe_name(name: str, instead: str) -> str:
    """A file name that every system takes and that stays in its folder.

    Args:
        name: anything.
        instead: taken when nothing of it is left.
    """
    kept = ""
    for letter in unicodedata.normalize("NFC", name):
        is_mark = unicodedata.category(letter).startswith("M") and kept[-1:] not in ("", " ")
        kept += letter if letter.isalnum() or letter in "-_.()+" or is_mark else " "
    kept = re.sub(r"\.{2,}", ".", "_".join(kept.split())).strip("._-")
    kept = kept.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip("._-")
    return f"_{kept}" if DEVICES.fullmatch(kept) else kept or instead


def mask_names(names: Names, count: int) -> list[str]:
    """One name for the file of each mask, with its number in front, so that no two are alike."""
    digits = len(str(count))
    known = names or ["mask"] * count
    return [f"{number:0{digits}}-{safe_name(name, 'mask')}.png" for number, name in enumerate(known, 1)]


def write_masks(path: Path, masks: Masks, photo: Photo, names: Names) -> None:
    """Black and white pictures, white on the object; of several masks a zip archive."""
    if len(masks) == 1:
        with path.open("wb") as file:
            _write_mask(file, masks[0])  # a copy, so that the visit keeps no pixels
        return
    # Stored: PNG is compressed already.
    with zipfile.ZipFile(path, "w") as archive:
        for mask, name in zip(masks, mask_names(names, len(masks)), strict=True):
            with archive.open(name, "w", force_zip64=True) as member:
                _write_mask(member, mask)


def _write_mask(file: Any, mask: Masks) -> None:
    Image.fromarray(mask.data[0].numpy()).save(file, format="PNG")


def write_label_map(path: Path, masks: Masks, photo: Photo, names: Names) -> None:
    """The number of the mask in each pixel, 0 where there is none."""
    masks.save_png(path)


def write_cutout(path: Path, masks: Masks, photo: Photo, names: Names) -> None:
    """The photo inside the masks, transparent outside."""
    masks.cutout(photo.image()).save(path, compress_level=PHOTO_COMPRESSION)


def write_overlay(path: Path, masks: Masks, photo: Photo, names: Names) -> None:
    """The photo with the masks tinted and outlined, in the colours of the page."""
    masks.overlay(photo.image()).save(path, compress_level=PHOTO_COMPRESSION)


def write_coco(path: Path, masks: Masks, photo: Photo, names: Names) -> None:
    """A COCO dataset of one image; every name of an object is a category."""
    path.write_text(json.dumps(coco_dataset(masks, photo, names)), encoding="utf-8")


def coco_dataset(masks: Masks, photo: Photo, names: Names) -> dict[str, Any]:
    """What `write_coco` writes."""
    labels = list(names or ["object"] * len(masks))
    categories = {name: number for number, name in enumerate(dict.fromkeys(labels), 1)}
    annotations = masks.to_coco(image_id=1)
    for annotation, label in zip(annotations, labels, strict=True):
        annotation["category_id"] = categories[label]
    return {
        "info": {"description": f"Masks by sam_variants {__version__}"},
        "licenses": [],
        "images": [{"id": 1, "file_name": photo.path.name, "width": photo.width, "height": photo.height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }


FORMATS: dict[str, Format] = {
    "masks": Format(
        "Masks", "Black and white PNG; of several masks a zip archive.", ("-mask.png", "-masks.zip"), write_masks
    ),
    "labels": Format(
        "Label map", "PNG with the number of the mask in each pixel.", ("-labels.png",) * 2, write_label_map
    ),
    "cutout": Format("Cutout", "PNG that is transparent outside the masks.", ("-cutout.png",) * 2, write_cutout),
    "coco": Format("COCO JSON", "Dataset of one image with run-length codes.", ("-coco.json",) * 2, write_coco),
    "overlay": Format("Overlay", "PNG of the photo with tinted masks.", ("-overlay.png",) * 2, write_overlay),
}
