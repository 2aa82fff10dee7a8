"""The tab "Everything": all masks of the photo, as picture and as table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import torch

from sam_variants import Masks, TimeSplit
from sam_variants.spaces_demo.background import Result, in_steps
from sam_variants.spaces_demo.canvas import canvas, mask_props
from sam_variants.spaces_demo.downloads import ToSave, download_row
from sam_variants.spaces_demo.everything import (
    MOST_POINTS_PER_SIDE,
    EverythingOptions,
    find_everything,
    suiting_options,
)
from sam_variants.spaces_demo.mask_table import mask_table, table_rows
from sam_variants.spaces_demo.models import EMBEDDED, store
from sam_variants.spaces_demo.page_parts import card, empty, heading, note, progress_bar, split_bar
from sam_variants.spaces_demo.photos import Photo, photo_props
from sam_variants.spaces_demo.python_code import everything_code
from sam_variants.spaces_demo.python_panel import python_panel
from sam_variants.spaces_demo.shared import MODELS, NO_PHOTO_YET, SOON, UPLOAD_ID, WORK, Shared
from sam_variants.spaces_demo.visits import Visit

NO_PHOTO = empty("Result", "Open a photo or take one of the examples, then find everything in it.")
NO_MASKS = empty("Result", "Find everything: a grid of points is asked about, and what is found is shown here.")
NOTHING = "Nothing was found that the model is sure of. Lower the thresholds, or ask about more points."
BROKE_OFF = "Finding everything broke off. Try again with fewer points, or reload the page."
# The browser gets no more than this of a photo's masks, the surest ones; the downloads have all.
MOST_SHOWN = 500
# Pixels of the longer side of the masks that the browser gets.
SHOWN_SIDE = 1024
# In the browser alone: the pointer doesn't wait for a server.
LIGHT = "(row) => [{ __type__: 'update', props: { highlight: row.id } }]"
PRESETS = {"Fast: skip what is covered": "fast", "Full: ask about every point": "full"}


def add(shared: Shared) -> None:
    """Put the tab's parts on the page."""
    defaults = suiting_options(store().get(EMBEDDED))
    with gr.Row(elem_classes=["workspace"]):
        with gr.Column(scale=7, min_width=320, elem_classes=["stage"]):
            picture = canvas("Everything in the photo", elem_id="everything-canvas", mode="pick", upload_id=UPLOAD_ID)
            table = mask_table(elem_id="everything-table")
        with gr.Column(scale=3, min_width=280, elem_classes=["side"]):
            with gr.Group(elem_classes=["settings"]):
                preset = gr.Radio(list(PRESETS.items()), value=defaults.preset, label="How thorough")
                density = gr.Slider(
                    4, MOST_POINTS_PER_SIDE, value=defaults.points_per_side, step=1, label="Points per side"
                )
                score = gr.Slider(0, 1, value=defaults.pred_iou_thresh, step=0.01, label="Expected IoU, at least")
                stability = gr.Slider(
                    0, 1, value=defaults.stability_score_thresh, step=0.01, label="Stability, at least"
                )
                region = gr.Slider(0, 1000, value=0, step=10, label="Smallest hole or speck, px")
            with gr.Row(elem_classes=["actions"]):
                start = gr.Button("Find everything", variant="primary", scale=3, min_width=140)
                stop = gr.Button("Stop", scale=1, min_width=80, interactive=False)
            panel = gr.HTML(NO_PHOTO, elem_id="everything-answer")
            gr.HTML(heading("Download"))
            download_row(to_save, [shared.visit])
            python_panel(to_python, [shared.visit])
    settings = [density, score, stability, region, preset]
    outputs = [picture, table, panel, start, stop]
    running = start.click(waiting, [shared.visit], [panel, start, stop], **SOON).success(
        find, [shared.visit, shared.model, *settings], outputs, show_progress="hidden", **WORK
    )
    running.failure(lambda: ended(NO_MASKS), None, outputs, **SOON)
    stop.click(stopped, None, outputs, cancels=[running], **SOON)
    table.row(None, [table], [picture], js=LIGHT, trigger_mode="always_last", **SOON)
    picture.pick(picked, None, [picture, table], trigger_mode="always_last", **SOON)
    shared.model.change(suit, [shared.model], [score, stability], show_progress="hidden", **MODELS)
    shared.on_photo(outputs, fresh)


def fresh(photo: Photo | None) -> list[Any]:
    """What a new photo makes of the tab."""
    return [
        gr.HTML(photo=photo_props(photo), masks={}, highlight=None, busy=False),
        gr.HTML(rows=[], picked=None),
        NO_PHOTO if photo is None else NO_MASKS,
        *buttons(is_running=False),
    ]


def buttons(is_running: bool) -> list[Any]:
    return [gr.Button(interactive=not is_running), gr.Button(interactive=is_running)]


def suit(model: str) -> list[Any]:
    """Set the thresholds to those that suit a model."""
    options = suiting_options(store().get(model))
    return [options.pred_iou_thresh, options.stability_score_thresh]


def waiting(visit: Visit) -> list[Any]:
    """What is shown until it has its turn."""
    if visit.photo is None:
        return [gr.skip()] * 3  # `find` says so: errors of what isn't queued have no text
    return [card("Result", note("Waiting for a free place…", "busy")), *buttons(is_running=True)]


def ended(panel: str) -> list[Any]:
    """The tab at rest, without new masks."""
    return [gr.HTML(busy=False), gr.skip(), panel, *buttons(is_running=False)]


def find(
    visit: Visit, model: str, density: int, score: float, stability: float, region: float, preset: str
) -> Iterator[list[Any]]:
    """Find everything in the visitor's photo, with progress."""
    photo = visit.photo
    if photo is None:
        raise gr.Error(NO_PHOTO_YET, print_exception=False)
    options = EverythingOptions(int(density), score, stability, int(region), preset)
    kept = gr.skip()
    yield [gr.HTML(busy=True), kept, progress_bar(0.0, "Encoding the photo"), *buttons(is_running=True)]
    try:
        for step in in_steps(lambda report: find_everything(store().get(model), photo, options, report)):
            if visit.photo is not photo:
                # Else gradio sends the last step once more, over what the new photo made of the tab.
                yield ended(NO_MASKS)
                return
            if isinstance(step, Result):
                masks, times = step.value
                # One number for a mask in picture, table, label map and COCO file, and the colour that belongs to it.
                masks.object_ids = torch.arange(1, len(masks) + 1)
                visit.everything, visit.everything_asked = masks, (model, options)
                yield [*shown(masks, photo), result(masks, times, photo), *buttons(is_running=False)]
            else:
                yield [kept, kept, progress_bar(step.fraction, step.text), *buttons(is_running=True)]
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(BROKE_OFF) from error


def stopped() -> list[Any]:
    """What the tab says after the visitor stopped it."""
    return ended(card("Result", note("Stopped. No new masks were kept.")))


def shown(masks: Masks, photo: Photo) -> list[Any]:
    """The masks on the canvas, and in the table."""
    surest = masks if len(masks) <= MOST_SHOWN else masks[masks.scores.topk(MOST_SHOWN).indices.tolist()]
    props = mask_props(surest, surest.object_ids.tolist(), photo=photo.id, version=0, size=photo.size)
    return [gr.HTML(masks=props, highlight=None, busy=False), gr.HTML(rows=table_rows(surest), picked=None)]


def to_save(visit: Visit) -> ToSave:
    """All masks that were found.

    Raises:
        gr.Error: before everything was found.
    """
    if visit.photo is None or visit.everything is None:
        raise gr.Error("There are no masks yet. Find everything first.", print_exception=False)
    return ToSave(visit.everything, visit.photo)


def to_python(visit: Visit) -> str:
    """The script that finds the same masks.

    Raises:
        gr.Error: before everything was found.
    """
    found = to_save(visit)
    model, options = visit.everything_asked
    return everything_code(store().get(model), found.photo, options)


def result(masks: Masks, times: TimeSplit, photo: Photo) -> str:
    """How many masks, how much of the photo, and where the time went."""
    if not len(masks):
        return card("Result", note(NOTHING, "warning"))
    split = split_bar(list(times.seconds.items()))
    left_out = len(masks) - MOST_SHOWN
    more = [note(f"The {MOST_SHOWN} surest are shown; downloads have {left_out} more.")] if left_out > 0 else []
    hint = note("Point at a mask, or at a row of the table, to see one alone.")
    return card(f"{counted(len(masks))} in {times.total:.1f} s", split, *more, hint)


def counted(count: int) -> str:
    return "1 mask" if count == 1 else f"{count} masks"


def picked(event: gr.EventData) -> list[Any]:
    """Show the mask that was clicked, and its row."""
    chosen = mask_id(event)
    return [gr.HTML(highlight=chosen), gr.HTML(picked=chosen)]


def mask_id(event: gr.EventData) -> int | None:
    """The mask that an event is about; None for none."""
    number = getattr(event, "id", None)
    return number if isinstance(number, int) and not isinstance(number, bool) else None
