"""The bar above the gallery: which images are shown, in which order, and which of their masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from sam_variants.spaces_demo.browse_finding import ALL, SHOWN, SORTS, MaskFilter, Query

# What each part of the bar has at the beginning.
DEFAULTS: list[Any] = ["", next(iter(SORTS)), ALL, 0.0, *[""] * 6]
NUMBER = re.compile(r"\d{1,12}(\.\d{0,9})?|\.\d{1,9}")


@dataclass(frozen=True)
class Filters:
    """The parts of the bar.

    Attributes:
        parts: in the order that `to_query` takes their values in.
        reset: sets all to `DEFAULTS`.
    """

    parts: Sequence[Component]
    reset: gr.Button


def filter_bar() -> Filters:
    """Put the bar on the page."""
    with gr.Column(elem_classes=["filters"]):
        with gr.Row(elem_classes=["filter-row"]):
            text = gr.Textbox(
                label="Search keys", placeholder="part of a name", elem_id="search", scale=3, min_width=200
            )
            sort = gr.Dropdown(list(SORTS), value=DEFAULTS[1], label="Sort by", elem_id="sort", scale=2, min_width=170)
            shown = gr.Dropdown(list(SHOWN.items()), value=ALL, label="Show", elem_id="shown", scale=1, min_width=140)
        with gr.Accordion("More filters", open=False, elem_id="more-filters"):
            with gr.Row(elem_classes=["filter-row"]):
                score = gr.Slider(
                    0, 1, value=0, step=0.01, label="Expected IoU of masks, at least", scale=3, min_width=240
                )
                area = _range("Mask area, px")
            with gr.Row(elem_classes=["filter-row"]):
                num_masks = _range("Masks in an image")
                megapixels = _range("Image size, megapixels")
                reset = gr.Button("Reset", size="sm", elem_id="reset", scale=0, min_width=96)
    return Filters([text, sort, shown, score, *area, *num_masks, *megapixels], reset)


def _range(label: str) -> list[gr.Textbox]:
    """Two numbers; an empty one is no limit, which a `gr.Number` turns into 0."""
    return [
        gr.Textbox(label=f"{label}, {end}", placeholder="any", max_lines=1, min_width=120) for end in ("from", "to")
    ]


def to_query(text: str | None, sort: str | None, shown: str | None, score: float | None, *limits: str | None) -> Query:
    """What the values of the bar ask for; a choice that is not offered counts as the first one.

    Raises:
        ValueError: for a limit that is no number.
    """
    area, num_masks, megapixels = ((_limit(limits[index]), _limit(limits[index + 1])) for index in (0, 2, 4))
    return Query(
        text=str(text or ""),
        sort=sort if sort in SORTS else DEFAULTS[1],
        shown=str(shown) if shown in SHOWN.values() else ALL,
        masks=MaskFilter(float(score or 0), area),
        num_masks=num_masks,
        megapixels=megapixels,
    )


def _limit(text: str | None) -> float | None:
    given = (text or "").strip().replace(",", "")
    if not given:
        return None
    if not NUMBER.fullmatch(given):
        raise ValueError(f"{given[:40]!r} is no number: limits are numbers from 0 on, or empty")
    return float(given)
