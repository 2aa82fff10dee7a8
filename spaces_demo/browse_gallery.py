"""The gallery: a page of images with their masks. Its script turns pages, walks over tiles, and knows the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from sam_variants.spaces_demo.browse_addresses import picture_address
from sam_variants.spaces_demo.browse_library import PAGE_SIZE, View
from sam_variants.spaces_demo.browse_marks import Marks

HERE = Path(__file__).parent
# Width / height of a tile; longer and higher images are cut.
RATIOS = (0.5, 3.0)


def gallery(*, elem_id: str, **props: Any) -> gr.HTML:
    """A page of tiles; `gallery_props` fills it.

    Its events: `turn` with `page`, from 0; `open` with `key`; `mark` with `key` and `bad`.
    """
    return gr.HTML(
        value=None,
        html_template='<div class="gallery"></div>',
        js_on_load=(HERE / "browse_gallery.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        apply_default_css=False,
        container=False,
        show_label=False,
        **props,
    )


def gallery_props(view: View, marks: Marks) -> dict[str, Any]:
    """The gallery's properties.

    Args:
        view: what is looked at; an open image's neighbors are fetched before they are asked for.
        marks: of the dataset.
    """
    columns, total = view.snapshot.columns, len(view.snapshot.columns)
    num_masks = view.snapshot.summary(view.query.masks).num_masks
    shown = f"{len(view.rows):,}" if len(view.rows) == total else f"{len(view.rows):,} of {total:,}"
    count = f"{shown} {'image' if total == 1 else 'images'} · {int(num_masks[view.rows].sum()):,} masks"
    return {
        "tiles": [_tile(view, row, marks) for row in view.page_rows()],
        "page": view.page,
        "num_pages": view.num_pages,
        "count": count,
        "empty": _why_empty(total),
        "open": None if view.place is None else columns.keys[int(view.rows[view.place])],
        "soon": _soon(view),
        # The last one: what was held until then is asked for when all else is there.
        "has_arrived": True,
    }


def _tile(view: View, row: int, marks: Marks) -> dict[str, Any]:
    snapshot = view.snapshot
    key, (height, width) = snapshot.columns.keys[row], snapshot.size(row)
    return {
        "key": key,
        "url": picture_address(snapshot, row, view.query.masks),
        "ratio": round(min(max(width / height, RATIOS[0]), RATIOS[1]), 3),
        "masks": int(snapshot.summary(view.query.masks).num_masks[row]),
        "bad": marks.is_bad(key),
        "bad_masks": len(marks.bad_masks(key)),
    }


def _why_empty(total: int) -> str:
    return "No image fits the filters." if total else "No image is labeled yet. Reload the page after a while."


def _soon(view: View) -> list[str]:
    """The pictures that are likely to be asked for next."""
    if view.place is not None:
        near = [place for place in (view.place + 1, view.place - 1) if 0 <= place < len(view.rows)]
        return [picture_address(view.snapshot, int(view.rows[place])) for place in near]
    begin = (view.page + 1) * PAGE_SIZE
    return [
        picture_address(view.snapshot, row, view.query.masks) for row in view.rows[begin : begin + PAGE_SIZE].tolist()
    ]
