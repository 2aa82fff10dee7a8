"""One image of a labeled dataset, large: its picture and masks on the canvas, its table, what is known about it."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr
import numpy as np

from sam_variants.mask_drawing import distinct_colors
from sam_variants.spaces_demo.browse_addresses import picture_address
from sam_variants.spaces_demo.browse_library import View
from sam_variants.spaces_demo.browse_marks import Marks
from sam_variants.spaces_demo.browse_pictures import canvas_objects
from sam_variants.spaces_demo.canvas import MAX_TEXT
from sam_variants.spaces_demo.page_parts import facts, note

# The browser gets no more than this of an image's masks, the surest ones.
MOST_SHOWN = 500
# Longer side of the masks on the canvas, reduced until the text of all of them fits.
SIDES = (1024, 512, 256)
MARK, UNMARK = "Mark image bad", "Image is bad: take back"


def image_title(view: View) -> str:
    """The key of the open image, as a heading that can have the focus."""
    return "" if view.key is None else f'<h2 class="image-title" tabindex="-1">{escape(view.key)}</h2>'


def image_facts(view: View, marks: Marks) -> str:
    """What is known about the open image."""
    if view.row is None or view.place is None:
        return ""
    snapshot, row = view.snapshot, view.row
    summary, (height, width) = snapshot.summary(view.query.masks), snapshot.size(row)
    shown, score = int(summary.num_masks[row]), float(summary.mean_score[row])
    bad = marks.bad_masks(view.key or "")
    rows = [
        ("Image", f"{view.place + 1:,} of {len(view.rows):,}"),
        ("Size, pixels", f"{width} × {height}"),
        ("Masks", f"{shown:,}" if shown == view.num_masks else f"{shown:,} of {view.num_masks:,}"),
        ("Mean expected IoU", "–" if np.isnan(score) else f"{score:.3f}"),
        ("Sum of mask areas", f"{100 * summary.covered[row]:.1f} %"),
        ("Marked bad", _named(bad)),
    ]
    more = note(f"The {MOST_SHOWN} surest masks are shown.") if shown > MOST_SHOWN else ""
    return f'<section class="card">{facts(rows)}{more}</section>'


def _named(bad: list[int]) -> str:
    if not bad:
        return "no mask"
    few = ", ".join(map(str, bad[:6])) + (", …" if len(bad) > 6 else "")
    return f"mask {few}" if len(bad) == 1 else f"masks {few}"


def mark_button(view: View, marks: Marks) -> gr.Button:
    """What the button says that marks the open image."""
    is_bad = view.key is not None and marks.is_bad(view.key)
    return gr.Button(UNMARK if is_bad else MARK, variant="stop" if is_bad else "secondary")


def image_updates(view: View, marks: Marks) -> tuple[gr.HTML, gr.HTML]:
    """Canvas and table for the open image.

    Raises:
        OSError: when its file is missing or damaged.
    """
    if view.row is None:
        return gr.HTML(photo=None, masks={}, highlight=None, off=[]), gr.HTML(rows=[], picked=None, bad=[])
    snapshot, row = view.snapshot, view.row
    record, (height, width) = snapshot.dataset.record(row), snapshot.size(row)
    indices = _surest(record["objects"], snapshot.shown(row, view.query.masks))
    masks, ids = [record["objects"][index] for index in indices], [index + 1 for index in indices]
    photo = f"{snapshot.stamp}-{row}"
    for side in SIDES:
        objects = canvas_objects(masks, ids, (height, width), side)
        if sum(len(item["png"]) for item in objects) < MAX_TEXT:
            break
    bad = marks.bad_masks(record["key"])
    picture = gr.HTML(
        photo={"id": photo, "url": picture_address(snapshot, row), "width": width, "height": height},
        masks={"photo": photo, "version": 0, "objects": objects},
        highlight=None,
        off=bad,
    )
    return picture, gr.HTML(rows=_table_rows(masks, ids), picked=None, bad=bad)


def _surest(objects: list[dict[str, Any]], indices: list[int]) -> list[int]:
    """At most `MOST_SHOWN` of them, in order."""
    if len(indices) <= MOST_SHOWN:
        return indices
    return sorted(sorted(indices, key=lambda index: -(objects[index]["score"] or 0))[:MOST_SHOWN])


def _table_rows(masks: list[dict[str, Any]], ids: list[int]) -> list[dict[str, Any]]:
    """The table's property `rows`."""
    rows = []
    for number, mask, color in zip(ids, masks, distinct_colors(ids).tolist(), strict=True):
        x, y, width, height = mask["bbox"]
        rows.append(
            {
                "id": number,
                "area": int(mask["area"]),
                "score": mask["score"],
                "stability": mask["stability_score"],
                "box": [int(x), int(y), int(x + width), int(y + height)],
                "color": color,
            }
        )
    return rows
