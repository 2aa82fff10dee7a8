"""The tab "Compare": two models answer the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from sam_variants.spaces_demo.canvas import canvas, mask_props
from sam_variants.spaces_demo.comparing import Answer, Comparison, compare
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO, store
from sam_variants.spaces_demo.page_parts import card, empty, facts, note, pixels_text, seconds_text
from sam_variants.spaces_demo.photos import Photo, photo_props
from sam_variants.spaces_demo.prompts import ObjectPrompts, read_value
from sam_variants.spaces_demo.python_code import compare_code
from sam_variants.spaces_demo.python_panel import python_panel
from sam_variants.spaces_demo.segmenting import answerable
from sam_variants.spaces_demo.shared import (
    COMPARE,
    UPLOAD_ID,
    Shared,
    about_photo,
    asked_about,
    model_picker,
    say_if_gone,
)
from sam_variants.spaces_demo.visits import Visit

NO_PHOTO = empty("Agreement", "Open a photo or take one of the examples. Click on it: two models answer.")
NO_PROMPTS = empty("Agreement", "Click on a thing in the left photo. Both models get the same prompts.")


def add(shared: Shared) -> None:
    """Put the tab's parts on the page."""
    with gr.Row(elem_classes=["workspace", "pair"]):
        with gr.Column(min_width=320, elem_classes=["stage"]):
            left_model = model_picker("Model on the left", EMBEDDED, elem_id="compare-left-model")
            left = canvas("Photo to click on", elem_id="compare-left", upload_id=UPLOAD_ID)
            left_answer = gr.HTML("", elem_id="compare-left-answer")
        with gr.Column(min_width=320, elem_classes=["stage"]):
            right_model = model_picker("Model on the right", EMBEDDED_VIDEO, elem_id="compare-right-model")
            right = canvas("The same prompts", elem_id="compare-right", mode="view")
            right_answer = gr.HTML("", elem_id="compare-right-answer")
    inputs = [left, shared.visit, left_model, right_model]
    panel = gr.HTML(NO_PHOTO, elem_id="compare-answer")
    python_panel(to_python, inputs, elem_classes=["narrow"])
    outputs = [left, right, left_answer, right_answer, panel]
    asked: dict[str, Any] = {
        "fn": answer,
        "inputs": inputs,
        "outputs": outputs,
        "show_progress": "hidden",
    }
    # Models may have to be fetched first, which must not hold up anybody's clicks.
    left.prompt(**asked, trigger_mode="always_last", **COMPARE)
    for picker in (left_model, right_model):
        picker.input(**asked, trigger_mode="always_last", **COMPARE)
    shared.on_photo(outputs, fresh)


def fresh(photo: Photo | None) -> list[Any]:
    """What a new photo makes of the tab."""
    both = [gr.HTML(photo=photo_props(photo), masks={}, prompts=[]) for _ in range(2)]
    return [*both, "", "", NO_PHOTO if photo is None else NO_PROMPTS]


def answer(value: Any, visit: Visit, left_model: str, right_model: str) -> list[Any]:
    """Both models' masks for the client's prompts."""
    photo = visit.photo
    if photo is None or not about_photo(value, photo):
        say_if_gone(value, visit)
        return [gr.skip()] * 5
    objects = read_value(value, photo)
    answered = [item for item in objects if answerable(item)]
    if not answered:
        props = {"photo": photo.id, "version": value["version"], "objects": []}
        return [gr.HTML(masks=props), gr.HTML(masks=props, prompts=value["objects"]), "", "", NO_PROMPTS]
    found = compare(store().get(left_model), store().get(right_model), photo, answered, size=photo.preview_size)
    ids = [item.id for item in answered]
    shown = [
        mask_props(one.masks, ids, photo=photo.id, version=value["version"], size=photo.size)
        for one in (found.first, found.second)
    ]
    return [
        gr.HTML(masks=shown[0]),
        gr.HTML(masks=shown[1], prompts=value["objects"]),
        summary(found.first, shown[0], photo),
        summary(found.second, shown[1], photo),
        agreement(found, answered),
    ]


def to_python(value: Any, visit: Visit, left_model: str, right_model: str) -> str:
    """The script that makes the same comparison.

    Raises:
        gr.Error: where there is nothing to compare.
    """
    return compare_code(store().get(left_model), store().get(right_model), *asked_about(value, visit))


def summary(one: Answer, shown: Mapping[str, Any], photo: Photo) -> str:
    """One model's time and numbers, as HTML."""
    area = round(sum(item["area"] for item in shown["objects"]))
    score = sum(item["score"] for item in shown["objects"]) / len(shown["objects"])
    return facts(
        [
            ("Decode", seconds_text(one.decode_seconds)),
            ("Encode", seconds_text(one.encode_seconds) if one.encode_seconds >= 0.001 else "done before"),
            ("Area", pixels_text(area, photo.size)),
            ("Expected IoU", f"{score:.2f}"),
        ]
    )


def agreement(found: Comparison, objects: Sequence[ObjectPrompts]) -> str:
    """The IoU of both answers, object by object, as HTML."""
    mean = sum(found.agreement) / len(found.agreement)
    rows = [(item.name, f"IoU {value:.3f}") for item, value in zip(objects, found.agreement, strict=True)]
    words = "They agree" if mean >= 0.9 else "They agree in part" if mean >= 0.5 else "They disagree"
    return card(f"{words}: IoU {mean:.3f}", facts(rows), note("Intersection over union of both masks; 1 is the same."))
