"""Photos to start with: a row of thumbnails, each taken with one click."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from sam_variants.processing.video_reader import read_frames

EXAMPLES = Path(__file__).parent / "examples"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mov")
THUMBNAIL = (176, 132)
ON_LOAD = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('take', { index: Number(button.dataset.index) });
});
"""


@dataclass(frozen=True)
class Example:
    """A file that is part of the Space.

    Attributes:
        path: in the folder `examples`.
        title: what it shows.
        credit: licence and source in a line.
    """

    path: Path
    title: str
    credit: str


@cache
def examples(suffixes: tuple[str, ...] = PHOTO_SUFFIXES) -> list[Example]:
    """The examples of a kind, in the order of `examples.json`."""
    rows = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(EXAMPLES / row["file"], row["title"], f"{row['licence']}; {row['source']}")
        for row in rows
        if row["file"].endswith(suffixes)
    ]


@cache
def thumbnail(path: Path) -> str:
    """A small picture as a data URI: the page asks for no further file."""
    picture = ImageOps.fit(first_picture(path), THUMBNAIL)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def first_picture(path: Path) -> Image.Image:
    """A photo, or the first frame of a video, RGB."""
    if path.suffix in VIDEO_SUFFIXES:
        return Image.fromarray(next(iter(read_frames(path, stop=1))).image)
    with Image.open(path) as opened:
        return opened.convert("RGB")


def example_strip(chosen: Sequence[Example], *, elem_id: str) -> gr.HTML:
    """The thumbnails; its event `take` says which one (`taken` reads it)."""
    shown = [
        {"title": example.title, "credit": example.credit, "picture": thumbnail(example.path)} for example in chosen
    ]
    return gr.HTML(
        value=shown,  # type: ignore[arg-type]
        html_template=(
            '<ul class="examples" aria-label="Examples">{{#each value}}<li>'
            '<button type="button" data-index="{{@index}}" title="{{this.title}} ({{this.credit}})">'
            '<img src="{{this.picture}}" alt="" width="88" height="66"><span>{{this.title}}</span></button>'
            "</li>{{/each}}</ul>"
        ),
        js_on_load=ON_LOAD,
        elem_id=elem_id,
        elem_classes=["examples-block"],
        apply_default_css=False,
        container=False,
        show_label=False,
    )


def taken(event: gr.EventData, chosen: Sequence[Example]) -> Example:
    """The example that a `take` event means.

    Raises:
        gr.Error: for anything that was not offered.
    """
    index: Any = getattr(event, "index", None)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(chosen):
        raise gr.Error("There is no such example. Reload the page and take one of those shown.", print_exception=False)
    return chosen[index]
