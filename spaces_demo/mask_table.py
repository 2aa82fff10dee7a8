"""A table of masks that can be sorted, and whose rows light up their mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from sam_variants import Masks
from sam_variants.mask_drawing import distinct_colors


def mask_table(*, elem_id: str, markable: bool = False) -> gr.HTML:
    """An empty table; its property `rows` fills it (`table_rows`), `picked` is the id of the row that is lit.

    Its event `row` says with `id` which mask the pointer or the keyboard is on, null for none.

    Args:
        elem_id: its id in the page.
        markable: rows can be marked bad: the event `mark` says so with `id` and `bad`; the property `bad` has the ids.
    """
    return gr.HTML(
        value={"id": None},  # type: ignore[arg-type]
        html_template='<div class="mask-table"></div>',
        js_on_load=(Path(__file__).parent / "mask_table.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        apply_default_css=False,
        container=False,
        show_label=False,
        rows=[],
        picked=None,
        markable=markable,
        bad=[],
    )


def table_rows(masks: Masks) -> list[dict[str, Any]]:
    """The table's property `rows`.

    Args:
        masks: with `scores`, `stability_scores` and `object_ids`, which are shown as their numbers.
    """
    numbers = (masks.object_ids, masks.areas, masks.scores, masks.stability_scores, masks.boxes)
    columns: list[list[Any]] = [[] if each is None else each.tolist() for each in numbers]
    return [
        {
            "id": number,
            "area": int(area),
            "score": round(score, 3),
            "stability": round(stability, 3),
            "box": [int(side) for side in box],
            "color": color,
        }
        for number, area, score, stability, box, color in zip(
            *columns, distinct_colors(columns[0]).tolist(), strict=True
        )
    ]
