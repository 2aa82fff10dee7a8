"""Masks as files: what a visitor or a caller takes home, at the photo's original size.

In a tab, inside `gr.Blocks`, with `visit` a `gr.State` and `canvas` a canvas (any components will do):

    download_row(answer, [visit, canvas])            # one button for each of FORMATS

where `answer(visit, value)` returns a `ToSave`, its masks at the photo's original size, and raises `gr.Error` where
there is nothing yet. For any other file that is made when it is asked for, `download_button(title, make, inputs)` with
`make(*values)` returning its path (`photos.cache_file` gives a good one). Without a page: `write(name, masks, photo)`.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
from gradio.components import Component

from sam_variants import Masks
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.file_formats import FORMATS, Format, safe_name
from sam_variants.spaces_demo.photos import Photo, cache_file

__all__ = ["FORMATS", "Format", "ToSave", "download_button", "download_row", "write"]

NOTHING = "There is no mask to save yet. Make one first."
SLOW = "Writing takes a while for so large a photo. The download starts by itself."
# Of one photo; the oldest go first. The browser asks for a file as soon as it is written.
FILES_PER_PHOTO = 8
# So many cost about as much as the photo itself.
MASKS_PER_PHOTO = 10
# At the same time for all visitors, and large photos one by one: each takes up to a gigabyte while it is written.
AT_ONCE = 4
_LARGE = Lock()

# A `DownloadButton` gives the file that it had before the click. So that the file is the one just made, a hidden one
# holds it, and the browser is told to fetch it when it has arrived.
SAVE = """(file) => {
    if (!file?.url) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name ?? "";
    document.body.append(link);
    link.click();
    link.remove();
}"""


@dataclass(frozen=True)
class ToSave:
    """What the files are made of.

    Attributes:
        masks: at the photo's original size.
        photo: the visitor's.
        names: what the objects are called, one for each mask; None where they have no names.
    """

    masks: Masks
    photo: Photo
    names: Sequence[str] | None = None


def write(name: str, masks: Masks, photo: Photo, names: Sequence[str] | None = None) -> Path:
    """Write one of `FORMATS` into gradio's cache, which deletes it when it is old, in a folder that nobody can guess.

    Args:
        name: key in `FORMATS`.
        masks, photo, names: as in `ToSave`.

    Returns:
        The file, called after the photo.

    Raises:
        gr.Error: for an unknown format, no masks, and an upload that was deleted meanwhile.
        ValueError: for masks or names that don't belong to the photo.
    """
    if name not in FORMATS:
        raise gr.Error(
            f"The format {str(name)[:40]!r} is unknown. Choose one of {', '.join(FORMATS)}.", print_exception=False
        )
    if not len(masks):
        raise gr.Error(NOTHING, print_exception=False)
    if masks.size != photo.size or (names is not None and len(names) != len(masks)):
        raise ValueError(f"{len(masks)} masks of {masks.size}, {names and len(names)} names, a photo of {photo.size}")
    kind = FORMATS[name]
    folder = f"files-{photo.id}"
    path = cache_file(f"{folder}/{uuid.uuid4().hex}", safe_name(photo.name, "photo") + kind.ending(masks))
    _delete_oldest(path.parent.parent)
    with _LARGE if _megapixels(photo) > limits.LARGE_MEGAPIXELS else nullcontext():
        kind.write(path, masks, photo, names)
    return path


def _megapixels(photo: Photo) -> float:
    return photo.width * photo.height / 1e6


def _delete_oldest(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime_ns)
    for old in files[:-FILES_PER_PHOTO]:
        shutil.rmtree(old, ignore_errors=True)


def download_row(
    answer: Callable[..., ToSave], inputs: Sequence[Component], *, formats: Sequence[str] = tuple(FORMATS)
) -> list[gr.Button]:
    """A row of buttons, one for each format; a click makes the file and downloads it.

    Args:
        answer: called with the values of `inputs` at each click; says what to save, or raises gr.Error.
        inputs: components.
        formats: keys in `FORMATS`.

    Returns:
        The buttons.
    """

    def make(name: str, *values: Any) -> Path:
        found = answer(*values)
        if _megapixels(found.photo) * max(1, len(found.masks) / MASKS_PER_PHOTO) > limits.LARGE_MEGAPIXELS:
            gr.Info(SLOW)
        return write(name, found.masks, found.photo, found.names)

    with gr.Row(elem_classes="download-row"):
        return [download_button(FORMATS[name].title, partial(make, name), inputs) for name in formats]


def download_button(title: str, make: Callable[..., Path | str], inputs: Sequence[Component], **look: Any) -> gr.Button:
    """A button that downloads a file made at the click.

    Args:
        title: on the button.
        make: called with the values of `inputs`; returns the file, or raises gr.Error.
        inputs: components.
        look: further arguments of `gr.Button`.
    """
    button = gr.Button(title, **{"size": "sm", "min_width": 96, **look})
    holder = gr.DownloadButton(visible="hidden")
    made = button.click(
        lambda *values: str(make(*values)),
        list(inputs),
        holder,
        concurrency_id="download",
        concurrency_limit=AT_ONCE,
        show_progress="hidden",
        api_visibility="private",
    )
    made.success(None, holder, None, js=SAVE, api_visibility="private")
    return button
