"""Which files a dataset is made of, found as `datasets` finds them: splits, configurations, a README's `configs`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import fsspec
from datasets import load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HFValidationError

from sam_variants.labeling.stored_files import StoredFile, common_folder, stamp_of
from sam_variants.labeling.web_content import is_remote
from sam_variants.processing.image_loading import is_image_name

NUM_REQUESTS = 16  # at a time
DATA_ENDINGS = (".parquet", ".arrow", ".tar", ".jsonl")
DATA_FOLDER = "data"
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
OWN_RESULTS = "label.json"


class DataFiles(NamedTuple):
    """A split of a dataset.

    Attributes:
        form: what reads it: "parquet", "webdataset", "json", "imagefolder", …
        split: which.
        num_splits: how many there are.
        files: in order.
        path: for `load_dataset`.
        options: for `load_dataset`.
        folder: what relative paths in rows are relative to.
    """

    form: str
    split: str
    num_splits: int
    files: list[StoredFile]
    path: str
    options: Mapping[str, Any]
    folder: str


def tells_a_dataset(folder: str, has_columns: bool) -> bool:
    """Whether a folder is a dataset rather than a folder of images.

    Args:
        folder: which.
        has_columns: columns were named, so that images with a table beside them are a dataset too.

    Raises:
        ValueError: it has images and a dataset's files.
    """
    names = sorted(os.listdir(folder))
    if OWN_RESULTS in names or (has_columns and any(name in names for name in METADATA)):
        return True
    inside = os.path.join(folder, DATA_FOLDER)
    tables = [name for name in names if name.lower().endswith(DATA_ENDINGS) and name not in METADATA]
    if os.path.isdir(inside):
        tables += [
            f"{DATA_FOLDER}/{name}" for name in sorted(os.listdir(inside)) if name.lower().endswith(DATA_ENDINGS)
        ]
    images = [name for name in names if is_image_name(name) and name[0] != "."]
    if tables and images:
        raise ValueError(
            f"{folder!r} holds images ({images[0]}) and tables ({tables[0]}): say which are meant, such as "
            f"'{os.path.join(folder, '*' + os.path.splitext(images[0])[1])}' or "
            f"'{os.path.join(folder, os.path.dirname(tables[0]), '*' + os.path.splitext(tables[0])[1])}'"
        )
    return bool(tables)


def data_files(source: str, config: str | None, split: str | None) -> DataFiles:
    """Find a dataset's files.

    Args:
        source: a folder here, or a dataset on the Hub, `owner/name` or `owner/name@revision`.
        config: which, where there are several.
        split: which, where there are several.

    Raises:
        ValueError: there is no such dataset, configuration or split, or several and none is named.
        OSError: the Hub can't be reached.
    """
    path, _, revision = (source, "", "") if os.path.isdir(source) else source.partition("@")
    try:
        builder = load_dataset_builder(path, config, revision=revision or None)
    except (DatasetNotFoundError, HFValidationError) as error:
        raise ValueError(f"{source!r} is neither a file or folder here nor a dataset on the Hub: {error}") from error
    except FileNotFoundError as error:
        raise ValueError(f"{source!r} holds no dataset that `datasets` can read: {error}") from error
    except ConnectionError as error:
        raise OSError(f"{source!r} is no file or folder here, and no dataset that can be asked for: {error}") from error
    found = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    chosen = _chosen(source, split, found)
    paths = list(found[chosen])
    options = {"name": config, "revision": _commit(found[chosen]) or revision or None}
    return DataFiles(_form(builder), chosen, len(found), described(paths), path, options, common_folder(paths))


def _commit(files: Any) -> str | None:
    """Of a dataset of the Hub, which is opened again at the same commit wherever its name leads then."""
    return next((origin[1] for origin in files.origin_metadata if len(origin) == 2), None)


def _chosen(source: str, split: str | None, found: Mapping[str, Any]) -> str:
    if split in found:
        return str(split)
    if split is None and len(found) == 1:
        return next(iter(found))
    problem = f"{source!r} has several splits" if split is None else f"{source!r} has no split {split!r}"
    raise ValueError(f"{problem}: {list(found)}. Say which: --split {next(iter(found), 'train')}")


def _form(builder: Any) -> str:
    """The name of the module that a builder made from a README stands on."""
    return type(builder).__module__.rpartition(".")[2]


def described(paths: Sequence[str]) -> list[StoredFile]:
    """Files with their sizes and what changes when they are written again. Raises: OSError."""
    root = common_folder(paths)
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        details = list(pool.map(_details, paths))
    return [StoredFile(path[len(root) :], path, *detail) for path, detail in zip(paths, details, strict=True)]


def _details(path: str) -> tuple[int | None, str]:
    if not is_remote(path):
        status = os.stat(path)
        return status.st_size, str(status.st_mtime_ns)
    storage, name = fsspec.core.url_to_fs(path)
    details = storage.info(name)
    return details.get("size"), stamp_of(details)
