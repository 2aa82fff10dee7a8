"""Images named on the command line: files, folders, patterns and URLs, and the names of what is made of them."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

from sam_variants.processing.image_loading import URL_PREFIXES, is_image_name


def find_images(sources: Sequence[str], recursive: bool, out: Path) -> list[str]:
    """Every image that is meant, once, in the order given; those of a folder or pattern by name.

    Args:
        sources: files, folders, patterns such as `photos/*.jpg`, and http(s) URLs.
        recursive: look into the folders below a folder too.
        out: where results go: what a folder holds there is not taken for images.

    Raises:
        ValueError: for a file that isn't there, a folder or pattern without images, and results among the images.
    """
    found: dict[str, str] = {}
    for source in sources:
        for path in [source] if source.startswith(URL_PREFIXES) else _local_images(source, recursive, out.resolve()):
            key = path if path.startswith(URL_PREFIXES) else str(Path(path).resolve())
            found.setdefault(key, path)
    return list(found.values())


def _local_images(source: str, recursive: bool, out: Path) -> list[str]:
    path = Path(source)
    if path.is_file():
        return [source]
    if path.is_dir():
        if path.resolve() == out:
            raise ValueError(f"--out is the folder of the images, {source!r}; results would be taken for images later")
        images = [str(file) for file in sorted(_files_in(path, recursive, out)) if is_image_name(file)]
        if not images:
            below = "" if recursive else "; --recursive looks into the folders below"
            raise ValueError(f"the folder {source!r} holds no images{below}")
        return images
    if glob.has_magic(source):
        images = [name for name in sorted(glob.glob(source, recursive=True)) if Path(name).is_file()]
        if not images:
            raise ValueError(f"no file fits the pattern {source!r}")
        return images
    raise ValueError(f"there is no image file or folder {source!r}")


def _files_in(folder: Path, recursive: bool, out: Path) -> Iterator[Path]:
    holds_results = folder.resolve() in out.parents
    for path in folder.rglob("*") if recursive else folder.iterdir():
        is_result = holds_results and out in path.resolve().parents
        if path.is_file() and path.name[0] != "." and not is_result:
            yield path


def file_name(source: str) -> str:
    """The name of a file, or of what a URL points at."""
    return Path(urlparse(source).path if source.startswith(URL_PREFIXES) else source).name


def unique_stems(sources: Sequence[str]) -> list[str]:
    """A name for the results of each image: the file's without its ending, with a number where it is taken."""
    stems: list[str] = []
    taken: set[str] = set()
    for source in sources:
        stem = base = Path(file_name(source)).stem or "image"
        number = 1
        while stem.casefold() in taken:  # some file systems don't tell cases apart
            number += 1
            stem = f"{base}_{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems
