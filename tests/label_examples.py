"""Tiny images in every form that they are labeled from."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from sam_variants.labeling.items import Item, Source

OUT = Path("/nonexistent/labeled")


def png(number: int = 0) -> bytes:
    """A picture of its own."""
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """A tar with these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files of these names below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def every_item(source: Source) -> Iterator[Item]:
    """All parts in order."""
    for part in source.parts:
        yield from source.read(part.index, 0)


def numbers(items: Iterable[Item]) -> list[int | None]:
    """Which pictures of `png` the items hold; None for one with an error."""
    known = {png(number): number for number in range(64)}
    return [known[item.encoded] if item.encoded is not None else None for item in items]


def check_source(source: Source, *others: Source) -> list[Item]:
    """What holds of every source: the same in every run and process, from any row on, and unique keys.

    Args:
        source: which.
        others: the same, opened once more or pickled.

    Returns:
        All items.
    """
    whole = [list(source.read(part.index, 0)) for part in source.parts]
    for part, items in zip(source.parts, whole, strict=True):
        assert part.num_rows in (None, len(items))
        for start in {1, 2, len(items) // 2, len(items) - 1, len(items), len(items) + 3} - {-1}:
            assert list(map(str, source.read(part.index, start))) == list(map(str, items[start:])), (part, start)
    assert [part.index for part in source.parts] == list(range(len(whole)))
    items = [item for part in whole for item in part]
    keys = [item.key for item in items]
    assert len(set(keys)) == len(keys)
    assert all((item.error is None) != (item.encoded is None) for item in items)
    with pytest.raises(IndexError):
        list(source.read(len(whole), 0))
    for again in others:
        assert again.description() == source.description()
        assert list(again.listing()) == list(source.listing())
        assert list(again.parts) == list(source.parts)
        assert list(map(str, every_item(again))) == list(map(str, items))
    return items
