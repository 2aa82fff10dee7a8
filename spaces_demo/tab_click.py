"""The tab "Click and draw": prompts on a photo, answered by a decode each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from time import perf_counter
from typing import Any

import gradio as gr

from sam_variants.mask_drawing import distinct_colors
from sam_variants.spaces_demo.canvas import canvas, mask_props
from sam_variants.spaces_demo.downloads import ToSave, download_row
from sam_variants.spaces_demo.models import store
from sam_variants.spaces_demo.page_parts import card, empty, heading, note, pixels_text, seconds_text
from sam_variants.spaces_demo.photos import Photo, photo_props
from sam_variants.spaces_demo.prompts import ObjectPrompts, read_value
from sam_variants.spaces_demo.python_code import segment_code
from sam_variants.spaces_demo.python_panel import python_panel
from sam_variants.spaces_demo.segmenting import answerable, segment_objects
from sam_variants.spaces_demo.shared import PROMPT, UPLOAD_ID, Shared, about_photo, asked_about, say_if_gone
from sam_variants.spaces_demo.visits import Visit

NO_PHOTO = empty("Masks", "Open a photo or take one of the examples. Then click on a thing.")
NO_PROMPTS = empty("Masks", "Click on a thing in the photo. Click again to add to it, shift-click to take away.")


def add(shared: Shared) -> None:
    """Put the tab's parts on the page."""
    with gr.Row(elem_classes=["workspace"]):
        with gr.Column(scale=7, min_width=320, elem_classes=["stage"]):
            picture = canvas("Photo to click on", elem_id="click-canvas", upload_id=UPLOAD_ID)
        inputs = [picture, shared.visit, shared.model]
        with gr.Column(scale=3, min_width=280, elem_classes=["side"]):
            panel = gr.HTML(NO_PHOTO, elem_id="click-answer")
            gr.HTML(heading("Download"))
            download_row(to_save, inputs)
            python_panel(to_python, inputs)
    asked: dict[str, Any] = {
        "fn": answer,
        "inputs": inputs,
        "outputs": [picture, panel],
        "show_progress": "hidden",
    }
    # The latest prompts hold all before them: those between may be passed over.
    picture.prompt(**asked, trigger_mode="always_last", **PROMPT)
    shared.model.change(**asked, **PROMPT)
    shared.on_photo([picture, panel], fresh)


def fresh(photo: Photo | None) -> tuple[Any, Any]:
    """What a new photo makes of the tab."""
    return gr.HTML(photo=photo_props(photo), masks={}), NO_PHOTO if photo is None else NO_PROMPTS


def answer(value: Any, visit: Visit, model: str) -> tuple[Any, Any]:
    """The masks for the client's prompts, and a line about each."""
    photo = visit.photo
    if photo is None or not about_photo(value, photo):
        say_if_gone(value, visit)
        return gr.skip(), gr.skip()
    objects = read_value(value, photo)
    answered = [item for item in objects if answerable(item)]
    loaded = store().get(model)
    start = perf_counter()
    masks = segment_objects(loaded, photo, answered, size=photo.preview_size)
    shown = mask_props(masks, [item.id for item in answered], photo=photo.id, version=value["version"], size=photo.size)
    took = perf_counter() - start
    return gr.HTML(masks=shown), summary(objects, shown, photo, took)


def to_save(value: Any, visit: Visit, model: str) -> ToSave:
    """The masks of the client's prompts at the photo's original size.

    Raises:
        gr.Error: where there is nothing to save.
    """
    photo, objects = asked_about(value, visit)
    return ToSave(segment_objects(store().get(model), photo, objects), photo, [item.name for item in objects])


def to_python(value: Any, visit: Visit, model: str) -> str:
    """The script that gives the same masks.

    Raises:
        gr.Error: where there are no prompts.
    """
    return segment_code(store().get(model), *asked_about(value, visit))


def summary(objects: Sequence[ObjectPrompts], shown: Mapping[str, Any], photo: Photo, seconds: float) -> str:
    """Each object's colour, name, area and expected IoU, as HTML."""
    if not objects:
        return NO_PROMPTS
    found = {item["id"]: item for item in shown["objects"]}
    rows = "".join(object_row(item, found.get(item.id), photo) for item in objects)
    return card(
        "Masks",
        f'<ul class="objects">{rows}</ul>',
        note(f"Answered in {seconds_text(seconds)}; the photo was encoded before."),
    )


def object_row(item: ObjectPrompts, found: Mapping[str, Any] | None, photo: Photo) -> str:
    """One line of the summary."""
    red, green, blue = distinct_colors([item.id])[0].tolist()
    if found is None:
        text = "Click on the thing itself too, with include."
    else:
        text = f"{pixels_text(round(found['area']), photo.size)}, expected IoU {found['score']:.2f}"
    return (
        f'<li><i style="background:rgb({red},{green},{blue})"></i><b>{escape(item.name)}</b>'
        f"<span>{escape(text)}</span></li>"
    )
