"""WebDataset tars as a source: files of one name but for the ending are one image and what belongs to it."""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from gzip import BadGzipFile
from typing import Any, NamedTuple

import numpy as np

from sam_variants.labeling.image_content import with_content
from sam_variants.labeling.items import Item, Listed, Part
from sam_variants.labeling.label_rows import ChosenColumns, RowReader
from sam_variants.labeling.prompt_columns import MissingColumnError, column_value
from sam_variants.labeling.stored_files import StoredFile, patiently
from sam_variants.labeling.web_content import MAX_FILE_BYTES
from sam_variants.processing.image_loading import is_image_name

BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, BadGzipFile)
KEY = "__key__"


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        sample: the name that it shares with others.
        field: the rest of its name.
        content: None where it wasn't read.
        error: why it can't be read.
    """

    sample: str
    field: str
    content: bytes | None
    error: str | None = None


class TarSource:
    """Samples of tars; a part is a tar.

    A tar that breaks off ends with an item that tells the error; the others go on.

    Args:
        files: at least one.
        columns: endings of members, such as "jpg"; "json.boxes" is in a member that ends in .json.
        name: for the description.

    Raises:
        ValueError: the first sample hasn't the columns that were named.
        OSError: the first tar can't be read now.
    """

    def __init__(self, files: Sequence[StoredFile], columns: ChosenColumns, name: str) -> None:
        self.files, self.columns, self.name = files, columns, name
        self._check_first()

    def description(self) -> dict[str, Any]:
        """Kind, name and columns."""
        return {"kind": "webdataset", "name": self.name, **self.columns.described()}

    def listing(self) -> Iterator[Listed]:
        """The tars."""
        return (file.listed() for file in self.files)

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The tars, which don't tell how many samples they hold."""
        return [Part(index, file.name, None) for index, file in enumerate(self.files)]

    def read(self, part: int, start: int) -> Iterator[Item]:
        """The samples of a tar; those before `start` are passed over without reading what they hold.

        Raises:
            OSError: the tar can't be read now.
        """
        return with_content(patiently(lambda row: self._items(self.files[part], row), start))

    def _items(self, file: StoredFile, start: int) -> Iterator[Item]:
        row, taken = 0, _Names(file.name)
        with file.open() as opened:
            samples = _samples(opened, self._is_used, start)
            while True:
                try:
                    sample = next(samples)
                except StopIteration:
                    return
                except BROKEN as error:
                    if row >= start:
                        yield Item(f"{file.name}#rest", error=f"the tar is broken after {row} images: {_text(error)}")
                    return
                key = taken.unique(sample[0].sample)
                if row >= start:
                    yield self._item({member.field: member for member in sample}, key, os.path.dirname(file.path))
                row += 1

    def _is_used(self, field: str) -> bool:
        is_image = self.columns.image is None and is_image_name(f"x.{field}")
        return is_image or any(_is_in(name, field) for name in self.columns.names)

    def _item(self, sample: Mapping[str, Member], key: str, folder: str) -> Item:
        try:
            chosen = self._with_image(sample)
            used = [member for member in sample.values() if any(_is_in(name, member.field) for name in chosen.names)]
            for member in used:
                if member.error is not None:
                    raise ValueError(f"the member .{member.field} {member.error}")
            row = {member.field: decoded(member.field, member.content or b"") for member in used}
            return RowReader(chosen, folder).item({**row, KEY: next(iter(sample.values())).sample}, key)
        except ValueError as error:
            return Item(key, error=str(error))

    def _with_image(self, sample: Mapping[str, Member]) -> ChosenColumns:
        if self.columns.image is not None:
            if self.columns.image not in sample:
                raise MissingColumnError(f"there is no {self.columns.image!r} in the sample, only {sorted(sample)}")
            return self.columns
        images = [field for field in sample if is_image_name(f"x.{field}")]
        simple = [field for field in images if "." not in field] or images
        if len(simple) != 1:
            problem = f"{simple} could each be the image" if simple else "there is no image"
            raise ValueError(
                f"{problem} in the sample of {sorted(sample)}; name the ending that is meant: --image-column jpg"
            )
        return ChosenColumns(simple[0], self.columns.key, self.columns.prompts)

    def _check_first(self) -> None:
        """Names that nothing has are mistyped: one error now is better than one per image."""
        try:
            with self.files[0].open() as opened:
                sample = next(_samples(opened, self._is_used, 0), [])
        except BROKEN:
            return
        members = {member.field: member for member in sample}
        for name in self.columns.names if members else []:
            field = next((field for field in members if _is_in(name, field)), None)
            if field is None and name != KEY:
                raise MissingColumnError(
                    f"there is no {name!r} in the first sample of {self.files[0].name}, only {sorted(members)}"
                )
            if field is not None and field != name:
                column_value({field: decoded(field, members[field].content or b"")}, name)


class _Names:
    """Keys of a tar's samples: names, with a number where one comes again."""

    def __init__(self, tar: str) -> None:
        self._tar, self._taken = tar, dict[str, int]()

    def unique(self, sample: str) -> str:
        name = sample
        while name in self._taken:  # a sample may be called as another was named anew
            self._taken[sample] += 1
            name = f"{sample}#{self._taken[sample]}"
        self._taken[name] = 1
        return f"{self._tar}#{name}"


def _is_in(name: str, field: str) -> bool:
    return name == field or name.startswith(f"{field}.")


def _samples(opened: Any, is_used: Callable[[str], bool], start: int) -> Iterator[list[Member]]:
    """Members that are one sample, those that are used with their content from sample `start` on.

    It goes through the file once from its begin to its end, because compressed ones can't go back.

    Raises:
        BROKEN: the tar breaks off, after the last sample of which there is anything.
    """
    row, sample, broken = 0, list[Member](), None
    with tarfile.open(fileobj=opened, mode="r:*") as tar:
        try:
            while (info := tar.next()) is not None:
                # Else a tar of a million files would be remembered whole.
                tar.members = []  # type: ignore[attr-defined]
                name = _sample_and_field(info)
                if name is None:
                    continue
                if sample and (sample[0].sample != name[0] or name[1] in [known.field for known in sample]):
                    yield sample
                    row, sample = row + 1, []
                sample.append(Member(*name, None, "is cut off"))
                sample[-1] = Member(*name, *_content(tar, info, row >= start and is_used(name[1])))
            _check_end(tar)
        except BROKEN as error:
            broken = error
        if sample:
            yield sample
        if broken is not None:
            raise broken


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, is_read: bool) -> tuple[bytes | None, str | None]:
    if info.size > MAX_FILE_BYTES:
        return None, f"has more than {MAX_FILE_BYTES >> 20} MiB"
    reader = tar.extractfile(info) if is_read else None
    return (reader.read() if reader else None), None


def _sample_and_field(info: tarfile.TarInfo) -> tuple[str, str] | None:
    folder, name = os.path.split(info.name)
    stem, dot, field = name.partition(".")
    if not info.isfile() or not stem or not dot:
        return None
    return f"{folder}/{stem}" if folder else stem, field.lower()


def _check_end(tar: tarfile.TarFile) -> None:
    """tarfile takes what is no header for the end."""
    if tar.fileobj is None:
        return
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no header where one should be" if block else "it breaks off: its end is missing")


def decoded(field: str, content: bytes) -> Any:
    """What a member holds, by its ending. Raises: ValueError."""
    decode = DECODERS.get(field.rpartition(".")[2])
    try:
        return decode(content) if decode else content
    except (ValueError, EOFError) as error:
        raise ValueError(f"the member .{field} can't be read: {error}") from error


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "json": json.loads,
    "npy": lambda content: np.load(io.BytesIO(content), allow_pickle=False),
    "txt": bytes.decode,
    "cls": bytes.decode,
}


def _text(error: BaseException) -> str:
    """One line; `tarfile` tells what each compression said of a file that is none of them."""
    text = str(error) or type(error).__name__
    return "it is no tar" if text.startswith("file could not be opened") else " ".join(text.split())
