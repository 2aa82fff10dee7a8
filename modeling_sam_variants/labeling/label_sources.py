"""What `sam-variants label` reads: files, URLs, tables, tars and datasets of the Hub as numbered parts."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sam_variants.labeling.coco_rows import CocoOpening
from sam_variants.labeling.data_files import DataFiles, data_files, described, tells_a_dataset
from sam_variants.labeling.dataset_source import DatasetSource, Opening, StreamSource
from sam_variants.labeling.file_listing import lies_in, list_images
from sam_variants.labeling.file_source import FileSource
from sam_variants.labeling.items import Source
from sam_variants.labeling.label_rows import ChosenColumns
from sam_variants.labeling.listed_source import ListedSource
from sam_variants.labeling.parquet_source import ParquetSource
from sam_variants.labeling.prompt_columns import PromptColumns
from sam_variants.labeling.stored_files import StoredFile, common_folder, stored_files
from sam_variants.labeling.tar_source import TarSource
from sam_variants.labeling.web_content import is_remote
from sam_variants.processing.image_loading import URL_PREFIXES, is_image_name
from sam_variants.training.mask_files import is_coco

TAR = re.compile(r"\.(tar(\.(gz|bz2|xz))?|tgz)$", re.IGNORECASE)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
TABLES = {".jsonl": "json", ".json": "json", ".csv": "csv"}
FORMS = (
    "a source is a folder of images, image files or a pattern, URLs, a text file that lists them (@list.txt), Parquet "
    "(*.parquet), WebDataset tars (shards/{000..099}.tar), *.jsonl or *.csv with a column of paths, a COCO file, a "
    "folder of save_to_disk, or a dataset on the Hub (owner/name)"
)


@dataclass(frozen=True)
class Request:
    """What was asked for; `open_label_source` tells what the fields are."""

    sources: Sequence[str]
    rows_per_shard: int
    out: Path
    recursive: bool
    split: str | None
    config: str | None
    streaming: bool
    columns: ChosenColumns

    @property
    def name(self) -> str:
        """For descriptions: without the folders above, which differ from machine to machine."""
        return " ".join(os.path.basename(source.rstrip("/")) or source for source in self.sources)

    def refuse(self, kind: str, *names: str) -> None:
        """Raises: ValueError, if one of these options was given, which mean nothing for a kind of source."""
        for name in names:
            given = self.columns.names if name == "columns" else getattr(self, name)
            if given:
                shown = f"a column was named ({given[0]!r})" if name == "columns" else f"{name}={given!r} was given"
                raise ValueError(f"{shown}, but {self.sources[0]!r} is {kind}: leave it out")

    def files(self) -> list[StoredFile]:
        """The files that are named, without results. Raises: ValueError and OSError of `stored_files`."""
        return stored_files(self.sources, self.out)

    def folder(self) -> str:
        """The one folder that is named, absolute. Raises: ValueError, if results would go into it."""
        _only_one(self)
        path = os.path.abspath(os.path.expanduser(self.sources[0]))
        if lies_in(self.out, path):
            raise ValueError(
                f"--out {str(self.out)!r} lies in {self.sources[0]!r}, a dataset that it would change: put it elsewhere"
            )
        return path


def open_label_source(
    sources: Sequence[str],
    *,
    rows_per_shard: int,
    out: Path,
    recursive: bool = False,
    split: str | None = None,
    config: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    boxes_column: str | None = None,
    points_column: str | None = None,
    category_column: str | None = None,
    key_column: str | None = None,
    box_format: str = "xyxy",
) -> Source:
    """Open images to label, divided into parts that depend on the source and `rows_per_shard` alone.

    Args:
        sources: one or several of one kind: image files, folders of them, patterns; URLs; text files with a URL or a
            path per line (`@list.txt`, `*.txt`); Parquet files; WebDataset tars, with braces (`{000..099}.tar`); or one
            table (`*.jsonl`, `*.csv`, COCO's `*.json`), folder of `save_to_disk`, or dataset on the Hub (`owner/name`,
            or `owner/name@revision`). Relative paths in lists and tables are relative to the file's own folder.
        rows_per_shard: rows of a part, where rows have numbers.
        out: where results go; what lies there is no image, and it doesn't lie in a dataset's folder.
        recursive: look into the folders below a folder of images.
        split: of a dataset with several.
        config: of a dataset with several.
        streaming: read a dataset of the Hub from there instead of downloading it before.
        image_column: the column of images, where it isn't found; in tars the ending of the images.
        boxes_column: the column of boxes; with `points_column` that of points, see `PromptColumns`.
        points_column: None, like `boxes_column`: everything in the images is labeled.
        category_column: the column of what the objects are.
        key_column: the column that names an image; else it is its path, URL, or file and row number.
        box_format: "xyxy", "xywh" or "cxcywh", in pixels.

    Raises:
        ValueError: there is no such source, it has no image or not these columns, or an option means nothing for it.
        OSError: it can't be read now.
    """
    if not sources:
        raise ValueError(f"no source is given; {FORMS}")
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}: a shard has at least one row")
    prompts = None
    if boxes_column or points_column or category_column:
        prompts = PromptColumns(boxes_column, points_column, category_column, box_format)
    elif box_format != "xyxy":
        raise ValueError(
            f"box_format={box_format!r} belongs to boxes: name their column too (--boxes-column objects.bbox)"
        )
    columns = ChosenColumns(image_column, key_column, prompts)
    request = Request(sources, rows_per_shard, Path(out), recursive, split, config, streaming, columns)
    kinds = {source: kind_of_source(source, columns) for source in sources}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{source!r} ({kind})" for source, kind in kinds.items())
        raise ValueError(f"the sources are of several kinds: {listed}. Label one kind after the other")
    return OPENERS[kinds[sources[0]]](request)


def kind_of_source(source: str, columns: ChosenColumns) -> str:
    """Which of `OPENERS` opens a source.

    Raises:
        ValueError: none does.
    """
    path, ending = os.path.expanduser(source), os.path.splitext(source)[1].lower()
    if not is_remote(source) and os.path.isdir(path):
        return _kind_of_folder(path, columns)
    if source.startswith("@") or ending == ".txt":
        return "list"
    if TAR.search(source):
        return "tars"
    if ending == ".parquet":
        return "parquet"
    if is_remote(source):
        return "urls" if source.startswith(URL_PREFIXES) else "storage"
    if ending in TABLES:
        return "table"
    if os.path.lexists(path) or glob.has_magic(source):
        return "files"
    if HUB_NAME.fullmatch(source) and not is_image_name(source):
        return "hub"
    raise ValueError(f"there is no file or folder {source!r}; {FORMS}")


def _kind_of_folder(path: str, columns: ChosenColumns) -> str:
    if any(os.path.isfile(os.path.join(path, name)) for name in ("dataset_dict.json", "state.json")):
        return "saved"
    return "dataset" if tells_a_dataset(path, bool(columns.names)) else "files"


def _open_files(request: Request) -> Source:
    request.refuse("a folder or files of images", "split", "config", "streaming", "columns")
    return FileSource(list_images(request.sources, request.recursive, request.out), request.rows_per_shard)


def _open_urls(request: Request) -> Source:
    request.refuse("the URL of an image", "split", "config", "streaming", "columns", "recursive")
    return ListedSource(request.sources, os.getcwd(), request.rows_per_shard, request.name)


def _open_storage(request: Request) -> Source:
    """Images in object storage: files, patterns and folders."""
    request.refuse("a place of images", "split", "config", "streaming", "columns")
    patterns = []
    for source in request.sources:
        is_folder = not glob.has_magic(source) and not is_image_name(source)
        patterns.append(f"{source.rstrip('/')}/{'**' if request.recursive else '*'}" if is_folder else source)
    images = [file for file in stored_files(patterns) if is_image_name(file.name)]
    folder = common_folder([file.path for file in images])
    return ListedSource((), folder, request.rows_per_shard, request.name, images)


def _open_list(request: Request) -> Source:
    request.refuse("a list of images", "split", "config", "streaming", "columns", "recursive")
    _only_one(request)
    name = request.sources[0].removeprefix("@")
    if is_remote(name):
        raise ValueError(f"{name} is not on this machine, as a list of images must be: download it first")
    path = Path(name).expanduser()
    try:
        with path.open(encoding="utf-8-sig") as lines:
            return ListedSource(lines, str(path.resolve().parent), request.rows_per_shard, path.name)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}; a list has a URL or a path per line") from error


def _open_parquet(request: Request) -> Source:
    request.refuse("Parquet files", "split", "config", "streaming", "recursive")
    return ParquetSource(request.files(), request.columns, request.rows_per_shard, request.name)


def _open_tars(request: Request) -> Source:
    request.refuse("tars", "split", "config", "streaming", "recursive")
    return TarSource(request.files(), request.columns, request.name)


def _open_table(request: Request) -> Source:
    request.refuse("a table", "config", "streaming", "recursive")
    files = request.files()
    paths = [file.path for file in files]
    if not is_remote(paths[0]) and is_coco(Path(paths[0])):
        _only_one(request)
        request.refuse("a COCO file", "split")
        if request.columns.prompts and request.columns.prompts.box_format != "xywh":
            raise ValueError(f"{paths[0]} is a COCO file, in which boxes are a corner and the size: --box-format xywh")
        columns = replace(request.columns, key=request.columns.key or "file_name")
        return DatasetSource(
            CocoOpening(paths[0], None, None, request.name, tuple(files)), columns, request.rows_per_shard
        )
    if len({os.path.dirname(path) for path in paths}) > 1:
        raise ValueError(
            f"the tables lie in several folders, each of which its own paths are relative to: {files[0].name}, …, "
            f"{files[-1].name}. Label one folder's after the other"
        )
    form = TABLES[os.path.splitext(paths[0])[1].lower()]
    # `datasets` takes names for patterns.
    options = {"data_files": [path if is_remote(path) else glob.escape(path) for path in paths]}
    opening = Opening(form, options, request.split or "train", request.name, tuple(files), common_folder(paths))
    return DatasetSource(opening, request.columns, request.rows_per_shard)


def _open_saved(request: Request) -> Source:
    request.refuse("a folder of save_to_disk", "config", "streaming", "recursive")
    path = request.folder()
    files = described([os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names])
    opening = Opening(path, None, request.split, request.name, tuple(sorted(files)), path)
    return DatasetSource(opening, request.columns, request.rows_per_shard)


def _open_dataset(request: Request) -> Source:
    request.refuse("a folder of a dataset", "streaming", "recursive")
    path = request.folder()
    return _open_found(request, data_files(path, request.config, request.split), request.name, True)


def _open_hub(request: Request) -> Source:
    request.refuse("a dataset on the Hub, unless there is a folder of this name", "recursive")
    _only_one(request)
    found = data_files(request.sources[0], request.config, request.split)
    return _open_found(request, found, request.sources[0], request.streaming)


def _open_found(request: Request, found: DataFiles, name: str, is_read_there: bool) -> Source:
    """Parquet and tars are read where they lie, other forms through `datasets`."""
    full_name = f"{name}, split {found.split}" if found.num_splits > 1 else name
    if is_read_there and found.form == "parquet":
        return ParquetSource(found.files, request.columns, request.rows_per_shard, full_name)
    if is_read_there and found.form == "webdataset":
        return TarSource(found.files, request.columns, full_name)
    if request.streaming and found.form == "imagefolder" and not request.columns.names:
        images = [file for file in found.files if is_image_name(file.name)]
        return ListedSource((), found.folder, request.rows_per_shard, full_name, images)
    opening = Opening(found.path, found.options, found.split, name, tuple(found.files), found.folder)
    if request.streaming:
        return StreamSource(opening, request.columns)
    return DatasetSource(opening, request.columns, request.rows_per_shard)


def _only_one(request: Request) -> None:
    if len(request.sources) > 1:
        raise ValueError(f"{request.sources[1]!r} is one source too many: {request.sources[0]!r} is read alone")


OPENERS: dict[str, Callable[[Request], Source]] = {
    "files": _open_files,
    "urls": _open_urls,
    "storage": _open_storage,
    "list": _open_list,
    "parquet": _open_parquet,
    "tars": _open_tars,
    "table": _open_table,
    "saved": _open_saved,
    "dataset": _open_dataset,
    "hub": _open_hub,
}
