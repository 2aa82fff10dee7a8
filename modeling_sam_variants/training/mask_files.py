"""Folders of pictures with folders of masks, and COCO files, as datasets whose rows point to the files."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature

from sam_variants.training.mask_adapters import CROWD_KEYS, SEGMENTATION_KEYS, SIZE_KEY

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
MASK_FOLDERS = ("masks", "mask", "labels", "label_maps", "labelmaps", "annotations", "segmentationobject")
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
MASK_ENDING = re.compile(r"[_-](masks?|labels?|seg|gt|instances?)$", re.IGNORECASE)
COCO_HEAD = re.compile(rb'"(images|annotations)"\s*:\s*\[')
HEAD_BYTES = 1 << 16


def image_and_mask_folders(path: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks in a folder, None without both."""
    inner = {folder.name.lower(): folder for folder in path.iterdir() if folder.is_dir()}
    images = next((inner[name] for name in IMAGE_FOLDERS if name in inner), None)
    masks = next((inner[name] for name in MASK_FOLDERS if name in inner and _has_pictures(inner[name])), None)
    return (images, masks) if images and masks else None


def _has_pictures(folder: Path) -> bool:
    return any(file.suffix.lower() in PICTURES for file in folder.rglob("*"))


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, by name."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.is_file())


def paired_dataset(images: Path, masks: Path) -> tuple[Dataset, list[Path]]:
    """Pictures and their masks: label maps of the same name, or folders of that name with a picture per object.

    Returns:
        A dataset with the columns image, masks and file_name, and all files that it points to.

    Raises:
        ValueError: no picture, a picture without a mask, a mask without a picture, or both forms mixed.
    """
    pictures = pictures_in(images)
    if not pictures:
        raise ValueError(f"{images} has no picture ({sorted(PICTURES)})")
    folders = {folder.name: pictures_in(folder) for folder in sorted(masks.iterdir()) if folder.is_dir()}
    maps = {file.stem: file for file in pictures_in(masks)}
    if folders and maps:
        raise ValueError(
            f"{masks} mixes label maps ({_some(maps)}) with folders of masks ({_some(folders)}): use one form"
        )
    stems = {picture.stem for picture in pictures}
    found: dict[str, Any] = {
        stem if stem in stems else MASK_ENDING.sub("", stem): value for stem, value in (folders or maps).items()
    }
    missing, unused = sorted(stems - set(found)), sorted(set(found) - stems)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pictures)} images have no mask in {masks}: {_some(missing)}. A mask has the "
            "image's name; an image without objects needs an empty (black) one"
        )
    if unused:
        raise ValueError(f"{len(unused)} masks in {masks} have no image in {images}: {_some(unused)}")
    chosen = [found[picture.stem] for picture in pictures]
    columns = {
        "image": [str(picture) for picture in pictures],
        "masks": [[str(file) for file in mask] for mask in chosen] if folders else [str(mask) for mask in chosen],
        "file_name": [picture.name for picture in pictures],
    }
    mask_feature = List(ImageFeature()) if folders else ImageFeature()
    features = Features({"image": ImageFeature(), "masks": mask_feature, "file_name": Value("string")})
    files = [*pictures, *(file for mask in chosen for file in (mask if folders else [mask]))]
    return Dataset.from_dict(columns, features=features), files


def is_coco(path: Path) -> bool:
    """Whether a file begins like a COCO dataset; it isn't read as a whole."""
    if path.suffix.lower() != ".json":
        return False
    with path.open("rb") as file:
        return COCO_HEAD.search(file.read(HEAD_BYTES)) is not None


def coco_files(folder: Path) -> list[Path]:
    """COCO datasets in a folder or its `annotations`; those of instances, or of all images, where others lie beside."""
    found = [file for part in (folder, folder / "annotations") for file in sorted(part.glob("*.json")) if is_coco(file)]
    for names in ("annotations", "instances"):
        if chosen := [file for file in found if file.stem.startswith(names)]:
            return chosen
    return found


def coco_dataset(path: Path, images: Path | None = None) -> tuple[Dataset, list[Path]]:
    """The images of a COCO file with their annotations.

    Args:
        path: the file, with "images" and "annotations".
        images: the folder of the images; by default the file's own, one beside or below it, where the first image is.

    Returns:
        A dataset with the columns image, objects (as JSON, because segmentations are of several forms) and file_name,
        and all files that it points to.

    Raises:
        ValueError: no COCO dataset, annotations of images it doesn't list, images that aren't there or come twice.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    entries = content.get("images")
    if not entries or not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path} has no "images" and "annotations" with something in them: {sorted(content)}')
    sizes = _sizes_by_id(path, entries)
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        kept = {key: annotation[key] for key in (*SEGMENTATION_KEYS, *CROWD_KEYS) if key in annotation}
        objects[annotation.get("image_id")].append(kept | sizes.get(annotation.get("image_id"), {}))
    unknown = sorted(map(str, set(objects) - set(sizes)))
    if unknown:
        raise ValueError(f"{path} has annotations of images that it doesn't list: image_id {_some(unknown)}")
    names = [entry["file_name"] for entry in entries]
    root = _image_root(path, names[0], images)
    files = [root / name for name in names]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise ValueError(f"{len(absent)} of {len(files)} images of {path} aren't there: {_some(absent)}")
    columns = {
        "image": [str(file) for file in files],
        "objects": [json.dumps(objects[entry["id"]]) for entry in entries],
        "file_name": names,
    }
    features = Features({"image": ImageFeature(), "objects": Value("large_string"), "file_name": Value("string")})
    return Dataset.from_dict(columns, features=features), [path, *files]


def _sizes_by_id(path: Path, entries: list[Any]) -> dict[Any, dict[str, list[int]]]:
    """For each image's id what its annotations are told of its size: nothing where the file doesn't know it."""
    sizes: dict[Any, dict[str, list[int]]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not {"id", "file_name"} <= set(entry):
            raise ValueError(f'{path} has an image without "id" and "file_name": {entry!r:.80}')
        if entry["id"] in sizes:
            raise ValueError(f"{path} has two images with the id {entry['id']!r}: annotations would belong to both")
        sides = [side for side in (entry.get("height"), entry.get("width")) if isinstance(side, int) and side > 0]
        sizes[entry["id"]] = {SIZE_KEY: sides} if len(sides) == 2 else {}
    return sizes


def _image_root(path: Path, first: str, images: Path | None) -> Path:
    """The folder below which the first image lies."""
    beside = [folder for near in (path.parent, path.parent.parent) for folder in (near, *sorted(near.iterdir()))]
    looked = [images] if images is not None else [folder for folder in beside if folder.is_dir()]
    for folder in looked:
        if (folder / first).is_file():
            return folder
    raise ValueError(
        f"the first image of {path}, {first!r}, is not in {_some([str(folder) for folder in looked])}: put the images "
        'beside the file or name their folder (images="photos")'
    )


def files_checksum(files: Iterable[Path]) -> str:
    """A checksum over names, sizes and times of files: it changes when one of them is written again."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _some(names: Iterable[str], count: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(repr(name) for name in listed[:count]) + more
