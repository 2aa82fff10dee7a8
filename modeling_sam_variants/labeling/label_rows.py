"""Rows of tables as images to label: which column is what, and what a row's key is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Features, Value
from datasets import Image as ImageFeature

from sam_variants.labeling.items import Item
from sam_variants.labeling.prompt_columns import MissingColumnError, PromptColumns, column_value
from sam_variants.labeling.web_content import is_remote
from sam_variants.processing.image_loading import URL_PREFIXES
from sam_variants.training.mask_columns import feature_text

IMAGE_NAMES = ("image", "img", "photo", "picture", "jpg", "jpeg", "png", "webp")
PATH_NAMES = ("image_path", "file_name", "filename", "image_url", "url", "path", "file", "filepath", "uri")
TEXT_TYPES = ("string", "large_string", "string_view")
BYTES_TYPES = ("binary", "large_binary", "binary_view")


@dataclass(frozen=True)
class ChosenColumns:
    """The columns that were named on the command line; None: to be found, or there are none.

    Attributes:
        image: images as bytes, as {"bytes", "path"}, or paths and URLs.
        key: what names a row.
        prompts: what is asked about; None for everything.
    """

    image: str | None = None
    key: str | None = None
    prompts: PromptColumns | None = None

    @property
    def names(self) -> list[str]:
        """All that are named."""
        prompts = self.prompts.names if self.prompts else []
        return [name for name in (self.image, self.key) if name is not None] + prompts

    def described(self) -> dict[str, Any]:
        """For a source's description: what is set, by its name."""
        prompts = self.prompts
        values = {"image_column": self.image, "key_column": self.key}
        if prompts:
            values |= {
                "boxes_column": prompts.boxes,
                "points_column": prompts.points,
                "category_column": prompts.categories,
                "box_format": prompts.box_format if prompts.boxes else None,
            }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class RowReader:
    """Turns rows into items.

    Args:
        columns: with `image`.
        folder: what relative paths are relative to, a folder or URL. Rows that come from elsewhere may point to the web
            and to where they come from, not to files here.
        has_cached_files: `datasets` has downloaded the files of its image columns, so that these point to files here.
    """

    columns: ChosenColumns
    folder: str
    has_cached_files: bool = False

    def item(self, row: Mapping[str, Any], key: str) -> Item:
        """A row; what is wrong with it becomes its error.

        Args:
            row: values by column, images not decoded.
            key: for rows without a column of keys.
        """
        path = None
        try:
            if self.columns.key is not None:
                named = column_value(row, self.columns.key)
                if named is None or named == "":
                    raise ValueError(f"there is nothing in the column of keys, {self.columns.key!r}")
                key = str(named)
            encoded, path = self._image(column_value(row, self.columns.image or IMAGE_NAMES[0]))
            prompts = self.columns.prompts.read(row) if self.columns.prompts else None
        except ValueError as error:
            return Item(key, path=path, error=str(error))
        return Item(key, encoded, path, prompts)

    def _image(self, value: Any) -> tuple[bytes | None, str | None]:
        """The content, or where it is."""
        is_cached = self.has_cached_files and isinstance(value, Mapping)
        if isinstance(value, Mapping):
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if isinstance(value, bytes | bytearray | memoryview) and len(value):
            return bytes(value), None
        if not isinstance(value, str) or not value:
            raise ValueError(f"column {self.columns.image!r} holds no image: {value!r:.60}")
        path = value if is_remote(value) or os.path.isabs(value) else joined(self.folder, value)
        if is_remote(self.folder) and not is_cached and not path.startswith((*URL_PREFIXES, self._scheme())):
            raise ValueError(f"a row of {self.folder} points to {value!r}, which is neither there nor on the web")
        return None, path

    def _scheme(self) -> str:
        return self.folder.partition("://")[0] + "://"


def joined(folder: str, name: str) -> str:
    """The path of a file in a folder or below a URL."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.normpath(os.path.join(folder, name))


def with_image_column(columns: ChosenColumns, features: Features | None) -> ChosenColumns:
    """Check the columns against what there is, and find that of the images where it isn't named.

    Raises:
        ValueError: no such column, or none or several that could be the images.
    """
    if features is None:
        if columns.image is None:
            raise ValueError("the rows don't tell their columns: name that of the images with --image-column")
        return columns
    for name in columns.names:
        if not _has(features, name):
            raise MissingColumnError(f"there is no column {name!r}; {columns_text(features)}")
    if columns.image is not None:
        return columns
    return ChosenColumns(find_image_column(features), columns.key, columns.prompts)


def _has(features: Mapping[str, Any], name: str) -> bool:
    """Whether there is a column, which may be nested; what texts hold as JSON only the rows tell."""
    if name in features:
        return True
    for known, feature in features.items():
        if name.startswith(f"{known}."):
            inner = getattr(feature, "feature", feature)
            return not isinstance(inner, Mapping) or _has(inner, name[len(known) + 1 :])
    return False


def find_image_column(features: Features) -> str:
    """The column of images: by its type, else by the name of a column of bytes, paths or URLs.

    Raises:
        ValueError: there is none, or there are several.
    """
    typed = [name for name, feature in features.items() if isinstance(feature, ImageFeature) or _is_struct(feature)]
    named = [name for name in IMAGE_NAMES if name in features and _is_value(features[name], TEXT_TYPES + BYTES_TYPES)]
    paths = [name for name in PATH_NAMES if name in features and _is_value(features[name], TEXT_TYPES)]
    for found in (typed, named, paths):
        if "image" in found:
            return "image"
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{found} could each be the images; {columns_text(features)}")
    raise ValueError(f"no column looks like images; {columns_text(features)}")


def _is_struct(feature: Any) -> bool:
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def _is_value(feature: Any, types: tuple[str, ...]) -> bool:
    return isinstance(feature, Value) and feature.dtype in types


def columns_text(features: Features) -> str:
    """The columns of a table, and how to name one."""
    listed = ", ".join(f"{name!r}: {feature_text(feature)}" for name, feature in features.items())
    return f"the columns are {listed}. Name the one that is meant: --image-column {next(iter(features), 'image')}"
