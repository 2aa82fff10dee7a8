"""Where datasets come from: `datasets` objects, the Hub, and folders and files on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, get_dataset_split_names, load_dataset, load_from_disk
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import metadata_load

from sam_variants.training.mask_files import (
    coco_dataset,
    coco_files,
    files_checksum,
    image_and_mask_folders,
    is_coco,
    paired_dataset,
)

TABLES = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tar": "webdataset",
}
LAYOUTS = """a folder may be: images/ and masks/ (a label map, or a folder of PNGs, of the image's name);
images and a COCO file (*.json with "images" and "annotations"); images with metadata.jsonl; parquet; save_to_disk's;
what README.md describes as a dataset of the Hub"""
CARD_FILE = "README.md"


@dataclass(frozen=True)
class OpenedSource:
    """A dataset, what to call it, and what its rows don't tell about its files (for fingerprints).

    Attributes:
        dataset: one split.
        name: for reports.
        files: a checksum over names, sizes and times of the files that rows only point to; "" where there are none.
    """

    dataset: Dataset | IterableDataset
    name: str
    files: str = ""


def open_source(
    source: Any,
    split: str | None = None,
    streaming: bool = False,
    config: str | None = None,
    images: str | Path | None = None,
) -> OpenedSource:
    """Open one split of a dataset.

    Args:
        source: a `datasets` object, a folder or file, or a Hub id.
        split: which, where there are several.
        streaming: read row after row instead of by number; from the Hub without downloading everything before.
        config: which configuration of a dataset on the Hub that has several.
        images: the folder of the images that a COCO file names, where it isn't beside the file.

    Raises:
        ValueError: no such split, several and none named, or a folder without a known layout.
        FileNotFoundError: neither a folder, a file, nor a dataset on the Hub.
        TypeError: no source at all.
    """
    if isinstance(source, Mapping):
        opened = OpenedSource(pick_split(source, split), f"split {split!r}" if split else "dataset")
    elif isinstance(source, Dataset | IterableDataset):
        if split is not None:
            raise ValueError(f"split={split!r} was given, but the dataset is one split already: leave it out")
        opened = OpenedSource(source, "dataset")
    elif not isinstance(source, str | Path):
        raise TypeError(
            f"a dataset is a datasets.Dataset, IterableDataset or DatasetDict, a folder, a file, or a Hub id; "
            f"got {type(source).__name__}"
        )
    elif Path(source).expanduser().exists():
        opened = open_path(Path(source).expanduser(), split, streaming, config, images)
    else:
        opened = OpenedSource(open_hub(str(source), split, streaming, config), str(source))
    if streaming and isinstance(opened.dataset, Dataset):
        opened = replace(opened, dataset=opened.dataset.to_iterable_dataset())
    return opened


def pick_split(splits: Mapping[str, Any], split: str | None) -> Dataset | IterableDataset:
    """The named split, or the only one. Raises: ValueError, which lists them."""
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is not None and split in splits:
        return splits[split]
    sizes = ", ".join(
        f"{name!r}{f' ({len(rows)} rows)' if hasattr(rows, '__len__') else ''}" for name, rows in splits.items()
    )
    problem = "the dataset has several splits" if split is None else f"the dataset has no split {split!r}"
    raise ValueError(f'{problem}: {sizes}. Say which: split="{next(iter(splits), "train")}"')


def open_hub(source: str, split: str | None, streaming: bool, config: str | None) -> Dataset | IterableDataset:
    """One split of a dataset on the Hub; with one split, that."""
    try:
        if split is None:
            names = get_dataset_split_names(source, config)
            split = names[0] if len(names) == 1 else None
            if split is None:
                raise ValueError(f'{source} has several splits: {names}. Say which: split="{names[0]}"')
        return load_dataset(source, config, split=split, streaming=streaming)
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{source!r} is neither a folder or file here nor a dataset on the Hub that can be read: {error}"
        ) from error


def open_path(
    path: Path, split: str | None, streaming: bool, config: str | None = None, images: str | Path | None = None
) -> OpenedSource:
    """A file or folder on this machine, by the first layout that fits."""
    if path.is_file():
        return _open_file(path, split, streaming, images)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return OpenedSource(_one_split(load_from_disk(str(path)), split), path.name)
    if _is_described(path, config):
        return OpenedSource(_load(str(path), split, streaming, name=config), path.name)
    if not _has_layout(path):
        parts = {folder.name: folder for folder in sorted(path.iterdir()) if folder.is_dir() and _has_layout(folder)}
        if not parts:
            return OpenedSource(_load(str(path), split, streaming, name=config), path.name)
        return open_path(_picked(parts, split, path), None, streaming, config, images)
    if pair := image_and_mask_folders(path):
        common = {
            part.name: part.name
            for part in sorted(pair[0].iterdir())
            if part.is_dir() and (pair[1] / part.name).is_dir()
        }
        if not any(file.is_file() for file in pair[0].iterdir()) and common:
            part = _picked(common, split, path)
            return _opened(paired_dataset(pair[0] / part, pair[1] / part), f"{path.name}/{part}")
        _no_split(split, path)
        return _opened(paired_dataset(*pair), path.name)
    files = {file.stem: file for file in coco_files(path)}
    if split is not None and len(files) > 1:
        files = {stem: file for stem, file in files.items() if split in stem} or files
        split = None if len(files) == 1 else split
    return _open_file(
        _picked(files, split, path) if len(files) > 1 else next(iter(files.values())), split, streaming, images
    )


def _open_file(path: Path, split: str | None, streaming: bool, images: str | Path | None) -> OpenedSource:
    if is_coco(path):
        _no_split(split, path)
        return _opened(coco_dataset(path, None if images is None else Path(images)), path.name)
    builder = TABLES.get(path.suffix.lower())
    if builder is None:
        raise ValueError(f"{path} is no dataset: files may be {sorted(TABLES)}, or COCO's *.json; {LAYOUTS}")
    return OpenedSource(_load(builder, split, streaming, data_files=str(path)), path.name)


def _load(builder: str, split: str | None, streaming: bool, **options: Any) -> Dataset | IterableDataset:
    try:
        return _one_split(load_dataset(builder, streaming=streaming, **options), split)
    except FileNotFoundError as error:
        raise ValueError(f"{builder} holds no dataset: {error}; {LAYOUTS}") from error


def _opened(found: tuple[Dataset, list[Path]], name: str) -> OpenedSource:
    dataset, files = found
    return OpenedSource(dataset, name, files_checksum(files))


def _one_split(dataset: Any, split: str | None) -> Dataset | IterableDataset:
    if isinstance(dataset, Mapping):
        return pick_split(dataset, split)
    if split is not None:
        raise ValueError(f"split={split!r} was given, but the dataset is one split already: leave it out")
    return dataset


def _no_split(split: str | None, path: Path) -> None:
    if split is not None:
        raise ValueError(f"split={split!r} was given, but {path} has no parts: leave it out")


def _is_described(folder: Path, config: str | None) -> bool:
    """Whether a folder's card says which of its files are the dataset, as on the Hub; no other layout counts then."""
    try:
        card = metadata_load(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else None
        configs = {each["config_name"]: each for each in (card or {}).get("configs", ())}
    except Exception:  # what is no YAML, or not the Hub's, describes nothing
        return False
    if config is None:
        return len(configs) == 1 or any(each.get("default", name == "default") for name, each in configs.items())
    return config in configs


def _has_layout(folder: Path) -> bool:
    return image_and_mask_folders(folder) is not None or bool(coco_files(folder))


def _picked(parts: Mapping[str, Any], split: str | None, path: Path) -> Any:
    if split is None and len(parts) == 1:
        return next(iter(parts.values()))
    if split is not None and split in parts:
        return parts[split]
    problem = f"{path} has several parts" if split is None else f"{path} has no part {split!r}"
    raise ValueError(f'{problem}: {sorted(parts)}. Say which: split="{next(iter(parts))}"')
